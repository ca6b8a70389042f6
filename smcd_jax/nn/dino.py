"""The vision transformer of DINO (Caron et al. 2021), ViT-S/16 or ViT-B/16: features for first-frame fidelity."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from smcd_jax.nn.clip_towers import CLIPBlock
from smcd_jax.nn.config import DINOConfig
from smcd_jax.nn.layers import ComputePolicy, Norm

EPSILON = 1e-6  # of every norm


class DINO(nn.Module):
    """Maps pictures to the class token after the last norm, the feature that DINO's own evaluation uses."""

    config: DINOConfig
    policy: ComputePolicy

    def setup(self) -> None:
        """Creates a biased patch embedding, class token, learned positions, and pre-norm blocks as in CLIP's tower."""
        config, policy = self.config, self.policy
        patch, tokens = config.patch, (config.picture_size // config.patch) ** 2 + 1
        small = nn.initializers.truncated_normal(0.02)
        self.patch_embedding = nn.Conv(
            config.width,
            (patch, patch),
            strides=(patch, patch),
            padding="VALID",
            dtype=policy.compute,
            param_dtype=policy.params,
            precision=policy.precision,
        )
        self.class_token = self.param("class_token", small, (1, 1, config.width), policy.params)
        self.position_embedding = self.param("position_embedding", small, (1, tokens, config.width), policy.params)
        self.block = [CLIPBlock(config.heads, policy, epsilon=EPSILON) for _ in range(config.layers)]
        self.norm_out = Norm(policy, EPSILON)

    def __call__(self, picture: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """Returns float32 features of pictures of side ``picture_size``, normalised with ImageNet's statistics."""
        compute = self.policy.compute
        b = picture.shape[0]
        patches = self.patch_embedding(picture).reshape(b, -1, self.config.width)
        first = jnp.broadcast_to(self.class_token.astype(compute), (b, 1, self.config.width))
        x = jnp.concatenate([first, patches], axis=1) + self.position_embedding.astype(compute)
        for block in self.block:
            x = block(x)
        return self.norm_out(x)[:, 0]

    def dummy_call(self) -> Float[Array, "1 d"]:
        """Runs the smallest input, so that initialisation creates every parameter."""
        side = self.config.picture_size
        return self(jnp.zeros((1, side, side, 3)))
