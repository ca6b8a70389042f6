"""Writes full-size files in the published layout with formula weights: 12 GB, used in place of the published files.

    python -m tests.full_size.published_layout FOLDER [KEYS]

FOLDER can then be passed as ``--smcd`` and ``--modelscope``. KEYS is the folder of golden files with shapes by name.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.conftest import SHARED
from tests.golden.formula_weights import formula_weights

FILES = {
    "pytorch_model.bin": "unet_final_vanilla_cross_vision_cat_init",
    "pytorch_model_1.bin": "position_net",
    "pytorch_model_2.bin": "visual_encoder",
    "VQGAN_autoencoder.pth": "autoencoder_kl_ckpt_style",
    "open_clip_pytorch_model.bin": "openclip_vit_h_14",
}


def write_published_layout(folder: Path, keys: Path, *, only: tuple[str, ...] = tuple(FILES)) -> None:
    """Writes the files one at a time."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    for file in only:
        shapes = json.loads((keys / f"{FILES[file]}.json").read_text())
        prefix = "unet." if file == "pytorch_model.bin" else f"{FILES[file]}."
        tensors = {name: torch.from_numpy(array) for name, array in formula_weights(prefix, shapes)}
        torch.save({"state_dict": tensors} if file.endswith(".pth") else tensors, folder / file)


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    write_published_layout(given[0], given[1] if len(given) > 1 else SHARED / "golden" / "keys")
