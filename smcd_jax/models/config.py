"""Sizes of every network as frozen dataclasses, and the presets ``smcd`` (published) and ``tiny``."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from smcd_jax.errors import SMCDError

Gate = Literal["none", "object", "object_image", "parallel", "double", "merge"]
Activation = Literal["gelu", "quick_gelu"]  # of CLIP's towers: the exact form in OpenCLIP's ViT-H/14, quick in OpenAI's
# For fields that came after the first model folders: written only where they differ, so that what was made before and
# what is made now from the same arrays stay one to whoever compares configs (feature caches know encoders by them).
_UNLESS_DEFAULT: Mapping[str, bool] = {"unless_default": True}


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """The denoising 3D UNet. Defaults are the published size without gates (ModelScope text-to-video)."""

    latent_channels: int = 4  # of the video itself, in and out
    width: int = 320
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    residual_blocks: int = 2  # a level
    attention_scales: tuple[float, ...] = (1.0, 0.5, 0.25)
    head_width: int = 64
    stem_heads: int = 8  # of the temporal transformer in the first block, whose inner width is stem_heads * head_width
    text_width: int = 1024
    object_width: int = 1024  # of a box token
    image_width: int = 1024  # of an image token
    gate: Gate = "none"
    image_latent: bool = False  # the first frame's latent joins the input on channels (zero convolution, ZC)
    fps_embedding: bool = False
    control: bool = False  # ControlNet features join the skips
    dropout: float = 0.1
    # of every GroupNorm; a width near 32 needs fewer, since a group of one channel loses its mean, a picture's colour
    groups: int = dataclasses.field(default=32, metadata=_UNLESS_DEFAULT)

    @property
    def input_channels(self) -> int:
        """Channels of the first convolution: the video's, and the first frame's where it is concatenated."""
        return self.latent_channels * (2 if self.image_latent else 1)

    @property
    def uses_objects(self) -> bool:
        """Whether box tokens enter the network."""
        return self.gate != "none"

    @property
    def uses_image_tokens(self) -> bool:
        """Whether image tokens enter the network through the gates."""
        return self.gate in ("object_image", "parallel", "double", "merge")


@dataclasses.dataclass(frozen=True)
class ControlNetConfig:
    """The ControlNet branch: a copy of the UNet's encoder; ``unet`` says of which."""

    unet: UNetConfig = UNetConfig()


@dataclasses.dataclass(frozen=True)
class PositionNetConfig:
    """Box tokens from label embeddings and boxes."""

    label_width: int = 1024
    token_width: int = 1024
    hidden_width: int = 512
    frequencies: int = 8
    temperature: float = 100.0


@dataclasses.dataclass(frozen=True)
class ImageEncoderConfig:
    """Image tokens from the first frame's latent; spatial size falls by 2 at every stage but the first."""

    latent_channels: int = 4
    stages: tuple[int, ...] = (256, 512, 1024, 1024)
    residual_blocks: int = 3  # a stage

    @property
    def downscale(self) -> int:
        """Latent pixels per token, along one side."""
        return 2 ** (len(self.stages) - 1)


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """The KL autoencoder of Stable Diffusion (f = 8)."""

    width: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    residual_blocks: int = 2
    latent_channels: int = 4
    picture_channels: int = 3
    scaling_factor: float = 0.18215
    groups: int = dataclasses.field(default=32, metadata=_UNLESS_DEFAULT)  # of every GroupNorm, as in the UNet

    @property
    def downscale(self) -> int:
        """Pixels per latent pixel, along one side."""
        return 2 ** (len(self.multipliers) - 1)


@dataclasses.dataclass(frozen=True)
class TextEncoderConfig:
    """The OpenCLIP text tower (ViT-H/14)."""

    vocabulary: int = 49408
    length: int = 77
    width: int = 1024
    heads: int = 16
    layers: int = 24
    embed_width: int = 1024  # of the joint text-image space; 0 where the weights come without the projection to it
    skip_last: int = 1  # layers left out of the conditioning: "penultimate"
    activation: Activation = dataclasses.field(default="gelu", metadata=_UNLESS_DEFAULT)


@dataclasses.dataclass(frozen=True)
class VisionEncoderConfig:
    """The OpenCLIP vision tower (ViT-H/14)."""

    picture_size: int = 224
    patch: int = 14
    width: int = 1280
    heads: int = 16
    layers: int = 32
    embed_width: int = 1024
    activation: Activation = dataclasses.field(default="gelu", metadata=_UNLESS_DEFAULT)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Everything a model folder needs besides arrays: one config per component, and its sampling defaults."""

    unet: UNetConfig = UNetConfig(gate="object_image", image_latent=True)
    position_net: PositionNetConfig | None = PositionNetConfig()
    image_encoder: ImageEncoderConfig | None = ImageEncoderConfig()
    controlnet: ControlNetConfig | None = None
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    text_encoder: TextEncoderConfig = TextEncoderConfig()
    vision_encoder: VisionEncoderConfig | None = None
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    frames: int = 8
    height: int = 256  # pixels
    width: int = 256  # pixels
    max_objects: int = 8  # boxes per frame; fewer are filled with the null token, as in training
    fps: int = 8  # of the videos written

    def components(self) -> dict[str, Any]:
        """Config of each component that is present, by its name in the model folder."""
        named = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in named.items() if dataclasses.is_dataclass(value)}

    @property
    def size_multiple(self) -> int:
        """Height and width in pixels must be multiples of this."""
        levels = 2 ** (len(self.unet.multipliers) - 1)
        tokens = self.image_encoder.downscale if self.image_encoder else 1
        return self.autoencoder.downscale * max(levels, tokens)


SMCD = ModelConfig()

TINY = ModelConfig(
    unet=UNetConfig(
        width=32,
        multipliers=(1, 2),
        residual_blocks=1,
        attention_scales=(1.0, 0.5),
        head_width=16,
        stem_heads=2,
        text_width=64,
        object_width=64,
        image_width=64,
        gate="object_image",
        image_latent=True,
        groups=8,
    ),
    position_net=PositionNetConfig(label_width=64, token_width=64, hidden_width=64),
    image_encoder=ImageEncoderConfig(stages=(32, 64), residual_blocks=1),
    autoencoder=AutoencoderConfig(width=32, multipliers=(1, 2, 2), residual_blocks=1, groups=8, scaling_factor=0.64),
    text_encoder=TextEncoderConfig(width=64, heads=2, layers=3, embed_width=64),
    prediction_type="v_prediction",
    height=32,
    width=32,
    max_objects=4,
)

PRESETS: Mapping[str, ModelConfig] = {"smcd": SMCD, "tiny": TINY}


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain JSON values (tuples become lists)."""
    return {
        field.name: to_dict(value)
        if dataclasses.is_dataclass(value)
        else list(value)
        if isinstance(value, tuple)
        else value
        for field in dataclasses.fields(config)
        for value in [getattr(config, field.name)]
        if value != field.default or not field.metadata.get("unless_default")
    }


def from_dict(cls: type, values: Mapping[str, Any], *, where: str = "config") -> Any:
    """A config dataclass from plain JSON values, the inverse of `to_dict`.

    Raises:
        SMCDError: an unknown key, or a value of another type; ``where`` says in which file.
    """
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise SMCDError(f"{where}: unknown key {unknown[0]!r} of {cls.__name__}; known are {', '.join(sorted(hints))}")
    return cls(**{key: _from_value(hints[key], value, f"{where}: {key}") for key, value in values.items()})


def _from_value(hint: Any, value: Any, where: str) -> Any:
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        hint = next(option for option in typing.get_args(hint) if option is not type(None))
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise SMCDError(f"{where} must be an object, not {value!r}")
        return from_dict(hint, value, where=where)
    origin = typing.get_origin(hint)
    if origin is tuple:
        item = typing.get_args(hint)[0]
        if not isinstance(value, list | tuple):
            raise SMCDError(f"{where} must be a list, not {value!r}")
        return tuple(_from_value(item, entry, where) for entry in value)
    if origin is Literal:
        if value not in typing.get_args(hint):
            raise SMCDError(f"{where} must be one of {', '.join(map(repr, typing.get_args(hint)))}, not {value!r}")
        return value
    accepted = (int, float) if hint is float else hint
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise SMCDError(f"{where} must be {hint.__name__}, not {value!r}")
    return hint(value)


@dataclasses.dataclass(frozen=True)
class DINOConfig:
    """A vision transformer trained by DINO, whose features first-frame fidelity reads. Defaults are ViT-S/16."""

    picture_size: int = 224
    patch: int = 16
    width: int = 384
    heads: int = 6
    layers: int = 12
