"""Feature extractors: pictures, texts or videos in, one float64 vector per input out."""

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
from smcd_jax.evaluation.metrics.metric_rows import MetricSource
from smcd_jax.nn.config import DINOConfig, TextEncoderConfig, VisionEncoderConfig
from smcd_jax.nn.networks import Params, network
from smcd_jax.tokenizer import Tokenizer

CLIP_MEAN, CLIP_DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SIZES = {384: "s", 768: "b", 1024: "l", 1280: "h"}  # size letter of a vision transformer, by its width

FrameFeatures = Float64[np.ndarray, "n d"]


class Extractor(MetricSource, Protocol):
    """Interface of networks that map pictures to features."""

    def features(self, frames: UInt8[np.ndarray, "n h w 3"]) -> FrameFeatures:
        """Returns one vector per picture, not normalised, independent of the rest of the batch."""
        ...


class TextExtractor(Extractor, Protocol):
    """Interface of networks that map pictures and texts to the same space."""

    def texts(self, texts: Sequence[str]) -> FrameFeatures:
        """Returns one vector per text, not normalised."""
        ...


class VideoExtractor(MetricSource, Protocol):
    """Interface of networks that map whole videos to features."""

    def features(self, videos: UInt8[np.ndarray, "n t h w 3"]) -> FrameFeatures:
        """Returns one vector per video, independent of the rest of the batch."""
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
        """Compiles both towers.

        Args:
            text: Config and parameters of the text tower, with its projection.
            vision: Config and parameters of the vision tower.
            family: Family of the weights, "openclip" or "openai"; part of the name.
            source: Name of the weights' file or folder.
            weights_sha256: Hash of that file.

        Raises:
            SMCDError: The towers have different output widths.
        """
        if not text[0].embed_width or text[0].embed_width != vision[0].embed_width:
            raise SMCDError(
                f"{source}: both CLIP towers must have the same output width, got {text[0].embed_width} (text) and "
                f"{vision[0].embed_width} (vision); use two towers of one CLIP, with the text projection",
                argument="text",
                path=source,
                value=text[0].embed_width,
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
        """See `TextExtractor.texts`; texts are truncated to 77 tokens."""
        return self._texts(self._tokenizer.encode(texts, length=self._length))


class DINOExtractor:
    """A vision transformer of DINO, in float32."""

    def __init__(self, config: DINOConfig, params: Params, *, source: str, weights_sha256: str):
        """Compiles the network.

        Args:
            config: Config of the network.
            params: Parameters of the network.
            source: Name of the weights' file.
            weights_sha256: Hash of that file.
        """
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
        """Compiles the network.

        Args:
            config: Config of the network.
            params: Parameters of the network.
            source: Name of the weights' file.
            weights_sha256: Hash of that file.
        """
        self.implementation = f"I3D in Flax, float32, logits of {config.classes} classes, weights {source}"
        self.weights_sha256 = weights_sha256
        self._videos = one_by_one(network(config), params)

    def features(self, videos: UInt8[np.ndarray, "n t h w 3"]) -> FrameFeatures:
        """See `VideoExtractor.features`; the last frame of short videos is repeated (`fvd_preprocess.held`)."""
        return self._videos(fvd_frames(held(video)) for video in videos)


class TorchScriptI3D:
    """An I3D in a TorchScript file, run by torch on the CPU, for values comparable with published ones of that file."""

    name = "i3d-torchscript"
    frame_rule = FVD_RESIZE

    def __init__(self, path: Path, *, weights_sha256: str):
        """Loads the file.

        Args:
            path: TorchScript file.
            weights_sha256: Hash of the file.

        Raises:
            SMCDError: PyTorch is not installed, or the file is not TorchScript.
        """
        try:
            import torch
        except ImportError as error:
            raise SMCDError(f"{path}: reading it needs PyTorch; pip install 'smcd_jax[convert]'", path=path) from error
        try:
            with warnings.catch_warnings():  # published files are TorchScript, which torch deprecates
                warnings.simplefilter("ignore", DeprecationWarning)
                self._module = torch.jit.load(str(path), map_location="cpu").eval()
        except (RuntimeError, ValueError, OSError) as error:
            reason = str(error).strip().split("\n")[0][:160]
            raise SMCDError(f"{path}: not a TorchScript file ({reason}); download it again", path=path) from error
        self.implementation = f"I3D as TorchScript in torch {torch.__version__}, features, weights {path.name}"
        self.weights_sha256 = weights_sha256

    def features(self, videos: UInt8[np.ndarray, "n t h w 3"]) -> FrameFeatures:
        """See `VideoExtractor.features`. Frames are resized as for the Flax network, not by the file."""
        import torch

        rows = []
        with torch.no_grad():
            for video in videos:
                ready = np.array(fvd_frames(held(video)).transpose(3, 0, 1, 2))
                row = self._module(torch.from_numpy(ready)[None], rescale=False, resize=False, return_features=True)
                rows.append(row.numpy()[0].astype(np.float64))
        return np.stack(rows)


class AutoencoderRoundTrip:
    """Encoder and decoder of a model, which bound the quality of its videos."""

    def __init__(self, config: Any, params: Params, *, source: str, weights_sha256: str):
        """Compiles the autoencoder.

        Args:
            config: Config of the autoencoder.
            params: Parameters of the autoencoder.
            source: Name of the model.
            weights_sha256: Hash of the model.
        """
        module, self._params = network(config), jax.device_put(params)

        def round_trip(params: Any, frames: Any) -> Any:
            posterior = module.apply({"params": params}, frames, method="posterior")
            return module.apply({"params": params}, posterior.mean, method="decode_unscaled")

        self._apply = jax.jit(round_trip)
        self.implementation = f"autoencoder of {source}, float32"
        self.weights_sha256 = weights_sha256

    def reconstruct(self, frames: UInt8[np.ndarray, "n h w 3"]) -> UInt8[np.ndarray, "n h w 3"]:
        """Returns the frames after encoding and decoding."""
        decoded = np.asarray(self._apply(self._params, jnp.asarray(frames / 127.5 - 1, jnp.float32)))
        return np.clip(np.rint((decoded + 1) * 127.5), 0, 255).astype(np.uint8)


def one_by_one(module: Any, params: Params, *, method: str = "__call__") -> Callable[[Any], FrameFeatures]:
    """Compiles a network as a function that processes its inputs one at a time.

    Kernels for other batch sizes add in another order, so the last digits of a feature would depend on the batch size.
    With one input at a time, equal inputs give features that are equal bit for bit.
    """
    params = jax.device_put(params)
    apply = jax.jit(lambda params, one: module.apply({"params": params}, one[None], method=method)[0])

    def run(inputs: Any) -> FrameFeatures:
        rows = [apply(params, jnp.asarray(one)) for one in inputs]
        if not rows:
            raise SMCDError("inputs must have at least one picture, text or video, got 0", argument="inputs", value=0)
        return np.stack([np.asarray(row, np.float64) for row in rows])

    return run


def picture_input(
    frame: UInt8[np.ndarray, "h w 3"], side: int, mean: Sequence[float], deviation: Sequence[float]
) -> Float32[np.ndarray, "side side 3"]:
    """Returns the input of a vision transformer: a picture resized and cropped (`picture_rule`), then normalised."""
    height, width = frame.shape[:2]
    short = min(height, width)
    size = (width * side // short, height * side // short)
    image = Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)
    left, top = (round((length - side) / 2) for length in size)
    cropped = np.asarray(image.crop((left, top, left + side, top + side)), np.float32)
    return (cropped / np.float32(255) - np.asarray(mean, np.float32)) / np.asarray(deviation, np.float32)


def picture_rule(side: int) -> str:
    """Returns the description of the preprocessing in `picture_input`."""
    return f"every frame, shorter side to {side} (Pillow, bicubic, antialiased), centre crop"


def transformer_size(config: DINOConfig | VisionEncoderConfig) -> str:
    """Returns the usual name of a vision transformer's size, such as "vit-b-32"."""
    return f"vit-{_SIZES.get(config.width, config.width)}-{config.patch}"


def check_frames(frames: np.ndarray, name: str) -> None:
    """Checks that frames are uint8 RGB pictures.

    Raises:
        SMCDError: The frames have another dtype or shape, or their number is zero.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise SMCDError(
            f"{name}: frames must be uint8 of shape [n, height, width, 3], got {frames.dtype} of shape "
            f"{list(frames.shape)}",
            argument="frames",
            value=frames.shape,
        )
