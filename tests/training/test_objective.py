"""The objective: dropped conditions, noise and timesteps, encoding in the step, and loss weights.

``tests/golden/case_train.py`` compares the loss and its gradients with those of the reference.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smcd_jax.diffusion.loss import min_snr_weights
from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.models.registry import make_model
from smcd_jax.models.smcd.model import Inputs, SMCDModel
from smcd_jax.models.video_model import VideoModel
from smcd_jax.nn.autoencoder_kl import autoencoder_losses, sampled_latents, to_model_range
from smcd_jax.nn.networks import flatten, network
from smcd_jax.tokenizer import Tokenizer
from smcd_jax.training import step as step_module
from smcd_jax.training.config import TrainConfig
from smcd_jax.training.selection import join, split
from smcd_jax.training.state import policy, trained_paths
from smcd_jax.training.step import Noised, denoising_losses, draw_timesteps, make_objective
from tests.errors import refused
from tests.training.training_run import MODEL, QUICKLY, configured, starting_params, training_files

MANY = 4000  # rows; four standard deviations of a measured fraction are then about 0.03
CONDITIONS = ("text", "boxes", "image_latent", "image_tokens")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    with training_files(tmp_path_factory.getbasetemp()) as made:
        yield made


NULL_TEXT = -np.ones((1, 3, 2), np.float32)


def inputs_of(rows: int) -> Inputs:
    """Returns inputs that contain no zero."""
    row = 1 + np.arange(rows, dtype=np.float32) / rows
    spread = lambda *shape: np.broadcast_to(row.reshape(-1, *(1,) * len(shape)), (rows, *shape))  # noqa: E731
    mask = np.ones((rows, 2, 2), np.float32)
    latent = spread(2, 2, 4)
    return Inputs(spread(3, 2), NULL_TEXT, spread(2, 2, 4), mask, spread(2, 2), latent, latent)


@functools.cache
def model() -> VideoModel:
    return SMCDModel(MODEL)


def dropped(
    rates: dict[str, float], *, unit: str = "example", rows: int = 6, seed: int = 0
) -> tuple[Inputs, dict[str, np.ndarray]]:
    """Returns the inputs after dropout, and for each condition which rows lost it; partly lost rows fail the test."""
    given = inputs_of(rows)
    left = jax.device_get(model().drop(given, model().draw_keep(jax.random.key(seed), rows, rates, unit=unit)))
    lost = {}
    for name, field in zip(CONDITIONS, ("text", "mask", "image_latent", "hint"), strict=True):
        before, now = (np.asarray(getattr(of, field)).reshape(rows, -1) for of in (given, left))
        nothing = NULL_TEXT.reshape(-1) if name == "text" else 0.0
        same, gone = (now == before).all(axis=1), (now == nothing).all(axis=1)
        assert (same ^ gone).all()
        lost[name] = gone
    np.testing.assert_array_equal(left.boxes, given.boxes)  # unchanged: the position net ignores boxes whose mask is 0
    np.testing.assert_array_equal(left.labels, given.labels)
    return left, lost


class TestDrop:
    @pytest.mark.parametrize("unit", ["example", "batch"])
    def test_rate_0_changes_nothing(self, unit):
        for seed in range(3):
            left, _ = dropped(dict.fromkeys(CONDITIONS, 0.0), unit=unit, seed=seed)
            jax.tree.map(np.testing.assert_array_equal, left, inputs_of(6)._replace(null_text=None))

    @pytest.mark.parametrize("unit", ["example", "batch"])
    @pytest.mark.parametrize("name", CONDITIONS)
    def test_rate_1_always_drops_that_condition_and_no_other(self, name, unit):
        for seed in range(3):
            _, lost = dropped({name: 1.0}, unit=unit, seed=seed)
            assert {other: rows.all() for other, rows in lost.items()} == {other: other == name for other in CONDITIONS}
            assert not any(rows.any() for other, rows in lost.items() if other != name)

    def test_unit_example_drops_rows_and_conditions_independently(self):
        rates = {"text": 0.1, "boxes": 0.5, "image_latent": 0.25, "image_tokens": 0.9}
        _, lost = dropped(rates, rows=MANY)
        for name, rate in rates.items():
            assert lost[name].mean() == pytest.approx(rate, abs=0.03)
        for name in ("text", "image_latent", "image_tokens"):
            both = (lost["boxes"] & lost[name]).mean()
            assert both == pytest.approx(rates["boxes"] * rates[name], abs=0.03)

    def test_unit_batch_drops_all_rows_together_and_batches_differ(self):
        seen = set()
        for seed in range(40):
            _, lost = dropped(dict.fromkeys(CONDITIONS, 0.5), unit="batch", seed=seed)
            assert all(rows.all() or not rows.any() for rows in lost.values())
            seen.add(tuple(bool(lost[name][0]) for name in CONDITIONS))
        assert len(seen) > 8  # out of 16 combinations, because conditions are dropped independently

    def test_dropping_is_the_same_for_the_same_key(self):
        one, other = (dropped(dict.fromkeys(CONDITIONS, 0.5), rows=64, seed=7)[0] for _ in range(2))
        jax.tree.map(np.testing.assert_array_equal, one, other)

    @pytest.mark.parametrize(
        ("rates", "argument"),
        [({"depth": 0.5}, "condition_dropout"), ({"boxes": 1.5}, "condition_dropout.boxes")],
    )
    def test_an_unknown_condition_or_rate_is_refused(self, rates, argument):
        with refused(argument):
            TrainConfig(model=MODEL, condition_dropout=rates)


class TestTimesteps:
    def test_timesteps_cover_the_schedule_evenly(self):
        drawn = np.asarray(draw_timesteps(jax.random.key(0), MANY, 1000, stratified=False))
        assert (drawn.min(), drawn.max()) == (0, 999)
        assert np.histogram(drawn, 4, (0, 1000))[0] / MANY == pytest.approx(np.full(4, 0.25), abs=0.03)

    def test_timesteps_of_validation_are_fixed_and_spread(self):
        fixed = draw_timesteps(jax.random.key(0), 4, 1000, stratified=True)
        assert fixed.tolist() == [125, 375, 625, 875]
        assert draw_timesteps(jax.random.key(1), 4, 1000, stratified=True).tolist() == fixed.tolist()


@pytest.fixture
def asked(monkeypatch) -> list[dict[str, Any]]:
    """Records the arguments of calls to `denoising_losses`, which is replaced and computes nothing."""
    calls: list[dict[str, Any]] = []

    def note(model, params, latents, noised, *, inputs, dropout_key=None, **settings):
        calls.append({"latents": latents, "noised": noised, "inputs": inputs, "dropout_key": dropout_key})
        return jnp.zeros(len(latents))

    monkeypatch.setattr(step_module, "denoising_losses", note)
    return calls


def batch_of(config: TrainConfig, rows: int = 8) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal((rows, *shape)), jnp.float32)  # noqa: E731
    frames = config.data.frames
    boxes = jnp.broadcast_to(jnp.asarray([0.1, 0.2, 0.6, 0.8], jnp.float32), (rows, frames, 2, 4))
    common = {"boxes": boxes, "mask": jnp.ones((rows, frames, 2))}
    return common | {"latents": draw(frames, 4, 4, 4), "text": draw(77, 16), "labels": draw(2, 16)}


def objective_of(config: TrainConfig, **null: np.ndarray) -> Callable[..., Any]:
    """Returns the run's objective without running statistics, which SMCD does not have."""
    made = make_objective(config, make_model(config.model), null=null)
    return lambda params, batch, key, **kwargs: made(params, {}, batch, key, **kwargs)[0]


class TestObjective:
    def test_training_drops_and_validation_does_not(self, files, asked):
        everything = [f"condition_dropout.{name}=1.0" for name in CONDITIONS]
        config = configured(files, *everything, "dropout=true", preset="clips")
        batch = batch_of(config)
        loss = objective_of(config, null_text=np.full((1, 77, 16), 7.0, np.float32))
        losses = loss({}, batch, jax.random.key(0))
        loss({}, batch, jax.random.key(0), train=False)
        trained, validated = (call["inputs"] for call in asked)
        assert (trained.text == 7).all()
        assert not trained.mask.any()
        assert not trained.image_latent.any()
        assert not trained.hint.any()
        np.testing.assert_array_equal(validated.text, batch["text"])
        np.testing.assert_array_equal(validated.mask, batch["mask"])
        np.testing.assert_array_equal(validated.image_latent, batch["latents"][:, 0])
        np.testing.assert_array_equal(validated.hint, batch["latents"][:, 0])
        assert [call["dropout_key"] is None for call in asked] == [False, True]
        stratified = asked[1]["noised"].timesteps
        assert stratified.tolist() == sorted(stratified.tolist())
        np.testing.assert_array_equal(losses.timestep_bucket, asked[0]["noised"].timesteps // 250)

    def test_dropout_can_be_turned_off(self, files, asked):
        config = configured(files, "condition_dropout.text=0")
        objective_of(config)({}, batch_of(config), jax.random.key(0))
        assert asked[0]["dropout_key"] is None

    def test_noise_timesteps_and_drops_depend_on_the_key(self, files, asked):
        config = configured(files)
        loss = objective_of(config, null_text=np.zeros((1, 77, 16), np.float32))
        for seed in (0, 0, 1):
            loss({}, batch_of(config), jax.random.key(seed))
        one, same, other = asked
        np.testing.assert_array_equal(one["noised"].noise, same["noised"].noise)
        np.testing.assert_array_equal(one["noised"].timesteps, same["noised"].timesteps)
        assert float(jnp.abs(one["noised"].noise - other["noised"].noise).mean()) > 0.5
        assert one["noised"].timesteps.tolist() != other["noised"].timesteps.tolist()
        assert float(one["noised"].noise.std()) == pytest.approx(1, abs=0.1)

    def test_noise_offset_shifts_all_pixels_of_a_channel_equally(self, files, asked):
        for offset in ("0", "0.5"):
            config = configured(files, f"loss.noise_offset={offset}", "condition_dropout.text=0", preset="clips")
            objective_of(config)({}, batch_of(config), jax.random.key(0))
        moved = np.asarray(asked[1]["noised"].noise - asked[0]["noised"].noise)
        assert np.ptp(moved, axis=(1, 2, 3)) == pytest.approx(0, abs=1e-5)
        assert 0.2 < moved[:, 0, 0, 0].std() < 0.8

    def test_texts_are_encoded_in_the_step_and_a_dropped_text_is_the_null_caption(self, files, asked):
        config = configured(files, "data.inputs=latents", "condition_dropout.text=0.5")
        tokenizer = Tokenizer.published()
        tokens = tokenizer.encode(["a cat", "a red car", " ", "a dog"])
        batch = {name: array[:4] for name, array in batch_of(config).items() if name not in ("text", "labels")}
        batch |= {"token_ids": jnp.asarray(tokens), "label_ids": jnp.asarray(tokens[:2])[None].repeat(4, axis=0)}
        params = starting_params(config)
        loss = objective_of(config, null_ids=tokenizer.encode([" "]))

        @jax.jit
        def inputs_of(params: Any, key: jax.Array) -> Inputs:
            loss(params, batch, key)
            return asked[-1]["inputs"]

        seen = [inputs_of(params, jax.random.key(seed)) for seed in range(4)]
        tower = network(config.model.text_encoder, policy(config))
        expected = jax.jit(tower.apply)({"params": params["text_encoder"]}, batch["token_ids"])
        null = np.asarray(expected[2])
        rows = np.concatenate([np.asarray(inputs.text) for inputs in seen])
        wanted = np.concatenate([np.asarray(expected)] * 4)
        kept = np.abs(rows - wanted).max(axis=(1, 2)) < 1e-5
        gone = np.abs(rows - null).max(axis=(1, 2)) < 1e-5
        assert (kept | gone).all()
        assert 0 < (gone & ~kept).sum() < 12
        labels = tower.apply({"params": params["text_encoder"]}, batch["token_ids"][:2], method="label_embedding")
        np.testing.assert_allclose(seen[0].labels, np.broadcast_to(labels, (4, 2, 16)), atol=1e-5)


def test_latents_encoded_in_the_step_are_scaled_samples_without_gradient(files):
    config = configured(files, "data.inputs=video")
    module = network(config.model.autoencoder, policy(config))
    params = starting_params(config)["autoencoder"]
    frames = jnp.asarray(np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3)), jnp.uint8)
    keys = jax.random.split(jax.random.key(0), 6)

    def total(params):
        latents = sampled_latents(module, params, frames, keys)
        posterior = module.apply({"params": params}, to_model_range(frames), method="posterior")
        noise = jnp.stack([jax.random.normal(keys[index], latents.shape[1:]) for index in range(6)])
        return latents.sum(), (latents, posterior.with_noise(noise) * module.config.scaling_factor)

    program = jax.jit(jax.value_and_grad(total, has_aux=True)).lower(params).compile(QUICKLY)
    (_, (latents, drawn)), gradient = program(params)
    assert latents.shape == (6, 4, 4, 4)
    np.testing.assert_allclose(latents, drawn, rtol=1e-5, atol=1e-6)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))


def test_pixels_are_scaled_to_the_range_of_the_autoencoder():
    pixels = jnp.asarray([[[[0, 128, 255]]]], jnp.uint8)
    np.testing.assert_allclose(to_model_range(pixels).reshape(-1), [-1, 128 / 127.5 - 1, 1], atol=1e-6)


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(1)
    draw = lambda *shape: jnp.asarray(rng.standard_normal((4, *shape)), jnp.float32)  # noqa: E731
    latents = draw(1, 4, 4, 4)
    boxes = jnp.broadcast_to(jnp.asarray([0.1, 0.2, 0.6, 0.8], jnp.float32), (4, 1, 2, 4))
    given = Inputs(draw(77, 16), None, boxes, jnp.ones((4, 1, 2)), draw(2, 16), latents[:, 0], latents[:, 0])
    return latents, Noised(draw(1, 4, 4, 4), jnp.asarray([10, 300, 600, 990], jnp.int32)), given


def losses_of(config: TrainConfig, params: Any, drawn: tuple, **more: Any) -> jax.Array:
    latents, noised, given = drawn
    model = make_model(config.model, policy(config))
    gamma, temporal = config.loss.min_snr_gamma, config.temporal
    return denoising_losses(
        model, params, latents, noised, inputs=given, min_snr_gamma=gamma, temporal=temporal, **more
    )


class TestLoss:
    def test_losses_are_per_example_weighted_by_min_snr_and_affected_by_dropout(self, files, drawn):
        """One test covers all three with one program, because each program would take seconds to compile."""
        config = configured(files)
        weighed = dataclasses.replace(config, loss=dataclasses.replace(config.loss, min_snr_gamma=5.0))
        latents, noised, given = drawn
        given = given._replace(hint=given.hint * 3)  # the model has no image tokens
        other = latents.at[3].set(0.0), noised, given._replace(mask=given.mask.at[2].set(0.0))

        def all_of(params, key):
            return (
                losses_of(config, params, (latents, noised, given)),
                losses_of(weighed, params, (latents, noised, given)),
                losses_of(config, params, other),
                losses_of(config, params, (latents, noised, given), dropout_key=key),
            )

        params = starting_params(config)
        program = jax.jit(all_of).lower(params, jax.random.key(0)).compile(QUICKLY)
        plain, snr, changed, noisy = map(np.asarray, program(params, jax.random.key(0)))
        schedule = NoiseSchedule(prediction_type=config.model.prediction_type)
        np.testing.assert_allclose(snr, plain * min_snr_weights(schedule, noised.timesteps, gamma=5.0), rtol=1e-5)
        np.testing.assert_allclose(changed[:2], plain[:2], rtol=1e-4)
        assert (np.abs(changed - plain)[2:] > 1e-5).all()
        assert np.abs(noisy - plain).max() > 1e-4

    def test_remat_gives_the_same_gradients(self, files, drawn):
        config = configured(files)
        trained, still = split(starting_params(config), trained_paths(config))
        gradients, traces = {}, {}
        for remat in ("none", "blocks"):
            run = dataclasses.replace(config, remat=remat)
            loss = lambda trained, run=run: losses_of(run, join(trained, still), drawn).mean()  # noqa: E731
            traced = jax.jit(jax.grad(loss)).trace(trained)
            traces[remat] = str(traced.jaxpr)
            gradients[remat] = flatten(traced.lower().compile(QUICKLY)(trained))
        assert "checkpoint" in traces["blocks"] or "remat" in traces["blocks"]
        assert "checkpoint" not in traces["none"]
        assert "remat" not in traces["none"]
        largest = max(float(jnp.abs(leaf).max()) for leaf in gradients["none"].values())
        assert largest > 0
        for path, leaf in gradients["none"].items():
            np.testing.assert_allclose(gradients["blocks"][path], leaf, rtol=1e-5, atol=1e-5 * largest, err_msg=path)


def test_the_autoencoder_loss_has_terms_for_pixels_edges_and_divergence(files):
    config = configured(files, "objective=autoencoder", "data.inputs=video", "trainable=autoencoder/.*")
    module = network(config.model.autoencoder, policy(config))
    params = {"autoencoder": starting_params(config)["autoencoder"]}
    video = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 1, 16, 16, 3)), jnp.uint8)

    def weighed(**weights: float) -> TrainConfig:
        return dataclasses.replace(config, loss=dataclasses.replace(config.loss, **weights))

    def all_of(params, key):
        losses = [
            autoencoder_losses(module, params["autoencoder"], video, key, weights={"edge": edge, "kl": 0.0})
            for edge in (0.0, 1.0)
        ]
        losses.append(objective_of(weighed(edge_weight=0.0, kl_weight=0.5))(params, {"video": video}, key).loss)
        pictures = to_model_range(video[:, 0])
        posterior = module.apply({"params": params["autoencoder"]}, pictures, method="posterior")
        decoded = module.apply({"params": params["autoencoder"]}, posterior.sample(key), method="decode_unscaled")
        return losses, pictures, decoded, posterior.mean, posterior.log_variance

    program = jax.jit(all_of).lower(params, jax.random.key(0)).compile(QUICKLY)
    losses, pictures, decoded, mean, log_variance = jax.tree.map(np.asarray, program(params, jax.random.key(0)))
    error = decoded - pictures
    charge = lambda x: (np.abs(x) + x**2).mean(axis=(1, 2, 3))  # noqa: E731
    np.testing.assert_allclose(losses[0], charge(error), rtol=1e-4)
    edges = charge(error[:, 1:] - error[:, :-1]) + charge(error[:, :, 1:] - error[:, :, :-1])
    np.testing.assert_allclose(losses[1] - losses[0], edges, rtol=1e-4)
    divergence = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(losses[2] - losses[0], 0.5 * divergence, rtol=1e-3, atol=1e-5)
