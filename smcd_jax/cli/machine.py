"""What the machine has, asked without JAX: disk space, and accelerators that JAX may have missed."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

CUDA13_DRIVER = 580  # the oldest driver that CUDA 13 runs on; CUDA 12 runs from 525


def nvidia_driver() -> int | None:
    """Major version of the loaded NVIDIA driver, or None without one. Source: the kernel module's own report."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"\s(\d{3,})\.\d+", text)
    return int(found[1]) if found else None


def unused_accelerator() -> str | None:
    """What to install where the machine has an accelerator and JAX runs on the CPU; None where nothing is missed."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms == "cpu":
        return None  # it was asked for
    driver = nvidia_driver()
    if driver is not None:
        extra = "cuda" if driver >= CUDA13_DRIVER else "cuda12"
        return f"there is an NVIDIA GPU here (driver {driver}), but JAX uses the CPU: pip install 'smcd_jax[{extra}]'"
    if Path("/dev/accel0").exists() or Path("/dev/vfio/0").exists():
        return "there seems to be a TPU here, but JAX uses the CPU: pip install 'smcd_jax[tpu]'"
    return None


def free_disk_bytes(path: Path) -> int:
    """Bytes that may still be written where ``path`` is or would be."""
    nearest = path.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    return shutil.disk_usage(nearest).free


def format_bytes(count: int) -> str:
    """Bytes for people: `3.2 GB`, powers of ten."""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" or value >= 100 else f"{value:.1f} {units[0]}"
