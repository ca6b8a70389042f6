"""The denoising 3D UNet of ModelScope text-to-video and VideoCrafter: wiring only; families supply attention parts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from smcd_jax.nn.config import UNetConfig
from smcd_jax.nn.joined import COLLECTION, TIME
from smcd_jax.nn.layers import ComputePolicy, TimeEmbedding, conv, group_norm, on_frames, recomputed
from smcd_jax.nn.transformers import TEXT_ONLY, BlockContext, SpatialParts
from smcd_jax.nn.unet_blocks import (
    BlockPlan,
    DownBlock,
    Seed,
    StemBlock,
    Time,
    TimeShift,
    UNetBlock,
    decoder_plan,
    encoder_plan,
)
from smcd_jax.runtime.sharding import constrain_batch

UNetContext = dict[str, BlockContext]  # by name of the block, such as "encoder_1"


def make_block(
    plan: BlockPlan, config: UNetConfig, policy: ComputePolicy, parts: SpatialParts = TEXT_ONLY
) -> nn.Module:
    """Returns the module for an entry of the plan."""
    if plan.kind == "stem":
        return StemBlock(config, policy)
    if plan.kind == "downsample":
        return DownBlock(plan.channels, policy)
    return UNetBlock(config, plan, policy, parts)


class MiddleBlock(nn.Module):
    """Residual block, spatial and temporal transformer, residual block, at the lowest resolution."""

    config: UNetConfig
    policy: ComputePolicy
    parts: SpatialParts

    def setup(self) -> None:
        """Creates the blocks; the first always has attention, whatever ``attention_scales`` is."""
        channels = self.config.base_channels * self.config.channel_mult[-1]
        self.attended = UNetBlock(self.config, BlockPlan("residual", channels, attention=True), self.policy, self.parts)
        self.plain = UNetBlock(self.config, BlockPlan("residual", channels), self.policy)


class UNet3D(nn.Module):
    """Predicts noise, v or x0 in a latent video. `block_contexts` runs once, ``__call__`` at every step.

    A family's UNet is a subclass with `spatial_parts`, a method ``keys_values`` that makes tokens for
    `block_contexts`, and ``dummy_call``.
    """

    config: UNetConfig
    policy: ComputePolicy

    def setup(self) -> None:
        """Creates the blocks; their numbers are those of input_blocks and output_blocks in the published weights."""
        config, policy, parts = self.config, self.policy, self.spatial_parts()
        self.time_embedding = TimeEmbedding(config.base_channels, policy)
        if config.fps_embedding:
            self.fps_embedding = TimeEmbedding(config.base_channels, policy)
        self.encoder = [make_block(plan, config, policy, parts) for plan in encoder_plan(config)]
        self.middle = MiddleBlock(config, policy, parts)
        self.decoder = [make_block(plan, config, policy, parts) for plan in decoder_plan(config)]
        self.norm_out = group_norm(policy, epsilon=1e-5)
        self.conv_out = conv(config.latent_channels, policy, zero=True)

    def spatial_parts(self) -> SpatialParts:
        """Returns cross-attention and adapters for every spatial block."""
        return TEXT_ONLY

    def block_contexts(self, tokens: Any, adapter_tokens: Any = None) -> UNetContext:
        """Returns keys and values of every spatial block.

        Args:
            tokens: Tokens of the cross-attention.
            adapter_tokens: Tokens of the adapters; None leaves the adapters out.
        """
        blocks = self._attended_blocks().items()
        return {name: block.spatial.keys_values(tokens, adapter_tokens) for name, block in blocks}

    def __call__(
        self,
        latents: Float[Array, "b f h w c"],
        timesteps: Float[Array, " b"],
        context: UNetContext,
        *,
        fps: Float[Array, " b"] | None = None,
        control: tuple[Float[Array, "b f _ _ _"], ...] | None = None,
        temporal: bool = True,
        dropout: Seed = None,
    ) -> Float[Array, "b f h w d"]:
        """Returns the network's output in float32.

        Args:
            latents: Noisy latents, followed on the channel axis by the image latents of configs with ``image_latent``.
            timesteps: Diffusion time of each example, 0..999; may be fractional.
            context: Result of `block_contexts`.
            fps: Frames per second or frame stride, for configs with ``fps_embedding``; None leaves it out.
            control: Features of a ControlNet, one per encoder block, for configs with ``control``.
            temporal: Whether temporal layers run; stage 1 trains on still images without them.
            dropout: Seed of dropout; None for no dropout.
        """
        time = self.time_embedding(timesteps)
        if fps is not None and self.config.fps_embedding:
            time = time + self.fps_embedding(fps)
        switches = {"temporal": temporal, "dropout": dropout}
        times = self._times(time)

        x = constrain_batch(latents.astype(self.policy.compute))
        skips = []
        for index, block in enumerate(self.encoder):
            if isinstance(block, UNetBlock):
                x = self._run(block, x, times[f"encoder_{index}"], context.get(f"encoder_{index}"), switches)
            else:
                x = block(x, temporal=temporal) if isinstance(block, StemBlock) else block(x)
            skips.append(x)

        x = self._run(self.middle.attended, x, times["middle/attended"], context["middle"], switches)
        x = self._run(self.middle.plain, x, times["middle/plain"], None, switches)

        for index, block in enumerate(self.decoder):
            joined = [x, skips.pop()]
            if control is not None:
                joined.append(control[len(skips)].astype(x.dtype))
            joined = jnp.concatenate(joined, axis=-1)
            name = f"decoder_{index}"
            x = self._run(block, joined, times[name], context.get(name), switches)

        head = lambda frames: self.conv_out(nn.silu(self.norm_out(frames)))  # noqa: E731
        return on_frames(head, x).astype(jnp.float32)

    def smallest_video(self) -> Float[Array, "1 1 h w c"]:
        """Returns the smallest input, for `dummy_call` of subclasses."""
        side = 2 ** (len(self.config.channel_mult) - 1)
        return jnp.zeros((1, 1, side, side, self.config.input_channels))

    def _times(self, time: Float[Array, "b e"]) -> Mapping[str, Time]:
        """Returns the time embedding for each residual block by path, or its shift if the time layers are joined."""
        blocks = {f"encoder_{index}": block for index, block in enumerate(self.encoder)}
        blocks |= {"middle/attended": self.middle.attended, "middle/plain": self.middle.plain}
        blocks |= {f"decoder_{index}": block for index, block in enumerate(self.decoder)}
        channels = {path: block.plan.channels for path, block in blocks.items() if isinstance(block, UNetBlock)}
        if not self.has_variable(COLLECTION, TIME):
            return dict.fromkeys(channels, time)
        layers, policy = self.get_variable(COLLECTION, TIME), self.policy
        kernel, bias = (layers[name].astype(policy.compute) for name in ("kernel", "bias"))
        shifts = jnp.matmul(nn.silu(time), kernel, precision=policy.precision) + bias
        paths = sorted(channels)
        ends = list(itertools.accumulate(channels[path] for path in paths))
        return {path: TimeShift(part) for path, part in zip(paths, jnp.split(shifts, ends[:-1], -1), strict=True)}

    def _run(self, block: nn.Module, x: Array, time: Time, context: BlockContext | None, switches: dict) -> Array:
        """Runs a block and keeps its batch sharded; with ``remat`` its activations are recomputed for gradients."""
        call = lambda module, *args: module(*args, **switches)  # noqa: E731
        call = recomputed(call) if self.policy.remat else call
        return constrain_batch(call(block, x, time, context))

    def _attended_blocks(self) -> dict[str, UNetBlock]:
        named = {f"encoder_{index}": block for index, block in enumerate(self.encoder)}
        named |= {"middle": self.middle.attended}
        named |= {f"decoder_{index}": block for index, block in enumerate(self.decoder)}
        return {name: block for name, block in named.items() if isinstance(block, UNetBlock) and block.plan.attention}
