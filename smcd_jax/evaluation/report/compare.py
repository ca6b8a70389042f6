"""Owns the comparison of two evaluations of one list: differences clip by clip, with a paired bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.evaluation.metrics.metric_rows import Measure, bootstrap_interval
from smcd_jax.evaluation.report.report_page import Card, paragraph, table, write_page
from smcd_jax.evaluation.report.results import Results, in_digits
from smcd_jax.evaluation.report.strips import read_strips

_MADE_BY = {"implementation": "implementations", "weights_sha256": "weights", "frame_rule": "frame rules"}


class Difference(NamedTuple):
    """One measure of two evaluations, A and B.

    Attributes:
        name: of the measure.
        better: "higher" or "lower".
        values: of A and of B, over the clips that each measured; None where it did not run.
        mean: of B - A over the clips of both; None for a measure that has no values of single clips.
        interval: 95 % of that mean with clips drawn again, both of a clip together.
        wins: share of those clips on which B is better; equal ones count half.
        per_clip: B - A.
        note: why the two cannot be compared, or what else is to be known.
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
        """In words: which is better, if the interval does not hold 0."""
        if self.interval is None:
            return "-"
        low, high = self.interval
        if low <= 0 <= high:
            return "no difference shown"
        return "B is better" if (low > 0) == (self.better == "higher") else "A is better"


def compare(first: Results, second: Results) -> list[Difference]:
    """Every measure that one of two evaluations has, A's first.

    Raises:
        SMCDError: they are of different lists, records or numbers of objects.
    """
    _check_alike(first, second)
    measures = [{figure.measure.name: figure.measure for figure in of.figures} for of in (first, second)]
    differences = [_difference(*(of.get(name) for of in measures)) for name in {**measures[0], **measures[1]}]
    return [one for one in differences if one.values != (None, None)]


def comparison_table(differences: Sequence[Difference]) -> tuple[list[str], list[list[str]]]:
    """Header and rows, as texts."""
    header = ["measure", "better", "A", "B", "B - A", "95 % interval", "B wins", "clips", "verdict"]
    rows = [
        [
            one.name,
            one.better,
            *map(in_digits, one.values),
            in_digits(one.mean),
            "-" if one.interval is None else "..".join(map(in_digits, one.interval)),
            "-" if one.wins is None else f"{100 * one.wins:.0f} %",
            str(len(one.per_clip or ())),
            one.verdict,
        ]
        for one in differences
    ]
    return header, rows


def comparison_lines(differences: Sequence[Difference]) -> list[str]:
    """The table for a terminal, and the notes under it."""
    header, rows = comparison_table(differences)
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in [header, *rows]]
    return [*lines, *comparison_remarks(differences)]


def comparison_remarks(differences: Sequence[Difference]) -> list[str]:
    """The notes, one line for measures of which it is the same."""
    by_note: dict[str, list[str]] = {}
    for one in differences:
        if one.note:
            by_note.setdefault(one.note, []).append(one.name)
    return [f"{', '.join(names)}: {note}" for note, names in by_note.items()]


def write_comparison(
    path: Path, folders: tuple[Path, Path], results: tuple[Results, Results], differences: Sequence[Difference]
) -> Path:
    """Writes the page with both side by side, sorted by how much better B is.

    Raises:
        SMCDError: the file cannot be written.
    """
    per_clip = {one.name: one for one in differences if one.per_clip}
    both = {clip.clip_id for clip in results[1].clips}
    cards = []
    for clip in results[0].clips:
        if clip.clip_id not in both:
            continue
        strips = [read_strips(folder, clip.clip_id) for folder in folders]
        shown = {"real": strips[0].get("real") or strips[1].get("real")}
        for name, above in (("generated", "generated, with the boxes asked for"), ("found", "as tracked")):
            shown |= {f"{which}: {above}": of.get(name) for which, of in zip("AB", strips, strict=True)}
        values = {name: one.per_clip[clip.clip_id] for name, one in per_clip.items() if clip.clip_id in one.per_clip}
        text = f"{clip.caption} [{', '.join(clip.labels)}]"
        cards.append(Card(clip.clip_id, text, {above: url for above, url in shown.items() if url}, values))
    lists = results[0].evaluation["list"]
    return write_page(
        path,
        title="smcd compare",
        intro=[
            paragraph(
                f"A is {folders[0].name}, B is {folders[1].name}: {lists['name']} ({lists['split']}), "
                f"list {lists['sha256'][:12]}. Clips are sorted by B - A, where B gains most first."
            ),
            table(*comparison_table(differences)),
            *map(paragraph, comparison_remarks(differences)),
        ],
        sort_by={name: one.better for name, one in per_clip.items()},
        cards=cards,
    )


def _check_alike(first: Results, second: Results) -> None:
    lists = [of.evaluation["list"] for of in (first, second)]
    if lists[0]["sha256"] != lists[1]["sha256"]:
        described = [f"{of['name']} ({of['split']}), {of['clips']} clips, {of['sha256'][:12]}" for of in lists]
        raise SMCDError(
            f"the two are of different lists ({described[0]}; {described[1]}): "
            "evaluate both with the same --list and --count"
        )
    for key, words, same in (("records", "records", "records"), ("max_objects", "numbers of objects", "--max_objects")):
        values = [of.evaluation[key] for of in (first, second)]
        if values[0] != values[1]:
            raise SMCDError(
                f"the two are of different {words} ({values[0]}; {values[1]}): evaluate both with the same {same}"
            )


def _difference(first: Measure | None, second: Measure | None) -> Difference:
    known = first or second
    values = tuple(None if one is None else one.value for one in (first, second))
    plain = Difference(known.name, known.better, values)
    if None in values:
        absent = "A" if values[0] is None else "B"
        return plain._replace(note=f"not measured in {absent}")
    other = [words for name, words in _MADE_BY.items() if getattr(first, name) != getattr(second, name)]
    if other:
        return plain._replace(note=f"cannot be compared: made with different {' and '.join(other)}")
    if not first.per_clip or not second.per_clip:
        return plain._replace(note="of the whole set, no values of single clips to pair")
    common = sorted(set(first.per_clip) & set(second.per_clip))
    left = len(set(first.per_clip) ^ set(second.per_clip))
    note = f"{left} clips were measured in one of the two only, and are left out of B - A" if left else ""
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
