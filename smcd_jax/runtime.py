"""The devices and compiler at hand: persistent compile cache, timed compilation, and a summary for provenance."""

from __future__ import annotations

import logging
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

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
        logger.warning("no compile cache: %s cannot be made (%s); set SMCD_CACHE_DIR to a folder you may write", folder, error)
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return folder


class Compiled:
    """A jitted function that is compiled ahead of its first call for each set of shapes, so that the time shows apart."""

    def __init__(self, function: Callable[..., Any]):
        self._jitted = jax.jit(function)
        self._programs: dict[Any, Any] = {}
        self.compile_seconds = 0.0

    def program(self, *args: Any) -> Any:
        """The compiled program for arguments of these shapes (arrays or `jax.ShapeDtypeStruct`)."""
        leaves, tree = jax.tree.flatten(args)
        key = (tree, tuple(jax.typeof(leaf) for leaf in leaves))
        if key not in self._programs:
            start = time.perf_counter()
            self._programs[key] = self._jitted.lower(*args).compile()
            self.compile_seconds += time.perf_counter() - start
        return self._programs[key]

    def __call__(self, *args: Any) -> Any:
        """Runs the program for these shapes."""
        return self.program(*args)(*args)


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
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
