"""SMCD in JAX: a still picture, a prompt and tracks of labelled boxes become a short video (ECCV 2024)."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["BoxTracks", "SMCDError", "VideoPipeline", "__version__", "load_tracks"]

# Imported on first access: importing JAX takes a second, and `smcd --help` does not need it.
_HOMES = {
    "BoxTracks": "smcd_jax.tracks",
    "SMCDError": "smcd_jax.errors",
    "VideoPipeline": "smcd_jax.pipeline",
    "load_tracks": "smcd_jax.tracks",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
