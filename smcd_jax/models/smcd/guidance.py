"""SMCD's conditions, and the guidance of the published sampler, whose weights do not sum to one."""

from __future__ import annotations

from smcd_jax.diffusion.guidance import Condition, Guidance

IMAGE = Condition("image", "image_guidance_scale", ("image_latent", "image_tokens"))
BOXES = Condition("boxes", "box_guidance_scale", ("boxes",))
TEXT = Condition("text", "guidance_scale", ("text",), 7.5)


def reference_guidance(
    *, guidance_scale: float, img_free_guidance: float = 0.0, ti_free_guidance: float = 0.0
) -> Guidance:
    """Returns the guidance of the reference's sampler, whose terms are whole predictions: weights sum to 1, 2, 3 or 4.

    The sum is u + s (y - u), plus f + w_img (y - f) where ``img_free_guidance`` = w_img is not zero, plus 2 i + w_ti (y
    - i) where ``ti_free_guidance`` = w_ti is not zero. y sees all conditions, u all but the text, f all but the image
    latent; i is meant to see neither text nor image latent but is given the latent, which makes it u. Use this only to
    reproduce the reference; otherwise use `composed_guidance`.
    """
    every = frozenset((*IMAGE.switches, *BOXES.switches, *TEXT.switches))
    return Guidance.weighted(
        (every - {"text"}, 1 - guidance_scale + (2 - ti_free_guidance if ti_free_guidance else 0.0)),
        (every - {"image_latent"}, 1 - img_free_guidance if img_free_guidance else 0.0),
        (every, guidance_scale + img_free_guidance + ti_free_guidance),
    )
