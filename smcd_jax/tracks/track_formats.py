"""The file formats of tracks by name: detecting, loading and saving."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from smcd_jax.errors import SMCDError
from smcd_jax.files.tables import read_table
from smcd_jax.files.text_files import read_json
from smcd_jax.tracks.box_tracks import BoxTracks, check_frames
from smcd_jax.tracks.coco_vid import is_coco, read_coco_vid
from smcd_jax.tracks.cvat_xml import read_cvat_xml
from smcd_jax.tracks.got10k import read_got10k, read_otb, write_got10k
from smcd_jax.tracks.kitti import is_kitti, is_vatic, read_kitti, read_vatic
from smcd_jax.tracks.label_studio import is_label_studio, read_label_studio
from smcd_jax.tracks.mot import boxes_file, is_visdrone, read_cvat_mot, read_mot, read_visdrone, write_mot
from smcd_jax.tracks.pixel_tracks import PixelTracks
from smcd_jax.tracks.reference_folder import read_reference_folder, write_reference_folder
from smcd_jax.tracks.track_file import FORMAT, TrackFile, read_track_file, write_track_file
from smcd_jax.tracks.youtube_vis import read_youtube_vis, write_youtube_vis


class TrackFormat(NamedTuple):
    """One file format.

    Attributes:
        about: Name of the format as users know it, for messages.
        name: File name by which the format is recognised; empty if it is recognised by content alone.
        read: Reader of a file or of the folder that holds it.
        write: Writer of tracks, path and image size; returns texts that say what the format lacks. None if the format
            is only read.
        written: Files that `write` may create in a folder; empty if it writes `path` itself.
        selects_video: Whether a file holds several videos, so that `read` takes the argument `video`.
    """

    about: str
    name: str
    read: Callable[..., PixelTracks | TrackFile]
    write: Callable[[BoxTracks, Path, tuple[int, int] | None], tuple[str, ...]] | None = None
    written: tuple[str, ...] = ()
    selects_video: bool = False


def _read_youtube_vis(path: Path, *, video: int | str | None = None) -> PixelTracks:
    return read_youtube_vis(path).video(video).tracks


_MOT_FILES = ("gt/gt.txt", "gt.txt", "seqinfo.ini", "labels.txt", "gt/labels.txt")
_GOT10K_FILES = ("groundtruth.txt", "absence.label", "meta_info.ini")
_FORMATS = {
    FORMAT: TrackFormat("tracks.json of smcd", "tracks.json", read_track_file, write_track_file),
    "reference": TrackFormat(
        "bbox.txt of SMCD", "bbox.txt", read_reference_folder, write_reference_folder, ("bbox.txt", "prompt.txt")
    ),
    "got10k": TrackFormat(
        "x,y,width,height per line (GOT-10k, LaSOT, UAV123, TrackingNet, VOT)",
        "groundtruth.txt",
        read_got10k,
        write_got10k,
        _GOT10K_FILES,
    ),
    "mot": TrackFormat("MOTChallenge", "gt.txt", read_mot, write_mot, _MOT_FILES),
    "youtube-vis": TrackFormat(
        "YouTube-VIS", "instances.json", _read_youtube_vis, write_youtube_vis, selects_video=True
    ),
    "otb": TrackFormat("OTB", "groundtruth_rect.txt", read_otb),
    "cvat-mot": TrackFormat("CVAT's MOT 1.1", "", read_cvat_mot),
    "cvat": TrackFormat("CVAT's XML for video 1.1", "annotations.xml", read_cvat_xml),
    "label-studio": TrackFormat("Label Studio's video tracks", "", read_label_studio, selects_video=True),
    "coco-vid": TrackFormat("COCO-VID", "", read_coco_vid, selects_video=True),
    "kitti": TrackFormat("KITTI tracking", "", read_kitti),
    "vatic": TrackFormat("VATIC", "", read_vatic),
    "visdrone": TrackFormat("VisDrone-VID", "", read_visdrone),
}
READ_FORMATS = tuple(_FORMATS)
FORMATS = tuple(name for name, format in _FORMATS.items() if format.write)
_BY_NAME = {format.name: name for name, format in _FORMATS.items() if format.name}
_ROWS_TO_JUDGE = 1000
_NO_TRACKS = (".mp4", ".mov", ".avi", ".png", ".jpg", ".jpeg", ".zip", ".gz", ".tar", ".mat", ".npy", ".npz", ".xlsx")
_READABLE = f"what is read: {'; '.join(format.about for format in _FORMATS.values())}"


def load_tracks(
    path: str | Path,
    *,
    image_size: tuple[int, int] | None = None,
    format: str | None = None,
    frames: int | None = None,
    label: str | None = None,
    video: int | str | None = None,
    video_frames: int | None = None,
) -> BoxTracks:
    """Loads tracks of any format as boxes in 0..1, clipped to the picture; the notes say what was read and clipped.

    Args:
        path: File, or folder of a sequence.
        image_size: (width, height) of the picture to animate. Required if the file does not state the size that its
            boxes refer to (`bbox.txt` without `img.png`, `groundtruth.txt` without `meta_info.ini`, `gt.txt` without
            `seqinfo.ini`); otherwise only used for the note about another aspect ratio.
        format: One of `READ_FORMATS`; None detects it from name and content.
        frames: Number of frames of the result, over which the same motion is spread; None for that of the file.
        label: Label of the object of a file that states none (`bbox.txt`), or new label of the only object.
        video: Id or name of the video to read from a file of several; None if there is only one.
        video_frames: Number of frames of the video that the tracks belong to. If the file does not state it and its
            last box is earlier, no object is present after that box; a note says so.

    Raises:
        SMCDError: The file cannot be read or an argument does not fit it; names file, object, frame and value.
    """
    if frames is not None:
        check_frames(frames)
    content = read_tracks(path, format=format, video=video)
    pixels = content.to_pixel_tracks() if isinstance(content, TrackFile) else content
    if video_frames is not None and not pixels.length_stated and len(pixels.boxes) < video_frames:
        pixels = pixels.extended(video_frames)
    tracks = pixels.to_box_tracks(image_size=image_size, label=label)
    if frames is None or frames == tracks.num_frames:
        return tracks
    if isinstance(content, TrackFile):
        # Interpolated from the keyframes, not from `tracks`: `smooth` and `hold` keep their shape at any number of
        # frames.
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
    found = _format(name, READ_FORMATS)
    if found.selects_video:
        return found.read(path, video=video)
    if video is not None:
        raise SMCDError(
            f"{path}: a {name} file holds one video; leave out --tracks_video (video={video!r} in Python)",
            argument="video",
            path=path,
            value=video,
        )
    if format == "mot":  # requested by name: pixels count from 1, even if CVAT seems to have written the file
        return read_mot(path, pixels_from=1)
    return found.read(path)


def save_tracks(
    tracks: BoxTracks, path: str | Path, *, format: str, image_size: tuple[int, int] | None = None
) -> tuple[str, ...]:
    """Saves tracks in a format.

    Saving in pixels and loading again moves a side by at most 1e-4 pixels, the rounding to 4 decimals, plus the
    rounding of float32. Saving as `smcd-tracks` without `image_size` is exact.

    Args:
        tracks: Tracks to save.
        path: File for `smcd-tracks` and `youtube-vis`, folder for `reference` and `got10k`, either of them for `mot`.
        format: One of `FORMATS`.
        image_size: (width, height) of the picture. Required except for `smcd-tracks`, which stores boxes in 0..1
            without it.

    Returns:
        Texts that say what the format cannot hold: label, prompt, masks. Empty if it holds everything.

    Raises:
        SMCDError: The format cannot hold these tracks, or `path` cannot be written.
    """
    return _format(format, FORMATS).write(tracks, Path(path), image_size)


def written_files(path: Path, format: str) -> list[Path]:
    """Returns the files that `save_tracks` may create or replace at `path`."""
    names = _format(format, FORMATS).written if path.is_dir() else ()
    return [path / name for name in names] or [path]


def detect_format(path: Path) -> str:
    """Returns the format of a folder by the file in it, and of a file by its name or else its content.

    Raises:
        SMCDError: The path does not exist, a folder has none or several of the files, or the content fits no format.
    """
    if path.is_dir():
        found = [name for name in _BY_NAME if _holds(path, name)]
        if len(found) == 1:
            return _table_format(boxes_file(path)) if found == ["gt.txt"] else _BY_NAME[found[0]]
        if not found:
            raise SMCDError(
                f"{path}: no tracks in this folder; expected one of {', '.join(_BY_NAME)}, or name the file", path=path
            )
        raise SMCDError(
            f"{path}: the folder holds {' and '.join(found)}; name the file, or pass --tracks_format "
            "(format=... in Python)",
            argument="format",
            path=path,
            value=found,
        )
    if path.name in _BY_NAME and path.name != "gt.txt":
        return _BY_NAME[path.name]
    readers = {".json": _json_format, ".xml": lambda path: "cvat", **dict.fromkeys(_NO_TRACKS, _refuse_kind)}
    return readers.get(path.suffix.lower(), _table_format)(path)


def _holds(folder: Path, name: str) -> bool:
    if name == "gt.txt":
        return boxes_file(folder).is_file()
    if name == "groundtruth_rect.txt":
        return any(folder.glob("groundtruth_rect*.txt"))
    return (folder / name).is_file()


def _refuse_kind(path: Path) -> str:
    raise SMCDError(f"{path}: a {path.suffix} file holds no tracks; {_READABLE}", argument="format", path=path)


def _json_format(path: Path) -> str:
    content = read_json(path)
    if isinstance(content, dict) and content.get("format") == FORMAT:
        return FORMAT
    if is_coco(content):
        return "coco-vid"
    if isinstance(content, dict) and {"videos", "annotations"} <= content.keys():
        return "youtube-vis"
    if is_label_studio(content):
        return "label-studio"
    raise SMCDError(f"{path}: JSON of an unknown kind; {_READABLE}", argument="format", path=path)


def _table_format(path: Path) -> str:
    table = read_table(path, limit=_ROWS_TO_JUDGE)
    if not table.rows:
        raise SMCDError(f"{path}: the file is empty; {_READABLE}", argument="format", path=path)
    first = table.rows[0]
    if is_kitti(first):
        return "kitti"
    if is_vatic(first):
        return "vatic"
    if all(map(is_visdrone, table.rows)):
        return "visdrone"
    if len(first.fields) in (7, 8, 9, 10):
        return "mot"
    if len(first.fields) == 4 and table.header:
        return "reference" if "x2" in table.header or "xmax" in table.header else "got10k"
    if len(first.fields) != 4:
        raise SMCDError(
            f"{path}: {first.text[:60]!r} on line {first.line} fits no format; {_READABLE}",
            argument=f"line {first.line}",
            path=path,
            value=first.text,
        )
    raise SMCDError(
        f"{path}: four numbers per line may be x1,y1,x2,y2 (--tracks_format reference) or x,y,w,h (--tracks_format "
        "got10k); pass one of the two (format=... in Python)",
        argument="format",
        path=path,
    )


def _format(name: str, names: tuple[str, ...]) -> TrackFormat:
    if name not in names:
        raise SMCDError(f"format must be one of {', '.join(names)}, got {name!r}", argument="format", value=name)
    return _FORMATS[name]
