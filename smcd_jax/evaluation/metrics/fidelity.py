"""How faithful a video is: its frames to the picture given (FFF), and to the real clip (PSNR, SSIM, LPIPS)."""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, UInt8

from smcd_jax.errors import SMCDError
from smcd_jax.evaluation.metrics.clip_score import ClipFeatures, cosines
from smcd_jax.evaluation.metrics.metric_rows import Described, Measure, left_out, of_extractor

HIGHEST_PSNR = 100.0  # dB, of equal frames, whose PSNR is infinite
SSIM_WINDOW = 11  # pixels
EVERY_FRAME = "every frame with the real one of its number, at the size generated"

Frames = UInt8[np.ndarray, "f h w 3"]


def first_frame_fidelity(
    frames: ClipFeatures, pictures: Mapping[str, Float64[np.ndarray, " d"]], extractor: Described
) -> tuple[Measure, Measure]:
    """FFF: cosine of the picture given with the first frame generated, and with all frames.

    Args:
        frames: features of each clip's frames, by clip id.
        pictures: feature of the picture each clip was made from; clips without one are left out, and the note says so.
        extractor: that made the features.

    Returns:
        "fff-first-..." and "fff-all-...", each the mean over clips; -1..1.

    Raises:
        SMCDError: no clip has a picture, or a feature without direction.
    """
    similar = {clip: cosines(frames[clip], pictures[clip], clip) for clip in sorted(frames) if clip in pictures}
    note = left_out(set(frames) - set(similar), len(frames), "no picture")
    first, every = ({clip: float(of(values)) for clip, values in similar.items()} for of in (_first, np.mean))
    described = of_extractor(extractor)
    rule = described.pop("frame_rule").removeprefix("every frame, ")
    return (
        Measure.mean_of_clips(
            f"fff-first-{extractor.name}", first, note=note, frame_rule=f"frame 0, {rule}", **described
        ),
        Measure.mean_of_clips(
            f"fff-all-{extractor.name}", every, note=note, frame_rule=f"every frame, {rule}", **described
        ),
    )


def psnr(generated: Frames, real: Frames) -> float:
    """Peak signal-to-noise ratio in dB, mean over frames, each at most 100.

    Raises:
        SMCDError: the clips differ in shape, or scikit-image is not installed.
    """
    metrics = _scikit_image()
    _check_alike(generated, real, "PSNR")
    values = [
        HIGHEST_PSNR if np.array_equal(*pair) else metrics.peak_signal_noise_ratio(*pair, data_range=255)
        for pair in zip(real, generated, strict=True)
    ]
    return float(np.minimum(values, HIGHEST_PSNR).mean())


def ssim(generated: Frames, real: Frames) -> float:
    """Structural similarity (Wang et al. 2004: Gaussian window of sigma 1.5), mean over channels and frames; up to 1.

    Raises:
        SMCDError: the clips differ in shape or are smaller than the window, or scikit-image is not installed.
    """
    metrics = _scikit_image()
    _check_alike(generated, real, "SSIM")
    if min(real.shape[1:3]) < SSIM_WINDOW:
        raise SMCDError(f"SSIM: frames of {real.shape[2]} x {real.shape[1]} pixels; at least {SSIM_WINDOW} are needed")
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    return float(
        np.mean(
            [
                metrics.structural_similarity(*pair, channel_axis=-1, **options)
                for pair in zip(real, generated, strict=True)
            ]
        )
    )


def pixel_measure(
    kind: Literal["psnr", "ssim", "lpips"], per_clip: Mapping[str, float], *, lpips: LPIPS | None = None, note: str = ""
) -> Measure:
    """The mean over clips of `psnr`, `ssim` or `LPIPS.distance`; ``lpips`` is what computed the last."""
    if kind == "lpips":
        return Measure.mean_of_clips(lpips.name, per_clip, better="lower", note=note, **of_extractor(lpips))
    settings = {
        "psnr": f"dB, capped at {HIGHEST_PSNR:g}",
        "ssim": "Gaussian window of sigma 1.5, mean over channels",
    }
    version = importlib.metadata.version("scikit-image")
    implementation = f"scikit-image {version}, {settings[kind]}"
    return Measure.mean_of_clips(kind, per_clip, implementation=implementation, frame_rule=EVERY_FRAME, note=note)


class LPIPS:
    """Learned perceptual distance (Zhang et al. 2018) with AlexNet, by the ``lpips`` package on the CPU."""

    name = "lpips-alex"
    frame_rule = EVERY_FRAME

    def __init__(self, tensors: Mapping[str, np.ndarray], *, source: str, weights_sha256: str):
        """Loads the network; nothing is fetched, and the package brings the linear layers itself.

        Args:
            tensors: torchvision's AlexNet by PyTorch name.
            source: name of their file.
            weights_sha256: of that file.

        Raises:
            SMCDError: the package is not installed, or the tensors are not AlexNet's.
        """
        try:
            import lpips
            import torch
        except (ImportError, RuntimeError) as error:  # the latter where torchvision was built for another torch
            raise SMCDError(
                f"LPIPS needs the package lpips and a torchvision that fits torch ({error}): pip install lpips"
            ) from error
        with warnings.catch_warnings():  # the package calls torchvision by arguments that it has renamed
            warnings.simplefilter("ignore")
            model = lpips.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False).eval()
        # "slice3.6.weight" of the package is "features.6.weight" of torchvision
        wanted = {name: f"features.{name.split('.', 1)[1]}" for name in model.net.state_dict()}
        if absent := [theirs for theirs in wanted.values() if theirs not in tensors]:
            raise SMCDError(f"{source} is not torchvision's AlexNet: {absent[0]} is missing; download it again")
        state = {name: torch.from_numpy(tensors[theirs].copy()) for name, theirs in wanted.items()}
        try:
            model.net.load_state_dict(state)
        except RuntimeError as error:
            raise SMCDError(f"{source} is not torchvision's AlexNet: another shape; download it again") from error
        self._model = model
        version = importlib.metadata.version("lpips")
        self.implementation = f"lpips {version}, version 0.1, AlexNet in torch {torch.__version__}, weights {source}"
        self.weights_sha256 = weights_sha256

    def distance(self, generated: Frames, real: Frames) -> float:
        """Mean over frames; 0 for equal ones.

        Raises:
            SMCDError: the clips differ in shape.
        """
        import torch

        _check_alike(generated, real, "LPIPS")
        ready: Any = [torch.from_numpy(np.moveaxis(f, -1, 1) / np.float32(127.5) - 1) for f in (generated, real)]
        with torch.no_grad():
            each = [self._model(one[None], other[None]).item() for one, other in zip(*ready, strict=True)]
        return float(np.mean(each))


def _first(values: Float64[np.ndarray, " f"]) -> float:
    return values[0]


def _check_alike(generated: Frames, real: Frames, name: str) -> None:
    if generated.shape != real.shape or generated.dtype != np.uint8 or real.dtype != np.uint8:
        raise SMCDError(
            f"{name}: the generated clip is {generated.dtype} of shape {generated.shape}, the real one {real.dtype} of "
            f"{real.shape}; give both as uint8 [frames, height, width, 3] of one size"
        )


def _scikit_image() -> Any:
    try:
        import skimage.metrics
    except ImportError as error:
        raise SMCDError("PSNR and SSIM need scikit-image: pip install 'smcd_jax[eval]'") from error
    return skimage.metrics
