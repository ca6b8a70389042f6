"""DynamiCrafter's model without trained weights: guidance, condition dropout, conditions, sharding and names."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smcd_jax.models.dynamicrafter.config import DynamiCrafterUNetConfig, LeftoversConfig, ModelConfig, ResamplerConfig
from smcd_jax.models.dynamicrafter.preprocess import preprocess, resize_matrix, whole_picture
from smcd_jax.models.dynamicrafter.requests import DynamiCrafterModel
from smcd_jax.nn.config import PositionNetConfig, TextEncoderConfig, VisionEncoderConfig
from smcd_jax.nn.gated_attention import AdapterTokens
from smcd_jax.nn.networks import abstract_params, flatten, network, unflatten
from smcd_jax.runtime.sharding import MeshShape, make_mesh, partition_specs

MODEL = DynamiCrafterModel(ModelConfig())
SMALL = DynamiCrafterUNetConfig(
    base_channels=32, channel_mult=(1,), num_res_blocks=1, attention_scales=(1.0,), head_dim=16, stem_heads=2,
    context_dim=8, object_width=8, gate="object", image_tokens_per_frame=2,
)  # fmt: skip


def test_one_scale_for_text_and_image_needs_two_branches_and_two_scales_need_three():
    both, neither = frozenset({"image_tokens", "text"}), frozenset()
    two = MODEL.guidance({"guidance_scale": 7.5})
    assert (two.branches, two.weights) == ((neither, both), (-6.5, 7.5))
    three = MODEL.guidance({"guidance_scale": 7.5, "image_guidance_scale": 2.0})
    assert three.branches == (neither, frozenset({"image_tokens"}), both)
    assert three.weights == (-1.0, -5.5, 7.5)
    assert MODEL.guidance({"guidance_scale": 1.0}).branches == (both,)


def test_text_and_image_are_dropped_jointly():
    """With both rates at 0.1, 5 % of examples lose only the text, 5 % lose both, and 5 % lose only the image."""
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


@pytest.mark.parametrize(("condition_frame", "drawn"), [("clip", 4), ("batch", 1), ("first", 1)])
def test_the_frame_that_conditions_a_clip_follows_the_config(condition_frame, drawn):
    """The image tower gets the same frame whose latent is concatenated to the clip."""
    model = DynamiCrafterModel(dataclasses.replace(ModelConfig(), condition_frame=condition_frame))
    video = jnp.arange(16, dtype=jnp.uint8)[None, :, None, None, None] * jnp.ones((64, 1, 1, 1, 3), jnp.uint8)
    model.feature_steps = ()
    features = model.features({}, {"video": video}, jax.random.key(0))
    frames = np.asarray(features["condition_frame"])
    assert len(set(frames.tolist())) >= drawn
    assert (len(set(frames.tolist())) == 1) == (drawn == 1)
    np.testing.assert_array_equal(features["picture"][:, 0, 0, 0], frames)
    if condition_frame == "first":
        assert not frames.any()
    latents = video.astype(jnp.float32)
    given = {"text": None, "picture_tokens": None, "latents": latents, "condition_frame": features["condition_frame"]}
    np.testing.assert_array_equal(model.inputs(given).image_latents[:, 5, 0, 0, 0], frames)


def test_a_model_that_interpolates_is_trained_on_both_ends():
    model = DynamiCrafterModel(dataclasses.replace(ModelConfig(), interpolation=True))
    latents = jnp.arange(1.0, 5.0).reshape(1, 4, 1, 1, 1)
    inputs = model.inputs({"text": None, "picture_tokens": None, "latents": latents}, jax.random.key(0))
    assert inputs.image_latents.ravel().tolist() == [1, 0, 0, 4]
    assert inputs.frame_rate.tolist() == [24]


def test_every_parameter_has_one_sharding_rule():
    """`partition_specs` refuses parameters that match no rule or several rules."""
    model = DynamiCrafterModel(
        ModelConfig(
            unet=DynamiCrafterUNetConfig(
                channel_mult=(1, 2), num_res_blocks=1, learned_image_scale=True, gate="object"
            ),
            position_net=PositionNetConfig(),
            leftovers=LeftoversConfig(("betas",), ((1000,),)),
            resampler=ResamplerConfig(layers=1),
            image_tower=VisionEncoderConfig(layers=1),
            text_encoder=TextEncoderConfig(layers=1),
        )
    )
    used = {name: part for name, part in model.components.items() if part.stages}
    shapes = {name: abstract_params(part.config) for name, part in used.items()}
    specs = partition_specs(shapes, make_mesh(MeshShape()), model.sharding)
    assert flatten(specs).keys() == flatten(shapes).keys()


def test_a_picture_that_does_not_change_size_is_only_normalised():
    assert np.array_equal(resize_matrix(24, 24), np.eye(24))
    np.testing.assert_allclose(resize_matrix(100, 24).sum(axis=1), 1, atol=1e-12)
    grey = preprocess(jnp.zeros((1, 24, 24, 3)), 24)
    np.testing.assert_allclose(grey[0, 0, 0], [0.06904, 0.16139, 0.33284], atol=1e-4)  # (0.5 - mean) / deviation


def test_pictures_are_the_same_for_the_tower_on_host_and_device():
    picture = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    on_device = preprocess(jnp.asarray(picture[None] / np.float32(127.5) - 1), 24)
    on_host = preprocess(jnp.asarray(whole_picture(picture, 24))[None], 24)
    np.testing.assert_allclose(on_host, on_device, atol=1e-5)


def test_smcds_object_gates_fit_this_unet():
    """Boxes change the output if the gates are open, but not if they are closed."""
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
