"""The GPU run: profile tables, the table of results, time and size limits, and steps that fail or hang."""

import dataclasses
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch.gpu import runs
from launch.gpu.results import FILES, NOT_MEASURED, SAMPLE, TRAIN, read_results, rows, table
from launch.gpu.run import run_all
from launch.gpu.runs import RUNS, SELECTION, Options, Step
from launch.gpu.torch_unet import unet_arguments
from smcd_jax.errors import SMCDError
from smcd_jax.models.smcd.config import PRESETS
from smcd_jax.nn.config import UNetConfig
from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.nn.networks import abstract_params
from smcd_jax.nn.random_params import random_like, random_params
from smcd_jax.pipeline.sampling_program import sampling_program
from smcd_jax.runtime.kernel_profile import (
    KINDS,
    Kernel,
    ProfileSummary,
    fusion_kinds,
    kind_of,
    read_kernels,
    summarize,
)
from smcd_jax.runtime.kernel_profile import table as profile_table
from tests.golden.check import RUNNERS, report
from tests.golden.comparison import Comparison
from tests.golden.make_selection import MOST_BYTES

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("kind", "name", "operation"),
    [
        ("convolution", "sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_nhwckrsc_nhwc", "cudnn-conv-bias-activation.7"),
        ("convolution", "void cutlass__5x_cudnn::Kernel", "cudnn-conv-bias-activation.12"),
        ("matmul", "nvjet_tst_128x256_64x4_2x1_v_bz_TNT", ""),
        ("matmul", "gemm_fusion_dot_214", ""),
        ("matmul", "dot.3", ""),
        ("attention", "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_3", ""),
        ("attention", "kernel_17", "dot_product_attention_fwd.3"),
        ("norm/reduction", "input_reduce_fusion_41", ""),
        ("norm/reduction", "triton_softmax_12", ""),
        ("transpose/copy", "void cudnn::ops::nchwToNhwcKernel<__nv_bfloat16>", "cudnn-conv-bias-activation.1"),
        ("transpose/copy", "wrapped_transpose_8", ""),
        ("transpose/copy", "MemcpyD2D", ""),
        ("elementwise", "loop_convert_fusion_5", ""),
        ("elementwise", "wrapped_tanh", ""),
        ("other", "mystery_kernel", ""),
    ],
)
def test_kernels_have_their_kind(kind, name, operation):
    assert kind_of(name, operation) == kind


def test_a_profile_is_reduced_to_launches_times_and_gaps():
    """Kernels of two streams overlap, so that their times add up to more than the time in which any kernel ran."""
    kernels = [
        Kernel("gemm_fusion_dot_1", 0, 4e6),
        Kernel("loop_add_fusion_2", 2e6, 3e6),  # of which 1 ms does not overlap
        Kernel("gemm_fusion_dot_9", 7e6, 1e6),  # after a gap of 2 ms
        Kernel("fusion.3", 8e6, 2e6, "fusion.3"),
        Kernel("input_reduce_fusion", 10.5e6, 0.5e6),  # after a gap of half a millisecond
    ]
    found = summarize(kernels[::-1], 2, fusions={"fusion.3": "convolution"})
    assert found.launches == 5
    assert found.window_ms == pytest.approx(11)
    assert found.busy_ms == pytest.approx(8.5)
    assert (found.gaps, found.gap_ms, found.longest_gap_ms) == (2, pytest.approx(2.5), pytest.approx(2))
    assert {kind: (t.launches, t.milliseconds) for kind, t in found.kinds.items() if t.launches} == {
        "matmul": (2, pytest.approx(5)),
        "elementwise": (1, pytest.approx(3)),
        "convolution": (1, pytest.approx(2)),
        "norm/reduction": (1, pytest.approx(0.5)),
    }
    assert next(iter(found.top.items())) == ("gemm_fusion_dot", found.kinds["matmul"])
    assert ProfileSummary.from_dict(json.loads(json.dumps(found.as_dict()))) == found
    lines = profile_table(found).splitlines()
    assert [line.split("  ")[0] for line in lines[1 : 1 + len(KINDS)]] == list(KINDS)
    assert lines[2].split() == ["matmul", "1.0", "2.500", "47.6%"]


def test_fusions_are_classified_by_their_instructions():
    hlo = """HloModule x
%fused_computation.1 (p: bf16[2,2]) -> bf16[2,2] {
  %dot.1 = bf16[2,2]{1,0} dot(%p, %p)
}
%fused_computation.2 (p: bf16[2,2]) -> bf16[2,2] {
  ROOT %add.1 = bf16[2,2]{1,0} add(%p, %p)
}
ENTRY %main (p: bf16[2,2]) -> bf16[2,2] {
  %fusion.7 = bf16[2,2]{1,0} fusion(%p), kind=kCustom, calls=%fused_computation.1
  ROOT %fusion.8 = bf16[2,2]{1,0} fusion(%fusion.7), kind=kLoop, calls=%fused_computation.2
}
"""
    assert fusion_kinds(hlo) == {"fusion.7": "matmul"}


def test_a_recorded_profile_holds_the_operations_that_ran(tmp_path):
    product = jax.jit(lambda x: jnp.sort(jnp.tanh(x @ x), axis=0).sum(axis=0))
    x = jnp.ones((128, 128), jnp.float32)
    product(x).block_until_ready()
    with jax.profiler.trace(str(tmp_path)):
        product(x).block_until_ready()
    kernels = read_kernels(tmp_path)
    assert all(kernel.operation and kernel.duration_ns > 0 for kernel in kernels)
    assert 1 <= summarize(kernels, 1).launches <= 20


def test_a_folder_without_a_profile_is_reported(tmp_path):
    with pytest.raises(SMCDError) as caught:
        read_kernels(tmp_path)
    assert caught.value.path == str(tmp_path)


def example_results() -> dict:
    """Returns the results of a complete run, with made-up figures."""
    step = {"step_seconds": 0.02, "median_step_seconds": 0.021, "clip_loop_seconds": 1.5, "peak_memory_bytes": 7e9}
    sample = {**step, "compile_seconds": 61.25, "share_of_matmul": 0.41, "matmul_tflop_per_second": 790.0}
    torch = {**step, "first_call_seconds": 9.0}
    kernels = [Kernel("dot.1", 0, 6e6), Kernel("loop_add_fusion", 8e6, 2e6)]
    rate = {"tflop_per_second": 400.0, "share_of_peak": 0.404, "peak_tflop_per_second": 989.5}
    train = sample | rate | {"peak_source": "stated by its vendor", "profile": summarize(kernels, 2).as_dict()}
    versions = {"python": "3.12.1", "jax": "0.11.2", "torch": None}
    parity = lambda dtype: report(dtype, [("unet/a.npz", Comparison("eps", 1.5e-6, 2e-5))], complete=True)  # noqa: E731
    return {
        "environment": {
            "devices": ["NVIDIA H100"],
            "nvidia_smi": ["NVIDIA H100, 580.1, 81559 MiB"],
            "versions": versions,
            "doctor": {"status": 1, "lines": ["jax   ok  0.11.2", "ffmpeg   BROKEN    not installed"]},
        },
        "parity_float32": parity("float32"),
        "parity_bfloat16": parity("bfloat16"),
        "sample_1": sample,
        "sample_8": sample,
        "torch": {
            "measurements": [torch | {"mode": mode, "batch": n} for mode in ("eager", "compile") for n in (1, 8)],
            "steps": 50,
            "running": None,
            "matmul_tflop_per_second": 788.0,
            "tflop_per_step": {"1": 6.0, "8": 48.0},
        },
        "profile": {"profile": summarize(kernels, 10).as_dict()},
        "run_b": {
            **{f"train_{remat}_{batch}": train for remat, batch in TRAIN},
            **dict.fromkeys(SAMPLE, sample | {"clip_calls_seconds": 1.75}),
        },
    }


class TestResults:
    def values(self, results: dict) -> dict[tuple[str, str], str]:
        return {(part, figure): value for part, figure, value in rows(results)}

    def test_every_figure_has_a_value_after_a_complete_run(self):
        found = self.values(example_results())
        assert NOT_MEASURED not in found.values()
        assert found["environment", "`smcd doctor`"] == "exit status 1, broken: ffmpeg"
        assert found["environment", "versions"] == "python 3.12.1, jax 0.11.2, torch -"
        assert found["parity, float32", "largest error"] == "1.5e-06, 2e-05 allowed (unet/a, eps)"
        assert found["smcd_jax, batch 1", "share of the matrix rate"] == "41.0% of 790 TFLOP/s"
        assert found["smcd_jax, batch 8", "50 steps"] == "1.5 s, 0.188 s a clip"
        assert found["diffusers, eager, batch 1", "share of the matrix rate"] == "38.1% of 788 TFLOP/s"
        assert found["train, remat none, batch 4", "share of the peak"].startswith(
            "400 TFLOP/s, 40.4% of 989.5 (stated"
        )
        assert found["sampler, no command buffers, batch 1", "50 steps in a call each"] == "1.75 s"
        assert found["profile, train step, batch 4", "gaps between kernels"] == "0 gaps, 1.00 ms, 20.0%"
        assert found["profile, batch 1", "gaps between kernels"] == "0 gaps, 0.20 ms, 20.0%"

    @pytest.mark.parametrize("absent", FILES)
    def test_a_missing_file_leaves_its_figures_out_and_keeps_the_others(self, absent):
        complete = example_results()
        found = self.values({name: part for name, part in complete.items() if name != absent})
        missing = {key for key, value in found.items() if value == NOT_MEASURED}
        assert missing
        assert {found[key] for key in found.keys() - missing} <= set(self.values(complete).values())
        assert found.keys() == self.values(complete).keys()

    def test_a_measurement_that_was_cut_off_is_named(self):
        results = example_results()
        results["torch"] |= {"running": "compile, batch 1", "measurements": results["torch"]["measurements"][:2]}
        found = self.values(results)
        assert found["diffusers, torch.compile, batch 1", "one guided step"] == "cut off at its time limit"
        assert found["diffusers, eager, batch 8", "one guided step"] == "21 ms"

    def test_files_are_read_by_name(self, tmp_path):
        for name, content in example_results().items():
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        assert table(read_results(tmp_path)) == table(example_results())

    def test_the_documentation_has_a_place_for_every_figure(self):
        text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
        parts = {part for part, _, _ in rows({})}
        found = re.findall(r"^\| ([^|]+) \| ([^|]+) \| [^|]+ \|$", text, re.MULTILINE)
        assert [row for row in found if row[0] in parts] == [row[:2] for row in rows({})]


class TestRun:
    def options(self, tmp_path, device="gpu") -> Options:
        return Options(device, "smcd", tmp_path)

    @pytest.mark.parametrize("run", RUNS)
    @pytest.mark.parametrize(("device", "minutes"), [("gpu", 9), ("cpu", 6)])
    def test_a_run_has_a_time_limit(self, tmp_path, run, device, minutes):
        assert sum(step.seconds for step in RUNS[run](self.options(tmp_path, device))) <= 60 * minutes

    def test_at_most_eight_files_are_written(self, tmp_path):
        """The limit includes log.txt."""
        steps = RUNS["A"](self.options(tmp_path))
        written = {Path(part).name for step in steps for command in step.commands for part in command}
        files = [name for name in FILES if name != "run_b"]
        assert sorted(f"{name}.json" for name in files) == sorted(name for name in written if name.endswith(".json"))
        assert len(files) + 1 <= 8

    def test_a_step_that_fails_or_hangs_does_not_stop_the_others(self, tmp_path, capsys):
        python = lambda code: [sys.executable, "-c", code]  # noqa: E731
        file = tmp_path / "figures.json"
        steps = [
            Step("bad", 20, [python("raise SystemExit('no such device')")]),
            Step("slow", -17, [python(f"import time; open({str(file)!r}, 'w').write('1'); time.sleep(60)")]),
            Step("good", 20, [python("print('fine')"), python("import os; print(os.environ['KEY'])")], {"KEY": "set"}),
        ]
        log, start = io.StringIO(), time.monotonic()
        endings = run_all(steps, environment={}, log=log, output=tmp_path)
        assert time.monotonic() - start < 15
        assert endings == {"bad": "failed (exit status 1)", "slow": "cut off at its time limit", "good": "done"}
        assert file.read_text() == "1", "the file that a step wrote before its time limit is kept"
        assert "no such device" in log.getvalue()
        assert "set" in log.getvalue()
        printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
        assert [line.split(" after")[0] for line in printed] == [
            "[1/3] bad: failed (exit status 1)",
            "[2/3] slow: cut off at its time limit",
            "[3/3] good: done",
        ]

    def test_a_process_in_another_session_ends_with_its_step(self, tmp_path):
        """The processes of launch/train_small.py are in sessions of their own."""
        child = "import pathlib, time; time.sleep(8); pathlib.Path('late').write_text('')"
        parent = f"""
import pathlib, signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {child!r}], cwd={str(tmp_path)!r}, start_new_session=True)
signal.signal(signal.SIGTERM, lambda *_: child.terminate())
pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(child.pid))
sys.exit(child.wait())
"""
        run_all(
            [Step("train", 3, [[sys.executable, "-c", parent]])], environment={}, log=io.StringIO(), output=tmp_path
        )
        pid = int((tmp_path / "pid").read_text())
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    def test_the_script_reports_what_a_run_needs(self, tmp_path):
        done = subprocess.run(
            ["bash", ROOT / "launch" / "gpu.sh", "--run", "Z", "--output", tmp_path],
            env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert "--run" in done.stderr


class TestSelection:
    def test_the_selection_is_small(self):
        files = [path for path in SELECTION.rglob("*") if path.is_file()]
        assert 1_000_000 < sum(path.stat().st_size for path in files) <= MOST_BYTES

    def test_the_selection_has_the_files_of_its_cases(self):
        cases = json.loads((SELECTION / "cases.json").read_text())
        assert {str(path.relative_to(SELECTION)) for path in SELECTION.rglob("*.npz")} == set(cases)
        kinds = {case["kind"] for case in cases.values()}
        assert kinds - {"weights"} <= RUNNERS.keys()
        assert {"unet", "ddim", "autoencoder_kl", "controlnet", "resblock", "temporal_transformer"} <= kinds


class TestRandomParams:
    def test_values_have_the_requested_spread(self):
        config = PRESETS["tiny"].unet
        policy = ComputePolicy(params=jnp.bfloat16, compute=jnp.bfloat16)
        params = random_params(config, policy)
        shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params)
        assert shapes == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), abstract_params(config, policy))
        kernel = np.asarray(params["conv_out"]["kernel"], np.float32)
        assert kernel.std() == pytest.approx(1 / np.sqrt(np.prod(kernel.shape[:-1])), rel=0.1)
        assert abs(np.asarray(params["norm_out"]["scale"], np.float32) - 1).max() <= 0.11

    def test_arrays_of_a_tree_differ(self):
        shape = jax.ShapeDtypeStruct((1000,), jnp.float32)
        first, second = (np.asarray(array) for array in random_like([shape, shape]))
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.15
        assert (first.std(), first.mean()) == (pytest.approx(1, abs=0.1), pytest.approx(0, abs=0.1))


@pytest.mark.slow
@pytest.mark.parametrize("batch", runs.BATCHES)
def test_the_full_size_program_traces(batch):
    """Traces only shapes, with XLA's attention because tracing cuDNN's needs cuDNN; the arguments would take 4 GB."""
    policy = dataclasses.replace(ComputePolicy.for_device("bfloat16", "gpu"), attention="xla")
    program = sampling_program("smcd", policy, batch=batch, abstract=True)
    after = jax.eval_shape(program.function, *program.steps(0, 50))
    before = program.args[1]
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), before
    )
    assert before.latents.shape == (batch, 8, 32, 32, 4)
    arguments = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(program.args[:3]))
    assert 3.5e9 < arguments < 5e9


def test_the_network_of_diffusers_has_our_sizes():
    """The published sizes are the defaults of diffusers' `UNet3DConditionModel`."""
    arguments = unet_arguments(UNetConfig())
    assert arguments["block_out_channels"] == (320, 640, 1280, 1280)
    assert arguments["down_block_types"] == ("CrossAttnDownBlock3D",) * 3 + ("DownBlock3D",)
    assert arguments["up_block_types"] == ("UpBlock3D",) + ("CrossAttnUpBlock3D",) * 3


def test_scripts_of_a_run_exist(tmp_path):
    steps = RUNS["A"](Options("gpu", "smcd", tmp_path))
    scripts = {part for step in steps for command in step.commands for part in command if part.endswith(".py")}
    assert scripts
    assert all(Path(script).is_file() and Path(script).is_relative_to(runs.ROOT) for script in scripts)
