"""`smcd tracks`: check, convert, draw and preview box tracks in any of the formats that `smcd animate` reads."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smcd_jax.cli import console
from smcd_jax.cli.clip_options import TRACK_FORMATS, WRITTEN_TRACK_FORMATS
from smcd_jax.cli.parser import width_and_height
from smcd_jax.errors import SMCDError
from smcd_jax.files.examples import example_file

if TYPE_CHECKING:
    from smcd_jax.tracks import BoxTracks, PixelTracks

PLACEHOLDER = "object"  # label of objects that have none, for checking and drawing

_MAX_DRAWN_BYTES = 2 * 2**30  # memory for uint8 frames, before layout or encoding

_EPILOG = """\
examples:
  smcd tracks validate rocket
  smcd tracks convert rocket rocket.json
  smcd tracks draw rocket --output boxes.png
  smcd tracks preview rocket rocket --output preview.mp4

"rocket" and "sprite" are examples that come with smcd_jax; name your own files instead."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommands of `smcd tracks` and their flags."""
    parser.epilog = _EPILOG
    subcommands = parser.add_subparsers(
        title="subcommands", metavar="validate | convert | draw | preview", dest="subcommand"
    )

    validate = _add_subcommand(
        subcommands,
        "validate",
        _validate,
        help="describe the content of track files, or report their errors",
        examples=["validate rocket", "validate rocket sprite --frames 16"],
    )
    validate.add_argument("files", nargs="+", metavar="FILE", help="track file, or folder of a sequence")
    _add_input_flags(validate)

    convert = _add_subcommand(
        subcommands,
        "convert",
        _convert,
        help="write tracks in another format",
        common=("file", "output", "format", "label", "image", "image_size", "frames", "overwrite"),
        examples=["convert rocket rocket.json", "convert rocket rocket_mot --format mot"],
    )
    convert.add_argument("file", metavar="IN", help="track file, or folder of a sequence")
    convert.add_argument("output", metavar="OUT", help="file to write; folder for reference, got10k and mot")
    convert.add_argument(
        "--format", choices=WRITTEN_TRACK_FORMATS, default="smcd-tracks", help="format of OUT (default: smcd-tracks)"
    )
    convert.add_argument("--overwrite", action="store_true", help="replace existing files")
    _add_input_flags(convert)

    draw = _add_subcommand(
        subcommands,
        "draw",
        _draw,
        help="draw the boxes on the image, as a contact sheet or a video",
        common=("file", "output", "image", "label", "frames", "fps", "columns", "overwrite"),
        examples=["draw rocket --output boxes.png", "draw rocket --frames 24 --fps 12 --output boxes.mp4"],
    )
    draw.add_argument("file", metavar="FILE", help="track file, or folder of a sequence")
    draw.add_argument(
        "--output", required=True, metavar="OUT", help=".png for a contact sheet; .mp4, .gif or .webp for a video"
    )
    draw.add_argument("--fps", type=float, default=8, metavar="N", help="frames per second of a video (default: 8)")
    draw.add_argument("--columns", type=int, default=4, metavar="N", help="frames per row of a sheet (default: 4)")
    draw.add_argument("--overwrite", action="store_true", help="replace an existing file")
    _add_input_flags(draw)

    preview = _add_subcommand(
        subcommands,
        "preview",
        _preview,
        help="move the contents of the boxes over a filled background, without a model",
        common=("image", "file", "output", "boxes", "label", "frames", "fps", "overwrite"),
        examples=["preview rocket rocket", "preview rocket rocket --boxes --fps 12 --output rocket.gif"],
    )
    preview.add_argument("image", metavar="IMAGE", help="image that the boxes refer to")
    preview.add_argument("file", metavar="TRACKS", help="track file, or folder of a sequence")
    preview.add_argument(
        "--output", metavar="OUT", help=".mp4, .gif or .webp file to write (default: NAME_preview.mp4 in this folder)"
    )
    preview.add_argument("--boxes", action="store_true", help="draw the boxes and their labels")
    preview.add_argument("--fps", type=float, default=8, metavar="N", help="frames per second (default: 8)")
    preview.add_argument("--overwrite", action="store_true", help="replace an existing file")
    _add_input_flags(preview, has_image=True)


def _add_subcommand(
    subcommands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int],
    *,
    help: str,
    examples: list[str],
    common: tuple[str, ...] = (),
) -> argparse.ArgumentParser:
    parser = subcommands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
    parser.epilog = "\n".join(["examples:", *(f"  smcd tracks {example}" for example in examples)])
    parser.common = common
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Runs the subcommand and returns its exit status: 2 if a validated file has an error."""
    if args.subcommand is None:
        message = (
            "missing subcommand: use 'smcd tracks validate', 'convert', 'draw' or 'preview' (see smcd tracks --help)"
        )
        raise SMCDError(message, argument="subcommand")
    return args.run(args)


def _add_input_flags(parser: argparse.ArgumentParser, *, has_image: bool = False) -> None:
    parser.add_argument(
        "--tracks_format", choices=TRACK_FORMATS, help="format of the input (default: detected from name and content)"
    )
    parser.add_argument("--tracks_video", metavar="ID", help="id or name of the video to read from a YouTube-VIS file")
    parser.add_argument("--label", metavar="TEXT", help="label of the object, if the file has none")
    if not has_image:
        parser.add_argument("--image", metavar="FILE", help="image that the boxes refer to")
        parser.add_argument(
            "--image_size",
            type=width_and_height,
            metavar="WIDTHxHEIGHT",
            help="size of the image in pixels, instead of --image, if the file does not state it",
        )
    parser.add_argument("--frames", type=int, metavar="N", help="number of frames to spread the motion over")


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
    from smcd_jax.tracks import save_tracks, written_files

    path, output = Path(args.file), Path(args.output)
    tracks, size, unlabelled = _read(args, path, image_size=_image_size(args))
    if unlabelled:
        message = f"{path} does not name its object; pass --label, such as --label dog"
        raise SMCDError(message, argument="label", path=path)
    if size is None and args.format != "smcd-tracks":
        message = f"{path} holds boxes in 0..1, but {args.format} needs pixels; pass --image or --image_size"
        raise SMCDError(message, argument="image_size", path=path)
    _check_new(written_files(output, args.format), args)
    lost = save_tracks(tracks, output, format=args.format, image_size=size)
    for text in (*tracks.notes, *lost):
        console.note(text)
    frames, objects = tracks.num_frames, tracks.num_objects
    console.result(f"wrote {output} ({args.format}: {_count(frames, 'frame')}, {_count(objects, 'object')})")
    return 0


def _draw(args: argparse.Namespace) -> int:
    import numpy as np

    from smcd_jax.files import write_atomically
    from smcd_jax.media import contact_sheet, draw_boxes, read_picture, write_video
    from smcd_jax.sampling_options import check_fps

    output = Path(args.output)
    suffix = output.suffix.lower()
    if suffix not in (".png", ".mp4", ".gif", ".webp"):
        message = f"--output must end in .png for a contact sheet or .mp4, .gif or .webp for a video, got {output}"
        raise SMCDError(message, argument="output", path=output, value=suffix)
    _check_new([output], args)
    check_fps(args.fps, (suffix[1:],))
    picture = read_picture(_picture(args))
    tracks, _, _ = _read(args, Path(args.file), image_size=picture.shape[1::-1])
    _check_memory(tracks, picture.nbytes)
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


def _preview(args: argparse.Namespace) -> int:
    from smcd_jax.media import draw_boxes, read_picture, write_video
    from smcd_jax.media.cut_and_move import move_boxes, preview_picture
    from smcd_jax.sampling_options import check_fps

    image = example_file(Path(args.image), "img.png")
    output = Path(args.output if args.output is not None else f"{Path(args.image).stem}_preview.mp4")
    suffix = output.suffix.lower()
    if suffix not in (".mp4", ".gif", ".webp"):
        message = f"--output must end in .mp4, .gif or .webp, got {output}"
        raise SMCDError(message, argument="output", path=output, value=suffix)
    _check_new([output], args)
    check_fps(args.fps, (suffix[1:],))
    picture = read_picture(image)
    tracks, _, _ = _read(args, Path(args.file), image_size=picture.shape[1::-1])
    tracks, ignored = tracks.without_absent()
    picture = preview_picture(picture)
    _check_memory(tracks, picture.nbytes)
    frames = move_boxes(picture, tracks.boxes, tracks.mask)
    if args.boxes:
        frames = draw_boxes(frames, tracks.boxes, tracks.mask, tracks.labels)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_video(frames, output, fps=args.fps)
    for text in (*tracks.notes, *ignored):
        console.note(text)
    console.result(f"wrote {output}")
    return 0


def _check_memory(tracks: BoxTracks, frame_bytes: int) -> None:
    if tracks.num_frames * frame_bytes > _MAX_DRAWN_BYTES:
        message = f"{tracks.num_frames} frames are too many to draw at once; pass fewer with --frames, such as 8"
        raise SMCDError(message, argument="frames", value=tracks.num_frames)


def _check_new(files: list[Path], args: argparse.Namespace) -> None:
    existing = [file for file in files if file.exists()]
    if existing and not args.overwrite:
        message = f"{existing[0]} exists already; choose another output, or pass --overwrite to replace it"
        raise SMCDError(message, argument="overwrite", path=existing[0])


def _read(
    args: argparse.Namespace, path: Path, *, image_size: tuple[int, int] | None
) -> tuple[BoxTracks, tuple[int, int] | None, bool]:
    """Reads tracks.

    Returns:
        The tracks, the size in pixels of the image they refer to (None if unknown), and whether an object had no label.
    """
    pixels = _pixel_tracks(args, path)
    unlabelled = args.label is None and None in pixels.labels
    if pixels.size is None and image_size is None:
        message = f"{path} does not state the size of its picture; pass --image, or --image_size WIDTHxHEIGHT"
        raise SMCDError(message, argument="image_size", path=path)
    tracks = pixels.to_box_tracks(image_size=image_size, label=PLACEHOLDER if unlabelled else args.label)
    if unlabelled:
        note = f"{path}: does not name its object; smcd animate needs --label"
        tracks = dataclasses.replace(tracks, notes=(*tracks.notes, note))
    if args.frames is not None:
        tracks = tracks.resample(args.frames)
    stated = None if pixels.size is None or tuple(pixels.size) == (1, 1) else pixels.size
    size = stated or image_size
    return tracks, None if size is None else (_whole(size[0]), _whole(size[1])), unlabelled


def _pixel_tracks(args: argparse.Namespace, path: Path) -> PixelTracks:
    from smcd_jax.tracks import TrackFile, read_tracks

    path = example_file(path, "tracks.json")
    if not path.exists():
        raise SMCDError(f"{path}: no such file; check the path", path=path)
    content = read_tracks(path, format=args.tracks_format, video=args.tracks_video)
    return content.to_pixel_tracks(args.frames) if isinstance(content, TrackFile) else content


def _image_size(args: argparse.Namespace) -> tuple[int, int] | None:
    if args.image is None or args.image_size is not None:
        return args.image_size
    from smcd_jax.media import read_picture

    return read_picture(example_file(Path(args.image), "img.png")).shape[1::-1]


def _picture(args: argparse.Namespace) -> Path:
    if args.image is not None:
        return example_file(Path(args.image), "img.png")
    path = example_file(Path(args.file), "tracks.json")
    picture = (path if path.is_dir() else path.parent) / "img.png"
    if not picture.is_file():
        raise SMCDError("no image found next to the tracks; pass --image FILE", argument="image", path=picture)
    return picture


def _describe(path: Path, tracks: BoxTracks, size: tuple[int, int] | None) -> None:
    from smcd_jax.tracks.pixel_tracks import format_frames

    where = "boxes in 0..1" if size is None else f"{size[0]} x {size[1]} pixels"
    console.result(f"{path}: {_count(tracks.num_frames, 'frame')}, {_count(tracks.num_objects, 'object')}, {where}")
    if tracks.prompt is not None:
        console.result(f"  prompt: {tracks.prompt}")
    for index, label in enumerate(tracks.labels):
        seen = [frame for frame in range(tracks.num_frames) if tracks.mask[frame, index]]
        if not seen:
            console.result(f"  object {index} {label!r}: absent from all frames")
            continue
        boxes = [_box(tracks.boxes[frame, index], size) for frame in dict.fromkeys((seen[0], seen[-1]))]
        console.result(f"  object {index} {label!r}: frames {format_frames(seen)}; {' -> '.join(boxes)}")
    for text in tracks.notes:
        console.result(f"  note: {text}")


def _box(box: Any, size: tuple[int, int] | None) -> str:
    if size is None:
        return ",".join(f"{side:.4g}" for side in box)
    return ",".join(f"{side * extent:.0f}" for side, extent in zip(box, itertools.cycle(size), strict=False))


def _whole(side: float) -> float | int:
    return int(side) if float(side).is_integer() else side


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
