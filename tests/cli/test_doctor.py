"""`smcd doctor`: a table of the installation, and an exit status that shows whether a required part is broken."""

from __future__ import annotations

import dataclasses
import shutil
from importlib import resources
from pathlib import Path

import jax
import pytest

from smcd_jax.cli import doctor, main
from smcd_jax.cli.machine import format_bytes
from smcd_jax.media import encoder
from tests.conftest import no_compile_cache


@pytest.fixture(autouse=True)
def compile_cache(tmp_path, monkeypatch) -> Path:
    """A separate cache for each test; JAX would otherwise keep the first one that it is configured with."""
    monkeypatch.setenv("SMCD_CACHE_DIR", str(tmp_path / "cache"))
    with no_compile_cache():
        yield tmp_path / "cache"


def table(shown: str) -> dict[str, tuple[str, str]]:
    rows = [line.split("  ", 1) for line in shown.splitlines()]
    return {subject: tuple(rest.strip().split(maxsplit=1)) for subject, rest in rows}


def test_this_installation_passes(compile_cache, capsys):
    assert main(["doctor"]) == 0
    found = table(capsys.readouterr().out)
    subjects = {
        "smcd_jax",
        "jax",
        "flax",
        "device 0",
        "compile cache",
        "video library",
        "video encoding",
        "model tiny",
        "free disk",
    }
    assert subjects <= found.keys()
    assert {found[subject][0] for subject in ("jax", "compile cache", "video encoding", "model tiny")} == {"ok"}
    assert found["jax"][1] == jax.__version__
    assert found["compile cache"][1].startswith(f"0 programs, 0 B in {compile_cache / 'xla'}")
    assert found["video encoding"][1] == "2 frames of h264, yuv420p"
    assert "trained: tiny_scene" in found["model tiny"][1]
    assert found["extra test"][0] == "ok"  # pytest is running


def test_a_missing_extra_is_not_a_fault_and_has_its_install_command(monkeypatch, capsys):
    monkeypatch.setitem(doctor.EXTRAS, "eval", ("no_such_module", "evaluation"))
    assert main(["doctor"]) == 0
    assert table(capsys.readouterr().out)["extra eval"] == ("-", "for evaluation: pip install 'smcd_jax[eval]'")


def test_a_cache_that_cannot_be_made_is_a_warning(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SMCD_CACHE_DIR", str(tmp_path / "file"))
    assert main(["doctor"]) == 0
    assert table(capsys.readouterr().out)["compile cache"][0] == "warning"


def test_a_missing_encoder_and_a_damaged_model_are_found_and_the_rest_is_still_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(encoder, "MP4", dataclasses.replace(encoder.MP4, codec="no_such_encoder"))
    shutil.copytree(resources.files("smcd_jax") / "assets" / "models" / "tiny", tmp_path / "m")
    shutil.rmtree(tmp_path / "m" / "params" / "position_net")
    assert main(["doctor", "--model", str(tmp_path / "m")]) == 1
    found = table(capsys.readouterr().out)
    assert found["video library"][0] == "ok"
    assert found["video"][0] == "BROKEN"
    assert found["model tiny"][0] == "ok"
    assert found[f"model {tmp_path / 'm'}"][0] == "BROKEN"
    assert "position_net is missing" in found[f"model {tmp_path / 'm'}"][1]


@pytest.mark.parametrize(("count", "text"), [(7, "7 B"), (1500, "1.5 kB"), (2_510_000_000, "2.5 GB"), (4e14, "400 TB")])
def test_format_bytes(count, text):
    assert format_bytes(count) == text
