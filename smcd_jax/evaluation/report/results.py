"""The results of an evaluation: `metrics.json` and `clips.csv`, written and read, and the table for a terminal.

`metrics.json` (format `smcd-metrics`, version 1) holds no times, paths or devices: the same videos on the same records
give the same bytes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smcd_jax.errors import SMCDError
from smcd_jax.evaluation.measure_run import Figure
from smcd_jax.evaluation.video_store import REFERENCES, AskedClip, ClipStore, Fault
from smcd_jax.files import write_atomically, write_json
from smcd_jax.files.text_files import read_json

FORMAT, VERSION = "smcd-metrics", 1
METRICS, CLIPS = "metrics.json", "clips.csv"


@dataclass(frozen=True)
class ClipRow:
    """What results say of a clip that was measured."""

    clip_id: str
    start: int
    seed: int
    caption: str
    labels: tuple[str, ...]

    @classmethod
    def of(cls, clip: AskedClip) -> ClipRow:
        """The row of a clip."""
        return cls(clip.clip_id, clip.start, clip.seed, clip.caption, clip.labels)


@dataclass(frozen=True)
class Results:
    """All of an evaluation.

    Attributes:
        evaluation: "list" and "records" it is of, "videos" it measured, each with a hash; what makes two comparable.
        clips: measured.
        faults: what is missing from the measures.
        notes: what else a reader should know.
        figures: in the order of the table.
    """

    evaluation: Mapping[str, Any]
    clips: tuple[ClipRow, ...]
    faults: tuple[Fault, ...]
    notes: tuple[str, ...]
    figures: tuple[Figure, ...]

    @classmethod
    def of(cls, store: ClipStore, figures: Sequence[Figure], evaluation: Mapping[str, Any]) -> Results:
        """The results on the clips of a store."""
        return cls(
            evaluation=evaluation,
            clips=tuple(map(ClipRow.of, store.clips)),
            faults=tuple(sorted(store.faults)),
            notes=tuple(store.notes),
            figures=tuple(figures),
        )

    def write(self, folder: Path) -> None:
        """Writes `metrics.json` and `clips.csv`.

        Raises:
            SMCDError: a file cannot be written.
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
                "measures": [figure.to_dict() for figure in self.figures],
            },
        )

    def table(self) -> list[str]:
        """The lines of a table: a figure each, then why some did not run, and what else is to be known."""
        header = ["measure", "better", "value", "95 % interval", *REFERENCES, "clips"]
        rows = [header, *(_cells(figure) for figure in self.figures if figure.measure.value is not None)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
        lines = [
            "  ".join(cell.ljust(width) if column < 2 else cell.rjust(width) for column, (cell, width) in enumerate(of))
            for of in (list(zip(row, widths, strict=True)) for row in rows)
        ]
        return [line.rstrip() for line in [*lines, *self.remarks()]]

    def remarks(self) -> list[str]:
        """What is to be said of measures, such as why one did not run, one line for those of which it is the same."""
        by_note: dict[str, list[str]] = {}
        for figure in self.figures:
            if figure.measure.note:
                by_note.setdefault(figure.measure.note, []).append(figure.measure.name)
        return [*(f"{', '.join(names)}: {note}" for note, names in by_note.items()), *self.notes]

    def _csv(self) -> str:
        columns = {figure.measure.name: figure.measure.per_clip for figure in self.figures if figure.measure.per_clip}
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["clip_id", "start", "seed", "caption", "labels", "fault", *columns])
        measured = {clip.clip_id for clip in self.clips}
        lacks = {
            clip_id: "; ".join(fault.kind for fault in self.faults if fault.clip_id == clip_id) for clip_id in measured
        }
        for clip in self.clips:
            values = [repr(of[clip.clip_id]) if clip.clip_id in of else "" for of in columns.values()]
            about = [clip.clip_id, clip.start, clip.seed, clip.caption, "; ".join(clip.labels), lacks[clip.clip_id]]
            writer.writerow([*about, *values])
        for fault in self.faults:
            if fault.clip_id not in measured:
                writer.writerow([fault.clip_id, "", "", "", "", fault.kind, *[""] * len(columns)])
        return text.getvalue()


def read_results(folder: Path) -> Results:
    """The results that an evaluation has written into its folder.

    Raises:
        SMCDError: there are none, or they are damaged or of another version.
    """
    path = folder / METRICS
    if not path.is_file():
        raise SMCDError(f"{folder}: no {METRICS} here; give the --output of a finished smcd evaluate")
    content = read_json(path)
    if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (FORMAT, VERSION):
        raise SMCDError(f"{path}: not of the format {FORMAT}, version {VERSION}; evaluate again")
    try:
        return Results(
            evaluation={name: content[name] for name in ("list", "records", "max_objects", "videos")},
            clips=tuple(ClipRow(**{**clip, "labels": tuple(clip["labels"])}) for clip in content["clips"]),
            faults=tuple(Fault(**fault) for fault in content["faults"]),
            notes=tuple(content["notes"]),
            figures=tuple(Figure.from_dict(figure) for figure in content["measures"]),
        )
    except (KeyError, TypeError) as error:
        raise SMCDError(f"{path}: damaged ({error}); evaluate again") from error


def in_digits(value: float | None) -> str:
    """A figure for people: four digits that count."""
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"


def fault_lines(faults: Sequence[Fault]) -> list[str]:
    """One line for each kind of fault: how many, and the first."""
    kinds = sorted({fault.kind for fault in faults})
    lines = []
    for kind in kinds:
        of_kind = [fault for fault in faults if fault.kind == kind]
        names = ", ".join(fault.clip_id for fault in of_kind[:5])
        more = ", ..." if len(of_kind) > 5 else ""
        lines.append(f"{len(of_kind)} clips with {kind} ({names}{more}); the first: {of_kind[0].reason}")
    return lines


def _cells(figure: Figure) -> list[str]:
    measure = figure.measure
    interval = "-" if measure.interval is None else "..".join(map(in_digits, measure.interval))
    beside = [in_digits(figure.references.get(version)) for version in REFERENCES]
    return [measure.name, measure.better, in_digits(measure.value), interval, *beside, str(measure.count)]
