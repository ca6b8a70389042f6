"""An evaluation's clips, figures and files: what is measured beside what, damage by name, the same bytes again."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil

import numpy as np
import pytest

from data_pipeline.evaluation_lists import EvaluationEntry
from data_pipeline.records.reader import RecordFolder
from smcd_jax.errors import SMCDError
from smcd_jax.evaluation.grounding_run import open_follower
from smcd_jax.evaluation.measure_run import DEFAULT, KINDS, MeasureRun
from smcd_jax.evaluation.report.report_page import Card, write_page
from smcd_jax.evaluation.report.results import read_results
from smcd_jax.evaluation.report.vbench import export_vbench, vbench_names
from smcd_jax.evaluation.run import begin, first_entries, measure
from smcd_jax.evaluation.trackers.sprite_scenes import SpriteScenes
from smcd_jax.evaluation.video_store import GENERATED, REAL, SLID, STILL, check_list, read_all_asked
from smcd_jax.media import read_picture, read_video, write_video
from tests.evaluation.evaluation_clips import (
    CLIPS,
    FRAMES,
    SIDE,
    asked_clips,
    noisy,
    sprite_list,
    sprite_records,
    store_of,
    write_videos,
)


class MeanColours:
    """Stands in for networks: features are mean colours, of a text its length."""

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
def asked(records):
    return asked_clips(records)


@pytest.fixture(scope="module")
def videos(tmp_path_factory, asked):
    """The real clips with noise, as if a good model had made them."""
    return write_videos(tmp_path_factory.mktemp("videos") / "noisy", asked, noisy)


def run_of(store, records, extractor=no_weights, trackers=("csrt",)) -> MeasureRun:
    return MeasureRun(
        store,
        open_extractor=extractor,
        open_follower=lambda name: open_follower(name, lambda: SpriteScenes(records.folder)),
        trackers=trackers,
    )


def by_name(figures):
    return {figure.measure.name: figure for figure in figures}


@pytest.fixture(scope="module")
def figures(records, asked, videos):
    run = run_of(store_of(videos, asked), records, lambda name: MeanColours(), ("sprites", "csrt"))
    return by_name(run.figures(("grounding", "motion", "psnr", "ssim", "clip-sim", "consistency", "fff-clip", "fvd")))


class TestFigures:
    @pytest.mark.parametrize("follower", ["sprite-detector-1", "csrt@256"])
    def test_grounding_stands_between_its_floors_and_its_ceiling(self, figures, follower):
        figure = figures[f"ao-{follower}"]
        beside = figure.references
        assert set(beside) == {REAL, STILL, SLID}
        assert beside[REAL] > 0.75
        assert beside[STILL] < 0.6 < figure.measure.value
        assert beside[STILL] < beside[SLID] < beside[REAL]
        assert figure.measure.interval[0] <= figure.measure.value <= figure.measure.interval[1]

    def test_the_mean_over_frames_is_that_of_the_clips_weighted_by_their_frames(self, figures, asked):
        measure = figures["ao-csrt@256"].measure
        counted = {clip.clip_id: int((clip.mask & (np.cumsum(clip.mask, axis=0) > 1)).sum()) for clip in asked}
        weighted = sum(measure.per_clip[name] * count for name, count in counted.items()) / sum(counted.values())
        assert measure.value == pytest.approx(weighted, abs=1e-12)

    def test_a_still_video_does_not_move_and_pixels_have_no_ceiling(self, figures):
        assert figures["motion-inside-farneback@128"].references[STILL] < 1e-6  # rounding
        assert figures["motion-inside-farneback@128"].references[REAL] > 0
        for name in ("psnr", "ssim"):
            assert set(figures[name].references) == {STILL, SLID}

    def test_features_are_measured_beside_all_three(self, figures):
        assert figures["frame-consistency-colours"].references[STILL] == pytest.approx(1)
        assert figures["fff-first-colours"].references[REAL] == pytest.approx(1)
        assert set(figures["clip-sim-colours"].references) == {REAL, STILL, SLID}
        fvd = figures["fvd-colours-hold10"]
        assert fvd.measure.value > 0
        assert set(fvd.references) == {STILL, SLID}
        assert "only 4 clips" in fvd.measure.note


def test_identical_sets_have_an_fvd_of_0_and_the_highest_of_all_else(records, asked, tmp_path):
    same = write_videos(tmp_path / "same", asked, lambda video, clip: video)
    figures = by_name(
        run_of(store_of(same, asked), records, lambda name: MeanColours()).figures(("fvd", "psnr", "ssim"))
    )
    assert figures["fvd-colours-hold10"].measure.value == pytest.approx(0, abs=1e-6)
    assert figures["psnr"].measure.value == 100
    assert figures["ssim"].measure.value == 1


def test_the_order_of_the_list_changes_no_figure(records, asked, videos):
    names = ("psnr", "motion", "fvd")
    there = run_of(store_of(videos, asked), records, lambda name: MeanColours()).figures(names)
    back = run_of(store_of(videos, asked[::-1]), records, lambda name: MeanColours()).figures(names)
    assert there == back


def test_what_lacks_its_weights_does_not_run_and_the_others_do(records, asked, videos):
    figures = run_of(store_of(videos, asked), records).figures([name for name in DEFAULT if name != "grounding"])
    ran = {figure.measure.name: figure.measure.value is not None for figure in figures}
    assert ran["psnr"]
    assert ran["motion-inside-farneback@128"]
    assert [name for name, done in ran.items() if not done] == [
        name for name, kind in KINDS.items() if kind.extractor and kind.default
    ]
    assert by_name(figures)["fvd"].measure.note == "not run: weights missing: i3d.bin"
    with pytest.raises(SMCDError, match="measure 'psrn' is unknown; use some of grounding"):
        run_of(store_of(videos, asked), records).figures(["psrn"])


class TestScenes:
    def test_scenes_are_those_of_the_records(self, records, asked):
        scenes = SpriteScenes(records.folder)
        for clip in asked:
            scene = scenes.scene(clip)
            assert scene.caption == clip.caption
            assert scene.num_frames == FRAMES
            whole = scene.objects[clip.objects[0]].boxes[0]
            assert whole[2] - whole[0] > 0

    def test_records_of_another_world_are_told_from_these(self, records, asked, tmp_path):
        other = sprite_records(tmp_path / "other", seed=3)
        with pytest.raises(SMCDError, match="was drawn from another sprite world"):
            SpriteScenes(other.folder).scene(asked[0])

    def test_records_of_other_things_have_no_scenes(self, records, tmp_path):
        content = json.loads((records.folder / "records.json").read_text())
        (tmp_path / "records.json").write_text(json.dumps(content | {"name": "got10k"}))
        with pytest.raises(SMCDError, match="knows sprites only"):
            SpriteScenes(tmp_path)


class TestDamage:
    @pytest.fixture
    def damaged(self, asked, videos, tmp_path):
        folder = tmp_path / "videos"
        shutil.copytree(videos, folder)
        return folder

    def test_unreadable_missing_and_short_videos_are_named(self, asked, damaged):
        first, second, third, fourth = (clip.clip_id for clip in asked)
        (damaged / first / "0001.png").write_bytes(b"not a picture")
        (damaged / second / "0003.png").unlink()
        shutil.rmtree(damaged / third)
        store = store_of(damaged, asked)
        assert [clip.clip_id for clip in store.clips] == [fourth]
        assert {(fault.clip_id, fault.kind) for fault in store.faults} == {
            (first, "unreadable video"),
            (second, "fewer frames than boxes"),
            (third, "no video"),
        }
        assert not any(str(damaged) in fault.reason for fault in store.faults)

    def test_if_no_clip_is_left_that_is_an_error(self, asked, tmp_path):
        with pytest.raises(
            SMCDError, match=r"none of 4 clips can be measured, the first: clip sprites-test-\d+: no video"
        ):
            store_of(tmp_path, asked)

    def test_video_files_are_found_and_of_longer_ones_the_first_frames_are_measured(self, asked, damaged):
        clip = asked[0]
        video, _ = read_video(damaged / clip.clip_id)
        shutil.rmtree(damaged / clip.clip_id)
        write_video(np.concatenate([video, video]), damaged / f"{clip.clip_id}.mp4", fps=8)
        store = store_of(damaged, asked)
        assert store.notes == [f"of 1 longer videos the first 4 frames were measured, such as {clip.clip_id}"]
        read = next(videos[GENERATED] for of, videos in store.pairs() if of is clip)
        assert read.shape == (FRAMES, SIDE, SIDE, 3)

    def test_a_clip_without_caption_or_box_lacks_what_needs_them(self, records, asked, videos):
        plain = dataclasses.replace(asked[0], caption=" ")
        empty = dataclasses.replace(
            asked[1], labels=(), objects=(), boxes=asked[1].boxes[:, :0], mask=asked[1].mask[:, :0]
        )
        store = store_of(videos, [plain, empty, *asked[2:]])
        assert [(fault.clip_id, fault.kind) for fault in store.faults] == [
            (plain.clip_id, "no caption"),
            (empty.clip_id, "no box"),
        ]
        run = run_of(store, records, lambda name: MeanColours())
        figures = by_name(run.figures(("grounding", "clip-sim", "motion", "psnr")))
        assert plain.clip_id not in figures["clip-sim-colours"].measure.per_clip
        assert empty.clip_id not in figures["ao-csrt@256"].measure.per_clip
        assert figures["motion-inside-farneback@128"].measure.count == CLIPS - 1
        assert figures["psnr"].measure.count == CLIPS

    def test_an_object_too_small_for_a_tracker_is_left_out_of_every_version(self, records, asked, videos):
        clip = asked[0]
        boxes = clip.boxes.copy()
        boxes[:, 0] = [0.5, 0.5, 0.51, 0.51]
        store = store_of(videos, [dataclasses.replace(clip, boxes=boxes), *asked[1:]])
        figures = by_name(run_of(store, records).figures(["grounding"]))
        assert f"1 objects left out, such as {clip.clip_id} ({clip.labels[0]})" in figures["ao-csrt@256"].measure.note

    def test_records_that_do_not_hold_what_the_list_wants(self, records, monkeypatch):
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
        asked, faults = read_all_asked(records, wrong, max_objects=2, need_boxes=True)
        assert [clip.clip_id for clip in asked] == [entries[3].clip_id]
        assert [fault.kind for fault in faults] == ["not in the records", "too few frames in the record", "bad box"]
        assert not any(str(records.folder) in fault.reason for fault in faults)

    def test_what_a_model_cannot_be_asked_for(self, records, monkeypatch):
        read = RecordFolder.annotations
        monkeypatch.setattr(RecordFolder, "annotations", lambda self, position: read(self, position) | {"caption": b""})
        asked, faults = read_all_asked(records, sprite_list(records), max_objects=2, need_boxes=True)
        assert not asked
        assert {fault.kind for fault in faults} == {"no caption"}
        assert len(read_all_asked(records, sprite_list(records), max_objects=2, need_boxes=False)[0]) == CLIPS

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"entries": ()}, "the list holds no clips"),
            ({"split": "val"}, "the list is of sprites .val., the records are sprites .test."),
            ({"entries": (EvaluationEntry("../x", 0, 1),)}, "clip id '../x' cannot name a file"),
            ({"entries": (EvaluationEntry("x", 0, 1), EvaluationEntry("x", 1, 2))}, "stands in the list twice"),
        ],
    )
    def test_lists_that_cannot_be_evaluated(self, records, change, said):
        with pytest.raises(SMCDError, match=said):
            check_list(dataclasses.replace(sprite_list(records), **change), records, "list.json")


def written(folder, records, asked, videos):
    store = store_of(videos, asked)
    run = run_of(store, records)
    how = {"records": records, "evaluation": sprite_list(records), "max_objects": 4, "made_with": None}
    measure(folder, store, run, ("grounding", "psnr", "fvd"), **how)
    return folder


@pytest.fixture(scope="module")
def folder(records, asked, videos, tmp_path_factory):
    return written(tmp_path_factory.mktemp("evaluation"), records, asked, videos)


class TestFiles:
    def test_the_same_videos_give_the_same_bytes_without_paths(self, folder, records, asked, videos, tmp_path):
        copied = tmp_path / "elsewhere"
        shutil.copytree(videos, copied)
        again = written(tmp_path, records, asked, copied)
        for name in ("metrics.json", "clips.csv", "report.html"):
            assert (again / name).read_bytes() == (folder / name).read_bytes()
        text = (folder / "metrics.json").read_text()
        assert str(videos) not in text
        assert not re.search(r"seconds|[\"' ]/[a-z]+/", text)

    def test_results_are_read_back_as_they_were(self, folder, records):
        results = read_results(folder)
        assert [clip.clip_id for clip in results.clips] == [entry.clip_id for entry in sprite_list(records).entries]
        assert results.evaluation["list"]["sha256"] == sprite_list(records).sha256
        assert by_name(results.figures)["psnr"].references[STILL] > 0
        header = results.table()[0].split()
        assert header[0] == "measure"
        assert any(line.startswith("fvd: not run: weights missing") for line in results.table())

    def test_the_table_of_clips_has_a_column_for_each_measure(self, folder):
        with (folder / "clips.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == CLIPS
        per_clip = by_name(read_results(folder).figures)["psnr"].measure.per_clip
        assert {row["clip_id"]: float(row["psnr"]) for row in rows} == per_clip

    def test_the_page_holds_everything_and_stands_sorted_best_first(self, folder):
        page = (folder / "report.html").read_text()
        assert page.count("<img ") == 3 * CLIPS
        assert not re.search(r'(src|href)="(?!data:)', page)
        values = [
            json.loads(text.replace("&quot;", '"'))["ao-csrt@256"] for text in re.findall(r'data-values="(.*?)"', page)
        ]
        assert values == sorted(values, reverse=True)

    def test_a_text_in_a_page_stays_text(self, tmp_path):
        card = Card("<b>id</b>", "</article><script>alert(1)</script>", {}, {"x": 1.0})
        page = write_page(tmp_path / "p.html", title="<t>", intro=[], sort_by={"x": "higher"}, cards=[card]).read_text()
        assert "<script>alert" not in page
        assert "&lt;b&gt;id" in page

    def test_a_folder_goes_on_only_with_what_it_was_begun_with(self, tmp_path):
        begin(tmp_path / "new", {"model": "a", "options": {"eta": 0.0}})
        begin(tmp_path / "new", {"model": "a", "options": {"eta": 0.0}})
        with pytest.raises(SMCDError, match=r"begun with other options: eta was 0\.0 and is now 1\.0"):
            begin(tmp_path / "new", {"model": "a", "options": {"eta": 1.0}})
        with pytest.raises(SMCDError, match=r"begun with another model \('a', now 'b'\)"):
            begin(tmp_path / "new", {"model": "b", "options": {"eta": 0.0}})

    def test_the_first_of_a_list(self, records):
        evaluation = sprite_list(records)
        assert first_entries(evaluation, 2).entries == evaluation.entries[:2]
        with pytest.raises(SMCDError, match="--count 5: the list holds 4 clips"):
            first_entries(evaluation, 5)


class TestVBench:
    def test_names_are_the_prompts(self):
        long = "é" * 300
        names = vbench_names([("a", "A cat."), ("b", "A cat."), ("c", "up/down"), ("d", " "), ("e", long)])
        assert {key: names[key] for key in "abc"} == {"a": "A cat.", "b": "A cat. (2)", "c": "up down"}
        assert "d" not in names
        assert len(f"{names['e']}-0.mp4".encode()) < 255

    def test_videos_and_pictures_stand_side_by_side(self, asked, videos, tmp_path):
        store = store_of(videos, asked)
        assert export_vbench(store, tmp_path, fps=8, index=2) == CLIPS
        for clip in asked:
            video, _ = read_video(tmp_path / "videos" / f"{clip.caption}-2.mp4")
            assert len(video) == FRAMES
            picture = read_picture(tmp_path / "images" / f"{clip.caption}.jpg")
            assert np.abs(picture.astype(int) - clip.real(SIDE, SIDE)[0]).mean() < 4
