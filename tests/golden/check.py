"""Compares this project's networks and samplers with numbers that the PyTorch reference computed.

    python tests/golden/check.py DIR [--full] [--only TEXT] [--dtype bfloat16] [--output FILE]

DIR holds the golden files and ``cases.json``, which gives the kind and config of each. Prints one line per quantity and
exits with status 1 if any comparison failed or none was run. ``--full`` adds the full-size UNet (about 10 GB of
memory). float32 uses matrix products of the highest precision; bfloat16 uses the device's own kernels and the looser
`BFLOAT16_TOLERANCE`. JAX runs on the CPU unless ``JAX_PLATFORMS`` names another platform.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

import tests.golden
from smcd_jax.files import write_json
from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.runtime.compilation import enable_compile_cache
from smcd_jax.runtime.devices import device_summary
from tests.golden.comparison import (
    BFLOAT16_LOOP_TOLERANCE,
    BFLOAT16_TOLERANCE,
    MODULE_TOLERANCE,
    Comparison,
    Golden,
)

CASE_MODULES = [
    importlib.import_module(f"tests.golden.{module.name}")
    for module in pkgutil.iter_modules(tests.golden.__path__)
    if module.name.startswith("case_")
]
RUNNERS = {kind: runner for module in CASE_MODULES for kind, runner in module.RUNNERS.items()}
LOOPS = ("ddim", "dc_ddim", "dc_pipeline", "dc_pipeline_gui", "lvmm_ddim", "lfdm_ddim", "lvmm_ancestral")


def comparisons(
    folder: Path, *, full: bool = False, only: str = "", dtype: str = "float32"
) -> Iterator[tuple[str, Comparison | str]]:
    """Yields each file of ``cases.json`` with its comparisons, or with the reason why it was left out."""
    policy = ComputePolicy() if dtype == "float32" else ComputePolicy.for_device(dtype)
    cases = json.loads((folder / "cases.json").read_text())
    for file, case in cases.items():
        kind = case["kind"]
        if only not in file or kind == "weights":
            continue
        if case.get("optional") and kind not in RUNNERS:
            yield file, f"left out: {kind} is optional (broken or dead in the reference)"
        elif kind.endswith("unet_fullsize") and not full:
            yield file, "left out: full size, add --full"
        elif kind not in RUNNERS:
            yield file, Comparison(f"no runner for kind {kind!r}", np.inf, 0.0)
        else:
            for comparison in RUNNERS[kind](Golden(folder, file, case, policy)):
                as_it_is = dtype == "float32" or isinstance(comparison, str)
                yield file, comparison if as_it_is else _loosened(comparison, kind)


def _loosened(comparison: Comparison, kind: str) -> Comparison:
    """Applies the bfloat16 tolerance to network outputs; tables and timesteps are float64 and keep their own."""
    if comparison.tolerance < MODULE_TOLERANCE:
        return comparison
    limit = BFLOAT16_LOOP_TOLERANCE if kind in LOOPS else BFLOAT16_TOLERANCE
    return dataclasses.replace(comparison, tolerance=limit)


def report(dtype: str, results: list[tuple[str, Comparison]], *, complete: bool) -> dict[str, Any]:
    """Returns the comparisons so far as JSON values, and the one that is closest to its limit.

    Args:
        dtype: Dtype of the networks.
        results: Pairs of file name and comparison.
        complete: Whether all comparisons have been run.
    """
    rows = [
        {"file": file, "quantity": item.quantity, "error": item.error, "tolerance": item.tolerance, "ok": item.ok}
        for file, item in results
    ]
    networks = [row for row in rows if row["tolerance"] >= MODULE_TOLERANCE]
    worst = max(networks, key=lambda row: row["error"] / row["tolerance"], default=None)
    failed = sum(not row["ok"] for row in rows)
    return {
        "dtype": dtype,
        "device": device_summary(),
        "complete": complete,
        "checked": len(rows),
        "failed": failed,
        "worst": worst,
        "results": rows,
    }


def main() -> int:
    """Runs the comparisons and prints them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--full", action="store_true", help="add the full-size UNet with formula weights")
    parser.add_argument("--only", default="", metavar="TEXT", help="only files whose name contains TEXT")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="default: float32")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON file for the errors, written as they come")
    arguments = parser.parse_args()
    if not (arguments.folder / "cases.json").is_file():
        print(f"check.py: no cases.json in {arguments.folder}; give the folder of golden files", file=sys.stderr)
        return 2

    enable_compile_cache()
    done: list[tuple[str, Comparison]] = []
    print(f"{'file':<52} {'quantity':<34} {'max error':>10} {'tolerance':>10}  ok")
    selected = {"full": arguments.full, "only": arguments.only, "dtype": arguments.dtype}
    for file, result in comparisons(arguments.folder, **selected):
        if isinstance(result, str):
            print(f"{file:<52} {result}")
            continue
        done.append((file, result))
        if arguments.output is not None:
            write_json(arguments.output, report(arguments.dtype, done, complete=False))
        verdict = "ok" if result.ok else "FAILED"
        print(
            f"{file:<52} {result.quantity:<34} {result.error:>10.2e} {result.tolerance:>10.2e}  {verdict}", flush=True
        )
    if arguments.output is not None:
        write_json(arguments.output, report(arguments.dtype, done, complete=True))
    failed = sum(not result.ok for _, result in done)
    print(f"{len(done)} checked, {failed} failed")
    return int(failed > 0 or not done)


if __name__ == "__main__":
    sys.exit(main())
