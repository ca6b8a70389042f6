"""Owns the making of a feature cache: every frame and text of prepared records once through a model's encoders."""

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
# A part ends before either is exceeded: at 256 x 256 pixels 268 MB of moments and 646 MB of texts at most.
PART_FRAMES, PART_CLIPS = 16384, 4096


@dataclass(frozen=True)
class FeatureEncoders:
    """A model's encoders as functions, and what has to be known of them.

    Attributes:
        identity: a hash for each (`encoder_identity`).
        precision: that they compute in, such as "float32"; noted in the cache.
        height: of the frames in pixels.
        width: of the frames in pixels.
        scaling_factor: what latents are multiplied by after the draw from the posterior.
        frame_batch: how many frames are encoded at once.
        text_batch: how many texts are encoded at once.
        moments: the posterior's mean and log-variance of uint8 frames; up to ``frame_batch``.
        texts: embeddings of captions; up to ``text_batch``.
        labels: embeddings of labels; up to ``text_batch``.
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
    """What a cache holds.

    Attributes:
        folder: where it is.
        clips: of the records.
        frames: of all clips.
        unusable: frames that could not be decoded, and all frames of records that could not be read.
        reasons: why, by clip id.
    """

    folder: Path
    clips: int
    frames: int
    unusable: int
    reasons: Mapping[str, str]


def write_features(
    records: RecordFolder,
    output: Path,
    encoders: FeatureEncoders,
    *,
    max_bad_share: float = 0.01,
    workers: int = 2,
    progress: bool = True,
) -> FeatureReport:
    """Writes the feature cache of a split; begun before, it goes on after the last whole part; done, it only reports.

    Args:
        records: one split.
        output: folder of the cache: new, empty, or begun by the same encoders from the same records.
        encoders: of the model that the features are for.
        max_bad_share: the share of frames that may be unusable before this is an error.
        workers: threads that decode frames while the devices encode others.
        progress: show a bar of frames where stderr is a terminal.

    Raises:
        SMCDError: another process is at work there, the folder holds something else, too many frames are unusable, an
            encoder gives values that are not finite, or the disk is full.
    """
    output, lengths = Path(output), records.index["frames"]
    parts = split_parts(lengths)
    total, unusable, reasons = int(lengths.sum()), 0, {}
    with _locked(output):
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
    """Runs of clips that make a part each: as many as fit in `PART_CLIPS` and `PART_FRAMES`, but at least one."""
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
    """The manifest of the cache that is to be written, on the disk with `complete` false unless it was there."""
    if not len(records):
        raise SMCDError(f"{records.folder}: split {records.split!r} has no clip to make features of")
    known = read_features_manifest(output) if (output / MANIFEST).is_file() else None
    if known is not None:
        different = different_encoder(known["encoders"], encoders.identity)
        if different:
            raise SMCDError(f"{output}: holds features made by other encoders ({different}): choose another folder")
    elif any(entry.name != _LOCK for entry in output.iterdir()):
        raise SMCDError(f"{output}: holds other files: choose an empty or new folder")
    manifest = _manifest(records, encoders, parts=parts)
    if known is None:
        _write_null_text(output, encoders)
        write_json(output / MANIFEST, manifest)
        return manifest
    for key, value in manifest.items():
        if key != "complete" and known.get(key) != value:
            raise SMCDError(
                f"{output}: holds features with other {key} ({known.get(key)!r}, not {value!r}): choose another folder"
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
    null_text = half_precision(encoders.texts([NULL_CAPTION])[0], "the null text")
    with write_atomically(output / NULL_TEXT) as temporary:
        np.save(temporary, null_text)


def _check_share(unusable: int, total: int, *, max_bad_share: float, reasons: Mapping[str, str]) -> None:
    if unusable > max_bad_share * total:
        raise SMCDError(
            f"{unusable} of {total} frames cannot be used, more than the share of {max_bad_share:g} that may be; the "
            f"first: {next(iter(reasons.values()))}. Prepare the records again, or raise max_bad_share"
        )


_LOCK = ".lock"
_UNFINISHED = ".smcd-*"  # what `write_atomically` leaves behind when the process is killed


@contextlib.contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Makes the folder and keeps other processes from it during the block."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = (output / _LOCK).open("w")
    except OSError as error:
        raise SMCDError(f"cannot write {output}: {error.strerror}; choose another folder") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SMCDError(f"{output}: another process makes features there: wait for it") from error
        for leftover in output.glob(_UNFINISHED):
            leftover.unlink()
        yield
