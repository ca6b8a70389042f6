"""Guidance weights, compared with the formulas that they implement."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smcd_jax.diffusion.guidance import Condition, Guidance, combine, composed_guidance, resolve_scales
from smcd_jax.models.smcd import guidance as smcd
from smcd_jax.models.smcd.guidance import reference_guidance
from smcd_jax.sampling_options import SamplingOptions
from tests.errors import refused

NOTHING = frozenset()
IMAGE = frozenset(("image_latent", "image_tokens"))
IMAGE_BOXES = IMAGE | {"boxes"}
ALL = IMAGE_BOXES | {"text"}
NO_LATENT = ALL - {"image_latent"}
CONDITIONS = (smcd.IMAGE, smcd.BOXES, smcd.TEXT)

scales = st.one_of(st.sampled_from([0.0, 1.0, 7.5]), st.floats(-20, 20))
without_deadline = settings(deadline=None, max_examples=50)  # the first example includes compilation


def composed(text=None, image=None, boxes=None) -> Guidance:
    return composed_guidance(CONDITIONS, {"text": text, "image": image, "boxes": boxes})


def outputs(seed=0):
    """Returns a random float64 network output for every branch."""
    rng = np.random.default_rng(seed)
    return {branch: rng.standard_normal((2, 3, 4, 4, 4)) for branch in (NOTHING, IMAGE, IMAGE_BOXES, NO_LATENT, ALL)}


def combined(guidance, outputs):
    stacked = jnp.asarray(np.stack([outputs[branch] for branch in guidance.branches]), jnp.float32)
    return np.asarray(combine(stacked, guidance.weights))


def assert_equal_in_float32(ours, expected, guidance):
    # Each product of a weight and an output of up to 5 has a relative rounding error of 6e-8.
    np.testing.assert_allclose(ours, expected, atol=1e-6 * sum(abs(weight) for weight in guidance.weights))


@without_deadline
@given(text=scales, image=scales, boxes=scales)
@example(text=7.5, image=1.0, boxes=1.0)
def test_composed_guidance_follows_its_formula_and_sums_to_one(text, image, boxes):
    guidance = composed(text, image, boxes)
    assert sum(guidance.weights) == pytest.approx(1, abs=1e-13)  # float64 rounding for scales up to 20
    assert all(guidance.weights)
    e = outputs()
    expected = (
        e[NOTHING]
        + image * (e[IMAGE] - e[NOTHING])
        + boxes * (e[IMAGE_BOXES] - e[IMAGE])
        + text * (e[ALL] - e[IMAGE_BOXES])
    )
    assert_equal_in_float32(combined(guidance, e), expected, guidance)


def test_default_scales_need_the_two_branches_of_the_reference():
    guidance = composed(7.5)
    assert guidance == reference_guidance(guidance_scale=7.5)
    assert guidance.branches == (IMAGE_BOXES, ALL)
    assert guidance.weights == (-6.5, 7.5)


def test_a_condition_may_take_the_scale_of_another():
    image = Condition("image", "image_guidance_scale", ("tokens",), default_scale="text")
    text = Condition("text", "guidance_scale", ("text",), 7.5)
    assert resolve_scales((image, text), {}) == {"image_guidance_scale": 7.5, "guidance_scale": 7.5}
    joint = composed_guidance((image, text), {"text": 3.0})
    assert joint == Guidance((NOTHING, frozenset(("tokens", "text"))), (-2.0, 3.0))
    assert len(composed_guidance((image, text), {"text": 3.0, "image": 2.0}).branches) == 3


def test_a_scale_of_one_needs_one_branch():
    assert composed(1.0).branches == (ALL,)
    assert composed(1.0).weights == (1.0,)


def test_a_separate_box_scale_needs_a_third_branch_and_an_image_scale_a_fourth():
    assert composed(7.5, boxes=2.0).branches == (IMAGE, IMAGE_BOXES, ALL)
    guidance = composed(7.5, image=1.5, boxes=2.0)
    assert guidance.branches == (NOTHING, IMAGE, IMAGE_BOXES, ALL)


@without_deadline
@given(s=scales, w_img=scales, w_ti=scales)
@example(s=7.5, w_img=1.5, w_ti=1.5)
@example(s=7.5, w_img=0.0, w_ti=0.0)
def test_reference_guidance_is_the_reference_formula(s, w_img, w_ti):
    guidance = reference_guidance(guidance_scale=s, img_free_guidance=w_img, ti_free_guidance=w_ti)
    e = outputs()
    y, u, f = e[ALL], e[IMAGE_BOXES], e[NO_LATENT]
    i = u  # the reference intends to zero the image latent here, but does not
    expected = u + s * (y - u)
    if w_img != 0:
        expected = expected + f + w_img * (y - f)
    if w_ti != 0:
        expected = expected + i + i + w_ti * (y - i)
    total = 1 + (w_img != 0) + 2 * (w_ti != 0)
    assert sum(guidance.weights) == pytest.approx(total, abs=1e-13)
    assert_equal_in_float32(combined(guidance, e), expected, guidance)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", [*(part.option for part in CONDITIONS), "img_free_guidance", "ti_free_guidance"])
def test_scales_that_are_not_finite_are_refused_by_name(name, scale):
    with refused(name):
        SamplingOptions(**{name: scale})


def test_rescale_restores_the_deviation_of_the_conditional_branch():
    guidance, e = composed(7.5), outputs()
    stacked = jnp.asarray(np.stack([e[branch] for branch in guidance.branches]), jnp.float32)
    plain = combine(stacked, guidance.weights)
    full = combine(stacked, guidance.weights, guidance_rescale=1.0)
    axes = (1, 2, 3, 4)
    np.testing.assert_allclose(jnp.std(full, axis=axes), jnp.std(stacked[-1], axis=axes), rtol=1e-5)
    part = combine(stacked, guidance.weights, guidance_rescale=0.7)
    np.testing.assert_allclose(part, 0.7 * full + 0.3 * plain, rtol=1e-5, atol=1e-5)


def test_rescale_of_an_untrained_network_is_zero_not_nan():
    zeros = jnp.zeros((2, 1, 1, 4, 4, 4))
    assert (np.asarray(combine(zeros, (-6.5, 7.5), guidance_rescale=0.7)) == 0).all()


@pytest.mark.parametrize("phi", [-0.1, 1.1, float("nan")])
def test_rescale_out_of_range_is_refused(phi):
    with refused("guidance_rescale"):
        SamplingOptions(guidance_rescale=phi)


def test_combine_accumulates_bfloat16_outputs_in_float32():
    stacked = jnp.stack([jnp.full((1, 1, 1, 1, 4), 1.0), jnp.full((1, 1, 1, 1, 4), 1.0078125)]).astype(jnp.bfloat16)
    result = combine(stacked, (-6.5, 7.5))
    assert result.dtype == jnp.float32
    # In bfloat16 the sum would be a multiple of 1/128.
    np.testing.assert_allclose(result, 1.0 + 7.5 / 128, rtol=1e-6)


def test_a_new_scale_needs_no_new_compilation():
    traces = 0

    @jax.jit
    def run(stacked, weights):
        nonlocal traces
        traces += 1
        return combine(stacked, weights)

    for scale in (2.0, 7.5):
        run(jnp.ones((2, 1, 1, 2, 2, 4)), jnp.asarray(composed(scale).weights, jnp.float32))
    assert traces == 1
