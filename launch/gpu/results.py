"""The table of a GPU run, from the JSON files that its steps wrote.

    python launch/gpu/results.py [DIR]

Without a folder every figure is "not measured yet"; docs/benchmarks.md has the same rows.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# Files of run A and, last, of run B.
FILES = ("environment", "parity_float32", "parity_bfloat16", "sample_1", "sample_8", "torch", "profile", "run_b")
# Training steps of run B, by remat and batch, and its settings of the sampler.
TRAIN = (("none", 4), ("none", 16), ("blocks", 16), ("none", 32), ("blocks", 32))
SAMPLE = {
    "sample_cudnn_1": "sampler, attention cudnn, batch 1",
    "sample_xla_1": "sampler, attention xla, batch 1",
    "sample_no_command_buffers_1": "sampler, no command buffers, batch 1",
    "sample_cudnn_8": "sampler, attention cudnn, batch 8",
    "sample_xla_8": "sampler, attention xla, batch 8",
}
NOT_MEASURED = "not measured yet"
KINDS = ("convolution", "matmul", "attention", "norm/reduction", "transpose/copy", "elementwise", "other")

Results = Mapping[str, Any]


def read_results(folder: Path) -> dict[str, Any]:
    """Returns the contents of those files of `FILES` that exist, by name."""
    paths = {name: folder / f"{name}.json" for name in FILES}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.is_file()}


def table(results: Results) -> str:
    """Returns the figures as a Markdown table; figures that are missing in ``results`` are "not measured yet"."""
    lines = ["| part | figure | value |", "|---|---|---|"]
    return "\n".join(lines + [f"| {part} | {figure} | {value} |" for part, figure, value in rows(results)])


def rows(results: Results) -> list[tuple[str, str, str]]:
    """Returns part, figure and value of every row."""
    found = [*_environment_rows(results)]
    found += [row for dtype in ("float32", "bfloat16") for row in _parity_rows(results, dtype)]
    found += [row for batch in (1, 8) for row in _sample_rows(results, batch)]
    found += [row for mode in ("eager", "compile") for batch in (1, 8) for row in _torch_rows(results, mode, batch)]
    found += _profile_rows("profile, batch 1", (results.get("profile") or {}).get("profile"))
    attempts = results.get("run_b") or {}
    found += [row for remat, batch in TRAIN for row in _train_rows(attempts, remat, batch)]
    found += [_largest_batch(attempts, remat) for remat in ("none", "blocks")]
    found += _profile_rows("profile, train step, batch 4", attempts.get("train_none_4", {}).get("profile"))
    return found + [row for name, part in SAMPLE.items() for row in _setting_rows(attempts, name, part)]


def _value(read: Callable[[], str]) -> str:
    """Returns ``read()``, or "not measured yet" if a file or a figure is missing."""
    try:
        return read()
    except (KeyError, TypeError, IndexError, StopIteration):
        return NOT_MEASURED


def _environment_rows(results: Results) -> list[tuple[str, str, str]]:
    found = results.get("environment", {})
    version = lambda: ", ".join(f"{name} {found['versions'][name] or '-'}" for name in ("python", "jax", "torch"))  # noqa: E731
    return [
        ("environment", "device", _value(lambda: ", ".join(found["devices"]))),
        ("environment", "driver and memory", _value(lambda: found["nvidia_smi"][0])),
        ("environment", "versions", _value(version)),
        ("environment", "`smcd doctor`", _value(lambda: _doctor(**found["doctor"]))),
    ]


def _doctor(status: int, lines: list[str]) -> str:
    broken = [line.split()[0] for line in lines if " BROKEN " in line]
    return f"exit status {status}" + (f", broken: {', '.join(broken)}" if broken else "")


def _parity_rows(results: Results, dtype: str) -> list[tuple[str, str, str]]:
    found, part = results.get(f"parity_{dtype}"), f"parity, {dtype}"
    worst = lambda: (  # noqa: E731
        f"{found['worst']['error']:.1e}, {found['worst']['tolerance']:.2g} allowed"
        f" ({found['worst']['file'].removesuffix('.npz')}, {found['worst']['quantity']})"
    )
    within = lambda: (  # noqa: E731
        f"{found['checked'] - found['failed']} of {found['checked']}"
        + ("" if found["complete"] else ", then cut off at its time limit")
    )
    return [(part, "largest error", _value(worst)), (part, "within its limit", _value(within))]


def _sample_rows(results: Results, batch: int) -> list[tuple[str, str, str]]:
    found, part = results.get(f"sample_{batch}"), f"smcd_jax, batch {batch}"
    return [
        (part, "compile", _value(lambda: f"{found['compile_seconds']:.1f} s")),
        (part, "one guided step", _value(lambda: _milliseconds(found["median_step_seconds"]))),
        (part, "share of the matrix rate", _value(lambda: _share(found, found["share_of_matmul"]))),
        (part, "50 steps", _value(lambda: _seconds(found["clip_loop_seconds"], batch))),
        (part, "peak memory", _value(lambda: _gigabytes(found["peak_memory_bytes"]))),
    ]


def _torch_rows(results: Results, mode: str, batch: int) -> list[tuple[str, str, str]]:
    found = results.get("torch", {})
    part = f"diffusers, {'eager' if mode == 'eager' else 'torch.compile'}, batch {batch}"
    if "skipped" in found:
        return [(part, "one guided step", f"skipped: {found['skipped']}")]
    if found.get("running") == f"{mode}, batch {batch}":
        return [(part, "one guided step", "cut off at its time limit")]
    wanted = lambda: next(  # noqa: E731
        item for item in found["measurements"] if (item["mode"], item["batch"]) == (mode, batch)
    )
    share = lambda: _share(  # noqa: E731
        found, found["tflop_per_step"][str(batch)] / wanted()["step_seconds"] / found["matmul_tflop_per_second"]
    )
    return [
        (part, "first call", _value(lambda: f"{wanted()['first_call_seconds']:.1f} s")),
        (part, "one guided step", _value(lambda: _milliseconds(wanted()["median_step_seconds"]))),
        (part, "share of the matrix rate", _value(share)),
        (part, f"{found.get('steps', 50)} steps", _value(lambda: _seconds(wanted()["clip_loop_seconds"], batch))),
        (part, "peak memory", _value(lambda: _gigabytes(wanted()["peak_memory_bytes"]))),
    ]


def _train_rows(attempts: Results, remat: str, batch: int) -> list[tuple[str, str, str]]:
    found, part = attempts.get(f"train_{remat}_{batch}", {}), f"train, remat {remat}, batch {batch}"
    if "out_of_memory" in found:
        return [
            (part, "compile", _value(lambda: f"{found['compile_seconds']:.1f} s")),
            *[(part, figure, "out of memory") for figure in ("one step", "share of the peak", "peak memory")],
        ]
    rate = lambda: (  # noqa: E731
        f"{found['tflop_per_second']:.4g} TFLOP/s, {found['share_of_peak']:.1%} of"
        f" {found['peak_tflop_per_second']:.4g} ({found['peak_source']})"
    )
    return [
        (part, "compile", _value(lambda: f"{found['compile_seconds']:.1f} s")),
        (part, "one step", _value(lambda: _milliseconds(found["median_step_seconds"]))),
        (part, "share of the peak", _value(rate)),
        (part, "peak memory", _value(lambda: _gigabytes(found["peak_memory_bytes"]))),
    ]


def _largest_batch(attempts: Results, remat: str) -> tuple[str, str, str]:
    """Returns the largest batch that was timed, and the smallest one above it that did not fit."""
    tried = {batch: attempts.get(f"train_{name}_{batch}", {}) for name, batch in TRAIN if name == remat}
    fits = [batch for batch, found in tried.items() if "step_seconds" in found]
    large = [batch for batch, found in tried.items() if "out_of_memory" in found]
    value = f"{max(fits)} fits" if fits else NOT_MEASURED
    limit = f"{min(large)} runs out of memory" if large else ""
    return ("train, largest batch", f"remat {remat}", ", ".join(text for text in (value, limit) if text))


def _setting_rows(attempts: Results, name: str, part: str) -> list[tuple[str, str, str]]:
    found = attempts.get(name, {})
    rows = [
        (part, "compile", _value(lambda: f"{found['compile_seconds']:.1f} s")),
        (part, "one guided step", _value(lambda: _milliseconds(found["median_step_seconds"]))),
        (part, "peak memory", _value(lambda: _gigabytes(found["peak_memory_bytes"]))),
    ]
    if name.endswith("_1"):
        rows.append((part, "50 steps in one call", _value(lambda: _seconds(found["clip_loop_seconds"], 1))))
        rows.append((part, "50 steps in a call each", _value(lambda: _seconds(found["clip_calls_seconds"], 1))))
    return rows


def _profile_rows(part: str, found: Results | None) -> list[tuple[str, str, str]]:
    def kind(name: str) -> str:
        total, steps = found["kinds"][name], found["steps"]
        of = sum(other["milliseconds"] for other in found["kinds"].values())
        return _launches(total["launches"], total["milliseconds"], steps, share=total["milliseconds"] / of)

    gaps = lambda: _launches(  # noqa: E731
        found["gaps"], found["gap_ms"], found["steps"], share=found["gap_ms"] / found["window_ms"], noun="gaps"
    )
    launches = lambda: f"{found['launches'] / found['steps']:.0f}, {found['window_ms'] / found['steps']:.2f} ms"  # noqa: E731
    return [
        (part, "launches and time of a step", _value(launches)),
        *[(part, name, _value(lambda name=name: kind(name))) for name in KINDS],
        (part, "gaps between kernels", _value(gaps)),
    ]


def _launches(number: float, milliseconds: float, steps: int, *, share: float, noun: str = "launches") -> str:
    return f"{number / steps:.0f} {noun}, {milliseconds / steps:.2f} ms, {share:.1%}"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.4g} ms"


def _seconds(seconds: float, batch: int) -> str:
    return f"{seconds:.3g} s" if batch == 1 else f"{seconds:.3g} s, {seconds / batch:.3g} s a clip"


def _share(found: Mapping[str, Any], share: float) -> str:
    return f"{share:.1%} of {found['matmul_tflop_per_second']:.4g} TFLOP/s"


def _gigabytes(number: float) -> str:
    return f"{number / 1e9:.2f} GB"


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="folder of the results")
    arguments = parser.parse_args()
    print(table({} if arguments.folder is None else read_results(arguments.folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
