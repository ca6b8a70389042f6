"""Files that stand in for other files: Git LFS pointers, web pages in place of downloads, Hugging Face's cache."""

from __future__ import annotations

from pathlib import Path

from smcd_jax.errors import SMCDError

PLACEHOLDER_BYTES = 1024  # read from the start of a file; enough to recognise a placeholder

_LFS = b"version https://git-lfs.github.com/spec/"
_HTML = (b"<!doctype html", b"<html", b"<head")


def check_is_content(path: Path, start: bytes | None = None) -> None:
    """Raises an error if a file is a placeholder for its real content.

    Args:
        path: File.
        start: First bytes of the file; read from it if None.

    Raises:
        SMCDError: The file is a Git LFS pointer, or a web page that was saved in place of a download.
    """
    if start is None:
        with path.open("rb") as file:
            start = file.read(PLACEHOLDER_BYTES)
    start = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(_LFS):
        raise SMCDError(
            f"{path}: a Git LFS pointer, not the file itself; run `git lfs pull` in the cloned repository",
            path=path,
            value="git-lfs",
        )
    if start[:64].lower().startswith(_HTML):
        raise SMCDError(
            f"{path}: a web page, not the file itself; download it again (you may first have to log in or "
            "accept a license)",
            path=path,
            value="html",
        )


def snapshot_folder(folder: Path) -> Path:
    """Returns the newest snapshot of a folder in Hugging Face's cache, and any other folder unchanged.

    The cache keeps a repository as ``models--ORG--NAME/{blobs,refs,snapshots/COMMIT}``.

    Raises:
        SMCDError: The cache holds no snapshot, or several and no ``refs/main`` that selects one.
    """
    snapshots = folder / "snapshots"
    if not (snapshots.is_dir() and ((folder / "blobs").is_dir() or (folder / "refs").is_dir())):
        return folder
    found = sorted(entry for entry in snapshots.iterdir() if entry.is_dir())
    main = folder / "refs" / "main"
    if main.is_file() and (snapshots / main.read_text(encoding="utf-8", errors="replace").strip()) in found:
        return snapshots / main.read_text(encoding="utf-8", errors="replace").strip()
    if len(found) == 1:
        return found[0]
    problem = f"{len(found)} snapshots; name one of {snapshots}/*" if found else "no snapshot; download it again"
    raise SMCDError(f"{folder}: a folder of Hugging Face's cache with {problem}", path=folder, value=len(found))


def check_not_dangling(path: Path) -> None:
    """Raises an error for a link to a missing file, such as an interrupted download leaves in Hugging Face's cache.

    Raises:
        SMCDError: The target of the link is missing.
    """
    if path.is_symlink() and not path.exists():
        raise SMCDError(
            f"{path}: a link to {path.readlink()}, which is missing; download the file again, or copy the folder with "
            "its links resolved (cp -L)",
            path=path,
            value=str(path.readlink()),
        )
