"""Comparison of two evaluations of the same list: differences clip by clip, with a paired bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.evaluation.metrics.metric_rows import Metric, bootstrap_interval
from smcd_jax.evaluation.report.report_page import Card, Table, write_page
from smcd_jax.evaluation.report.results import Results, format_value
from smcd_jax.evaluation.report.strips import read_strips

_SOURCES = {"implementation": "implementations", "weights_sha256": "weights", "frame_rule": "frame rules"}


class Difference(NamedTuple):
    """One metric of two evaluations, A and B.

    Attributes:
        name: Name of the metric.
        better: Direction of improvement, "higher" or "lower".
        values: Values of A and of B, each over its own clips; None where the metric did not run.
        mean: Mean of B - A over the clips that both have; None for a metric without values per clip.
        interval: 95 % bootstrap interval of that mean, with both values of a clip drawn together.
        wins: Share of those clips on which B is better, 0..1; ties count half.
        per_clip: B - A of each clip.
        note: Reason why the two cannot be compared, or another remark.
    """

    name: str
    better: str
    values: tuple[float | None, float | None]
    mean: float | None = None
    interval: tuple[float, float] | None = None
    wins: float | None = None
    per_clip: dict[str, float] | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        """Text that says which is better, or that the interval contains 0."""
        if self.interval is None:
            return "-"
        low, high = self.interval
        if low <= 0 <= high:
            return "no significant difference"
        return "B is better" if (low > 0) == (self.better == "higher") else "A is better"


def compare(first: Results, second: Results) -> list[Difference]:
    """Compares every metric that one of the two evaluations has; those of A come first.

    Raises:
        SMCDError: The evaluations have different lists, records or numbers of objects.
    """
    _check_comparable(first, second)
    metrics = [{row.metric.name: row.metric for row in results.rows} for results in (first, second)]
    differences = [_difference(*(by_name.get(name) for by_name in metrics)) for name in {**metrics[0], **metrics[1]}]
    return [one for one in differences if one.values != (None, None)]


def comparison_table(differences: Sequence[Difference]) -> Table:
    """Returns a table with one row per metric."""
    header = ["metric", "better", "A", "B", "B - A", "95 % interval", "B wins", "clips", "verdict"]
    rows = [
        [
            one.name,
            one.better,
            *map(format_value, one.values),
            format_value(one.mean),
            "-" if one.interval is None else "..".join(map(format_value, one.interval)),
            "-" if one.wins is None else f"{100 * one.wins:.0f} %",
            str(len(one.per_clip or ())),
            one.verdict,
        ]
        for one in differences
    ]
    return Table(header, rows)


def comparison_lines(differences: Sequence[Difference]) -> list[str]:
    """Returns the lines for a terminal: the table, then the notes."""
    table = comparison_table(differences)
    rows = [table.header, *table.rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.header))]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return [*lines, *comparison_notes(differences)]


def comparison_notes(differences: Sequence[Difference]) -> list[str]:
    """Returns the notes of the metrics, with equal ones merged."""
    by_note: dict[str, list[str]] = {}
    for one in differences:
        if one.note:
            by_note.setdefault(one.note, []).append(one.name)
    return [f"{', '.join(names)}: {note}" for note, names in by_note.items()]


def write_comparison(
    path: Path, folders: tuple[Path, Path], results: tuple[Results, Results], differences: Sequence[Difference]
) -> Path:
    """Writes the page that shows both evaluations side by side, sorted by the improvement from A to B.

    Args:
        path: HTML file.
        folders: Folders of A and B.
        results: Results of A and B.
        differences: Differences from `compare`.

    Raises:
        SMCDError: The file cannot be written.
    """
    per_clip = {one.name: one for one in differences if one.per_clip}
    both = {clip.clip_id for clip in results[1].clips}
    cards = []
    for clip in results[0].clips:
        if clip.clip_id not in both:
            continue
        strips = [read_strips(folder, clip.clip_id) for folder in folders]
        pictures = {"real": strips[0].get("real") or strips[1].get("real")}
        for name, caption in (("generated", "generated, with the target boxes"), ("found", "as tracked")):
            pictures |= {f"{which}: {caption}": one.get(name) for which, one in zip("AB", strips, strict=True)}
        values = {name: one.per_clip[clip.clip_id] for name, one in per_clip.items() if clip.clip_id in one.per_clip}
        text = f"{clip.caption} [{', '.join(clip.labels)}]"
        pictures = {caption: url for caption, url in pictures.items() if url}
        cards.append(Card(clip.clip_id, text, pictures, values))
    lists = results[0].evaluation["list"]
    return write_page(
        path,
        title="smcd compare",
        intro=[
            f"A is {folders[0].name}, B is {folders[1].name}: {lists['name']} ({lists['split']}), "
            f"list {lists['sha256'][:12]}. Clips are sorted by B - A, largest improvement first."
        ],
        table=comparison_table(differences),
        notes=comparison_notes(differences),
        sort_by={name: one.better for name, one in per_clip.items()},
        cards=cards,
    )


def _check_comparable(first: Results, second: Results) -> None:
    lists = [results.evaluation["list"] for results in (first, second)]
    if lists[0]["sha256"] != lists[1]["sha256"]:
        described = [f"{one['name']} ({one['split']}), {one['clips']} clips, {one['sha256'][:12]}" for one in lists]
        raise SMCDError(
            f"both evaluations must have the same list, got {described[0]} and {described[1]}; evaluate both with the "
            "same --list and --count",
            argument="list",
            value=lists[1]["sha256"],
        )
    for key in ("records", "max_objects"):
        values = [results.evaluation[key] for results in (first, second)]
        if values[0] != values[1]:
            raise SMCDError(
                f"both evaluations must have the same {key}, got {values[0]} and {values[1]}",
                argument=key,
                value=values[1],
            )


def _difference(first: Metric | None, second: Metric | None) -> Difference:
    metric = first or second
    values = tuple(None if one is None else one.value for one in (first, second))
    plain = Difference(metric.name, metric.better, values)
    if None in values:
        missing = "A" if values[0] is None else "B"
        return plain._replace(note=f"not measured in {missing}")
    differing = [words for name, words in _SOURCES.items() if getattr(first, name) != getattr(second, name)]
    if differing:
        return plain._replace(note=f"not comparable: computed with different {' and '.join(differing)}")
    if not first.per_clip or not second.per_clip:
        return plain._replace(note="metric of the whole set, without values per clip to pair")
    common = sorted(set(first.per_clip) & set(second.per_clip))
    unpaired = len(set(first.per_clip) ^ set(second.per_clip))
    note = f"{unpaired} clips were measured in only one of the two and are omitted from B - A" if unpaired else ""
    if not common:
        return plain._replace(note="no clip was measured in both")
    per_clip = {clip: second.per_clip[clip] - first.per_clip[clip] for clip in common}
    differences = np.array([per_clip[clip] for clip in common])
    gains = differences if plain.better == "higher" else -differences
    return plain._replace(
        mean=float(differences.mean()),
        interval=bootstrap_interval(differences),
        wins=float(((gains > 0) + 0.5 * (gains == 0)).mean()),
        per_clip=per_clip,
        note=note,
    )
