"""Prints the ablation of launch/ablation_tiny.sh as a Markdown table: mean of the seeds, and each of them.

    python launch/ablation_table.py docs/ablation

The folder holds VARIANT_SEED.json, as launch/tiny_figures.py writes it.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

VARIANTS = {
    "object": "object gates alone (no picture)",
    "image": "image gates alone (no boxes)",
    "zc": "object gates + ZC",
    "gca": "object gates + GCA",
    "zc_gca": "object gates + ZC + GCA, two stages",
    "joint": "the same, jointly",
}
COLUMNS = {
    "AO": ("model, box guidance on", "AO"),
    "AO, box guidance off": ("model, box guidance off", "AO"),
    "SR50": ("model, box guidance on", "SR50"),
    "displacement": ("asked and found displacement, rank correlation", "rank_correlation"),
    "first frame, dB": ("first frame PSNR, dB",),
}


def main(folder: Path) -> None:
    """One row a variant; a variant without figures says so."""
    print(f"| variant | {' | '.join(COLUMNS)} |")
    print("|---" * (1 + len(COLUMNS)) + "|")
    for variant, name in VARIANTS.items():
        files = sorted(folder.glob(f"{variant}_[0-9]*.json"))
        runs = [json.loads(file.read_text()) for file in files]
        cells = [_cell([functools.reduce(dict.__getitem__, path, run) for run in runs]) for path in COLUMNS.values()]
        print(f"| {name} | {' | '.join(cells)} |")


def _cell(values: list[float]) -> str:
    if not values:
        return "not run"
    mean = sum(values) / len(values)
    return f"{mean:.3g} ({', '.join(f'{value:.3g}' for value in values)})"


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/ablation/figures"))
