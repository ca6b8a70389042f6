"""A file of requests, one clip a row: read, all rows checked, then made one after the other with the same programs."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import json
import os
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smcd_jax.cli import console
from smcd_jax.cli.clip import Clip, check_clip
from smcd_jax.cli.clip_options import OPTIONS
from smcd_jax.cli.clip_reporting import introduce, make_progress, open_pipeline, report_notes, report_result
from smcd_jax.cli.clip_run import finish_clip, is_described, is_kept, make_clip
from smcd_jax.cli.parser import did_you_mean
from smcd_jax.errors import SMCDError
from smcd_jax.files.text_files import read_text
from smcd_jax.pipeline import VideoPipeline

_PATHS = ("image", "end_image", "tracks", "input_data_path", "output")  # options that name files and folders
# How far a row is: not made; sampled but not decoded; made but for a file of it, which may be made anew; made.
_WAITING, _KEPT, _PARTIAL, _FINISHED = "waiting", "kept", "partial", "finished"


@dataclass(frozen=True)
class Row:
    """One row of a requests file.

    Attributes:
        where: file, row and line, for messages.
        number: from 1, the header and empty lines not counted.
        given: options of the row, over those of the command line.
    """

    where: str
    number: int
    given: Mapping[str, Any]


def read_requests(path: Path, common: Mapping[str, Any]) -> list[Row]:
    """The rows of a .csv or .jsonl file.

    Args:
        path: the file.
        common: options of the command line, which a row may override. A row without output is named after file and row.

    Raises:
        SMCDError: names file and row: another kind of file, an unknown column or key, or a value not of its kind.
    """
    readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows}
    if path.suffix.lower() not in readers:
        raise SMCDError(
            f"{path}: a requests file must be .csv (with a header) or .jsonl", argument="requests", path=path
        )
    if not path.is_file():
        raise SMCDError(f"{path}: no such file; check the path", argument="requests", path=path)
    try:
        rows = [
            Row(where, number, {"output": f"{path.stem}_{number:04d}", **common, **given})
            for number, (where, given) in enumerate(readers[path.suffix.lower()](path), 1)
        ]
    except csv.Error as error:
        raise SMCDError(
            f"{path}: not a table of comma-separated values ({error}); save it as CSV in UTF-8", path=path
        ) from error
    if not rows:
        raise SMCDError(f"{path}: no requests; write one per row", argument="requests", path=path)
    return [_with_slashes(row) for row in rows]


def _with_slashes(row: Row) -> Row:
    """Returns the row with the backslashes of Windows between folders as slashes; a note says so."""
    if os.sep == "\\":
        return row
    written = {name: row.given[name] for name in _PATHS if "\\" in str(row.given.get(name, ""))}
    if not written:
        return row
    console.note(f"{row.where}: \\ in {', '.join(written)} is read as /, which separates folders here")
    return dataclasses.replace(
        row, given={**row.given, **{name: text.replace("\\", "/") for name, text in written.items()}}
    )


def run_requests(args: argparse.Namespace, common: Mapping[str, Any]) -> int:
    """Makes the clips of a requests file; a row that fails does not lose the others.

    Returns:
        0 if all rows are done, 1 if one failed by a fault of the program, else 2 if one failed.

    Raises:
        SMCDError: a row is wrong; then none has been computed.
    """
    path = Path(args.requests)
    if "output" in common:
        raise SMCDError("--output names one clip; with --requests, give each row an output", argument="output")
    rows = read_requests(path, common)
    batch = _Batch(args, open_pipeline(args, keep_loaded=True), path.parent)
    states = _check_all(batch, rows)
    waiting = [row for row in rows if states[row.number] != _FINISHED]
    skipped = len(rows) - len(waiting)
    failed = _make_all(batch, waiting, states) if waiting else []
    if not args.quiet:
        done = len(waiting) - len(failed)
        console.result(f"{path}: {done} made, {len(failed)} failed, {skipped} were finished already")
    if failed:
        numbers = ", ".join(str(row.number) for row, _ in failed)
        console.error(f"{len(failed)} of {len(rows)} rows failed ({numbers}); fix them and run it again with --resume")
    if not failed:
        return 0
    return 2 if all(isinstance(error, SMCDError | OSError) for _, error in failed) else 1


@dataclass(frozen=True)
class _Batch:
    """What all rows have in common."""

    args: argparse.Namespace
    pipeline: VideoPipeline
    base: Path

    def check(self, row: Row) -> Clip:
        """The row's clip, read and checked."""
        return check_clip(row.given, self.pipeline, formats=self.args.formats, base=self.base)


def _check_all(batch: _Batch, rows: list[Row]) -> dict[int, str]:
    """How far each row is; raises the first error found, after looking at all rows."""
    states: dict[int, str] = {}
    written: dict[Path, Row] = {}
    notes, errors = [], []
    for row in rows:
        try:
            clip = batch.check(row)
            _check_unshared(clip, row, written)
            states[row.number] = _state(batch, clip)
            notes += [f"{row.where}: {note}" for note in clip.notes]
        except SMCDError as error:
            errors.append((row, error))
    if errors:
        more = f" (and {len(errors) - 1} more rows are wrong)" if len(errors) > 1 else ""
        row, error = errors[0]
        raise SMCDError(
            f"{row.where}: {error}{more}; nothing was computed",
            argument=error.argument,
            path=error.path or batch.args.requests,
            value=error.value,
        ) from error
    report_notes(batch.args, tuple(notes))
    return states


def _check_unshared(clip: Clip, row: Row, written: dict[Path, Row]) -> None:
    for path in (*clip.files.paths(), clip.files.latents):
        other = written.setdefault(path.absolute(), row)
        if other is not row:
            raise SMCDError(
                f"row {other.number} writes {path} too; give each row its own output", argument="output", path=path
            )


def _state(batch: _Batch, clip: Clip) -> str:
    args = batch.args
    described = is_described(clip)
    if described and args.resume:
        return _FINISHED if clip.files.complete() else _PARTIAL
    if described and not args.overwrite:
        raise SMCDError(
            f"{clip.files.description(0)}: exists already; skip finished rows with --resume",
            argument="output",
            path=clip.files.description(0),
        )
    kept = args.resume and is_kept(clip)
    if args.resume and not kept and not args.overwrite and clip.files.description(0).exists():
        raise SMCDError(
            f"{clip.files.description(0)}: made from other input or with other options; replace it with --overwrite, "
            "or give the row another output",
            argument="output",
            path=clip.files.description(0),
        )
    clip.files.check(overwrite=args.overwrite, finishing=kept)
    return _KEPT if kept else _WAITING


def _make_all(batch: _Batch, rows: list[Row], states: Mapping[int, str]) -> list[tuple[Row, Exception]]:
    args, failed = batch.args, []
    progress = make_progress(args)
    pipeline = batch.pipeline
    introduce(args, pipeline)
    pipeline.load(progress=progress)  # damaged weights would fail every row, so they stop all
    for position, row in enumerate(rows, 1):
        if not args.quiet:
            console.progress_line(f"row {row.number} ({position} of {len(rows)}): {row.given['output']}")
        try:
            clip = batch.check(row)
            state = states[row.number]
            clip.files.check(overwrite=args.overwrite or state == _PARTIAL, finishing=state == _KEPT)
            if state == _KEPT:
                seconds = finish_clip(pipeline, clip.files, changes={}, progress=progress)
            else:
                seconds = make_clip(pipeline, clip, progress=progress)
            report_result(args, clip.files.paths(), seconds)
        except KeyboardInterrupt:
            console.note(f"{position - 1} of {len(rows)} rows were done; go on with --resume")
            raise
        except Exception as error:  # whatever it is, the other rows are not lost; it is told and counted
            if getattr(args, "debug", False):
                traceback.print_exception(error)
            fault = (
                "" if isinstance(error, SMCDError | OSError) else f"a fault of the program, {type(error).__name__}: "
            )
            console.error(" ".join(f"{row.where}: {fault}{error}".split()))
            failed.append((row, error))
    return failed


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    text = read_text(path)
    separator = _separator(text.partition("\n")[0])
    reader = csv.reader(io.StringIO(text), strict=True, delimiter=separator)
    header = [name.strip() for name in next(reader, [])]
    for name in header:
        _known(name, f"{path}: column")
    if len(set(header)) < len(header):
        raise SMCDError(f"{path}: duplicate column ({', '.join(header)}); keep one", path=path, value=tuple(header))
    number = 0
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        number += 1
        where = f"{path}, row {number} (line {reader.line_num})"
        if len(cells) != len(header):
            raise SMCDError(
                f"{where}: {len(cells)} cells for {len(header)} columns; quote texts that contain {separator!r}",
                path=path,
                value=len(cells),
            )
        yield where, _given(zip(header, cells, strict=True), where, "from_text", nothing="")


def _separator(header: str) -> str:
    """Returns what separates the columns: the comma, or what spreadsheets write in its place, a semicolon or tab."""
    counts = {mark: sum(name.strip(' "') in OPTIONS for name in header.split(mark)) for mark in (",", ";", "\t")}
    return max(counts, key=counts.__getitem__)


def _jsonl_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    for line_number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        number += 1
        where = f"{path}, row {number} (line {line_number})"
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SMCDError(f"{where}: not JSON ({error}); write one object per line", path=path) from error
        if not isinstance(content, dict):
            raise SMCDError(
                f'{where}: {content!r:.60} is not an object; write {{"image": ..., "tracks": ...}}',
                path=path,
                value=content,
            )
        for name in content:
            _known(name, f"{where}: key")
        yield where, _given(content.items(), where, "from_json", nothing=None)


def _given(items: Any, where: str, reading: str, *, nothing: Any) -> dict[str, Any]:
    given = {}
    for name, value in items:
        value = value.strip() if isinstance(value, str) else value
        if value == nothing:
            continue
        if "\0" in str(value):
            raise SMCDError(f"{where}: {name} contains a zero byte; remove it", argument=name, value=value)
        try:
            given[name] = getattr(OPTIONS[name], reading)(value)
        except SMCDError as error:
            raise SMCDError(f"{where}: {error}", argument=error.argument, value=error.value) from error
    return given


def _known(name: str, where: str) -> None:
    if name not in OPTIONS:
        raise SMCDError(
            f"{where} {name!r} is unknown{did_you_mean(name, OPTIONS)}; known are {', '.join(OPTIONS)}",
            argument="requests",
            value=name,
        )
