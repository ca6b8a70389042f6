"""Results of an evaluation: reading and writing `metrics.json` and `clips.csv`, and the table for a terminal.

`metrics.json` (format `smcd-metrics`, version 2) contains no times, paths or devices: the same videos on the same
records give the same bytes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smcd_jax.errors import SMCDError
from smcd_jax.evaluation.metrics.metric_rows import MetricRow
from smcd_jax.evaluation.video_store import REFERENCES, EvalClip, Fault, VideoStore
from smcd_jax.files import write_atomically, write_json
from smcd_jax.files.text_files import read_json

FORMAT, VERSION = "smcd-metrics", 2
METRICS, CLIPS = "metrics.json", "clips.csv"


@dataclass(frozen=True)
class ClipRow:
    """Description of a measured clip."""

    clip_id: str
    start: int
    seed: int
    caption: str
    labels: tuple[str, ...]

    @classmethod
    def of(cls, clip: EvalClip) -> ClipRow:
        """Returns the row of a clip."""
        return cls(clip.clip_id, clip.start, clip.seed, clip.caption, clip.labels)


@dataclass(frozen=True)
class Results:
    """Results of an evaluation.

    Attributes:
        evaluation: Description of the list, the records and the videos, each with a hash; "list", "records" and
            "max_objects" must agree for two evaluations to be comparable.
        clips: Measured clips.
        faults: Clips and metrics that are missing, with reasons.
        notes: Other notes for the reader.
        rows: Metrics, in the order of the table.
    """

    evaluation: Mapping[str, Any]
    clips: tuple[ClipRow, ...]
    faults: tuple[Fault, ...]
    notes: tuple[str, ...]
    rows: tuple[MetricRow, ...]

    @classmethod
    def of(cls, store: VideoStore, rows: Sequence[MetricRow], evaluation: Mapping[str, Any]) -> Results:
        """Returns the results on the clips of a store."""
        return cls(
            evaluation=evaluation,
            clips=tuple(map(ClipRow.of, store.clips)),
            faults=tuple(sorted(store.faults)),
            notes=tuple(store.notes),
            rows=tuple(rows),
        )

    def write(self, folder: Path) -> None:
        """Writes `metrics.json` and `clips.csv`.

        Raises:
            SMCDError: A file cannot be written.
        """
        with write_atomically(folder / CLIPS) as temporary:
            temporary.write_text(self._csv(), encoding="utf-8", newline="")
        write_json(
            folder / METRICS,
            {
                "format": FORMAT,
                "version": VERSION,
                **self.evaluation,
                "clips": [{**vars(clip), "labels": list(clip.labels)} for clip in self.clips],
                "faults": [fault._asdict() for fault in self.faults],
                "notes": list(self.notes),
                "metrics": [row.to_dict() for row in self.rows],
            },
        )

    def table(self) -> list[str]:
        """Returns the lines of the table for a terminal: one row per metric, then the notes."""
        header = ["metric", "better", "value", "95 % interval", *REFERENCES, "clips"]
        rows = [header, *(_cells(row) for row in self.rows if row.metric.value is not None)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
        lines = [
            "  ".join(
                cell.ljust(width) if column < 2 else cell.rjust(width) for column, (cell, width) in enumerate(cells)
            )
            for cells in (list(zip(row, widths, strict=True)) for row in rows)
        ]
        return [line.rstrip() for line in [*lines, *self.all_notes()]]

    def all_notes(self) -> list[str]:
        """Notes of the metrics, such as why one did not run, with equal ones merged; then the other notes."""
        by_note: dict[str, list[str]] = {}
        for row in self.rows:
            if row.metric.note:
                by_note.setdefault(row.metric.note, []).append(row.metric.name)
        return [*(f"{', '.join(names)}: {note}" for note, names in by_note.items()), *self.notes]

    def _csv(self) -> str:
        columns = {row.metric.name: row.metric.per_clip for row in self.rows if row.metric.per_clip}
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["clip_id", "start", "seed", "caption", "labels", "fault", *columns])
        measured = {clip.clip_id for clip in self.clips}
        fault_kinds = {
            clip_id: "; ".join(fault.kind for fault in self.faults if fault.clip_id == clip_id) for clip_id in measured
        }
        for clip in self.clips:
            values = [repr(column[clip.clip_id]) if clip.clip_id in column else "" for column in columns.values()]
            description = [
                clip.clip_id,
                clip.start,
                clip.seed,
                clip.caption,
                "; ".join(clip.labels),
                fault_kinds[clip.clip_id],
            ]
            writer.writerow([*description, *values])
        for fault in self.faults:
            if fault.clip_id not in measured:
                writer.writerow([fault.clip_id, "", "", "", "", fault.kind, *[""] * len(columns)])
        return text.getvalue()


def read_results(folder: Path) -> Results:
    """Reads the results in the folder of an evaluation.

    Raises:
        SMCDError: The folder has no results, or they are damaged or have another version.
    """
    path = folder / METRICS
    if not path.is_file():
        raise SMCDError(f"{folder}: no {METRICS} in it; pass the --output of a finished smcd evaluate", path=folder)
    content = read_json(path)
    if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (FORMAT, VERSION):
        raise SMCDError(f"{path}: not of the format {FORMAT}, version {VERSION}; evaluate again", path=path)
    try:
        return Results(
            evaluation={name: content[name] for name in ("list", "records", "max_objects", "videos")},
            clips=tuple(ClipRow(**{**clip, "labels": tuple(clip["labels"])}) for clip in content["clips"]),
            faults=tuple(Fault(**fault) for fault in content["faults"]),
            notes=tuple(content["notes"]),
            rows=tuple(MetricRow.from_dict(row) for row in content["metrics"]),
        )
    except (KeyError, TypeError) as error:
        raise SMCDError(f"{path}: damaged ({error}); evaluate again", path=path) from error


def format_value(value: float | None) -> str:
    """Returns a value as text with four significant digits; "-" for None."""
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"


def fault_lines(faults: Sequence[Fault]) -> list[str]:
    """Returns one line per kind of fault: the number of clips, their names, and the first reason."""
    kinds = sorted({fault.kind for fault in faults})
    lines = []
    for kind in kinds:
        of_kind = [fault for fault in faults if fault.kind == kind]
        names = ", ".join(fault.clip_id for fault in of_kind[:5])
        more = ", ..." if len(of_kind) > 5 else ""
        lines.append(f"{len(of_kind)} clips with {kind} ({names}{more}); the first: {of_kind[0].reason}")
    return lines


def _cells(row: MetricRow) -> list[str]:
    metric = row.metric
    interval = "-" if metric.interval is None else "..".join(map(format_value, metric.interval))
    references = [format_value(row.references.get(version)) for version in REFERENCES]
    return [metric.name, metric.better, format_value(metric.value), interval, *references, str(metric.count)]
