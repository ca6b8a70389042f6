"""Metrics of a run: files across restarts, the log line, throughput, gates, peak rates of devices, sample videos."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import logging
import math
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from PIL import Image

from smcd_jax.media import probe_video
from smcd_jax.models.smcd.config import SMCD, TINY
from smcd_jax.nn.gate_names import is_gate
from smcd_jax.nn.networks import abstract_params, flatten, unflatten
from smcd_jax.runtime import device_specs
from smcd_jax.tracks import BoxTracks
from smcd_jax.training.logging.event_file import DirectFile
from smcd_jax.training.logging.gates import gate_report, gate_values
from smcd_jax.training.logging.metrics import EVENT_FOLDER, METRICS_FILE, MetricWriter, read_metrics, summary_line
from smcd_jax.training.logging.sample_videos import write_samples
from smcd_jax.training.logging.throughput import Throughput
from tests.errors import refused

needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="needs tensorboard (extra data)"
)


def steps_of(folder) -> list[int]:
    return [line["step"] for line in read_metrics(folder / METRICS_FILE)]


def events_of(folder) -> list:
    """Returns all events as read by TensorFlow, in the order in which TensorBoard reads the files."""
    from tensorflow.compat.v1.train import summary_iterator

    files = sorted((folder / EVENT_FOLDER).iterdir())
    return [event for file in files for event in summary_iterator(str(file))]


# metrics.jsonl


def test_values_are_read_back_exactly(tmp_path):
    values = {"loss": np.float32(0.1), "rate": 1 / 3, "tiny": 5e-324, "gradient_norm": jnp.float32(2.5)}
    with MetricWriter(tmp_path, tensorboard=False) as writer:
        writer.scalars(7, values)
    (line,) = read_metrics(tmp_path / METRICS_FILE)
    assert line["step"] == 7
    assert {name: line[name] for name in values} == {name: float(value) for name, value in values.items()}
    assert np.float32(line["loss"]) == np.float32(0.1)


def test_non_finite_values_stay_valid_json(tmp_path):
    with MetricWriter(tmp_path, tensorboard=False) as writer:
        writer.scalars(1, {"a": math.nan, "b": -math.inf})
    text = (tmp_path / METRICS_FILE).read_text()

    def refuse(constant):
        raise AssertionError(constant)

    assert json.loads(text, parse_constant=refuse)["b"] == "-inf"
    (line,) = read_metrics(tmp_path / METRICS_FILE)
    assert math.isnan(line["a"])
    assert line["b"] == -math.inf


@pytest.mark.parametrize("half", ['{"step": 50, "time": 1.0, "lo', '{"step": 5', "\0\0\0\0", ""])
def test_resume_removes_later_and_incomplete_lines(tmp_path, half):
    with MetricWriter(tmp_path, tensorboard=False) as writer:
        for step in (10, 20, 30, 40):
            writer.scalars(step, {"loss": step / 7})
    before = (tmp_path / METRICS_FILE).read_text().splitlines()
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write(half)
    with MetricWriter(tmp_path, tensorboard=False, resume_step=20) as writer:
        writer.scalars(30, {"loss": 1.0})
    after = (tmp_path / METRICS_FILE).read_text().splitlines()
    assert after[:2] == before[:2]
    assert steps_of(tmp_path) == [10, 20, 30]
    assert all(json.loads(line) for line in after)


def test_a_last_line_without_a_newline_is_kept(tmp_path):
    (tmp_path / METRICS_FILE).write_text('{"step": 10, "loss": 0.5}')
    with MetricWriter(tmp_path, tensorboard=False, resume_step=10) as writer:
        writer.scalars(20, {"loss": 0.25})
    assert steps_of(tmp_path) == [10, 20]


KILLED = """
import os, signal, sys
from smcd_jax.training.logging.metrics import MetricWriter
writer = MetricWriter(sys.argv[1])
writer.scalars(10, {'loss': 0.5})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_kill_9_loses_no_line(tmp_path):
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)]).returncode == -9
    assert steps_of(tmp_path) == [10]


@needs_tensorboard
def test_kill_9_loses_no_event(tmp_path):
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)]).returncode == -9
    assert [value.tag for event in events_of(tmp_path) for value in event.summary.value] == ["loss"]


def test_removed_lines_are_counted_in_the_log(tmp_path, caplog):
    (tmp_path / METRICS_FILE).write_text('{"step": 10}\n{"step": 20}\n{"step": 30}\n{"st')
    with caplog.at_level(logging.INFO, "smcd_jax.training.logging.metrics"):
        MetricWriter(tmp_path, tensorboard=False, resume_step=10).close()
    assert [record.args[1:] for record in caplog.records] == [(2, 10, 1)]


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with MetricWriter(tmp_path, wandb=True) as writer:
        writer.scalars(1, {"loss": 1.0})
        writer.video(1, "clip", np.zeros((2, 16, 16, 3), np.uint8), fps=8)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    with refused(path=tmp_path / "missing"):
        MetricWriter(tmp_path / "missing")


def test_a_full_disk_is_an_error_of_one_line(tmp_path):
    writer = MetricWriter(tmp_path, tensorboard=False)
    writer._lines.close()
    writer._lines = DirectFile("/dev/full", "wb")
    with refused(path=tmp_path) as record:
        writer.scalars(1, {"loss": 1.0})
    assert "no space left on device" in str(record.value)
    writer.close()


@needs_tensorboard
def test_a_full_disk_for_events_is_an_error_of_one_line(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer._events._records._writer.close()
        writer._events._records._writer = DirectFile("/dev/full", "wb")
        with refused(path=tmp_path):
            writer.scalars(1, {"loss": 1.0})


def test_a_file_that_takes_a_part_at_a_time_gets_all_bytes(tmp_path, monkeypatch):
    class Slow(io.FileIO):
        def write(self, data):
            return super().write(bytes(data[:3]))

    file = type("File", (DirectFile, Slow), {})(tmp_path / "file", "wb")
    assert file.write(b"0123456789") == 10
    file.close()
    assert (tmp_path / "file").read_bytes() == b"0123456789"


# TensorBoard and Weights & Biases


@needs_tensorboard
def test_tensorflow_reads_the_event_files(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.scalars(0, {"loss": 0.5})
        writer.scalars(300, {"loss": 0.1, "überlang/" + 200 * "x": -2.0, "huge": 1e300, "bad": math.nan})
    version, first, second = events_of(tmp_path)
    assert version.file_version == "brain.Event:2"
    assert (first.step, first.summary.value[0].simple_value) == (0, 0.5)
    values = {value.tag: value.simple_value for value in second.summary.value}
    assert second.step == 300
    assert values["loss"] == np.float32(0.1)
    assert values["überlang/" + 200 * "x"] == -2.0
    assert values["huge"] == math.inf
    assert math.isnan(values["bad"])


@needs_tensorboard
def test_a_resumed_run_hides_the_events_that_it_repeats(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.scalars(10, {"loss": 0.5})
        writer.scalars(20, {"loss": 0.4})
    with MetricWriter(tmp_path, resume_step=10) as writer:
        writer.scalars(20, {"loss": 0.3})
    assert len(list((tmp_path / EVENT_FOLDER).iterdir())) == 2
    events = events_of(tmp_path)
    starts = [event.step for event in events if event.HasField("session_log")]
    assert starts == [11]  # from this step, TensorBoard hides the events of older files
    assert events[-1].summary.value[0].simple_value == np.float32(0.3)


@needs_tensorboard
def test_videos_are_animated_in_the_event_file(tmp_path):
    frames = np.zeros((3, 18, 32, 3), np.uint8)
    frames[1] = 255
    with MetricWriter(tmp_path) as writer:
        writer.video(5, "samples/0", frames, fps=120)
    (value,) = events_of(tmp_path)[-1].summary.value
    assert (value.tag, value.image.height, value.image.width) == ("samples/0", 18, 32)
    (tmp_path / "clip.gif").write_bytes(value.image.encoded_image_string)
    with Image.open(tmp_path / "clip.gif") as picture:
        assert picture.n_frames == 3
        assert picture.size == (32, 18)


def test_wandb_that_cannot_start_is_an_error_of_one_line(tmp_path, monkeypatch):
    def init(**_):
        raise RuntimeError("api_key not configured (no-tty).\nCall wandb.login()")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    with refused("wandb"):
        MetricWriter(tmp_path, wandb=True)


@pytest.mark.parametrize("package", ["wandb", "tensorboard"])
def test_a_missing_package_is_a_warning_and_the_rest_is_written(tmp_path, caplog, monkeypatch, package):
    for module in (package, *(name for name in sys.modules if name.startswith(f"{package}."))):
        monkeypatch.setitem(sys.modules, module, None)
    with MetricWriter(tmp_path, **{"tensorboard": False, package: True}) as writer:
        writer.scalars(1, {"loss": 1.0})
        writer.video(1, "clip", np.zeros((2, 16, 16, 3), np.uint8), fps=8)
    (record,) = caplog.records
    assert f"{package} is not installed" in record.getMessage()
    assert steps_of(tmp_path) == [1]
    assert not (tmp_path / EVENT_FOLDER).exists()


def test_importing_the_writer_imports_neither_torch_nor_tensorflow():
    program = (
        "import sys, smcd_jax.training.logging.metrics, smcd_jax.training.logging.sample_videos\n"
        "print(sorted({'torch', 'tensorflow', 'wandb', 'tensorboard', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == "[]"


# the terminal


def test_summary_line_shows_the_values_that_matter():
    values = {
        "loss": 0.12345,
        "loss/t0": 0.3,
        "loss/t250": 0.1,
        "gradient_norm": 0.81234,
        "learning_rate": 5e-5,
        "gates/mean/object": 0.0123,
        "gates/middle/object/ff": 0.5,
        "clips_per_second": 12.34,
        "seconds_per_step": 3.0,
        "tflop_per_second": 45.67,
        "share_of_peak": 0.1134,
        "data_wait": 0.004,
        "memory_bytes": 12.4e9,
    }
    assert summary_line(1200, 60_000, values) == (
        "step 1200/60000 | loss 0.1235 (t0 0.3, t250 0.1) | gradient 0.812 | rate 5e-05 | object gates 0.0123 | "
        "12.3 clips/s | 45.7 TFLOP/s | 11.3% of peak | 0.4% waiting for data | 12.4 GB | 2 d 1 h left"
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_summary_line_accepts_values_that_are_not_finite(bad):
    names = ("loss", "loss/t0", "gradient_norm", "seconds_per_step", "share_of_peak", "memory_bytes")
    line = summary_line(1, 10, dict.fromkeys(names, bad))
    assert line.startswith(f"step 1/10 | loss {bad:g}")
    assert "left" not in line


def test_summary_line_leaves_out_what_is_absent():
    assert summary_line(3, 5, {}) == "step 3/5"


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.0, "12 s"), (90.0, "2 min"), (3600.0 * 5 + 61, "5 h 1 min"), (86_400.0 * 3, "3 d 0 h")]
)
def test_time_left(seconds, text):
    assert summary_line(0, 1, {"seconds_per_step": seconds}).endswith(f"| {text} left")


# rates


class FakeClock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def test_rates_between_two_points():
    clock = FakeClock()
    rates = Throughput(clips_per_step=16, flops_per_step=3e12, peak_flops=60e12, clock=clock)
    clock.now += 100  # compilation
    rates.restart()
    for _ in range(4):
        with rates.waiting_for_data():
            clock.now += 0.5
        clock.now += 1.5
        rates.step()
    with rates.paused():
        clock.now += 1000
    read = rates.read()
    assert read.pop("memory_bytes") > 1e6
    assert read == {
        "clips_per_second": 8.0,
        "seconds_per_step": 2.0,
        "data_wait": 0.25,
        "tflop_per_second": 1.5,
        "share_of_peak": 0.025,
    }
    clock.now += 1
    rates.step()
    assert rates.read()["clips_per_second"] == 16.0


def test_unknown_rates_are_omitted():
    clock = FakeClock()
    rates = Throughput(clips_per_step=1, clock=clock)
    assert set(rates.read()) == {"memory_bytes"}
    clock.now += 1
    rates.step()
    assert set(rates.read()) == {"clips_per_second", "seconds_per_step", "data_wait", "memory_bytes"}


# gates


def gates_of(params) -> int:
    return sum(is_gate(path) for path in flatten(params))


def test_full_size_gates_have_distinct_names():
    params = {"unet": abstract_params(SMCD.unet)}
    report = jax.eval_shape(gate_report, params)
    names = set(report) - {"gates/mean/object", "gates/mean/image"}
    assert len(names) == gates_of(params) == 64
    assert {"gates/encoder_1/object/attention", "gates/middle/image/ff", "gates/decoder_11/object/ff"} <= names
    assert all(value.shape == () and value.dtype == jnp.float32 for value in report.values())


@pytest.mark.parametrize("form", ["none", "object", "parallel", "double", "merge"])
def test_every_gate_form_is_reported(form):
    one_level = {"channel_mult": (1,), "attention_scales": (1.0,)}
    params = abstract_params(dataclasses.replace(TINY.unet, gate=form, **one_level))
    report = jax.eval_shape(gate_report, params)
    assert sum(not name.startswith("gates/mean/") for name in report) == gates_of(params)
    assert ("gates/encoder_1/image/branch" in report) == (form in ("parallel", "double"))


def test_gate_values_are_tanh_and_mean_magnitude():
    block = "unet/encoder_1/spatial/block/gates"
    params = unflatten(
        {
            f"{block}/object_gate/alpha_attention": jnp.float32(0.5),
            f"{block}/object_gate/alpha_ff": jnp.float32(-0.5),
            f"{block}/image_gate/alpha_ff": jnp.bfloat16(0.25),
            f"{block}/project_objects/kernel": jnp.ones((2, 2)),
        }
    )
    values = gate_values(params)
    assert values["gates/encoder_1/object/attention"] == pytest.approx(np.tanh(0.5), rel=1e-6)
    assert values["gates/encoder_1/object/ff"] == pytest.approx(-np.tanh(0.5), rel=1e-6)
    assert values["gates/mean/object"] == pytest.approx(np.tanh(0.5), rel=1e-6)
    assert values["gates/mean/image"] == pytest.approx(np.tanh(0.25), rel=1e-6)
    assert len(values) == 5


# device peaks


@pytest.mark.parametrize(
    ("kind", "dtype", "tera"),
    [
        ("TPU v4", "bfloat16", 275),
        ("TPU v5 lite", "bfloat16", 197),
        ("TPU v5", "bfloat16", 459),
        ("TPU v5p", "bfloat16", 459),
        ("TPU v6 lite", "bfloat16", 918),
        ("TPU v6 lite", "float32", None),
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312),
        ("A100-PCIE-40GB", "float32", 19.5),
        ("NVIDIA A100 80GB PCIe", "bfloat16", 312),
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989.5),
        ("NVIDIA H100 PCIe", "bfloat16", 756.5),
        ("NVIDIA H200", jnp.bfloat16, 989.5),
        ("NVIDIA B200", "float16", 2250),
        ("NVIDIA L4", "bfloat16", 121),
        ("NVIDIA L40S", "bfloat16", 362.05),
        ("NVIDIA GeForce RTX 4090", "bfloat16", 165.2),
        ("NVIDIA GeForce RTX 3090", "bfloat16", 71),
        ("NVIDIA GeForce RTX 3090 Ti", "bfloat16", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bfloat16", None),
        ("NVIDIA L40", "bfloat16", None),
        ("Tesla V100-SXM2-16GB", "float16", 125),
        ("Tesla V100-SXM2-16GB", "bfloat16", None),
        ("NVIDIA H200", "int8", None),
        ("cpu", "float32", None),
    ],
)
def test_peak_of_a_kind(kind, dtype, tera):
    assert device_specs.peak_flops(kind, dtype) == (None if tera is None else pytest.approx(tera * 1e12))


def test_memory_of_tpu_chips():
    kinds = ("TPU v4", "TPU v5 lite", "TPU v5p", "TPU v6e")
    assert [device_specs.memory_bytes(kind) // 2**30 for kind in kinds] == [32, 16, 95, 32]
    assert device_specs.memory_bytes("NVIDIA H200") is None


def test_tpu_figures_agree_with_those_of_jax():
    """The tolerance is needed because JAX tunes its kernels with rounded figures, such as 920 for v6e."""
    chips = pltpu.ChipVersion
    kinds = {"TPU v4": chips.TPU_V4, "TPU v5": chips.TPU_V5P, "TPU v5p": chips.TPU_V5P, "TPU v5 lite": chips.TPU_V5E}
    kinds |= {"TPU v5e": chips.TPU_V5E, "TPU v6 lite": chips.TPU_V6E, "TPU v6e": chips.TPU_V6E}
    for kind, chip in kinds.items():
        cores = chip.num_physical_tensor_cores_per_chip
        known = pltpu.get_tpu_info_for_chip(chip, cores)
        assert device_specs.peak_flops(kind, jnp.bfloat16) == pytest.approx(known.bf16_ops_per_second * cores, rel=0.01)
        assert device_specs.memory_bytes(kind) == pytest.approx(known.hbm_capacity_bytes * cores, rel=0.02)


def test_a_matrix_product_measures_other_devices(monkeypatch):
    monkeypatch.setitem(device_specs.MATMUL_SIDE, "cpu", 64)
    assert device_specs.measured_flops(jnp.float32, precision="highest", repeats=1) > 0


# sample videos


def tracks(frames: int, prompt: str | None = None) -> BoxTracks:
    boxes = np.tile(np.float32([0.25, 0.5, 0.75, 0.875]), (frames, 1, 1))
    return BoxTracks(boxes=boxes, mask=np.ones((frames, 1), bool), labels=("cat",), prompt=prompt)


def test_samples_are_written_as_videos_with_boxes_and_one_sheet(tmp_path):
    videos = np.full((2, 3, 32, 32, 3), 100, np.uint8)
    folder = tmp_path / "samples"
    shown = write_samples(folder, 2000, videos, [tracks(3, "a cat"), None], fps=8, real=videos // 2)
    assert sorted(path.name for path in folder.iterdir()) == ["00002000.png", "00002000_0.mp4", "00002000_1.mp4"]
    assert [video.shape for video in shown] == [(3, 192, 192, 3)] * 2
    # The first clip's box is drawn just inside its edges; the second clip has no box.
    assert (shown[0][:, 167, 48] != 100).any()
    assert (shown[0][:, 140, 96] == 100).all()
    assert (shown[1] == 100).all()
    probed = probe_video(folder / "00002000_0.mp4")
    assert (probed["frames"], probed["width"], probed["fps"]) == (3, 192, 8)
    with Image.open(folder / "00002000.png") as sheet:
        # Three columns; two clips, each with a real and a generated row.
        assert 3 * 192 < sheet.width < 4 * 192
        assert 4 * 192 < sheet.height < 5 * 192 + 100
        pixels = np.asarray(sheet.convert("RGB"))
    shades = pixels[:, sheet.width // 2, 0]
    order = [int(shade) for shade in shades[np.isin(shades, (50, 100))]]
    changes = [shade for index, shade in enumerate(order) if index == 0 or order[index - 1] != shade]
    assert changes == [50, 100, 50, 100]  # for each clip, real frames above generated ones


def test_samples_of_a_step_are_replaced(tmp_path):
    for value in (0, 200):
        shown = write_samples(tmp_path, 1, np.full((1, 2, 16, 16, 3), value, np.uint8), [None], fps=4)
    assert shown[0].mean() == 200
    assert len(list(tmp_path.iterdir())) == 2


def test_samples_that_do_not_fit_their_tracks_are_refused(tmp_path):
    videos = np.zeros((2, 3, 16, 16, 3), np.uint8)
    with refused("tracks", value=1):
        write_samples(tmp_path, 1, videos, [None], fps=8)
    with refused("real", value=(1, 3, 16, 16, 3)):
        write_samples(tmp_path, 1, videos, [None, None], fps=8, real=videos[:1])
