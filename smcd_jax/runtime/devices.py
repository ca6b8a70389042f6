"""JAX's devices: a check that there are any, and a summary of devices and software for provenance records."""

from __future__ import annotations

import os
import platform
from typing import Any

import jax
import jaxlib

from smcd_jax import __version__
from smcd_jax.errors import SMCDError

_EXTRAS = {"cuda": "cuda", "gpu": "cuda", "tpu": "tpu"}  # extra of setup.py by platform


def require_devices() -> None:
    """Checks that JAX finds a device; starts JAX's backend.

    Raises:
        SMCDError: JAX finds no device of the platform that ``JAX_PLATFORMS`` selects; `value` is that platform.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # an assertion fails where the plugin of the platform is missing
        platforms = jax.config.jax_platforms or os.environ.get("JAX_PLATFORMS", "")
        extra = next((extra for name, extra in _EXTRAS.items() if name in platforms), None)
        install = f", or install its driver and pip install 'smcd_jax[{extra}]'" if extra else ""
        reason = " ".join(str(error).split()).partition(" (set JAX_PLATFORMS")[0]
        selected = f"JAX_PLATFORMS={platforms} is set, and" if platforms else ""
        raise SMCDError(
            f"{selected} JAX finds no such device here{f' ({reason[:160]})' if reason else ''}; unset JAX_PLATFORMS to "
            f"use the devices that it finds{install}; smcd doctor shows more",
            argument="JAX_PLATFORMS",
            value=platforms,
        ) from error


def device_summary() -> dict[str, Any]:
    """Returns the platform, kind and number of devices and the versions of the software, for provenance records."""
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
