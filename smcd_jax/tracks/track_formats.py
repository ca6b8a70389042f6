"""The file formats of tracks by name: which one a path holds, loading and saving."""

from __future__ import annotations

from pathlib import Path

from smcd_jax.errors import SMCDError
from smcd_jax.files.text_files import read_json, read_numbers, write_text
from smcd_jax.tracks.box_tracks import BoxTracks
from smcd_jax.tracks.got10k import read_got10k, write_got10k
from smcd_jax.tracks.mot import boxes_file, read_mot, write_mot
from smcd_jax.tracks.pixel_tracks import PixelTracks
from smcd_jax.tracks.reference_folder import read_reference_folder, write_reference_folder
from smcd_jax.tracks.track_file import FORMAT, read_track_file, track_file_text
from smcd_jax.tracks.youtube_vis import read_youtube_vis, write_youtube_vis

FORMATS = (FORMAT, "reference", "got10k", "mot", "youtube-vis")
_NAMES = {
    "tracks.json": FORMAT,
    "bbox.txt": "reference",
    "groundtruth.txt": "got10k",
    "gt.txt": "mot",
    "instances.json": "youtube-vis",
}
_WRITERS = {
    "reference": write_reference_folder,
    "got10k": write_got10k,
    "mot": write_mot,
    "youtube-vis": write_youtube_vis,
}


def load_tracks(
    path: str | Path,
    *,
    image_size: tuple[int, int] | None = None,
    format: str | None = None,
    frames: int | None = None,
    label: str | None = None,
    video: int | str | None = None,
) -> BoxTracks:
    """Load tracks of any format, clipped to the picture and in 0..1; the notes say what was read and clipped.

    Args:
        path: the file, or the folder of a sequence.
        image_size: (width, height) of the picture to animate. Needed where the file does not state the size its boxes
            refer to (`bbox.txt` without `img.png`, `groundtruth.txt` without `meta_info.ini`, `gt.txt` without
            `seqinfo.ini`); elsewhere it only serves the note about another aspect.
        format: one of `FORMATS`; None finds it from name and content.
        frames: number of frames of the result; None keeps the file's. The same motion is spread over them.
        label: names the object of a file that does not (`bbox.txt`), or renames the only one.
        video: id or name of the video to take from a YouTube-VIS file; None where it holds one.

    Raises:
        SMCDError: one line that names file, object, frame and value.
    """
    path = Path(path)
    name = format or detect_format(path)
    if video is not None and name != "youtube-vis":
        raise SMCDError(f"{path}: a {name} file holds one video: leave --tracks_video (video={video!r}) out")
    if name == FORMAT:
        return _load_track_file(path, image_size=image_size, frames=frames, label=label)
    tracks = _read(path, name, video).to_box_tracks(image_size=image_size, label=label)
    return tracks if frames is None else tracks.resample(frames)


def save_tracks(
    tracks: BoxTracks, path: str | Path, *, format: str, image_size: tuple[int, int] | None = None
) -> tuple[str, ...]:
    """Save tracks in a format.

    A round trip through pixels of 4 decimals moves a side by at most 1e-4 pixels and float32's rounding; one through
    `smcd-tracks` without `image_size` moves nothing.

    Args:
        tracks: the boxes.
        path: the file of `smcd-tracks` and `youtube-vis`, the folder of `reference` and `got10k`, either of `mot`.
        format: one of `FORMATS`.
        image_size: (width, height) of the picture; needed by all but `smcd-tracks`, which then holds boxes in 0..1.

    Returns:
        What the format could not carry, in words: label, prompt, masks. Empty where it carries all.

    Raises:
        SMCDError: the format cannot hold these tracks, or the place cannot be written.
    """
    path = Path(path)
    if format == FORMAT:
        write_text(path, track_file_text(tracks, image_size=image_size))
        return ()
    _check_format(format)
    return _WRITERS[format](tracks, path, image_size)


def detect_format(path: Path) -> str:
    """The format a path holds: a folder by the file in it, a file by its name, else by its content.

    Raises:
        SMCDError: no such path, a folder with none or several of the files, or content that fits none.
    """
    if path.is_dir():
        found = [
            name for name in _NAMES if (path / name).is_file() or (name == "gt.txt" and boxes_file(path).is_file())
        ]
        if len(found) == 1:
            return _NAMES[found[0]]
        if not found:
            raise SMCDError(f"{path}: no tracks in this folder: expected one of {', '.join(_NAMES)}")
        raise SMCDError(
            f"{path}: holds {' and '.join(found)}: name the file to read, or pass --tracks_format (format=...)"
        )
    if path.name in _NAMES:
        return _NAMES[path.name]
    return _json_format(path) if path.suffix == ".json" else _table_format(path)


def _read(path: Path, name: str, video: int | str | None) -> PixelTracks:
    _check_format(name)
    if name == "youtube-vis":
        return read_youtube_vis(path / "instances.json" if path.is_dir() else path).video(video).tracks
    return {"reference": read_reference_folder, "got10k": read_got10k, "mot": read_mot}[name](path)


def _load_track_file(
    path: Path, *, image_size: tuple[int, int] | None, frames: int | None, label: str | None
) -> BoxTracks:
    file = read_track_file(path / "tracks.json" if path.is_dir() else path)
    tracks = file.to_pixel_tracks().to_box_tracks(image_size=image_size, label=label)
    if frames is None or frames == file.frames:
        return tracks
    # From the keyframes, not from `tracks`: `smooth` and `hold` keep their shape in any number of frames.
    return file.to_pixel_tracks(frames).to_box_tracks(image_size=image_size, label=label)


def _json_format(path: Path) -> str:
    content = read_json(path)
    if isinstance(content, dict) and content.get("format") == FORMAT:
        return FORMAT
    if isinstance(content, dict) and {"videos", "annotations"} <= content.keys():
        return "youtube-vis"
    raise SMCDError(f'{path}: neither smcd-tracks (no "format": "{FORMAT}") nor YouTube-VIS (no videos, annotations)')


def _table_format(path: Path) -> str:
    columns = len(read_numbers(path, (4, 7, 8, 9, 10))[0])
    if columns > 4:
        return "mot"
    raise SMCDError(f"{path}: four numbers a line may be x1,y1,x2,y2 or x,y,w,h: pass --tracks_format (format=...)")


def _check_format(name: str) -> None:
    if name not in FORMATS:
        raise SMCDError(f"format {name!r} is unknown: use one of {', '.join(FORMATS)}")
