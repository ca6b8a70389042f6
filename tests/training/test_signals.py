"""Stop requests: real signals sent to real processes, single and distributed."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from smcd_jax.training.signals import ELSEWHERE, EXIT_RESTART, StopRequest
from tests.xla_flags import xla_flags

ROOT = Path(__file__).resolve().parents[2]
ALONE = """
import sys, time
from smcd_jax.training.signals import EXIT_RESTART, StopRequest
with StopRequest() as stop:
    print("ready", flush=True)
    for step in range(10_000):
        reason = stop.requested(step)
        if reason:
            print(reason, flush=True)
            if "stubborn" not in sys.argv:
                sys.exit(EXIT_RESTART)
        time.sleep(0.01)
"""
TOGETHER = """
import sys, time
import jax
port, number, service = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "service"
jax.config.update("jax_enable_preemption_service", service)
jax.distributed.initialize(f"127.0.0.1:{port}", 2, number)
from smcd_jax.training.signals import StopRequest
with StopRequest(agree_every=5) as stop:
    print("ready", flush=True)
    for step in range(1, 10_000):
        time.sleep(0.01 + 0.01 * number)
        reason = stop.requested(step)
        if reason:
            break
print(f"stopped at {step}: {reason}", flush=True)
jax.distributed.shutdown()
"""


def start(program: str, *args: str) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla_flags()}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", program, *args], env=environment, text=True, **pipes)


def wait_for(process: subprocess.Popen, text: str, *, on: str = "stdout") -> None:
    """Reads lines of a stream until one contains the text."""
    for line in getattr(process, on):
        if text in line:
            return
    raise AssertionError(f"no line with {text!r}")


@pytest.fixture
def processes():
    """A list for the processes that a test starts; any that are still running when it ends are killed."""
    started: list[subprocess.Popen] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_loop_with_the_restart_status(processes, number):
    processes.append(start(ALONE))
    wait_for(processes[0], "ready")
    processes[0].send_signal(number)
    output, errors = processes[0].communicate(timeout=60)
    assert processes[0].returncode == EXIT_RESTART == 42
    assert output.strip() == number.name
    assert errors.count("\n") == 2  # an empty line, which ends a possible progress bar, and the message


def test_a_second_sigint_interrupts_at_once(processes):
    processes.append(start(ALONE, "stubborn"))
    wait_for(processes[0], "ready")
    processes[0].send_signal(signal.SIGTERM)
    wait_for(processes[0], "SIGTERM")
    processes[0].send_signal(signal.SIGINT)  # the first SIGINT, although SIGTERM came before it
    wait_for(processes[0], "SIGINT: ", on="stderr")
    processes[0].send_signal(signal.SIGINT)
    _, errors = processes[0].communicate(timeout=60)
    assert processes[0].returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in errors


@pytest.mark.parametrize(
    ("service", "number"), [("service", signal.SIGTERM), ("service", signal.SIGINT), ("reduction", signal.SIGTERM)]
)
def test_two_processes_stop_at_the_same_step(processes, service, number):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    processes += [start(TOGETHER, port, str(index), service) for index in range(2)]
    for process in processes:
        wait_for(process, "ready")
    processes[1].send_signal(number)
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    found = [re.search(r"stopped at (\d+): (.*)", output).groups() for output in outputs]
    assert found[0][0] == found[1][0]
    assert found[0][1] == ELSEWHERE
    # With its preemption service enabled, JAX handles SIGTERM itself.
    assert found[1][1] == (ELSEWHERE if (service, number) == ("service", signal.SIGTERM) else number.name)


@pytest.mark.parametrize("fails", [False, True])
def test_the_previous_handlers_are_restored(fails):
    numbers = (signal.SIGINT, signal.SIGTERM)

    def mine(number, frame):
        raise AssertionError(number)

    before = [signal.signal(number, mine) for number in numbers]
    try:
        with pytest.raises(RuntimeError) if fails else StopRequest() as stop:
            if fails:
                with StopRequest():
                    raise RuntimeError
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.requested(1) == "SIGTERM"
        assert [signal.getsignal(number) for number in numbers] == [mine, mine]
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def test_nothing_is_requested_without_a_signal():
    with StopRequest() as stop:
        assert [stop.requested(step) for step in range(3)] == [None] * 3
