"""Settings every test runs under: eight fake CPU devices and strict dtype promotion; and the shared folder."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_NUMPY_DTYPE_PROMOTION", "strict")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden numbers and example pictures beside the project; its tests skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the shared folder beside the project: {SHARED}")
    return SHARED
