"""The persistent compile cache and functions that are compiled ahead of their first call."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax

from smcd_jax.errors import SMCDError
from smcd_jax.runtime.cache_folder import cache_folder
from smcd_jax.runtime.memory import host_memory_bytes

logger = logging.getLogger(__name__)


def enable_compile_cache(folder: str | os.PathLike[str] | None = None) -> Path | None:
    """Turns on JAX's persistent compile cache, so that later runs with the same shapes start without compiling.

    A cache folder that is already configured in JAX is kept.

    Args:
        folder: Cache folder; by default ``$SMCD_CACHE_DIR/xla``, or ``~/.cache/smcd_jax/xla`` if that variable is not
            set. An empty ``SMCD_CACHE_DIR``, or a user without a home folder, turns the cache off.

    Returns:
        The folder in use, or None if there is no cache.
    """
    configured = jax.config.jax_compilation_cache_dir
    if configured:
        return Path(configured)
    folder = cache_folder("xla") if folder is None else Path(folder)
    if folder is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logger.warning(
            "compile cache disabled: cannot create %s (%s); set SMCD_CACHE_DIR to a writable folder", folder, error
        )
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return folder


def compiler_options(platform: str) -> dict[str, Any] | None:
    """Returns the XLA options for a platform: "cpu", "gpu" or "tpu".

    On GPUs matrix products go to cuBLASLt, which adds bias and residual in the same kernel; Triton's products leave the
    residual to a separate kernel.
    """
    return {"xla_gpu_enable_triton_gemm": False} if platform in ("gpu", "cuda") else None


class Compiled:
    """A function compiled once per set of argument shapes, with the compile time measured separately.

    Args:
        function: Function to compile with `jax.jit`.
        around: Factory of the context manager in which each compilation runs, such as a progress stage.

    Attributes:
        compile_seconds: Total time spent in compilation so far.
    """

    def __init__(
        self, function: Callable[..., Any], around: Callable[[], AbstractContextManager] = contextlib.nullcontext
    ):
        self._jitted = jax.jit(function)
        self._around = around
        self._programs: dict[Any, Any] = {}
        self.compile_seconds = 0.0

    def program(self, *args: Any) -> Any:
        """Returns the compiled program for these arguments, compiling it on first use.

        Args:
            *args: Arrays, or `jax.ShapeDtypeStruct` in their place.

        Raises:
            SMCDError: On a CPU, if the program needs more memory than is available.
        """
        leaves, tree = jax.tree.flatten(args)
        key = (tree, tuple(jax.typeof(leaf) for leaf in leaves))
        if key not in self._programs:
            start = time.perf_counter()
            with self._around():
                self._programs[key] = self._jitted.lower(*args).compile(compiler_options(jax.default_backend()))
            self.compile_seconds += time.perf_counter() - start
            _check_host_memory(self._programs[key])
        return self._programs[key]

    def __call__(self, *args: Any) -> Any:
        """Calls the function."""
        return self.program(*args)(*args)


def _check_host_memory(program: Any) -> None:
    """Raises an error if a CPU program does not fit in memory, because the system would kill the process silently."""
    sizes, memory = program.memory_analysis(), host_memory_bytes()
    if jax.default_backend() != "cpu" or sizes is None or memory is None:
        return
    needed = sizes.temp_size_in_bytes + sizes.output_size_in_bytes
    available, _ = memory
    if needed > available:
        raise SMCDError(
            f"not enough memory: {needed / 1e9:.1f} GB needed, {available / 1e9:.1f} GB available; use fewer or "
            "smaller frames (for decoding, a smaller decode_chunk_size)",
            value=needed,
        )
