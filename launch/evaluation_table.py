"""Prints the results of an `smcd evaluate` as a Markdown table: `python launch/evaluation_table.py OUTPUT`."""

from __future__ import annotations

import sys
from pathlib import Path

from smcd_jax.evaluation.measure_run import Figure
from smcd_jax.evaluation.report.results import in_digits, read_results
from smcd_jax.evaluation.video_store import REFERENCES

BALANCED = ("mao-", "msr50-", "msr75-")  # by class: in metrics.json, and too much for a table to read


def main(folder: Path) -> None:
    """One row a measure that ran; under the table, why the others did not."""
    results = read_results(folder)
    print("| | model (95 % interval) | real clip | still first frame | slid crop |")
    print("|---|---|---|---|---|")
    missing: dict[str, list[str]] = {}
    for figure in results.figures:
        name, value = figure.measure.name, figure.measure.value
        if value is None:
            missing.setdefault(figure.measure.note, []).append(name)
        elif not name.startswith(BALANCED):
            print(f"| {' | '.join(_cells(figure))} |")
    lists = results.evaluation["list"]
    print(f"\n{len(results.clips)} clips of {lists['name']} ({lists['split']}), list {lists['sha256'][:12]}.")
    for note, names in missing.items():
        print(f"{', '.join(names)}: {note}")


def _cells(figure: Figure) -> list[str]:
    measure = figure.measure
    value = f"**{in_digits(measure.value)}**"
    if measure.interval:
        value += f" ({' to '.join(map(in_digits, measure.interval))})"
    better = "more" if measure.better == "higher" else "less"
    beside = [in_digits(figure.references.get(version)) for version in REFERENCES]
    return [f"{measure.name}, {better} is better", value, *beside]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
