"""Checks of a model folder of unknown origin: arrays, schedule, a pass through each network, a clip.

Statistics of weights tell trained arrays from random ones: initialisers draw from a normal, truncated normal or uniform
distribution of variance 1 / fan-in, and training makes the tails heavier and the variances differ from layer to layer.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.errors import SMCDError
from smcd_jax.model_folder import ModelFolder
from smcd_jax.nn.networks import abstract_params, flatten
from smcd_jax.pipeline.features import encode_features
from smcd_jax.pipeline.pipeline import VideoPipeline
from smcd_jax.pipeline.request import make_request
from smcd_jax.runtime.progress import Progress
from smcd_jax.sampling_options import SamplingOptions

OK, WARNING, BROKEN = "ok", "warning", "BROKEN"
TIMES = (0.3, 0.7)  # noise levels of the denoising check, as fractions of the schedule

_SAMPLE = 1 << 20  # number of values from which an array's distribution is estimated
_LARGE = 4096  # smallest number of values whose distribution is meaningful
# Kurtosis of the uniform, truncated normal (at 2 standard deviations) and normal distribution, with their tolerances.
_RANDOM_KURTOSIS = ((1.8, 0.04), (2.37, 0.06), (3.0, 0.1))
_RANDOM_SCALE = (0.9, 1.1)  # range of the standard deviation times sqrt(fan-in)
_MOST_RANDOM, _MOST_SCALE = 0.5, 30.0
_LEAST_PSNR, _MOST_ERROR = 15.0, 0.95  # limits: the autoencoder's PSNR in dB, errors relative to the target's variance
_PROMPT = "a rocket lifting off into the evening sky"


@dataclasses.dataclass(frozen=True)
class Finding:
    """Result of one check.

    Attributes:
        subject: Name of the check.
        state: "ok", "warning" or "BROKEN".
        detail: Details, as one line.
        values: Numbers of the check, as JSON values.
        seconds: Time it took.
    """

    subject: str
    state: str
    detail: str
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0


def verify(
    folder: ModelFolder, *, steps: int = 4, dtype: str | None = None, progress: Progress | None = None
) -> Iterator[Finding]:
    """Yields the findings about a model folder of any family, as soon as each is available.

    Args:
        folder: Model folder.
        steps: Denoising steps of the sampled clip.
        dtype: Compute dtype; by default that of the device.
        progress: Progress reporting.
    """
    broken = False
    for check in (_arrays(folder), _schedule(folder)):
        for finding in _timed(check):
            broken |= finding.state == BROKEN
            yield finding
    if broken:
        yield Finding("networks", WARNING, "not run: an array is broken")
        return
    yield from _timed(_networks(folder, steps=steps, dtype=dtype, progress=progress or Progress()))


def array_statistics(leaves: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Returns standard deviation, largest magnitude, scale and kurtosis of every array, by path.

    The scale is the standard deviation times sqrt(fan-in), 1 for a fresh layer; NaN for arrays without fan-in.
    """
    return {path: _statistics(leaf) for path, leaf in leaves.items()}


def looks_random(statistics: Mapping[str, float]) -> bool:
    """Returns whether a large kernel has the scale and the kurtosis of a common initialiser."""
    scale, kurtosis = statistics["scale"], statistics["kurtosis"]
    usual = any(abs(kurtosis - value) < tolerance for value, tolerance in _RANDOM_KURTOSIS)
    return usual and _RANDOM_SCALE[0] < scale < _RANDOM_SCALE[1]


def _timed(findings: Iterator[Finding]) -> Iterator[Finding]:
    start = time.perf_counter()
    try:
        for finding in findings:
            yield dataclasses.replace(finding, seconds=round(time.perf_counter() - start, 2))
            start = time.perf_counter()
    except SMCDError as error:
        seconds = round(time.perf_counter() - start, 2)
        yield Finding(error.argument or "model folder", BROKEN, str(error), seconds=seconds)


def _arrays(folder: ModelFolder) -> Iterator[Finding]:
    """Yields one finding per component; a component that cannot be read is broken, and the others are still read."""
    for name, config in folder.config.components().items():
        try:
            leaves = folder.leaves(name)
        except SMCDError as error:
            yield Finding(name, BROKEN, str(error), {"argument": error.argument})
            continue
        yield _component(name, leaves, flatten(abstract_params(config)))


def _component(name: str, leaves: Mapping[str, np.ndarray], expected: Mapping[str, Any]) -> Finding:
    statistics = array_statistics(leaves)
    kernels = {path: part for path, part in statistics.items() if np.isfinite(part["scale"])}
    large = {path: part for path, part in kernels.items() if leaves[path].size >= _LARGE and part["std"] > 0}
    random = [path for path, part in large.items() if looks_random(part)]
    problems = {
        "not finite": [path for path, part in statistics.items() if not np.isfinite(part["largest"])],
        "all zero": [path for path, part in kernels.items() if part["largest"] == 0],
        f"more than {_MOST_SCALE:g} times as large as usual": [
            path for path, part in kernels.items() if part["scale"] > _MOST_SCALE
        ],
    }
    scales = np.array([part["scale"] for part in large.values()]) if large else np.zeros(1)
    share = len(random) / max(1, len(large))
    low, middle, high = np.quantile(scales, (0.05, 0.5, 0.95))
    values = {
        "arrays": len(leaves),
        "expected": len(expected),
        "bytes": sum(leaf.nbytes for leaf in leaves.values()),
        "dtypes": sorted({str(leaf.dtype) for leaf in leaves.values()}),
        "norm": float(
            np.sqrt(sum((part["std"] ** 2 + part["mean"] ** 2) * part["count"] for part in statistics.values()))
        ),
        "scale_quantiles": [float(low), float(middle), float(high)],
        "random_share": share,
        **{kind: paths[:20] for kind, paths in problems.items() if paths},
    }
    detail = (
        f"{len(leaves)} arrays of {', '.join(values['dtypes'])}, names, shapes and checksums correct; scale of kernels "
        f"{low:.2f}, {middle:.2f}, {high:.2f} (5, 50, 95 %; 1 when fresh), {share:.0%} of them like random numbers"
    )
    for kind, paths in problems.items():
        if paths:
            detail += f"; {len(paths)} arrays {kind}, such as {paths[0]}"
    state = BROKEN if problems["not finite"] else WARNING if any(problems.values()) or share > _MOST_RANDOM else OK
    return Finding(name, state, detail, values)


def _statistics(leaf: np.ndarray) -> dict[str, float]:
    flat = leaf.reshape(-1)
    largest = max((_largest(flat[start : start + _SAMPLE]) for start in range(0, flat.size, _SAMPLE)), default=0.0)
    sample = flat[:: max(1, flat.size // _SAMPLE)].astype(np.float64)
    mean, std = (float(sample.mean()), float(sample.std())) if sample.size else (0.0, 0.0)
    kurtosis = float(np.mean(((sample - mean) / std) ** 4)) if np.isfinite(std) and std > 0 else 0.0
    fan_in = np.prod(leaf.shape[:-1]) if leaf.ndim >= 2 else np.nan
    return {
        "count": leaf.size,
        "mean": mean,
        "std": std,
        "largest": largest,
        "scale": std * float(np.sqrt(fan_in)),
        "kurtosis": kurtosis,
    }


def _largest(part: np.ndarray) -> float:
    """Returns the largest magnitude; infinity if a value is NaN or infinite."""
    values = np.abs(part.astype(np.float32))
    return float(values.max()) if np.isfinite(values).all() else float("inf")


def _schedule(folder: ModelFolder) -> Iterator[Finding]:
    """Checks that the noise schedule of the config falls and ends in noise."""
    from smcd_jax.models.registry import make_model

    schedule: NoiseSchedule = make_model(folder.config).schedule
    table = np.asarray(schedule.alphas_cumprod, np.float64)
    falling = bool(np.all(np.diff(table) < 0) and table[-1] >= 0 and table[0] < 1)
    values = {"timesteps": len(table), "first": float(table[0]), "last": float(table[-1])}
    values["prediction_type"] = schedule.prediction_type
    detail = f"{len(table)} timesteps from {table[0]:.5f} to {table[-1]:.5f}, predicts {schedule.prediction_type}"
    yield Finding("schedule", OK if falling and table[-1] < 0.1 else BROKEN, detail, values)


def _networks(folder: ModelFolder, *, steps: int, dtype: str | None, progress: Progress) -> Iterator[Finding]:
    """Yields findings from a pass through every network with fixed inputs, and from one clip."""
    pipe = VideoPipeline(folder, dtype=dtype, verify=False, keep_loaded=False)
    pipe.components.progress = progress
    model, example = pipe.model, Path(str(resources.files("smcd_jax"))) / "assets" / "examples" / "rocket"
    options = SamplingOptions(num_inference_steps=steps, seed=0)
    tracks = example / "tracks.json" if "tracks" in model.required else None
    given = {"image": example / "img.png", "prompt": _PROMPT, "tracks": tracks}
    request = make_request(model, **given, options=options)
    options = request.options
    plan = model.plan(request, pipe.tokenizer)
    features = encode_features(model, pipe.components, plan.raw, request.seeds)
    for step in model.feature_steps:
        if step.name in features and step.name not in plan.raw:
            yield _output(f"{step.component}: {step.name}", features[step.name])
    inputs = model.inputs(features)
    video = np.repeat(request.pictures[:, None], request.num_frames, axis=1)
    target = next((step for step in model.feature_steps if step.name == model.target), None)
    if target is None:  # a family without an autoencoder
        yield from _denoising(pipe, inputs, model.features({}, {"video": video}, jax.random.key(0))[model.target])
    else:
        latents = encode_features(model, pipe.components, {target.source: video}, request.seeds)[target.name]
        yield _output(f"{target.component}: {target.name} of a still video", latents)
        frames = pipe.decode(np.asarray(latents), inputs, chunk_size=options.decode_chunk_size, progress=progress)
        psnr = _psnr(frames, video)
        detail = f"the picture through the autoencoder and back: {psnr:.1f} dB"
        yield Finding(f"{target.component}: round trip", OK if psnr > _LEAST_PSNR else WARNING, detail, {"psnr": psnr})
        yield from _denoising(pipe, inputs, latents)
    video = pipe(**given, options=options, output_type="uint8", progress=progress).frames[0]
    yield _clip(video, request.pictures[0], steps)


def _output(subject: str, values: Any) -> Finding:
    values = np.asarray(values, np.float32)
    finite = bool(np.isfinite(values).all())
    mean, std = (float(values.mean()), float(values.std())) if finite else (float("nan"), float("nan"))
    constant = finite and std < 1e-6
    detail = f"{list(values.shape)}, mean {mean:.3f}, standard deviation {std:.3f}" if finite else "not finite"
    state = BROKEN if not finite else WARNING if constant else OK
    return Finding(subject, state, detail, {"shape": list(values.shape), "mean": mean, "std": std, "finite": finite})


def _denoising(pipe: VideoPipeline, inputs: Any, latents: jax.Array) -> Iterator[Finding]:
    """Checks how much better than a constant the network predicts the noise of a known video."""
    model, schedule = pipe.model, pipe.model.schedule
    names = model.in_stage("encode")
    encoded = pipe.components.program("verify encode", model.encode)(pipe.components.params_of(names), inputs)
    pipe.components.release(*names)
    names = model.in_stage("denoise")
    params = pipe.components.params_of(names)
    context = pipe.components.program("verify precompute", model.precompute)(params, encoded)
    clean = jnp.asarray(latents, jnp.float32)
    noise = jax.random.normal(jax.random.key(0), clean.shape, jnp.float32)
    for part in TIMES:
        t = jnp.full((len(clean),), int(part * len(schedule.alphas_cumprod)), jnp.int32)
        noisy = schedule.add_noise(clean, noise, t)
        program = pipe.components.program("verify denoise", model.denoise)
        out = np.asarray(program(params, noisy, t.astype(jnp.float32), context))
        wanted = {"epsilon": noise, "v_prediction": schedule.velocity(clean, noise, t), "sample": clean}
        wanted = np.asarray(wanted[schedule.prediction_type])
        finite = bool(np.isfinite(out).all())
        error = float(np.mean((out - wanted) ** 2) / np.var(wanted)) if finite else float("inf")
        detail = f"error {error:.3f} of the variance (below 1 for a trained model), output {out.std():.3f}"
        state = BROKEN if not finite else OK if error < _MOST_ERROR else WARNING
        subject = f"{' + '.join(names)}: timestep {int(t[0])}"
        yield Finding(subject, state, detail, {"error": error, "std": float(out.std()), "finite": finite})
    del params
    pipe.components.release(*names)


def _clip(video: np.ndarray, picture: np.ndarray, steps: int) -> Finding:
    first = _psnr(video[:1], picture[None])
    spread, moved = float(video.std()), float(np.abs(np.diff(video.astype(np.int16), axis=0)).mean())
    detail = (
        f"{len(video)} frames of {video.shape[2]} x {video.shape[1]} in {steps} steps; first frame {first:.1f} dB from "
        f"the picture, pixels vary by {spread:.1f}, from frame to frame by {moved:.2f}"
    )
    values = {"psnr_first": first, "std": spread, "change": moved, "steps": steps}
    return Finding("clip", WARNING if spread < 1 else OK, detail, values)


def _psnr(frames: np.ndarray, others: np.ndarray) -> float:
    error = np.mean((frames.astype(np.float64) - others) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))
