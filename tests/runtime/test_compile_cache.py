"""With a damaged compile cache, programs are compiled again and give the same numbers."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

PROGRAM = """
    import sys, jax, jax.numpy as jnp, numpy as np
    from smcd_jax.cli.console import libraries_quiet
    from smcd_jax.runtime.compilation import Compiled, enable_compile_cache
    with libraries_quiet(verbose=False):
        enable_compile_cache(sys.argv[1])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        run = Compiled(lambda x: jnp.tanh(x @ x.T).sum(axis=0))
        np.save(sys.argv[2], run(jnp.arange(64.0).reshape(8, 8) / 64))
"""


def output(folder: Path, number: int) -> np.ndarray:
    file = folder.parent / f"{number}.npy"
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(folder), str(file)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION_CACHE")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    return np.load(file)


def flipped(data: bytes) -> bytes:
    changed = bytearray(data)
    for at in range(0, len(changed), 97):
        changed[at] ^= 1
    return bytes(changed)


SLOW = pytest.mark.slow
DAMAGES = [
    lambda data: data[: len(data) // 2],
    flipped,
    pytest.param(lambda data: b"", marks=SLOW),
    pytest.param(lambda data: b"x" * len(data), marks=SLOW),
]


@pytest.mark.parametrize("damage", DAMAGES, ids=["cut", "flipped", "empty", "other"])
def test_a_damaged_or_truncated_cache_gives_the_same_numbers(whole_cache, damage, tmp_path):
    cache, expected = whole_cache
    folder = tmp_path / "cache"
    folder.mkdir()
    for entry in cache.iterdir():
        (folder / entry.name).write_bytes(damage(entry.read_bytes()))
    np.testing.assert_array_equal(output(folder, 1), expected)


@pytest.fixture(scope="module")
def whole_cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "cache"
    expected = output(folder, 0)
    assert any(entry.name.endswith("-cache") for entry in folder.iterdir())
    return folder, expected
