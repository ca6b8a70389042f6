"""`smcd animate --requests`: one clip per row of a file; all rows are checked before the first is computed."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from smcd_jax.cli import console
from smcd_jax.cli.clip_options import OPTIONS
from smcd_jax.cli.clip_reporting import introduce, make_progress, open_pipeline, report_notes, report_result
from smcd_jax.cli.parser import did_you_mean
from smcd_jax.errors import SMCDError
from smcd_jax.files.text_files import read_text
from smcd_jax.pipeline import VideoPipeline
from smcd_jax.pipeline.clip import Clip, check_clip
from smcd_jax.pipeline.clip_run import finish_clip, is_described, is_kept, make_clip

_PATHS = (
    "image",
    "end_image",
    "motion_from",
    "save_motion",
    "tracks",
    "input_data_path",
    "output",
)  # options that name files and folders
# States of a row: not sampled; sampled but not decoded; complete but for a file that may be rewritten; complete.
_WAITING, _KEPT, _PARTIAL, _FINISHED = "waiting", "kept", "partial", "finished"


class Row(NamedTuple):
    """One request.

    Attributes:
        where: File, row and line, for messages.
        number: Number of the row, starting at 1; the header and empty lines are not counted.
        values: Options by name, from the row or, if the row does not set them, from the command line.
    """

    where: str
    number: int
    values: Mapping[str, Any]


def read_requests(path: Path, common: Mapping[str, Any]) -> list[Row]:
    """Returns the rows of a .csv or .jsonl file.

    Args:
        path: File of requests.
        common: Options from the command line. A row without an output is named after the file and the row's number.

    Raises:
        SMCDError: The file is neither .csv nor .jsonl, a column or key is unknown, or a value is invalid.
    """
    readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows}
    if path.suffix.lower() not in readers:
        raise SMCDError(f"{path}: must be .csv (with a header) or .jsonl", argument="requests", path=path)
    if not path.is_file():
        raise SMCDError(f"{path}: no such file; check the path", argument="requests", path=path)
    try:
        rows = [
            Row(where, number, {"output": f"{path.stem}_{number:04d}", **common, **values})
            for number, (where, values) in enumerate(readers[path.suffix.lower()](path), 1)
        ]
    except csv.Error as error:
        message = f"{path}: not a table of comma-separated values ({error}); save it as CSV in UTF-8"
        raise SMCDError(message, path=path) from error
    if not rows:
        raise SMCDError(f"{path}: no requests; write one per row", argument="requests", path=path)
    return [_with_slashes(row) for row in rows]


def _with_slashes(row: Row) -> Row:
    """Returns the row with backslashes in paths replaced by slashes, and prints a note about it."""
    if os.sep == "\\":
        return row
    written = {name: row.values[name] for name in _PATHS if "\\" in str(row.values.get(name, ""))}
    if not written:
        return row
    console.note(f"{row.where}: \\ in {', '.join(written)} is read as /, the folder separator on this system")
    slashed = {name: text.replace("\\", "/") for name, text in written.items()}
    return row._replace(values={**row.values, **slashed})


def run_requests(args: argparse.Namespace, common: Mapping[str, Any]) -> int:
    """Generates the clips of a file of requests; a row that fails does not stop the others.

    Returns:
        0 if no row failed, 1 if one failed because of an internal error, else 2.

    Raises:
        SMCDError: A row is invalid; nothing has been computed.
    """
    path = Path(args.requests)
    if "output" in common:
        raise SMCDError("--output names one clip; with --requests, give each row an output", argument="output")
    rows = read_requests(path, common)
    pipeline = open_pipeline(args, keep_loaded=True)

    def check(row: Row) -> Clip:
        return check_clip(row.values, pipeline, formats=args.formats, base=path.parent)

    states = _check_all(args, rows, check)
    waiting = [row for row in rows if states[row.number] != _FINISHED]
    failed = _make_all(args, pipeline, waiting, states, check) if waiting else {}
    if not args.quiet:
        made, finished = len(waiting) - len(failed), len(rows) - len(waiting)
        console.result(f"{path}: {made} generated, {len(failed)} failed, {finished} already finished")
    if failed:
        numbers = ", ".join(map(str, failed))
        console.error(f"{len(failed)} of {len(rows)} rows failed ({numbers}); fix them and rerun with --resume")
    internal = any(not isinstance(error, SMCDError | OSError) for error in failed.values())
    return 1 if internal else 2 if failed else 0


def _check_all(args: argparse.Namespace, rows: list[Row], check: Callable[[Row], Clip]) -> dict[int, str]:
    """Returns each row's state by its number; the first error is raised only after all rows have been checked."""
    states: dict[int, str] = {}
    writers: dict[Path, Row] = {}
    notes, errors = [], []
    for row in rows:
        try:
            clip = check(row)
            for path in (*clip.files.paths(), clip.files.latents):
                other = writers.setdefault(path.absolute(), row)
                if other is not row:
                    message = f"row {other.number} writes {path} too; give each row its own output"
                    raise SMCDError(message, argument="output", path=path)
            states[row.number] = _state(args, clip)
            notes += [f"{row.where}: {note}" for note in clip.notes]
        except SMCDError as error:
            errors.append((row, error))
    if errors:
        more = f" (and {len(errors) - 1} more rows are invalid)" if len(errors) > 1 else ""
        row, error = errors[0]
        raise error.reworded(f"{row.where}: {error}{more}; nothing was computed", path=args.requests) from error
    report_notes(args, tuple(notes))
    return states


def _state(args: argparse.Namespace, clip: Clip) -> str:
    described, path = is_described(clip), clip.files.description(0)
    if described and args.resume:
        return _FINISHED if clip.files.complete() else _PARTIAL
    if described and not args.overwrite:
        message = f"{path}: exists already; skip finished rows with --resume"
        raise SMCDError(message, argument="output", path=path)
    kept = args.resume and is_kept(clip)
    if args.resume and not kept and not args.overwrite and path.exists():
        message = f"{path}: made from other inputs or options; pass --overwrite to replace it, or choose another output"
        raise SMCDError(message, argument="output", path=path)
    clip.files.check(overwrite=args.overwrite, finishing=kept)
    return _KEPT if kept else _WAITING


def _make_all(
    args: argparse.Namespace,
    pipeline: VideoPipeline,
    rows: list[Row],
    states: Mapping[int, str],
    check: Callable[[Row], Clip],
) -> dict[int, Exception]:
    """Generates the clips of the rows and returns the errors of failed rows by row number."""
    failed: dict[int, Exception] = {}
    progress = make_progress(args)
    introduce(args, pipeline)
    pipeline.load(progress=progress)  # damaged weights would fail every row, so they stop the run
    for position, row in enumerate(rows, 1):
        if not args.quiet:
            console.progress_line(f"row {row.number} ({position} of {len(rows)}): {row.values['output']}")
        try:
            clip, state = check(row), states[row.number]
            clip.files.check(overwrite=args.overwrite or state == _PARTIAL, finishing=state == _KEPT)
            if state == _KEPT:
                seconds = finish_clip(pipeline, clip.files, changes={}, progress=progress)
            else:
                with console.without_notes(clip.notes):
                    seconds = make_clip(pipeline, clip, progress=progress)
            report_result(args, clip.files.paths(), seconds)
        except KeyboardInterrupt:
            console.note(f"{position - 1} of {len(rows)} rows are finished; resume with --resume")
            raise
        except Exception as error:  # any error is reported and counted; the other rows are still processed
            if getattr(args, "debug", False):
                traceback.print_exception(error)
            internal = "" if isinstance(error, SMCDError | OSError) else f"internal error ({type(error).__name__}): "
            console.error(" ".join(f"{row.where}: {internal}{error}".split()))
            failed[row.number] = error
    return failed


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    text = read_text(path)
    separator = _separator(text.partition("\n")[0])
    reader = csv.reader(io.StringIO(text), strict=True, delimiter=separator)
    header = [name.strip() for name in next(reader, [])]
    for name in header:
        _check_known(name, f"{path}: column")
    if len(set(header)) < len(header):
        raise SMCDError(f"{path}: duplicate column ({', '.join(header)}); keep one", path=path, value=tuple(header))
    filled = (cells for cells in reader if any(cell.strip() for cell in cells))
    for number, cells in enumerate(filled, 1):
        where = f"{path}, row {number} (line {reader.line_num})"
        if len(cells) != len(header):
            message = f"{where}: {len(cells)} cells for {len(header)} columns; quote texts that contain {separator!r}"
            raise SMCDError(message, path=path, value=len(cells))
        yield where, _values(zip(header, cells, strict=True), where, "from_text", missing="")


def _separator(header: str) -> str:
    """Returns the column separator: a comma, or the semicolon or tab that some spreadsheets write instead."""
    counts = {mark: sum(name.strip(' "') in OPTIONS for name in header.split(mark)) for mark in (",", ";", "\t")}
    return max(counts, key=counts.__getitem__)


def _jsonl_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    lines = enumerate(read_text(path).split("\n"), 1)
    for number, (line_number, line) in enumerate(((index, line) for index, line in lines if line.strip()), 1):
        where = f"{path}, row {number} (line {line_number})"
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SMCDError(f"{where}: not JSON ({error}); write one object per line", path=path) from error
        if not isinstance(content, dict):
            message = f'{where}: {content!r:.60} is not an object; write {{"image": ..., "tracks": ...}}'
            raise SMCDError(message, path=path, value=content)
        for name in content:
            _check_known(name, f"{where}: key")
        yield where, _values(content.items(), where, "from_json", missing=None)


def _values(items: Iterable[tuple[str, Any]], where: str, reading: str, *, missing: Any) -> dict[str, Any]:
    values = {}
    for name, value in items:
        value = value.strip() if isinstance(value, str) else value
        if value == missing:
            continue
        if "\0" in str(value):
            raise SMCDError(f"{where}: {name} contains a zero byte; remove it", argument=name, value=value)
        try:
            values[name] = getattr(OPTIONS[name], reading)(value)
        except SMCDError as error:
            raise error.reworded(f"{where}: {error}") from error
    return values


def _check_known(name: str, where: str) -> None:
    if name not in OPTIONS:
        message = f"{where} {name!r} is unknown{did_you_mean(name, OPTIONS)}; known options are {', '.join(OPTIONS)}"
        raise SMCDError(message, argument="requests", value=name)
