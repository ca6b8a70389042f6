"""HTML pages of results: one self-contained file with a table and the strips of every clip, sorted and filtered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smcd_jax.errors import SMCDError
from smcd_jax.evaluation.report.results import Results, fault_lines, format_value
from smcd_jax.evaluation.report.strips import read_strips
from smcd_jax.evaluation.video_store import REFERENCES
from smcd_jax.files import write_atomically

REPORT = "report.html"
_TEMPLATE = Path(__file__).with_name("templates") / "page.html.j2"
_CAPTIONS = {"real": "real, with its boxes", "generated": "generated, with the target boxes", "found": "as tracked"}


@dataclass(frozen=True)
class Card:
    """Entry of a clip on a page.

    Attributes:
        title: Id of the clip.
        text: Caption and labels.
        strips: URLs of the pictures by their captions.
        values: Values to sort by, by metric.
    """

    title: str
    text: str
    strips: Mapping[str, str]
    values: Mapping[str, float]


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        header: Cells of the first row.
        rows: Cells of the other rows.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def write_page(
    path: Path,
    *,
    title: str,
    intro: Sequence[str] = (),
    table: Table,
    notes: Sequence[str] = (),
    sort_by: Mapping[str, str],
    cards: Sequence[Card],
) -> Path:
    """Writes a page.

    Args:
        path: HTML file.
        title: Title of the page.
        intro: Paragraphs above the table, as plain text.
        table: Table of results.
        notes: Paragraphs below the table, as plain text.
        sort_by: Direction of improvement, "higher" or "lower", of each metric; cards are sorted by the first one.
        cards: Entries of the clips.

    Raises:
        SMCDError: Jinja2 is not installed, or the file cannot be written.
    """
    first = next(iter(sort_by), None)
    sign = 1 if first is not None and sort_by[first] == "lower" else -1
    ranked = sorted(cards, key=lambda card: sign * card.values[first] if first in card.values else float("inf"))
    text = load_template().render(
        title=title,
        intro=intro,
        header=table.header,
        rows=table.rows,
        notes=notes,
        sort_by=dict(sort_by),
        cards=ranked,
    )
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def write_report(results: Results, folder: Path) -> Path:
    """Writes `report.html` of an evaluation from its results and strips.

    Raises:
        SMCDError: Jinja2 is not installed, or the file cannot be written.
    """
    measured = [row for row in results.rows if row.metric.value is not None]
    header = ["metric", "better", "value", "95 % interval", "real clip", "still first frame", "slid crop", "clips"]
    rows = [
        [
            row.metric.name,
            row.metric.better,
            format_value(row.metric.value),
            "-" if row.metric.interval is None else " to ".join(map(format_value, row.metric.interval)),
            *(format_value(row.references.get(version)) for version in REFERENCES),
            str(row.metric.count),
        ]
        for row in measured
    ]
    lists = results.evaluation["list"]
    per_clip = {row.metric.name: row.metric for row in measured if row.metric.per_clip}
    cards = [
        Card(
            clip.clip_id,
            f"{clip.caption} [{', '.join(clip.labels)}]",
            {_CAPTIONS[name]: url for name, url in read_strips(folder, clip.clip_id).items()},
            {name: one.per_clip[clip.clip_id] for name, one in per_clip.items() if clip.clip_id in one.per_clip},
        )
        for clip in results.clips
    ]
    return write_page(
        folder / REPORT,
        title="smcd evaluate",
        intro=[
            f"{len(results.clips)} clips of {lists['name']} ({lists['split']}), list {lists['sha256'][:12]}",
            _describe_origin(results.evaluation["videos"]["made_with"]),
        ],
        table=Table(header, rows),
        notes=[*results.all_notes(), *fault_lines(results.faults)],
        sort_by={name: metric.better for name, metric in per_clip.items()},
        cards=cards,
    )


def load_template() -> Any:
    """Returns the Jinja2 template of the pages.

    Raises:
        SMCDError: Jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise SMCDError("reports need Jinja2; pip install 'smcd_jax[eval]'", argument="jinja2") from error
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))


def _describe_origin(made_with: Mapping[str, Any] | None) -> str:
    if made_with is None:
        return "Videos from another source."
    options = ", ".join(f"{name} {value}" for name, value in made_with["options"].items())
    changed = f", intervention {made_with['intervention']}" if made_with.get("intervention") else ""
    return f"Model {made_with['model'][:12]}, batch size {made_with['batch_size']}: {options}{changed}"
