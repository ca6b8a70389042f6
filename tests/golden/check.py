"""Compares this project's networks and samplers with numbers the PyTorch reference computed.

    python tests/golden/check.py DIR [--full] [--only TEXT]

DIR holds ``cases.json`` (kind and config of each file) and the files. Prints one line per quantity and exits 1 if any
failed or none ran. ``--full`` adds the full-size UNet (about 10 GB of memory).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from smcd_jax.runtime.compilation import enable_compile_cache
from tests.golden import case_diffusion, case_i3d, case_modules, case_train, case_unet
from tests.golden.comparison import Comparison, Golden

RUNNERS = {
    **case_modules.RUNNERS,
    **case_unet.RUNNERS,
    **case_diffusion.RUNNERS,
    **case_train.RUNNERS,
    **case_i3d.RUNNERS,
}


def comparisons(folder: Path, *, full: bool = False, only: str = "") -> Iterator[tuple[str, Comparison | str]]:
    """Each file of ``cases.json`` with its comparisons, or with the reason why it was left out."""
    cases = json.loads((folder / "cases.json").read_text())
    for file, case in cases.items():
        kind = case["kind"]
        if only not in file or kind == "weights":
            continue
        if case.get("optional") and kind not in RUNNERS:
            yield file, f"left out: {kind} is optional (broken or dead in the reference)"
        elif kind == "unet_fullsize" and not full:
            yield file, "left out: full size, add --full"
        elif kind not in RUNNERS:
            yield file, Comparison(f"no runner for kind {kind!r}", np.inf, 0.0)
        else:
            for comparison in RUNNERS[kind](Golden(folder, file, case)):
                yield file, comparison


def main() -> int:
    """Runs the comparisons and prints them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--full", action="store_true", help="add the full-size UNet with formula weights")
    parser.add_argument("--only", default="", metavar="TEXT", help="only files whose name contains TEXT")
    arguments = parser.parse_args()
    if not (arguments.folder / "cases.json").is_file():
        print(f"check.py: no cases.json in {arguments.folder}; give the folder of golden files", file=sys.stderr)
        return 2

    enable_compile_cache()
    checked = failed = 0
    print(f"{'file':<52} {'quantity':<34} {'max error':>10} {'tolerance':>10}  ok")
    for file, result in comparisons(arguments.folder, full=arguments.full, only=arguments.only):
        if isinstance(result, str):
            print(f"{file:<52} {result}")
            continue
        checked += 1
        failed += not result.ok
        verdict = "ok" if result.ok else "FAILED"
        print(
            f"{file:<52} {result.quantity:<34} {result.error:>10.2e} {result.tolerance:>10.2e}  {verdict}", flush=True
        )
    print(f"{checked} checked, {failed} failed")
    return int(failed > 0 or checked == 0)


if __name__ == "__main__":
    sys.exit(main())
