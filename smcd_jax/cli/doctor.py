"""`smcd doctor`: checks versions, devices, caches, video encoding and models of this installation, one line each."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from smcd_jax.cli import console
from smcd_jax.cli.machine import format_bytes, free_disk_bytes, unused_accelerator
from smcd_jax.errors import SMCDError

OK, ABSENT, WARNING, BROKEN = "ok", "-", "warning", "BROKEN"
LITTLE_DISK = 2 * 10**9  # bytes; the published model is larger in any precision

PACKAGES = ("jax", "jaxlib", "flax", "orbax-checkpoint", "numpy", "pillow", "av", "tokenizers")
# For each extra of setup.py: a module that it installs, and what the extra is for.
EXTRAS = {
    "convert": ("torch", "smcd convert"),
    "data": ("tensorflow_datasets", "preparing data sets and training"),
    "eval": ("cv2", "evaluation"),
    "test": ("pytest", "the tests"),
}


_EPILOG = """\
examples:
  smcd doctor
  smcd doctor --model tiny

Exit status 1 if something required is BROKEN; '-' marks optional parts that are not installed."""


class Finding(NamedTuple):
    """A line of the table: the part checked, its state, and details."""

    subject: str
    state: str
    detail: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `smcd doctor`."""
    parser.epilog = _EPILOG
    parser.add_argument("--model", metavar="FOLDER", help="also verify every array of this model folder")


def run(args: argparse.Namespace) -> int:
    """Prints the findings; returns 1 if one is BROKEN."""
    broken = False
    checks: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
        ("versions", _versions),
        ("devices", _devices),
        ("compile cache", _compile_cache),
        ("video", _video),
        ("extras", _extras),
        ("disk", _disk),
        ("model tiny", lambda: _model("tiny")),
    ]
    if args.model is not None:
        checks.append((f"model {args.model}", lambda: _model(args.model)))
    for subject, check in checks:
        for finding in _caught(subject, check):
            broken |= finding.state == BROKEN
            console.result(f"{finding.subject:<18}  {finding.state:<8}  {finding.detail}")
    return 1 if broken else 0


def _caught(subject: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except Exception as error:  # an installation can be broken in any way
        detail = " ".join(str(error).split()) or type(error).__name__
        yield Finding(subject, BROKEN, detail if isinstance(error, SMCDError) else f"{type(error).__name__}: {detail}")


def _versions() -> Iterator[Finding]:
    from smcd_jax import __version__

    yield Finding("smcd_jax", OK, f"{__version__} in {Path(__file__).parents[1]}")
    yield Finding("python", OK, f"{platform.python_version()} in {sys.prefix}, {platform.platform()}")
    for name in PACKAGES:
        try:
            yield Finding(name, OK, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, BROKEN, "not installed: pip install smcd_jax")


def _devices() -> Iterator[Finding]:
    import jax

    from smcd_jax.runtime.devices import require_devices
    from smcd_jax.runtime.memory import host_memory_bytes

    require_devices()
    for device in jax.local_devices():
        stats = device.memory_stats() or {}
        memory = f", {format_bytes(stats['bytes_limit'])} for JAX" if "bytes_limit" in stats else ""
        yield Finding(f"device {device.id}", OK, f"{device.device_kind}{memory}")
    if jax.default_backend() == "cpu" and (advice := unused_accelerator()):
        yield Finding("accelerator", WARNING, advice)
    if (host_memory := host_memory_bytes()) is not None:
        available, total = map(format_bytes, host_memory)
        detail = f"{total}, {available} of it available; {os.cpu_count()} cores"
        yield Finding("main memory", OK, detail)


def _compile_cache() -> Iterator[Finding]:
    from smcd_jax.runtime.compilation import enable_compile_cache

    folder = enable_compile_cache()
    if folder is None:
        detail = "off, so every start compiles again; set SMCD_CACHE_DIR to a writable folder"
        yield Finding("compile cache", WARNING, detail)
        return
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        yield Finding("compile cache", WARNING, f"{folder} cannot be written ({reason}); set SMCD_CACHE_DIR")
        return
    files = [entry for entry in folder.iterdir() if entry.is_file()]
    size = format_bytes(sum(entry.stat().st_size for entry in files))
    programs = sum(entry.name.endswith("-cache") for entry in files)
    yield Finding("compile cache", OK, f"{programs} programs, {size} in {folder}, safe to delete")


def _video() -> Iterator[Finding]:
    import av
    import numpy as np

    from smcd_jax.media import probe_video, write_video

    yield Finding("video library", OK, f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}")
    frames = np.zeros((2, 32, 32, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        found = probe_video(write_video(frames, Path(folder) / "test.mp4", fps=8))
    right = (found["codec"], found["pix_fmt"], found["frames"]) == ("h264", "yuv420p", 2)
    detail = f"{found['frames']} frames of {found['codec']}, {found['pix_fmt']}"
    yield Finding("video encoding", OK if right else BROKEN, detail)


def _extras() -> Iterator[Finding]:
    for name, (module, purpose) in EXTRAS.items():
        if importlib.util.find_spec(module) is None:
            yield Finding(f"extra {name}", ABSENT, f"for {purpose}: pip install 'smcd_jax[{name}]'")
        else:
            yield Finding(f"extra {name}", OK, f"for {purpose}")


def _disk() -> Iterator[Finding]:
    places = {"this folder": Path.cwd(), "temporary files": Path(tempfile.gettempdir())}
    for name, place in places.items():
        free = free_disk_bytes(place)
        yield Finding("free disk", WARNING if free < LITTLE_DISK else OK, f"{format_bytes(free)} for {name} ({place})")


def _model(name: str) -> Iterator[Finding]:
    from smcd_jax.model_folder import ModelFolder
    from smcd_jax.runtime.devices import require_devices

    require_devices()
    subject, folder = f"model {name}"[:18], ModelFolder(name)
    folder.tokenizer()
    arrays, size = 0, 0
    for component in folder.config.components():
        leaves = folder.leaves(component)
        arrays, size = arrays + len(leaves), size + sum(leaf.nbytes for leaf in leaves.values())
        del leaves
    about = f"{folder.origin.kind}: {folder.origin.note}" if folder.origin.note else folder.origin.kind
    detail = f"{about}; {arrays} arrays, {format_bytes(size)}, checksums verified; hash {folder.digest[:12]}"
    yield Finding(subject, OK, detail)
