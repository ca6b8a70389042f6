"""What a request shows and says, through the encoders: texts, labels and first frames."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int32

from smcd_jax.media import to_model_range
from smcd_jax.models.smcd.config import ModelConfig
from smcd_jax.pipeline.components import Components
from smcd_jax.pipeline.conditions import ConditionInputs
from smcd_jax.pipeline.request import Request
from smcd_jax.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


class Encoders:
    """The text encoder and the autoencoder, fed with what users give."""

    def __init__(self, components: Components, config: ModelConfig, tokenizer: Tokenizer):
        self._components, self._config, self._tokenizer = components, config, tokenizer

    def __call__(self, request: Request) -> ConditionInputs:
        """Conditions of every example, each text and each label encoded once; weights are released after use."""
        texts = tuple(dict.fromkeys((*request.prompts, *request.negative_prompts)))
        for text in texts:
            self._warn_if_cut(text)
        embedded, labels = self._texts(texts), self._labels(request.labels)
        where = {label: index for index, label in enumerate(request.labels)}
        padded = np.zeros((*request.mask.shape, labels.shape[-1]), np.float32)
        for example, tracks in zip(padded, request.tracks, strict=True):
            example[:, : tracks.num_objects] = labels[[where[label] for label in tracks.labels]]
        self._components.release("text_encoder")
        latents = self._pictures(request)
        self._components.release("autoencoder")
        return ConditionInputs(
            text=jnp.asarray(embedded[[texts.index(text) for text in request.prompts]]),
            null_text=jnp.asarray(embedded[[texts.index(text) for text in request.negative_prompts]]),
            boxes=jnp.asarray(request.boxes),
            mask=jnp.asarray(request.mask),
            labels=jnp.asarray(padded),
            image_latent=latents,
        )

    def _texts(self, texts: tuple[str, ...]) -> Float[np.ndarray, "n l d"]:
        module = self._components.networks["text_encoder"]
        program = self._components.program("text", lambda params, ids: module.apply({"params": params}, ids))
        return np.asarray(program(self._components.params("text_encoder"), self._ids(texts)))[: len(texts)]

    def _labels(self, labels: tuple[str, ...]) -> Float[np.ndarray, "n e"]:
        module = self._components.networks["text_encoder"]
        program = self._components.program(
            "label", lambda params, ids: module.apply({"params": params}, ids, method="label_embedding")
        )
        return np.asarray(program(self._components.params("text_encoder"), self._ids(labels)))[: len(labels)]

    def _ids(self, texts: Sequence[str]) -> Int32[np.ndarray, "n l"]:
        """Token ids, with empty texts added up to a power of two: few programs serve any number of texts."""
        filled = [*texts, *[""] * (2 ** (len(texts) - 1).bit_length() - len(texts))]
        ids = self._tokenizer.encode(filled, length=self._config.text_encoder.length)
        return np.minimum(ids, self._config.text_encoder.vocabulary - 1)

    def _pictures(self, request: Request) -> Float[jax.Array, "b h w c"]:
        """Scaled latents of the first frames, drawn from the posterior with the noise of each seed."""
        module = self._components.networks["autoencoder"]
        pictures = to_model_range(request.pictures)
        program = self._components.program(
            "encode", lambda params, picture, noise: module.apply({"params": params}, picture, noise, method="encode")
        )
        side = self._config.autoencoder
        shape = (pictures.shape[1] // side.downscale, pictures.shape[2] // side.downscale, side.latent_channels)
        noise = jnp.stack([jax.random.normal(jax.random.key(seed), shape) for seed in request.seeds])
        return program(self._components.params("autoencoder"), pictures, noise)

    def _warn_if_cut(self, text: str) -> None:
        length = self._config.text_encoder.length
        if (count := self._tokenizer.count(text)) > length:
            logger.warning("the prompt has %d tokens; the model reads the first %d: %.60s...", count, length, text)
