"""`smcd verify`: a report on a model folder: weights, schedule, networks and a sampled clip."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path

from smcd_jax.cli import console
from smcd_jax.errors import SMCDError

_EPILOG = """\
examples:
  smcd verify tiny
  smcd verify tiny --steps 2 --json report.json

--reference imports and runs the Python code of that folder. Exit status 1 if something is BROKEN. A warning needs your
judgement: for example, untrained weights look like random numbers."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `smcd verify`."""
    parser.epilog = _EPILOG
    parser.add_argument("model", metavar="MODEL", help="model folder, or the name of one that comes with smcd_jax")
    parser.add_argument("--steps", type=int, default=4, metavar="N", help="denoising steps of the clip (default: 4)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16 on accelerators")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report with all numbers to this file")
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="FOLDER",
        help="checkout of the official PyTorch code; its networks get the same weights and inputs (needs torch)",
    )


def run(args: argparse.Namespace) -> int:
    """Prints each finding as soon as it is available; returns 1 if something is broken."""
    from smcd_jax.files import write_json
    from smcd_jax.model_folder import ModelFolder
    from smcd_jax.pipeline.verify import BROKEN, WARNING, verify
    from smcd_jax.runtime.devices import device_summary
    from smcd_jax.runtime.memory import peak_memory_bytes
    from smcd_jax.runtime.progress import Bars, Progress

    if args.steps < 1:
        raise SMCDError(f"--steps must be at least 1, got {args.steps}", argument="steps", value=args.steps)
    start = time.perf_counter()
    folder = ModelFolder(args.model)
    about = f"{folder.family.name}, {folder.origin.kind}, hash {folder.digest[:12]}"
    console.result(f"{folder.path}: {about}")
    findings = []

    def report(finding) -> None:
        findings.append(finding)
        console.result(f"{finding.subject:<26.26}  {finding.state:<7}  {finding.detail}")

    progress = Bars() if sys.stderr.isatty() else Progress()
    for finding in verify(folder, steps=args.steps, dtype=args.dtype, progress=progress):
        report(finding)
    if args.reference is not None:
        from smcd_jax.pipeline.reference import compare_with_reference

        for finding in compare_with_reference(folder, args.reference):
            report(finding)
    states = [finding.state for finding in findings]
    seconds, peak = time.perf_counter() - start, peak_memory_bytes()
    verdict = "BROKEN" if BROKEN in states else "review the warnings" if WARNING in states else "no problems found"
    memory = "" if peak is None else f", peak memory {peak / 1e9:.1f} GB"
    console.result(f"{verdict}: {len(findings)} checks in {seconds:.0f} s{memory}")
    if args.json is not None:
        content = {
            "model": str(folder.path),
            "hash": folder.digest,
            "origin": dataclasses.asdict(folder.origin) | {"sources": list(folder.origin.sources)},
            "verdict": verdict,
            "seconds": round(seconds, 1),
            "peak_memory_bytes": peak,
            **device_summary(),
            "findings": [_as_json(finding) for finding in findings],
        }
        write_json(args.json, content)
    return 1 if BROKEN in states else 0


def _as_json(finding) -> dict:
    """Returns a finding as JSON values; numbers that are not finite become text."""

    def plain(value):
        if isinstance(value, float) and not abs(value) < float("inf"):
            return str(value)
        if isinstance(value, dict):
            return {key: plain(part) for key, part in value.items()}
        return [plain(part) for part in value] if isinstance(value, list | tuple) else value

    return plain(dataclasses.asdict(finding))
