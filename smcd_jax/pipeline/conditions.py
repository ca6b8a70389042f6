"""Conditions of a sample, encoded once: keys and values of text, boxes and first frame for every guidance branch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from smcd_jax.diffusion.guidance import Branch
from smcd_jax.models.registry import Network
from smcd_jax.models.smcd.unet3d import Conditions


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


class BranchTokens(NamedTuple):
    """What attention reads in every guidance branch; the leading axis is branches times examples, branch by branch.

    Attributes:
        text: the prompt or, in branches without text, the null text.
        objects: box tokens; None for models without boxes.
        object_mask: 1 where an object is present.
        image_tokens: of the first frame, or of a zero latent in branches without them; None for models without.
        image_latent: the first frame's latent, zeros in branches without it.
        hint: the ControlNet's picture.
    """

    text: Float[Array, "kb l d"]
    objects: Float[Array, "kb f n e"] | None
    object_mask: Float[Array, "kb f n"]
    image_tokens: Float[Array, "kb m g"] | None
    image_latent: Float[Array, "kb h w c"]
    hint: Float[Array, "kb h w c"]


def encode_tokens(
    networks: Mapping[str, Network],
    params: Mapping[str, Any],
    inputs: ConditionInputs,
    branches: Sequence[Branch],
) -> BranchTokens:
    """Position net and image encoder for every branch.

    Args:
        networks: "position_net" and "image_encoder", where the model has them.
        params: parameter trees by the same names.
        inputs: the batch.
        branches: which conditions each guidance branch sees. A branch without boxes sees every box masked out, one
            without image tokens those of a zero latent: the same as when they are dropped in training.
    """
    apply = lambda name, *args: networks[name].apply({"params": params[name]}, *args)  # noqa: E731
    over = lambda flag, given, dropped: jnp.concatenate(  # noqa: E731
        [given if getattr(branch, flag) else dropped for branch in branches]
    )
    blank = jnp.zeros_like(inputs.image_latent)
    boxes, labels = (jnp.concatenate([part] * len(branches)) for part in (inputs.boxes, inputs.labels))
    mask = over("boxes", inputs.mask, jnp.zeros_like(inputs.mask))
    hint = over("image_tokens", inputs.image_latent, blank)
    return BranchTokens(
        text=over("text", inputs.text, inputs.null_text),
        objects=apply("position_net", boxes, mask, labels) if "position_net" in networks else None,
        object_mask=mask,
        image_tokens=apply("image_encoder", hint) if "image_encoder" in networks else None,
        image_latent=over("image_latent", inputs.image_latent, blank),
        hint=hint,
    )


def encode_conditions(
    networks: Mapping[str, Network], params: Mapping[str, Any], tokens: BranchTokens
) -> SamplingConditions:
    """Keys and values of every attention, from the networks that the denoising loop runs.

    Args:
        networks: "unet" and, where the model has it, "controlnet".
        params: parameter trees by the same names.
        tokens: of `encode_tokens`.
    """
    apply = lambda name, *args, **how: networks[name].apply(  # noqa: E731
        {"params": params[name]}, *args, method="conditions", **how
    )
    given = {"object_mask": tokens.object_mask, "image_tokens": tokens.image_tokens}
    controlled = "controlnet" in networks
    return SamplingConditions(
        unet=apply("unet", tokens.text, tokens.objects, **given),
        image_latent=tokens.image_latent if networks["unet"].config.image_latent else None,
        controlnet=apply("controlnet", tokens.text) if controlled else None,
        hint=tokens.hint if controlled else None,
    )
