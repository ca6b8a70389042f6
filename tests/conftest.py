"""Settings for all tests: eight fake CPU devices, strict dtype promotion, one compile cache, and the shared folder."""

import contextlib
import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.xla_flags import xla_flags

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUMPY_DTYPE_PROMOTION", "strict")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ["XLA_FLAGS"] = xla_flags(8)
gc.set_threshold(100_000, 20, 50)

FIRST = ("training", "golden")  # folders of tests
SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_configure(config: pytest.Config) -> None:
    """Configures a compile cache that all tests share, including other workers and the processes that tests start."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="smcd_programs_")
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
        # Small programs as well: initialising a network for the first time takes 1.9 s of processor time instead of 6.
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Moves the tests that take long or share files between workers to the start.

    A worker without tests takes over the last tests of another. Of these, none should take long, and none should wait
    for files that the other worker is making.
    """
    items.sort(key=lambda item: item.path.parent.name not in FIRST)


@contextlib.contextmanager
def no_compile_cache() -> Iterator[None]:
    """Unsets JAX's compile cache within the block and restores the tests' settings afterwards."""
    import jax

    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden data and example pictures next to the project; tests that need it are skipped without it."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the shared folder beside the project: {SHARED}")
    return SHARED


@pytest.fixture(scope="module")
def shared_programs():
    """Lets a module's pipelines reuse each other's compiled programs, and those of earlier modules."""
    from tests.pipeline.shared_programs import share_pipeline_programs

    with pytest.MonkeyPatch.context() as patch:
        share_pipeline_programs(patch)
        yield
