"""`smcd tracks`: check, convert and draw tracks of boxes in any of the formats that `smcd animate` reads."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smcd_jax.cli import console
from smcd_jax.cli.clip_options import TRACK_FORMATS
from smcd_jax.errors import SMCDError

if TYPE_CHECKING:
    from smcd_jax.tracks import BoxTracks, PixelTracks

UNNAMED = "object"  # stands for the label of a file that names none, where no model is to read it

# What a format writes into the folder it is given; "smcd-tracks" and "youtube-vis" are files themselves.
_FILES = {
    "reference": ("bbox.txt", "prompt.txt"),
    "got10k": ("groundtruth.txt", "absence.label", "meta_info.ini"),
    "mot": ("gt/gt.txt", "gt.txt", "seqinfo.ini", "labels.txt", "gt/labels.txt"),
}

_MOST_DRAWN_BYTES = 2 * 2**30  # of frames, before they are laid out or encoded

_EPILOG = """\
examples:
  smcd tracks validate rocket.json
  smcd tracks convert GOT-10k_Val_000001 bird.json --format smcd-tracks
  smcd tracks draw rocket.json --image rocket.png --output boxes.png"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions of `smcd tracks` and their flags."""
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(title="actions", metavar="validate | convert | draw", dest="action")

    validate = actions.add_parser("validate", help="say what a file holds, or what is wrong with it")
    validate.set_defaults(act=_validate)
    validate.add_argument("files", nargs="+", metavar="FILE", help="a file, or the folder of a sequence")
    _add_reading(validate)

    convert = actions.add_parser("convert", help="write tracks in another format")
    convert.set_defaults(act=_convert)
    convert.add_argument("file", metavar="IN", help="a file, or the folder of a sequence")
    convert.add_argument("output", metavar="OUT", help="the file to write; a folder for reference, got10k and mot")
    convert.add_argument("--format", choices=TRACK_FORMATS, default="smcd-tracks", help="of OUT (default: smcd-tracks)")
    convert.add_argument("--overwrite", action="store_true", help="replace existing files")
    _add_reading(convert)

    draw = actions.add_parser("draw", help="draw the boxes over the picture: a sheet of all frames, or a video")
    draw.set_defaults(act=_draw)
    draw.add_argument("file", metavar="FILE", help="a file, or the folder of a sequence")
    draw.add_argument(
        "--output", required=True, metavar="OUT", help=".png for a sheet; .mp4, .gif or .webp for a video"
    )
    draw.add_argument("--fps", type=float, default=8, metavar="N", help="frames per second of a video (default: 8)")
    draw.add_argument("--columns", type=int, default=4, metavar="N", help="frames in a row of a sheet (default: 4)")
    draw.add_argument("--overwrite", action="store_true", help="replace an existing file")
    _add_reading(draw)


def run(args: argparse.Namespace) -> int:
    """Runs the action; 2 if a file to validate is wrong."""
    if args.action is None:
        raise SMCDError("smcd tracks does what? Say validate, convert or draw (see smcd tracks --help)")
    return args.act(args)


def _add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tracks_format", choices=TRACK_FORMATS, help="of the input; by default found by name and content"
    )
    parser.add_argument("--tracks_video", metavar="ID", help="id or name of the video to take from a YouTube-VIS file")
    parser.add_argument("--label", metavar="TEXT", help="what the object is, where the file does not say")
    parser.add_argument("--image", metavar="FILE", help="the picture the boxes belong to")
    parser.add_argument(
        "--image_size",
        type=_size,
        metavar="WIDTHxHEIGHT",
        help="its size in pixels instead, where the file does not say",
    )
    parser.add_argument("--frames", type=int, metavar="N", help="spread the motion over another number of frames")


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().replace(",", "x").split("x")
    if len(parts) != 2 or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT in pixels, such as 640x427")
    return int(parts[0]), int(parts[1])


def _validate(args: argparse.Namespace) -> int:
    status = 0
    for name in args.files:
        try:
            tracks, size, _ = _read(args, Path(name), image_size=_image_size(args))
            _describe(Path(name), tracks, size)
        except SMCDError as error:
            if len(args.files) == 1:
                raise
            console.error(str(error))
            status = 2
    return status


def _convert(args: argparse.Namespace) -> int:
    from smcd_jax.tracks import save_tracks

    path, output = Path(args.file), Path(args.output)
    tracks, size, unnamed = _read(args, path, image_size=_image_size(args))
    if unnamed:
        raise SMCDError(f"{path} does not name its object; pass --label, for example --label dog")
    if size is None and args.format != "smcd-tracks":
        raise SMCDError(f"{path} holds boxes in 0..1, and {args.format} holds pixels; pass --image or --image_size")
    existing = [file for file in _written(output, args.format) if file.exists()]
    if existing and not args.overwrite:
        raise SMCDError(f"{existing[0]} exists already; give another OUT, or --overwrite to replace it")
    lost = save_tracks(tracks, output, format=args.format, image_size=size)
    for text in (*tracks.notes, *lost):
        console.note(text)
    frames, objects = tracks.num_frames, tracks.num_objects
    console.result(f"wrote {output} ({args.format}: {_count(frames, 'frame')}, {_count(objects, 'object')})")
    return 0


def _draw(args: argparse.Namespace) -> int:
    import numpy as np

    from smcd_jax.cli.clip_options import check_fps
    from smcd_jax.files import write_atomically
    from smcd_jax.media import contact_sheet, draw_boxes, read_picture, write_video

    output = Path(args.output)
    suffix = output.suffix.lower()
    if suffix not in (".png", ".mp4", ".gif", ".webp"):
        raise SMCDError(f"cannot draw to {output}: use .png for a sheet, .mp4, .gif or .webp for a video")
    if output.exists() and not args.overwrite:
        raise SMCDError(f"{output} exists already; give another --output, or --overwrite to replace it")
    check_fps(args.fps, (suffix[1:],))
    picture = read_picture(_picture(args))
    tracks, _, _ = _read(args, Path(args.file), image_size=picture.shape[1::-1])
    if tracks.num_frames * picture.nbytes > _MOST_DRAWN_BYTES:
        raise SMCDError(f"{tracks.num_frames} frames are too many to draw at once; pass fewer with --frames, such as 8")
    frames = np.broadcast_to(picture, (tracks.num_frames, *picture.shape))
    drawn = draw_boxes(frames, tracks.boxes, tracks.mask, tracks.labels)
    output.parent.mkdir(parents=True, exist_ok=True)
    if suffix == ".png":
        from PIL import Image

        sheet = contact_sheet([drawn], columns=args.columns)
        with write_atomically(output) as temporary:
            Image.fromarray(sheet).save(temporary)
    else:
        write_video(drawn, output, fps=args.fps)
    for text in tracks.notes:
        console.note(text)
    console.result(f"wrote {output}")
    return 0


def _read(
    args: argparse.Namespace, path: Path, *, image_size: tuple[int, int] | None
) -> tuple[BoxTracks, tuple[int, int] | None, bool]:
    """The tracks; the size in pixels of the picture they refer to, if known; and whether an object had no name."""
    pixels = _pixel_tracks(args, path)
    unnamed = args.label is None and None in pixels.labels
    if pixels.size is None and image_size is None:
        raise SMCDError(f"{path} does not state the size of its picture; pass --image, or --image_size WIDTHxHEIGHT")
    tracks = pixels.to_box_tracks(image_size=image_size, label=UNNAMED if unnamed else args.label)
    if unnamed:
        note = f"{path}: does not name its object; pass --label when it is animated"
        tracks = dataclasses.replace(tracks, notes=(*tracks.notes, note))
    if args.frames is not None:
        tracks = tracks.resample(args.frames)
    stated = None if pixels.size is None or tuple(pixels.size) == (1, 1) else pixels.size
    size = stated or image_size
    return tracks, None if size is None else (_whole(size[0]), _whole(size[1])), unnamed


def _pixel_tracks(args: argparse.Namespace, path: Path) -> PixelTracks:
    from smcd_jax import tracks as formats

    if not path.exists():
        raise SMCDError(f"no such file: {path}; check the path")
    name = args.tracks_format or formats.detect_format(path)
    if args.tracks_video is not None and name != "youtube-vis":
        raise SMCDError(f"{path}: a {name} file holds one video; leave --tracks_video out")
    if name == "smcd-tracks":
        file = formats.read_track_file(path / "tracks.json" if path.is_dir() else path)
        return file.to_pixel_tracks(args.frames)
    if name == "youtube-vis":
        file = formats.read_youtube_vis(path / "instances.json" if path.is_dir() else path)
        return file.video(args.tracks_video).tracks
    readers: dict[str, Any] = {
        "reference": formats.read_reference_folder,
        "got10k": formats.read_got10k,
        "mot": formats.read_mot,
    }
    return readers[name](path)


def _image_size(args: argparse.Namespace) -> tuple[int, int] | None:
    if args.image is None or args.image_size is not None:
        return args.image_size
    from smcd_jax.media import read_picture

    return read_picture(args.image).shape[1::-1]


def _picture(args: argparse.Namespace) -> Path:
    if args.image is not None:
        return Path(args.image)
    path = Path(args.file)
    beside = (path if path.is_dir() else path.parent) / "img.png"
    if not beside.is_file():
        raise SMCDError(f"draw on what? Give the picture with --image FILE (there is no {beside} either)")
    return beside


def _describe(path: Path, tracks: BoxTracks, size: tuple[int, int] | None) -> None:
    from smcd_jax.tracks.pixel_tracks import format_frames

    where = "boxes in 0..1" if size is None else f"{size[0]} x {size[1]} pixels"
    console.result(f"{path}: {_count(tracks.num_frames, 'frame')}, {_count(tracks.num_objects, 'object')}, {where}")
    if tracks.prompt is not None:
        console.result(f"  prompt: {tracks.prompt}")
    for index, label in enumerate(tracks.labels):
        seen = [frame for frame in range(tracks.num_frames) if tracks.mask[frame, index]]
        if not seen:
            console.result(f"  object {index} {label!r}: in no frame")
            continue
        boxes = [_box(tracks.boxes[frame, index], size) for frame in dict.fromkeys((seen[0], seen[-1]))]
        console.result(f"  object {index} {label!r}: frames {format_frames(seen)}; {' -> '.join(boxes)}")
    for text in tracks.notes:
        console.result(f"  note: {text}")


def _box(box: Any, size: tuple[int, int] | None) -> str:
    if size is None:
        return ",".join(f"{side:.4g}" for side in box)
    return ",".join(f"{side * extent:.0f}" for side, extent in zip(box, itertools.cycle(size), strict=False))


def _written(output: Path, format: str) -> list[Path]:
    if output.is_dir() and format in _FILES:
        return [output / name for name in _FILES[format]]
    return [output]


def _whole(side: float) -> float | int:
    return int(side) if float(side).is_integer() else side


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
