"""Clips of an evaluation and their videos: the generated ones, the real ones, and two baselines.

Each clip has four versions. `GENERATED` is the video under test and `REAL` the recorded clip, an upper bound for most
metrics. The baselines are `STILL`, the first frame repeated, and `SLID`, the crop of each object's first box pasted
along its boxes, with the background behind it filled (`smcd_jax.evaluation.metrics.baselines`).
"""

from __future__ import annotations

import hashlib
import logging
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
from smcd_jax.tracks import BoxTracks

logger = logging.getLogger(__name__)

GENERATED, REAL, STILL, SLID = "generated", "real", "still", "slid"
REFERENCES = (REAL, STILL, SLID)
VIDEO_SUFFIXES = (".mp4", ".webm", ".mov", ".mkv", ".avi", ".gif", ".webp", ".m4v")
UNREADABLE = ("unreadable video", "fewer frames than boxes")  # kinds of faults in existing files
_CACHE_BYTES = 1 << 30  # limit of the decoded frames kept in memory between metrics; further clips are read again

Video = UInt8[np.ndarray, "f h w 3"]


class Fault(NamedTuple):
    """Reason why a clip, or some of its metrics, is missing from the results.

    Attributes:
        clip_id: Id of the clip.
        kind: Short description, the same for all clips with this fault.
        reason: Full description on one line, without local paths.
    """

    clip_id: str
    kind: str
    reason: str


@dataclass(frozen=True, eq=False)
class EvalClip:
    """A window of a recorded clip: the inputs of the model, and what its video should show.

    Attributes:
        clip_id: Id of the record.
        start: Index of the window's first frame in the record.
        seed: Seed of the sample.
        caption: Prompt; may be empty.
        labels: Label of each object present in the window.
        boxes: Boxes that the video should follow, xyxy in 0..1 of the picture.
        mask: True where an object is present.
        objects: Indices of these objects in the record.
        encoded: Real frames as JPEG or PNG bytes.
        given: Tracks passed to the model if an intervention changes them; None if they are boxes, mask and labels.
        recorded: Clip before the intervention; None without an intervention (`smcd_jax.evaluation.interventions`).
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
    given: BoxTracks | None = None
    recorded: EvalClip | None = None

    @property
    def tracks(self) -> BoxTracks:
        """Tracks that the model receives."""
        return self.given or BoxTracks(self.boxes, self.mask, self.labels)

    def real(self, height: int, width: int) -> Video:
        """Returns the real frames, resized to this height and width; the aspect ratio is not kept.

        Raises:
            BadClip: A frame is damaged.
        """
        where = f"clip {self.clip_id}, frame"
        return np.stack(
            [
                decode_frame(frame, height=height, width=width, where=f"{where} {self.start + index}")
                for index, frame in enumerate(self.encoded)
            ]
        )


def check_list(evaluation: EvaluationList, records: RecordFolder, where: str) -> None:
    """Checks that a list can be evaluated on these records.

    Args:
        evaluation: List to check.
        records: Records of the list's split.
        where: File of the list, for messages.

    Raises:
        SMCDError: The list is empty, belongs to other records, repeats a clip, or holds an id that is not a file name.
    """
    if not evaluation.entries:
        raise SMCDError(f"{where}: the list contains no clips; create it again with --make_list N", path=where)
    if (evaluation.name, evaluation.split) != (records.name, records.split):
        raise SMCDError(
            f"{where}: the list belongs to {evaluation.name} ({evaluation.split}), but the records are {records.name} "
            f"({records.split}); pass the --data and --split that it was made for",
            argument="split",
            path=where,
            value=records.split,
        )
    ids = [entry.clip_id for entry in evaluation.entries]
    for clip_id in ids:
        if not clip_id or PurePosixPath(clip_id).is_absolute() or ".." in PurePosixPath(clip_id).parts:
            raise SMCDError(
                f"{where}: clip id must be a relative file name, got {clip_id!r}; rename the clip in its data set",
                argument="clip_id",
                path=where,
                value=clip_id,
            )
    if len(set(ids)) < len(ids):
        twice = next(clip_id for clip_id in ids if ids.count(clip_id) > 1)
        raise SMCDError(
            f"{where}: clip {twice!r} is in the list twice; remove one of the entries",
            argument="clip_id",
            path=where,
            value=twice,
        )


def read_eval_clip(
    records: RecordFolder, entry: EvaluationEntry, *, frames: int, max_objects: int, need_boxes: bool = False
) -> EvalClip:
    """Reads the window that an entry of an evaluation list names.

    Args:
        records: Records of the list.
        entry: Entry of the list.
        frames: Number of frames in the window.
        max_objects: Maximum number of objects; the ones present in most frames are kept (`choose_objects`).
        need_boxes: Whether a clip without boxes or caption is rejected, because a model cannot make a video of it.

    Raises:
        BadClip: The clip does not exist, is damaged, has a box without area, or lacks what `need_boxes` requires.
    """
    try:
        position = records.position(entry.clip_id)
    except SMCDError as error:
        raise BadClip(f"clip {entry.clip_id}: not in the records", kind="not in the records") from error
    stored = int(records.index["frames"][position])
    if entry.start < 0 or entry.start + frames > stored:
        raise BadClip(
            f"clip {entry.clip_id}: the record has {stored} frames, but the list needs frames {entry.start} to "
            f"{entry.start + frames - 1}",
            kind="too few frames in the record",
        )
    window = records.window(position, entry.start, frames)
    objects = choose_objects(window.boxes, window.mask, max_objects)[0]
    if need_boxes and not window.caption.strip():
        raise BadClip(f"clip {entry.clip_id}: no caption to use as prompt", kind="no caption")
    if need_boxes and len(objects) == 0:
        raise BadClip(
            f"clip {entry.clip_id}: no box in frames {entry.start} to {entry.start + frames - 1}", kind="no box"
        )
    return EvalClip(
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


def read_eval_clips(
    records: RecordFolder, evaluation: EvaluationList, *, max_objects: int, need_boxes: bool
) -> tuple[list[EvalClip], list[Fault]]:
    """Reads all windows of a list, in its order; returns them and the faults of the others (see `read_eval_clip`)."""
    clips, faults = [], []
    limits = {"frames": evaluation.frames, "max_objects": max_objects, "need_boxes": need_boxes}
    for entry in evaluation.entries:
        try:
            clips.append(read_eval_clip(records, entry, **limits))
        except BadClip as error:
            faults.append(_fault(entry.clip_id, error, records.folder))
    return clips, faults


def video_path(folder: Path, clip_id: str) -> Path | None:
    """Returns the path of a clip's video, ``CLIP_ID`` with a suffix, or of its folder of frames; None if missing."""
    if (folder / clip_id).is_dir():
        return folder / clip_id
    files = (folder / f"{clip_id}{suffix}" for suffix in VIDEO_SUFFIXES)
    return next((path for path in files if path.is_file()), None)


def read_clip_video(folder: Path, clip: EvalClip) -> tuple[Video, bool]:
    """Reads the first frames of a clip's video, one per frame of its boxes.

    Returns:
        The frames, and whether the video has more.

    Raises:
        BadClip: The video is missing, damaged or too short.
    """
    path = video_path(folder, clip.clip_id)
    if path is None:
        raise BadClip(f"clip {clip.clip_id}: no video", kind="no video")
    try:
        video, _ = read_video(path)
    except SMCDError as error:
        raise BadClip(f"clip {clip.clip_id}: {error}", kind=UNREADABLE[0]) from error
    required = len(clip.boxes)
    if len(video) < required:
        raise BadClip(
            f"clip {clip.clip_id}: the video has {len(video)} frames, the boxes {required}", kind=UNREADABLE[1]
        )
    return video[:required], len(video) > required


class VideoStore:
    """The measurable clips of an evaluation with their videos, in the order of the list.

    Attributes:
        clips: Clips that can be measured.
        frames: Number of frames of every clip.
        faults: Faults of the other clips, and what the measurable ones lack.
        notes: Changes made to videos so that they could be measured.
        sha256: Hash of all frames of all videos under test.
    """

    def __init__(self, clips: Sequence[EvalClip], folder: Path, *, faults: Sequence[Fault] = (), progress: Progress):
        """Reads every video once.

        Args:
            clips: Windows with the same number of frames each.
            folder: Folder of the videos (see `video_path`).
            faults: Faults found before.
            progress: Progress reporting, advanced once per clip.

        Raises:
            SMCDError: The folder does not exist, or no clip can be measured.
        """
        if not folder.is_dir():
            raise SMCDError(
                f"{folder}: no such folder; it must hold CLIP_ID.mp4 or a folder of frames for each clip",
                argument="videos",
                path=folder,
            )
        self._folder = folder
        self._cache: dict[str, tuple[Video, Video]] = {}
        self._cache_bytes = 0
        self.clips: list[EvalClip] = []
        self.faults = list(faults)
        longer, digest = [], hashlib.sha256()
        with progress.stage("read videos", len(clips), "clip") as advance:
            for clip in clips:
                try:
                    video, has_more = read_clip_video(folder, clip)
                    real = clip.real(*video.shape[1:3])
                except BadClip as error:
                    self.faults.append(_fault(clip.clip_id, error, folder))
                else:
                    self._add(clip, video, real)
                    longer += [clip.clip_id] * has_more
                    digest.update(f"{clip.clip_id} {video.shape} ".encode() + video.tobytes())
                advance()
        if not self.clips:
            first = f", the first: {self.faults[0].reason}" if self.faults else ""
            raise SMCDError(f"{folder}: none of {len(self.faults)} clips can be measured{first}", path=folder)
        self.frames = len(self.clips[0].boxes)
        self.sha256 = digest.hexdigest()
        self.notes = []
        if longer:
            self.notes.append(
                f"{len(longer)} videos have more than {self.frames} frames (such as {longer[0]}); only the first "
                f"{self.frames} were measured, which show other moments than the boxes if the videos were resampled"
            )
            logger.warning("%s", self.notes[-1])

    def __len__(self) -> int:
        return len(self.clips)

    def pairs(self) -> Iterator[tuple[EvalClip, Mapping[str, Video]]]:
        """Yields each clip with its videos by version, all of the size of the generated one."""
        for clip in self.clips:
            video, real = self._cache.get(clip.clip_id) or self._read(clip)
            yield (
                clip,
                {
                    GENERATED: video,
                    REAL: real,
                    STILL: still_first_frame(real[0], self.frames),
                    SLID: slid_crop(real[0], clip.boxes, clip.mask),
                },
            )

    def _add(self, clip: EvalClip, video: Video, real: Video) -> None:
        self.clips.append(clip)
        if self._cache_bytes + 2 * video.nbytes <= _CACHE_BYTES:
            self._cache[clip.clip_id] = (video, real)
            self._cache_bytes += 2 * video.nbytes
        if not clip.caption.strip():
            self.faults.append(Fault(clip.clip_id, "no caption", f"clip {clip.clip_id}: no caption to compare with"))
        if not clip.objects:
            self.faults.append(Fault(clip.clip_id, "no box", f"clip {clip.clip_id}: no box in the frames of the list"))

    def _read(self, clip: EvalClip) -> tuple[Video, Video]:
        video = read_clip_video(self._folder, clip)[0]
        return video, clip.real(*video.shape[1:3])


def _fault(clip_id: str, error: BadClip, folder: Path) -> Fault:
    return Fault(clip_id, error.kind, error.reason.replace(f"{folder}/", ""))
