"""The devices and compiler at hand: persistent compile cache, timed compilation, and a summary for provenance."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import platform
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax

from smcd_jax.errors import SMCDError

logger = logging.getLogger(__name__)


def enable_compile_cache(folder: str | os.PathLike[str] | None = None) -> Path | None:
    """Keeps compiled programs on disk, so that a second run of the same shapes starts at once.

    The folder is ``$SMCD_CACHE_DIR/xla``, by default ``~/.cache/smcd_jax/xla``. An empty ``SMCD_CACHE_DIR`` turns the
    cache off. A cache folder that the user has configured in JAX already is left alone.
    """
    configured = jax.config.jax_compilation_cache_dir
    if configured:
        return Path(configured)
    root = os.environ.get("SMCD_CACHE_DIR", str(Path.home() / ".cache" / "smcd_jax"))
    if not root:
        return None
    folder = Path(folder or Path(root) / "xla")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logger.warning(
            "no compile cache: %s cannot be made (%s); set SMCD_CACHE_DIR to a folder you may write", folder, error
        )
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return folder


class Compiled:
    """A jitted function, compiled ahead of its first call for each set of shapes, so that the time shows apart."""

    def __init__(
        self, function: Callable[..., Any], around: Callable[[], AbstractContextManager] = contextlib.nullcontext
    ):
        """``around`` makes what each compilation runs in, such as a stage of progress."""
        self._jitted = jax.jit(function)
        self._around = around
        self._programs: dict[Any, Any] = {}
        self.compile_seconds = 0.0

    def program(self, *args: Any) -> Any:
        """The compiled program for arguments of these shapes (arrays or `jax.ShapeDtypeStruct`).

        Raises:
            SMCDError: on a CPU, if it would take more memory than there is.
        """
        leaves, tree = jax.tree.flatten(args)
        key = (tree, tuple(jax.typeof(leaf) for leaf in leaves))
        if key not in self._programs:
            start = time.perf_counter()
            with self._around():
                self._programs[key] = self._jitted.lower(*args).compile()
            self.compile_seconds += time.perf_counter() - start
            _refuse_beyond_memory(self._programs[key])
        return self._programs[key]

    def __call__(self, *args: Any) -> Any:
        """Runs the program for these shapes."""
        return self.program(*args)(*args)


def host_memory_bytes() -> tuple[int, int] | None:
    """(available, total) bytes of main memory and swap, or None where the system does not say (it is not Linux)."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    kibibytes = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    if not {"MemAvailable", "MemTotal"} <= kibibytes.keys():
        return None
    available = kibibytes["MemAvailable"] + kibibytes.get("SwapFree", 0)
    return 1024 * available, 1024 * (kibibytes["MemTotal"] + kibibytes.get("SwapTotal", 0))


def _refuse_beyond_memory(program: Any) -> None:
    """An accelerator says when its memory runs out; on a CPU the system kills the process without a word."""
    sizes, memory = program.memory_analysis(), host_memory_bytes()
    if jax.default_backend() != "cpu" or sizes is None or memory is None:
        return
    needed = sizes.temp_size_in_bytes + sizes.output_size_in_bytes
    if needed > memory[0]:
        raise SMCDError(
            f"this needs {needed / 1e9:.1f} GB of memory, and {memory[0] / 1e9:.1f} GB are available; make fewer or "
            "smaller frames (for decoding, a smaller decode_chunk_size)"
        )


@contextlib.contextmanager
def memory_in_words(smaller: str) -> Iterator[None]:
    """Says in one line that memory does not suffice, and with ``smaller`` what needs less of it."""
    try:
        yield
    except MemoryError as error:
        raise SMCDError(f"the memory of this machine does not suffice; {smaller}") from error
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise SMCDError(f"the memory of the device does not suffice; {smaller}") from error


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """No garbage collection within the block: tracing makes a million objects that live on, and looking them over again
    and again takes a third of its time (tiny training step, 8.0 s against 5.3 s of processor time).
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def return_free_memory() -> None:
    """Hands freed memory back to the system; glibc keeps what reading weights and compiling have used and freed."""
    with contextlib.suppress(OSError, AttributeError):  # another C library: nothing to do
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def device_summary() -> dict[str, Any]:
    """What computed a result: platform, device kind and count, and versions."""
    import jaxlib

    from smcd_jax import __version__

    devices = jax.devices()
    return {
        "platform": devices[0].platform,
        "device": devices[0].device_kind,
        "devices": len(devices),
        "versions": {
            "smcd_jax": __version__,
            "jax": jax.__version__,
            "jaxlib": jaxlib.__version__,
            "python": platform.python_version(),
        },
    }


def peak_memory_bytes() -> int:
    """The most memory this process has held: of the device where it counts, else resident memory of the host."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
