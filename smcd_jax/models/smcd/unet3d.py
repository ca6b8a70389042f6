"""The denoising 3D UNet (ModelScope text-to-video with SMCD's gates): wiring only."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from smcd_jax.nn.config import UNetConfig
from smcd_jax.nn.layers import ComputePolicy, TimeEmbedding, conv, group_norm, on_frames
from smcd_jax.nn.transformers import BlockConditions
from smcd_jax.nn.unet_blocks import (
    BlockPlan,
    DownBlock,
    StemBlock,
    UNetBlock,
    decoder_plan,
    encoder_plan,
    skip_downscales,
)
from smcd_jax.runtime.sharding import constrain_batch

Conditions = dict[str, BlockConditions]


def make_block(plan: BlockPlan, config: UNetConfig, policy: ComputePolicy) -> nn.Module:
    """The module a plan entry asks for."""
    if plan.kind == "stem":
        return StemBlock(config, policy)
    if plan.kind == "downsample":
        return DownBlock(plan.channels, policy)
    return UNetBlock(config, plan, policy)


class MiddleBlock(nn.Module):
    """Residual block, spatial and temporal transformer, residual block, at the lowest resolution."""

    config: UNetConfig
    policy: ComputePolicy

    def setup(self) -> None:
        """The middle has attention whatever the scales say."""
        channels = self.config.base_channels * self.config.channel_mult[-1]
        self.attended = UNetBlock(self.config, BlockPlan("residual", channels, attention=True), self.policy)
        self.plain = UNetBlock(self.config, BlockPlan("residual", channels), self.policy)


class UNet3D(nn.Module):
    """Predicts the noise (or v, or x0: the model folder says) in a latent video.

    ``conditions`` first, once; then ``__call__`` at every step with its result.
    """

    config: UNetConfig
    policy: ComputePolicy

    def setup(self) -> None:
        """Numbered as in the published weights: encoder_i is input_blocks.i, decoder_i is output_blocks.i."""
        config, policy = self.config, self.policy
        self.time_embedding = TimeEmbedding(config.base_channels, policy)
        if config.fps_embedding:
            self.fps_embedding = TimeEmbedding(config.base_channels, policy)
        self.encoder = [make_block(plan, config, policy) for plan in encoder_plan(config)]
        self.middle = MiddleBlock(config, policy)
        self.decoder = [make_block(plan, config, policy) for plan in decoder_plan(config)]
        self.norm_out = group_norm(policy, epsilon=1e-5)
        self.conv_out = conv(config.latent_channels, policy, zero=True)

    def conditions(
        self,
        text: Float[Array, "b l d"],
        objects: Float[Array, "b f n e"] | None = None,
        *,
        object_mask: Float[Array, "b f n"] | None = None,
        image_tokens: Float[Array, "b m g"] | Float[Array, "b f m g"] | None = None,
    ) -> Conditions:
        """Keys and values of every attention to text, boxes and image, by the block that uses them.

        Args:
            text: text tower's output.
            objects: box tokens of the position net; None shuts the gates.
            object_mask: 1 where an object is present; used by the gate forms ``double`` and ``merge`` only.
            image_tokens: of the image encoder, one set per clip or one per frame.
        """
        fold = lambda x: None if x is None else x.reshape(-1, *x.shape[2:])  # noqa: E731
        if image_tokens is not None and image_tokens.ndim == 4:
            image_tokens = fold(image_tokens)
        return {
            name: block.spatial.conditions(
                text, fold(objects), object_mask=fold(object_mask), image_tokens=image_tokens
            )
            for name, block in self._attended_blocks().items()
        }

    def __call__(
        self,
        latents: Float[Array, "b f h w c"],
        timesteps: Float[Array, " b"],
        conditions: Conditions,
        *,
        fps: Float[Array, " b"] | None = None,
        control: tuple[Float[Array, "b f _ _ _"], ...] | None = None,
        temporal: bool = True,
        deterministic: bool = True,
    ) -> Float[Array, "b f h w d"]:
        """The network's output in float32.

        Args:
            latents: noisy latents, with the first frame's latent behind them on channels where the config says so.
            timesteps: diffusion time 0..999, one per example; fractions are allowed.
            conditions: what `conditions` returned.
            fps: frames per second, for configs with ``fps_embedding``; None leaves it out.
            control: features of a ControlNet, one per encoder block, for configs with ``control``.
            temporal: False leaves out every temporal layer (stage 1 trains on still images).
            deterministic: False turns dropout on (needs the rng ``dropout``).
        """
        time = self.time_embedding(timesteps)
        if fps is not None and self.config.fps_embedding:
            time = time + self.fps_embedding(fps)
        switches = {"temporal": temporal, "deterministic": deterministic}

        x = constrain_batch(latents.astype(self.policy.compute))
        skips = []
        for index, block in enumerate(self.encoder):
            if isinstance(block, UNetBlock):
                x = self._run(block, x, time, conditions.get(f"encoder_{index}"), switches)
            else:
                x = block(x, temporal=temporal) if isinstance(block, StemBlock) else block(x)
            skips.append(x)

        x = self._run(self.middle.attended, x, time, conditions["middle"], switches)
        x = self._run(self.middle.plain, x, time, None, switches)

        for index, block in enumerate(self.decoder):
            joined = [x, skips.pop()]
            if control is not None:
                joined.append(control[len(skips)].astype(x.dtype))
            joined = jnp.concatenate(joined, axis=-1)
            x = self._run(block, joined, time, conditions.get(f"decoder_{index}"), switches)

        head = lambda frames: self.conv_out(nn.silu(self.norm_out(frames)))  # noqa: E731
        return on_frames(head, x).astype(jnp.float32)

    def dummy_call(self) -> Float[Array, "b f h w d"]:
        """Uses every parameter once."""
        config, zeros = self.config, jnp.zeros
        side = 2 ** (len(config.channel_mult) - 1)
        control = None
        if config.control:
            sides = [side // factor for factor in skip_downscales(config)]
            plans = zip(encoder_plan(config), sides, strict=True)
            control = tuple(zeros((1, 1, edge, edge, plan.channels)) for plan, edge in plans)
        conditions = self.conditions(
            zeros((1, 1, config.context_dim)),
            zeros((1, 1, 1, config.object_width)) if config.uses_objects else None,
            image_tokens=zeros((1, 1, config.image_width)) if config.uses_image_tokens else None,
        )
        video = zeros((1, 1, side, side, config.input_channels))
        return self(video, zeros((1,)), conditions, fps=zeros((1,)), control=control)

    def _run(self, block: nn.Module, x: Array, time: Array, given: BlockConditions | None, switches: dict) -> Array:
        """A block on a batch that stays where it is; with ``remat`` its activations are computed anew for gradients."""
        call = lambda module, *args: module(*args, **switches)  # noqa: E731
        call = nn.remat(call) if self.policy.remat else call
        return constrain_batch(call(block, x, time, given))

    def _attended_blocks(self) -> dict[str, UNetBlock]:
        named = {f"encoder_{index}": block for index, block in enumerate(self.encoder)}
        named |= {"middle": self.middle.attended}
        named |= {f"decoder_{index}": block for index, block in enumerate(self.decoder)}
        return {name: block for name, block in named.items() if isinstance(block, UNetBlock) and block.plan.attention}
