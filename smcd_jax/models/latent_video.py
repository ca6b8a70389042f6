"""Base of latent video models: text tower and autoencoder as frozen encoders, and decoding frame by frame."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from smcd_jax.models.config import VideoConfig
from smcd_jax.models.video_model import Inputs, Params, VideoModel
from smcd_jax.nn.autoencoder_kl import sampled_latents
from smcd_jax.nn.joined import COLLECTION, joined_weights
from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.tokenizer import Tokenizer


class LatentVideoModel(VideoModel):
    """A model with the components "unet", "text_encoder" and "autoencoder"."""

    def __init__(self, config: VideoConfig, policy: ComputePolicy | None = None):
        super().__init__(config, policy)
        self.sharding = dataclasses.replace(self.sharding, head_dim=config.unet.head_dim)

    def render(
        self, params: Params, decoded: Float[Array, "b f h w c"], inputs: Inputs, frames: Int[Array, " k"]
    ) -> Float[Array, "b k H W 3"]:
        """Decodes frames with the autoencoder."""
        del inputs
        chosen = decoded[:, frames]
        pictures = self._apply("autoencoder", params, chosen.reshape(-1, *chosen.shape[2:]), method="decode")
        return pictures.reshape(*chosen.shape[:2], *pictures.shape[1:])

    def null_raw(self, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
        """Returns the token ids of the null prompt."""
        return {"null_ids": tokenizer.encode([self.null_prompt], length=self.config.text_length)}

    def before_steps(self, params: Params) -> Params:
        """Returns the parameters; on GPUs, the weights of the UNet are joined."""
        if self.networks["unet"].policy.attention != "cudnn":
            return params
        return {**params, COLLECTION: {"unet": joined_weights(params["unet"])}}

    def _embed_text(self, params: Any, ids: Int[Array, "m l"], keys: None) -> Float[Array, "m l d"]:
        del keys
        return self.networks["text_encoder"].apply({"params": params}, ids)

    def _encode_frames(self, params: Any, frames: Array, keys: PRNGKeyArray) -> Float[Array, "m h w c"]:
        return sampled_latents(self.networks["autoencoder"], params, frames, keys)

    def _embed_label(self, params: Any, ids: Int[Array, "m l"], keys: None) -> Float[Array, "m e"]:
        del keys
        return self.networks["text_encoder"].apply({"params": params}, ids, method="label_embedding")

    def _padded(self, tracks: Any, frames: int) -> tuple[np.ndarray, np.ndarray]:
        objects = self.config.max_objects
        if tracks is None:
            return np.zeros((frames, objects, 4)), np.zeros((frames, objects))
        return tracks.pad(objects)

    def _ids(self, tokenizer: Tokenizer, texts: Any) -> Int[np.ndarray, "m l"]:
        ids = tokenizer.encode(list(texts), length=self.config.text_length)
        return np.minimum(ids, self.config.text_encoder.vocabulary - 1)

    def _cut_texts(self, tokenizer: Tokenizer, texts: tuple[str, ...]) -> tuple[str, ...]:
        length = self.config.text_length
        counts = {text: tokenizer.count(text) for text in texts}
        return tuple(
            f"the prompt has {count} tokens; the model reads the first {length}: {text[:60]}..."
            for text, count in counts.items()
            if count > length
        )
