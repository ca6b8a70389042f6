"""The files of a clip: how they are named, what must not be lost, and the writing of all of them or none."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from smcd_jax.errors import SMCDError
from smcd_jax.files import write_atomically, write_json
from smcd_jax.media import draw_boxes, write_frames, write_video
from smcd_jax.tracks import BoxTracks

FORMATS = ("mp4", "gif", "webp", "frames")
_OTHER_SUFFIXES = (".avi", ".mkv", ".mov", ".webm", ".mpg", ".mpeg", ".png", ".jpg", ".jpeg", ".json", ".npz")
_LONGEST_ENDING = len("_0000_boxes.mp4")
_KEPT = ".latents.npz"
_READABLE_SIDE = 256  # pixels, of a video with labels


@dataclass(frozen=True)
class ClipFiles:
    """Where the results of a clip go; NAME is `folder / name`, or NAME_0, NAME_1 ... for several videos.

    Attributes:
        folder: it may not exist yet.
        name: without suffix.
        formats: of the video; "mp4" is always among them.
        count: number of videos.
        boxes_drawn: whether a video with the boxes drawn is written too.
    """

    folder: Path
    name: str
    formats: tuple[str, ...] = ("mp4",)
    count: int = 1
    boxes_drawn: bool = True

    @property
    def latents(self) -> Path:
        """The sample before decoding, which is kept until the videos are written."""
        return self.folder / f"{self.name}{_KEPT}"

    def video(self, index: int, format: str) -> Path:
        """NAME.mp4 and the like; NAME_frames for the folder of pictures."""
        return self._path(index, "_frames" if format == "frames" else f".{format}")

    def boxes(self, index: int) -> Path:
        """The video with boxes drawn."""
        return self._path(index, "_boxes.mp4")

    def description(self, index: int) -> Path:
        """The JSON that says how the video was made."""
        return self._path(index, ".json")

    def paths(self) -> tuple[Path, ...]:
        """Everything that will be written, but the latents."""
        return tuple(
            path
            for index in range(self.count)
            for path in (
                *(self.video(index, name) for name in self.formats),
                *([self.boxes(index)] if self.boxes_drawn else []),
                self.description(index),
            )
        )

    def complete(self) -> bool:
        """Whether all of them are there."""
        return all(path.exists() for path in self.paths())

    def check(self, *, overwrite: bool, finishing: bool = False) -> None:
        """Refuses, before anything is computed, what could not be written or would be lost.

        Args:
            overwrite: results may be replaced.
            finishing: the kept latents are to be decoded, so they may be there.

        Raises:
            SMCDError: names the file or folder.
        """
        if len(os.fsencode(self.name)) + _LONGEST_ENDING > 255:
            raise SMCDError(
                f"output must be a shorter name, got {self.name[:40]}...", argument="output", value=self.name
            )
        _check_folder(self.folder)
        if self.latents.exists() and not (overwrite or finishing):
            raise SMCDError(
                f"{self.latents} is an unfinished sample: finish it with `smcd animate --decode_latents {self.latents}`"
                ", or replace it with --overwrite",
                argument="output",
                path=self.latents,
            )
        existing = [path for path in self.paths() if os.path.lexists(path)]
        if existing and not overwrite:
            raise SMCDError(
                f"{existing[0]}: exists already; choose another --output, or replace it with --overwrite",
                argument="output",
                path=existing[0],
            )
        for path in existing:
            _check_replaceable(path)

    def keep(self, latents: Float[np.ndarray, "b f h w c"], description: Mapping[str, Any]) -> None:
        """Writes the sample, with all that is needed to finish it (`read_kept`)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with write_atomically(self.latents) as temporary:
            np.savez(temporary, latents=latents, description=np.array(json.dumps(description)))

    def write(
        self,
        videos: UInt8[np.ndarray, "b f h w 3"],
        tracks: BoxTracks | None,
        descriptions: Sequence[Mapping[str, Any]],
        *,
        fps: float,
    ) -> None:
        """Writes all files of all videos; until the last is whole, none appears under its name.

        Raises:
            SMCDError: a file cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            for index, (frames, description) in enumerate(zip(videos, descriptions, strict=True)):
                for name in self.formats:
                    if name != "frames":
                        write_video(frames, stack.enter_context(write_atomically(self.video(index, name))), fps=fps)
                if tracks is not None:
                    drawn = draw_boxes(_enlarged(frames), tracks.boxes, tracks.mask, tracks.labels)
                    write_video(drawn, stack.enter_context(write_atomically(self.boxes(index))), fps=fps)
                write_json(stack.enter_context(write_atomically(self.description(index))), description)
            if "frames" in self.formats:  # a folder appears at once, so these come when all else is whole
                for index, frames in enumerate(videos):
                    write_frames(frames, self.video(index, "frames"))

    def _path(self, index: int, ending: str) -> Path:
        return self.folder / f"{self.name}{f'_{index}' if self.count > 1 else ''}{ending}"


def clip_files(output: str | Path, *, formats: Sequence[str] = (), count: int = 1) -> ClipFiles:
    """The files of --output: a NAME, or NAME.mp4, NAME.gif, NAME.webp, which adds that format.

    Raises:
        SMCDError: a folder, or a suffix of another kind of file.
    """
    path = Path(output)
    if str(output).endswith(("/", os.sep)) or path.is_dir() or path.name in ("", ".."):
        raise SMCDError(
            f"output must be a name, got the folder {output}; add a name for the video, such as {path / 'video'}",
            argument="output",
            value=str(output),
        )
    suffix = path.suffix.lower()
    if suffix in _OTHER_SUFFIXES:
        raise SMCDError(
            f"output must end in .mp4, .gif or .webp, or have no suffix, got {path}",
            argument="output",
            value=str(output),
        )
    known = suffix[1:] in FORMATS and path.stem != ""
    wanted = ("mp4", *formats, *([suffix[1:]] if known else []))
    return ClipFiles(path.parent, path.stem if known else path.name, tuple(dict.fromkeys(wanted)), count)


def read_kept(path: Path) -> tuple[Float[np.ndarray, "b f h w c"], dict[str, Any]]:
    """The latents and description that `ClipFiles.keep` wrote.

    Raises:
        SMCDError: no such file, or not one of those.
    """
    if not path.name.endswith(_KEPT):
        raise SMCDError(
            f"{path}: not an unfinished sample; its name must end in {_KEPT}", argument="decode_latents", path=path
        )
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            latents, description = content["latents"], json.loads(str(content["description"][()]))
    except FileNotFoundError as error:
        raise SMCDError(f"{path}: no such file; check the path", argument="decode_latents", path=path) from error
    except IsADirectoryError as error:
        raise SMCDError(
            f"{path}: a folder; use the file that an interrupted run left", argument="decode_latents", path=path
        ) from error
    except Exception as error:  # numpy and zipfile raise many kinds for one cause: a file that is not as written
        raise SMCDError(
            f"{path}: damaged, or not an unfinished sample; run the clip again", argument="decode_latents", path=path
        ) from error
    if latents.ndim != 5 or not isinstance(description, dict) or not np.isfinite(latents).all():
        raise SMCDError(f"{path}: not an unfinished sample; run the clip again", argument="decode_latents", path=path)
    return latents, description


def files_of_kept(path: Path, formats: Sequence[str], count: int, *, boxes_drawn: bool) -> ClipFiles:
    """The files that finish the sample kept at ``path``: NAME of NAME.latents.npz, beside it."""
    return ClipFiles(path.parent, path.name[: -len(_KEPT)], tuple(formats), count, boxes_drawn)


def _enlarged(frames: UInt8[np.ndarray, "f h w 3"]) -> UInt8[np.ndarray, "f H W 3"]:
    """Pixels repeated where the frames are so small that a label would hide half of them."""
    times = -(-_READABLE_SIDE // min(frames.shape[1:3]))
    return frames.repeat(times, axis=1).repeat(times, axis=2)


def _check_folder(folder: Path) -> None:
    """Makes the folder and a file in it, and takes back what was made: only trying tells whether it can be done."""
    missing = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SMCDError(
            f"{folder.absolute()}: cannot write ({reason}); choose another --output",
            argument="output",
            path=folder.absolute(),
        ) from error
    finally:
        for place in missing:
            with contextlib.suppress(OSError):  # not made, or somebody has put something there since
                place.rmdir()


def _check_replaceable(path: Path) -> None:
    if not path.name.endswith("_frames"):
        if path.is_dir():
            raise SMCDError(
                f"{path}: a folder, which is not overwritten; choose another --output", argument="output", path=path
            )
        return
    if not path.is_dir() or any(entry.suffix != ".png" for entry in path.iterdir()):
        raise SMCDError(
            f"{path}: not a folder of frames, so it is not overwritten; choose another --output",
            argument="output",
            path=path,
        )
