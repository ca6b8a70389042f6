"""Prints the ablation of launch/ablation_tiny.sh as a Markdown table: mean of the seeds, and the two of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

VARIANTS = ("object", "image", "zc", "gca", "zc_gca", "joint")


def main(folder: Path) -> None:
    """One row a variant; a variant without figures says so."""
    print("| variant | AO, box guidance on | SR50 | first frame PSNR, dB | displacement correlation |")
    print("|---|---|---|---|---|")
    for variant in VARIANTS:
        files = sorted(folder.glob(f"{variant}_[0-9]*/figures.json"))
        runs = [json.loads(file.read_text()) for file in files]
        if not runs:
            print(f"| {variant} | not run | | | |")
            continue
        on = [run["model, box guidance on"] for run in runs]
        columns = (
            [figures["AO"] for figures in on],
            [figures["SR50"] for figures in on],
            [run["first frame PSNR, dB"] for run in runs],
            [run["asked and found displacement, rank correlation"]["rank_correlation"] for run in runs],
        )
        print(f"| {variant} | " + " | ".join(_cell(values) for values in columns) + " |")


def _cell(values: list[float]) -> str:
    mean = sum(values) / len(values)
    return f"{mean:.3g} ({', '.join(f'{value:.3g}' for value in values)})"


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/ablation"))
