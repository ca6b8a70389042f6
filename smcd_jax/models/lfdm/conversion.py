"""Files of LFDM and MRAA: a flow autoencoder with its training state, and LFDM's diffusion model.

The file of a flow autoencoder holds the dictionaries ``generator``, ``region_predictor`` and ``bg_predictor``. The
kernels ``down.weight``, the counters of BatchNorm, and the network ``avd_network`` of some of MRAA's files are kept as
leftovers.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smcd_jax.errors import SMCDError
from smcd_jax.files.config_json import from_dict, to_dict
from smcd_jax.models.conversion import FamilyConversion, PublishedModel, Source, TorchFile
from smcd_jax.models.leftovers import LeftoversConfig, leftovers_rows
from smcd_jax.models.lfdm.config import LFDMConfig
from smcd_jax.models.lvmm.conversion.autoencoder_file import (
    AUTOENCODER_COMPONENTS,
    GROUPS,
    autoencoder_configs,
    autoencoder_rows,
)
from smcd_jax.models.lvmm.conversion.unet_file import LFDM_KEY, read_unet_file, unet_file_rows
from smcd_jax.weights.conversion_table import Row
from smcd_jax.weights.tensor_files import open_groups

LICENSE = "that of the source weights (LFDM: BSD-2; the flow autoencoder is Snap's, see the repository of MRAA)"
CONFIG_FILE = "smcd_jax_config.json"  # `smcd convert --to_torch` writes this file next to the weights
AUTOENCODER_FILE, DIFFUSION_FILE = "flow_autoencoder.pth", "diffusion.pth"
# Padding of the heat map convolution, which shapes do not determine, and picture size in pixels, by data set
TRAINED_ON = {
    "mug": (3, 128),
    "mhad": (0, 128),
    "natops": (0, 128),
    "vox": (3, 256),
    "taichi": (0, 256),
    "ted": (0, 384),
    "mgif": (0, 256),
}


class LFDMConversion(FamilyConversion):
    """Conversion of a flow autoencoder with or without a diffusion model."""

    def read(self, options: Mapping[str, Any]) -> PublishedModel:
        """Reads the file ``lfdm`` and, if given, the file ``lfdm_diffusion``."""
        file = _file(Path(options["lfdm"]))
        tensors, others = open_groups(file, GROUPS)
        stored = file.parent / CONFIG_FILE
        if stored.is_file():
            config = from_dict(LFDMConfig, json.loads(stored.read_text()), path=stored)
            notes: tuple[str, ...] = (f"the config is that of {CONFIG_FILE}",)
            config = dataclasses.replace(config, unet=None, unet_leftovers=None)
        else:
            padding, side, notes = _data_set(file, options.get("trained_on"))
            parts = autoencoder_configs(tensors, padding=padding, path=file)
            config = LFDMConfig(**parts, height=side, width=side)
        sources, names = {}, set()
        for name in AUTOENCODER_COMPONENTS:
            part = getattr(config, name)
            if part is None:
                continue
            rows = autoencoder_rows(name, part)
            own = {row.torch: tensors[row.torch] for row in rows if row.torch in tensors}
            sources[name], names = Source(file, own, part, rows), names | set(own)
        unread = {name: tensor for name, tensor in tensors.items() if name not in names}
        kept = LeftoversConfig.of(unread)
        sources["autoencoder_leftovers"] = Source(file, unread, kept, leftovers_rows(kept))
        config = dataclasses.replace(config, autoencoder_leftovers=kept)
        if others:
            notes += (f"training state is not converted: {', '.join(sorted(others))}",)
        if options.get("lfdm_diffusion"):
            diffusion = read_unet_file(_file(Path(options["lfdm_diffusion"])))
            sources |= {"unet": diffusion.unet, "unet_leftovers": diffusion.leftovers}
            config = dataclasses.replace(config, unet=diffusion.unet.config, unet_leftovers=diffusion.leftovers.config)
            notes += diffusion.notes
            _check_fit(config, Path(options["lfdm_diffusion"]))
        return PublishedModel(config, sources, license=LICENSE, notes=notes)

    def torch_files(self, config: LFDMConfig) -> list[TorchFile]:
        """Returns one file for the flow autoencoder and, if the model has a UNet, one for the diffusion model."""
        tables: dict[str, list[Row]] = {
            name: autoencoder_rows(name, getattr(config, name))
            for name in AUTOENCODER_COMPONENTS
            if getattr(config, name) is not None
        }
        tables |= _leftovers(config, "autoencoder_leftovers")
        names = {row.torch.split(".")[0] for rows in tables.values() for row in rows}
        groups = tuple(group for group in GROUPS if group in names)
        files = [TorchFile(AUTOENCODER_FILE, tables, groups=groups)]
        if config.unet is not None:
            own = {"unet": unet_file_rows(config.unet), **_leftovers(config, "unet_leftovers")}
            files.append(TorchFile(DIFFUSION_FILE, own, LFDM_KEY))
        return files

    def text_files(self, config: LFDMConfig) -> dict[str, str]:
        """Returns the config file, which holds settings that the arrays do not determine."""
        return {CONFIG_FILE: json.dumps(to_dict(config), indent=2) + "\n"}


def _leftovers(config: LFDMConfig, name: str) -> dict[str, list[Row]]:
    kept = getattr(config, name)
    return {} if kept is None else {name: leftovers_rows(kept)}


def _file(path: Path) -> Path:
    if path.is_dir():
        message = f"{path} is a folder; pass the file of the weights"
        raise SMCDError(message, argument="lfdm", path=path)
    return path


def _data_set(file: Path, stated: str | None) -> tuple[int, int, tuple[str, ...]]:
    """Returns padding and picture side of the stated data set, or of the one that the path names."""
    if stated is not None and stated.lower() not in TRAINED_ON:
        message = f"trained_on must be one of {', '.join(TRAINED_ON)}, got {stated!r}"
        raise SMCDError(message, argument="trained_on", value=stated)
    text = "/".join(file.absolute().parts[-2:]).lower()
    found = [stated.lower()] if stated is not None else [name for name in TRAINED_ON if name in text]
    if len(found) != 1:
        message = (
            f"{file}: the arrays do not show the padding of the heat maps; name the data set with --trained_on "
            f"({', '.join(TRAINED_ON)})"
        )
        raise SMCDError(message, argument="trained_on", path=file, value=found)
    padding, side = TRAINED_ON[found[0]]
    return padding, side, (f"trained on {found[0]}: heat maps with a padding of {padding}",)


def _check_fit(config: LFDMConfig, file: Path) -> None:
    renderer = config.renderer
    features = min(renderer.max_channels, renderer.base_channels * 2**renderer.levels)
    wanted = 3 + features
    if config.unet.input_channels != wanted:
        message = (
            f"{file}: the UNet must have {wanted} input channels, 3 of motion and {features} of this flow autoencoder, "
            f"got {config.unet.input_channels}; the two files are of different models"
        )
        raise SMCDError(message, argument="lfdm_diffusion", path=file, value=config.unet.input_channels)


CONVERSION = LFDMConversion()
