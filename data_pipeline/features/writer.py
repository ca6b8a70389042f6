"""Writing a feature cache: runs a model's encoders once over every frame and text of prepared records."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int32, UInt8
from tqdm import tqdm

from data_pipeline.features.cache import FORMAT, MANIFEST, NULL_TEXT, VERSION, read_features_manifest
from data_pipeline.features.encoder_identity import different_encoder
from data_pipeline.features.parts import PartWriter, finished_part, half_precision
from data_pipeline.records.reader import RecordFolder
from smcd_jax.errors import SMCDError
from smcd_jax.files import write_atomically, write_json

NULL_CAPTION = " "  # the reference's null text
# Limits of a part: at 256 x 256 pixels at most 268 MB of moments and 646 MB of text embeddings.
PART_FRAMES, PART_CLIPS = 16384, 4096


@dataclass(frozen=True)
class FeatureEncoders:
    """A model's encoders as functions, with their settings.

    Attributes:
        identity: Hash of each encoder (`encoder_identity`).
        precision: Compute dtype, such as "float32"; recorded in the cache.
        height: Frame height in pixels.
        width: Frame width in pixels.
        scaling_factor: Factor applied to latents after sampling from the posterior.
        frame_batch: Largest number of frames per call of `moments`.
        text_batch: Largest number of texts per call of `texts` and `labels`.
        moments: Function from uint8 frames to the posterior's mean and log-variance.
        texts: Function from captions to embeddings.
        labels: Function from labels to embeddings.
    """

    identity: Mapping[str, str]
    precision: str
    height: int
    width: int
    scaling_factor: float
    frame_batch: int
    text_batch: int
    moments: Callable[[UInt8[np.ndarray, "b height width 3"]], Float[np.ndarray, "b 2 h w c"]]
    texts: Callable[[Sequence[str]], Float[np.ndarray, "b l d"]]
    labels: Callable[[Sequence[str]], Float[np.ndarray, "b d"]]


@dataclass(frozen=True)
class FeatureReport:
    """Counts of a feature cache.

    Attributes:
        folder: Folder of the cache.
        clips: Number of clips in the records.
        frames: Number of frames in all clips.
        unusable: Number of frames that could not be decoded, including all frames of unreadable records.
        reasons: Reason by clip id.
    """

    folder: Path
    clips: int
    frames: int
    unusable: int
    reasons: Mapping[str, str]

    def line(self) -> str:
        """Returns the counts as one line."""
        return f"features: {self.clips} clips, {self.frames} frames, {self.unusable} frames unusable"


def write_features(
    records: RecordFolder,
    output: Path,
    encoders: FeatureEncoders,
    *,
    max_bad_share: float = 0.01,
    workers: int = 2,
    progress: bool = True,
) -> FeatureReport:
    """Writes the feature cache of a split.

    An interrupted cache resumes after its last complete part; a complete cache is only reported.

    Args:
        records: Split to encode.
        output: Folder of the cache: new, empty, or started by the same encoders over the same records.
        encoders: Encoders of the model.
        max_bad_share: Largest share of unusable frames, 0 to 1.
        workers: Number of threads that decode frames while the devices encode.
        progress: Whether to show a progress bar when stderr is a terminal.

    Raises:
        SMCDError: Another process writes to the folder, the folder holds something else, too many frames are
            unusable, an encoder returned values that are not finite, or the disk is full.
    """
    output, lengths = Path(output), records.index["frames"]
    parts = split_parts(lengths)
    total, unusable, reasons = int(lengths.sum()), 0, {}
    with locked(output):
        manifest = _begin(output, records, encoders, parts=len(parts))
        bar = tqdm(total=total, desc="features", unit="frame", disable=None if progress else True)
        with bar, ThreadPoolExecutor(workers) as pool:
            writer = PartWriter(records, encoders, pool, ahead=2 * workers, advance=bar.update)
            for number, clips in enumerate(parts):
                part = finished_part(output, number, manifest)
                if part is None:
                    part = writer.write(output, number, clips)
                else:
                    bar.update(int(lengths[clips.start : clips.stop].sum()))
                unusable += part.unusable
                reasons |= part.reasons
                _check_share(unusable, total, max_bad_share=max_bad_share, reasons=reasons)
        write_json(output / MANIFEST, manifest | {"complete": True})
    return FeatureReport(output, len(records), total, unusable, reasons)


def split_parts(lengths: Int32[np.ndarray, " clips"]) -> list[range]:
    """Splits clips into parts: as many consecutive clips as fit in `PART_CLIPS` and `PART_FRAMES`, at least one."""
    parts, start, frames = [], 0, 0
    for clip, length in enumerate(lengths.tolist()):
        if clip > start and (frames + length > PART_FRAMES or clip - start == PART_CLIPS):
            parts.append(range(start, clip))
            start, frames = clip, 0
        frames += length
    if len(lengths):
        parts.append(range(start, len(lengths)))
    return parts


def _begin(output: Path, records: RecordFolder, encoders: FeatureEncoders, *, parts: int) -> dict[str, Any]:
    """Returns the manifest of the cache to write; for a new cache, also writes it with `complete` false."""
    if not len(records):
        raise SMCDError(
            f"{records.folder}: split {records.split!r} has no clips; choose another split",
            argument="split",
            path=records.folder,
            value=records.split,
        )
    known = read_features_manifest(output) if (output / MANIFEST).is_file() else None
    if known is not None:
        different = different_encoder(known["encoders"], encoders.identity)
        if different:
            raise SMCDError(
                f"{output}: holds features made by other encoders ({different}); choose another folder",
                argument="encoders",
                path=output,
                value=different,
            )
    elif any(entry.name != _LOCK for entry in output.iterdir()):
        raise SMCDError(f"{output}: holds other files; choose an empty or new folder", argument="output", path=output)
    manifest = _manifest(records, encoders, parts=parts)
    if known is None:
        _write_null_text(output, encoders)
        write_json(output / MANIFEST, manifest)
        return manifest
    for key, value in manifest.items():
        if key != "complete" and known.get(key) != value:
            raise SMCDError(
                f"{output}: {key} of the features there is {known.get(key)!r}, got {value!r}; choose another folder",
                argument=key,
                path=output,
                value=value,
            )
    return manifest


def _manifest(records: RecordFolder, encoders: FeatureEncoders, *, parts: int) -> dict[str, Any]:
    blank = np.zeros((1, encoders.height, encoders.width, 3), np.uint8)
    source = {"name": records.name, "split": records.split, "sha256": records.sha256, "clips": len(records)}
    return {
        "format": FORMAT,
        "version": VERSION,
        "complete": False,
        "records": source,
        "encoders": dict(encoders.identity),
        "precision": encoders.precision,
        "height": encoders.height,
        "width": encoders.width,
        "moments": list(encoders.moments(blank).shape[1:]),
        "text": list(encoders.texts([NULL_CAPTION]).shape[1:]),
        "label": int(encoders.labels([NULL_CAPTION]).shape[1]),
        "scaling_factor": encoders.scaling_factor,
        "parts": parts,
    }


def _write_null_text(output: Path, encoders: FeatureEncoders) -> None:
    null_text = half_precision(encoders.texts([NULL_CAPTION])[0], "null_text")
    with write_atomically(output / NULL_TEXT) as temporary:
        np.save(temporary, null_text)


def _check_share(unusable: int, total: int, *, max_bad_share: float, reasons: Mapping[str, str]) -> None:
    if unusable > max_bad_share * total:
        raise SMCDError(
            f"{unusable} of {total} frames are unusable, more than max_bad_share={max_bad_share:g} allows; prepare the "
            f"records again or raise max_bad_share; the first: {next(iter(reasons.values()))}",
            argument="max_bad_share",
            value=unusable,
        )


_LOCK = ".lock"
_UNFINISHED = ".smcd-*"  # temporary files of `write_atomically` after the process was killed


@contextlib.contextmanager
def locked(output: Path) -> Iterator[None]:
    """Creates the folder and locks it against other processes during the block."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = (output / _LOCK).open("w")
    except OSError as error:
        raise SMCDError(
            f"{output}: cannot be written ({error.strerror}); choose another folder", argument="output", path=output
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SMCDError(
                f"{output}: another process is writing features there; wait until it has finished", path=output / _LOCK
            ) from error
        for leftover in output.glob(_UNFINISHED):
            leftover.unlink()
        yield
