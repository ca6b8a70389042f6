"""The ControlNet branch (Zhang et al. 2023): the UNet's encoder, reading the first frame, and zero convolutions."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from smcd_jax.models.smcd.config import ControlNetConfig
from smcd_jax.nn.layers import ComputePolicy, TimeEmbedding, conv, dense
from smcd_jax.nn.unet3d import UNetContext, make_block
from smcd_jax.nn.unet_blocks import DownBlock, Seed, StemBlock, UNetBlock, encoder_plan


class ControlNet(nn.Module):
    """Computes features for the UNet's skip connections, one per encoder block."""

    config: ControlNetConfig
    policy: ComputePolicy

    def setup(self) -> None:
        """Creates the encoder, whose blocks are numbered like the UNet's; there is no middle block."""
        config, plan = self.config.unet, encoder_plan(self.config.unet)
        self.time_embedding = TimeEmbedding(config.base_channels, self.policy)
        self.hint_conv = conv(config.base_channels, self.policy)
        self.encoder = [make_block(entry, config, self.policy) for entry in plan]
        self.zero_conv = [dense(entry.channels, self.policy, zero=True) for entry in plan]

    def keys_values(self, text: Float[Array, "b l d"]) -> UNetContext:
        """Returns keys and values of the text for every block with attention."""
        return {
            f"encoder_{index}": block.spatial.keys_values(text)
            for index, block in enumerate(self.encoder)
            if isinstance(block, UNetBlock) and block.plan.attention
        }

    def __call__(
        self,
        latents: Float[Array, "b f h w c"],
        hint: Float[Array, "b h w c"],
        timesteps: Float[Array, " b"],
        context: UNetContext,
        *,
        temporal: bool = True,
        dropout: Seed = None,
    ) -> tuple[Float[Array, "b f _ _ _"], ...]:
        """Returns features in the order of the encoder.

        Args:
            latents: Noisy latents of the video, without the latent of the first frame.
            hint: Latent of the first frame, which is added to every frame after the first block.
            timesteps: Timestep of each example.
            context: Result of `keys_values`.
            temporal: Whether temporal layers run.
            dropout: Seed of dropout; None for no dropout.
        """
        time = self.time_embedding(timesteps)
        x, features = latents.astype(self.policy.compute), []
        for index, (block, zero_conv) in enumerate(zip(self.encoder, self.zero_conv, strict=True)):
            if isinstance(block, StemBlock):
                x = block(x, temporal=temporal) + self.hint_conv(hint)[:, None]
            elif isinstance(block, DownBlock):
                x = block(x)
            else:
                block_context = context.get(f"encoder_{index}")
                x = block(x, time, block_context, temporal=temporal, dropout=dropout)
            features.append(zero_conv(x))
        return tuple(features)

    def dummy_call(self) -> tuple[Float[Array, "b f _ _ _"], ...]:
        """Runs the smallest input, so that initialisation creates every parameter."""
        config = self.config.unet
        side = 2 ** (len(config.channel_mult) - 1)
        video = jnp.zeros((1, 1, side, side, config.latent_channels))
        return self(video, video[:, 0], jnp.zeros((1,)), self.keys_values(jnp.zeros((1, 1, config.context_dim))))
