"""Fuzzes the importers at length: ``python -m tests.fuzz.run --count 1000000``. Prints counts and peak memory."""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

from tests.fuzz.inputs import one

SECONDS = 10  # time limit for one input, after which it counts as a hang


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--folder", help="folder for the inputs, such as one in memory")
    args = parser.parse_args(argv)
    warnings.simplefilter("error")
    start, read, faults, slowest, number = time.monotonic(), 0, 0, 0.0, 0
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for number in range(1, args.count + 1):
            signal.alarm(SECONDS)
            begun = time.monotonic()
            try:
                read += one(random.Random(f"{args.seed} {number}"), Path(folder))
            except Exception:
                faults += 1
                print(f"input {number} of seed {args.seed}:", file=sys.stderr)
                traceback.print_exc()
            slowest = max(slowest, time.monotonic() - begun)
            if number % 50_000 == 0:
                print(_line(number, read, faults, slowest, start), flush=True)
            if time.monotonic() - start > 60 * args.minutes:
                break
    signal.alarm(0)
    print(_line(number, read, faults, slowest, start))
    return 1 if faults else 0


def _line(number: int, read: int, faults: int, slowest: float, start: float) -> str:
    status = Path("/proc/self/status").read_text()
    megabytes = int(status.partition("VmHWM:")[2].split()[0]) // 1024
    return (
        f"{number:,} inputs: {read:,} read, {number - read - faults:,} refused, {faults} faults; "
        f"slowest {slowest:.2f} s; peak {megabytes} MB; {time.monotonic() - start:.0f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
