"""DynamiCrafter's model without weights of its own: guidance, drops, conditions, sharding and names."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smcd_jax.models.dynamicrafter.config import DynamiCrafterUNetConfig, ModelConfig, ResamplerConfig
from smcd_jax.models.dynamicrafter.conversion.table import resampler_rows, unet_rows
from smcd_jax.models.dynamicrafter.model import DynamiCrafterModel
from smcd_jax.models.dynamicrafter.preprocess import preprocess, resize_matrix
from smcd_jax.nn.config import TextEncoderConfig, VisionEncoderConfig
from smcd_jax.nn.gated_attention import AdapterTokens
from smcd_jax.nn.networks import abstract_params, flatten, network, unflatten
from smcd_jax.runtime.sharding import MeshShape, make_mesh, partition_specs
from smcd_jax.weights.conversion_engine import match
from tests.conftest import SHARED

KEYS = SHARED / "golden_dynamicrafter" / "keys"
MODEL = DynamiCrafterModel(ModelConfig())
SMALL = DynamiCrafterUNetConfig(
    base_channels=32, channel_mult=(1,), num_res_blocks=1, attention_scales=(1.0,), head_dim=16, stem_heads=2,
    context_dim=8, object_width=8, gate="object", image_tokens_per_frame=2,
)  # fmt: skip


@pytest.mark.skipif(not KEYS.is_dir(), reason=f"needs {KEYS}")
@pytest.mark.parametrize(
    ("file", "config", "rows"),
    [
        ("unet_256", DynamiCrafterUNetConfig(learned_image_scale=True), unet_rows),
        ("resampler", ResamplerConfig(), resampler_rows),
    ],
)
def test_every_published_name_and_shape_has_one_leaf(file, config, rows):
    shapes = json.loads((KEYS / f"{file}.json").read_text())
    tensors = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    match(rows(config), tensors, flatten(abstract_params(config)), where=file)


def test_one_scale_for_text_and_image_needs_two_branches_and_two_scales_need_three():
    both, neither = frozenset({"image_tokens", "text"}), frozenset()
    two = MODEL.guidance({"guidance_scale": 7.5})
    assert (two.branches, two.weights) == ((neither, both), (-6.5, 7.5))
    three = MODEL.guidance({"guidance_scale": 7.5, "image_guidance_scale": 2.0})
    assert three.branches == (neither, frozenset({"image_tokens"}), both)
    assert three.weights == (-1.0, -5.5, 7.5)
    assert MODEL.guidance({"guidance_scale": 1.0}).branches == (both,)


def test_drops_are_joint():
    """At 0.1 for both, 5 % each lose the text alone, both, and the image alone."""
    keep = MODEL.draw_keep(jax.random.key(0), 20000, {"text": 0.1, "image_tokens": 0.1}, unit="example")
    text, image = (np.asarray(keep[name]) for name in ("text", "image_tokens"))
    for share in (~text & image, ~text & ~image, text & ~image):
        assert share.mean() == pytest.approx(0.05, abs=0.006)


def test_image_latents_join_the_frames_that_their_source_names():
    latents = jnp.arange(1.0, 4.0).reshape(1, 3, 1, 1, 1)
    features = {"text": None, "picture_tokens": None, "latents": latents, "frame_rate": None}
    ends = MODEL.inputs({**features, "latent_source": jnp.array([[0, -1, -1, 2]])})
    assert ends.image_latents.ravel().tolist() == [1, 0, 0, 3]
    assert MODEL.inputs(features).image_latents.ravel().tolist() == [1, 1, 1]
    drawn = {float(MODEL.inputs(features, jax.random.key(seed)).image_latents[0, 0].sum()) for seed in range(20)}
    assert drawn == {1, 2, 3}


def test_every_parameter_has_one_sharding_rule():
    """`partition_specs` refuses a parameter that no rule or more than one rule names."""
    model = DynamiCrafterModel(
        ModelConfig(
            unet=DynamiCrafterUNetConfig(channel_mult=(1, 2), num_res_blocks=1, learned_image_scale=True),
            resampler=ResamplerConfig(layers=1),
            image_tower=VisionEncoderConfig(layers=1),
            text_encoder=TextEncoderConfig(layers=1),
        )
    )
    shapes = {name: abstract_params(part.config) for name, part in model.components.items()}
    specs = partition_specs(shapes, make_mesh(MeshShape()), model.sharding)
    assert flatten(specs).keys() == flatten(shapes).keys()


def test_a_picture_that_does_not_change_size_is_only_normalised():
    assert np.array_equal(resize_matrix(24, 24), np.eye(24))
    np.testing.assert_allclose(resize_matrix(100, 24).sum(axis=1), 1, atol=1e-12)
    grey = preprocess(jnp.zeros((1, 24, 24, 3)), 24)
    np.testing.assert_allclose(grey[0, 0, 0], [0.06904, 0.16139, 0.33284], atol=1e-4)  # (0.5 - mean) / deviation


def test_smcds_object_gates_fit_this_unet():
    """Boxes change the output where the gates are open, and not where they are shut."""
    unet, rng = network(SMALL), np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    leaves = {path: 0.3 * draw(*leaf.shape) for path, leaf in flatten(abstract_params(SMALL)).items()}
    text, image, video = draw(1, 3, 8), draw(1, 4, 8), draw(1, 2, 2, 2, 8)

    @jax.jit
    def run(leaves, boxes):
        params, context = {"params": unflatten(leaves)}, AdapterTokens(boxes)
        keys = unet.apply(params, text, image, frames=2, adapter_tokens=context, method="keys_values")
        return unet.apply(params, video, jnp.ones(1), keys, fps=jnp.ones(1), temporal=False)

    def change(alpha):
        gated = {path: jnp.float32(alpha) if "/alpha" in path else leaf for path, leaf in leaves.items()}
        boxes = draw(2, 1, 8)
        return float(np.abs(run(gated, boxes) - run(gated, -boxes)).max())

    assert change(0.0) == 0
    assert change(1.0) > 1e-3
