"""Losses of the stages that train motion: fields and renderer on pairs of frames, then the autoencoder of fields.

Without VGG19 weights the reconstruction loss is the absolute error of pixels and of their differences at several
scales; it is not the perceptual loss of the paper.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

SCALES = 4  # scales 1, 1/2, 1/4 and 1/8
_GRADIENT = 0.5  # weight of the error of differences between neighboring pixels
_HIDDEN_CELLS = 8  # number of cells of the random mask along each side
_HIDDEN_SHARE = 0.3  # largest share of hidden cells
_FIELD_GRADIENT, _VISIBILITY = 0.5, 0.1


class Pair(NamedTuple):
    """Two frames of each clip.

    Attributes:
        source: First frame, 0..1.
        driving: A later frame, 0..1.
        field: True displacement and visibility; None if the data do not contain them.
    """

    source: Float[Array, "b h w 3"]
    driving: Float[Array, "b h w 3"]
    field: Float[Array, "b y x 3"] | None


def draw_pair(key: PRNGKeyArray, video: UInt8[Array, "b f h w 3"], fields: Float[Array, "b f y x 3"] | None) -> Pair:
    """Returns the first frame and one later frame of each clip, drawn at random."""
    b, f = video.shape[:2]
    chosen = jax.random.randint(key, (b,), 1, f)
    frames = video.astype(jnp.float32) / 255
    pick = jnp.arange(b)
    return Pair(frames[:, 0], frames[pick, chosen], None if fields is None else fields[pick, chosen])


def random_visibility(key: PRNGKeyArray, b: int, side: tuple[int, int]) -> Float[Array, "b y x 1"]:
    """Returns masks with random cells set to 0, so that the decoder learns to fill them; half of them are all ones."""
    cells_key, share_key = jax.random.split(key)
    share = jnp.maximum(jax.random.uniform(share_key, (b, 1, 1, 1), minval=-_HIDDEN_SHARE, maxval=_HIDDEN_SHARE), 0)
    cells = jax.random.uniform(cells_key, (b, _HIDDEN_CELLS, _HIDDEN_CELLS, 1)) >= share
    return jax.image.resize(cells.astype(jnp.float32), (b, *side, 1), "nearest")


def reconstruction_loss(predicted: Float[Array, "b h w c"], wanted: Float[Array, "b h w c"]) -> Float[Array, " b"]:
    """Returns the absolute error and that of differences between neighboring pixels, summed over scales."""
    error = predicted - wanted
    total = jnp.zeros(len(error))
    for scale in range(SCALES):
        total = total + _mean(error) + _GRADIENT * _differences(error)
        error = _halved(error) if scale < SCALES - 1 else error
    return total


def field_loss(
    displacement: Float[Array, "b y x 2"], confidence: Float[Array, "b y x 1"], true: Float[Array, "b y x 3"]
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """Returns the error of the displacement where the true one is visible, and the cross-entropy of the confidence."""
    visible = true[..., 2:]
    error = jnp.abs(displacement - true[..., :2]) * visible
    c = jnp.clip(confidence, 1e-4, 1 - 1e-4)
    entropy = -(visible * jnp.log(c) + (1 - visible) * jnp.log(1 - c))
    return _mean(error), _VISIBILITY * _mean(entropy)


def autoencoder_loss(
    decoded: Float[Array, "m y x 3"],
    fields: Float[Array, "m y x 3"],
    mean: Float[Array, "m h w c"],
    log_variance: Float[Array, "m h w c"],
    *,
    kl_weight: float,
) -> Float[Array, " m"]:
    """Returns the loss of the motion autoencoder: error, gradients of the error at several scales, and KL divergence.

    Args:
        decoded: Decoded fields.
        fields: Fields: displacement in units of the field scale, and 2 c - 1 of the confidence c.
        mean: Mean of the posterior.
        log_variance: Log-variance of the posterior.
        kl_weight: Weight of the divergence from a unit Gaussian, summed over the latent.
    """
    error = decoded - fields
    loss = _mean(error)
    for scale in range(SCALES):
        loss = loss + _FIELD_GRADIENT * _differences(error)
        error = _halved(error) if scale < SCALES - 1 else error
    divergence = 0.5 * (jnp.square(mean) + jnp.exp(log_variance) - log_variance - 1).sum(axis=(1, 2, 3))
    return loss + kl_weight * divergence


def no_buckets(loss: Float[Array, " b"]) -> Int[Array, " b"]:
    """Returns the timestep bucket of examples whose loss does not depend on a timestep."""
    return jnp.zeros(len(loss), jnp.int32)


def _mean(x: Float[Array, "b h w c"]) -> Float[Array, " b"]:
    return jnp.abs(x).mean(axis=(1, 2, 3))


def _differences(x: Float[Array, "b h w c"]) -> Float[Array, " b"]:
    return _mean(jnp.diff(x, axis=1)) + _mean(jnp.diff(x, axis=2))


def _halved(x: Float[Array, "b h w c"]) -> Float[Array, "b hh ww c"]:
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))
