"""Layer variants that only GPUs use, compared with the variants that golden cases check."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smcd_jax.models.registry import make_model, presets
from smcd_jax.nn.joined import SELF, TIME, joined_weights, time_layers
from smcd_jax.nn.layers import ComputePolicy, group_norm, recomputed
from smcd_jax.nn.networks import abstract_params, flatten
from smcd_jax.nn.normalization import group_normalised
from smcd_jax.nn.random_params import random_like, random_params

OPTIMIZED = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
GPU = ComputePolicy(attention="cudnn", reduction="moments")  # float32 attention falls back to XLA


def in_float64(x: np.ndarray, groups: int, epsilon: float) -> np.ndarray:
    pixels = np.asarray(x, np.float64).reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    mean = pixels.mean(axis=(1, 3), keepdims=True)
    return (pixels - mean) / np.sqrt(pixels.var(axis=(1, 3), keepdims=True) + epsilon)


@pytest.mark.parametrize("shape", [(2, 8, 8, 64), (2, 32, 32, 32), (2, 4, 1, 16, 64), (2, 4, 8, 16, 32)])
@pytest.mark.parametrize("ratio", [0, 10, 50])  # mean of the inputs, in standard deviations
def test_moments_lose_less_than_the_rounding_of_bfloat16_inputs(shape, ratio):
    exact = np.random.default_rng(0).standard_normal(shape) + ratio
    rounded = jnp.asarray(exact, jnp.bfloat16)
    # optimized, because unoptimized CPU programs sum one number after the other
    function = jax.jit(lambda x: group_normalised(x, 8, 1e-5, "moments")).lower(rounded).compile(OPTIMIZED)
    out = np.asarray(function(rounded), np.float64)
    # relative errors are 2^-24 ratio^2 in the statistics, but 2^-9 ratio in the rounded inputs
    out = out.reshape(shape[0], -1, 8, shape[-1] // 8)
    limit = 2e-6 + 4e-7 * ratio**2
    np.testing.assert_allclose(out, in_float64(np.asarray(rounded), 8, 1e-5), atol=limit, rtol=limit)


@pytest.mark.parametrize("shape", [(2, 8, 8, 64), (2, 4, 8, 16, 32)])
def test_the_gradient_of_moments_is_that_of_sums(shape):
    x, weight = (jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32) for seed in (0, 1))
    loss = lambda x, form: (group_normalised(x, 8, 1e-5, form).reshape(shape) * weight).sum()  # noqa: E731
    moments, sums = (jax.grad(loss)(x, form) for form in ("moments", "sum"))
    np.testing.assert_allclose(moments, sums, atol=2e-6)  # sums of 1000 float32 numbers near 1


@pytest.mark.parametrize("shape", [(2, 8, 8, 64), (2, 4, 1, 128, 64), (2, 4, 8, 16, 32)])
def test_gradients_of_scale_and_bias_are_those_of_sums(shape):
    x, weight = (jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32) for seed in (0, 1))
    scale, bias = (jnp.asarray(np.random.default_rng(seed).standard_normal(shape[-1]), jnp.float32) for seed in (2, 3))

    def loss(x, scale, bias, form):
        out = group_normalised(x, 8, 1e-5, form, scale=scale, bias=bias).reshape(shape)
        return (jnp.tanh(out) * weight).sum()

    moments, sums = (jax.grad(loss, argnums=(0, 1, 2))(x, scale, bias, form) for form in ("moments", "sum"))
    for name, got, want in zip(("x", "scale", "bias"), moments, sums, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6 * np.abs(want).max() + 1e-5, err_msg=name)


def test_a_recomputed_block_does_not_sum_again_for_its_norms():
    policy = ComputePolicy(reduction="moments")

    class Block(nn.Module):
        keep: bool

        @nn.compact
        def __call__(self, x):
            call = lambda module, x: module(x)  # noqa: E731
            run = recomputed(call) if self.keep else nn.remat(call)
            return run(group_norm(policy, epsilon=1e-5), jnp.sin(x))

    x = jnp.ones((2, 32, 32, 64))
    params = Block(True).init(jax.random.key(0), x)
    traces = {
        keep: str(jax.make_jaxpr(jax.grad(lambda p, keep=keep: Block(keep).apply(p, x).sum()))(params))
        for keep in (True, False)
    }
    sums = {keep: trace.count("reduce_sum") + trace.count("= reduce[") for keep, trace in traces.items()}
    assert 0 < sums[True] < sums[False]


def test_a_guided_step_in_the_forms_for_gpus_equals_the_plain_one():
    config = presets()["tiny"]
    plain, gpu = make_model(config), make_model(config, GPU)
    params = {name: random_params(plain.components[name].config, ComputePolicy()) for name in plain.components}
    features = random_like(plain.feature_shapes(2, 4))
    inputs = plain.inputs({**features, "mask": jnp.ones_like(features["mask"])})
    x = random_like(jax.ShapeDtypeStruct(features["latents"].shape, jnp.float32))
    t = jnp.asarray([10.0, 500.0])

    def guided(model):
        @jax.jit
        def step(params, inputs, x, t):
            context = model.precompute(params, model.encode(params, inputs))
            return model.denoise(model.before_steps(params), x, t, context)

        return step(params, inputs, x, t)

    expected = guided(plain)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(guided(gpu), expected, atol=2e-4)  # 1e-5 in each of about 20 layers


def test_joined_weights_hold_every_self_attention_and_time_layer():
    shapes = abstract_params(presets()["smcd"].unet)
    joined = flatten(jax.eval_shape(joined_weights, shapes))
    attentions = [path for path in joined if path.endswith(SELF)]
    assert joined[f"encoder_1/spatial/block/self_attention/{SELF}"].shape == (320, 960)
    assert joined[f"middle/attended/temporal/block/cross_attention/{SELF}"].shape == (1280, 3840)
    assert not any("spatial/block/cross_attention" in path for path in attentions)
    channels = sum(layer["kernel"].shape[1] for _, layer in time_layers(shapes))
    assert joined[f"{TIME}/kernel"].shape == (1280, channels)
    assert joined[f"{TIME}/bias"].shape == (channels,)


def test_only_bfloat16_on_gpus_uses_moments():
    forms = {(dtype, place): ComputePolicy.for_device(dtype, place).reduction for dtype, place in _settings()}
    assert [setting for setting, form in forms.items() if form == "moments"] == [("bfloat16", "gpu")]


def _settings() -> list[tuple[str, str]]:
    return [(dtype, place) for dtype in ("float32", "bfloat16") for place in ("cpu", "gpu", "tpu")]
