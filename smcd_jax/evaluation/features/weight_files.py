"""Weight files of the feature networks: their names, usual sources, and where they are searched for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from smcd_jax.errors import SMCDError

VARIABLE = "SMCD_WEIGHTS_DIR"


class Weights(NamedTuple):
    """A file of weights, or a folder of files.

    Attributes:
        file: Name as published.
        source: Usual source, for messages.
        marker: For a folder, the file in it that must exist.
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
    """Returns the path of known weights.

    A file may also have the suffix ``.safetensors``, which is read without torch.

    Args:
        name: One of `KNOWN`.
        folder: Folder of the weights; by default ``$SMCD_WEIGHTS_DIR``.

    Raises:
        SMCDError: The weights are missing; the message names the file, its usual source and where to put it.
    """
    if name not in KNOWN:
        raise SMCDError(f"weights must be one of {', '.join(KNOWN)}, got {name!r}", argument="name", value=name)
    weights, folder = KNOWN[name], folder or os.environ.get(VARIABLE)
    kind = f"the folder {weights.file}" if weights.marker else weights.file
    described = f"{kind} (usual source: {weights.source})"
    if not folder:
        raise SMCDError(
            f"weights missing: put {described} into a folder and pass it with --weights DIR or {VARIABLE}",
            argument="weights",
            value=weights.file,
        )
    path = Path(folder) / weights.file
    if weights.marker:
        if (path / weights.marker).is_file():
            return path
    else:
        for candidate in (path, path.with_suffix(".safetensors")):
            if candidate.is_file():
                return candidate
    raise SMCDError(
        f"weights missing: put {described} into {folder}, or pass another folder with --weights or {VARIABLE}",
        argument="weights",
        path=folder,
        value=weights.file,
    )
