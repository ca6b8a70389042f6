"""Conditions of a sample, encoded once: text, boxes and first frame become keys and values for every guidance branch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from smcd_jax.diffusion.guidance import Branch
from smcd_jax.models.unet3d import Conditions


class ConditionInputs(NamedTuple):
    """What the small encoders have made of a batch of requests.

    Attributes:
        text: the prompt's tokens from the text tower.
        null_text: of the negative prompt, or of the null text.
        boxes: xyxy in 0..1.
        mask: 1 where an object is present.
        labels: each object's label embedding, in every frame.
        image_latent: the first frame's scaled latent.
    """

    text: Float[Array, "b l d"]
    null_text: Float[Array, "b l d"]
    boxes: Float[Array, "b f n 4"]
    mask: Float[Array, "b f n"]
    labels: Float[Array, "b f n e"]
    image_latent: Float[Array, "b h w c"]


class SamplingConditions(NamedTuple):
    """Constant over the denoising steps; the leading axis is branches times examples, branch by branch.

    Attributes:
        unet: keys and values for the UNet's attentions.
        image_latent: joined to the UNet's input on channels, zeros in branches without it; None for models without.
        controlnet: keys and values for the ControlNet; None for models without.
        hint: the ControlNet's picture.
    """

    unet: Conditions
    image_latent: Float[Array, "kb h w c"] | None
    controlnet: Conditions | None
    hint: Float[Array, "kb h w c"] | None


def encode_conditions(
    networks: Mapping[str, nn.Module],
    params: Mapping[str, Any],
    inputs: ConditionInputs,
    branches: Sequence[Branch],
) -> SamplingConditions:
    """Encodes every branch.

    Args:
        networks: by component name: "unet" and, where the model has them, "position_net", "image_encoder", "controlnet".
        params: parameter trees by the same names.
        inputs: the batch.
        branches: which conditions each guidance branch sees. A branch without boxes sees every box masked out, one
            without image tokens those of a zero latent: the same as when they are dropped in training.
    """
    apply = lambda name, *args, **how: networks[name].apply({"params": params[name]}, *args, **how)  # noqa: E731
    over = lambda flag, given, dropped: jnp.concatenate(  # noqa: E731
        [given if getattr(branch, flag) else dropped for branch in branches]
    )
    blank = jnp.zeros_like(inputs.image_latent)
    text = over("text", inputs.text, inputs.null_text)

    given: dict[str, Any] = {}
    if "position_net" in networks:
        mask = over("boxes", inputs.mask, jnp.zeros_like(inputs.mask))
        boxes = jnp.concatenate([inputs.boxes] * len(branches))
        labels = jnp.concatenate([inputs.labels] * len(branches))
        given = {"objects": apply("position_net", boxes, mask, labels), "object_mask": mask}
    if "image_encoder" in networks:
        given["image_tokens"] = apply("image_encoder", over("image_tokens", inputs.image_latent, blank))

    image_latent = over("image_latent", inputs.image_latent, blank)
    controlled = "controlnet" in networks
    return SamplingConditions(
        unet=apply("unet", text, method="conditions", **given),
        image_latent=image_latent if networks["unet"].config.image_latent else None,
        controlnet=apply("controlnet", text, method="conditions") if controlled else None,
        hint=over("image_tokens", inputs.image_latent, blank) if controlled else None,
    )
