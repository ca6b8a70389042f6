"""Settings of all tests: eight fake CPU devices, strict dtype promotion, one compile cache; the shared folder."""

import gc
import os
import shutil
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_NUMPY_DTYPE_PROMOTION", "strict")
# Most of the time goes into tracing and compiling small programs (tests/models/test_models.py: 162 s of processor
# time without these two settings, 110 s with them). JAX_DISABLE_MOST_OPTIMIZATIONS=0 tests the programs that users run.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
gc.set_threshold(100_000, 20, 50)

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_configure(config: pytest.Config) -> None:
    """Configures a compile cache that all tests share, across workers and the processes that they start."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="smcd_programs_")
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden numbers and example pictures next to the project; its tests are skipped without it."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the shared folder beside the project: {SHARED}")
    return SHARED
