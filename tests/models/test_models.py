"""The networks: initial values, gates, and the effect of conditions, frames and dtypes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smcd_jax.models.smcd.config import PRESETS, TINY, ControlNetConfig, ModelConfig
from smcd_jax.nn.config import UNetConfig
from smcd_jax.nn.layers import ComputePolicy, sinusoid
from smcd_jax.nn.networks import abstract_params, flatten, init_params, network, unflatten

# Each gate form takes seconds to compile, and golden cases cover all of them, so the less used ones are slow tests.
LESS_USED_GATES = [pytest.param(name, marks=pytest.mark.slow) for name in ("parallel", "merge")]
GATES = ("object", "object_image", "double", *LESS_USED_GATES)
ZERO_INITIALISED = (  # layers that are zero-initialised in the published model, by the ends of their names
    "conv_out/kernel",
    "proj_out/kernel",
    "temporal_conv/conv_3/conv/kernel",
    "alpha_attention",
    "alpha_ff",
    "beta_object",
    "beta_image",
)
OPEN = ("alpha_attention", "alpha_ff", "beta_object", "beta_image")
FLOAT32 = {"rtol": 1e-4, "atol": 1e-5}  # another summation order, through about twenty layers with activations near 1


def small(gate: str = "object_image", **changes) -> UNetConfig:
    """Returns a config with one level and one block; more levels would only take longer to compile."""
    one_level = {"channel_mult": (1,), "attention_scales": (1.0,), "head_dim": 16, "stem_heads": 1}
    widths = {"context_dim": 8, "object_width": 8, "image_width": 8}
    return dataclasses.replace(TINY.unet, gate=gate, **{**one_level, **widths, **changes})


@functools.cache
def started(config) -> dict:
    return init_params(config, jax.random.key(0))


@functools.cache
def shapes(config) -> dict:
    return flatten(abstract_params(config))


def trained(config, *, shut: bool = False, seed: int = 0) -> dict:
    """Returns random values for all layers, including zero-initialised ones, so that every layer has an effect."""
    rng = np.random.default_rng(seed)

    def value(path: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = path.rsplit("/", 1)[-1]
        if name in OPEN:
            return jnp.float32(0.0 if shut else 0.7)
        fan_in = max(1, int(np.prod(leaf.shape[:-1])))
        drawn = rng.standard_normal(leaf.shape).astype(np.float32)
        kernel, near = drawn / np.sqrt(fan_in), np.float32(name == "scale") + 0.1 * drawn
        return jnp.asarray(kernel if name == "kernel" else near)

    return unflatten({path: value(path, leaf) for path, leaf in shapes(config).items()})


def inputs(config: UNetConfig, *, batch: int = 2, frames: int = 3, height: int = 4, width: int = 4) -> dict:
    rng = np.random.default_rng(1)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape).astype(np.float32))  # noqa: E731
    given = {
        "latents": draw(batch, frames, height, width, config.input_channels),
        "timesteps": jnp.asarray([17.0, 901.0][:batch]),
        "text": draw(batch, 5, config.context_dim),
    }
    if config.uses_objects:
        given["objects"] = draw(batch, frames, 2, config.object_width)
        given["object_mask"] = jnp.ones((batch, frames, 2))
    if config.uses_image_tokens:
        given["image_tokens"] = draw(batch, 4, config.image_width)
    return given


@functools.cache
def forward(config: UNetConfig, policy: ComputePolicy | None = None, temporal: bool = True):
    """Returns a compiled function that encodes the conditions and runs the network."""
    module = network(config, policy)

    @jax.jit
    def run(params, latents, timesteps, text, **conditions):
        encoded = module.apply({"params": params}, text, method="keys_values", **conditions)
        return module.apply({"params": params}, latents, timesteps, encoded, temporal=temporal)

    return run


@pytest.mark.parametrize("preset", PRESETS)
def test_layers_that_the_published_model_starts_at_zero_are_named_so(preset):
    paths = flatten(abstract_params(PRESETS[preset].unet))
    for name in ZERO_INITIALISED[:5]:
        assert any(path.endswith(name) for path in paths), name


@pytest.mark.parametrize("gate", ["object_image", "double"])
def test_zero_initialised_layers_are_zero_and_no_other_kernel_is(gate):
    for path, leaf in flatten(started(small(gate))).items():
        zero = not np.any(leaf)
        if path.endswith(ZERO_INITIALISED):
            assert zero, path
        elif path.endswith("kernel"):
            assert not zero, path
            assert 0.5 < np.std(leaf) * np.sqrt(np.prod(leaf.shape[:-1])) < 1.5, path  # LeCun: variance 1 / fan in


def test_the_control_branch_starts_at_zero():
    config = ControlNetConfig(small("none", image_latent=False))
    paths = {path: leaf for path, leaf in flatten(started(config)).items() if "zero_conv" in path}
    assert paths
    assert not any(np.any(leaf) for leaf in paths.values())


def test_an_untrained_network_predicts_exactly_zero():
    config = small()
    assert not np.any(forward(config)(started(config), **inputs(config)))


@pytest.mark.parametrize("gate", GATES)
def test_boxes_and_image_enter_only_through_open_gates(gate):
    config, run = small(gate), forward(small(gate))
    given = inputs(config)
    others = {name: given | {name: given[name] + 1} for name in ("objects", "image_tokens") if name in given}
    shut, opened = trained(config, shut=True), trained(config)
    for name, other in others.items():
        np.testing.assert_array_equal(run(shut, **other), run(shut, **given), err_msg=name)
        assert np.abs(run(opened, **other) - run(opened, **given)).max() > 1e-3, name


@pytest.mark.parametrize("gate", ["object_image", "double"])
def test_closed_gates_have_no_effect(gate):
    config = small(gate)
    given = inputs(config)
    params = trained(config, shut=True)
    plain = {name: given[name] for name in ("latents", "timesteps", "text")}
    np.testing.assert_allclose(forward(config)(params, **given), forward(config)(params, **plain), **FLOAT32)


@pytest.mark.parametrize("gate", GATES)
def test_absent_boxes_are_masked_in_the_gate_forms_with_a_mask(gate):
    config, run = small(gate), forward(small(gate))
    given, params = inputs(config), trained(config)
    given["object_mask"] = given["object_mask"].at[..., 1].set(0)
    other = given | {"objects": given["objects"].at[..., 1, :].add(3.0)}
    difference = np.abs(run(params, **other) - run(params, **given)).max()
    assert difference == 0 if gate in ("double", "merge") else difference > 1e-3


def test_equal_seeds_give_equal_weights_and_other_seeds_do_not():
    config = small()
    first = flatten(started(config))
    again = flatten(init_params(config, jax.random.key(0)))
    other = flatten(init_params(config, jax.random.key(1)))
    for path, leaf in first.items():
        np.testing.assert_array_equal(again[path], leaf)
        if path.endswith("kernel") and np.any(leaf):
            assert np.abs(other[path] - leaf).max() > 0, path


@pytest.mark.parametrize("component", ["position_net", "image_encoder", "text_encoder"])
def test_initial_weights_equal_those_of_flax(component):
    """`init_params` compiles only the initializers, without the forward pass; they must draw the same numbers."""
    config, key = TINY.components()[component], jax.random.key(3)
    ours, theirs = (flatten(tree) for tree in (init_params(config, key), by_flax(config, key)))
    assert ours.keys() == theirs.keys()
    for path, leaf in theirs.items():
        assert ours[path].dtype == leaf.dtype
        # XLA may fuse operations differently in the two programs, which changes results by one unit in the last place
        np.testing.assert_allclose(ours[path], leaf, rtol=3e-7, atol=0, err_msg=path)


def by_flax(config, key):
    module = network(config)
    return jax.jit(lambda key: module.init(key, method="dummy_call")["params"])(key)


def test_untrained_temporal_layers_do_not_change_still_images():
    config = small()
    given = inputs(config, frames=1)
    trained_apart_from_time = flatten(trained(config))
    for path, leaf in trained_apart_from_time.items():
        temporal = "/temporal/proj_out" in path or "temporal_conv/conv_3" in path
        trained_apart_from_time[path] = leaf * 0 if temporal else leaf
    params = unflatten(trained_apart_from_time)
    full, still = forward(config)(params, **given), forward(config, temporal=False)(params, **given)
    assert np.abs(full).max() > 0.1
    np.testing.assert_allclose(full, still, **FLOAT32)
    assert np.abs(forward(config)(trained(config), **given) - still).max() > 1e-2


def test_frames_depend_on_each_other_only_through_the_temporal_layers():
    config = small()
    given, params = inputs(config), trained(config)
    other = given | {"latents": given["latents"].at[:, 2].add(1.0)}
    apart, together = forward(config, temporal=False), forward(config)
    np.testing.assert_array_equal(apart(params, **other)[:, :2], apart(params, **given)[:, :2])
    assert np.abs(together(params, **other)[:, 0] - together(params, **given)[:, 0]).max() > 1e-3


def test_conditions_computed_once_are_valid_for_every_step():
    config = small()
    module, params, given = network(config), trained(config), inputs(config)
    names = ("text", "objects", "object_mask", "image_tokens")
    encode = jax.jit(lambda params, given: module.apply({"params": params}, **given, method="keys_values"))
    step = jax.jit(lambda params, *args: module.apply({"params": params}, *args))
    once = encode(params, {name: given[name] for name in names})
    for time in (5.0, 700.0):
        given["timesteps"] = jnp.full((2,), time)
        reused = step(params, given["latents"], given["timesteps"], once)
        np.testing.assert_allclose(reused, forward(config)(params, **given), **FLOAT32)


@pytest.mark.parametrize("gate", ["object_image", pytest.param("merge", marks=pytest.mark.slow)])
def test_image_tokens_of_a_clip_are_those_of_every_frame(gate):
    config, run = small(gate), forward(small(gate))
    given, params = inputs(config), trained(config)
    each = given | {"image_tokens": jnp.repeat(given["image_tokens"][:, None], 3, axis=1)}
    np.testing.assert_allclose(run(params, **each), run(params, **given), **FLOAT32)
    one_other = each | {"image_tokens": each["image_tokens"].at[:, 1].add(1.0)}
    assert np.abs(run(params, **one_other) - run(params, **given)).max() > 1e-3


def test_examples_of_a_batch_are_independent():
    config, run = small(), forward(small())
    given, params = inputs(config), trained(config)
    together = run(params, **given)
    for example in range(2):
        alone = run(params, **{name: array[example : example + 1] for name, array in given.items()})
        np.testing.assert_allclose(alone[0], together[example], **FLOAT32)


def test_half_precision_is_near_single_precision():
    config = small()
    given, params = inputs(config), trained(config)
    policy = ComputePolicy.for_device("bfloat16")
    halved = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if leaf.ndim else leaf, params)
    low, full = forward(config, policy)(halved, **given), forward(config)(params, **given)
    assert low.dtype == jnp.float32  # so that the sampler accumulates in float32
    # 8 significant bits; as a random walk, about thirty roundings add up to 30 ** 0.5 * 2 ** -8 = 2 %
    error = np.std(low - full) / np.std(full)
    assert 1e-4 < error < 0.04


def test_gates_stay_in_single_precision_under_a_half_precision_policy():
    leaves = flatten(abstract_params(small("parallel"), ComputePolicy.for_device("bfloat16")))
    for path, leaf in leaves.items():
        assert leaf.dtype == (jnp.float32 if path.endswith(OPEN) else jnp.bfloat16), path


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 2, 2), (1, 4, 2), (5, 2, 6), (2, 6, 2)])
def test_any_number_of_frames_and_any_even_size_pass(frames, height, width):
    config = TINY.unet
    given = inputs(config, batch=1, frames=frames, height=height, width=width)
    out = jax.eval_shape(forward(config), abstract_params(config), **given)
    assert out.shape == (1, frames, height, width, config.latent_channels)


def test_an_odd_size_is_refused():
    config = TINY.unet  # two levels: 5 rows are halved to 3, which are doubled to 6
    with pytest.raises(TypeError, match="shapes"):
        jax.eval_shape(forward(config), abstract_params(config), **inputs(config, height=5))


def test_the_time_embedding_is_cosines_then_sines_and_pads_odd_widths():
    t = np.array([0.0, 1.0, 999.0])
    angles = t[:, None] * 10000.0 ** (-np.arange(3) / 3)
    want = np.concatenate([np.cos(angles), np.sin(angles), np.zeros((3, 1))], axis=1)
    # float32 rounds angles near 999 by up to 3e-5
    np.testing.assert_allclose(sinusoid(jnp.asarray(t, jnp.float32), 7), want, atol=1e-4)


def test_an_absent_box_gives_the_null_token_for_any_values():
    config = TINY.position_net
    params = trained(config)
    params |= {"null_label": params["null_label"] + 0.5, "null_box": params["null_box"] - 0.5}
    rng = np.random.default_rng(0)
    boxes, labels = rng.random((2, 3, 4)).astype(np.float32), rng.standard_normal((2, 3, 64)).astype(np.float32)
    mask = np.array([[1, 0, 1], [0, 0, 1]], np.float32)
    tokens = network(config).apply({"params": params}, jnp.asarray(boxes), jnp.asarray(mask), jnp.asarray(labels))
    absent, present = tokens[mask == 0], tokens[mask == 1]
    np.testing.assert_allclose(absent, np.broadcast_to(absent[0], absent.shape), **FLOAT32)
    assert np.abs(present[:, None] - present[None]).max(axis=-1)[~np.eye(3, dtype=bool)].min() > 0.01
    assert np.abs(present - absent[0]).max(axis=-1).min() > 0.01


def test_every_component_of_a_preset_has_a_network_and_parameters():
    for config in (TINY, ModelConfig()):
        for name, part in config.components().items():
            if config is TINY:
                assert flatten(abstract_params(part)), name
            assert network(part).config == part
