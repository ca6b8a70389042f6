"""Report of a prepared data set: counts of clips, frames and objects, and skipped clips, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

EXAMPLES_SHOWN = 3


@dataclass
class Skipped:
    """Clips skipped for one kind of fault.

    Attributes:
        clips: Number of clips.
        examples: Reasons of the first clips, at most `EXAMPLES_SHOWN`.
    """

    clips: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass
class SplitReport:
    """Counts of one split.

    Attributes:
        clips: Number of clips written.
        frames: Number of frames in those clips.
        objects: Number of objects in those clips, including absent ones.
        boxes: Number of boxes of present objects over all frames.
        bytes: Size of the shards.
        skipped: Skipped clips by kind of fault.
        notes: Number of clips changed, by kind of change.
    """

    clips: int = 0
    frames: int = 0
    objects: int = 0
    boxes: int = 0
    bytes: int = 0
    skipped: dict[str, Skipped] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)

    @property
    def skipped_clips(self) -> int:
        """Number of clips left out of the records."""
        return sum(entry.clips for entry in self.skipped.values())

    def add(self, part: Mapping[str, Any]) -> None:
        """Adds the counts of a shard (`shards.write_shard`)."""
        self.clips += len(part["clip_ids"])
        self.frames += sum(part["frames"])
        self.objects += sum(part["objects"])
        self.boxes += part["boxes"]
        self.bytes += part["bytes"]
        for entry in part["skipped"]:
            skipped = self.skipped.setdefault(entry["kind"], Skipped())
            skipped.clips += 1
            if len(skipped.examples) < EXAMPLES_SHOWN:
                skipped.examples.append(entry["reason"])
        for note, count in part["notes"].items():
            self.notes[note] = self.notes.get(note, 0) + count


@dataclass
class Report:
    """Counts of a data set.

    Attributes:
        name: Name of the data set.
        splits: Counts by split.
        raw_notes: Notes on the raw data (`builders.RawReport`).
    """

    name: str
    splits: dict[str, SplitReport]
    raw_notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, parts: Mapping[str, Iterable[Mapping[str, Any]]], raw_notes: Iterable[str]) -> Report:
        """Sums the descriptions of shards, given by split in order."""
        splits = {split: SplitReport() for split in parts}
        for split, shards in parts.items():
            for part in shards:
                splits[split].add(part)
        return cls(name, splits, tuple(raw_notes))

    @property
    def clips(self) -> int:
        """Number of clips written in all splits."""
        return sum(split.clips for split in self.splits.values())

    @property
    def skipped_clips(self) -> int:
        """Number of clips skipped in all splits."""
        return sum(split.skipped_clips for split in self.splits.values())

    def to_json(self) -> dict[str, Any]:
        """Returns the report as JSON values."""
        return {
            "name": self.name,
            "raw_notes": list(self.raw_notes),
            "splits": {
                split: {
                    "clips": counts.clips,
                    "frames": counts.frames,
                    "objects": counts.objects,
                    "boxes": counts.boxes,
                    "bytes": counts.bytes,
                    "skipped": {
                        kind: {"clips": entry.clips, "examples": entry.examples}
                        for kind, entry in sorted(counts.skipped.items())
                    },
                    "notes": dict(sorted(counts.notes.items())),
                }
                for split, counts in self.splits.items()
            },
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Report:
        """Rebuilds a report from the values of `to_json`."""
        splits = {}
        for split, counts in content["splits"].items():
            skipped = {kind: Skipped(**entry) for kind, entry in counts["skipped"].items()}
            splits[split] = SplitReport(**{**counts, "skipped": skipped})
        return cls(content["name"], splits, tuple(content["raw_notes"]))

    def lines(self) -> list[str]:
        """Returns the counts as lines of text."""
        lines = []
        for split, counts in self.splits.items():
            lines.append(
                f"{self.name} {split}: {counts.clips} clips, {counts.frames} frames, {counts.objects} objects, "
                f"{counts.boxes} boxes, {counts.bytes / 1e6:.1f} MB; {counts.skipped_clips} clips skipped"
            )
            for kind, entry in sorted(counts.skipped.items()):
                lines.append(f"  skipped {entry.clips}: {kind}, for example {entry.examples[0]}")
            lines += [f"  {count} clips: {note}" for note, count in sorted(counts.notes.items())]
        return lines
