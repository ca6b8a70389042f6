"""Files of weights that evaluation reads: their names, where each usually comes from, and finding them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from smcd_jax.errors import SMCDError

VARIABLE = "SMCD_WEIGHTS_DIR"


class Weights(NamedTuple):
    """A file, or a folder of files.

    Attributes:
        file: its name as published.
        source: where it usually comes from, for people.
        marker: for a folder, the file in it that tells it is there.
    """

    file: str
    source: str
    marker: str = ""


KNOWN: Mapping[str, Weights] = {
    "i3d": Weights(
        "i3d_pretrained_400.pt", "VideoGPT and repositories after it, such as JunyaoHu/common_metrics_on_video_quality"
    ),
    "i3d-torchscript": Weights("i3d_torchscript.pt", "universome/fvd-comparison, the network of StyleGAN-V's FVD"),
    "openclip": Weights(
        "open_clip_pytorch_model.bin", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K, also part of ModelScope text-to-video"
    ),
    "openai-clip": Weights("clip-vit-base-patch32", "openai/clip-vit-base-patch32, the whole folder", "config.json"),
    "dino-s16": Weights("dino_deitsmall16_pretrain.pth", "facebookresearch/dino, backbone of ViT-S/16"),
    "dino-b16": Weights("dino_vitbase16_pretrain.pth", "facebookresearch/dino, backbone of ViT-B/16"),
    "lpips": Weights("alexnet-owt-7be5be79.pth", "torchvision's AlexNet trained on ImageNet (IMAGENET1K_V1)"),
}


def find_weights(name: str, folder: str | os.PathLike[str] | None = None) -> Path:
    """The path of known weights.

    A file is also found as ``.safetensors`` under the same stem, which reads without torch.

    Args:
        name: one of `KNOWN`.
        folder: where to look; by default ``$SMCD_WEIGHTS_DIR``.

    Raises:
        SMCDError: not there; the message names the exact file, its usual source and where to put it.
    """
    if name not in KNOWN:
        raise SMCDError(f"no weights are known as {name!r}; known are {', '.join(KNOWN)}")
    wanted, place = KNOWN[name], folder or os.environ.get(VARIABLE)
    what = f"the folder {wanted.file}" if wanted.marker else wanted.file
    origin = f"{what} (usual source: {wanted.source})"
    if not place:
        raise SMCDError(
            f"weights missing: put {origin} into a folder of your choice and name that folder with --weights DIR or "
            f"{VARIABLE}"
        )
    place = Path(place)
    if wanted.marker:
        if (place / wanted.file / wanted.marker).is_file():
            return place / wanted.file
    else:
        for candidate in (place / wanted.file, (place / wanted.file).with_suffix(".safetensors")):
            if candidate.is_file():
                return candidate
    raise SMCDError(f"weights missing: put {origin} into {place}, or name another folder with --weights or {VARIABLE}")
