"""Classifier-free guidance as a weighted sum of network outputs over branches that see different conditions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from smcd_jax.errors import SMCDError


@dataclass(frozen=True)
class Branch:
    """Which conditions one network evaluation sees.

    Attributes:
        text: the prompt; without it the negative prompt, or the null text where none is given.
        boxes: the object track; without it every box is masked out.
        image_latent: the first frame's latent concatenated to the input; without it zeros.
        image_tokens: the image encoder's tokens; without them those of a zero latent, as dropped in training.
    """

    text: bool
    boxes: bool
    image_latent: bool
    image_tokens: bool


@dataclass(frozen=True)
class Guidance:
    """Branches to evaluate and the weight of each output in the sum; the last branch sees the most conditions."""

    branches: tuple[Branch, ...]
    weights: tuple[float, ...]


UNCONDITIONAL = Branch(text=False, boxes=False, image_latent=False, image_tokens=False)
IMAGE = Branch(text=False, boxes=False, image_latent=True, image_tokens=True)
IMAGE_AND_BOXES = Branch(text=False, boxes=True, image_latent=True, image_tokens=True)
NO_IMAGE_LATENT = Branch(text=True, boxes=True, image_latent=False, image_tokens=True)
ALL_CONDITIONS = Branch(text=True, boxes=True, image_latent=True, image_tokens=True)


def composed_guidance(
    *, guidance_scale: float, image_guidance_scale: float = 1.0, box_guidance_scale: float = 1.0
) -> Guidance:
    """Guidance with a scale for each condition, taken in the order image, boxes, text.

    The sum is e() + s_image (e(image) - e()) + s_box (e(image, boxes) - e(image)) + s_text (e(all) - e(image, boxes))
    for network outputs e, so its weights sum to one (InstructPix2Pix, Brooks et al. 2023, arXiv 2211.09800, eq. 3,
    with one more condition). A branch of weight zero is left out: image and box scales of 1 leave two branches and the
    reference's u + s (y - u), and s = 1 leaves one.

    Args:
        guidance_scale: s_text. 1 is no guidance.
        image_guidance_scale: s_image, on both the image latent and the image tokens.
        box_guidance_scale: s_box.

    Raises:
        SMCDError: for a scale that is not finite.
    """
    _refuse_non_finite(
        guidance_scale=guidance_scale, image_guidance_scale=image_guidance_scale, box_guidance_scale=box_guidance_scale
    )
    return _without_zero_weights(
        (UNCONDITIONAL, 1 - image_guidance_scale),
        (IMAGE, image_guidance_scale - box_guidance_scale),
        (IMAGE_AND_BOXES, box_guidance_scale - guidance_scale),
        (ALL_CONDITIONS, guidance_scale),
    )


def reference_guidance(
    *, guidance_scale: float, img_free_guidance: float = 0.0, ti_free_guidance: float = 0.0
) -> Guidance:
    """Reproduces the reference's sampler, whose extra terms add whole noise predictions: weights sum to 1, 2, 3 or 4.

    The sum is u + s (y - u), plus f + w_img (y - f) where ``img_free_guidance`` = w_img is not zero, plus
    2 i + w_ti (y - i) where ``ti_free_guidance`` = w_ti is not zero. y sees all conditions, u all but the text, f all
    but the image latent; i is meant to see neither text nor image latent but is given the latent, which makes it u. For
    results, use ``composed_guidance``.

    Raises:
        SMCDError: for a scale that is not finite.
    """
    _refuse_non_finite(
        guidance_scale=guidance_scale, img_free_guidance=img_free_guidance, ti_free_guidance=ti_free_guidance
    )
    return _without_zero_weights(
        (IMAGE_AND_BOXES, 1 - guidance_scale + (2 - ti_free_guidance if ti_free_guidance else 0.0)),
        (NO_IMAGE_LATENT, 1 - img_free_guidance if img_free_guidance else 0.0),
        (ALL_CONDITIONS, guidance_scale + img_free_guidance + ti_free_guidance),
    )


def combine(
    model_outputs: Float[Array, "k b ..."],
    weights: Float[Array, " k"] | tuple[float, ...],
    *,
    guidance_rescale: float = 0.0,
) -> Float[Array, "b ..."]:
    """The weighted sum of the branches' outputs, in float32.

    Args:
        model_outputs: one output for each branch, in ``Guidance``'s order.
        weights: ``Guidance.weights``; as an array they may be traced, so a new scale needs no new compilation.
        guidance_rescale: phi in 0..1 of Lin et al. 2023 (arXiv 2305.08891, section 3.4): how far to bring each
            example's standard deviation back to that of the last branch, the most conditioned. Against overexposure at
            high scales.

    Raises:
        SMCDError: for a phi out of range.
    """
    if not 0 <= guidance_rescale <= 1:
        raise SMCDError(f"guidance: guidance_rescale is {guidance_rescale}, use a number from 0 to 1")
    model_outputs = model_outputs.astype(jnp.float32)
    weights = jnp.asarray(weights, jnp.float32)
    # A sum of products rather than a dot: matmul units round float32 inputs, and weights of 8.5 and -7.5 magnify that.
    guided = jnp.sum(weights.reshape(-1, *(1,) * (model_outputs.ndim - 1)) * model_outputs, axis=0)
    return _rescaled(guided, model_outputs[-1], guidance_rescale) if guidance_rescale else guided


def _rescaled(guided: Float[Array, "b ..."], conditional: Float[Array, "b ..."], phi: float) -> Float[Array, "b ..."]:
    per_example = tuple(range(1, guided.ndim))
    wanted = jnp.std(conditional, axis=per_example, keepdims=True)
    present = jnp.std(guided, axis=per_example, keepdims=True)
    # A network whose zero-initialised head is untrained puts out exact zeros, which have no deviation to restore.
    factor = jnp.where(present > 0, wanted / present, 1.0)
    return (phi * factor + (1 - phi)) * guided


def _refuse_non_finite(**scales: float) -> None:
    for name, scale in scales.items():
        if not math.isfinite(scale):
            raise SMCDError(f"guidance: {name} is {scale}, use a finite number")


def _without_zero_weights(*weighted: tuple[Branch, float]) -> Guidance:
    kept = [(branch, float(weight)) for branch, weight in weighted if weight != 0]
    return Guidance(branches=tuple(branch for branch, _ in kept), weights=tuple(weight for _, weight in kept))
