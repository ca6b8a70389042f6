"""Files of the motion UNet: LVMM's ``UNet3D.pth``, and LFDM's files of its diffusion model.

LFDM's files hold a dictionary ``diffusion`` with the network's tensors, whose names start with ``denoise_fn.``, and the
tables of the noise schedule. In both kinds of file, each temporal attention repeats the same rotary frequencies.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.errors import SMCDError
from smcd_jax.models.conversion import Source
from smcd_jax.models.leftovers import LeftoversConfig, leftovers_rows
from smcd_jax.models.lvmm.conversion.unet_table import motion_unet_rows
from smcd_jax.models.lvmm.unet_config import MotionUNetConfig
from smcd_jax.models.tables.schedule_tables import schedule_notes
from smcd_jax.models.tables.shapes import Tensors, TensorShapes
from smcd_jax.weights.conversion_table import Row
from smcd_jax.weights.tensor_files import LazyTensor, open_groups, open_tensors

LFDM_PREFIX = "denoise_fn."
LFDM_KEY, LVMM_KEY = "diffusion", "state_dict"  # keys of the dictionary of tensors in the file


class UNetFile(NamedTuple):
    """A file of the motion UNet.

    Attributes:
        unet: Weights of the network.
        leftovers: Rotary frequencies and tables of the noise schedule, kept for conversion back to PyTorch.
        notes: Observations for the user, one line each.
    """

    unet: Source
    leftovers: Source
    notes: tuple[str, ...]


def read_unet_file(file: Path) -> UNetFile:
    """Returns the network and the other arrays of a file; only the values of the schedule's tables are loaded.

    Raises:
        SMCDError: The file is missing or damaged, or it holds another network.
    """
    tensors = _tensors(file)
    prefix = LFDM_PREFIX if any(name.startswith(LFDM_PREFIX) for name in tensors) else ""
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix) and not _is_buffer(name, tensor)}
    config = motion_unet_config({name.removeprefix(prefix): tensor for name, tensor in own.items()}, path=file)
    others = {name: tensor for name, tensor in tensors.items() if name not in own}
    notes: tuple[str, ...] = ()
    if prefix:
        tables = {name: tensor.numpy() for name, tensor in others.items() if "." not in name}
        steps = next((len(table) for table in tables.values()), NoiseSchedule.num_train_timesteps)
        notes = schedule_notes(NoiseSchedule(steps, kind="cosine"), tables)
    kept = LeftoversConfig.of(others)
    return UNetFile(
        Source(file, own, config, unet_file_rows(config, prefix)),
        Source(file, others, kept, leftovers_rows(kept)),
        notes,
    )


def unet_file_rows(config: MotionUNetConfig, prefix: str | None = None) -> list[Row]:
    """Returns the table of the network with the prefix of its file; LFDM's by default if the condition is a vector."""
    if prefix is None:
        prefix = LFDM_PREFIX if config.condition == "vector" else ""
    return [row._replace(torch=prefix + row.torch) for row in motion_unet_rows(config)]


def motion_unet_config(tensors: Tensors, *, path: str | os.PathLike[str]) -> MotionUNetConfig:
    """Returns the config of a motion UNet, from the shapes of its tensors.

    Shapes do not determine the number of groups of the norms and the padding of nearest-neighbour upsampling, which are
    those of the published networks.

    Args:
        tensors: Tensors by their names in `motion_unet_rows`.
        path: File, for error messages.

    Raises:
        SMCDError: The tensors belong to another network.
    """
    shapes = TensorShapes(tensors, path=path, network="motion UNet")
    base, inputs = shapes["init_conv.weight"][:2]
    _, heads = shapes["time_rel_pos_bias.relative_attention_bias.weight"]
    levels = shapes.count(r"downs\.(\d+)\.")
    if not levels:
        raise SMCDError(f"{path} contains no motion UNet: downs.0 is missing", path=path, value="downs.0")
    vector = "init_temporal_attn.fn.fn.fn.to_qkv.weight" in shapes
    resampler = 4 if vector else 5
    context = shapes["downs.0.0.mlp.1.weight" if vector else "downs.0.3.fn.fn.fn.to_kv.weight"][1]
    return MotionUNetConfig(
        input_channels=inputs,
        grid_channels=shapes["final_conv.1.weight"][0],
        confidence_channels=shapes["occlusion_map.1.weight"][0] if "occlusion_map.1.weight" in shapes else 0,
        base_channels=base,
        channel_mult=tuple(shapes[f"downs.{level}.0.block1.proj.weight"][0] // base for level in range(levels)),
        heads=heads,
        head_dim=shapes["init_temporal_attn.fn.fn.fn.to_out.weight"][1] // heads,
        condition="vector" if vector else "tokens",
        context_dim=context - 4 * base if vector else context,
        learned_null="null_cond_emb" in shapes,
        upsampling="nearest" if f"ups.0.{resampler}.1.weight" in shapes else "deconv",
        per_frame="seq_mlp.1.weight" in shapes,
    )


def _tensors(file: Path) -> dict[str, LazyTensor]:
    """Returns the tensors of the dictionary ``diffusion``; LFDM's files also hold a dictionary of example pictures."""
    found, _ = open_groups(file, (LFDM_KEY,))
    own = {name.removeprefix(f"{LFDM_KEY}."): part for name, part in found.items() if name.startswith(f"{LFDM_KEY}.")}
    return own or open_tensors(file)


def _is_buffer(name: str, tensor: LazyTensor) -> bool:
    """Returns whether an array is a buffer: rotary frequencies, or a schedule table, whose name contains no dot."""
    return name.endswith(".rotary_emb.freqs") or ("." not in name and len(tensor.shape) == 1)
