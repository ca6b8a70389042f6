"""Runs the steps of a GPU run one after the other, each within its time limit; launch/gpu.sh calls it.

    python launch/gpu/run.py --run A --output DIR [--device cpu --preset tiny]

Every step writes its figures as JSON into DIR as soon as it has them, so that an interrupted run still leaves its
figures. A step that fails or runs out of time does not stop the ones after it. The last thing printed is the table of
results; ``python launch/gpu/results.py DIR`` prints it again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from launch.gpu.results import read_results, table
from launch.gpu.runs import PARTS, ROOT, RUN_B, RUNS, Options, Step
from smcd_jax.files import write_json

FINE = ("done", "out of memory")  # endings of a command that are results
GRACE = 3.0  # seconds between SIGTERM and SIGKILL
LAST_LINES = 12  # number of output lines printed for a failed step


def base_environment(device: str, caches: Path) -> dict[str, str]:
    """Returns the environment of every step: this checkout's code, the device, and empty compile caches.

    Args:
        device: "gpu" or "cpu".
        caches: Folder for compiled programs, so that compile times are those of a first run.
    """
    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part)
    return os.environ | {
        "PYTHONPATH": path,
        "PYTHONUNBUFFERED": "1",
        "JAX_PLATFORMS": {"gpu": "cuda,cpu", "cpu": "cpu"}[device],
        "SMCD_CACHE_DIR": str(caches / "smcd_jax"),
        "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
        "TRITON_CACHE_DIR": str(caches / "triton"),
        "HF_HUB_OFFLINE": "1",
    }


class Command:
    """A command of a step as a process, with its output."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]):
        self.command = command
        self._output = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        # A separate process group, but the same session: ending the run from outside ends its steps too.
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=self._output, stderr=subprocess.STDOUT, process_group=0
        )

    def wait(self, end: float) -> str:
        """Returns how the command ended: "done", "failed (...)", or "cut off ..." if it still runs at ``end``."""
        try:
            status = self._process.wait(timeout=max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            return "cut off at its time limit"
        return "done" if status == 0 else f"failed (exit status {status})"

    def close(self) -> str:
        """Ends the command and the processes it started, and returns what it printed.

        SIGTERM comes first, because launch/train_small.py passes it on to a process that is not in its group.
        """
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):  # all processes have ended
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(timeout=GRACE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._output.seek(0)
        with self._output as output:
            return output.read()


def collect(output: Path, name: str, ending: str) -> str:
    """Moves the figures of a command from DIR/parts into run_b.json, and returns how the command ended.

    A training step that does not fit in memory is a result: its ending is "out of memory".

    Args:
        output: Folder of the results.
        name: Name of the command.
        ending: How the command ended.
    """
    collected, part = output / RUN_B, output / PARTS / f"{name}.json"
    found = json.loads(collected.read_text(encoding="utf-8")) if collected.is_file() else {}
    figures = json.loads(part.read_text(encoding="utf-8")) if part.is_file() else {}
    ending = "out of memory" if "out_of_memory" in figures else ending
    write_json(collected, found | {name: {"ending": ending, **figures}})
    part.unlink(missing_ok=True)
    return ending


def run_step(step: Step, seconds: float, *, environment: dict[str, str], log: IO[str], output: Path) -> str:
    """Runs the commands of a step side by side, and returns how it ended: "done", "failed (...)" or "cut off ...".

    Args:
        step: The step.
        seconds: Time after which commands that still run are killed, with the processes they started.
        environment: Environment of all steps.
        log: File that the output of the commands is appended to.
        output: Folder of the results.
    """
    end = time.monotonic() + seconds
    if step.parts:
        (output / PARTS).mkdir(exist_ok=True)
    commands = [Command(command, environment | step.environment) for command in step.commands]
    endings: list[str] = []
    try:
        endings.extend(command.wait(end) for command in commands)
    finally:
        for index, command in enumerate(commands):
            text = command.close()
            log.write(f"\n$ {' '.join(command.command)}\n{text}")
            log.flush()
            ending = endings[index] if index < len(endings) else "interrupted"
            if step.parts:
                ending = collect(output, step.parts[index], ending)
                endings[index : index + 1] = [ending]
            if ending not in FINE:
                print("\n".join(f"    {line[:200]}" for line in text.splitlines()[-LAST_LINES:]), flush=True)
    return next((ending for ending in endings if ending not in FINE), "done")


def run_all(steps: Sequence[Step], *, environment: dict[str, str], log: IO[str], output: Path) -> dict[str, str]:
    """Runs all steps, prints a line for each, and returns how each ended.

    A step may run until the sum of its own and all earlier limits has passed since the start. Time that one step does
    not use is thus available to the next, and the run ends within the sum of all limits.
    """
    endings, start, limit = {}, time.monotonic(), 0.0
    for number, step in enumerate(steps, 1):
        limit += step.seconds
        begun = time.monotonic()
        ending = run_step(step, start + limit - begun, environment=environment, log=log, output=output)
        line = f"[{number}/{len(steps)}] {step.name}: {ending} after {time.monotonic() - begun:.1f} s"
        print(line, flush=True)
        log.write(f"{line}\n")
        endings[step.name] = ending
    return endings


def main() -> int:
    """Runs the steps and prints the table; exit status 1 if a step failed or was cut off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", choices=sorted(RUNS), required=True, help="the run; A is the first")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu", help="default: gpu")
    parser.add_argument("--preset", choices=("smcd", "tiny"), default="smcd", help="size of the model (default: smcd)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the results")
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    steps = RUNS[arguments.run](Options(arguments.device, arguments.preset, output))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    start, endings = time.monotonic(), {}
    with tempfile.TemporaryDirectory(prefix="smcd-gpu-") as caches, (output / "log.txt").open("w") as log:
        try:
            environment = base_environment(arguments.device, Path(caches))
            endings = run_all(steps, environment=environment, log=log, output=output)
        finally:
            shutil.rmtree(output / PARTS, ignore_errors=True)  # the figures have been collected
            last = f"run {arguments.run}: {time.monotonic() - start:.0f} s\n\n{table(read_results(output))}"
            print(last, flush=True)
            log.write(f"{last}\n")
    return int(any(ending != "done" for ending in endings.values()))


if __name__ == "__main__":
    sys.exit(main())
