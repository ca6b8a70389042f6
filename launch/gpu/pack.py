"""Packs the results of a run of launch/train_small.py into a few files, for machines that return only small files.

    python launch/gpu/pack.py DIR --output PACKED
    cat PACKED/small.tar.* | tar x

Figures and logs come first, then the model of few steps, the clips of the evaluation, and the other model. What would
exceed the limit is left out.
"""

from __future__ import annotations

import argparse
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from launch.train_small import FEW_STEPS

MIB = 2**20
PART, MOST = 15 * MIB, 60 * MIB  # bytes of a file, and of all files
# Files and folders of a run, the most useful first. Each match is packed as a whole or left out.
PATTERNS = ("progress.json", "evaluation/*/*.json", "*/metrics.jsonl", FEW_STEPS, "evaluation/*", "model")
_BLOCK = 512  # a tar file consists of blocks


class _Parts:
    """A file for writing that is continued in the next part when one is full."""

    def __init__(self, output: Path):
        self._output, self._free, self._file = output, 0, None
        self.files: list[Path] = []

    def write(self, data: bytes) -> int:
        """Writes bytes and returns their number."""
        rest = memoryview(data)
        while rest:
            if not self._free:
                self.close()
                self.files.append(self._output / f"small.tar.{len(self.files):02d}")
                self._file, self._free = self.files[-1].open("wb"), PART
            written = self._file.write(rest[: self._free])
            self._free, rest = self._free - written, rest[written:]
        return len(data)

    def close(self) -> None:
        """Closes the last part."""
        if self._file is not None:
            self._file.close()


def pack(folder: Path, output: Path, *, most: int = MOST) -> tuple[list[Path], list[Path]]:
    """Writes `small.tar.00`, `small.tar.01` and so on, and returns these files and what was left out.

    Args:
        folder: Folder of the run.
        output: Folder of the packed files; files of an earlier call are replaced.
        most: Limit of the bytes of all files together.
    """
    output.mkdir(parents=True, exist_ok=True)
    for old in output.glob("small.tar.*"):
        old.unlink()
    packed: set[Path] = set()
    left_out, free, parts = [], most - 2 * tarfile.RECORDSIZE, _Parts(output)
    with tarfile.open(fileobj=parts, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for pattern in PATTERNS:
            for path in sorted(folder.glob(pattern)):
                files = [file for file in _files(path) if file not in packed]
                size = sum(_tar_bytes(file) for file in files)
                if size > free:
                    left_out.append(path)
                    continue
                free -= size
                packed.update(files)
                for file in files:
                    archive.add(file, file.relative_to(folder.parent), recursive=False)
    parts.close()
    return parts.files, left_out


def _files(path: Path) -> Sequence[Path]:
    return sorted(part for part in path.rglob("*") if part.is_file()) if path.is_dir() else [path]


def _tar_bytes(file: Path) -> int:
    """Returns the bytes of a file in an archive: its content in whole blocks, and three blocks for name and time."""
    return -(-file.stat().st_size // _BLOCK) * _BLOCK + 3 * _BLOCK


def main() -> None:
    """Packs the folder and prints what was packed and left out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the run")
    parser.add_argument("--output", type=Path, required=True, help="folder of the packed files")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    if not folder.is_dir():
        raise SystemExit(f"pack: {folder} does not exist; name the folder of a run of launch/train_small.py")
    files, left_out = pack(folder, arguments.output)
    for file in files:
        print(f"{file}: {file.stat().st_size / MIB:.1f} MiB")
    for path in left_out:
        size = sum(file.stat().st_size for file in _files(path))
        print(f"left out, {size / MIB:.1f} MiB: {path}")


if __name__ == "__main__":
    main()
