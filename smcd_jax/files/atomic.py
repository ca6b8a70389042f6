"""Owns writing whole files: a file or folder appears under its final name only when all of it is on the disk."""

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
    """Give a temporary path beside ``path`` that becomes ``path`` when the block ends well.

    The temporary file has the suffix of ``path``, so writers that choose a format by suffix work on it. A file that was
    there under the final name stays untouched until it is replaced; when the block raises, the temporary is removed.

    Args:
        path: the final name; its folder must exist.

    Yields:
        The path to write to, an empty file.

    Raises:
        SMCDError: the folder is missing or may not be written to, the disk is full, or ``path`` is a folder.
    """
    path = Path(path)
    temporary = _temporary_beside(path)
    with _naming(path, temporary):
        if path.is_dir():
            raise SMCDError(f"cannot write {path}: a folder of that name exists; choose another name or remove it")
        temporary.touch(exist_ok=False)
    try:
        with _naming(path, temporary):
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
    """Give a temporary folder beside ``folder`` that becomes ``folder`` when the block ends well.

    An existing folder is replaced only if ``may_replace`` is true of each of its entries, so that nobody's other files
    are lost; an empty one always is.

    Args:
        folder: the final name; the folder that holds it must exist.
        may_replace: given an entry of an existing folder, whether it may be thrown away.

    Yields:
        The folder to write files into (no folders inside it).

    Raises:
        SMCDError: as ``write_atomically``; or the folder exists and holds something that may not be replaced.
    """
    folder = Path(folder)
    temporary = _temporary_beside(folder)
    with _naming(folder, temporary):
        _refuse_to_lose(folder, may_replace)
        temporary.mkdir()
    try:
        with _naming(folder, temporary):
            yield temporary
            for entry in temporary.iterdir():
                _sync(entry)
            _sync_folder(temporary)
            _swap_in(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sync_folder(folder.parent)


def write_json(path: str | os.PathLike[str], data: Any) -> Path:
    """Write ``data`` as JSON (UTF-8, indented, keys in the order given), whole or not at all.

    Returns:
        The path written.

    Raises:
        SMCDError: the file cannot be written.
        TypeError: ``data`` holds something JSON has no form for.
        ValueError: ``data`` holds NaN or an infinity, which JSON has no form for.
    """
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def _temporary_beside(path: Path) -> Path:
    if not path.name:
        raise SMCDError(f"cannot write to {path}: it has no name of its own; add one")
    # Short and without the final stem, so that a name near the file system's limit can still be written.
    return path.with_name(f".smcd-{secrets.token_hex(6)}{path.suffix}")


@contextlib.contextmanager
def _naming(path: Path, temporary: Path) -> Iterator[None]:
    """Turn the system's errors about ``temporary`` into one line about ``path``; let all others pass."""
    try:
        yield
    except OSError as error:
        about_us = error.filename is None or str(error.filename).startswith((str(temporary), str(path)))
        if error.errno is None or not about_us:
            raise
        raise SMCDError(f"cannot write {path}: {_reason(error, path)}") from error


def _reason(error: OSError, path: Path) -> str:
    parent = path.parent
    if isinstance(error, FileNotFoundError):
        return f"there is no folder {parent}; make it first"
    if isinstance(error, NotADirectoryError):
        return f"{parent} is a file, not a folder; choose another place"
    if isinstance(error, PermissionError):
        return f"no permission to write in {parent}; choose another place"
    hint = "free some space there or " if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else ""
    return f"{(error.strerror or str(error)).lower()}; {hint}choose another name or place"


def _refuse_to_lose(folder: Path, may_replace: Callable[[Path], bool]) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise SMCDError(f"cannot write the folder {folder}: a file or link of that name exists; choose another name")
    if not folder.exists():
        return
    kept = sorted(entry.name for entry in folder.iterdir() if not may_replace(entry))
    if kept:
        raise SMCDError(
            f"cannot replace the folder {folder}: it holds other files, such as {kept[0]}; choose another name"
        )


def _swap_in(temporary: Path, folder: Path) -> None:
    if not folder.exists():
        os.rename(temporary, folder)
        return
    # Two folders cannot change places in one step everywhere: the old one steps aside, and back if the new one fails.
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
    # Some network file systems refuse this; then the name becomes durable a little later, the contents are already.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
