"""SMCD's UNet: the shared 3D UNet with text cross-attention and the gated adapters of the config."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from smcd_jax.nn.gated_attention import GATE_FORMS, AdapterTokens
from smcd_jax.nn.transformers import SpatialParts
from smcd_jax.nn.unet3d import UNet3D, UNetContext
from smcd_jax.nn.unet_blocks import encoder_plan, skip_downscales


class SMCDUNet(UNet3D):
    """3D UNet that attends to text, box tokens and image tokens; without gates, the UNet of ModelScope."""

    def spatial_parts(self) -> SpatialParts:
        """Returns plain cross-attention to text and the gated adapters of the config."""
        return SpatialParts(adapters=GATE_FORMS.get(self.config.gate))

    def keys_values(
        self,
        text: Float[Array, "b l d"],
        objects: Float[Array, "b f n e"] | None = None,
        *,
        object_mask: Float[Array, "b f n"] | None = None,
        image_tokens: Float[Array, "b m g"] | Float[Array, "b f m g"] | None = None,
    ) -> UNetContext:
        """Returns keys and values of every attention to text, boxes and image, by the block that uses them.

        Args:
            text: Text tokens.
            objects: Box tokens; None skips the gates, as in the reference.
            object_mask: Mask, 1 where an object is present, else 0; read by the gate forms ``double`` and ``merge``.
            image_tokens: Image tokens, one set per video or one per frame.
        """
        if objects is None or self.config.gate not in GATE_FORMS:
            return self.block_contexts(text)
        fold = lambda x: None if x is None else x.reshape(-1, *x.shape[2:])  # noqa: E731
        if image_tokens is not None and image_tokens.ndim == 4:
            image_tokens = fold(image_tokens)
        return self.block_contexts(text, AdapterTokens(fold(objects), fold(object_mask), image_tokens))

    def dummy_call(self) -> Float[Array, "b f h w d"]:
        """Runs the smallest input, so that initialisation creates every parameter."""
        config, zeros, video = self.config, jnp.zeros, self.smallest_video()
        control = None
        if config.control:
            sides = [video.shape[2] // factor for factor in skip_downscales(config)]
            plans = zip(encoder_plan(config), sides, strict=True)
            control = tuple(zeros((1, 1, edge, edge, plan.channels)) for plan, edge in plans)
        context = self.keys_values(
            zeros((1, 1, config.context_dim)),
            zeros((1, 1, 1, config.object_width)) if config.uses_objects else None,
            image_tokens=zeros((1, 1, config.image_width)) if config.uses_image_tokens else None,
        )
        return self(video, zeros((1,)), context, fps=zeros((1,)), control=control)
