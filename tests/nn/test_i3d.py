"""The Frechet video distance: the I3D network, its conversion table and input frames, and formula weights."""

from __future__ import annotations

import json
import math
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smcd_jax.conversion.i3d_table import i3d_rows, without_counters
from smcd_jax.errors import SMCDError
from smcd_jax.evaluation.metrics.frechet import frechet_distance
from smcd_jax.evaluation.metrics.fvd_preprocess import fvd_frames
from smcd_jax.files.config_json import from_dict, to_dict
from smcd_jax.nn.i3d import I3D, ConvUnit, I3DConfig
from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.nn.networks import flatten, unflatten
from smcd_jax.weights.conversion_engine import match, to_flax, to_torch
from tests.errors import refused
from tests.golden.case_i3d import abstract_i3d, i3d, i3d_params
from tests.golden.comparison import Golden
from tests.golden.formula_weights import CHUNK, fill_uniform, formula_weights, i3d_rule

SMALL = I3DConfig(classes=5, stem=(2, 3, 4), stages=(((2, 1, 2, 3, 1, 2),), ((1, 2, 3, 1, 2, 1),) * 2, ((2,) * 6,)))
BATCH_NORM = ("running_mean", "running_var", "weight", "bias")


@pytest.mark.slow  # tests/golden/test_golden.py compares the same file
def test_network_preprocessing_and_distance_are_the_references(shared):
    case = json.loads((shared / "golden" / "cases.json").read_text())["eval/i3d.npz"]
    results = list(i3d(Golden(shared / "golden", "eval/i3d.npz", case)))
    assert len(results) == 6
    assert [result for result in results if not result.ok] == []


def test_the_table_names_every_tensor_of_the_published_port_but_its_counters(shared):
    shapes = json.loads((shared / "golden" / "keys" / "i3d.json").read_text())
    tensors = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    leaves = flatten(abstract_i3d(I3DConfig()))
    match(i3d_rows(I3DConfig()), without_counters(tensors), leaves, where="i3d")
    assert len(leaves) == len(tensors) - 57  # the port has one counter for each BatchNorm
    with refused() as record:
        match(i3d_rows(I3DConfig()), tensors, leaves, where="i3d")
    assert len(record.value.value["unmapped"]) == 57


def test_conversion_returns_the_same_tensors():
    rows, leaves = i3d_rows(SMALL), flatten(abstract_i3d(SMALL))
    shapes = {row.torch: row.layout.torch_shape(leaves[row.path].shape) for row in rows}
    tensors = dict(formula_weights("i3d.", shapes, i3d_rule))
    back = to_torch(rows, to_flax(rows, tensors))
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor)


@pytest.mark.parametrize("frames", [5, 6])
def test_a_unit_is_pytorchs_convolution_padded_unevenly_then_batchnorm_then_relu(frames):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    rng = np.random.default_rng(0)
    video = rng.standard_normal((2, frames, 6, 8, 3), np.float32)
    shapes = {"conv3d.weight": (4, 3, 7, 7, 7)} | {f"bn.{name}": (4,) for name in BATCH_NORM}
    tensors = {f"Conv3d_1a_7x7.{name}": rng.uniform(-1, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    kernel, mean, variance, scale, bias = tensors.values()
    variance += 1.5
    rows = [row for row in i3d_rows(SMALL) if row.torch in tensors]
    params = unflatten(to_flax(rows, tensors))["stem_in"]
    got = ConvUnit(4, ComputePolicy(), kernel=7, stride=2).apply({"params": params}, jnp.asarray(video))
    # With kernel 7 and stride 2, even lengths are padded by 2 before and 3 after, and odd lengths by 3 on both sides.
    before, behind = (3, 3) if frames % 2 else (2, 3)
    padded = functional.pad(torch.from_numpy(video).permute(0, 4, 1, 2, 3), (2, 3, 2, 3, before, behind))
    want = functional.conv3d(padded, torch.from_numpy(kernel), stride=2)
    given = (torch.from_numpy(values) for values in (mean, variance, scale, bias))
    want = functional.relu(functional.batch_norm(want, *given, eps=1e-5)).permute(0, 2, 3, 4, 1).numpy()
    assert (want > 0).mean() > 0.3
    np.testing.assert_allclose(got, want, atol=2e-5 * want.max())  # sums of 1029 products in float32


@pytest.mark.parametrize(("frames", "steps"), [(9, 1), (16, 1), (17, 2), (24, 2), (25, 3)])
def test_features_have_one_step_per_pair_of_eighths_of_the_frames(frames, steps):
    module, params = I3D(SMALL, ComputePolicy()), {"params": abstract_i3d(SMALL)}
    video = jax.ShapeDtypeStruct((2, frames, 224, 224, 3), jnp.float32)
    assert jax.eval_shape(lambda p, x: module.apply(p, x, method="pooled"), params, video).shape == (2, steps, 8)
    assert jax.eval_shape(module.apply, params, video).shape == (2, 5)


def test_logits_are_the_mean_over_time():
    module, params = I3D(SMALL, ComputePolicy()), i3d_params(SMALL)
    video = np.random.default_rng(0).uniform(-1, 1, (1, 17, 224, 224, 3)).astype(np.float32)
    video[:, 8:] = 1  # so that the two steps differ
    run = jax.jit(lambda p, x: (module.apply(p, x), module.apply(p, x, method="pooled")))
    logits, pooled = run({"params": params}, video)
    assert np.abs(pooled[0, 0] - pooled[0, 1]).max() > 0.1 * pooled.max()
    classes = params["classes"]
    want = (np.asarray(pooled) @ classes["kernel"][0, 0, 0] + classes["bias"]).mean(axis=1)
    np.testing.assert_allclose(logits, want, rtol=1e-5, atol=1e-6)  # float32 sums of 8 values


def test_a_half_precision_policy_keeps_logits_in_float32():
    module = I3D(SMALL, ComputePolicy.for_device("bfloat16"))
    params = jax.eval_shape(lambda: module.init(jax.random.key(0), method="dummy_call"))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
    video = jax.ShapeDtypeStruct((1, 9, 224, 224, 3), jnp.float32)
    assert jax.eval_shape(module.apply, params, video).dtype == jnp.float32


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 8, 224, 224, 3), "at least 9 frames, got 8"), ((1, 9, 224, 256, 3), "224 x 224, got 256 x 224")],
)
def test_videos_the_network_cannot_take_are_refused(shape, message):
    module, params = I3D(SMALL, ComputePolicy()), {"params": abstract_i3d(SMALL)}
    with pytest.raises(SMCDError, match=message):
        jax.eval_shape(module.apply, params, jax.ShapeDtypeStruct(shape, jnp.float32))


def test_the_config_survives_json():
    assert from_dict(I3DConfig, json.loads(json.dumps(to_dict(SMALL)))) == SMALL


@pytest.mark.parametrize(("height", "width"), [(95, 64), (300, 420), (224, 224), (225, 641)])
def test_frames_are_resized_as_pytorch_interpolates_and_cropped_to_the_centre(height, width):
    torch = pytest.importorskip("torch")
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, height, width, 3), np.uint8)
    size = tuple(math.ceil(side * 224 / min(height, width)) for side in (height, width))
    unit = torch.from_numpy(frames.reshape(-1, height, width, 3)).permute(0, 3, 1, 2).float() / 255
    want = torch.nn.functional.interpolate(unit, size=size, mode="bilinear", align_corners=False)
    top, left = (size[0] - 224) // 2, (size[1] - 224) // 2
    want = want[:, :, top : top + 224, left : left + 224].permute(0, 2, 3, 1).numpy().reshape(2, 3, 224, 224, 3) * 2 - 1
    got = fvd_frames(frames)
    assert got.dtype == jnp.float32
    # Positions near 640 have a spacing of 6e-5 in float32, and neighbouring pixels differ by up to 2.
    np.testing.assert_allclose(got, want, atol=2e-4)


def test_black_is_minus_one_and_white_is_one():
    frames = np.zeros((2, 50, 70, 3), np.uint8)
    frames[1] = 255
    got = fvd_frames(frames)
    np.testing.assert_allclose(got[0], -1, atol=1e-6)  # the interpolation weights sum to 1 up to rounding
    np.testing.assert_allclose(got[1], 1, atol=1e-6)


@pytest.mark.parametrize(
    "frames", [np.zeros((2, 8, 8, 3), np.float32), np.zeros((2, 8, 8, 4), np.uint8), np.zeros((0, 8, 8, 3), np.uint8)]
)
def test_frames_of_another_kind_are_refused(frames):
    with refused("frames", value=frames.shape):
        fvd_frames(frames)


def test_the_distance_of_known_gaussians_is_the_closed_form():
    # n rows +-s_k e_k have mean 0, variance 2 s_k^2 / (n - 1) along axis k, and no covariance between axes.
    def cross(deviations, mean):
        return np.concatenate([np.diag(deviations), -np.diag(deviations)]) + mean

    first, second = np.array([1.0, 2.0, 3.0]), np.array([2.0, 0.5, 3.0])
    shift = np.array([0.5, -1.0, 2.0])
    want = np.square(shift).sum() + np.square(first - second).sum() * 2 / 5
    assert frechet_distance(cross(first, 0.0), cross(second, shift)) == pytest.approx(want, rel=1e-12)


def test_the_distance_is_that_of_the_matrix_root():
    linalg = pytest.importorskip("scipy.linalg")
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((60, 9)), rng.standard_normal((50, 9)) @ rng.standard_normal((9, 9)) + 0.3
    c_a, c_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    means = a.mean(axis=0) - b.mean(axis=0)
    want = means @ means + np.trace(c_a + c_b - 2 * linalg.sqrtm(c_a @ c_b).real)
    assert frechet_distance(a, b) == pytest.approx(want, rel=1e-9)  # the matrix square root loses digits
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)


@pytest.mark.parametrize(("samples", "width"), [(200, 30), (10, 400), (2, 3)])
def test_equal_sets_are_at_distance_zero_and_their_order_changes_nothing(samples, width):
    rng = np.random.default_rng(0)
    a, b = 10 * rng.standard_normal((samples, width)), 10 * rng.standard_normal((samples, width)) + 1
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, a[::-1]) == pytest.approx(0, abs=1e-6)
    shuffled = frechet_distance(rng.permutation(a), rng.permutation(b))
    assert shuffled == pytest.approx(frechet_distance(a, b), rel=1e-10)  # another summation order


def test_singular_covariances_give_the_exact_distance():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((12, 4)), 3 * rng.standard_normal((8, 4))
    want = frechet_distance(a, b)
    # Neither zero columns nor a rotation changes the distance; the 50 x 50 covariances have rank at most 4.
    rotation = np.linalg.qr(rng.standard_normal((50, 50)))[0]
    wide_a, wide_b = (np.pad(values, ((0, 0), (0, 46))) @ rotation for values in (a, b))
    assert frechet_distance(wide_a, wide_b) == pytest.approx(want, rel=1e-12)
    assert frechet_distance(np.ones((5, 3)), np.zeros((7, 3))) == pytest.approx(3, rel=1e-12)


def test_float32_features_far_from_zero_are_summed_in_float64():
    a = np.full((2000, 2), 1e4, np.float32)
    a[::2] += 1  # the variance of 1/4 would be lost in float32 sums of squares near 1e8
    want = 2 * (0.5 * math.sqrt(len(a) / (len(a) - 1))) ** 2
    assert frechet_distance(a, np.full((2, 2), 1e4 + 0.5)) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize(
    ("first", "second", "argument", "value"),
    [
        (np.zeros((1, 4)), np.zeros((5, 4)), "first", (1, 4)),
        (np.zeros((5, 4)), np.zeros(4), "second", (4,)),
        (np.zeros((5, 4)), np.zeros((5, 3)), "second", 3),
        (np.array([[0.0], [np.nan], [np.inf]]), np.zeros((5, 1)), "first", 2),
    ],
)
def test_sets_without_a_distance_are_refused(first, second, argument, value):
    with refused(argument, value=value):
        frechet_distance(first, second)


def test_formula_weights_start_with_the_values_of_the_golden_readme():
    shapes = {
        "time_embed.0.weight": (1280, 320),
        "time_embed.0.bias": (1280,),
        "time_embed.2.weight": (1280, 1280),
        "out.2.weight": (4, 320, 3, 3),
        "out.2.bias": (4,),
    }
    first = {name: values.reshape(-1)[:2] for name, values in formula_weights("unet.", shapes)}
    want = {
        "time_embed.0.weight": [0.08715451, 0.0744033],
        "time_embed.0.bias": [0.00397017, 0.09183663],
        "time_embed.2.weight": [-0.0184743, 0.00568022],
        "out.2.weight": [0.01831307, -0.00313006],
        "out.2.bias": [-0.06548937, 0.07415579],
    }
    for name, values in want.items():
        np.testing.assert_allclose(first[name], values, rtol=0, atol=5e-9)  # the README gives 8 digits


def test_the_spread_of_formula_weights_depends_on_the_kind_of_tensor():
    shapes = {f"norm.{name}": (5000,) for name in ("weight", "bias", "running_var")}
    shapes |= {"gate": (), "conv.weight": (100, 6, 2, 2)}
    weights = dict(formula_weights("", shapes))
    assert 0.3 <= weights["gate"] < 0.9
    ranges = {"norm.weight": (0.9, 1.1), "norm.bias": (-0.1, 0.1), "conv.weight": (-math.sqrt(1 / 8), math.sqrt(1 / 8))}
    for_i3d = {"norm.running_var": (0.7, 1.3), "conv.weight": (-0.5, 0.5), "norm.weight": (0.9, 1.1)}
    for given, wanted in ((weights, ranges), (dict(formula_weights("", shapes, i3d_rule)), for_i3d)):
        for name, (low, high) in wanted.items():
            slack = 0.01 * (high - low)  # with thousands of draws, the extremes are this close to the limits
            assert given[name].min() == pytest.approx(low, abs=slack)
            assert given[name].max() == pytest.approx(high, abs=slack)


def test_formula_weights_are_one_hash_across_chunks_and_fill_the_buffer_given():
    count = 2 * CHUNK + 17
    buffer = np.full((count,), np.nan, np.float32)
    ((_, written),) = formula_weights("p.", {"x.bias": (count,)}, buffers={"x.bias": buffer})
    assert written is buffer
    seed = (zlib.crc32(b"p.x.bias") * 0x9E3779B9) % 2**32
    h = (np.arange(count, dtype=np.uint64) + seed) % 2**32
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        h = (h ^ (h >> shift)) * factor % 2**32
    u = ((h >> 8) / 2**23 - 1).astype(np.float32)
    np.testing.assert_array_equal(buffer, u * np.float32(0.1))
    with pytest.raises(ValueError, match="not C-contiguous float32"):
        list(formula_weights("p.", {"x.bias": (count,)}, buffers={"x.bias": buffer.astype(np.float64)}))
    fill_uniform("p.x.bias", buffer[:0])
