"""The flags of `smcd convert` that belong to one model family, and the presets; no slow imports, for a fast --help."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag of one family.

    Attributes:
        name: Name without dashes; also the key in the options of `FamilyConversion`.
        help: Help text.
        kind: Type of the value: "path", "int", "text", or "switch" for a flag without value.
        metavar: Placeholder of the value in the help text.
        source: Whether the flag names weights to convert; such a flag selects the family.
    """

    name: str
    help: str
    kind: Literal["path", "int", "text", "switch"] = "path"
    metavar: str | None = None
    source: bool = False


FLAGS: Mapping[str, tuple[Flag, ...]] = {
    "smcd": (
        Flag("modelscope", "base model, in ModelScope's or diffusers' layout", metavar="DIR", source=True),
        Flag("smcd", "SMCD's networks", metavar="DIR", source=True),
        Flag("with_vision", "include OpenCLIP's vision tower, which evaluation uses", "switch"),
        Flag(
            "head_width",
            "channels per attention head, if configuration.json does not state it (default: 64)",
            "int",
            "N",
        ),
    ),
    "dynamicrafter": (
        Flag("dynamicrafter", "DynamiCrafter's model.ckpt or a pruned .safetensors", metavar="FILE", source=True),
        Flag(
            "variant",
            "256, 512, 1024 or 512_interp; default: inferred from the file (512 and 512_interp have the same arrays)",
            "text",
        ),
        Flag("head_width", "channels per attention head (default: 64)", "int", "N"),
    ),
    "lfdm": (
        Flag("lfdm", "flow autoencoder of LFDM or MRAA", metavar="FILE", source=True),
        Flag("lfdm_diffusion", "LFDM's diffusion model, to add to --lfdm", metavar="FILE"),
        Flag(
            "trained_on",
            "data set of --lfdm: mug, mhad, natops, vox, taichi, ted or mgif; default: from the path of the file",
            "text",
        ),
    ),
}

PRESETS: tuple[str, ...] = (
    "tiny",
    "smcd",
    "dynamicrafter_tiny",
    "dynamicrafter_256",
    "dynamicrafter_512",
    "dynamicrafter_1024",
    "dynamicrafter_512_interp",
    "lvmm",
    "lvmm_tiny",
)

DETAILS: Mapping[str, str] = {
    "smcd": """\
published weights of SMCD:
  smcd convert --modelscope modelscope-damo-text-to-video --smcd smcd-weights --output models/smcd
  smcd convert --modelscope text-to-video-ms-1.7b --smcd smcd-weights --output models/smcd

A ModelScope folder contains configuration.json, text2video_pytorch_model.pth, VQGAN_autoencoder.pth and
open_clip_pytorch_model.bin; a folder in diffusers' layout contains unet/, vae/ and text_encoder/. An SMCD folder
contains pytorch_model.bin (UNet), pytorch_model_1.bin (position net) and pytorch_model_2.bin (image encoder or
ControlNet). Each file may be .safetensors instead. With --smcd the UNet of --modelscope is not read.""",
    "dynamicrafter": """\
  smcd convert --dynamicrafter dynamicrafter_512_v1/model.ckpt --output models/dynamicrafter_512
  smcd convert --dynamicrafter dynamicrafter_512_interp_v1/model.ckpt --output models/interp --variant 512_interp""",
    "lfdm": """\
  smcd convert --lfdm LFAE_MUG.pth --lfdm_diffusion DM_MUG.pth --trained_on mug --output models/lfdm_mug
  smcd convert --lfdm vox256.pth --output models/mraa_vox

LFDM publishes a flow autoencoder and a diffusion model for each of MUG, MHAD and NATOPS, MRAA a flow autoencoder for
each data set. Optimizer state is not kept. LVMM publishes no weights.""",
}


def selected_families(options: Mapping[str, Any]) -> list[str]:
    """Returns the families whose source flags are set.

    Args:
        options: Values of all flags, by name.
    """
    return [family for family, flags in FLAGS.items() if any(options.get(flag.name) for flag in flags if flag.source)]
