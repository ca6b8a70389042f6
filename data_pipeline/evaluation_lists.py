"""Evaluation lists: files that fix the windows and seeds on which a model is evaluated.

`NAME.json` (format `smcd-evaluation`, version 1) holds `records` (name and split), `frames` per window, `entries` of
`clip_id`, `start` (first frame) and `seed` (of the sample), and the `sha256` of everything else: two results with the
same hash were measured on the same examples. Entries are in random order, so any prefix is a random sample.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.order.permutation import below, fold, permute
from data_pipeline.order.windows import eligible_clips, window_start
from data_pipeline.records.reader import RecordFolder
from smcd_jax.errors import SMCDError
from smcd_jax.files import write_json
from smcd_jax.files.text_files import read_json

FORMAT, VERSION = "smcd-evaluation", 1
_CLIPS, _STARTS, _SEEDS = 31, 32, 33  # stream ids for `fold`


@dataclass(frozen=True)
class EvaluationEntry:
    """One example of an evaluation list.

    Attributes:
        clip_id: Id of the clip.
        start: First frame of the window.
        seed: Seed of the sample made for it.
    """

    clip_id: str
    start: int
    seed: int


@dataclass(frozen=True)
class EvaluationList:
    """Examples on which a model is evaluated.

    Attributes:
        name: Name of the data set.
        split: Split of the data set.
        frames: Number of frames per window.
        entries: Examples in random order.
    """

    name: str
    split: str
    frames: int
    entries: tuple[EvaluationEntry, ...]

    @property
    def sha256(self) -> str:
        """Hash of the list's contents, independent of the file's formatting."""
        return hashlib.sha256(json.dumps(self._content(), sort_keys=True, ensure_ascii=True).encode()).hexdigest()

    def write(self, path: Path) -> Path:
        """Writes the list to a file and returns its path.

        Raises:
            SMCDError: The file cannot be written.
        """
        return write_json(path, self._content() | {"sha256": self.sha256})

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "records": {"name": self.name, "split": self.split},
            "frames": self.frames,
            "entries": [asdict(entry) for entry in self.entries],
        }


def make_evaluation_list(
    records: RecordFolder, *, frames: int, count: int | None = None, seed: int = 0
) -> EvaluationList:
    """Draws an evaluation list with random windows and sample seeds, each clip at most once.

    Args:
        records: Split to evaluate on; clips shorter than a window are left out.
        frames: Number of frames per window.
        count: Number of examples; None for one per clip.
        seed: Seed of the list; the same seed and records give the same list.

    Raises:
        SMCDError: The split has fewer than `count` clips of this length.
    """
    lengths = records.index["frames"].astype(np.int64)
    clips = eligible_clips(lengths, frames, "leave_out")
    count = len(clips) if count is None else count
    if not 1 <= count <= len(clips):
        raise SMCDError(
            f"{records.folder}: count must be from 1 to {len(clips)}, the clips of split {records.split!r} with at "
            f"least {frames} frames, got {count}",
            argument="count",
            path=records.folder,
            value=count,
        )
    chosen = clips[permute(np.arange(count), len(clips), fold(seed, _CLIPS))]
    starts = window_start(fold(seed, _STARTS, np.arange(count)), lengths[chosen], frames)
    seeds = below(fold(seed, _SEEDS, np.arange(count)), 2**31)
    rows = zip(chosen.tolist(), starts.tolist(), seeds.tolist(), strict=True)
    entries = tuple(EvaluationEntry(records.clip_ids[clip], start, number) for clip, start, number in rows)
    return EvaluationList(records.name, records.split, frames, entries)


def read_evaluation_list(path: Path) -> EvaluationList:
    """Reads an evaluation list and verifies its hash.

    Raises:
        SMCDError: The file is not an evaluation list, has another version, or does not match its hash.
    """
    content = read_json(Path(path))
    if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (FORMAT, VERSION):
        raise SMCDError(
            f"{path}: not an evaluation list of format {FORMAT!r}, version {VERSION}; make it again",
            argument="format",
            path=path,
        )
    try:
        entries = tuple(EvaluationEntry(**entry) for entry in content["entries"])
        records = content["records"]
        evaluation = EvaluationList(records["name"], records["split"], content["frames"], entries)
    except (KeyError, TypeError) as error:
        raise SMCDError(f"{path}: damaged evaluation list ({error}); make it again", path=path) from error
    if evaluation.sha256 != content.get("sha256"):
        raise SMCDError(f"{path}: the list does not match its sha256; make it again", argument="sha256", path=path)
    return evaluation
