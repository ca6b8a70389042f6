"""The I3D network of the Frechet video distance: Inception-v1 inflated to 3D (Carreira and Zisserman 2017)."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from smcd_jax.errors import SMCDError
from smcd_jax.nn.layers import ComputePolicy

PICTURE_SIDE = 224  # side of every frame in pixels
MIN_FRAMES = 9  # time is halved three times, rounding up, and the last pool reads two steps
# Window and stride of the max pool before each stage
STAGE_POOLS = (((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2)))


@dataclasses.dataclass(frozen=True)
class I3DConfig:
    """Widths of the network. Defaults are the published size, trained on the 400 classes of Kinetics.

    Widths of an Inception block, in order: 1x1x1 branch; 1x1x1 and 3x3x3 of the second; the same of the third; 1x1x1
    after the max pool.
    """

    classes: int = 400
    stem: tuple[int, ...] = (64, 64, 192)
    stages: tuple[tuple[tuple[int, ...], ...], ...] = (
        ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
        (
            (192, 96, 208, 16, 48, 64),
            (160, 112, 224, 24, 64, 64),
            (128, 128, 256, 24, 64, 64),
            (112, 144, 288, 32, 64, 64),
            (256, 160, 320, 32, 128, 128),
        ),
        ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
    )


class FixedBatchNorm(nn.Module):
    """BatchNorm as used after training: running mean and variance are parameters. Epsilon 1e-5, computed in float32."""

    policy: ComputePolicy

    @nn.compact
    def __call__(self, x: Float[Array, "... c"]) -> Float[Array, "... c"]:
        """Returns (x - mean) / sqrt(variance + epsilon) * scale + bias."""
        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        initial = {"scale": ones, "bias": zeros, "mean": zeros, "variance": ones}
        given = {name: self.param(name, start, x.shape[-1:], self.policy.params) for name, start in initial.items()}
        scale, bias, mean, variance = (value.astype(jnp.float32) for value in given.values())
        normed = (x.astype(jnp.float32) - mean) * (scale * lax.rsqrt(variance + 1e-5)) + bias
        return normed.astype(self.policy.compute)


class ConvUnit(nn.Module):
    """Convolution without bias, BatchNorm, ReLU. TensorFlow's "same" padding puts an odd row or column at the end."""

    features: int
    policy: ComputePolicy
    kernel: int = 1
    stride: int = 1

    @nn.compact
    def __call__(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b tt hh ww d"]:
        """Returns features; time, height and width are divided by the stride, rounding up."""
        size = {"kernel": self.kernel, "stride": self.stride}
        x = conv_3d(self.features, self.policy, **size, use_bias=False, name="conv")(video)
        return nn.relu(FixedBatchNorm(self.policy, name="norm")(x))


class InceptionBlock(nn.Module):
    """Four branches side by side: 1x1x1; 3x3x3 twice, each after a narrowing 1x1x1; a max pool and a 1x1x1."""

    widths: tuple[int, ...]
    policy: ComputePolicy

    def setup(self) -> None:
        """Creates the branches, with widths in the order of `I3DConfig`."""
        point, narrow_0, wide_0, narrow_1, wide_1, pooled = self.widths
        self.point = ConvUnit(point, self.policy)
        self.narrow = [ConvUnit(narrow_0, self.policy), ConvUnit(narrow_1, self.policy)]
        self.wide = [ConvUnit(wide_0, self.policy, kernel=3), ConvUnit(wide_1, self.policy, kernel=3)]
        self.pooled = ConvUnit(pooled, self.policy)

    def __call__(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b t h w d"]:
        """Returns the branches, concatenated along channels."""
        branches = [wide(narrow(video)) for narrow, wide in zip(self.narrow, self.wide, strict=True)]
        around = nn.max_pool(video, (3, 3, 3), (1, 1, 1), "SAME")
        return jnp.concatenate([self.point(video), *branches, self.pooled(around)], axis=-1)


class I3D(nn.Module):
    """Maps videos to class logits, the features of the Frechet video distance (Unterthiner et al. 2018)."""

    config: I3DConfig
    policy: ComputePolicy

    def setup(self) -> None:
        """Creates three convolutions, three stages of Inception blocks, and a linear layer for the classes."""
        config, policy = self.config, self.policy
        self.stem_in = ConvUnit(config.stem[0], policy, kernel=7, stride=2)
        self.stem_narrow = ConvUnit(config.stem[1], policy)
        self.stem_wide = ConvUnit(config.stem[2], policy, kernel=3)
        self.stage = [[InceptionBlock(widths, policy) for widths in stage] for stage in config.stages]
        self.classes = conv_3d(config.classes, policy)

    def __call__(self, video: Float[Array, "b t h w 3"]) -> Float[Array, "b k"]:
        """Returns the logits of videos in -1..1, averaged over time, in float32.

        Raises:
            SMCDError: There are fewer than 9 frames, or they are not 224 x 224 pixels.
        """
        pooled = self.pooled(video)[:, :, None, None]
        return self.classes(pooled).astype(jnp.float32).mean(axis=(1, 2, 3))

    def pooled(self, video: Float[Array, "b t h w 3"]) -> Float[Array, "b s d"]:
        """Returns float32 features before the classes, ceil(t / 8) - 1 vectors per video; raises as `__call__` does."""
        frames, height, width = video.shape[1:4]
        if frames < MIN_FRAMES:
            raise SMCDError(f"I3D needs at least {MIN_FRAMES} frames, got {frames}; pass longer videos")
        if (height, width) != (PICTURE_SIDE, PICTURE_SIDE):
            raise SMCDError(f"I3D needs frames of {PICTURE_SIDE} x {PICTURE_SIDE}, got {width} x {height}; resize them")
        steps = self._trunk(video).astype(jnp.float32).mean(axis=(2, 3))
        return (steps[:, :-1] + steps[:, 1:]) / 2  # the published average pool of 2 x 7 x 7: here a frame is 7 x 7

    def dummy_call(self) -> Float[Array, "1 1 1 1 k"]:
        """Runs the smallest input, so that initialisation creates every parameter; padding makes one pixel enough."""
        return self.classes(self._trunk(jnp.zeros((1, 1, 1, 1, 3))))

    def _trunk(self, video: Float[Array, "b t h w 3"]) -> Float[Array, "b tt hh ww d"]:
        """Returns the features before averaging: 1/8 of the frames, 1/32 of the height and width."""
        x = nn.max_pool(self.stem_in(video), (1, 3, 3), (1, 2, 2), "SAME")
        x = self.stem_wide(self.stem_narrow(x))
        for (window, stride), stage in zip(STAGE_POOLS, self.stage, strict=True):
            x = nn.max_pool(x, window, stride, "SAME")
            for block in stage:
                x = block(x)
        return x


def conv_3d(
    features: int,
    policy: ComputePolicy,
    *,
    kernel: int = 1,
    stride: int = 1,
    use_bias: bool = True,
    name: str | None = None,
) -> nn.Conv:
    """Returns a cubic convolution on [b, t, h, w, c] with TensorFlow's "same" padding."""
    return nn.Conv(
        features,
        (kernel,) * 3,
        strides=(stride,) * 3,
        padding="SAME",
        use_bias=use_bias,
        dtype=policy.compute,
        param_dtype=policy.params,
        precision=policy.precision,
        name=name,
    )
