"""A summary of the devices and software that produced a result."""

from __future__ import annotations

import platform
from typing import Any

import jax
import jaxlib

from smcd_jax import __version__


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
