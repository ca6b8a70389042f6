"""Looking at prepared records: a sheet of clips with their boxes, labels and captions, and a check of every record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from data_pipeline.records.frames import decode_frame
from data_pipeline.records.reader import RecordFolder
from data_pipeline.records.schema import BadClip, Clip
from smcd_jax.errors import SMCDError
from smcd_jax.media import contact_sheet, draw_boxes, resize_picture


def sheet(
    records: RecordFolder, positions: Sequence[int], *, frames: int = 8, height: int = 160
) -> tuple[UInt8[np.ndarray, "H W 3"], list[str]]:
    """A contact sheet of clips, one below the other, each under its id and caption.

    Args:
        records: a split of a record folder.
        positions: of the clips.
        frames: the most frames of a clip to show, spread evenly from its first to its last.
        height: of a frame in the sheet, in pixels.

    Returns:
        The sheet, and one line for each clip that could not be read.

    Raises:
        SMCDError: no clip could be read.
    """
    videos, captions, faults = [], [], []
    for position in positions:
        try:
            clip = records.clip(position)
            videos.append(_drawn(clip, frames, height))
        except BadClip as error:
            faults.append(error.reason)
            continue
        caption = clip.caption.strip() or "(no caption)"
        captions.append(f"{clip.clip_id}: {caption} [{clip.num_frames} frames, {clip.width} x {clip.height}]")
    if not videos:
        raise SMCDError(f"{records.folder}: none of {len(positions)} clips can be read, the first: {faults[0]}")
    return contact_sheet(videos, captions=captions), faults


def spread_positions(records: RecordFolder, count: int) -> list[int]:
    """At most `count` positions, spread evenly over the split.

    Raises:
        SMCDError: the split is empty.
    """
    if len(records) == 0:
        raise SMCDError(f"{records.folder}: split {records.split!r} holds no clip")
    return sorted({len(records) * number // count for number in range(count)})


def check_records(records: RecordFolder, *, max_bad_share: float = 0.0) -> Counter[str]:
    """Read every record and decode every frame.

    Returns:
        Number of damaged clips by kind of fault, those lost with a truncated shard included.

    Raises:
        SMCDError: more than `max_bad_share` of the clips are damaged.
    """
    bad: Counter[str] = Counter({"truncated record file": records.lost} if records.lost else {})
    first = ""
    for position in range(len(records)):
        try:
            clip = records.clip(position)
            for frame in clip.frames:
                decode_frame(frame)
        except BadClip as error:
            first = first or error.reason
            bad[error.kind] += 1
    total = len(records) + records.lost
    if bad.total() > max_bad_share * total:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(bad.items()))
        where = f"; the first: {first}" if first else ""
        raise SMCDError(
            f"{records.folder}: {bad.total()} of {total} clips of {records.split!r} are damaged ({kinds}), more than "
            f"the share of {max_bad_share:g} that may be{where}: prepare the data set again"
        )
    return bad


def write_sheet(picture: UInt8[np.ndarray, "H W 3"], path: Path) -> None:
    """Write a sheet as png, whole or not at all.

    Raises:
        SMCDError: another suffix than .png, or the place cannot be written.
    """
    from PIL import Image

    from smcd_jax.files import write_atomically

    if path.suffix.lower() != ".png":
        raise SMCDError(f"{path}: a sheet is a png file: give a name that ends in .png")
    with write_atomically(path) as temporary:
        Image.fromarray(picture).save(temporary)


def _drawn(clip: Clip, frames: int, height: int) -> np.ndarray:
    shown = np.unique(np.linspace(0, clip.num_frames - 1, min(frames, clip.num_frames)).round().astype(int))
    width = max(1, round(clip.width * height / clip.height))
    small = np.stack([resize_picture(decode_frame(clip.frames[index]), height=height, width=width) for index in shown])
    return draw_boxes(small, clip.boxes[shown], clip.mask[shown], clip.labels)
