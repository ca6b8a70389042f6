"""Atomic writes: a file or folder appears under its final name only when all of it is on disk."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from smcd_jax.errors import SMCDError


@contextlib.contextmanager
def write_atomically(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary file that is renamed to ``path`` when the block ends without an exception.

    The temporary file has the suffix of ``path``, so writers that choose a format by suffix accept it. An existing file
    at ``path`` stays unchanged until it is replaced. If the block raises, the temporary file is removed.

    Args:
        path: Final name of the file; its folder must exist.

    Yields:
        Path of the temporary file, which exists and is empty.

    Raises:
        SMCDError: The folder is missing or not writable, the disk is full, or ``path`` is a folder.
    """
    path = Path(path)
    temporary = _temporary_beside(path)
    with _write_errors_name(path, temporary):
        if path.is_dir():
            raise SMCDError(
                f"cannot write {path}: a folder of that name exists; choose another name or remove it", path=path
            )
        temporary.touch(exist_ok=False)
    try:
        with _write_errors_name(path, temporary):
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


@contextlib.contextmanager
def write_folder_atomically(
    folder: str | os.PathLike[str], *, may_replace: Callable[[Path], bool] = lambda entry: False
) -> Iterator[Path]:
    """Yields a temporary folder that is renamed to ``folder`` when the block ends without an exception.

    An existing folder is replaced only if ``may_replace`` returns True for each of its entries, so that unrelated files
    are never lost. An empty folder is always replaced.

    Args:
        folder: Final name of the folder; its parent must exist.
        may_replace: Function that returns whether an entry of an existing folder may be deleted.

    Yields:
        Path of the temporary folder; only files may be written to it, no folders.

    Raises:
        SMCDError: As for ``write_atomically``, or the folder exists and holds an entry that may not be deleted.
    """
    folder = Path(folder)
    temporary = _temporary_beside(folder)
    with _write_errors_name(folder, temporary):
        _check_replaceable(folder, may_replace)
        temporary.mkdir()
    try:
        with _write_errors_name(folder, temporary):
            yield temporary
            for entry in temporary.iterdir():
                _sync(entry)
            _sync_folder(temporary)
            _swap_in(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sync_folder(folder.parent)


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Writes a UTF-8 text file atomically, creating missing parent folders.

    Returns:
        Path of the file.

    Raises:
        SMCDError: The file or one of its folders cannot be written.
    """
    path = Path(path)
    with _write_errors_name(path, path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def write_json(path: str | os.PathLike[str], data: Any) -> Path:
    """Writes ``data`` as JSON atomically: UTF-8, indented, keys in the order of ``data``. The folder must exist.

    Returns:
        Path of the file.

    Raises:
        SMCDError: The file cannot be written.
        TypeError: ``data`` holds an object that JSON cannot represent.
        ValueError: ``data`` holds NaN or an infinity, which JSON cannot represent.
    """
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def _temporary_beside(path: Path) -> Path:
    if not path.name:
        raise SMCDError(f"cannot write to {path}: the path must end in a file name", path=path)
    # A short name without the stem of the path, so that a path near the file system's length limit can be written.
    return path.with_name(f".smcd-{secrets.token_hex(6)}{path.suffix}")


@contextlib.contextmanager
def _write_errors_name(path: Path, temporary: Path) -> Iterator[None]:
    """Turns an OSError about ``temporary`` or ``path`` into an SMCDError about ``path``; others pass unchanged."""
    try:
        yield
    except OSError as error:
        is_ours = error.filename is None or str(error.filename).startswith((str(temporary), str(path)))
        if error.errno is None or not is_ours:
            raise
        raise SMCDError(f"cannot write {path}: {_reason(error, path)}", path=path) from error


def _reason(error: OSError, path: Path) -> str:
    parent = path.parent
    if isinstance(error, FileNotFoundError):
        return f"the folder {parent} does not exist; create it first"
    if isinstance(error, NotADirectoryError):
        return f"{parent} is a file, not a folder; choose another folder"
    if isinstance(error, PermissionError):
        return f"no permission to write in {parent}; choose another folder"
    hint = "free some space there or " if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else ""
    return f"{(error.strerror or str(error)).lower()}; {hint}choose another name or folder"


def _check_replaceable(folder: Path, may_replace: Callable[[Path], bool]) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise SMCDError(
            f"cannot write the folder {folder}: a file or link of that name exists; choose another name", path=folder
        )
    if not folder.exists():
        return
    kept = sorted(entry.name for entry in folder.iterdir() if not may_replace(entry))
    if kept:
        raise SMCDError(
            f"cannot replace the folder {folder}: it holds other files, such as {kept[0]}; choose another name",
            path=folder,
            value=kept[0],
        )


def _swap_in(temporary: Path, folder: Path) -> None:
    if not folder.exists():
        os.rename(temporary, folder)
        return
    # Not every file system can exchange two folders atomically: the old one is renamed, and restored on failure.
    aside = _temporary_beside(folder)
    os.rename(folder, aside)
    try:
        os.rename(temporary, folder)
    except OSError:
        os.rename(aside, folder)
        raise
    shutil.rmtree(aside)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    # Some network file systems refuse this; the contents are already durable, the name becomes durable later.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
