"""Owns evaluation lists: fixed files that say which windows of which clips a model is judged on, and with which seeds.

`NAME.json` (format `smcd-evaluation`, version 1): `records` (name and split), `frames` of a window, `entries` of
`clip_id`, `start` (first frame) and `seed` (of the sample), and `sha256` of all the rest, so that two results with the
same hash beside them are of the same examples. Entries stand in random order: the first hundred are as good as any.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.examples import ExampleSource
from data_pipeline.order.permutation import below, fold, permute
from data_pipeline.order.windows import eligible_clips, window_start
from data_pipeline.records.reader import RecordFolder
from data_pipeline.records.schema import BadClip
from smcd_jax.errors import SMCDError
from smcd_jax.files import write_json
from smcd_jax.files.text_files import read_json

FORMAT, VERSION = "smcd-evaluation", 1
_CLIPS, _STARTS, _SEEDS, _EXAMPLE = 31, 32, 33, 34  # what a number drawn for a list is used for


@dataclass(frozen=True)
class EvaluationEntry:
    """One example: a window of a clip, and the seed of the sample made for it."""

    clip_id: str
    start: int
    seed: int


@dataclass(frozen=True)
class EvaluationList:
    """What a model is judged on.

    Attributes:
        name: of the data set.
        split: of the data set.
        frames: of every window.
        entries: the examples.
    """

    name: str
    split: str
    frames: int
    entries: tuple[EvaluationEntry, ...]

    @property
    def sha256(self) -> str:
        """Hash of all of it; of the list's content, not of its file."""
        return hashlib.sha256(json.dumps(self._content(), sort_keys=True, ensure_ascii=True).encode()).hexdigest()

    def write(self, path: Path) -> Path:
        """Writes the file.

        Raises:
            SMCDError: it cannot be written.
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
    """Draws a list: each clip once at most, its window and seed at random, all from ``seed`` alone.

    Args:
        records: the split to judge on; clips with fewer frames than a window are left out.
        frames: of a window.
        count: of the examples; by default one for each clip.
        seed: the same seed over the same records draws the same list.

    Raises:
        SMCDError: there are fewer clips than that.
    """
    lengths = records.index["frames"].astype(np.int64)
    clips = eligible_clips(lengths, frames, "leave_out")
    count = len(clips) if count is None else count
    if not 1 <= count <= len(clips):
        raise SMCDError(
            f"{records.folder}: split {records.split!r} has {len(clips)} clips of {frames} frames or more; "
            f"{count} cannot be drawn"
        )
    chosen = clips[permute(np.arange(count), len(clips), fold(seed, _CLIPS))]
    starts = window_start(fold(seed, _STARTS, np.arange(count)), lengths[chosen], frames)
    seeds = below(fold(seed, _SEEDS, np.arange(count)), 2**31)
    drawn = zip(chosen.tolist(), starts.tolist(), seeds.tolist(), strict=True)
    entries = tuple(EvaluationEntry(records.clip_ids[clip], start, number) for clip, start, number in drawn)
    return EvaluationList(records.name, records.split, frames, entries)


def read_evaluation_list(path: Path) -> EvaluationList:
    """Reads a list and compares it with its hash.

    Raises:
        SMCDError: not a list, of another version, or changed since it was written.
    """
    content = read_json(Path(path))
    if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (FORMAT, VERSION):
        raise SMCDError(f"{path}: not an evaluation list of version {VERSION} (format {FORMAT!r}): make it again")
    try:
        entries = tuple(EvaluationEntry(**entry) for entry in content["entries"])
        records = content["records"]
        evaluation = EvaluationList(records["name"], records["split"], content["frames"], entries)
    except (KeyError, TypeError) as error:
        raise SMCDError(f"{path}: damaged evaluation list ({error}): make it again") from error
    if evaluation.sha256 != content.get("sha256"):
        raise SMCDError(f"{path}: changed since it was written (its sha256 does not fit): fetch it again")
    return evaluation


def evaluation_batch(
    source: ExampleSource, evaluation: EvaluationList, entries: Sequence[EvaluationEntry]
) -> dict[str, np.ndarray]:
    """The arrays of some entries of a list, as `data_pipeline.batches` has them for training.

    What else is drawn for an example (the noise of its latents) is a function of its seed.

    Raises:
        SMCDError: a clip is missing, shorter than the list says, or damaged; the source is of other data or windows.
            Nothing is replaced: a judgement on other examples would be another number.
    """
    _check_source(source, evaluation)
    positions = {clip_id: position for position, clip_id in enumerate(source.clip_ids)}
    arrays = {name: np.zeros((len(entries), *spec.shape), spec.dtype) for name, spec in source.specs().items()}
    for row, entry in enumerate(entries):
        clip = positions.get(entry.clip_id)
        if clip is None or entry.start + evaluation.frames > source.num_frames[clip]:
            raise SMCDError(
                f"{source.name}: has no {evaluation.frames} frames from {entry.start} on of clip {entry.clip_id!r}, "
                "which the evaluation list wants: prepare the same data"
            )
        try:
            views = {name: array[row] for name, array in arrays.items()}
            source.fill(views, clip=clip, start=entry.start, key=fold(entry.seed, _EXAMPLE)[()])
        except BadClip as error:
            raise SMCDError(f"{source.name}: clip {entry.clip_id!r} is damaged: {error.reason}") from error
    return {name: np.asarray(tensor) for name, tensor in source.finish(arrays).items()}


def _check_source(source: ExampleSource, evaluation: EvaluationList) -> None:
    wanted = f"{evaluation.name} ({evaluation.split})"
    if source.name != wanted:
        raise SMCDError(f"the evaluation list is of {wanted}, not of {source.name}: give the data it was made for")
    if source.size.frames != evaluation.frames:
        raise SMCDError(
            f"the evaluation list is of windows of {evaluation.frames} frames, the examples are of {source.size.frames}"
        )
