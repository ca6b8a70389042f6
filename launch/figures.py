"""Collects the results of `smcd evaluate` in JSON, and writes the tables of README, model card and docs from them.

    python launch/figures.py                                             # rewrites the tables
    python launch/figures.py --collect tiny outputs/evaluate_tiny/HASH   # reads the evaluations in that folder first
    python launch/figures.py --collect ablation_tiny runs/ablation_tiny/evaluations

Each subfolder of a collected folder is the --output of an `smcd evaluate`. The JSON is in docs/figures. A table lies
between `<!-- table NAME -->` and `<!-- end of table -->`.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "figures"
DOCUMENTS = (
    *(ROOT / "smcd_jax" / "assets" / "models" / name / "README.md" for name in ("small", "tiny", "lvmm_tiny")),
    *(ROOT / name for name in ("README.md", "docs/ablation.md", "docs/lvmm.md")),
)
_BLOCK = re.compile(r"(<!-- table (\S+) -->\n).*?(<!-- end of table -->)", re.DOTALL)

Evaluations = Mapping[str, Any]

METRICS = {
    "ao-sprite-detector-1": "AO, exact sprite detector",
    "sr50-sprite-detector-1": "SR50, the same",
    "sr75-sprite-detector-1": "SR75, the same",
    "ao-csrt@256": "AO, CSRT",
    "sr50-csrt@256": "SR50, CSRT",
    "displacement-sprite-detector-1": "displacement, rank correlation",
    "motion-inside-farneback@128": "optical flow inside the boxes",
    "psnr": "PSNR against the real clip, dB",
    "psnr-first": "PSNR of the first frame, dB",
    "ssim": "SSIM against the real clip",
}
RUNS = {
    "first_64": "as recorded, box guidance 2",
    "guidance_off": "as recorded, box guidance off",
    "mirrored_boxes": "mirrored tracks, box guidance 2",
    "swapped_labels": "swapped labels, box guidance 2",
}
RUN_METRICS = {
    "ao-sprite-detector-1": "AO",
    "sr50-sprite-detector-1": "SR50",
    "sr75-sprite-detector-1": "SR75",
    "displacement-sprite-detector-1": "displacement",
    "psnr-first": "first frame, dB",
}
_SPRITE = "sprite-detector-1"
SMALL_METRICS = {
    f"ao-{_SPRITE}": "AO, exact sprite detector",
    f"ao-of-1-{_SPRITE}": "AO of clips with one object",
    f"ao-of-2-{_SPRITE}": "AO of clips with two objects",
    f"ao-of-3-{_SPRITE}": "AO of clips with three objects",
    f"sr50-{_SPRITE}": "SR50",
    f"displacement-{_SPRITE}": "displacement, rank correlation",
    f"label-{_SPRITE}": "share of frames in which the label is recognized",
    "psnr-first": "PSNR of the first frame, dB",
    "psnr-autoencoder": "PSNR of the picture through the autoencoder alone, dB",
}
SMALL_RUNS = {
    "few_steps": "4 steps",
    "swapped_labels": "4 steps, swapped labels",
    "few_steps_subset": "4 steps",
    "all_steps_subset": "50 steps of the teacher, guidance 2, box guidance 2",
    "long_subset": "4 steps, 32 frames",
}
SMALL_RUN_METRICS = {
    f"ao-{_SPRITE}": "AO",
    f"ao-of-1-{_SPRITE}": "one object",
    f"ao-of-2-{_SPRITE}": "two",
    f"ao-of-3-{_SPRITE}": "three",
    f"displacement-{_SPRITE}": "displacement",
    f"label-{_SPRITE}": "label recognized",
    "psnr-first": "first frame, dB",
}
# Quantity, value and reference of each row; braces hold the names of `launch/motion_measures.py`.
WINDS = (
    (
        "motion error at moving points, from two frames, pixels",
        "{motion_predicted:.2f}",
        "{motion_none:.2f} for no motion",
    ),
    ("the same after the autoencoder of fields", "{motion_decoded:.2f}", ""),
    (
        "PSNR of later frames through predicted fields, dB",
        "{psnr_predicted:.1f}",
        "{psnr_copy:.1f} for copying the picture",
    ),
    ("PSNR after the autoencoder, dB", "{psnr_decoded:.1f}", "{psnr_true:.1f} through true fields"),
    (
        "mean step of sampled motion, pixels",
        "{mean_step_free:.2f}; {mean_step_guided:.2f} in a guided loop",
        "{mean_step_world:.2f} in the world",
    ),
    (
        "length of sampled motion where the world moves, pixels",
        "{motion_where_world_moves:.2f}",
        "{true_motion_where_world_moves:.2f} in the world",
    ),
    ("the same where the world is still", "{motion_where_world_is_still:.2f}", "0"),
    (
        "diversity: distance between two seeds where the world moves, pixels",
        "{diversity_sampled:.2f}",
        "{diversity_world:.2f} for two winds of the world",
    ),
    (
        "position seam of a guided loop, relative to the mean step",
        "{seam_guided:.2f}",
        "{seam_free:.2f} without guidance",
    ),
    (
        "velocity seam of a guided loop",
        "{velocity_seam_guided:.2f}",
        "{velocity_seam_free:.2f} without guidance, {velocity_seam_pingpong:.2f} for ping-pong",
    ),
    (
        "slow motion by 4 of true fields, error of frames in between, pixels",
        "{slow_error_linear:.3f} linear, {slow_error_cubic:.3f} cubic",
        "{slow_error_nearest_frame:.3f} for the nearest frame",
    ),
    (
        "sampled motion: every second frame interpolated from the others, error in pixels",
        "{slow_linear_sampled:.2f} linear, {slow_cubic_sampled:.2f} cubic",
        "{slow_nearest_sampled:.2f} for the nearest frame",
    ),
    (
        "true motion: the same",
        "{slow_linear_world:.2f} linear, {slow_cubic_world:.2f} cubic",
        "{slow_nearest_world:.2f} for the nearest frame",
    ),
    (
        "motion in a box relative to its track, at the farthest frame",
        "{box_followed_guided:.2f} guided",
        "{box_followed_free:.2f} without guidance, 1 is exact",
    ),
    ("the same with a guided loop", "{box_followed_with_loop:.2f}", "position seam {box_seam_with_loop:.2f}"),
)
VARIANTS = {
    "object": "object gates alone (no picture)",
    "image": "image gates alone (no boxes)",
    "zc": "object gates + ZC",
    "gca": "object gates + GCA",
    "zc_gca": "object gates + ZC + GCA, two stages",
    "joint": "the same, jointly",
}
SMALL_VARIANTS = {
    "object": "object gates alone (no picture)",
    "image": "image gates alone (no boxes)",
    "controlnet": "object gates + ControlNet",
    "zc": "object gates + ZC",
    "gca": "object gates + GCA",
    "zc_gca": "object gates + ZC + GCA",
}
VARIANT_METRICS = {
    "AO": ("{}", "ao-sprite-detector-1"),
    "AO, box guidance off": ("{}_guidance_off", "ao-sprite-detector-1"),
    "SR50": ("{}", "sr50-sprite-detector-1"),
    "displacement": ("{}", "displacement-sprite-detector-1"),
    "first frame, dB": ("{}", "psnr-first"),
}


def main() -> None:
    """Collects results if requested, and rewrites all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--collect", nargs=2, metavar=("NAME", "FOLDER"))
    args = parser.parse_args()
    if args.collect:
        FIGURES.mkdir(parents=True, exist_ok=True)
        text = json.dumps(collect(Path(args.collect[1])), indent=1)
        (FIGURES / f"{args.collect[0]}.json").write_text(text + "\n", encoding="utf-8")
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        path.write_text(_BLOCK.sub(lambda block: f"{block[1]}{table(block[2])}{block[3]}", text), encoding="utf-8")


def collect(folder: Path) -> dict[str, Any]:
    """Returns the values of all evaluations in a folder, by subfolder name, without values per clip."""
    return {file.parent.name: _summary(json.loads(file.read_text())) for file in sorted(folder.glob("*/metrics.json"))}


def table(name: str) -> str:
    """Returns a table of the docs as Markdown, from the JSON in docs/figures."""
    files = {"winds": "lvmm_tiny", "small_runs": "small", **dict.fromkeys(("results", "runs", "limits"), "tiny")}
    file = files.get(name, name)
    return TABLES[name](json.loads((FIGURES / f"{file}.json").read_text(encoding="utf-8")))


def _summary(results: Mapping[str, Any]) -> dict[str, Any]:
    fields = ("value", "interval", "count", "references")
    return {
        "list": results["list"],
        "made_with": results["videos"]["made_with"],
        "metrics": {
            metric["name"]: {field: metric[field] for field in fields}
            for metric in results["metrics"]
            if metric["value"] is not None
        },
    }


def _results_table(
    evaluations: Evaluations, *, run: str = "all", model: str = "tiny", metrics: Mapping[str, str] = METRICS
) -> str:
    """Returns one row per metric: the model with its interval, the real clip and the baselines."""
    rows = []
    for name, label in metrics.items():
        metric = evaluations[run]["metrics"][name]
        value = f"**{_format(name, metric['value'])}**"
        if metric["interval"]:
            value += f" ({' to '.join(_format(name, end) for end in metric['interval'])})"
        references = [metric["references"].get(version) for version in ("real", "still", "slid")]
        rows.append([label, value, *(_format(name, reference) for reference in references)])
    clips = evaluations[run]["list"]["clips"]
    header = [f"{clips} held-out clips", f"{model} (95 % interval)", "real clip", "still first frame", "slid crop"]
    return _markdown(header, rows)


def _runs_table(
    evaluations: Evaluations, *, runs: Mapping[str, str] = RUNS, metrics: Mapping[str, str] = RUN_METRICS
) -> str:
    """Returns one row per evaluation, with its number of clips if not all have the same."""
    counts = {run: evaluations[run]["list"]["clips"] for run in runs}
    same = len(set(counts.values())) == 1
    rows = [
        [
            label if same else f"{label}, {counts[run]} clips",
            *(_format(name, evaluations[run]["metrics"].get(name, {}).get("value")) for name in metrics),
        ]
        for run, label in runs.items()
    ]
    return _markdown([f"{next(iter(counts.values()))} held-out clips" if same else "", *metrics.values()], rows)


def _limits_table(evaluations: Evaluations) -> str:
    """Returns a table of metrics that have no baselines to compare with."""
    quantities = {
        ("all", "psnr-autoencoder"): "PSNR of the picture through the autoencoder alone, dB",
        ("swapped_labels", "pixel-difference"): "mean change of pixels when the label is swapped, 0 to 255",
    }
    rows = [
        [label, _format(name, evaluations[run]["metrics"][name]["value"])] for (run, name), label in quantities.items()
    ]
    return _markdown(["", "value"], rows)


def _ablation_table(evaluations: Evaluations, *, variants: Mapping[str, str]) -> str:
    """Returns one row per variant: the mean over its seeds, and the value of each."""
    rows = []
    for variant, label in variants.items():
        runs = [run for run in evaluations if re.fullmatch(rf"{variant}_\d+", run)]
        cells = [
            _mean_and_each([evaluations[pattern.format(run)]["metrics"][name]["value"] for run in runs])
            for pattern, name in VARIANT_METRICS.values()
        ]
        rows.append([label, *cells])
    return _markdown(["variant", *VARIANT_METRICS], rows)


def _winds_table(measures: Mapping[str, Any]) -> str:
    """One row per quantity of the motion model."""
    rows = [[label, value.format(**measures), reference.format(**measures)] for label, value, reference in WINDS]
    return _markdown(["{clips} held-out clips, {steps} steps".format(**measures), "lvmm_tiny", "reference"], rows)


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _format(name: str, value: float | None) -> str:
    """Returns a value, rounded to the decimals that the confidence interval of its metric supports."""
    if value is None:
        return "-"
    decimals = 1 if name.startswith(("psnr", "pixel")) else 4 if name.startswith("motion") else 3
    return f"{value:.{decimals}f}"


def _mean_and_each(values: list[float]) -> str:
    if not values:
        return "not run"
    return f"{sum(values) / len(values):.3g} ({', '.join(f'{value:.3g}' for value in values)})"


TABLES: Mapping[str, Callable[[Evaluations], str]] = {
    "small": functools.partial(_results_table, run="few_steps", model="small", metrics=SMALL_METRICS),
    "small_runs": functools.partial(_runs_table, runs=SMALL_RUNS, metrics=SMALL_RUN_METRICS),
    "results": _results_table,
    "runs": _runs_table,
    "limits": _limits_table,
    "ablation_tiny": functools.partial(_ablation_table, variants=VARIANTS),
    "ablation_small": functools.partial(_ablation_table, variants=SMALL_VARIANTS),
    "winds": _winds_table,
}

if __name__ == "__main__":
    main()
