"""The result files of a clip: their names, checks for existing files, and atomic writing of all files."""

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
from smcd_jax.sampling_options import FORMATS
from smcd_jax.tracks import BoxTracks

_OTHER_SUFFIXES = (".avi", ".mkv", ".mov", ".webm", ".mpg", ".mpeg", ".png", ".jpg", ".jpeg", ".json", ".npz")
_LONGEST_ENDING = len("_0000_boxes.mp4")
_KEPT, _DECODE = ".latents.npz", "decode_latents"
_READABLE_SIDE = 256  # smallest side in pixels of a video with labels


@dataclass(frozen=True)
class ClipFiles:
    """The result files of a clip, NAME.mp4 and others; NAME_0, NAME_1, ... for several videos.

    Attributes:
        folder: Folder of the files, which need not exist.
        name: NAME without folder and suffix.
        formats: Formats of the video; "mp4" is always among them.
        count: Number of videos.
        boxes_drawn: Whether a video with the boxes drawn is written too.
        motion: File of the motion; None to write none.
    """

    folder: Path
    name: str
    formats: tuple[str, ...] = ("mp4",)
    count: int = 1
    boxes_drawn: bool = True
    motion: Path | None = None

    @property
    def latents(self) -> Path:
        """File of the sample before decoding, which exists until the videos are written."""
        return self.folder / f"{self.name}{_KEPT}"

    @property
    def partial(self) -> Path:
        """File of a sample that was interrupted between two steps, which exists until sampling is complete."""
        return self.folder / f"{self.name}.partial.npz"

    def video(self, index: int, format: str) -> Path:
        """Returns the path of NAME.mp4, NAME.gif or NAME.webp, or the folder of pictures NAME_frames."""
        return self._path(index, "_frames" if format == "frames" else f".{format}")

    def boxes(self, index: int) -> Path:
        """Returns the path of the video with the boxes drawn."""
        return self._path(index, "_boxes.mp4")

    def description(self, index: int) -> Path:
        """Returns the path of the JSON file that describes how the video was made."""
        return self._path(index, ".json")

    def paths(self) -> tuple[Path, ...]:
        """Returns the paths of all result files, without the file of the latents."""
        found: list[Path] = []
        for index in range(self.count):
            found += [self.video(index, name) for name in self.formats]
            found += [self.boxes(index)] * self.boxes_drawn
            found.append(self.description(index))
        return (*found, *([] if self.motion is None else [self.motion]))

    def complete(self) -> bool:
        """Returns whether all result files exist."""
        return all(path.exists() for path in self.paths())

    def check(self, *, overwrite: bool, finishing: bool = False) -> None:
        """Checks that the results can be written and that no existing file would be lost.

        Args:
            overwrite: Whether existing results may be replaced.
            finishing: Whether the kept latents are the input, in which case their file may already exist.

        Raises:
            SMCDError: A file exists, or the folder cannot be written to.
        """
        if len(os.fsencode(self.name)) + _LONGEST_ENDING > 255:
            message = f"output must be a shorter name, got {self.name[:40]}..."
            raise SMCDError(message, argument="output", value=self.name)
        _check_folder(self.folder)
        if self.latents.exists() and not (overwrite or finishing):
            raise _refusal(
                self.latents,
                f"an unfinished sample; finish it with `smcd animate --decode_latents {self.latents}`, or replace it "
                "with --overwrite",
            )
        for path in self.paths():
            if os.path.lexists(path):
                if not overwrite:
                    raise _refusal(path, "exists already; choose another --output, or replace it with --overwrite")
                _check_replaceable(path)

    def keep(self, latents: Float[np.ndarray, "b f h w c"], description: Mapping[str, Any]) -> None:
        """Writes the latents and everything else that `read_kept` needs to finish the clip."""
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
        """Writes all files of all videos; they get their final names only when all of them are complete.

        Args:
            videos: Frames of each video.
            tracks: Box tracks to draw; None for no video with boxes.
            descriptions: Content of the JSON file of each video.
            fps: Frames per second.

        Raises:
            SMCDError: A file cannot be written.
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
            if "frames" in self.formats:  # a folder gets its final name immediately, so folders come last
                for index, frames in enumerate(videos):
                    write_frames(frames, self.video(index, "frames"))

    def _path(self, index: int, ending: str) -> Path:
        return self.folder / f"{self.name}{f'_{index}' if self.count > 1 else ''}{ending}"


def clip_files(output: str | Path, *, formats: Sequence[str] = (), count: int = 1) -> ClipFiles:
    """Returns the result files of an output name; NAME.gif and NAME.webp add that format.

    Args:
        output: NAME, with or without the suffix of a format.
        formats: Formats besides mp4.
        count: Number of videos.

    Raises:
        SMCDError: A folder has this name, or its suffix does not belong to a format.
    """
    path = Path(output)
    if str(output).endswith(("/", os.sep)) or path.is_dir() or path.name in ("", ".."):
        message = f"output must be a name, got the folder {output}; add a name for the video, such as {path / 'video'}"
        raise SMCDError(message, argument="output", value=str(output))
    suffix = path.suffix.lower()
    if suffix in _OTHER_SUFFIXES:
        message = f"output must end in .mp4, .gif or .webp, or have no suffix, got {path}"
        raise SMCDError(message, argument="output", value=str(output))
    known = suffix[1:] in FORMATS and path.stem != ""
    wanted = ("mp4", *formats, *([suffix[1:]] if known else []))
    return ClipFiles(path.parent, path.stem if known else path.name, tuple(dict.fromkeys(wanted)), count)


def read_kept(path: Path) -> tuple[Float[np.ndarray, "b f h w c"], dict[str, Any]]:
    """Returns the latents and the description that `ClipFiles.keep` wrote.

    Raises:
        SMCDError: The file is missing, damaged or of another kind.
    """
    if not path.is_file() or not path.name.endswith(_KEPT):
        raise _refusal(path, f"no unfinished sample; pass the NAME{_KEPT} that an interrupted run left", _DECODE)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            latents, description = content["latents"], json.loads(str(content["description"][()]))
        if latents.ndim != 5 or not isinstance(description, dict) or not np.isfinite(latents).all():
            raise ValueError
    except Exception as error:  # numpy and zipfile raise many types for a damaged file
        raise _refusal(path, "damaged, or not an unfinished sample; run the clip again", _DECODE) from error
    return latents, description


def files_of_kept(path: Path, formats: Sequence[str], count: int, *, boxes_drawn: bool) -> ClipFiles:
    """Returns the result files of the sample kept in ``path``: NAME of NAME.latents.npz, in the same folder."""
    return ClipFiles(path.parent, path.name[: -len(_KEPT)], tuple(formats), count, boxes_drawn)


def _enlarged(frames: UInt8[np.ndarray, "f h w 3"]) -> UInt8[np.ndarray, "f H W 3"]:
    """Returns frames large enough to read labels on, by repeating pixels."""
    times = -(-_READABLE_SIDE // min(frames.shape[1:3]))
    return frames.repeat(times, axis=1).repeat(times, axis=2)


def _check_folder(folder: Path) -> None:
    """Checks that files can be created in the folder, by creating one and removing it again."""
    missing = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise _refusal(folder.absolute(), f"cannot write ({reason}); choose another --output") from error
    finally:
        for place in missing:
            with contextlib.suppress(OSError):  # the folder was not created here, or is no longer empty
                place.rmdir()


def _check_replaceable(path: Path) -> None:
    if not path.name.endswith("_frames"):
        replaceable = not path.is_dir()
    else:
        replaceable = path.is_dir() and all(entry.suffix == ".png" for entry in path.iterdir())
    if not replaceable:
        raise _refusal(path, "not a result of smcd animate, so it is not overwritten; choose another --output")


def _refusal(path: Path, problem: str, argument: str = "output") -> SMCDError:
    return SMCDError(f"{path}: {problem}", argument=argument, path=path)
