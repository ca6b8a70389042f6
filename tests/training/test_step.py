"""One update: its effect on parameters, moments, moving average and log sums; after a NaN, nothing changes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from smcd_jax.models.registry import make_model
from smcd_jax.models.smcd.model import Inputs
from smcd_jax.models.video_model import Losses
from smcd_jax.nn.gate_names import is_gate
from smcd_jax.nn.networks import flatten
from smcd_jax.runtime.sharding import MeshShape, batch_sharding, make_mesh
from smcd_jax.training.config import OptimizerConfig, RunConfig, TrainConfig
from smcd_jax.training.optimizer import clip_by_global_norm, global_norm, make_optimizer
from smcd_jax.training.selection import split
from smcd_jax.training.state import (
    NO_FAULT,
    NUM_BUCKETS,
    TrainState,
    new_state,
    policy,
    trained_paths,
    window_means,
)
from smcd_jax.training.step import (
    Noised,
    TrainObjective,
    TrainProgram,
    TrainStep,
    denoising_losses,
    make_train_step,
)
from tests.training.training_run import BATCH, QUICKLY, configured, starting_params, training_files

ROWS, WIDTH = 8, 3
EXACT = {"rtol": 1e-6, "atol": 1e-7}  # allows for another order of float32 sums


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    with training_files(tmp_path_factory.getbasetemp()) as made:
        yield made


def config_with(*, log_every: int = 1, **optimizer: Any) -> TrainConfig:
    chosen = {"learning_rate": 0.1, "weight_decay": 0.01, "clip_norm": 1.0} | optimizer
    run = RunConfig(log_every=log_every, steps=100)
    config = TrainConfig(trainable=("unet/.*",), optimizer=OptimizerConfig(**chosen), run=run)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=ROWS))


def params() -> dict:
    kernel = jnp.asarray([0.5, -1.0, 2.0])
    return {"unet": {"a": {"kernel": kernel}, "gates": {"alpha_ff": jnp.asarray(0.3)}}}


def frozen() -> dict:
    return {"unet": {"a": {"bias": jnp.asarray([0.25])}}}


def batch(seed: int = 0) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    return {"x": draw(ROWS, WIDTH), "y": draw(ROWS), "bucket": jnp.arange(ROWS, dtype=jnp.int32) % 2}


def squares(params: dict, batch: dict, key: jax.Array) -> Losses:
    """Least-squares loss with a known gradient; it depends on the frozen bias."""
    leaves = params["unet"]
    found = batch["x"] @ leaves["a"]["kernel"] * jnp.tanh(leaves["gates"]["alpha_ff"]) + leaves["a"]["bias"]
    return Losses(jnp.square(found - batch["y"]), batch["bucket"])


def roots(params: dict, batch: dict, key: jax.Array) -> Losses:
    """A loss that is finite where x is 0, although its gradient is not."""
    return Losses(jnp.sqrt(batch["x"] @ params["unet"]["a"]["kernel"]), batch["bucket"])


def chance(params: dict, batch: dict, key: jax.Array) -> Losses:
    drawn = jax.random.uniform(key, batch["y"].shape)
    return Losses(drawn + params["unet"]["gates"]["alpha_ff"], batch["bucket"])


def start(config: TrainConfig) -> TrainState:
    return new_state(params(), make_optimizer(config.optimizer, config.run.steps), config=config)


def run(config: TrainConfig, state: TrainState, *batches: dict, objective=squares) -> TrainState:
    for each in batches:
        state = compiled(config, objective)(state, frozen(), each)
    return state


def without_stats(losses: Callable[..., Losses]) -> TrainObjective:
    """Returns the objective of a model without running statistics."""
    return lambda params, stats, batch, key, train=True: (losses(params, batch, key), stats)


@functools.cache
def compiled(config: TrainConfig, objective: TrainObjective) -> TrainStep:
    return jax.jit(
        make_train_step(config, without_stats(objective), make_optimizer(config.optimizer, config.run.steps))
    )


def bytes_of(tree: Any) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def assert_close(one: Any, other: Any, **tolerance: float) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **(tolerance or EXACT)), one, other)


class TestUpdate:
    def test_an_update_is_adamw_of_the_clipped_gradient_of_the_mean_loss(self):
        config, trained = config_with(clip_norm=0.25), params()
        whole = lambda trained: squares(  # noqa: E731
            {"unet": {**trained["unet"], "a": trained["unet"]["a"] | frozen()["unet"]["a"]}}, batch(), None
        ).loss.mean()
        gradient = jax.grad(whole)(trained)
        norm = float(optax.tree.norm(gradient))
        assert norm > 0.3  # so that clipping has an effect
        clipped = jax.tree.map(lambda leaf: leaf * 0.25 / norm, gradient)
        # in Adam's first step, the bias-corrected moments are the gradient and its square
        updated = jax.tree.map(
            lambda leaf, g: leaf - 0.1 * (g / (jnp.sqrt(jnp.square(g)) + 1e-8) + 0.01 * leaf), trained, clipped
        )
        state = run(config, start(config), batch())
        assert_close(state.params, updated, rtol=1e-5)
        np.testing.assert_allclose(
            state.optimizer[1][0].mu["unet"]["a"]["kernel"], 0.1 * clipped["unet"]["a"]["kernel"], rtol=1e-5
        )
        assert int(state.step) == 1
        np.testing.assert_allclose(state.window["loss"], whole(trained), rtol=1e-6)
        np.testing.assert_allclose(state.window["gradient_norm"], norm, rtol=1e-6)

    def test_without_clipping(self):
        loose = run(config_with(clip_norm=0.0), start(config_with(clip_norm=0.0)), batch())
        wide = run(config_with(clip_norm=1e6), start(config_with(clip_norm=1e6)), batch())
        assert_close(loose.params, wide.params)

    @pytest.mark.parametrize("parts", [2, 4, 8])
    def test_an_update_in_parts_equals_the_whole_update(self, parts):
        whole = run(config_with(), start(config_with()), batch(0), batch(1))
        config = config_with(grad_accum_steps=parts)
        sums = run(config, start(config), batch(0), batch(1))
        assert_close(sums, whole)

    def test_each_part_and_each_step_has_its_own_random_numbers(self):
        # Even rows form one part and one timestep bucket, odd rows the other part and bucket.
        config = config_with(grad_accum_steps=2, learning_rate=1e-9)
        first = run(config, start(config), batch(), objective=chance)
        assert first.window["bucket_loss"][0] != first.window["bucket_loss"][1]
        again = run(config, start(config), batch(), objective=chance)
        assert bytes_of(first) == bytes_of(again)
        second = run(config, first, batch(), objective=chance)
        assert abs(float(second.window["loss"] - first.window["loss"])) > 1e-4
        other = run(
            dataclasses.replace(config, seed=1), start(dataclasses.replace(config, seed=1)), batch(), objective=chance
        )
        assert abs(float(other.window["loss"] - first.window["loss"])) > 1e-4

    def test_gates_may_have_a_rate_of_their_own(self):
        plain = run(config_with(), start(config_with()), batch())
        fast = run(config_with(gate_lr_scale=3.0), start(config_with(gate_lr_scale=3.0)), batch())
        assert_close(fast.params["unet"]["a"], plain.params["unet"]["a"])
        moved = [float(state.params["unet"]["gates"]["alpha_ff"]) - 0.3 for state in (plain, fast)]
        assert moved[1] == pytest.approx(3 * moved[0], rel=1e-4)


class TestNorm:
    def gradient(self) -> dict:
        rng = np.random.default_rng(0)
        shapes = {"kernel": (16, 24), "conv": (3, 3, 8, 16), "bias": (24,), "gate": ()}
        return {name: jnp.asarray(rng.standard_normal(shape), jnp.float32) for name, shape in shapes.items()}

    def test_the_norm_is_that_of_optax(self):
        np.testing.assert_allclose(global_norm(self.gradient()), optax.tree.norm(self.gradient()), rtol=1e-6)

    def test_the_norm_of_split_arrays_is_the_same(self):
        mesh = make_mesh(MeshShape(fsdp=8))
        axes = lambda x: (*(None,) * (x.ndim - 1), "fsdp") if x.ndim else ()  # noqa: E731
        places = jax.tree.map(lambda x: NamedSharding(mesh, P(*axes(x))), self.gradient())
        with jax.set_mesh(mesh):
            norm = jax.jit(global_norm)(jax.device_put(self.gradient(), places))
        np.testing.assert_allclose(norm, optax.tree.norm(self.gradient()), rtol=1e-6)

    def test_vectors_are_summed_together(self):
        text = jax.jit(global_norm).lower(self.gradient()).as_text()
        assert text.count("stablehlo.reduce(") == 3  # kernel, convolution, and the rest of all arrays

    @pytest.mark.parametrize("largest", [1.0, 1e3])
    def test_clipping_is_that_of_optax(self, largest):
        ours, theirs = (
            clip.update(self.gradient(), clip.init(self.gradient()))[0]
            for clip in (clip_by_global_norm(largest), optax.clip_by_global_norm(largest))
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs)


class TestMovingAverage:
    def test_the_average_is_the_decayed_mean_of_the_parameters(self):
        config = config_with(ema_decay=0.75)
        state, average = start(config), params()
        assert_close(state.ema, average)
        for step in range(30):
            state = run(config, state, batch(step))
            keep = min(0.75, (1 + step) / (10 + step))  # lower at first, to forget the initial parameters
            average = jax.tree.map(lambda old, new, keep=keep: keep * old + (1 - keep) * new, average, state.params)
            assert_close(state.ema, average, rtol=1e-5)
        assert keep == 0.75
        assert bytes_of(state.ema) != bytes_of(state.params)

    def test_the_average_may_be_off(self):
        assert run(config_with(), start(config_with()), batch()).ema == {}


class TestFault:
    @pytest.mark.parametrize("parts", [1, 2])
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_after_a_fault_no_step_changes_anything(self, parts, value):
        config = config_with(ema_decay=0.9, grad_accum_steps=parts)
        good = run(config, start(config), batch(0), batch(1))
        bad = batch(2) | {"y": batch(2)["y"].at[5].set(value)}
        state = run(config, good, bad)
        assert int(state.fault) == 2
        for later in (batch(3), bad):
            for name in ("step", "params", "optimizer", "ema", "key"):
                assert bytes_of(getattr(state, name)) == bytes_of(getattr(good, name)), name
            state = run(config, state, later)
            assert int(state.fault) == 2

    def test_a_gradient_that_is_not_finite_is_a_fault_even_if_the_loss_is_finite(self):
        config = config_with(ema_decay=0.9)
        zero = batch() | {"x": jnp.zeros((ROWS, WIDTH))}
        state = run(config, start(config), zero, objective=roots)
        assert float(state.window["loss"]) == 0
        assert int(state.fault) == 0
        assert bytes_of(state.params) == bytes_of(params())

    def test_a_step_without_a_fault_reports_no_fault(self):
        assert int(run(config_with(), start(config_with()), batch()).fault) == NO_FAULT


class TestLogSums:
    def test_sums_restart_after_each_log_line_and_give_means(self):
        config = config_with(log_every=3, ema_decay=0.5)
        state, losses = start(config), []
        for number in range(5):
            state = run(config, state, batch(number))
            alone = run(config, start(config)._replace(params=before(state, losses)), batch(number))
            losses.append((float(alone.window["loss"]), state.params))
            since = [loss for loss, _ in losses][3 * (number // 3) :]
            means = window_means(jax.device_get(state.window))
            assert means["loss"] == pytest.approx(np.mean(since), rel=1e-5)
            assert float(state.window["steps"]) == len(since)

    def test_a_timestep_bucket_is_the_mean_of_its_examples_and_an_empty_one_is_omitted(self):
        bands = jnp.asarray([0, 0, 0, 1, 1, 3, 3, 3], jnp.int32)
        state = run(config_with(), start(config_with()), batch() | {"bucket": bands})
        means = window_means(jax.device_get(state.window))
        assert set(means) == {"loss", "gradient_norm", "loss/t0", "loss/t250", "loss/t750"}
        losses = np.asarray(
            squares(
                {"unet": params()["unet"] | {"a": params()["unet"]["a"] | frozen()["unet"]["a"]}}, batch(), None
            ).loss
        )
        for name, band in (("loss/t0", 0), ("loss/t250", 1), ("loss/t750", 3)):
            assert means[name] == pytest.approx(losses[np.asarray(bands) == band].mean(), rel=1e-5)
        assert NUM_BUCKETS == 4


def before(state: TrainState, losses: list) -> dict:
    """Returns the parameters before the step that returned ``state``."""
    return losses[-1][1] if losses else params()


class TestTheRealLoss:
    """The very small model's training step, with fixed noise and timesteps and without condition dropout."""

    @pytest.fixture
    def given(self):
        rng = np.random.default_rng(0)
        draw = lambda *shape: rng.standard_normal((BATCH, *shape)).astype(np.float32)  # noqa: E731
        return {
            "latents": draw(1, 4, 4, 4),
            "noise": draw(1, 4, 4, 4),
            "timesteps": rng.integers(0, 1000, BATCH).astype(np.int32),
            "text": draw(77, 16),
            "labels": draw(2, 16),
            "boxes": np.sort(rng.random((BATCH, 1, 2, 2, 2)).astype(np.float32), axis=-2).reshape(BATCH, 1, 2, 4),
            "mask": (rng.random((BATCH, 1, 2)) < 0.7).astype(np.float32),
        }

    def one_step(self, files, given: dict, *overrides: str, devices: int) -> TrainState:
        config = configured(files, *overrides)
        model = make_model(config.model, policy(config))

        def losses(params: dict, batch: dict, key: jax.Array) -> Losses:
            first = batch["latents"][:, 0]
            given = Inputs(batch["text"], None, batch["boxes"], batch["mask"], batch["labels"], first, first)
            noised = Noised(batch["noise"], batch["timesteps"])
            loss = denoising_losses(model, params, batch["latents"], noised, inputs=given, temporal=config.temporal)
            return Losses(loss, batch["timesteps"] * NUM_BUCKETS // 1000)

        mesh = make_mesh(MeshShape(data=devices), jax.devices()[:devices])
        optimizer = make_optimizer(config.optimizer, config.run.steps)
        trained, still = split(starting_params(config), trained_paths(config))
        with jax.set_mesh(mesh):
            everywhere = jax.device_put((new_state(trained, optimizer, config=config), still), NamedSharding(mesh, P()))
            arguments = (*everywhere, jax.device_put(given, batch_sharding(mesh)))
            step = jax.jit(make_train_step(config, without_stats(losses), optimizer)).lower(*arguments)
            return jax.device_get(step.compile(QUICKLY)(*arguments))

    def test_a_step_in_parts_over_two_devices_equals_that_of_the_whole_batch(self, files, given):
        whole = self.one_step(files, given, devices=1)
        parts = self.one_step(files, given, "optimizer.grad_accum_steps=2", devices=2)
        assert float(whole.window["loss"]) > 0.1
        np.testing.assert_allclose(parts.window["bucket_loss"], whole.window["bucket_loss"], rtol=1e-5)
        for name in ("loss", "gradient_norm"):
            np.testing.assert_allclose(parts.window[name], whole.window[name], rtol=1e-5)
        # Adam's first update is the learning rate times the gradient's sign, so moments show more than parameters do
        ours, theirs = (flatten(state.optimizer[1][0].mu) for state in (parts, whole))
        scale = max(float(np.abs(leaf).max()) for leaf in theirs.values())
        for path, leaf in theirs.items():
            np.testing.assert_allclose(ours[path], leaf, rtol=1e-4, atol=1e-6 * scale, err_msg=path)


def test_state_exists_for_trained_parameters_alone(files):
    """Counts bytes: parameters, two moments and the moving average of trained parameters, and some counters."""
    config = configured(files, preset="clips")
    program = TrainProgram(config, make_mesh(MeshShape(data=8)), null={"null_text": np.zeros((1, 77, 16), np.float32)})
    size = lambda tree: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))  # noqa: E731
    trained, still = size(program.state.params), size(program.frozen)
    assert set(flatten(program.state.params)) == program.trained
    assert not set(flatten(program.frozen)) & program.trained
    assert still > 0
    assert trained == 4 * sum(leaf.size for leaf in jax.tree.leaves(program.state.params))
    assert size(program.state.ema) == trained
    counters = size(program.state.optimizer) - 2 * trained
    assert 0 < counters <= 16
    assert {leaf.dtype.name for leaf in jax.tree.leaves(program.state.params)} == {"float32"}
    assert any(is_gate(path) for path in program.trained)
