"""Collects the results of `smcd evaluate` in JSON, and writes the tables of README, model card and docs from them.

    python launch/figures.py                                             # rewrites the tables
    python launch/figures.py --collect tiny outputs/evaluate_tiny/HASH   # reads the evaluations in that folder first
    python launch/figures.py --collect ablation runs/ablation/evaluations

Each subfolder of a collected folder is the --output of an `smcd evaluate`. The JSON is in docs/figures. A table lies
between `<!-- table NAME -->` and `<!-- end of table -->`.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "figures"
CARD = ROOT / "smcd_jax" / "assets" / "models" / "tiny" / "README.md"
DOCUMENTS = (ROOT / "README.md", CARD, ROOT / "docs" / "ablation.md")
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
VARIANTS = {
    "object": "object gates alone (no picture)",
    "image": "image gates alone (no boxes)",
    "zc": "object gates + ZC",
    "gca": "object gates + GCA",
    "zc_gca": "object gates + ZC + GCA, two stages",
    "joint": "the same, jointly",
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
    file = "ablation" if name == "ablation" else "tiny"
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


def _results_table(evaluations: Evaluations) -> str:
    """Returns one row per metric: the model with its interval, the real clip and the baselines."""
    rows = []
    for name, label in METRICS.items():
        metric = evaluations["all"]["metrics"][name]
        value = f"**{_format(name, metric['value'])}**"
        if metric["interval"]:
            value += f" ({' to '.join(_format(name, end) for end in metric['interval'])})"
        references = [metric["references"].get(version) for version in ("real", "still", "slid")]
        rows.append([label, value, *(_format(name, reference) for reference in references)])
    clips = evaluations["all"]["list"]["clips"]
    header = [f"{clips} held-out clips", "tiny (95 % interval)", "real clip", "still first frame", "slid crop"]
    return _markdown(header, rows)


def _runs_table(evaluations: Evaluations) -> str:
    """Returns one row per evaluation of the same clips."""
    clips = evaluations["first_64"]["list"]["clips"]
    rows = [
        [label, *(_format(name, evaluations[run]["metrics"][name]["value"]) for name in RUN_METRICS)]
        for run, label in RUNS.items()
    ]
    return _markdown([f"{clips} held-out clips", *RUN_METRICS.values()], rows)


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


def _ablation_table(evaluations: Evaluations) -> str:
    """Returns one row per variant: the mean over its seeds, and the value of each."""
    rows = []
    for variant, label in VARIANTS.items():
        runs = [run for run in evaluations if re.fullmatch(rf"{variant}_\d+", run)]
        cells = [
            _mean_and_each([evaluations[pattern.format(run)]["metrics"][name]["value"] for run in runs])
            for pattern, name in VARIANT_METRICS.values()
        ]
        rows.append([label, *cells])
    return _markdown(["variant", *VARIANT_METRICS], rows)


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
    "results": _results_table,
    "runs": _runs_table,
    "limits": _limits_table,
    "ablation": _ablation_table,
}

if __name__ == "__main__":
    main()
