"""``model.ckpt``: one file with every network, leftovers of CLIP's text tower, and the tables of the noise schedule."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.errors import SMCDError
from smcd_jax.files.config_json import from_dict, to_dict
from smcd_jax.models.conversion import FamilyConversion, PublishedModel, Source, TorchFile
from smcd_jax.models.dynamicrafter.config import PRESETS, LeftoversConfig, ModelConfig
from smcd_jax.models.dynamicrafter.conversion import detect
from smcd_jax.models.dynamicrafter.conversion.table import FRAMESTRIDE, PREFIXES, component_rows
from smcd_jax.models.tables.autoencoder_kl import autoencoder_config
from smcd_jax.models.tables.box_tokens import position_net_config
from smcd_jax.models.tables.clip_towers import text_encoder_config, vision_encoder_config
from smcd_jax.models.tables.schedule_tables import schedule_notes
from smcd_jax.weights.tensor_files import LazyTensor, find_tensor_file, open_tensors

LICENSE = "that of the source weights (DynamiCrafter: research use, see its repository)"
CONFIG_FILE = "smcd_jax_config.json"  # written next to model.ckpt by `smcd convert --to_torch`
DEEPSPEED_PREFIX = 16  # characters before each name in a file that DeepSpeed saved
Tensors = Mapping[str, LazyTensor]


class DynamiCrafterConversion(FamilyConversion):
    """Conversion of every published variant, of pruned files, and of models with SMCD's gates."""

    def read(self, options: Mapping[str, Any]) -> PublishedModel:
        """Reads the file ``dynamicrafter``, or the one in that folder."""
        file = _find(Path(options["dynamicrafter"]))
        tensors = _without_prefix(open_tensors(file))
        names = {
            name: [key for key in tensors if key.startswith(prefix)] for name, prefix in PREFIXES.items() if prefix
        }
        tables, leftovers = _leftovers(tensors, names)
        parts = {name: {key.removeprefix(PREFIXES[name]): tensors[key] for key in keys} for name, keys in names.items()}
        if not parts["unet"] or not parts["resampler"]:
            absent = "unet" if not parts["unet"] else "resampler"
            raise SMCDError(
                f"{file} is not a DynamiCrafter file (no names under {PREFIXES[absent]}); for SMCD and ModelScope use "
                "--smcd and --modelscope",
                argument="dynamicrafter",
                path=file,
                value=absent,
            )
        config, notes = _stored_config(file.parent), ("the config is that of " + CONFIG_FILE,)
        if config is None:
            config, notes = self._config(file, parts, tables, options)
        framestride, kept = any(key.startswith(FRAMESTRIDE) for key in tensors), None
        if leftovers or framestride:
            shapes = tuple(tuple(tensors[key].shape) for key in leftovers)
            kept = LeftoversConfig(tuple(leftovers), shapes, framestride)
        config = dataclasses.replace(config, leftovers=kept)
        sources, unread = {}, set(leftovers)
        for name, rows in component_rows(config).items():
            own = leftovers if name == "leftovers" else [key for key in names[name] if key not in unread]
            sources[name] = Source(file, {key: tensors[key] for key in own}, getattr(config, name), rows)
        return PublishedModel(config, sources, license=LICENSE, notes=notes)

    def _config(
        self,
        file: Path,
        parts: Mapping[str, Tensors],
        tables: Mapping[str, np.ndarray],
        options: Mapping[str, Any],
    ) -> tuple[ModelConfig, tuple[str, ...]]:
        unet = detect.unet_config(parts["unet"], path=file, head_width=options.get("head_width"))
        variant, notes = detect.variant(unet, tables, path=file, stated=options.get("variant"))
        resampler = detect.resampler_config(parts["resampler"], path=file)
        unet = dataclasses.replace(unet, image_tokens_per_frame=resampler.queries)
        networks: dict[str, Any] = {"unet": unet, "resampler": resampler}
        if parts["image_tower"]:
            networks["image_tower"] = vision_encoder_config(parts["image_tower"], path=file)
        if parts["text_encoder"]:
            networks["text_encoder"] = text_encoder_config(parts["text_encoder"], path=file)
        if parts["autoencoder"]:
            networks["autoencoder"] = autoencoder_config(parts["autoencoder"], path=file)
        for name in ("image_tower", "text_encoder", "autoencoder"):
            if name not in networks:
                raise SMCDError(
                    f"{file} has no {name} (names under {PREFIXES[name]}); get the complete file",
                    argument=name,
                    path=file,
                )
        if parts["position_net"]:
            networks["position_net"] = position_net_config(parts["position_net"], path=file)
        objects = {"max_objects": 8} if unet.uses_objects else {}
        config = dataclasses.replace(PRESETS[variant], **networks, **objects)
        return config, (*notes, *_schedule_notes(config, tables))

    def text_files(self, config: ModelConfig) -> dict[str, str]:
        """Returns the config, for sizes and settings that the arrays do not determine."""
        return {CONFIG_FILE: json.dumps(to_dict(config), indent=2) + "\n"}

    def torch_files(self, config: ModelConfig) -> list[TorchFile]:
        """Returns ``model.ckpt``, as PyTorch Lightning writes it."""
        return [TorchFile("model.ckpt", component_rows(config), "state_dict")]


def _find(path: Path) -> Path:
    if path.is_dir():
        found = find_tensor_file(path, "model", "diffusion_pytorch_model") or next(
            iter(sorted([*path.glob("*.safetensors"), *path.glob("*.ckpt")])), None
        )
        if found is None:
            raise SMCDError(f"{path} has no model.ckpt or .safetensors", argument="dynamicrafter", path=path)
        return found
    if not path.exists():
        raise SMCDError(f"no such file or folder: {path}", argument="dynamicrafter", path=path)
    return path


def _stored_config(folder: Path) -> ModelConfig | None:
    file = folder / CONFIG_FILE
    return from_dict(ModelConfig, json.loads(file.read_text()), path=file) if file.is_file() else None


def _without_prefix(tensors: Tensors) -> dict[str, LazyTensor]:
    """Removes the prefix that DeepSpeed's wrapper adds to each name."""
    if any(name.startswith(PREFIXES["unet"]) for name in tensors):
        return dict(tensors)
    cut = {name[DEEPSPEED_PREFIX:]: tensor for name, tensor in tensors.items()}
    return cut if any(name.startswith(PREFIXES["unet"]) for name in cut) else dict(tensors)


def _leftovers(tensors: Tensors, names: Mapping[str, list[str]]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the tables of the noise schedule by name, and the names of all arrays that no network reads."""
    known = {name for keys in names.values() for name in keys}
    others = [name for name in tensors if name not in known]
    tables = {name: tensors[name].numpy() for name in others if len(tensors[name].shape) == 1}
    visual = PREFIXES["image_tower"] + "visual."
    text = [name for name in names["image_tower"] if not name.startswith(visual)]
    return tables, [*others, *text]


def _schedule_notes(config: ModelConfig, tables: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    schedule = NoiseSchedule(
        prediction_type=config.prediction_type,
        rescale_zero_terminal_snr=config.zero_terminal_snr,
        dynamic_rescale=config.dynamic_rescale,
    )
    return schedule_notes(schedule, tables)
