"""Writer of the feature cache of clips, which omits clips that their features reproduce badly."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from tqdm import tqdm

from data_pipeline.features.clip_cache import (
    FORMAT,
    MANIFEST,
    VERSION,
    array_path,
    index_path,
    read_clip_manifest,
    read_part_index,
)
from data_pipeline.features.encoder_identity import different_encoder
from data_pipeline.features.parts import half_precision
from data_pipeline.features.writer import locked
from data_pipeline.records.reader import RecordFolder
from data_pipeline.records.schema import BadClip
from data_pipeline.transforms import decode_frame
from smcd_jax.errors import SMCDError
from smcd_jax.files import write_atomically, write_json

PART_CLIPS = 4096


@dataclass(frozen=True)
class ClipEncoders:
    """A model's encoders of whole clips, with their settings.

    Attributes:
        identity: Hash of each encoder (`encoder_identity`).
        precision: Compute dtype, such as "float32"; recorded in the cache.
        frames: Number of frames of a clip.
        height: Frame height in pixels.
        width: Frame width in pixels.
        batch: Number of clips per call of `encode`.
        max_error: Largest reconstruction error of a clip that is kept, as a mean squared error of pixels in 0..255.
        encode: Function from videos and captions to arrays by name, and the error of each clip.
    """

    identity: Mapping[str, str]
    precision: str
    frames: int
    height: int
    width: int
    batch: int
    max_error: float
    encode: Callable[
        [UInt8[np.ndarray, "b f height width 3"], Sequence[str]], tuple[dict[str, np.ndarray], Float[np.ndarray, " b"]]
    ]


@dataclass(frozen=True)
class ClipReport:
    """Counts of a cache of clips.

    Attributes:
        folder: Folder of the cache.
        clips: Number of clips in the records.
        kept: Number of clips in the cache.
        dropped: Number of clips whose error exceeds ``max_error``.
        unusable: Number of clips that are too short or could not be read.
        max_error: Largest error allowed.
        median_error: Median error of the kept clips.
    """

    folder: Path
    clips: int
    kept: int
    dropped: int
    unusable: int
    max_error: float
    median_error: float

    def line(self) -> str:
        """Returns the counts as one line."""
        return (
            f"features: {self.kept} of {self.clips} clips; {self.dropped} dropped, whose last frame is reproduced with "
            f"a mean squared error above {self.max_error:g} of 255^2 (kept: median {self.median_error:.1f}), and "
            f"{self.unusable} too short or unreadable"
        )


def write_clip_features(
    records: RecordFolder, output: Path, encoders: ClipEncoders, *, progress: bool = True
) -> ClipReport:
    """Writes the cache of a split from the first frames of each clip; an interrupted write resumes at the last part.

    Args:
        records: Split to encode.
        output: Folder of the cache: new, empty, or started by the same encoders over the same records.
        encoders: Encoders of the model.
        progress: Whether to show a progress bar when stderr is a terminal.

    Raises:
        SMCDError: Another process writes to the folder, the folder holds something else, no clip is kept, or an encoder
            returned values that are not finite.
    """
    parts = [range(start, min(start + PART_CLIPS, len(records))) for start in range(0, len(records), PART_CLIPS)]
    with locked(output):
        manifest = _begin(output, records, encoders, parts=len(parts))
        with tqdm(total=len(records), desc="features", unit="clip", disable=None if progress else True) as bar:
            for number, clips in enumerate(parts):
                if not index_path(output, number).is_file():
                    manifest["arrays"] = _write_part(output, number, clips, records, encoders, bar.update)
                    write_json(output / MANIFEST, manifest)
                else:
                    bar.update(len(clips))
        indices = [read_part_index(output, number) for number in range(len(parts))]
        errors = np.concatenate([index["errors"] for index in indices])
        dropped = sum(int(index["dropped"]) for index in indices)
        if not len(errors):
            raise SMCDError(
                f"{output}: none of the {len(records)} clips was kept ({dropped} have errors above "
                f"{encoders.max_error:g}); train the encoders longer, or pass a larger --max_clip_error",
                argument="max_clip_error",
                path=output,
            )
        write_json(output / MANIFEST, manifest | {"complete": True})
    unusable = sum(int(index["unreadable"]) for index in indices)
    return ClipReport(
        output, len(records), len(errors), dropped, unusable, encoders.max_error, float(np.median(errors))
    )


def _begin(output: Path, records: RecordFolder, encoders: ClipEncoders, *, parts: int) -> dict[str, Any]:
    """Returns the manifest of the cache to write; for a new cache, also writes it with `complete` false."""
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "complete": False,
        "records": {"name": records.name, "split": records.split, "sha256": records.sha256, "clips": len(records)},
        "encoders": dict(encoders.identity),
        "precision": encoders.precision,
        **{key: getattr(encoders, key) for key in ("frames", "height", "width", "max_error")},
        "parts": parts,
        "arrays": {},
    }
    if not (output / MANIFEST).is_file():
        write_json(output / MANIFEST, manifest)
        return manifest
    known = read_clip_manifest(output)
    different = different_encoder(known["encoders"], encoders.identity)
    changed = [key for key in manifest if key not in ("complete", "arrays") and known.get(key) != manifest[key]]
    if different or changed:
        raise SMCDError(
            f"{output}: holds features made with another {changed[0]} ({different or known.get(changed[0])}); choose "
            "another folder",
            argument=changed[0],
            path=output,
        )
    return known | {"complete": False}


def _write_part(
    output: Path,
    number: int,
    clips: range,
    records: RecordFolder,
    encoders: ClipEncoders,
    advance: Callable[[int], Any],
) -> dict[str, list[int]]:
    """Writes the arrays of a part and then its index; returns the shapes of the arrays."""
    kept: dict[str, list[np.ndarray]] = {}
    ids, errors, dropped, unreadable = [], [], 0, 0
    for batch in _batches(clips, records, encoders):
        good = [item for item in batch if item is not None]
        unreadable += len(batch) - len(good)
        advance(len(batch))
        if not good:
            continue
        positions, videos, captions = zip(*good, strict=True)
        arrays, found = encoders.encode(np.stack(videos), captions)
        chosen = np.flatnonzero(found <= encoders.max_error)
        dropped += len(good) - len(chosen)
        ids += [records.clip_ids[positions[row]] for row in chosen]
        errors += found[chosen].tolist()
        for name, values in arrays.items():
            stored = values.astype(np.int32) if name.endswith("_ids") else half_precision(values, name)
            kept.setdefault(name, []).append(stored[chosen])
    joined = {name: np.concatenate(values) for name, values in kept.items()}
    for name, values in joined.items():
        with write_atomically(array_path(output, number, name)) as temporary, temporary.open("wb") as file:
            np.save(file, values)
    crc32 = np.array([[zlib.crc32(row) for row in values] for values in joined.values()], np.uint32)
    text = np.frombuffer("\n".join(ids).encode("utf-8"), np.uint8)
    with write_atomically(index_path(output, number)) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            clip_ids=text,
            errors=np.array(errors, np.float32),
            crc32=crc32.reshape(len(joined), len(ids)),
            dropped=dropped,
            unreadable=unreadable,
        )
    return {name: list(values.shape[1:]) for name, values in joined.items()}


def _batches(
    clips: range, records: RecordFolder, encoders: ClipEncoders
) -> Iterator[list[tuple[int, np.ndarray, str] | None]]:
    """Yields batches of clips as position, frames and caption, or None for a clip that cannot be used."""
    for start in range(clips.start, clips.stop, encoders.batch):
        yield [_read(position, records, encoders) for position in range(start, min(start + encoders.batch, clips.stop))]


def _read(position: int, records: RecordFolder, encoders: ClipEncoders) -> tuple[int, np.ndarray, str] | None:
    if records.index["frames"][position] < encoders.frames:
        return None
    try:
        clip = records.window(position, 0, encoders.frames)
        frames = [
            decode_frame(data, height=encoders.height, width=encoders.width, where=clip.clip_id) for data in clip.frames
        ]
    except BadClip:
        return None
    return position, np.stack(frames), clip.caption
