"""Which files of a folder hold which component: the published layout, and diffusers' of ModelScope text-to-video."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smcd_jax.conversion import component_tables, detect, diffusers_table, unet_table
from smcd_jax.errors import SMCDError
from smcd_jax.files.config_json import from_dict
from smcd_jax.models.smcd.config import ModelConfig
from smcd_jax.weights.conversion_table import Row
from smcd_jax.weights.tensor_files import LazyTensor, open_tensors

Tensors = Mapping[str, LazyTensor]
AUTOENCODER_PREFIX = "first_stage_model."
CONFIGURATION = "configuration.json"
OURS = "smcd_jax"  # key under which `--to_torch` keeps the configs that names and shapes do not tell

# file stems of a ModelScope folder
MODELSCOPE = {
    "unet": "text2video_pytorch_model",
    "autoencoder": "VQGAN_autoencoder",
    "text_encoder": "open_clip_pytorch_model",
}


@dataclasses.dataclass(frozen=True)
class Source:
    """One component as found: its file, its tensors, its config and its table.

    Attributes:
        left_out: how many tensors of the file belong to no component by design (training leftovers, another tower).
    """

    file: Path
    tensors: Tensors
    config: Any
    rows: list[Row]
    left_out: int = 0


def find_sources(
    modelscope: Path | None, smcd: Path | None, *, with_vision: bool = False, head_width: int | None = None
) -> dict[str, Source]:
    """The components of a model, by name in the model folder.

    The UNet comes from the SMCD folder where there is one: fine-tuning starts from ModelScope's and replaces it whole.

    Args:
        modelscope: folder of the base model, in its own layout or in diffusers'.
        smcd: folder of SMCD's own networks.
        with_vision: also the vision tower of OpenCLIP, which evaluation uses.
        head_width: width of an attention head, where ``configuration.json`` does not tell and it is not 64.

    Raises:
        SMCDError: a file is missing, damaged, or of another family.
    """
    sources: dict[str, Source] = {}
    if modelscope is not None:
        _need_folder(modelscope, "--modelscope")
        reader = _diffusers if (modelscope / "unet").is_dir() else _modelscope
        sources |= reader(modelscope, with_unet=smcd is None, with_vision=with_vision, head_width=head_width)
    if smcd is not None:
        _need_folder(smcd, "--smcd")
        sources |= _smcd(smcd, head_width=head_width)
    if not sources:
        raise SMCDError("nothing to convert: give --modelscope, --smcd or both")
    return sources


def model_config(sources: Mapping[str, Source], folders: list[Path]) -> ModelConfig:
    """The whole model's config; a component that was not found is None.

    Raises:
        SMCDError: what sampling needs is missing.
    """
    known = next((kept for folder in folders if (kept := _kept_config(folder))), ModelConfig())
    for name in ("unet", "autoencoder", "text_encoder"):
        if name not in sources:
            hint = "--smcd FOLDER (pytorch_model.bin)" if name == "unet" else "--modelscope FOLDER"
            raise SMCDError(f"no {name} found; give {hint} as well")
    unet = sources["unet"].config
    if unet.uses_objects and "position_net" not in sources:
        raise SMCDError("the UNet has object gates but there is no position net; pytorch_model_1.bin is missing")
    if unet.uses_image_tokens and "image_encoder" not in sources:
        raise SMCDError("the UNet has image gates but there is no image encoder; pytorch_model_2.bin is missing")
    parts = {name: sources[name].config if name in sources else None for name in known.components()}
    parts |= {name: source.config for name, source in sources.items()}
    return dataclasses.replace(known, **parts)


def _modelscope(folder: Path, *, with_unet: bool, with_vision: bool, head_width: int | None) -> dict[str, Source]:
    kept, sources = _kept_config(folder), {}
    if with_unet:
        file = _file(folder, MODELSCOPE["unet"])
        sources["unet"] = _unet(file, head_width or _described_head_width(folder), kept)
    file = _file(folder, MODELSCOPE["autoencoder"])
    every = open_tensors(file)
    # the published file is of a whole latent diffusion model; only the first stage is the autoencoder
    ours = {
        n.removeprefix(AUTOENCODER_PREFIX): t for n, t in every.items() if n.startswith(AUTOENCODER_PREFIX)
    } or every
    config = kept.autoencoder if kept else detect.autoencoder_config(ours, where=str(file))
    rows = component_tables.autoencoder_rows(config)
    sources["autoencoder"] = Source(file, ours, config, rows, left_out=len(every) - len(ours))
    file = _file(folder, MODELSCOPE["text_encoder"])
    return sources | _openclip(file, open_tensors(file), with_vision=with_vision, kept=kept)


def _openclip(file: Path, tensors: Tensors, *, with_vision: bool, kept: ModelConfig | None) -> dict[str, Source]:
    vision = {name: tensor for name, tensor in tensors.items() if name.startswith("visual.")}
    text = {name: tensor for name, tensor in tensors.items() if name not in vision and name != "attn_mask"}
    config = kept.text_encoder if kept else detect.text_encoder_config(text, where=str(file))
    rows = component_tables.text_encoder_rows(config)
    left_out = len(tensors) - len(text) - (len(vision) if with_vision else 0)
    sources = {"text_encoder": Source(file, text, config, rows, left_out)}
    if with_vision:
        config = detect.vision_encoder_config(vision, where=str(file))
        config = kept.vision_encoder if kept and kept.vision_encoder else config
        sources["vision_encoder"] = Source(file, vision, config, component_tables.vision_encoder_rows(config))
    return sources


def _smcd(folder: Path, *, head_width: int | None) -> dict[str, Source]:
    kept = _kept_config(folder)
    head_width = head_width or _described_head_width(folder)
    sources = {"unet": _unet(_numbered(folder, 0), head_width, kept)}
    if file := _numbered(folder, 1, needed=sources["unet"].config.uses_objects):
        tensors = open_tensors(file)
        config = detect.position_net_config(tensors, where=str(file))
        sources["position_net"] = Source(file, tensors, config, component_tables.position_net_rows(config))
    if file := _numbered(folder, 2, needed=sources["unet"].config.uses_image_tokens):
        tensors = open_tensors(file)
        if detect.is_controlnet(tensors):
            config = detect.controlnet_config(tensors, where=str(file), head_width=sources["unet"].config.head_dim)
            sources["controlnet"] = Source(file, tensors, config, unet_table.controlnet_rows(config))
        else:
            config = detect.image_encoder_config(tensors, where=str(file))
            sources["image_encoder"] = Source(file, tensors, config, component_tables.image_encoder_rows(config))
    return sources


def _unet(file: Path, head_width: int | None, kept: ModelConfig | None) -> Source:
    tensors = open_tensors(file)
    config = detect.unet_config(tensors, where=str(file), head_width=head_width or detect.HEAD_WIDTH)
    if kept is not None:
        config = kept.unet
    return Source(file, tensors, config, unet_table.unet_rows(config))


def _diffusers(folder: Path, *, with_unet: bool, with_vision: bool, head_width: int | None) -> dict[str, Source]:
    if with_vision:
        raise SMCDError(f"{folder} is in diffusers' layout, which has no vision tower; leave --with_vision out")
    sources = {}
    if with_unet:
        described = _json(folder / "unet" / "config.json")
        config = diffusers_table.unet_config(described, where=str(folder / "unet" / "config.json"))
        file = _file(folder / "unet", "diffusion_pytorch_model")
        sources["unet"] = Source(file, open_tensors(file), config, diffusers_table.unet_rows(config))
    config = diffusers_table.autoencoder_config(_json(folder / "vae" / "config.json"))
    file = _file(folder / "vae", "diffusion_pytorch_model")
    tensors = diffusers_table.autoencoder_tensors(open_tensors(file))
    sources["autoencoder"] = Source(file, tensors, config, diffusers_table.autoencoder_rows(config))
    file = _file(folder / "text_encoder", "pytorch_model", "model")
    described = _json(folder / "text_encoder" / "config.json")
    every = open_tensors(file)
    tensors = diffusers_table.openclip_names(every)
    config = detect.text_encoder_config(tensors, where=str(file), skip_last=0)
    config = dataclasses.replace(config, heads=described["num_attention_heads"])
    rows = component_tables.text_encoder_rows(config)
    sources["text_encoder"] = Source(file, tensors, config, rows)
    return sources


def _numbered(folder: Path, number: int, *, needed: bool = True) -> Path | None:
    suffix = f"_{number}" if number else ""
    stems = (f"pytorch_model{suffix}", f"model{suffix}")
    return _file(folder, *stems) if needed else _find(folder, *stems)


def _find(folder: Path, *stems: str) -> Path | None:
    names = [f"{stem}{suffix}" for stem in stems for suffix in (".safetensors", ".bin", ".pth")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _file(folder: Path, *stems: str) -> Path:
    if (found := _find(folder, *stems)) is None:
        raise SMCDError(
            f"{folder} has no {stems[0]}.bin, .pth or .safetensors; is it the right folder, and is it whole?"
        )
    return found


def _need_folder(folder: Path, flag: str) -> None:
    if not folder.is_dir():
        raise SMCDError(f"{flag}: no folder at {folder}")


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SMCDError(f"{path} cannot be read ({error}); download it again") from error


def _described_head_width(folder: Path) -> int | None:
    """The head width that ModelScope's ``configuration.json`` states."""
    if not (folder / CONFIGURATION).is_file():
        return None
    return _json(folder / CONFIGURATION).get("model", {}).get("model_cfg", {}).get("unet_head_dim")


def _kept_config(folder: Path) -> ModelConfig | None:
    """The config that our own export left in ``configuration.json``."""
    path = folder / CONFIGURATION
    kept = _json(path).get(OURS) if path.is_file() else None
    return from_dict(ModelConfig, kept, path=path) if kept else None
