"""`smcd inspect`: summarizes a folder of records and draws clips, boxes, labels and captions on a contact sheet."""

from __future__ import annotations

import argparse
from pathlib import Path

from smcd_jax.cli.console import note, result
from smcd_jax.errors import SMCDError

_EPILOG = """\
examples:
  smcd prepare sprites --output records --option train_clips=40 --option val_clips=8
  smcd inspect records --split val --clips 4 --output val.png
  smcd inspect records --check"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `smcd inspect`."""
    parser.epilog = _EPILOG
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of records, written by smcd prepare")
    parser.add_argument("--split", help="split to show; default: the first one")
    parser.add_argument("--clips", type=int, metavar="N", default=6, help="number of clips on the sheet; default: 6")
    parser.add_argument("--clip", action="append", metavar="ID", help="show the clip with this id; may be repeated")
    parser.add_argument("--frames", type=int, metavar="N", default=8, help="number of frames per clip; default: 8")
    parser.add_argument(
        "--height", type=int, metavar="PIXELS", default=160, help="frame height on the sheet; default: 160"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="file of the sheet; default: NAME-SPLIT.png")
    parser.add_argument(
        "--check", action="store_true", help="read every record and verify every checksum instead of drawing"
    )
    parser.add_argument(
        "--max_bad_share",
        type=float,
        metavar="F",
        default=0.0,
        help="largest share of bad records, 0 to 1; default: 0",
    )


def run(args: argparse.Namespace) -> int:
    """Prints the contents of the folder, then draws a sheet or checks the records."""
    from data_pipeline.records.contact_sheets import check_records, sheet, spread_positions, write_sheet
    from data_pipeline.records.reader import REPORT, RecordFolder, read_manifest
    from data_pipeline.records.report import Report
    from smcd_jax.files.text_files import read_json

    for flag in ("clips", "frames", "height"):
        value = getattr(args, flag)
        if value < 1:
            raise SMCDError(f"--{flag} must be at least 1, got {value}", argument=flag, value=value)
    splits = read_manifest(args.folder)["splits"]
    report = Report.from_json(read_json(args.folder / REPORT))
    for line in (*report.raw_notes, *report.lines()):
        result(line)
    for split in [args.split] if args.split else list(splits) if args.check else list(splits)[:1]:
        records = RecordFolder(args.folder, split, max_bad_share=args.max_bad_share)
        if records.lost:
            note(f"{args.folder}: {records.lost} records of {split} are lost because files are missing or truncated")
        if args.check:
            bad = check_records(records, max_bad_share=args.max_bad_share)
            if not bad:
                records.verify()
            result(f"{records.name} {split}: {len(records)} records read, {bad.total()} damaged")
            continue
        positions = [records.position(clip) for clip in args.clip or ()] or spread_positions(records, args.clips)
        picture, faults = sheet(records, positions, frames=args.frames, height=args.height)
        for fault in faults:
            note(fault)
        path = args.output or Path(f"{records.name}-{split}.png")
        write_sheet(picture, path)
        result(f"{path}: {len(positions) - len(faults)} clips of {records.name} {split}")
    return 0
