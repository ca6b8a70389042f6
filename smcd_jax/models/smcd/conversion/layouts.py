"""The published layouts: ModelScope text-to-video in its own and in diffusers' layout, and SMCD's networks."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smcd_jax.errors import SMCDError
from smcd_jax.files.config_json import from_dict, to_dict
from smcd_jax.files.placeholders import snapshot_folder
from smcd_jax.models.conversion import FamilyConversion, PublishedModel, ReferenceNetwork, Source, TorchFile
from smcd_jax.models.smcd.config import ModelConfig
from smcd_jax.models.smcd.conversion import detect, diffusers_unet
from smcd_jax.models.smcd.conversion.table import controlnet_rows, image_encoder_rows, unet_rows
from smcd_jax.models.tables import autoencoder_kl, clip_towers
from smcd_jax.models.tables.box_tokens import position_net_config, position_net_rows
from smcd_jax.nn.config import VisionEncoderConfig
from smcd_jax.weights.conversion_table import Row
from smcd_jax.weights.tensor_files import find_tensor_file, open_tensors, tensor_file

LICENSE = "that of the source weights (ModelScope text-to-video: CC BY-NC 4.0)"
CONFIGURATION = "configuration.json"
CONFIG_KEY = "smcd_jax"  # key in `CONFIGURATION` of an exported model's config; shapes do not determine all of it

# Table of each component, and the file that holds it in the published layout.
_FILES = {
    "unet": (unet_rows, "pytorch_model.bin"),
    "position_net": (position_net_rows, "pytorch_model_1.bin"),
    "image_encoder": (image_encoder_rows, "pytorch_model_2.bin"),
    "controlnet": (controlnet_rows, "pytorch_model_2.bin"),
    "autoencoder": (autoencoder_kl.autoencoder_rows, "VQGAN_autoencoder.pth"),
    "text_encoder": (clip_towers.text_encoder_rows, "open_clip_pytorch_model.bin"),
    "vision_encoder": (clip_towers.vision_encoder_rows, "open_clip_pytorch_model.bin"),
}


class SMCDConversion(FamilyConversion):
    """Conversion of SMCD, and of its base model ModelScope text-to-video alone."""

    def read(self, options: Mapping[str, Any]) -> PublishedModel:
        """Reads the folders ``modelscope`` and ``smcd``; SMCD's UNet replaces that of ModelScope."""
        modelscope, smcd = options.get("modelscope"), options.get("smcd")
        head_width, with_vision = options.get("head_width"), bool(options.get("with_vision"))
        sources: dict[str, Source] = {}
        if modelscope is not None:
            modelscope = _checked_folder(modelscope, "modelscope")
            if (modelscope / "unet").is_dir():
                sources |= _read_diffusers(modelscope, with_unet=smcd is None, with_vision=with_vision)
            else:
                sources |= _read_modelscope(modelscope, with_vision=with_vision)
                if smcd is None:
                    file = tensor_file(modelscope, "text2video_pytorch_model")
                    sources = {"unet": _read_unet(file, head_width)} | sources
        if smcd is not None:
            smcd = _checked_folder(smcd, "smcd")
            sources |= _read_smcd(smcd, head_width=head_width)
        config = _model_config(sources, [folder for folder in (smcd, modelscope) if folder is not None])
        return PublishedModel(config, sources, license=LICENSE)

    def reference_networks(self, config: ModelConfig) -> list[ReferenceNetwork]:
        """Returns the official networks, see `reference`."""
        from smcd_jax.models.smcd.conversion.reference import reference_networks

        return reference_networks(config)

    def torch_files(self, config: ModelConfig) -> list[TorchFile]:
        """Returns the files of one folder that serves as ``--smcd`` and as ``--modelscope``."""
        components = config.components()
        if {"image_encoder", "controlnet"} <= set(components):
            message = "the model has an image encoder and a ControlNet; pytorch_model_2.bin holds only one of them"
            raise SMCDError(message, argument="controlnet")
        tables: dict[str, dict[str, list[Row]]] = {}
        for name, part in components.items():
            rows, file = _FILES[name]
            tables.setdefault(file, {})[name] = rows(part)
        # ModelScope saves its autoencoder as part of a complete latent diffusion model
        prefixed = [
            row._replace(torch=autoencoder_kl.PREFIX + row.torch) for row in tables[_AUTOENCODER]["autoencoder"]
        ]
        tables[_AUTOENCODER] = {"autoencoder": prefixed}
        return [TorchFile(name, parts, "state_dict" * (name == _AUTOENCODER)) for name, parts in tables.items()]

    def text_files(self, config: ModelConfig) -> dict[str, str]:
        """Returns ``configuration.json`` as ModelScope writes it, with the config under `CONFIG_KEY`."""
        unet = config.unet
        sizes = {
            "unet_in_dim": unet.input_channels,
            "unet_dim": unet.base_channels,
            "unet_context_dim": unet.context_dim,
            "unet_out_dim": unet.latent_channels,
            "unet_dim_mult": list(unet.channel_mult),
            "unet_num_heads": unet.stem_heads,
            "unet_head_dim": unet.head_dim,
            "unet_res_blocks": unet.num_res_blocks,
            "unet_attn_scales": list(unet.attention_scales),
            "unet_dropout": unet.dropout,
            "num_timesteps": 1000,
            "mean_type": "eps",
        }
        content = {
            "framework": "pytorch",
            "task": "text-to-video-synthesis",
            "model": {"type": "latent-text-to-video-synthesis", "model_cfg": sizes},
            CONFIG_KEY: to_dict(config),
        }
        return {CONFIGURATION: json.dumps(content, indent=2) + "\n"}

    def preset_config(self, config: ModelConfig, options: Mapping[str, Any]) -> ModelConfig:
        """Returns the config, with OpenCLIP's vision tower if ``with_vision`` is set."""
        return dataclasses.replace(config, vision_encoder=VisionEncoderConfig()) if options["with_vision"] else config


_AUTOENCODER = _FILES["autoencoder"][1]


def _model_config(sources: Mapping[str, Source], folders: list[Path]) -> ModelConfig:
    """Returns the config of the model, whose components without sources are None.

    Raises:
        SMCDError: A component that sampling needs is missing; `argument` is its name.
    """
    stored = next((found for folder in folders if (found := _stored_config(folder))), ModelConfig())
    for name in ("unet", "autoencoder", "text_encoder"):
        if name not in sources:
            hint = "--smcd FOLDER (pytorch_model.bin)" if name == "unet" else "--modelscope FOLDER"
            raise SMCDError(f"the weights contain no {name}; pass {hint} as well", argument=name)
    unet = sources["unet"].config
    for name, needed, gates in (
        ("position_net", unet.uses_objects, "object"),
        ("image_encoder", unet.uses_image_tokens, "image"),
    ):
        if needed and name not in sources:
            message = f"{sources['unet'].file} has {gates} gates, which need a {name}; add {_FILES[name][1]}"
            raise SMCDError(message, argument=name)
    parts = {name: sources[name].config if name in sources else None for name in stored.components()}
    return dataclasses.replace(stored, **parts | {name: source.config for name, source in sources.items()})


def _read_modelscope(folder: Path, *, with_vision: bool) -> dict[str, Source]:
    """Reads the autoencoder and the CLIP towers of a ModelScope folder."""
    stored, prefix = _stored_config(folder), autoencoder_kl.PREFIX
    file = tensor_file(folder, "VQGAN_autoencoder")
    content = open_tensors(file)
    tensors = {name.removeprefix(prefix): tensor for name, tensor in content.items() if name.startswith(prefix)}
    tensors = tensors or content
    config = stored.autoencoder if stored else autoencoder_kl.autoencoder_config(tensors, path=file)
    left_out = len(content) - len(tensors)
    sources = {"autoencoder": Source(file, tensors, config, autoencoder_kl.autoencoder_rows(config), left_out)}

    file = tensor_file(folder, "open_clip_pytorch_model")
    content = open_tensors(file)
    text, vision = clip_towers.split_towers(content)
    config = stored.text_encoder if stored else clip_towers.text_encoder_config(text, path=file)
    left_out = len(content) - len(text) - (len(vision) if with_vision else 0)
    sources["text_encoder"] = Source(file, text, config, clip_towers.text_encoder_rows(config), left_out)
    if with_vision:
        config = clip_towers.vision_encoder_config(vision, path=file)
        config = stored.vision_encoder if stored and stored.vision_encoder else config
        sources["vision_encoder"] = Source(file, vision, config, clip_towers.vision_encoder_rows(config))
    return sources


def _read_smcd(folder: Path, *, head_width: int | None) -> dict[str, Source]:
    sources = {"unet": _read_unet(_numbered(folder, 0, needed=True), head_width)}
    unet = sources["unet"].config
    if file := _numbered(folder, 1, needed=unet.uses_objects):
        tensors = open_tensors(file)
        config = position_net_config(tensors, path=file)
        sources["position_net"] = Source(file, tensors, config, position_net_rows(config))
    if file := _numbered(folder, 2, needed=unet.uses_image_tokens):
        tensors = open_tensors(file)
        if detect.is_controlnet(tensors):
            config = detect.controlnet_config(tensors, path=file, head_width=unet.head_dim)
            sources["controlnet"] = Source(file, tensors, config, controlnet_rows(config))
        else:
            config = detect.image_encoder_config(tensors, path=file)
            sources["image_encoder"] = Source(file, tensors, config, image_encoder_rows(config))
    return sources


def _read_unet(file: Path, head_width: int | None) -> Source:
    tensors, stored = open_tensors(file), _stored_config(file.parent)
    head_width = head_width or _stated_head_width(file.parent) or detect.HEAD_WIDTH
    config = detect.unet_config(tensors, path=file, head_width=head_width)
    config = stored.unet if stored else config
    return Source(file, tensors, config, unet_rows(config))


def _read_diffusers(folder: Path, *, with_unet: bool, with_vision: bool) -> dict[str, Source]:
    if with_vision:
        message = f"{folder} is in diffusers' layout, which has no vision tower; omit --with_vision"
        raise SMCDError(message, argument="with_vision", path=folder)
    sources = {}
    if with_unet:
        path = folder / "unet" / "config.json"
        config = diffusers_unet.unet_config(_read_json(path), path=path)
        file = tensor_file(folder / "unet", "diffusion_pytorch_model")
        sources["unet"] = Source(file, open_tensors(file), config, diffusers_unet.unet_rows(config))
    config = autoencoder_kl.diffusers_config(_read_json(folder / "vae" / "config.json"))
    file = tensor_file(folder / "vae", "diffusion_pytorch_model")
    tensors = autoencoder_kl.diffusers_tensors(open_tensors(file))
    sources["autoencoder"] = Source(file, tensors, config, autoencoder_kl.diffusers_rows(config))
    file = tensor_file(folder / "text_encoder", "pytorch_model", "model")
    tensors = clip_towers.openclip_names(open_tensors(file), path=file)
    config = clip_towers.text_encoder_config(tensors, path=file, skip_last=0)
    heads = _read_json(folder / "text_encoder" / "config.json")["num_attention_heads"]
    config = dataclasses.replace(config, heads=heads)
    sources["text_encoder"] = Source(file, tensors, config, clip_towers.text_encoder_rows(config))
    return sources


def _numbered(folder: Path, number: int, *, needed: bool) -> Path | None:
    suffix = f"_{number}" if number else ""
    stems = (f"pytorch_model{suffix}", f"model{suffix}")
    return tensor_file(folder, *stems) if needed else find_tensor_file(folder, *stems)


def _checked_folder(folder: Path, flag: str) -> Path:
    """Returns the folder, or its snapshot within Hugging Face's cache."""
    if not folder.is_dir():
        raise SMCDError(f"--{flag}: {folder} is not a folder", argument=flag, path=folder)
    return snapshot_folder(folder)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SMCDError(f"{path} cannot be read ({error}); download it again", path=path) from error


def _stated_head_width(folder: Path) -> int | None:
    """Returns the channels per attention head, from ``configuration.json``."""
    if not (folder / CONFIGURATION).is_file():
        return None
    return _read_json(folder / CONFIGURATION).get("model", {}).get("model_cfg", {}).get("unet_head_dim")


def _stored_config(folder: Path) -> ModelConfig | None:
    """Returns the config that an export wrote into ``configuration.json``."""
    path = folder / CONFIGURATION
    stored = _read_json(path).get(CONFIG_KEY) if path.is_file() else None
    return from_dict(ModelConfig, stored, path=path) if stored else None
