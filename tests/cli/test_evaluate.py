"""`smcd evaluate` and `smcd compare`: reproducible files, resuming, several devices, and exit statuses for damage."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from data_pipeline.evaluation_lists import read_evaluation_list
from data_pipeline.records.reader import RecordFolder
from smcd_jax.cli import _run, evaluate, main
from smcd_jax.evaluation.report.results import read_results
from smcd_jax.evaluation.sampling_run import SamplingRun
from smcd_jax.evaluation.video_store import read_eval_clips
from smcd_jax.media import read_picture, read_video
from smcd_jax.model_folder import ModelFolder
from smcd_jax.pipeline import VideoPipeline
from smcd_jax.tracks import BoxTracks
from tests.errors import refused
from tests.evaluation.evaluation_clips import (
    CLIPS,
    FRAMES,
    eval_clips,
    minute_model,
    noisy,
    sprite_records,
    write_videos,
)
from tests.evaluation.onnx_tracker import write_red_tracker
from tests.xla_flags import xla_flags

STEPS = ["--num_inference_steps", "2"]
# Largest allowed difference between devices, far above any rounding difference; all run the same program.
OTHER_DEVICES = 1e-4


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return minute_model(tmp_path_factory.mktemp("models") / "minute")


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> RecordFolder:
    return sprite_records(tmp_path_factory.mktemp("records") / "sprites")


@pytest.fixture(scope="module", autouse=True)
def shared_pipelines(tmp_path_factory):
    """One pipeline per device for all tests here, because compiling takes most of the time."""
    opened: dict = {}

    def open_once(args, *, verify):
        place = (args.model, jnp.zeros(()).device)
        if place not in opened:
            opened[place] = VideoPipeline.from_pretrained(args.model, dtype=args.dtype, verify=verify)
        return opened[place]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMCD_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("SMCD_WEIGHTS_DIR", raising=False)
        patch.setattr(evaluate, "_open_pipeline", open_once)
        yield


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    device = jax.local_devices()[0]
    monkeypatch.setattr(jax, "local_devices", lambda: [device])


def command(model, records, output, *more) -> list[str]:
    flags = ["--model", str(model), "--data", str(records.folder), "--output", str(output), *STEPS]
    return ["evaluate", *flags, *more]


METRICS = ["--metrics", "grounding,psnr", "--trackers", "csrt"]


@pytest.fixture(scope="module")
def first(model, records, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("first") / "evaluation"
    with pytest.MonkeyPatch.context() as patch:
        device = jax.local_devices()[0]
        patch.setattr(jax, "local_devices", lambda: [device])
        assert main(command(model, records, output, *METRICS, "--quiet")) == 0
    return output


def frames_of(output: Path) -> dict[str, np.ndarray]:
    return {folder.name: read_video(folder)[0] for folder in (output / "clips").iterdir()}


def times_of(output: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (output / "clips").rglob("*.png")}


class TestSampling:
    def test_a_run_writes_complete_clips_with_their_provenance(self, first, model, records):
        evaluation = read_evaluation_list(first / "list.json")
        assert {folder.name for folder in (first / "clips").iterdir()} == set(records.clip_ids)
        for entry in evaluation.entries:
            folder = first / "clips" / entry.clip_id
            assert {file.name for file in folder.iterdir()} == {
                *(f"{index:04d}.png" for index in range(FRAMES)),
                "video.mp4",
                "provenance.json",
            }
            provenance = json.loads((folder / "provenance.json").read_text())
            assert (provenance["clip_id"], provenance["start"], provenance["seed"]) == (
                entry.clip_id,
                entry.start,
                entry.seed,
            )
            assert provenance["model_hash"] == ModelFolder(model).digest
            assert provenance["options"]["num_inference_steps"] == 2
            assert provenance["tracks"]["frames"] == FRAMES
        results = read_results(first)
        assert results.evaluation["list"]["sha256"] == evaluation.sha256
        assert results.evaluation["videos"]["made_with"]["options"]["guidance_scale"] == 7.5
        page = (first / "report.html").read_text(encoding="utf-8")
        assert ModelFolder(model).digest[:12] in page
        assert "num_inference_steps 2," in page
        videos = list(frames_of(first).values())
        assert np.abs(videos[0].astype(int) - videos[1]).mean() > 1

    def test_a_clip_is_the_sample_of_its_seed_picture_caption_and_boxes(self, first, model, records):
        pipeline = evaluate._open_pipeline(argparse.Namespace(model=str(model), dtype=None), verify=False)
        clips, _ = read_eval_clips(records, read_evaluation_list(first / "list.json"), max_objects=2, need_boxes=True)
        clip = clips[1]
        made = pipeline(
            records_picture(records, clip.clip_id, clip.start),
            clip.caption,
            tracks=BoxTracks(clip.boxes, clip.mask, clip.labels),
            seed=clip.seed,
            num_inference_steps=2,
            output_type="uint8",
        )
        np.testing.assert_array_equal(frames_of(first)[clip.clip_id], made.frames[0])

    def test_the_same_command_gives_the_same_bytes(self, first, model, records, tmp_path):
        assert main(command(model, records, tmp_path / "again", *METRICS, "--quiet")) == 0
        assert (tmp_path / "again" / "metrics.json").read_bytes() == (first / "metrics.json").read_bytes()

    def test_an_interrupted_run_resumes_and_gives_the_same_bytes(
        self, first, model, records, tmp_path, monkeypatch, capsys
    ):
        write, written = SamplingRun._write, []

        def killed(self, clip, *rest):
            if len(written) == 2:
                raise KeyboardInterrupt
            written.append(clip.clip_id)
            write(self, clip, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(SamplingRun, "_write", killed)
            assert main(command(model, records, tmp_path / "x", *METRICS)) == 130
        assert {folder.name for folder in (tmp_path / "x" / "clips").iterdir()} == set(written)
        assert not (tmp_path / "x" / "metrics.json").exists()
        before = times_of(tmp_path / "x")
        capsys.readouterr()
        assert main(command(model, records, tmp_path / "x", *METRICS)) == 0
        assert "sample: 2 clips in" in capsys.readouterr().err
        assert before.items() <= times_of(tmp_path / "x").items()
        assert (tmp_path / "x" / "metrics.json").read_bytes() == (first / "metrics.json").read_bytes()

    @pytest.mark.slow
    def test_kill_9_and_the_same_command_give_the_same_bytes(self, first, model, records, tmp_path):
        output = tmp_path / "x"
        start = [sys.executable, "-m", "smcd_jax", *command(model, records, output, *METRICS, "--quiet")]
        as_here = os.environ | {"XLA_FLAGS": xla_flags(), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
        process = subprocess.Popen(start, env=as_here)
        try:
            while not list(output.glob("clips/sprites-*/provenance.json")):
                assert process.poll() is None
                time.sleep(0.01)
        finally:
            process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not (output / "metrics.json").exists()
        subprocess.run(start, env=as_here, check=True)
        assert (output / "metrics.json").read_bytes() == (first / "metrics.json").read_bytes()

    def test_two_devices_make_the_same_clips(self, first, model, records, tmp_path, monkeypatch):
        monkeypatch.undo()
        devices = jax.local_devices()[:2]
        monkeypatch.setattr(jax, "local_devices", lambda: devices)
        used, make, together = [], SamplingRun.make, threading.Barrier(2)

        def at_once(run, *rest):
            together.wait(timeout=300)  # otherwise the first device would make all clips while the others still compile
            used.append(jnp.zeros(()).device)
            return make(run, *rest)

        monkeypatch.setattr(SamplingRun, "make", at_once)
        assert main(command(model, records, tmp_path / "two", *METRICS, "--quiet")) == 0
        assert set(used) == set(devices)
        there, here = frames_of(first), frames_of(tmp_path / "two")
        for clip_id, video in there.items():
            np.testing.assert_array_equal(here[clip_id], video)
        for one, other in zip(read_results(first).rows, read_results(tmp_path / "two").rows, strict=True):
            assert other.metric.value == pytest.approx(one.metric.value, abs=OTHER_DEVICES)

    def test_all_parts_together_make_every_clip(self, first, model, records, tmp_path, capsys):
        for part, clips in (("1/3", 2), ("2/3", 1), ("3/3", 1)):
            assert main(command(model, records, tmp_path / "parts", *METRICS, "--part", part)) == 0
            assert f"sample: {clips} clip" in capsys.readouterr().err
        assert not (tmp_path / "parts" / "metrics.json").exists()
        assert main(command(model, records, tmp_path / "parts", *METRICS)) == 0
        assert "sample" not in capsys.readouterr().err
        assert (tmp_path / "parts" / "metrics.json").read_bytes() == (first / "metrics.json").read_bytes()

    def test_other_options_are_refused_in_an_existing_folder(self, first, model, records, capsys):
        before = times_of(first)
        assert main([*command(model, records, first, *METRICS), "--eta", "1"]) == 2
        assert "eta was 0.0 when this evaluation started and is now 1.0" in capsys.readouterr().err
        with refused("intervention", path=first, value="no_boxes"):
            _run([*command(model, records, first, *METRICS), "--intervention", "no_boxes"])
        assert times_of(first) == before

    def test_arguments_that_the_model_refuses_are_refused_before_sampling(self, model, records, tmp_path, capsys):
        with refused() as record:
            _run(command(model, records, tmp_path / "x", "--height", "15"))
        assert "height" in str(record.value)
        with refused("max_objects", value=3):
            _run(command(model, records, tmp_path / "x", "--max_objects", "3"))
        assert not (tmp_path / "x" / "clips").exists()

    def test_an_intervention_changes_the_input_of_the_model(self, model, records, tmp_path):
        flags = ["--metrics", "psnr,psnr-autoencoder", "--intervention", "swapped_labels", "--quiet"]
        assert main(command(model, records, tmp_path / "x", *flags)) == 0
        results = read_results(tmp_path / "x")
        assert results.evaluation["videos"]["made_with"]["intervention"] == "swapped_labels"
        assert [row.metric.count for row in results.rows] == [CLIPS, CLIPS]
        for clip in results.clips:
            provenance = json.loads((tmp_path / "x" / "clips" / clip.clip_id / "provenance.json").read_text())
            assert not {item["label"] for item in provenance["tracks"]["objects"]} & set(clip.labels)

    def test_without_boxes_no_object_is_recorded(self, model, records, tmp_path):
        assert main(command(model, records, tmp_path / "x", *METRICS, "--intervention", "no_boxes", "--quiet")) == 0
        for clip in read_results(tmp_path / "x").clips:
            provenance = json.loads((tmp_path / "x" / "clips" / clip.clip_id / "provenance.json").read_text())
            assert provenance["tracks"] is None


@pytest.fixture(scope="module")
def videos(tmp_path_factory, records) -> Path:
    return write_videos(tmp_path_factory.mktemp("videos") / "noisy", eval_clips(records), noisy)


class TestVideosOfOthers:
    def evaluated(self, records, videos, output, *more) -> int:
        flags = ["--videos", str(videos), "--data", str(records.folder), "--output", str(output)]
        return main(["evaluate", *flags, "--num_frames", str(FRAMES), *more])

    def test_videos_of_another_system_are_measured_the_same_way(self, records, videos, tmp_path, capsys):
        assert self.evaluated(records, videos, tmp_path / "x", "--metrics", "psnr,ssim") == 0
        shown = capsys.readouterr().out
        assert shown.splitlines()[0].split()[:3] == ["metric", "better", "value"]
        assert shown.splitlines()[1].split()[0] == "psnr"
        results = read_results(tmp_path / "x")
        assert len(results.clips) == CLIPS
        assert results.evaluation["videos"]["made_with"] is None

    def test_missing_weights_matter_for_metrics_requested_by_name(self, records, videos, tmp_path, capsys):
        weights = tmp_path / "weights"
        weights.mkdir()
        named = ["--metrics", "psnr,fvd", "--weights", str(weights)]
        assert self.evaluated(records, videos, tmp_path / "a", *named) == 2
        shown = capsys.readouterr()
        assert "put i3d_pretrained_400.pt" in shown.out
        assert f"the folder of --weights is {weights}" in shown.out
        assert "not run: fvd; " in shown.err
        assert str(weights) not in (tmp_path / "a" / "metrics.json").read_text()
        assert self.evaluated(records, videos, tmp_path / "b") == 0
        assert "put i3d_pretrained_400.pt" in capsys.readouterr().out
        names = {row.metric.name for row in read_results(tmp_path / "b").rows}
        assert {"ao-sprite-detector-1", "ao-csrt@256"} <= names

    def test_a_learned_tracker_is_named_by_the_hash_of_its_file(self, records, videos, tmp_path):
        file = write_red_tracker(tmp_path / "red.onnx")
        more = ["--metrics", "grounding", "--trackers", f"vit:{file}"]
        assert self.evaluated(records, videos, tmp_path / "x", *more) == 0
        metric = read_results(tmp_path / "x").rows[0].metric
        assert metric.weights_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
        assert metric.name == f"ao-vit-{metric.weights_sha256[:8]}@256"
        assert str(tmp_path) not in (tmp_path / "x" / "metrics.json").read_text()

    def test_damage_is_named_and_counted_and_the_rest_is_measured(self, records, videos, tmp_path, capsys):
        shutil.copytree(videos, tmp_path / "videos")
        damaged = sorted((tmp_path / "videos").iterdir())
        (damaged[0] / "0000.png").write_bytes(b"")
        (damaged[1] / "0000.png").unlink()
        assert self.evaluated(records, tmp_path / "videos", tmp_path / "x", "--metrics", "psnr") == 2
        errors = capsys.readouterr().err
        assert damaged[0].name in errors
        assert damaged[1].name in errors
        results = read_results(tmp_path / "x")
        assert {fault.clip_id for fault in results.faults} == {damaged[0].name, damaged[1].name}
        assert results.rows[0].metric.count == CLIPS - 2

    def test_a_list_that_was_changed_or_is_empty_is_refused(self, records, videos, tmp_path, capsys):
        path = tmp_path / "list.json"
        make = ["evaluate", "--data", str(records.folder), "--num_frames", str(FRAMES), "--list", str(path)]
        assert main([*make, "--make_list", "3"]) == 0
        assert len(read_evaluation_list(path).entries) == 3
        with refused("list", path=path):
            _run([*make, "--make_list", "2"])
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"entries": content["entries"][:2]}))
        assert self.evaluated(records, videos, tmp_path / "x", "--list", str(path)) == 2
        assert "sha256" in capsys.readouterr().err
        empty = read_evaluation_list_of(content)
        empty.write(path)
        assert self.evaluated(records, videos, tmp_path / "x", "--list", str(path)) == 2
        assert "no clips" in capsys.readouterr().err

    def test_the_first_clips_of_a_list(self, records, videos, tmp_path):
        assert self.evaluated(records, videos, tmp_path / "x", "--metrics", "psnr", "--count", "2") == 0
        results = read_results(tmp_path / "x")
        entries = read_evaluation_list(tmp_path / "x" / "list.json").entries
        assert [clip.clip_id for clip in results.clips] == [entry.clip_id for entry in entries[:2]]
        assert results.evaluation["list"]["clips"] == 2

    def test_two_evaluations_of_one_list_are_compared(self, records, videos, tmp_path, capsys):
        better = write_videos(tmp_path / "better", eval_clips(records), lambda video, clip: noisy(video, clip, 4))
        for name, of, more in (("a", videos, []), ("b", better, []), ("c", videos, ["--count", "2"])):
            assert self.evaluated(records, of, tmp_path / name, "--metrics", "psnr", *more) == 0
        capsys.readouterr()
        page = tmp_path / "page.html"
        assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(page)]) == 0
        shown = capsys.readouterr().out
        assert "B is better" in shown
        assert page.read_text().count("<article") == CLIPS
        with refused("list"):
            _run(["compare", str(tmp_path / "a"), str(tmp_path / "c"), "--output", str(page)])
        with refused(path=tmp_path):
            _run(["compare", str(tmp_path / "a"), str(tmp_path), "--output", str(page)])

    def test_files_for_vbench_have_the_expected_names(self, records, videos, tmp_path, capsys):
        more = ["--metrics", "psnr", "--vbench", str(tmp_path / "vbench")]
        assert self.evaluated(records, videos, tmp_path / "x", *more) == 0
        assert f"4 clips for VBench-I2V in {tmp_path / 'vbench'}" in capsys.readouterr().out
        assert len(list((tmp_path / "vbench" / "videos").glob("*-0.mp4"))) == CLIPS


def records_picture(records: RecordFolder, clip_id: str, frame: int) -> np.ndarray:
    encoded = records.clip(records.position(clip_id)).frames[frame]
    return read_picture(Image.open(io.BytesIO(encoded)))


def read_evaluation_list_of(content: dict):
    """Returns an evaluation list that has this content but no entries."""
    from data_pipeline.evaluation_lists import EvaluationList

    return EvaluationList(content["records"]["name"], content["records"]["split"], content["frames"], ())


@pytest.mark.parametrize(
    ("flags", "argument"),
    [
        (["--model", "tiny", "--videos", "v", "--output", "x"], "videos"),
        (["--output", "x"], "model"),
        (["--model", "tiny"], "output"),
        (["--make_list", "3"], "list"),
        (["--videos", "v", "--output", "x", "--part", "1/2"], "part"),
        (["--videos", "v", "--output", "x", "--batch_size", "0"], "batch_size"),
        (["--model", "tiny", "--output", "x", "--metrics", "psrn"], "metrics"),
        (["--model", "tiny", "--output", "x", "--trackers", "crst"], "trackers"),
        (["--model", "tiny", "--output", "x", "--weights", "none"], "weights"),
        (["--model", "tiny", "--output", "x", "--difference_from", "none"], "difference_from"),
        (["--model", "tiny", "--output", "x", "--trackers", "vit:x.onnx"], "trackers"),
    ],
)
def test_flags_that_exclude_each_other_are_refused(records, tmp_path, monkeypatch, flags, argument):
    monkeypatch.chdir(tmp_path)
    with refused(argument):
        _run(["evaluate", "--data", str(records.folder), *flags])
    assert not list(tmp_path.iterdir())


def test_without_jinja2_the_command_stops_before_sampling(records, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with refused("jinja2"):
        _run(["evaluate", "--data", str(records.folder), "--model", "tiny", "--output", str(tmp_path / "x")])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flag", [["--part", "3/2"], ["--metrics", ","], ["--intervention", "no_text"]])
def test_a_malformed_flag_is_refused_by_name(records, tmp_path, capsys, flag):
    assert (
        main(["evaluate", "--data", str(records.folder), "--videos", "v", "--output", str(tmp_path / "x"), *flag]) == 2
    )
    assert flag[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", [["--fps", "0"], ["--height", "0"], ["--num_frames", "0"], ["--guidance_scale", "nan"]]
)
def test_an_impossible_value_is_refused_and_not_replaced(records, tmp_path, capsys, option):
    command = ["evaluate", "--data", str(records.folder), "--model", "tiny", "--make_list", "1"]
    assert main([*command, "--output", str(tmp_path / "out"), "--num_frames", "2", *option]) == 2
    assert option[0].removeprefix("--") in capsys.readouterr().err
