"""Attention, compared with its formula in float64, and the inputs that the fused kernel accepts."""

import importlib.util
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import SingleDeviceSharding

from smcd_jax.nn import attention
from smcd_jax.nn.attention import KeysValues, _cudnn_takes, _flash_takes, attend, attend_frames
from smcd_jax.runtime.sharding import MeshShape, make_mesh
from smcd_jax.runtime.topology import find_topology

FLOAT32 = {"rtol": 1e-5, "atol": 1e-6}  # sums of up to 16 products of numbers near 1


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def inputs(*, batch: int = 2, context: int = 2, queries: int = 5, keys: int = 7) -> tuple[jax.Array, KeysValues]:
    drawn = random(0, batch, queries, 3, 16), random(1, context, keys, 3, 16), random(2, context, keys, 3, 16)
    q, k, v = (jnp.asarray(array) for array in drawn)
    return q, KeysValues(k, v)


def in_float64(
    q: jax.Array, context: KeysValues, mask: np.ndarray | None = None, bias: np.ndarray | float = 0.0
) -> np.ndarray:
    q, k, v = (np.asarray(array, np.float64) for array in (q, *context))
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1]) + bias
    if mask is not None:
        scores = np.where(mask[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.einsum("bhqk,bkhd->bqhd", weights / weights.sum(axis=-1, keepdims=True), v)


def test_attention_is_the_softmax_of_scaled_products_times_the_values():
    q, context = inputs()
    np.testing.assert_allclose(attend(q, context), in_float64(q, context), **FLOAT32)


def test_large_scores_do_not_overflow():
    q, context = inputs()
    large = attend(q * 300, context)
    assert np.isfinite(large).all()
    # scores near 1000 have float32 errors of 1e-4, which become relative errors of the softmax
    np.testing.assert_allclose(large, in_float64(q * 300, context), rtol=2e-3, atol=2e-3)


def test_a_context_with_a_divisor_of_the_batch_equals_the_repeated_one():
    q, context = inputs(batch=6, context=2)
    repeated = KeysValues(*(part.repeat(3, axis=0) for part in context))
    np.testing.assert_allclose(attend(q, context), attend(q, repeated), **FLOAT32)
    np.testing.assert_allclose(attend(q, context), in_float64(q, repeated), **FLOAT32)


@pytest.mark.parametrize("shape", [(2, 5, 7), (2, 1, 7), (1, 5, 7), (1, 1, 7)])
def test_masked_keys_have_no_influence(shape):
    q, context = inputs()
    mask = np.random.default_rng(3).random(shape) < 0.5
    mask[..., 0], mask[..., -2:] = True, False  # no query attends to the last two keys, and every query to at least one
    out = attend(q, context, mask=jnp.asarray(mask))
    np.testing.assert_allclose(out, in_float64(q, context, np.broadcast_to(mask, (2, 5, 7))), **FLOAT32)
    elsewhere = KeysValues(*(part.at[:, -2:].add(100.0) for part in context))
    np.testing.assert_array_equal(attend(q, elsewhere, mask=jnp.asarray(mask)), out)
    kept = KeysValues(*(part.at[:, 0].add(1.0) for part in context))
    assert np.abs(attend(q, kept, mask=jnp.asarray(mask)) - out).max() > 0.1


def test_half_precision_inputs_are_summed_in_float32():
    q, context = inputs(keys=512)
    half = jnp.bfloat16
    low = attend(q.astype(half), KeysValues(*(part.astype(half) for part in context)))
    assert low.dtype == half
    rounded = q.astype(half), KeysValues(*(part.astype(half) for part in context))
    # bfloat16 has 8 significant bits: weights and result may each be rounded by 2^-9 of the largest value
    error = np.abs(np.asarray(low, np.float64) - in_float64(*rounded)).max()
    assert error < 2**-8 * np.abs(np.asarray(low, np.float64)).max()


def test_appended_tokens_follow_the_others():
    _, context = inputs()
    joined = context.append(KeysValues(context.keys[:, :2] + 1, context.values[:, :2] + 2))
    assert joined.keys.shape == (2, 9, 3, 16)
    np.testing.assert_array_equal(joined.keys[:, :7], context.keys)
    np.testing.assert_array_equal(joined.values[:, 7:], context.values[:, :2] + 2)


@pytest.mark.parametrize(
    ("dtype", "width", "keys", "takes", "logged"),
    [
        ("bfloat16", 64, 1024, True, False),
        ("float16", 128, 128, True, False),
        ("bfloat16", 64, 16, True, False),
        ("float32", 64, 1024, False, True),
        ("bfloat16", 136, 1024, False, True),
        ("bfloat16", 60, 1024, False, True),
        ("float32", 64, 77, False, False),
    ],
)
def test_the_fused_kernel_takes_half_precision_up_to_width_128(dtype, width, keys, takes, logged, caplog):
    queries = jnp.zeros((1, 8, 2, width), dtype)
    with caplog.at_level(logging.WARNING, "smcd_jax.nn.attention"):
        assert _cudnn_takes(queries, jnp.zeros((1, keys, 2, width), dtype)) is takes
    assert ("not for cuDNN" in caplog.text) is logged


def test_inputs_that_the_fused_kernel_does_not_take_go_to_xla():
    q, context = inputs()
    np.testing.assert_array_equal(attend(q, context, implementation="cudnn"), attend(q, context))


class TestFlash:
    """The TPU's kernel, interpreted on the CPU."""

    @pytest.fixture(autouse=True)
    def interpreted(self):
        with pltpu.force_tpu_interpret_mode(), jax.numpy_dtype_promotion("standard"):
            yield

    @staticmethod
    def drawn(*, rows: int, context: int, queries: int, keys: int, heads: int = 2) -> list[jax.Array]:
        shapes = (
            (rows, queries, heads, 16),
            (context, keys, heads, 16),
            (context, keys, heads, 16),
            (rows, queries, 1, 1),
        )
        return [jnp.asarray(random(seed, *shape), jnp.bfloat16) for seed, shape in enumerate(shapes)]

    @staticmethod
    def with_gradients(implementation: str, q: jax.Array, k: jax.Array, v: jax.Array, weights: jax.Array) -> list:
        def total(q, k, v):
            out = attend(q, KeysValues(k, v), implementation=implementation)
            return (out * weights).astype(jnp.float32).sum(), out

        gradients, out = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(q, k, v)
        return [np.asarray(array, np.float64) for array in (out, *gradients)]

    def check(self, *arrays: jax.Array) -> None:
        queries, keys = arrays[0], arrays[1]
        assert _flash_takes(queries.reshape(keys.shape[0], -1, *queries.shape[2:]), keys)
        kernel, plain = self.with_gradients("flash", *arrays), self.with_gradients("xla", *arrays)
        for ours, theirs in zip(kernel, plain, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=2**-6 * np.abs(theirs).max())

    @pytest.mark.parametrize(
        ("rows", "context", "queries", "keys"),
        [(1, 1, 512, 512), (1, 1, 512, 520), (4, 2, 512, 264)],  # whole blocks, padded keys, frames merged into queries
    )
    def test_output_and_gradients_are_those_of_xla(self, rows, context, queries, keys):
        self.check(*self.drawn(rows=rows, context=context, queries=queries, keys=keys))

    def test_each_device_of_a_mesh_computes_its_rows_and_heads(self, monkeypatch):
        shapes = []

        def by_xla(queries, keys, values):  # the interpreter cannot run on several devices with few cores
            shapes.append((queries.shape, keys.shape))
            return attend(queries, KeysValues(keys, values))

        monkeypatch.setattr(attention, "_flash", by_xla)
        arrays = self.drawn(rows=4, context=4, queries=512, keys=520)
        with jax.set_mesh(make_mesh(MeshShape(data=2, fsdp=2, tensor=2))):
            self.check(*arrays)
        assert shapes == [((1, 512, 1, 16), (1, 520, 1, 16))]

    @pytest.mark.parametrize(
        ("queries", "keys", "changes", "takes"),
        [
            (1024, 1032, {}, True),
            (8192, 77, {}, False),
            (256, 264, {}, False),
            (1032, 1032, {}, False),
            (1024, 1024, {"dtype": "float32"}, False),
            (1024, 1024, {"width": 512}, False),
            (1024, 1024, {"rows": 3}, False),
            (1024, 1024, {"heads": 3}, False),
        ],
    )
    def test_other_inputs_go_to_xla(self, queries, keys, changes, takes):
        given = {"dtype": "bfloat16", "rows": 4, "heads": 2, "width": 64} | changes
        made = lambda n: jnp.zeros((given["rows"], n, given["heads"], given["width"]), given["dtype"])  # noqa: E731
        with jax.set_mesh(make_mesh(MeshShape(data=2, fsdp=2, tensor=2))):
            assert _flash_takes(made(queries), made(keys)) is takes


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu (extra tpu)")
@pytest.mark.parametrize("keys", [1024, 1032])
def test_the_compiler_of_a_tpu_takes_the_kernel_and_stores_no_scores(keys):
    place = SingleDeviceSharding(find_topology("v5e:2x2").devices[0])
    shapes = [jax.ShapeDtypeStruct((4, n, 5, 64), jnp.bfloat16, sharding=place) for n in (1024, keys, keys)]

    def total(q, k, v):
        return attend(q, KeysValues(k, v), implementation="flash").astype(jnp.float32).sum()

    compiled = jax.jit(jax.grad(total, argnums=(0, 1, 2))).lower(*shapes).compile()
    assert compiled.as_text().count('custom_call_target="tpu_custom_call"') == 3  # forward, keys and values, queries
    scores = 4 * 5 * 1024 * keys
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * scores


@pytest.mark.parametrize("implementation", ["xla", "cudnn"])
@pytest.mark.parametrize("frames", [8, 20])  # up to 16 frames, sums replace matrix products
def test_frames_of_a_pixel_attend_to_each_other(implementation, frames):
    q, k, v = (random(seed, 2, frames, 3, 2, 8) for seed in range(3))
    by_pixel = lambda x: x.transpose(0, 2, 1, 3, 4).reshape(6, frames, 2, 8)  # noqa: E731
    context = KeysValues(jnp.asarray(k), jnp.asarray(v))
    each_bias = random(3, 2, 2, frames, frames)
    for bias in (None, each_bias, each_bias[:1]):  # no bias, one per example, and one for all examples
        added = 0.0 if bias is None else np.broadcast_to(bias, each_bias.shape).repeat(3, axis=0)
        expected = in_float64(by_pixel(q), KeysValues(by_pixel(k), by_pixel(v)), bias=added)
        given = None if bias is None else jnp.asarray(bias)
        out = attend_frames(jnp.asarray(q), context, bias=given, implementation=implementation)
        np.testing.assert_allclose(by_pixel(np.asarray(out)), expected, **FLOAT32)
