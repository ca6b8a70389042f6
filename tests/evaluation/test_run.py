"""Clips, metrics and files of an evaluation: reference values, damaged clips, and reproducible files."""

from __future__ import annotations

import csv
import dataclasses
import html
import json
import re
import shutil

import numpy as np
import pytest

from data_pipeline.evaluation_lists import EvaluationEntry
from data_pipeline.records.reader import RecordFolder
from smcd_jax.cli import evaluate_flags
from smcd_jax.errors import SMCDError
from smcd_jax.evaluation.grounding_run import open_tracker
from smcd_jax.evaluation.interventions import INTERVENTIONS, apply_intervention, mirrored
from smcd_jax.evaluation.measure_run import MetricRun
from smcd_jax.evaluation.metric_specs import DEFAULT_METRICS, METRICS
from smcd_jax.evaluation.report.report_page import Card, Table, write_page
from smcd_jax.evaluation.report.results import read_results
from smcd_jax.evaluation.report.vbench import export_vbench, vbench_names
from smcd_jax.evaluation.run import first_entries, measure, start_or_resume
from smcd_jax.evaluation.trackers.sprite_scenes import SpriteScenes
from smcd_jax.evaluation.video_store import GENERATED, REAL, SLID, STILL, check_list, read_eval_clips
from smcd_jax.media import read_picture, read_video, write_video
from tests.errors import refused
from tests.evaluation.evaluation_clips import (
    CLIPS,
    FRAMES,
    SIDE,
    eval_clips,
    noisy,
    sprite_list,
    sprite_records,
    store_of,
    write_videos,
)


class MeanColours:
    """A mock of networks: the feature of a picture is its mean colour, and the feature of a text is its length."""

    name, implementation, weights_sha256, frame_rule = "colours", "mean colours", None, "every frame, as it is"

    def features(self, frames):
        return frames.reshape(*frames.shape[:-3], -1, 3).mean(axis=-2).reshape(len(frames), -1) + 1.0

    def texts(self, texts):
        return np.array([[len(text), 1.0, 1.0] for text in texts])


def no_weights(name):
    raise SMCDError(f"weights missing: {name}.bin")


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> RecordFolder:
    return sprite_records(tmp_path_factory.mktemp("records") / "sprites")


@pytest.fixture(scope="module")
def clips(records):
    return eval_clips(records)


@pytest.fixture(scope="module")
def videos(tmp_path_factory, clips):
    """The real clips with noise, like the videos of a good model."""
    return write_videos(tmp_path_factory.mktemp("videos") / "noisy", clips, noisy)


def run_of(store, records, extractor=no_weights, trackers=("csrt",), **options) -> MetricRun:
    return MetricRun(
        store,
        open_extractor=extractor,
        open_tracker=lambda name: open_tracker(name, lambda: SpriteScenes(records.folder)),
        trackers=trackers,
        **options,
    )


def by_name(rows):
    return {row.metric.name: row for row in rows}


@pytest.fixture(scope="module")
def rows(records, clips, videos):
    run = run_of(store_of(videos, clips), records, lambda name: MeanColours(), ("sprites", "csrt"))
    return by_name(run.rows(("grounding", "motion", "psnr", "ssim", "clip-sim", "consistency", "fff-clip", "fvd")))


class TestMetrics:
    @pytest.mark.parametrize("tracker", ["sprite-detector-1", "csrt@256"])
    def test_grounding_lies_between_the_baselines_and_the_real_clip(self, rows, tracker):
        row = rows[f"ao-{tracker}"]
        references = row.references
        assert set(references) == {REAL, STILL, SLID}
        assert references[REAL] > 0.75
        assert references[STILL] < 0.6 < row.metric.value
        assert references[STILL] < references[SLID] < references[REAL]
        assert row.metric.interval[0] <= row.metric.value <= row.metric.interval[1]

    def test_the_mean_over_frames_is_that_of_the_clips_weighted_by_their_frames(self, rows, clips):
        metric = rows["ao-csrt@256"].metric
        counted = {clip.clip_id: int((clip.mask & (np.cumsum(clip.mask, axis=0) > 1)).sum()) for clip in clips}
        weighted = sum(metric.per_clip[name] * count for name, count in counted.items()) / sum(counted.values())
        assert metric.value == pytest.approx(weighted, abs=1e-12)

    def test_a_still_video_does_not_move_and_pixels_have_no_ceiling(self, rows):
        assert rows["motion-inside-farneback@128"].references[STILL] < 1e-6  # rounding error
        assert rows["motion-inside-farneback@128"].references[REAL] > 0
        for name in ("psnr", "ssim"):
            assert set(rows[name].references) == {STILL, SLID}

    def test_features_have_all_three_reference_values(self, rows):
        assert rows["frame-consistency-colours"].references[STILL] == pytest.approx(1)
        assert rows["fff-first-colours"].references[REAL] == pytest.approx(1)
        assert set(rows["clip-sim-colours"].references) == {REAL, STILL, SLID}
        fvd = rows["fvd-colours-hold10"]
        assert fvd.metric.value > 0
        assert set(fvd.references) == {STILL, SLID}
        assert "4 clips" in fvd.metric.note


def test_identical_sets_have_an_fvd_of_0_and_the_best_value_of_other_metrics(records, clips, tmp_path):
    same = write_videos(tmp_path / "same", clips, lambda video, clip: video)
    rows = by_name(run_of(store_of(same, clips), records, lambda name: MeanColours()).rows(("fvd", "psnr", "ssim")))
    assert rows["fvd-colours-hold10"].metric.value == pytest.approx(0, abs=1e-6)
    assert rows["psnr"].metric.value == 100
    assert rows["ssim"].metric.value == 1


def test_the_order_of_the_list_changes_no_metric(records, clips, videos):
    names = ("psnr", "motion", "fvd")
    there = run_of(store_of(videos, clips), records, lambda name: MeanColours()).rows(names)
    back = run_of(store_of(videos, clips[::-1]), records, lambda name: MeanColours()).rows(names)
    assert there == back


def test_a_metric_without_weights_does_not_run_and_the_others_do(records, clips, videos):
    rows = run_of(store_of(videos, clips), records).rows([name for name in DEFAULT_METRICS if name != "grounding"])
    ran = {row.metric.name: row.metric.value is not None for row in rows}
    assert ran["psnr"]
    assert ran["motion-inside-farneback@128"]
    assert [name for name, done in ran.items() if not done] == [
        name for name, spec in METRICS.items() if spec.extractor and spec.default
    ]
    assert by_name(rows)["fvd"].metric.note == "not run: weights missing: i3d.bin"
    with refused("metrics", value="psrn"):
        run_of(store_of(videos, clips), records).rows(["psrn"])


class TestInterventions:
    def test_mirrored_boxes_start_at_the_same_place_and_move_the_other_way(self, clips):
        centers = np.array([[0.2, 0.2], [0.5, 0.5], [0.6, 0.4], [0.9, 0.5]])  # the object is absent from frame 0
        boxes = np.concatenate([centers - 0.1, centers + 0.1], axis=1)[:, None].astype(np.float32)
        changed = mirrored(boxes, np.array([[False], [True], [True], [True]]))[1:, 0]
        np.testing.assert_allclose(
            (changed[:, :2] + changed[:, 2:]) / 2, [[0.5, 0.5], [0.4, 0.6], [0.15, 0.5]], atol=1e-6
        )
        for clip, one in zip(clips, apply_intervention(clips, "mirrored_boxes"), strict=True):
            np.testing.assert_allclose(one.tracks.boxes, np.where(one.mask[..., None], one.boxes, 0))
            assert one.recorded is clip

    def test_swapped_labels_change_only_the_input_of_the_model(self, clips):
        for clip, changed in zip(clips, apply_intervention(clips, "swapped_labels"), strict=True):
            assert not set(changed.tracks.labels) & set(clip.labels)
            assert changed.labels == clip.labels
            np.testing.assert_array_equal(changed.tracks.boxes, clip.tracks.boxes)

    def test_without_boxes_the_model_sees_no_object_and_the_boxes_are_still_measured(self, clips):
        for clip, changed in zip(clips, apply_intervention(clips, "no_boxes"), strict=True):
            assert not changed.tracks.mask.any()
            np.testing.assert_array_equal(changed.boxes, clip.boxes)

    def test_the_flag_offers_every_intervention(self):
        assert tuple(INTERVENTIONS) == evaluate_flags.INTERVENTIONS

    def test_an_unknown_name_or_a_single_label_is_refused(self, clips):
        with refused("intervention", value="no_text"):
            apply_intervention(clips, "no_text")
        alike = [dataclasses.replace(clip, labels=("cat",) * len(clip.labels)) for clip in clips]
        with refused("intervention", value="swapped_labels"):
            apply_intervention(alike, "swapped_labels")


class TestPixelDifference:
    def test_the_metric_is_the_mean_absolute_difference_from_other_videos(self, records, clips, videos, tmp_path):
        brighter = write_videos(tmp_path / "b", clips, lambda video, clip: np.clip(video, 0, 250) + np.uint8(5))
        darker = write_videos(tmp_path / "d", clips, lambda video, clip: np.clip(video, 0, 250))
        run = run_of(store_of(brighter, clips), records, difference_from=darker)
        (row,) = run.rows(["pixel-difference"])
        assert (row.metric.value, row.metric.count) == (5, CLIPS)

    def test_the_metric_does_not_run_without_the_other_videos(self, records, clips, videos, tmp_path):
        for folder in (None, tmp_path):
            (row,) = run_of(store_of(videos, clips), records, difference_from=folder).rows(["pixel-difference"])
            assert row.metric.value is None


class TestLabels:
    def test_the_labels_of_real_clips_are_recognized(self, records, clips, videos):
        (row,) = run_of(store_of(videos, clips), records).rows(["labels"])
        assert row.metric.value > 0.9
        assert row.references == {REAL: 1.0}

    def test_videos_that_ignore_swapped_labels_score_zero(self, records, clips, videos):
        swapped = apply_intervention(clips, "swapped_labels")
        (row,) = run_of(store_of(videos, swapped), records).rows(["labels"])
        assert row.metric.value < 0.1
        assert row.references == {REAL: 1.0}


class TestScenes:
    def test_scenes_are_those_of_the_records(self, records, clips):
        scenes = SpriteScenes(records.folder)
        for clip in clips:
            scene = scenes.scene(clip)
            assert scene.caption == clip.caption
            assert scene.num_frames == FRAMES
            whole = scene.objects[clip.objects[0]].boxes[0]
            assert whole[2] - whole[0] > 0

    def test_records_of_another_world_are_refused(self, records, clips, tmp_path):
        other = sprite_records(tmp_path / "other", seed=3)
        with refused("data", value=clips[0].clip_id):
            SpriteScenes(other.folder).scene(clips[0])

    def test_records_other_than_sprites_have_no_scenes(self, records, tmp_path):
        content = json.loads((records.folder / "records.json").read_text())
        (tmp_path / "records.json").write_text(json.dumps(content | {"name": "got10k"}))
        with refused("trackers", path=tmp_path, value="got10k"):
            SpriteScenes(tmp_path)


class TestDamage:
    @pytest.fixture
    def damaged(self, clips, videos, tmp_path):
        folder = tmp_path / "videos"
        shutil.copytree(videos, folder)
        return folder

    def test_unreadable_missing_and_short_videos_are_named(self, clips, damaged):
        first, second, third, fourth = (clip.clip_id for clip in clips)
        (damaged / first / "0001.png").write_bytes(b"not a picture")
        (damaged / second / "0003.png").unlink()
        shutil.rmtree(damaged / third)
        store = store_of(damaged, clips)
        assert [clip.clip_id for clip in store.clips] == [fourth]
        assert {(fault.clip_id, fault.kind) for fault in store.faults} == {
            (first, "unreadable video"),
            (second, "fewer frames than boxes"),
            (third, "no video"),
        }
        assert not any(str(damaged) in fault.reason for fault in store.faults)

    def test_a_store_without_a_measurable_clip_is_refused(self, clips, tmp_path):
        with refused(path=tmp_path):
            store_of(tmp_path, clips)

    def test_video_files_are_found_and_only_the_first_frames_of_longer_ones_are_measured(self, clips, damaged):
        clip = clips[0]
        video, _ = read_video(damaged / clip.clip_id)
        shutil.rmtree(damaged / clip.clip_id)
        write_video(np.concatenate([video, video]), damaged / f"{clip.clip_id}.mp4", fps=8)
        store = store_of(damaged, clips)
        (note,) = store.notes
        assert clip.clip_id in note
        read = next(videos[GENERATED] for of, videos in store.pairs() if of is clip)
        assert read.shape == (FRAMES, SIDE, SIDE, 3)

    def test_a_clip_without_caption_or_box_lacks_the_metrics_that_need_them(self, records, clips, videos):
        plain = dataclasses.replace(clips[0], caption=" ")
        empty = dataclasses.replace(
            clips[1], labels=(), objects=(), boxes=clips[1].boxes[:, :0], mask=clips[1].mask[:, :0]
        )
        store = store_of(videos, [plain, empty, *clips[2:]])
        assert [(fault.clip_id, fault.kind) for fault in store.faults] == [
            (plain.clip_id, "no caption"),
            (empty.clip_id, "no box"),
        ]
        run = run_of(store, records, lambda name: MeanColours())
        rows = by_name(run.rows(("grounding", "clip-sim", "motion", "psnr")))
        assert plain.clip_id not in rows["clip-sim-colours"].metric.per_clip
        assert empty.clip_id not in rows["ao-csrt@256"].metric.per_clip
        assert rows["motion-inside-farneback@128"].metric.count == CLIPS - 1
        assert rows["psnr"].metric.count == CLIPS

    def test_an_object_too_small_for_a_tracker_is_omitted_from_every_version(self, records, clips, videos):
        clip = clips[0]
        boxes = clip.boxes.copy()
        boxes[:, 0] = [0.5, 0.5, 0.51, 0.51]
        store = store_of(videos, [dataclasses.replace(clip, boxes=boxes), *clips[1:]])
        rows = by_name(run_of(store, records).rows(["grounding"]))
        assert f"({clip.clip_id} ({clip.labels[0]}))" in rows["ao-csrt@256"].metric.note

    def test_entries_that_the_records_do_not_hold_are_faults(self, records, monkeypatch):
        evaluation = sprite_list(records)
        entries = list(evaluation.entries)
        entries[0] = EvaluationEntry("sprites-test-000000099", 0, 1)
        entries[1] = dataclasses.replace(entries[1], start=2)
        read = RecordFolder.annotations

        def without_area(self, position):
            example = read(self, position)
            if self.clip_ids[position] == entries[2].clip_id:
                example["boxes"] = np.zeros_like(example["boxes"])
            return example

        monkeypatch.setattr(RecordFolder, "annotations", without_area)
        wrong = dataclasses.replace(evaluation, entries=tuple(entries))
        clips, faults = read_eval_clips(records, wrong, max_objects=2, need_boxes=True)
        assert [clip.clip_id for clip in clips] == [entries[3].clip_id]
        assert [fault.kind for fault in faults] == ["not in the records", "too few frames in the record", "bad box"]
        assert not any(str(records.folder) in fault.reason for fault in faults)

    def test_a_model_needs_captions(self, records, monkeypatch):
        read = RecordFolder.annotations
        monkeypatch.setattr(RecordFolder, "annotations", lambda self, position: read(self, position) | {"caption": b""})
        clips, faults = read_eval_clips(records, sprite_list(records), max_objects=2, need_boxes=True)
        assert not clips
        assert {fault.kind for fault in faults} == {"no caption"}
        assert len(read_eval_clips(records, sprite_list(records), max_objects=2, need_boxes=False)[0]) == CLIPS

    @pytest.mark.parametrize(
        ("change", "argument", "value"),
        [
            ({"entries": ()}, None, None),
            ({"split": "val"}, "split", "test"),
            ({"entries": (EvaluationEntry("../x", 0, 1),)}, "clip_id", "../x"),
            ({"entries": (EvaluationEntry("x", 0, 1), EvaluationEntry("x", 1, 2))}, "clip_id", "x"),
        ],
    )
    def test_an_invalid_list_is_refused(self, records, change, argument, value):
        with refused(argument, path="list.json", value=value):
            check_list(dataclasses.replace(sprite_list(records), **change), records, "list.json")


def written(folder, records, clips, videos):
    store = store_of(videos, clips)
    run = run_of(store, records)
    settings = {"records": records, "evaluation": sprite_list(records), "max_objects": 4, "made_with": None}
    measure(folder, store, run, ("grounding", "psnr", "fvd"), **settings)
    return folder


@pytest.fixture(scope="module")
def folder(records, clips, videos, tmp_path_factory):
    return written(tmp_path_factory.mktemp("evaluation"), records, clips, videos)


class TestFiles:
    def test_the_same_videos_give_the_same_bytes_without_paths(self, folder, records, clips, videos, tmp_path):
        copied = tmp_path / "elsewhere"
        shutil.copytree(videos, copied)
        again = written(tmp_path, records, clips, copied)
        for name in ("metrics.json", "clips.csv", "report.html"):
            assert (again / name).read_bytes() == (folder / name).read_bytes()
        text = (folder / "metrics.json").read_text()
        assert str(videos) not in text
        assert not re.search(r"seconds|[\"' ]/[a-z]+/", text)

    def test_results_survive_writing_and_reading(self, folder, records):
        results = read_results(folder)
        assert [clip.clip_id for clip in results.clips] == [entry.clip_id for entry in sprite_list(records).entries]
        assert results.evaluation["list"]["sha256"] == sprite_list(records).sha256
        assert by_name(results.rows)["psnr"].references[STILL] > 0
        header = results.table()[0].split()
        assert header[0] == "metric"
        assert any(line.startswith("fvd: not run") for line in results.table())

    def test_the_table_of_clips_has_a_column_for_each_metric(self, folder):
        with (folder / "clips.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == CLIPS
        per_clip = by_name(read_results(folder).rows)["psnr"].metric.per_clip
        assert {row["clip_id"]: float(row["psnr"]) for row in rows} == per_clip

    def test_the_page_is_complete_and_sorted_best_first(self, folder):
        page = (folder / "report.html").read_text()
        assert page.count("<img ") == 3 * CLIPS
        assert not re.search(r'(src|href)="(?!data:)', page)
        values = [json.loads(html.unescape(text))["ao-csrt@256"] for text in re.findall(r'data-values="(.*?)"', page)]
        assert values == sorted(values, reverse=True)

    def test_text_in_a_page_is_escaped(self, tmp_path):
        card = Card("<b>id</b>", "</article><script>alert(1)</script>", {}, {"x": 1.0})
        table = Table(["<i>"], [["<u>"]])
        path = write_page(tmp_path / "p.html", title="<t>", table=table, sort_by={"x": "higher"}, cards=[card])
        page = path.read_text()
        assert not {"<t>", "<i>", "<u>"} & set(re.findall("<.>", page))
        assert "<script>alert" not in page
        assert "&lt;b&gt;id" in page

    def test_an_evaluation_resumes_only_with_the_same_settings(self, tmp_path):
        start_or_resume(tmp_path / "new", {"model": "a", "options": {"eta": 0.0}})
        start_or_resume(tmp_path / "new", {"model": "a", "options": {"eta": 0.0}})
        with refused("eta", path=tmp_path / "new", value=1.0):
            start_or_resume(tmp_path / "new", {"model": "a", "options": {"eta": 1.0}})
        with refused("model", path=tmp_path / "new", value="b"):
            start_or_resume(tmp_path / "new", {"model": "b", "options": {"eta": 0.0}})

    def test_the_first_entries_of_a_list_are_selected(self, records):
        evaluation = sprite_list(records)
        assert first_entries(evaluation, 2).entries == evaluation.entries[:2]
        with refused("count", value=5):
            first_entries(evaluation, 5)


class TestVBench:
    def test_file_names_are_the_prompts(self):
        long = "é" * 300
        names = vbench_names([("a", "A cat."), ("b", "A cat."), ("c", "up/down"), ("d", " "), ("e", long)])
        assert {key: names[key] for key in "abc"} == {"a": "A cat.", "b": "A cat. (2)", "c": "up down"}
        assert "d" not in names
        assert len(f"{names['e']}-0.mp4".encode()) < 255

    def test_videos_and_pictures_have_the_same_names(self, clips, videos, tmp_path):
        store = store_of(videos, clips)
        assert export_vbench(store, tmp_path, fps=8, index=2) == CLIPS
        for clip in clips:
            video, _ = read_video(tmp_path / "videos" / f"{clip.caption}-2.mp4")
            assert len(video) == FRAMES
            picture = read_picture(tmp_path / "images" / f"{clip.caption}.jpg")
            assert np.abs(picture.astype(int) - clip.real(SIDE, SIDE)[0]).mean() < 4


@pytest.mark.parametrize(("before", "now"), [({"eta": None}, {}), ({}, {"eta": None}), ({"eta": 0.0}, {"eta": 1.0})])
def test_an_evaluation_with_other_settings_is_refused_by_the_option(tmp_path, before, now):
    start_or_resume(tmp_path, {"options": {"seed": 1, **before}})
    start_or_resume(tmp_path, {"options": {"seed": 1, **before}})
    with refused("eta", path=tmp_path):
        start_or_resume(tmp_path, {"options": {"seed": 1, **now}})
