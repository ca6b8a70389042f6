"""Copies the golden cases that are part of the repository, without arrays that the comparisons do not read.

    python tests/golden/make_selection.py GOLDEN_FOLDER [--output tests/golden/selection]

The selection has one case of each kind of arithmetic and stays under 15 MB, so that parity can be checked on a machine
that has only the repository. The DDIM loop reuses the weights of the UNet case and of the small encoders.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

SELECTION = Path(__file__).with_name("selection")
MOST_BYTES = 15_000_000
FILES = (  # fastest first, so that even an interrupted check covers most of them
    "modules/sinusoidal_embedding.npz",
    "modules/downsample.npz",
    "modules/upsample.npz",
    "modules/resblock_in32_out64.npz",
    "modules/temporal_transformer_in64_inner64.npz",
    "modules/controlnet.npz",
    "vae/autoencoder_kl.npz",
    "unet/vanilla_cross_vision_cat.npz",
    "diffusion/ddim10_img1.5_ti1.5.npz",
    "train/aux_weights.npz",
)


def copy_case(source: Path, target: Path) -> int:
    """Writes the arrays of a golden file except its float64 outputs; returns the size of the new file in bytes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with np.load(source) as arrays:
        np.savez_compressed(target, **{name: arrays[name] for name in arrays.files if not name.startswith("out64/")})
    return target.stat().st_size


def main() -> None:
    """Copies the files and their entries of ``cases.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, default=SELECTION, metavar="DIR")
    arguments = parser.parse_args()
    cases = json.loads((arguments.folder / "cases.json").read_text())
    total = sum(copy_case(arguments.folder / file, arguments.output / file) for file in FILES)
    entries = {file: cases[file] for file in FILES}
    (arguments.output / "cases.json").write_text(json.dumps(entries, indent=1) + "\n")
    print(f"{len(FILES)} files, {total / 1e6:.2f} MB in {arguments.output}")
    if total > MOST_BYTES:
        raise SystemExit(f"the selection must be at most {MOST_BYTES / 1e6:.0f} MB; select fewer files")


if __name__ == "__main__":
    main()
