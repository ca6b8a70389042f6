"""Turns of processes on a device: compilations overlap, measurements do not."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from smcd_jax.runtime.device_turns import DeviceTurns
from tests.errors import refused

WAIT = 20  # seconds


def in_thread(turn, entered: threading.Event) -> threading.Thread:
    """Enters and leaves a turn in a thread, which is returned."""

    def run():
        with turn:
            entered.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        ("compiling", "compiling", True),
        ("compiling", "measuring", False),
        ("measuring", "compiling", False),
        ("measuring", "measuring", False),
    ],
)
def test_only_compilations_overlap(tmp_path, first, second, together):
    turns, entered = [DeviceTurns(tmp_path / "turns") for _ in range(2)], threading.Event()
    with getattr(turns[0], first)():
        thread = in_thread(getattr(turns[1], second)(), entered)
        assert entered.wait(WAIT if together else 0.2) == together
    assert entered.wait(WAIT)
    thread.join(WAIT)


def test_a_turn_ends_with_its_process(tmp_path):
    code = (
        "import os, sys; from smcd_jax.runtime.device_turns import DeviceTurns\n"
        "with DeviceTurns(sys.argv[1]).measuring(): os._exit(7)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "turns"], check=False).returncode == 7
    entered = threading.Event()
    in_thread(DeviceTurns(tmp_path / "turns").measuring(), entered)
    assert entered.wait(WAIT)


def test_without_a_file_nothing_waits():
    with DeviceTurns().measuring(), DeviceTurns().measuring():
        pass


def test_a_folder_that_does_not_exist_is_reported(tmp_path):
    with refused("turns", path=tmp_path / "none" / "turns"):
        DeviceTurns(tmp_path / "none" / "turns")
