"""Configs and the variant of a file, from the names, shapes and schedule tables in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.models.dynamicrafter.config import PRESETS, DynamiCrafterUNetConfig, ResamplerConfig
from smcd_jax.models.tables.shapes import Tensors, TensorShapes

HEAD_WIDTH = 64  # channels per attention head of the published networks; cannot be inferred from shapes
FRAMES = 16  # frames of the published resampler, which stores the queries of all frames together
VARIANTS = tuple(name.removeprefix("dynamicrafter_") for name in PRESETS)
_MIDDLE = "middle_block.1.transformer_blocks.0"


def unet_config(
    tensors: Tensors, *, path: str | os.PathLike[str], head_width: int | None = None
) -> DynamiCrafterUNetConfig:
    """Returns the config of the UNet.

    Args:
        tensors: Tensors by name, without the prefix of the file.
        path: File, for error messages.
        head_width: Channels per attention head; 64 by default.

    Raises:
        SMCDError: The tensors belong to another network.
    """
    shapes, heads = TensorShapes(tensors, path=path, network="DynamiCrafter UNet"), head_width or HEAD_WIDTH
    latent, width = shapes["out.2.weight"][0], shapes["time_embed.0.weight"][1]
    inputs = shapes["input_blocks.0.0.weight"][1]
    if inputs != 2 * latent:
        raise SMCDError(
            f"{path}: the first convolution must have {2 * latent} input channels, got {inputs}",
            path=path,
            value=inputs,
        )
    levels = [{"channels": 0, "blocks": 0, "attention": False}]
    for index in range(1, shapes.count(r"input_blocks\.(\d+)\.")):
        if f"input_blocks.{index}.0.op.weight" in shapes:
            levels.append({"channels": 0, "blocks": 0, "attention": False})
            continue
        levels[-1]["channels"] = shapes[f"input_blocks.{index}.0.out_layers.3.weight"][0]
        levels[-1]["attention"] = f"input_blocks.{index}.1.norm.weight" in shapes
        levels[-1]["blocks"] += 1
    gated = f"{_MIDDLE}.gate_attn.linear.weight"
    return DynamiCrafterUNetConfig(
        latent_channels=latent,
        base_channels=width,
        channel_mult=tuple(level["channels"] // width for level in levels),
        num_res_blocks=levels[0]["blocks"],
        attention_scales=tuple(0.5**index for index, level in enumerate(levels) if level["attention"]),
        head_dim=heads,
        stem_heads=shapes["init_attn.0.proj_in.weight"][0] // heads,
        context_dim=shapes[f"{_MIDDLE}.attn2.to_k_ip.weight"][1],
        learned_image_scale=f"{_MIDDLE}.attn2.alpha" in shapes,
        **({"gate": "object", "object_width": shapes[gated][1]} if gated in shapes else {}),
    )


def resampler_config(tensors: Tensors, *, path: str | os.PathLike[str]) -> ResamplerConfig:
    """Returns the config of the resampler; arguments and errors are those of `unet_config`."""
    shapes = TensorShapes(tensors, path=path, network="resampler")
    _, count, width = shapes["latents"]
    if count % FRAMES:
        raise SMCDError(f"{path}: the resampler has {count} queries, which {FRAMES} frames do not divide", path=path)
    return ResamplerConfig(
        width=width,
        layers=shapes.count(r"layers\.(\d+)\."),
        heads=shapes["layers.0.0.to_q.weight"][0] // HEAD_WIDTH,
        head_dim=HEAD_WIDTH,
        queries=count // FRAMES,
        frames=FRAMES,
        input_width=shapes["proj_in.weight"][1],
        output_width=shapes["proj_out.weight"][0],
        hidden_factor=shapes["layers.0.1.1.weight"][0] // width,
    )


def variant(
    unet: DynamiCrafterUNetConfig, tables: Mapping[str, np.ndarray], *, path: Path, stated: str | None
) -> tuple[str, tuple[str, ...]]:
    """Returns the preset of a file, and notes for the user.

    The 256 model has learned image scales, and the stored rescale identifies the 1024 model. The 512 model and that for
    interpolation have the same names, shapes and tables; between them, the path of the file decides, unless the user
    states one.

    Args:
        unet: Config of the file's UNet.
        tables: Stored tables of the noise schedule; pruned files have none.
        path: The file.
        stated: Variant that the user names, such as "512_interp".

    Raises:
        SMCDError: The stated variant is unknown or does not fit the file.
    """
    scale = float(tables["scale_arr"][-1]) if "scale_arr" in tables else None
    possible = ("256",) if unet.learned_image_scale else ("512", "1024", "512_interp")
    if scale is not None and not unet.learned_image_scale:
        possible = ("1024",) if scale < 0.5 else ("512", "512_interp")
    if stated is not None:
        if stated not in VARIANTS:
            raise SMCDError(
                f"--variant must be one of {', '.join(VARIANTS)}, got {stated}", argument="variant", value=stated
            )
        if stated not in (*possible, "tiny"):
            raise SMCDError(
                f"{path} is not the variant {stated}: its arrays are those of {' or '.join(possible)}",
                argument="variant",
                path=path,
                value=stated,
            )
        return f"dynamicrafter_{stated}", ()
    if len(possible) == 1:
        return f"dynamicrafter_{possible[0]}", (f"the arrays are those of the variant {possible[0]}",)
    place = str(path).lower()
    chosen = "512_interp" if "interp" in place else "1024" if "1024" in place and "1024" in possible else "512"
    note = f"the variants {', '.join(possible)} have the same arrays; {chosen} by the path, or pass --variant"
    return f"dynamicrafter_{chosen}", (note,)
