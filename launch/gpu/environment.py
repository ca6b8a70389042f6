"""Step 1 of a GPU run: devices, versions and `smcd doctor`, as environment.json."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from smcd_jax.files import write_json

PACKAGES = ("jax", "jaxlib", "jax-cuda13-plugin", "flax", "optax", "orbax-checkpoint", "numpy", "torch", "diffusers")
QUERY = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm", "--format=csv,noheader")


def versions() -> dict[str, str | None]:
    """Returns installed versions by package; None for packages that are not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def output_of(command: tuple[str, ...]) -> tuple[int | None, list[str]]:
    """Returns exit status and lines printed by a command; None and no lines if the program is not installed."""
    if shutil.which(command[0]) is None:
        return None, []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, (done.stdout + done.stderr).splitlines()


def main() -> int:
    """Writes the file twice: first without `smcd doctor`, which takes some seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    arguments = parser.parse_args()
    found: dict[str, Any] = {"versions": versions(), "nvidia_smi": output_of(QUERY)[1]}
    write_json(arguments.output, found)
    status, lines = output_of((sys.executable, "-m", "smcd_jax", "doctor"))
    import jax

    devices = [device.device_kind for device in jax.devices()]
    write_json(arguments.output, found | {"devices": devices, "doctor": {"status": status, "lines": lines}})
    print("\n".join([*found["nvidia_smi"], *lines]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
