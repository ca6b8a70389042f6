"""Comparison of two evaluations of the same list: differences for each clip, verdicts, and refusals."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from smcd_jax.evaluation.metrics.metric_rows import Metric, MetricRow
from smcd_jax.evaluation.report.compare import compare, comparison_lines, write_comparison
from smcd_jax.evaluation.report.results import ClipRow, Results
from tests.errors import refused

CLIPS = [f"clip{index:02d}" for index in range(30)]
LIST = {"sha256": "a" * 64, "name": "sprites", "split": "test", "frames": 8, "clips": 30}
BASE = dict(zip(CLIPS, np.random.default_rng(0).uniform(0.2, 0.8, 30).tolist(), strict=True))


def results(*metrics: Metric, **evaluation) -> Results:
    about = {"list": LIST, "records": "r", "max_objects": 4, "videos": {}, **evaluation}
    rows = tuple(ClipRow(clip, 0, 1, f"caption of {clip}", ("cat",)) for clip in CLIPS)
    return Results(about, rows, (), (), tuple(MetricRow(metric, {}) for metric in metrics))


def mean_of(values, name="ao", **described) -> Metric:
    return Metric.mean_of_clips(name, values, **described)


def shifted(by: float, scatter: float = 0.02) -> dict[str, float]:
    noise = np.random.default_rng(1).normal(0, scatter, len(CLIPS))
    return {clip: BASE[clip] + by + float(step) for clip, step in zip(CLIPS, noise, strict=True)}


def test_a_shift_much_smaller_than_the_scatter_between_clips_is_detected():
    (one,) = compare(results(mean_of(BASE)), results(mean_of(shifted(0.03))))
    differences = np.array([one.per_clip[clip] for clip in CLIPS])
    assert one.mean == pytest.approx(differences.mean())
    assert one.mean == pytest.approx(0.03, abs=0.01)
    assert 0 < one.interval[0] < one.mean < one.interval[1]
    assert one.verdict == "B is better"
    assert one.wins > 0.8
    assert compare(results(mean_of(shifted(0.03))), results(mean_of(BASE)))[0].verdict == "A is better"


def test_a_lower_value_is_a_gain_if_lower_is_better():
    pair = [results(mean_of(values, "lpips", better="lower")) for values in (BASE, shifted(-0.03))]
    (one,) = compare(*pair)
    assert one.verdict == "B is better"
    assert one.wins > 0.8


def test_equal_evaluations_have_no_difference():
    (one,) = compare(results(mean_of(BASE)), results(mean_of(BASE)))
    assert (one.mean, one.interval, one.wins, one.verdict) == (0, (0, 0), 0.5, "no significant difference")
    assert compare(results(mean_of(BASE)), results(mean_of(shifted(0, 0.3))))[0].verdict == "no significant difference"


def test_comparing_again_gives_the_same_interval():
    pair = results(mean_of(BASE)), results(mean_of(shifted(0.01)))
    assert compare(*pair) == compare(*pair)


@pytest.mark.parametrize(
    ("evaluation", "argument", "value"),
    [
        ({"list": LIST | {"sha256": "b" * 64}}, "list", "b" * 64),
        ({"records": "other"}, "records", "other"),
        ({"max_objects": 8}, "max_objects", 8),
    ],
)
def test_evaluations_of_different_clips_are_refused(evaluation, argument, value):
    with refused(argument, value=value):
        compare(results(mean_of(BASE)), results(mean_of(BASE), **evaluation))


def test_metrics_computed_differently_are_not_subtracted():
    first = mean_of(BASE, "clip-sim", weights_sha256="1", frame_rule="every frame")
    (one,) = compare(results(first), results(dataclasses.replace(first, weights_sha256="2")))
    assert one.mean is None
    assert "weights" in one.note


def test_metrics_of_one_evaluation_of_the_whole_set_or_of_other_clips_have_notes():
    some = {clip: BASE[clip] for clip in CLIPS[:20]}
    first = results(mean_of(BASE), mean_of(BASE, "psnr"), Metric("fvd", 5.0), Metric.not_run("lpips", "no weights"))
    second = results(mean_of(some), Metric.not_run("psnr", "no library"), Metric("fvd", 4.0), Metric("lpips", None))
    found = {one.name: one for one in compare(first, second)}
    assert set(found) == {"ao", "psnr", "fvd"}
    assert found["ao"].note.startswith("10 clips")
    assert len(found["ao"].per_clip) == 20
    assert found["psnr"].values == (pytest.approx(np.mean(list(BASE.values()))), None)
    assert found["fvd"].values == (5.0, 4.0)
    assert found["fvd"].verdict == "-"
    lines = comparison_lines(list(found.values()))
    assert lines[0].split()[:3] == ["metric", "better", "A"]
    assert any(line.startswith("psnr:") for line in lines)


def test_the_page_shows_both_videos_of_every_clip_sorted_by_the_gain_of_b(tmp_path):
    pair = results(mean_of(BASE)), results(mean_of(shifted(0.03)))
    folders = tmp_path / "before", tmp_path / "after"
    for folder in folders:
        for clip in CLIPS[:2]:
            (folder / "strips" / clip).mkdir(parents=True)
            for name in ("real", "generated"):
                (folder / "strips" / clip / f"{name}.jpg").write_bytes(b"jpeg")
    differences = compare(*pair)
    page = write_comparison(tmp_path / "page.html", folders, pair, differences).read_text()
    assert page.count("<article") == len(CLIPS)
    assert page.count("<img ") == 2 * 3  # for each clip, the real video once and both generated ones
    assert str(tmp_path) not in page
    gains = differences[0].per_clip
    best = max(gains, key=gains.get)
    assert page.index(f"<h2>{best} ") < min(page.index(f"<h2>{clip} ") for clip in CLIPS if clip != best)
