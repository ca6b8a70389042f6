"""Defaults for users without a home folder, and errors if JAX does not find the selected platform."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from smcd_jax.cli import main
from smcd_jax.runtime.cache_folder import _note_no_home, cache_folder
from smcd_jax.runtime.compilation import enable_compile_cache
from smcd_jax.runtime.devices import require_devices
from smcd_jax.training.plan import plan_cache
from tests.conftest import no_compile_cache
from tests.errors import refused


@pytest.fixture
def no_home(monkeypatch):
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", none)
    monkeypatch.delenv("SMCD_CACHE_DIR", raising=False)
    _note_no_home.cache_clear()
    with no_compile_cache():
        yield


def test_case_28_a_user_without_a_home_folder_has_no_cache_and_a_note(no_home, caplog):
    assert cache_folder("xla") is None
    assert enable_compile_cache() is None
    assert plan_cache.folder() is None
    assert len(caplog.records) == 1


def test_a_given_cache_folder_needs_no_home(no_home, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("SMCD_CACHE_DIR", str(tmp_path))
    assert enable_compile_cache() == tmp_path / "xla"
    monkeypatch.setenv("SMCD_CACHE_DIR", "")
    assert cache_folder("plans") is None
    assert not caplog.records


@pytest.mark.parametrize(
    "error",
    [
        AssertionError(),
        RuntimeError("Unable to initialize backend 'tpu': INTERNAL: libtpu.so (set JAX_PLATFORMS='' to choose)"),
        RuntimeError("Unknown backend 'gpuu'"),
    ],
)
def test_errors_of_backends_are_one_sentence_about_the_platform(monkeypatch, error):
    def fail():
        raise error

    monkeypatch.setattr(jax, "devices", fail)
    monkeypatch.setattr(jax.config, "_read", lambda name: None, raising=False)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with refused("JAX_PLATFORMS"):
        require_devices()


def test_case_29_a_missing_platform_is_wrong_input():
    environment = {**os.environ, "JAX_PLATFORMS": "cuda"}
    program = "import sys; from smcd_jax.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["bench", "sample"]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=environment, capture_output=True, text=True, timeout=120
    )
    if done.returncode == 0:
        pytest.skip("there is a GPU")
    assert done.returncode == 2, done.stderr
    assert "JAX_PLATFORMS=cuda" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_other_errors_of_a_command_stay_internal_errors(monkeypatch, capsys):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr("smcd_jax.cli._run", lambda arguments: 1 / 0)
    assert main(["doctor"]) == 1
    assert "internal error" in capsys.readouterr().err
