"""The UNet that denoises motion: LVMM's with tokens, LFDM's with a condition vector, and the variant for one frame.

It is a video diffusion UNet (Ho et al. 2022, arXiv 2204.03458) with factorised attention: linear among the pixels of a
frame, full among the frames of a pixel.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from smcd_jax.models.lvmm.motion_attention import TemporalAttention
from smcd_jax.models.lvmm.motion_blocks import (
    MotionDownsample,
    MotionHead,
    MotionLevel,
    MotionMiddle,
    MotionUpsample,
    NumberEmbedding,
)
from smcd_jax.models.lvmm.unet_config import MotionUNetConfig
from smcd_jax.nn.attention import KeysValues
from smcd_jax.nn.frame_positions import relative_bias
from smcd_jax.nn.layers import ComputePolicy, conv, on_frames, recomputed
from smcd_jax.runtime.sharding import constrain_batch

BUCKETS = 32  # number of buckets of relative positions, and the distance from which all pairs share the last bucket


class MotionContext(NamedTuple):
    """The condition in the form that the network uses, constant over the denoising steps.

    Attributes:
        cross: Keys and values of the condition's tokens by name of the block, such as "encoder_1"; empty without
            cross-attention.
        vector: Vector concatenated to the time embedding: the condition, or the embedding of the frame index.
    """

    cross: dict[str, KeysValues]
    vector: Float[Array, "b e"] | None = None


class MotionUNet(nn.Module):
    """Predicts the noise in a sequence of motion fields. `context` runs once, ``__call__`` at every step."""

    config: MotionUNetConfig
    policy: ComputePolicy

    def setup(self) -> None:
        """Creates the blocks; encoder_i is published as downs.i, and decoder_i as ups.i (lowest resolution first)."""
        config, policy, widths = self.config, self.policy, self.config.widths
        normal = nn.initializers.normal
        self.relative_bias = self.param("relative_bias", normal(1.0), (BUCKETS, config.heads), policy.params)
        if config.learned_null:
            self.null_condition = self.param("null_condition", normal(1.0), (1, config.context_dim), policy.params)
        self.time_embedding = NumberEmbedding(config.base_channels, policy)
        if config.per_frame:
            self.index_embedding = NumberEmbedding(config.base_channels, policy)
        self.conv_in = conv(config.base_channels, policy, kernel=7)
        self.input_attention = TemporalAttention(
            config.base_channels, config.heads, config.head_dim, policy, config.condition == "vector"
        )
        self.encoder = [MotionLevel(width, config, policy) for width in widths]
        self.downsample = [MotionDownsample(width, policy) for width in widths[:-1]]
        self.middle = MotionMiddle(widths[-1], config, policy)
        upward = (config.base_channels, *widths[:-1])[::-1]
        self.decoder = [MotionLevel(width, config, policy) for width in upward]
        self.upsample = [MotionUpsample(width, config, policy) for width in upward[:-1]]
        self.grid_head = MotionHead(config.base_channels, config.grid_channels, policy)
        if config.confidence_channels:
            self.confidence_head = MotionHead(config.base_channels, config.confidence_channels, policy)

    def with_null(
        self, condition: Float[Array, "b *n d"], keep: Bool[Array, " b"] | Bool[Array, "b n"]
    ) -> Float[Array, "b *n d"]:
        """Returns the condition; where it is dropped, zeros or the learned row replace it.

        Args:
            condition: Tokens ``[b, n, d]`` or vectors ``[b, d]``.
            keep: True where the condition is kept, per example or per token.
        """
        null = self.null_condition[0] if self.config.learned_null else jnp.zeros((condition.shape[-1],))
        keep = keep.reshape(keep.shape + (1,) * (condition.ndim - keep.ndim))
        return jnp.where(keep, condition, null.astype(condition.dtype))

    def context(
        self,
        condition: Float[Array, "b n d"] | Float[Array, "b d"],
        *,
        frame_index: Float[Array, " b"] | None = None,
    ) -> MotionContext:
        """Returns keys and values of every cross-attention, and the vector concatenated to the time embedding.

        Args:
            condition: Tokens for configs with ``condition="tokens"``, vectors otherwise.
            frame_index: Index of the frame, for configs with ``per_frame``.
        """
        if self.config.condition == "vector":
            return MotionContext({}, condition)
        cross = {name: block.keys_values(condition) for name, block in self._blocks().items()}
        return MotionContext(cross, self.index_embedding(frame_index) if self.config.per_frame else None)

    def __call__(
        self,
        motion: Float[Array, "b f h w c"],
        timesteps: Float[Array, " b"],
        context: MotionContext,
        *,
        focus_present: Bool[Array, " b"] | None = None,
    ) -> Float[Array, "b f h w d"]:
        """Returns the predicted noise in float32: channels of the first head, then of the second.

        Args:
            motion: Noisy motion, followed on the channel axis by features that the config counts as input channels.
                Height and width are divisible by ``config.downscale``.
            timesteps: Diffusion time of each example, 0..999; may be fractional.
            context: Result of `context`.
            focus_present: True for examples whose frames attend only to themselves in every temporal attention except
                the first; None if there are no such examples.
        """
        embedding = self.time_embedding(timesteps)
        if context.vector is not None:
            embedding = jnp.concatenate([embedding, context.vector.astype(embedding.dtype)], axis=-1)
        bias = relative_bias(self.relative_bias, motion.shape[1], max_distance=BUCKETS)
        first = constrain_batch(on_frames(self.conv_in, motion.astype(self.policy.compute)))
        x = self.input_attention(first, bias)
        bias = _masked(bias, focus_present)

        skips = []
        for index, level in enumerate(self.encoder):
            x = self._run(level, x, embedding, context.cross.get(f"encoder_{index}"), bias)
            skips.append(x)
            x = self.downsample[index](x) if index < len(self.downsample) else x
        x = self._run(self.middle, x, embedding, context.cross.get("middle"), bias)
        for index, level in enumerate(self.decoder):
            x = jnp.concatenate([x, skips.pop()], axis=-1)
            x = self._run(level, x, embedding, context.cross.get(f"decoder_{index}"), bias)
            x = self.upsample[index](x) if index < len(self.upsample) else x

        x = jnp.concatenate([x, first], axis=-1)
        outputs = [self.grid_head(x)]
        if self.config.confidence_channels:
            outputs.append(self.confidence_head(x))
        return jnp.concatenate(outputs, axis=-1).astype(jnp.float32)

    def dummy_call(self) -> Float[Array, "b f h w d"]:
        """Runs the smallest input, so that initialisation creates every parameter."""
        config, zeros = self.config, jnp.zeros
        side = 2 * config.downscale  # reflection padding needs at least two pixels
        condition = zeros((1, 1, config.context_dim) if config.condition == "tokens" else (1, config.context_dim))
        context = self.context(condition, frame_index=zeros((1,)) if config.per_frame else None)
        return self(zeros((1, 1, side, side, config.input_channels)), zeros((1,)), context)

    def _blocks(self) -> dict[str, MotionLevel | MotionMiddle]:
        named = {f"encoder_{index}": level for index, level in enumerate(self.encoder)}
        named["middle"] = self.middle
        return named | {f"decoder_{index}": level for index, level in enumerate(self.decoder)}

    def _run(
        self, block: nn.Module, x: Array, embedding: Array, context: KeysValues | None, bias: Array
    ) -> Float[Array, "b f h w c"]:
        """Runs a block with a sharded batch; with ``remat`` its activations are recomputed for gradients."""
        call = lambda module, *args: module(*args)  # noqa: E731
        call = recomputed(call) if self.policy.remat else call
        return constrain_batch(call(block, x, embedding, context, bias))


def _masked(bias: Float[Array, "1 heads f f"], focus_present: Bool[Array, " b"] | None) -> Float[Array, "#b heads f f"]:
    """Returns the bias, masked to the diagonal for examples whose frames attend to themselves alone."""
    if focus_present is None:
        return bias
    visible = jnp.eye(bias.shape[-1], dtype=bool) | ~focus_present[:, None, None, None]
    return jnp.where(visible, bias, jnp.finfo(jnp.float32).min)
