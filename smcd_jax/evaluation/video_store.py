"""Owns the clips of an evaluation: what each was to show, the real frames, the videos measured, and what is unusable.

Besides the videos to be measured (`GENERATED`) each clip comes in three more versions made from the real one, which
every figure stands beside: `REAL`, the ceiling, and two floors, `STILL` (the first frame, held) and `SLID` (each
object's first box cut out, the place behind it filled smoothly, and pasted along the boxes).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from data_pipeline.evaluation_lists import EvaluationEntry, EvaluationList
from data_pipeline.records.reader import RecordFolder
from data_pipeline.records.schema import BadClip
from data_pipeline.transforms import choose_objects, decode_frame
from smcd_jax.errors import SMCDError
from smcd_jax.evaluation.metrics.baselines import slid_crop, still_first_frame
from smcd_jax.media import read_video
from smcd_jax.runtime.progress import Progress

GENERATED, REAL, STILL, SLID = "generated", "real", "still", "slid"
REFERENCES = (REAL, STILL, SLID)
VIDEO_SUFFIXES = (".mp4", ".webm", ".mov", ".mkv", ".avi", ".gif", ".webp", ".m4v")
UNREADABLE = ("unreadable video", "fewer frames than boxes")  # kinds of faults of files that are there
_KEPT_BYTES = 1 << 30  # of decoded frames that stay in memory between measures; further clips are read again

Video = UInt8[np.ndarray, "f h w 3"]


class Fault(NamedTuple):
    """Why a clip, or a part of its measures, is missing from the result.

    Attributes:
        clip_id: of the clip.
        kind: in a few words, the same for all clips with this fault.
        reason: in a line, without the folders of this machine.
    """

    clip_id: str
    kind: str
    reason: str


@dataclass(frozen=True, eq=False)
class AskedClip:
    """A window of a clip: what a model is given, and what its video should show.

    Attributes:
        clip_id: of the record.
        start: first frame of the window in the record.
        seed: of the sample.
        caption: the prompt; may be empty.
        labels: of the objects, those present in the window.
        boxes: x1, y1, x2, y2 in 0..1 of the picture.
        mask: where an object is present.
        objects: which of the record's objects these are.
        encoded: the real frames, jpeg or png.
    """

    clip_id: str
    start: int
    seed: int
    caption: str
    labels: tuple[str, ...]
    boxes: Float32[np.ndarray, "f n 4"]
    mask: Bool[np.ndarray, "f n"]
    objects: tuple[int, ...]
    encoded: tuple[bytes, ...] = field(repr=False)

    def real(self, height: int, width: int) -> Video:
        """The real frames, resized without keeping the aspect.

        Raises:
            BadClip: a frame is damaged.
        """
        where = f"clip {self.clip_id}, frame"
        return np.stack(
            [
                decode_frame(frame, height=height, width=width, where=f"{where} {self.start + index}")
                for index, frame in enumerate(self.encoded)
            ]
        )


def check_list(evaluation: EvaluationList, records: RecordFolder, where: str) -> None:
    """Refuses a list that cannot be evaluated on these records; ``where`` names it.

    Raises:
        SMCDError: it is empty, of other records, names a clip twice, or holds an id that cannot name a file.
    """
    if not evaluation.entries:
        raise SMCDError(f"{where}: the list holds no clips; make it anew with --make_list N")
    if (evaluation.name, evaluation.split) != (records.name, records.split):
        raise SMCDError(
            f"{where}: the list is of {evaluation.name} ({evaluation.split}), the records are {records.name} "
            f"({records.split}); give the data and the --split that it was made for"
        )
    ids = [entry.clip_id for entry in evaluation.entries]
    for clip_id in ids:
        if not clip_id or PurePosixPath(clip_id).is_absolute() or ".." in PurePosixPath(clip_id).parts:
            raise SMCDError(f"{where}: clip id {clip_id!r} cannot name a file; rename the clip in its data set")
    if len(set(ids)) < len(ids):
        twice = next(clip_id for clip_id in ids if ids.count(clip_id) > 1)
        raise SMCDError(f"{where}: clip {twice!r} stands in the list twice; results are kept by clip, keep one of them")


def read_asked(
    records: RecordFolder, entry: EvaluationEntry, *, frames: int, max_objects: int, need_boxes: bool = False
) -> AskedClip:
    """The window that an entry of a list names.

    Args:
        records: of the list.
        entry: of the list.
        frames: of the window.
        max_objects: of more that are present, those in most frames are taken (`choose_objects`).
        need_boxes: a clip without boxes or caption cannot be used: a model is to make a video of it.

    Raises:
        BadClip: no such clip, a record that is damaged or has a box without area, or what ``need_boxes`` says.
    """
    try:
        position = records.position(entry.clip_id)
    except SMCDError as error:
        raise BadClip(f"clip {entry.clip_id}: not in the records", kind="not in the records") from error
    stored = int(records.index["frames"][position])
    if entry.start < 0 or entry.start + frames > stored:
        raise BadClip(
            f"clip {entry.clip_id}: has {stored} frames, the list wants {frames} from {entry.start} on",
            kind="too few frames in the record",
        )
    window = records.window(position, entry.start, frames)
    objects = choose_objects(window.boxes, window.mask, max_objects)[0]
    if need_boxes and not window.caption.strip():
        raise BadClip(f"clip {entry.clip_id}: no caption to make a video of", kind="no caption")
    if need_boxes and len(objects) == 0:
        raise BadClip(f"clip {entry.clip_id}: no box in frames {entry.start} to {entry.start + frames}", kind="no box")
    return AskedClip(
        clip_id=entry.clip_id,
        start=entry.start,
        seed=entry.seed,
        caption=window.caption,
        labels=tuple(window.labels[item] for item in objects),
        boxes=window.boxes[:, objects],
        mask=window.mask[:, objects],
        objects=tuple(objects.tolist()),
        encoded=window.frames,
    )


def read_all_asked(
    records: RecordFolder, evaluation: EvaluationList, *, max_objects: int, need_boxes: bool
) -> tuple[list[AskedClip], list[Fault]]:
    """All windows of a list in its order, and what is wrong with the others (see `read_asked`)."""
    asked, faults = [], []
    for entry in evaluation.entries:
        try:
            asked.append(
                read_asked(records, entry, frames=evaluation.frames, max_objects=max_objects, need_boxes=need_boxes)
            )
        except BadClip as error:
            faults.append(_fault(entry.clip_id, error, records.folder))
    return asked, faults


def video_path(folder: Path, clip_id: str) -> Path | None:
    """Where a clip's video is in a folder: ``CLIP_ID.mp4`` (or another suffix), or a folder of frames ``CLIP_ID``."""
    if (folder / clip_id).is_dir():
        return folder / clip_id
    found = (folder / f"{clip_id}{suffix}" for suffix in VIDEO_SUFFIXES)
    return next((path for path in found if path.is_file()), None)


class ClipStore:
    """The clips of an evaluation that can be measured, in the order of the list.

    Attributes:
        clips: that can be.
        frames: of every one.
        faults: why others cannot, and what those here lack.
        notes: what was done to videos so that they could be measured.
        sha256: of all frames of all videos measured: the same videos, the same hash.
    """

    def __init__(self, asked: Sequence[AskedClip], folder: Path, *, faults: Sequence[Fault] = (), progress: Progress):
        """Reads every video once.

        Args:
            asked: the windows, of one number of frames.
            folder: of the videos, see `video_path`.
            faults: found so far.
            progress: told of each clip.

        Raises:
            SMCDError: no such folder, or none of the clips can be measured.
        """
        if not folder.is_dir():
            raise SMCDError(f"{folder}: no such folder; it must hold CLIP_ID.mp4 or a folder of frames for each clip")
        self._folder = folder
        self._kept: dict[str, tuple[Video, Video]] = {}
        self._kept_bytes = 0
        self.clips: list[AskedClip] = []
        self.faults = list(faults)
        longer, digest = [], hashlib.sha256()
        with progress.stage("read videos", len(asked), "clip") as advance:
            for clip in asked:
                try:
                    video, more = _read_video(folder, clip)
                    real = clip.real(*video.shape[1:3])
                except BadClip as error:
                    self.faults.append(_fault(clip.clip_id, error, folder))
                else:
                    self._admit(clip, video, real)
                    longer += [clip.clip_id] * more
                    digest.update(f"{clip.clip_id} {video.shape} ".encode() + video.tobytes())
                advance()
        if not self.clips:
            first = f", the first: {self.faults[0].reason}" if self.faults else ""
            raise SMCDError(f"{folder}: none of {len(self.faults)} clips can be measured{first}")
        self.frames = len(self.clips[0].boxes)
        self.sha256 = digest.hexdigest()
        self.notes = []
        if longer:
            first = f"of {len(longer)} longer videos the first {self.frames} frames were measured"
            self.notes.append(f"{first}, such as {longer[0]}")

    def __len__(self) -> int:
        return len(self.clips)

    def pairs(self) -> Iterator[tuple[AskedClip, Mapping[str, Video]]]:
        """Each clip with its videos by version; the real and made ones have the size of the measured one."""
        for clip in self.clips:
            video, real = self._kept.get(clip.clip_id) or self._read(clip)
            yield (
                clip,
                {
                    GENERATED: video,
                    REAL: real,
                    STILL: still_first_frame(real[0], self.frames),
                    SLID: slid_crop(real[0], clip.boxes, clip.mask, fill=True),
                },
            )

    def _admit(self, clip: AskedClip, video: Video, real: Video) -> None:
        self.clips.append(clip)
        if self._kept_bytes + 2 * video.nbytes <= _KEPT_BYTES:
            self._kept[clip.clip_id] = (video, real)
            self._kept_bytes += 2 * video.nbytes
        if not clip.caption.strip():
            self.faults.append(Fault(clip.clip_id, "no caption", f"clip {clip.clip_id}: no caption to compare with"))
        if not clip.objects:
            self.faults.append(Fault(clip.clip_id, "no box", f"clip {clip.clip_id}: no box in the frames of the list"))

    def _read(self, clip: AskedClip) -> tuple[Video, Video]:
        video = _read_video(self._folder, clip)[0]
        return video, clip.real(*video.shape[1:3])


def _read_video(folder: Path, clip: AskedClip) -> tuple[Video, bool]:
    """The first frames of the clip's video, as many as boxes, and whether it has more."""
    path = video_path(folder, clip.clip_id)
    if path is None:
        raise BadClip(f"clip {clip.clip_id}: no video", kind="no video")
    try:
        video, _ = read_video(path)
    except SMCDError as error:
        raise BadClip(f"clip {clip.clip_id}: {error}", kind=UNREADABLE[0]) from error
    wanted = len(clip.boxes)
    if len(video) < wanted:
        raise BadClip(f"clip {clip.clip_id}: {len(video)} frames for boxes of {wanted}", kind=UNREADABLE[1])
    return video[:wanted], len(video) > wanted


def _fault(clip_id: str, error: BadClip, folder: Path) -> Fault:
    return Fault(clip_id, error.kind, error.reason.replace(f"{folder}/", ""))
