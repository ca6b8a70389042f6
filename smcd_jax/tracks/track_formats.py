"""The file formats of tracks by name: detecting, loading and saving."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from smcd_jax.errors import SMCDError
from smcd_jax.files.text_files import read_json, read_numbers
from smcd_jax.tracks.box_tracks import BoxTracks, check_frames
from smcd_jax.tracks.got10k import read_got10k, write_got10k
from smcd_jax.tracks.mot import boxes_file, read_mot, write_mot
from smcd_jax.tracks.pixel_tracks import PixelTracks
from smcd_jax.tracks.reference_folder import read_reference_folder, write_reference_folder
from smcd_jax.tracks.track_file import FORMAT, TrackFile, read_track_file, write_track_file
from smcd_jax.tracks.youtube_vis import YouTubeVIS, read_youtube_vis, write_youtube_vis


class TrackFormat(NamedTuple):
    """One file format.

    Attributes:
        name: File name by which the format is recognised.
        read: Reader of a file or of the folder that holds it.
        write: Writer of tracks, path and image size; returns texts that say what the format lacks.
        written: Files that `write` may create in a folder; empty if it writes `path` itself.
    """

    name: str
    read: Callable[[Path], PixelTracks | TrackFile | YouTubeVIS]
    write: Callable[[BoxTracks, Path, tuple[int, int] | None], tuple[str, ...]]
    written: tuple[str, ...] = ()


_MOT_FILES = ("gt/gt.txt", "gt.txt", "seqinfo.ini", "labels.txt", "gt/labels.txt")
_FORMATS = {
    FORMAT: TrackFormat("tracks.json", read_track_file, write_track_file),
    "reference": TrackFormat(
        "bbox.txt", read_reference_folder, write_reference_folder, written=("bbox.txt", "prompt.txt")
    ),
    "got10k": TrackFormat(
        "groundtruth.txt", read_got10k, write_got10k, written=("groundtruth.txt", "absence.label", "meta_info.ini")
    ),
    "mot": TrackFormat("gt.txt", read_mot, write_mot, written=_MOT_FILES),
    "youtube-vis": TrackFormat("instances.json", read_youtube_vis, write_youtube_vis),
}
_BY_NAME = {format.name: name for name, format in _FORMATS.items()}
FORMATS = tuple(_FORMATS)


def load_tracks(
    path: str | Path,
    *,
    image_size: tuple[int, int] | None = None,
    format: str | None = None,
    frames: int | None = None,
    label: str | None = None,
    video: int | str | None = None,
) -> BoxTracks:
    """Loads tracks of any format in 0..1 of the picture, clipped to it; the notes say what was read and clipped.

    Args:
        path: File, or folder of a sequence.
        image_size: (width, height) of the picture to animate. Required if the file does not state the size that its
            boxes refer to (`bbox.txt` without `img.png`, `groundtruth.txt` without `meta_info.ini`, `gt.txt` without
            `seqinfo.ini`); otherwise only used for the note about another aspect ratio.
        format: One of `FORMATS`; None detects it from name and content.
        frames: Number of frames of the result, over which the same motion is spread; None for that of the file.
        label: Label of the object of a file that states none (`bbox.txt`), or new label of the only object.
        video: Id or name of the video to read from a YouTube-VIS file; None for its only one.

    Raises:
        SMCDError: The file cannot be read or an argument does not fit it; names file, object, frame and value.
    """
    if frames is not None:
        check_frames(frames)
    content = read_tracks(path, format=format, video=video)
    pixels = content.to_pixel_tracks() if isinstance(content, TrackFile) else content
    tracks = pixels.to_box_tracks(image_size=image_size, label=label)
    if frames is None or frames == tracks.num_frames:
        return tracks
    if isinstance(content, TrackFile):
        # From the keyframes, not from `tracks`: `smooth` and `hold` keep their shape in any number of frames.
        return content.to_pixel_tracks(frames).to_box_tracks(image_size=image_size, label=label)
    return tracks.resample(frames)


def read_tracks(
    path: str | Path, *, format: str | None = None, video: int | str | None = None
) -> TrackFile | PixelTracks:
    """Returns the content of a file before clipping and normalising; arguments as for `load_tracks`.

    Raises:
        SMCDError: The file cannot be read, or has no such video.
    """
    path = Path(path)
    name = detect_format(path) if format is None else format
    reader = _format(name).read
    if video is not None and name != "youtube-vis":
        raise SMCDError(
            f"{path}: a {name} file holds one video; leave out --tracks_video (video={video!r} in Python)",
            argument="video",
            path=path,
            value=video,
        )
    content = reader(path)
    return content.video(video).tracks if isinstance(content, YouTubeVIS) else content


def save_tracks(
    tracks: BoxTracks, path: str | Path, *, format: str, image_size: tuple[int, int] | None = None
) -> tuple[str, ...]:
    """Saves tracks in a format.

    Saving in pixels and loading moves a side by at most 1e-4 pixels, the rounding to 4 decimals, plus the rounding of
    float32. Saving as `smcd-tracks` without `image_size` is exact.

    Args:
        tracks: Tracks to save.
        path: File of `smcd-tracks` and `youtube-vis`, folder of `reference` and `got10k`, either of them for `mot`.
        format: One of `FORMATS`.
        image_size: (width, height) of the picture. Required except for `smcd-tracks`, which stores boxes in 0..1
            without it.

    Returns:
        Texts that say what the format cannot hold: label, prompt, masks. Empty if it holds everything.

    Raises:
        SMCDError: The format cannot hold these tracks, or `path` cannot be written.
    """
    return _format(format).write(tracks, Path(path), image_size)


def written_files(path: Path, format: str) -> list[Path]:
    """Returns the files that `save_tracks` may create or replace at `path`."""
    names = _format(format).written if path.is_dir() else ()
    return [path / name for name in names] or [path]


def detect_format(path: Path) -> str:
    """Returns the format of a folder by the file in it, and of a file by its name or else its content.

    Raises:
        SMCDError: The path does not exist, a folder has none or several of the files, or the content fits no format.
    """
    if path.is_dir():
        found = [
            name for name in _BY_NAME if (path / name).is_file() or (name == "gt.txt" and boxes_file(path).is_file())
        ]
        if len(found) == 1:
            return _BY_NAME[found[0]]
        if not found:
            raise SMCDError(f"{path}: no tracks in this folder; expected one of {', '.join(_BY_NAME)}", path=path)
        raise SMCDError(
            f"{path}: the folder holds {' and '.join(found)}; name the file, or pass --tracks_format "
            "(format=... in Python)",
            argument="format",
            path=path,
            value=found,
        )
    if path.name in _BY_NAME:
        return _BY_NAME[path.name]
    return _json_format(path) if path.suffix == ".json" else _table_format(path)


def _json_format(path: Path) -> str:
    content = read_json(path)
    if isinstance(content, dict) and content.get("format") == FORMAT:
        return FORMAT
    if isinstance(content, dict) and {"videos", "annotations"} <= content.keys():
        return "youtube-vis"
    raise SMCDError(
        f'{path}: neither smcd-tracks (no "format": "{FORMAT}") nor YouTube-VIS (no videos and annotations)',
        argument="format",
        path=path,
    )


def _table_format(path: Path) -> str:
    if len(read_numbers(path, (4, 7, 8, 9, 10))[0]) > 4:
        return "mot"
    raise SMCDError(
        f"{path}: four numbers per line may be x1,y1,x2,y2 or x,y,w,h; pass --tracks_format (format=... in Python)",
        argument="format",
        path=path,
    )


def _format(name: str) -> TrackFormat:
    if name not in FORMATS:
        raise SMCDError(f"format must be one of {', '.join(FORMATS)}, got {name!r}", argument="format", value=name)
    return _FORMATS[name]
