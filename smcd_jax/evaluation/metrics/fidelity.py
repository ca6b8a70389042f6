"""Fidelity of a video: to the given picture (FFF), and to the real clip (PSNR, SSIM, LPIPS)."""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, UInt8

from smcd_jax.errors import SMCDError
from smcd_jax.evaluation.metrics.clip_score import ClipFeatures, cosines
from smcd_jax.evaluation.metrics.metric_rows import Metric, MetricSource, describe_omitted, source_fields

HIGHEST_PSNR = 100.0  # in dB; reported for equal frames, whose PSNR is infinite
SSIM_WINDOW = 11  # pixels
EVERY_FRAME = "every frame against the real frame of the same index, at the size generated"
FIRST_FRAME = "frame 0 against the real frame 0, at the size generated"

Frames = UInt8[np.ndarray, "f h w 3"]


def first_frame_fidelity(
    frames: ClipFeatures, pictures: Mapping[str, Float64[np.ndarray, " d"]], extractor: MetricSource
) -> tuple[Metric, Metric]:
    """Returns FFF, the cosine of the given picture with the first generated frame, and that with all frames.

    Args:
        frames: Features of each clip's frames, by clip id.
        pictures: Feature of the picture each clip was made from; clips without one are omitted and named in the note.
        extractor: Extractor that computed the features.

    Returns:
        "fff-first-..." and "fff-all-...", each the mean over clips; -1..1.

    Raises:
        SMCDError: No clip has a picture, or a feature has no direction (all zeros, NaN or infinite).
    """
    similar = {clip: cosines(frames[clip], pictures[clip], clip) for clip in sorted(frames) if clip in pictures}
    note = describe_omitted(set(frames) - set(similar), len(frames), "no picture")
    first = {clip: float(values[0]) for clip, values in similar.items()}
    every = {clip: float(np.mean(values)) for clip, values in similar.items()}
    source = source_fields(extractor)
    rule = source.pop("frame_rule").removeprefix("every frame, ")
    return (
        Metric.mean_of_clips(f"fff-first-{extractor.name}", first, note=note, frame_rule=f"frame 0, {rule}", **source),
        Metric.mean_of_clips(
            f"fff-all-{extractor.name}", every, note=note, frame_rule=f"every frame, {rule}", **source
        ),
    )


def psnr(generated: Frames, real: Frames) -> float:
    """Returns the peak signal-to-noise ratio in dB: the mean over frames, at most 100 per frame.

    Raises:
        SMCDError: The clips differ in shape, or scikit-image is not installed.
    """
    metrics = _scikit_image()
    _check_alike(generated, real, "PSNR")
    values = [
        HIGHEST_PSNR if np.array_equal(*pair) else metrics.peak_signal_noise_ratio(*pair, data_range=255)
        for pair in zip(real, generated, strict=True)
    ]
    return float(np.minimum(values, HIGHEST_PSNR).mean())


def ssim(generated: Frames, real: Frames) -> float:
    """Returns the structural similarity, averaged over channels and frames; at most 1.

    Source: Wang et al. 2004, with a Gaussian window of sigma 1.5.

    Raises:
        SMCDError: The clips differ in shape or are smaller than the window, or scikit-image is not installed.
    """
    metrics = _scikit_image()
    _check_alike(generated, real, "SSIM")
    if min(real.shape[1:3]) < SSIM_WINDOW:
        raise SMCDError(
            f"SSIM: frames must have at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels, got {real.shape[2]} x "
            f"{real.shape[1]}",
            argument="real",
            value=real.shape[1:3],
        )
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    return float(
        np.mean(
            [
                metrics.structural_similarity(*pair, channel_axis=-1, **options)
                for pair in zip(real, generated, strict=True)
            ]
        )
    )


def pixel_difference(first: Frames, second: Frames) -> float:
    """Returns the mean absolute difference of 8-bit values, 0..255.

    Raises:
        SMCDError: The clips differ in shape.
    """
    _check_alike(first, second, "pixel difference")
    return float(np.abs(first.astype(np.float32) - second).mean())


def pixel_metric(
    kind: Literal["psnr", "ssim", "lpips"],
    per_clip: Mapping[str, float],
    *,
    lpips: LPIPS | None = None,
    first_only: bool = False,
) -> Metric:
    """Returns the mean over clips of `psnr`, `ssim` or `LPIPS.distance`.

    Args:
        kind: Name of the metric.
        per_clip: Value of each clip.
        lpips: Network that computed the values of "lpips".
        first_only: Whether the values are of first frames only ("psnr-first").
    """
    if kind == "lpips":
        return Metric.mean_of_clips(lpips.name, per_clip, better="lower", **source_fields(lpips))
    settings = {
        "psnr": f"dB, capped at {HIGHEST_PSNR:g}",
        "ssim": "Gaussian window of sigma 1.5, mean over channels",
    }
    version = importlib.metadata.version("scikit-image")
    implementation = f"scikit-image {version}, {settings[kind]}"
    name, rule = (f"{kind}-first", FIRST_FRAME) if first_only else (kind, EVERY_FRAME)
    return Metric.mean_of_clips(name, per_clip, implementation=implementation, frame_rule=rule)


class LPIPS:
    """Learned perceptual distance (Zhang et al. 2018) with AlexNet, computed by the ``lpips`` package on the CPU."""

    name = "lpips-alex"
    frame_rule = EVERY_FRAME

    def __init__(self, tensors: Mapping[str, np.ndarray], *, source: str, weights_sha256: str):
        """Loads the network. Nothing is downloaded; the linear layers come with the package.

        Args:
            tensors: Tensors of torchvision's AlexNet by PyTorch name.
            source: Name of their file.
            weights_sha256: Hash of that file.

        Raises:
            SMCDError: The package is not installed, or the tensors are not those of AlexNet.
        """
        try:
            import lpips
            import torch
        except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision was built for another torch
            raise SMCDError(
                f"LPIPS needs the package lpips and a torchvision built for this torch ({error}); pip install lpips",
                argument="lpips",
            ) from error
        with warnings.catch_warnings():  # the package uses deprecated arguments of torchvision
            warnings.simplefilter("ignore")
            model = lpips.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False).eval()
        # "slice3.6.weight" of the package is "features.6.weight" of torchvision
        names = {name: f"features.{name.split('.', 1)[1]}" for name in model.net.state_dict()}
        if missing := [theirs for theirs in names.values() if theirs not in tensors]:
            raise SMCDError(
                f"{source}: not torchvision's AlexNet ({missing[0]} is missing); download it again",
                path=source,
                value=missing[0],
            )
        state = {name: torch.from_numpy(tensors[theirs].copy()) for name, theirs in names.items()}
        try:
            model.net.load_state_dict(state)
        except RuntimeError as error:
            raise SMCDError(
                f"{source}: not torchvision's AlexNet, a tensor has another shape; download it again", path=source
            ) from error
        self._model = model
        version = importlib.metadata.version("lpips")
        self.implementation = f"lpips {version}, version 0.1, AlexNet in torch {torch.__version__}, weights {source}"
        self.weights_sha256 = weights_sha256

    def distance(self, generated: Frames, real: Frames) -> float:
        """Returns the mean distance over frames; 0 for equal frames.

        Raises:
            SMCDError: The clips differ in shape.
        """
        import torch

        _check_alike(generated, real, "LPIPS")
        ready: Any = [torch.from_numpy(np.moveaxis(f, -1, 1) / np.float32(127.5) - 1) for f in (generated, real)]
        with torch.no_grad():
            each = [self._model(one[None], other[None]).item() for one, other in zip(*ready, strict=True)]
        return float(np.mean(each))


def _check_alike(generated: Frames, real: Frames, name: str) -> None:
    if generated.shape != real.shape or generated.dtype != np.uint8 or real.dtype != np.uint8:
        raise SMCDError(
            f"{name}: both clips must be uint8 of the same shape [frames, height, width, 3], got {generated.dtype} "
            f"{list(generated.shape)} and {real.dtype} {list(real.shape)}",
            argument="generated",
            value=generated.shape,
        )


def _scikit_image() -> Any:
    try:
        import skimage.metrics
    except ImportError as error:
        raise SMCDError(
            "PSNR and SSIM need scikit-image; pip install 'smcd_jax[eval]'", argument="scikit-image"
        ) from error
    return skimage.metrics
