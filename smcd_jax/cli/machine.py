"""Properties of the machine that do not need JAX: disk space, and accelerators that JAX does not use."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

CUDA13_DRIVER = 580  # oldest driver for CUDA 13; CUDA 12 needs 525


def nvidia_driver() -> int | None:
    """Returns the major version of the loaded NVIDIA driver, as reported by its kernel module, or None."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"\s(\d{3,})\.\d+", text)
    return int(found[1]) if found else None


def unused_accelerator() -> str | None:
    """Returns advice for an accelerator that JAX does not use, or None if there is no such device."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms == "cpu":
        return None  # the user has chosen the platform
    driver = nvidia_driver()
    if driver is not None:
        extra = "cuda" if driver >= CUDA13_DRIVER else "cuda12"
        return f"JAX runs on the CPU although there is an NVIDIA GPU (driver {driver}); pip install 'smcd_jax[{extra}]'"
    if Path("/dev/accel0").exists() or Path("/dev/vfio/0").exists():
        return "JAX runs on the CPU although there seems to be a TPU; pip install 'smcd_jax[tpu]'"
    return None


def free_disk_bytes(path: Path) -> int:
    """Returns the free space in bytes on the disk of ``path``, which need not exist."""
    nearest = path.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    return shutil.disk_usage(nearest).free


def format_bytes(count: int) -> str:
    """Returns a number of bytes as text, such as `3.2 GB`, with decimal units."""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" or value >= 100 else f"{value:.1f} {units[0]}"
