"""Inspection of prepared records: contact sheets with boxes, labels and captions, and a check of every record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from data_pipeline.checks import require_bad_share
from data_pipeline.records.frames import decode_frame
from data_pipeline.records.reader import RecordFolder
from data_pipeline.records.schema import BadClip, Clip
from smcd_jax.errors import SMCDError
from smcd_jax.media import contact_sheet, draw_boxes, resize_picture


def sheet(
    records: RecordFolder, positions: Sequence[int], *, frames: int = 8, height: int = 160
) -> tuple[UInt8[np.ndarray, "H W 3"], list[str]]:
    """Draws a contact sheet of clips, one below the other, each under its id and caption.

    Args:
        records: Split of a record folder.
        positions: Positions of the clips.
        frames: Largest number of frames per clip, spread evenly from first to last.
        height: Height of a frame on the sheet in pixels.

    Returns:
        Sheet as uint8 [H, W, 3], and the reason for each clip that could not be read.

    Raises:
        SMCDError: No clip could be read.
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
        raise SMCDError(
            f"{records.folder}: all {len(positions)} clips are unreadable; the first: {faults[0]}",
            path=records.folder,
            value=len(positions),
        )
    return contact_sheet(videos, captions=captions), faults


def spread_positions(records: RecordFolder, count: int) -> list[int]:
    """Returns at most `count` positions, spread evenly over the split.

    Raises:
        SMCDError: The split is empty.
    """
    if len(records) == 0:
        raise SMCDError(
            f"{records.folder}: split {records.split!r} has no clips; choose another split",
            argument="split",
            path=records.folder,
            value=records.split,
        )
    return sorted({len(records) * number // count for number in range(count)})


def check_records(records: RecordFolder, *, max_bad_share: float = 0.0) -> Counter[str]:
    """Reads every record and decodes every frame.

    Args:
        records: Split of a record folder.
        max_bad_share: Largest share of damaged clips, 0 to 1.

    Returns:
        Number of damaged clips by kind of fault, including those lost with a truncated shard.

    Raises:
        SMCDError: More than `max_bad_share` of the clips are damaged.
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
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(bad.items()))
    where, example = f"{records.folder} ({records.split})", f"{first or 'missing records'} ({kinds})"
    require_bad_share(bad.total(), total, max_bad_share, where=where, example=example, path=records.folder)
    return bad


def write_sheet(picture: UInt8[np.ndarray, "H W 3"], path: Path) -> None:
    """Writes a sheet as png, atomically.

    Raises:
        SMCDError: The suffix is not .png, or the file cannot be written.
    """
    from PIL import Image

    from smcd_jax.files import write_atomically

    if path.suffix.lower() != ".png":
        raise SMCDError(f"output must end in .png, got {path}", argument="output", path=path, value=path.suffix)
    with write_atomically(path) as temporary:
        Image.fromarray(picture).save(temporary)


def _drawn(clip: Clip, frames: int, height: int) -> np.ndarray:
    shown = np.unique(np.linspace(0, clip.num_frames - 1, min(frames, clip.num_frames)).round().astype(int))
    width = max(1, round(clip.width * height / clip.height))
    small = np.stack([resize_picture(decode_frame(clip.frames[index]), height=height, width=width) for index in shown])
    return draw_boxes(small, clip.boxes[shown], clip.mask[shown], clip.labels)
