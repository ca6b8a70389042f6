"""The Frechet video distance: padding of short clips, order of clips, bootstrap intervals, and networks."""

from __future__ import annotations

import warnings

import jax
import numpy as np
import pytest

from smcd_jax.cli.open_extractor import open_extractor
from smcd_jax.conversion.feature_networks import read_i3d
from smcd_jax.conversion.i3d_table import i3d_rows
from smcd_jax.evaluation.features import extractors
from smcd_jax.evaluation.features.extractors import I3DExtractor, TorchScriptI3D
from smcd_jax.evaluation.metrics.frechet import frechet_distance
from smcd_jax.evaluation.metrics.fvd import fvd, spread
from smcd_jax.evaluation.metrics.fvd_preprocess import fvd_frames, held
from smcd_jax.nn.i3d import I3DConfig
from smcd_jax.nn.networks import flatten
from smcd_jax.weights.conversion_engine import to_torch
from tests.errors import refused
from tests.golden.case_i3d import i3d_params

SMALL = I3DConfig(classes=5, stem=(2, 3, 4), stages=(((2, 1, 2, 3, 1, 2),), ((1, 2, 3, 1, 2, 1),) * 2, ((2,) * 6,)))


class Named:
    name, implementation, weights_sha256, frame_rule = "i3d", "a network", "0" * 64, "resized"


def sets(clips=40, width=6, seed=0):
    """Returns features of generated and of real clips, by clip id."""
    random = np.random.default_rng(seed)
    ids = [f"clip-{index:03d}" for index in range(clips)]
    real = random.standard_normal((clips, width))
    generated = 0.5 * real + random.standard_normal((clips, width)) + 0.7
    return dict(zip(ids, generated, strict=True)), dict(zip(ids, real, strict=True))


def measured(generated, real, **options):
    return fvd(generated, real, **({"frames": 8, "extractor": Named, "resamples": 50} | options))


def shuffled(features, seed):
    ids = np.random.default_rng(seed).permutation(list(features))
    return {clip: features[clip] for clip in ids}


def test_the_metric_describes_its_source():
    result = measured(*sets())
    assert result.name == "fvd-i3d-hold10"
    assert result.frame_rule == "all 8 frames, the last one repeated up to 10; resized"
    assert (result.implementation, result.weights_sha256) == (Named.implementation, Named.weights_sha256)
    assert (result.count, result.better, result.per_clip) == (40, "lower", None)
    assert "40 clips" in result.note


@pytest.mark.parametrize(("frames", "name"), [(1, "hold10"), (9, "hold10"), (10, "10frames"), (16, "16frames")])
def test_the_name_contains_the_rule_for_the_length(frames, name):
    assert measured(*sets(), frames=frames, resamples=0).name == f"fvd-i3d-{name}"


@pytest.mark.parametrize(("clips", "warns"), [(255, True), (256, False)])
def test_a_small_number_of_clips_gives_a_warning(clips, warns):
    assert bool(measured(*sets(clips), resamples=0).note) == warns


def test_the_value_is_the_frechet_distance():
    generated, real = sets()
    want = frechet_distance(np.stack(list(generated.values())), np.stack(list(real.values())))
    assert measured(generated, real).value == want


def test_equal_sets_are_at_distance_zero_within_an_interval_of_zero():
    _, real = sets()
    scale = sum(np.var(np.stack(list(real.values())), axis=0))
    result = measured(real, dict(real))
    assert abs(result.value) < 1e-6 * scale
    assert max(result.interval) < 1e-6 * scale


def test_singular_sets_have_a_finite_distance():
    generated, real = sets(clips=5, width=400)
    result = measured(generated, real)
    assert 0 < result.interval[0] <= result.value <= result.interval[1] < np.inf
    still = dict.fromkeys(real, np.ones(400))
    assert measured(still, dict.fromkeys(real, np.zeros(400))).value == pytest.approx(400, rel=1e-12)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_order_of_clips_changes_no_bit(seed):
    generated, real = sets()
    assert measured(shuffled(generated, seed), shuffled(real, seed + 10)) == measured(generated, real)


def test_paired_clips_are_drawn_together():
    generated, real = sets(200)
    paired = measured(generated, real).interval
    other = {f"other-{clip}": features for clip, features in real.items()}
    apart = measured(generated, other)
    assert apart.value == measured(generated, real).value
    # generated features include half of the real ones, so that much of the scatter cancels if both are drawn together
    assert paired[1] - paired[0] < 0.9 * (apart.interval[1] - apart.interval[0])


def test_the_interval_covers_the_distance_of_the_distributions():
    # The covariances are equal and the means are 1 apart along one axis, so the true distance is 1.
    covered = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        first, second = random.standard_normal((300, 2)) + np.eye(2)[0], random.standard_normal((300, 2))
        low, high = spread(first, second, frechet_distance(first, second), paired=False, resamples=100, seed=seed)
        covered += low <= 1 <= high
    assert covered >= 34  # with a coverage of 95 %, fewer than 34 of 40 have a probability of 1 in 300


def test_the_seed_fixes_the_interval():
    assert measured(*sets(), seed=1) == measured(*sets(), seed=1)
    assert measured(*sets(), seed=1).interval != measured(*sets(), seed=2).interval
    assert measured(*sets(), resamples=0).interval is None


def test_a_set_of_too_few_clips_is_refused():
    generated, real = sets(1)
    with refused("generated", value=1):
        measured(generated, real)
    with refused("generated", value=0):
        measured({}, real)


def test_short_videos_hold_their_last_frame():
    video = np.random.default_rng(0).integers(0, 256, (8, 4, 6, 3), np.uint8)
    long = held(video)
    assert long.shape == (10, 4, 6, 3)
    np.testing.assert_array_equal(long[:8], video)
    np.testing.assert_array_equal(long[8:], video[[7, 7]])
    assert len(held(long)) == 10
    assert len(held(np.concatenate([long, long]))) == 20


@pytest.fixture(scope="module")
def params():
    """Formula weights: with so few channels, random weights would give only zeros after the ReLUs."""
    return jax.tree.map(np.asarray, i3d_params(SMALL))


def videos(count=3, frames=8):
    return np.random.default_rng(0).integers(0, 256, (count, frames, 40, 56, 3), np.uint8)


def test_features_of_a_video_do_not_depend_on_its_batch(params):
    extractor = I3DExtractor(SMALL, params, source="here", weights_sha256="0")
    clips = videos()
    together = extractor.features(clips)
    assert (together.shape, together.dtype) == ((3, 5), np.float64)
    assert np.abs(together[0] - together[1]).max() > 1e-4
    np.testing.assert_array_equal(extractor.features(clips[::-1]), together[::-1])
    np.testing.assert_array_equal(
        np.concatenate([extractor.features(clips[:1]), extractor.features(clips[1:])]), together
    )


def test_a_published_file_gives_the_features_of_its_weights(params, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr("smcd_jax.conversion.feature_networks.I3DConfig", lambda: SMALL)
    tensors = to_torch(i3d_rows(SMALL), flatten(params))
    state = {name: torch.from_numpy(tensor.copy()) for name, tensor in tensors.items()}
    counters = {
        name.replace(".weight", ".num_batches_tracked"): torch.tensor(3) for name in state if "bn.weight" in name
    }
    torch.save(state | counters, tmp_path / "i3d_pretrained_400.pt")
    opened = open_extractor("i3d", tmp_path)
    assert opened.weights_sha256 == read_i3d(tmp_path / "i3d_pretrained_400.pt").sha256
    want = I3DExtractor(SMALL, params, source="", weights_sha256="").features(videos(1))
    np.testing.assert_array_equal(opened.features(videos(1)), want)
    assert "i3d_pretrained_400.pt" in opened.implementation


def test_a_torchscript_file_is_called_like_the_published_file(tmp_path):
    torch = pytest.importorskip("torch")

    class Pooled(torch.nn.Module):
        def forward(self, video, rescale: bool = True, resize: bool = True, return_features: bool = False):
            assert (rescale, resize, return_features) == (False, False, True)
            return torch.cat([video.mean(dim=(2, 3, 4)), video[:, :, -1].mean(dim=(2, 3))], dim=1)

    path = tmp_path / "i3d_torchscript.pt"
    with warnings.catch_warnings():  # torch has deprecated the format of the published files
        warnings.simplefilter("ignore")
        torch.jit.script(Pooled()).save(str(path))
    extractor = open_extractor("i3d-torchscript", tmp_path)
    clips = videos(2)
    ready = np.stack([np.asarray(fvd_frames(held(clip)), np.float64) for clip in clips])
    want = np.concatenate([ready.mean(axis=(1, 2, 3)), ready[:, -1].mean(axis=(1, 2))], axis=1)
    np.testing.assert_allclose(extractor.features(clips), want, atol=1e-5)
    assert measured(*sets(), extractor=extractor, resamples=0).name == "fvd-i3d-torchscript-hold10"
    path.write_bytes(b"nothing")
    with refused(path=path):
        TorchScriptI3D(path, weights_sha256="")


def test_an_empty_batch_is_refused(params):
    run = extractors.one_by_one(None, params)
    with refused("inputs"):
        run([])
