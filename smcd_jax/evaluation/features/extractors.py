"""Pluggable readers of features: pictures, texts or videos in, one float64 vector each out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Float64, UInt8
from PIL import Image

from smcd_jax.errors import SMCDError
from smcd_jax.evaluation.metrics.fvd_preprocess import FVD_RESIZE, fvd_frames, held
from smcd_jax.evaluation.metrics.metric_rows import Described
from smcd_jax.nn.config import DINOConfig, TextEncoderConfig, VisionEncoderConfig
from smcd_jax.nn.networks import Params, network
from smcd_jax.tokenizer import Tokenizer

CLIP_MEAN, CLIP_DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SIZES = {384: "s", 768: "b", 1024: "l", 1280: "h"}  # letter of a vision transformer, by its width

FrameFeatures = Float64[np.ndarray, "n d"]


class Extractor(Described, Protocol):
    """Reads pictures."""

    def features(self, frames: UInt8[np.ndarray, "n h w 3"]) -> FrameFeatures:
        """One vector a picture, not normalised, the same whatever else is in the batch."""
        ...


class TextExtractor(Extractor, Protocol):
    """Reads pictures and texts into one space."""

    def texts(self, texts: Sequence[str]) -> FrameFeatures:
        """One vector a text, not normalised."""
        ...


class VideoExtractor(Described, Protocol):
    """Reads whole videos."""

    def features(self, videos: UInt8[np.ndarray, "n t h w 3"]) -> FrameFeatures:
        """One vector a video, the same whatever else is in the batch."""
        ...


class CLIPExtractor:
    """The two towers of a CLIP, in float32."""

    def __init__(
        self,
        text: tuple[TextEncoderConfig, Params],
        vision: tuple[VisionEncoderConfig, Params],
        *,
        family: str,
        source: str,
        weights_sha256: str,
    ):
        """Takes both towers.

        Args:
            text: config and parameters of the text tower, with its projection.
            vision: config and parameters of the vision tower.
            family: "openclip" or "openai", for the name.
            source: file or folder of the weights, for people.
            weights_sha256: of that file.

        Raises:
            SMCDError: the towers do not end in one space.
        """
        if not text[0].embed_width or text[0].embed_width != vision[0].embed_width:
            raise SMCDError(
                f"CLIP of {source}: texts end in {text[0].embed_width} numbers and pictures in "
                f"{vision[0].embed_width}; give two towers of one CLIP, with the text projection"
            )
        size = transformer_size(vision[0])
        self.name = f"{family}-{size}"
        self.implementation = f"CLIP {size} of {family} in Flax, float32, {text[0].activation}, weights {source}"
        self.weights_sha256 = weights_sha256
        self.frame_rule = picture_rule(vision[0].picture_size)
        self._side, self._length = vision[0].picture_size, text[0].length
        self._tokenizer = Tokenizer.published()
        self._pictures = one_by_one(network(vision[0]), vision[1])
        self._texts = one_by_one(network(text[0]), text[1], method="pooled")

    def features(self, frames: UInt8[np.ndarray, "n h w 3"]) -> FrameFeatures:
        """See `Extractor.features`."""
        check_frames(frames, self.name)
        prepare = lambda frame: picture_input(frame, self._side, CLIP_MEAN, CLIP_DEVIATION)  # noqa: E731
        return self._pictures(map(prepare, frames))

    def texts(self, texts: Sequence[str]) -> FrameFeatures:
        """See `TextExtractor.texts`; a text beyond 77 tokens loses its end."""
        return self._texts(self._tokenizer.encode(texts, length=self._length))


class DINOExtractor:
    """A vision transformer of DINO, in float32."""

    def __init__(self, config: DINOConfig, params: Params, *, source: str, weights_sha256: str):
        """Takes the network; ``source`` names the file of the weights for people, the hash is that file's."""
        size = transformer_size(config)
        self.name = f"dino-{size}"
        self.implementation = f"DINO {size} in Flax, float32, class token, weights {source}"
        self.weights_sha256 = weights_sha256
        self.frame_rule = picture_rule(config.picture_size)
        self._side = config.picture_size
        self._pictures = one_by_one(network(config), params)

    def features(self, frames: UInt8[np.ndarray, "n h w 3"]) -> FrameFeatures:
        """See `Extractor.features`."""
        check_frames(frames, self.name)
        prepare = lambda frame: picture_input(frame, self._side, IMAGENET_MEAN, IMAGENET_DEVIATION)  # noqa: E731
        return self._pictures(map(prepare, frames))


class I3DExtractor:
    """I3D's logits of Kinetics classes, in float32."""

    name = "i3d"
    frame_rule = FVD_RESIZE

    def __init__(self, config: Any, params: Params, *, source: str, weights_sha256: str):
        """Takes the network; ``source`` names the file of the weights for people, the hash is that file's."""
        self.implementation = f"I3D in Flax, float32, logits of {config.classes} classes, weights {source}"
        self.weights_sha256 = weights_sha256
        self._videos = one_by_one(network(config), params)

    def features(self, videos: UInt8[np.ndarray, "n t h w 3"]) -> FrameFeatures:
        """See `VideoExtractor.features`; short videos hold their last frame (`fvd_preprocess.held`)."""
        return self._videos(fvd_frames(held(video)) for video in videos)


class TorchScriptI3D:
    """An I3D as a TorchScript file, run by torch on the CPU: for figures to set beside others of the same file."""

    name = "i3d-torchscript"
    frame_rule = FVD_RESIZE

    def __init__(self, path: Path, *, weights_sha256: str):
        """Opens the file, which torch's own interpreter runs.

        Raises:
            SMCDError: torch is not installed, or the file is not TorchScript.
        """
        try:
            import torch
        except ImportError as error:
            raise SMCDError(f"{path} needs PyTorch: pip install 'smcd_jax[convert]'") from error
        try:
            with warnings.catch_warnings():  # torch would rather have torch.export; published files are TorchScript
                warnings.simplefilter("ignore", DeprecationWarning)
                self._module = torch.jit.load(str(path), map_location="cpu").eval()
        except (RuntimeError, ValueError, OSError) as error:
            reason = str(error).strip().split("\n")[0][:160]
            raise SMCDError(f"{path} is not a TorchScript file ({reason}); download it again") from error
        self.implementation = f"I3D as TorchScript in torch {torch.__version__}, features, weights {path.name}"
        self.weights_sha256 = weights_sha256

    def features(self, videos: UInt8[np.ndarray, "n t h w 3"]) -> FrameFeatures:
        """See `VideoExtractor.features`. The file's own resizing stays off: frames come as to the Flax network."""
        import torch

        rows = []
        with torch.no_grad():
            for video in videos:
                ready = np.array(fvd_frames(held(video)).transpose(3, 0, 1, 2))
                row = self._module(torch.from_numpy(ready)[None], rescale=False, resize=False, return_features=True)
                rows.append(row.numpy()[0].astype(np.float64))
        return np.stack(rows)


def one_by_one(module: Any, params: Params, *, method: str = "__call__") -> Callable[[Any], FrameFeatures]:
    """A compiled network that reads its inputs one at a time.

    Kernels for other batch sizes add up in another order, so a feature would depend on what stood beside it in the
    batch, in its last digits. Alone, it is bit for bit its input's.
    """
    params = jax.device_put(params)
    apply = jax.jit(lambda params, one: module.apply({"params": params}, one[None], method=method)[0])

    def run(inputs: Any) -> FrameFeatures:
        rows = [apply(params, jnp.asarray(one)) for one in inputs]
        if not rows:
            raise SMCDError("features were asked of nothing; give at least one picture, text or video")
        return np.stack([np.asarray(row, np.float64) for row in rows])

    return run


def picture_input(
    frame: UInt8[np.ndarray, "h w 3"], side: int, mean: Sequence[float], deviation: Sequence[float]
) -> Float32[np.ndarray, "side side 3"]:
    """A picture as the vision transformers take it (`picture_rule`), normalised channel by channel."""
    height, width = frame.shape[:2]
    short = min(height, width)
    size = (width * side // short, height * side // short)
    image = Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)
    left, top = (round((length - side) / 2) for length in size)
    cropped = np.asarray(image.crop((left, top, left + side, top + side)), np.float32)
    return (cropped / np.float32(255) - np.asarray(mean, np.float32)) / np.asarray(deviation, np.float32)


def picture_rule(side: int) -> str:
    """How `picture_input` makes a frame, in words."""
    return f"every frame, shorter side to {side} (Pillow, bicubic, antialiased), centre crop"


def transformer_size(config: DINOConfig | VisionEncoderConfig) -> str:
    """The usual name of a vision transformer's size: "vit-b-32"."""
    return f"vit-{_SIZES.get(config.width, config.width)}-{config.patch}"


def check_frames(frames: np.ndarray, name: str) -> None:
    """Refuses what is not a sequence of 8-bit colour pictures.

    Raises:
        SMCDError: with the shape and dtype given.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise SMCDError(
            f"{name}: frames are {frames.dtype} of shape {tuple(frames.shape)}; give uint8 of [n, height, width, 3]"
        )
