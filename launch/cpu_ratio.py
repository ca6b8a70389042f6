"""Compares the rates of a denoising network on this CPU: smcd_jax and diffusers' `UNet3DConditionModel` in PyTorch.

    python launch/cpu_ratio.py --pairs 5 --output ratio.json

Each pair is two processes, one after the other, in alternating order. Each process times one forward pass in float32 at
batch 1 without guidance. diffusers' network has no gated adapters, so rates in TFLOP/s are compared, not seconds. The
machine must be idle otherwise: compare the products of large matrices, which every process measures as well.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smcd_jax.files import write_json

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("smcd_jax", "diffusers")


def measure_diffusers(preset: str, *, threads: int, passes: int) -> dict[str, float]:
    """Returns the rate of diffusers' network, from the fastest of ``passes`` forward passes after one that warms up."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    sys.path.insert(0, str(ROOT / "launch" / "gpu"))
    from torch_unet import Measurement

    from smcd_jax.models.smcd.config import PRESETS

    torch.set_num_threads(threads)
    measurement = Measurement(PRESETS[preset], device="cpu", dtype="float32")
    latents, text = measurement.inputs(1)
    timestep = torch.full((1,), 500)
    run = lambda: measurement.model(latents, timestep, encoder_hidden_states=text[:1])  # noqa: E731
    with FlopCounterMode(display=False) as counter:
        run()
    seconds = min(measurement.seconds(run) for _ in range(passes))
    tflop = counter.get_total_flops() / 1e12
    return {
        "tflop": tflop,
        "seconds": seconds,
        "tflop_per_second": tflop / seconds,
        "matmul_tflop_per_second": measurement.matmul_flops() / 1e12,
    }


def measure_ours(preset: str, file: Path, *, passes: int) -> dict[str, float]:
    """Returns the rate of the denoising network of smcd_jax, from `smcd bench sample`."""
    bench = [sys.executable, "-m", "smcd_jax", "bench", "sample", "--preset", preset, "--dtype", "float32"]
    alone = ["--guidance_scale", "1", "--steps_timed", str(passes), "--no_decode", "--output", str(file)]
    _run([*bench, *alone])
    found = json.loads(file.read_text(encoding="utf-8"))
    return {
        "tflop": found["tflop_per_step"],
        "seconds": found["step_seconds"],
        "tflop_per_second": found["tflop_per_second"],
        "matmul_tflop_per_second": found["matmul_tflop_per_second"],
    }


def measure_pair(args: argparse.Namespace, order: Sequence[str]) -> dict[str, Any]:
    """Returns the figures of both and the ratio of their rates, measured in this order."""
    pair: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        for name in order:
            if name == "smcd_jax":
                pair[name] = measure_ours(args.preset, file, passes=args.passes)
                continue
            sizes = ["--preset", args.preset, "--threads", str(args.threads), "--passes", str(args.passes)]
            _run([sys.executable, __file__, "--diffusers_only", "--output", str(file), *sizes])
            pair[name] = json.loads(file.read_text(encoding="utf-8"))
    pair["ratio"] = pair["smcd_jax"]["tflop_per_second"] / pair["diffusers"]["tflop_per_second"]
    return pair


def line(pair: dict[str, Any]) -> str:
    """Returns one pair as text."""
    parts = (
        f"{name} {pair[name]['tflop']:.3g} TFLOP in {pair[name]['seconds']:.4g} s = "
        f"{pair[name]['tflop_per_second']:.4f} TFLOP/s (matrix product {pair[name]['matmul_tflop_per_second']:.4f})"
        for name in NAMES
    )
    return f"{'; '.join(parts)}; ratio {pair['ratio']:.3f}"


def _run(command: Sequence[str]) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def main() -> None:
    """Measures the pairs and prints a line for each, then the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=("tiny", "smcd"), default="smcd")
    parser.add_argument("--pairs", type=int, default=5, metavar="N", help="number of pairs (default: 5)")
    parser.add_argument("--passes", type=int, default=2, metavar="N", help="timed passes of each (default: 2)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N", help="threads of PyTorch")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the figures as JSON, after each pair")
    parser.add_argument("--diffusers_only", action="store_true", help="measure diffusers once, in this process")
    args = parser.parse_args()
    if args.diffusers_only:
        write_json(args.output, measure_diffusers(args.preset, threads=args.threads, passes=args.passes))
        return
    pairs: list[dict[str, Any]] = []
    for number in range(args.pairs):
        pairs.append(measure_pair(args, NAMES if number % 2 == 0 else NAMES[::-1]))
        print(line(pairs[-1]), flush=True)
        if args.output is not None:
            write_json(args.output, {"preset": args.preset, "threads": args.threads, "pairs": pairs})
    ratios = [pair["ratio"] for pair in pairs]
    print(f"ratio to diffusers: median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main()
