"""Golden cases of the complete flow autoencoder: a training step on frame pairs, and clips to motion and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smcd_jax.conversion.vgg19_table import vgg19_rows
from smcd_jax.models.lvmm.conversion.autoencoder_table import (
    background_predictor_rows,
    flow_predictor_rows,
    region_predictor_rows,
    renderer_rows,
)
from smcd_jax.models.lvmm.equivariance import Warp, warp_frames
from smcd_jax.models.lvmm.fourier import from_frequencies, to_frequencies
from smcd_jax.models.lvmm.reconstruction import reconstruct
from smcd_jax.nn.layers import ComputePolicy, on_frames
from smcd_jax.nn.networks import abstract_params, flatten, network
from smcd_jax.nn.vgg19 import VGG19Config
from smcd_jax.nn.warp import antialiased_downscale, resize_bilinear
from smcd_jax.weights.conversion_engine import to_torch
from smcd_jax.weights.conversion_table import Row, under
from tests.golden.case_lvmm_autoencoder import (
    WARPED_TOLERANCE,
    background_config,
    compare_statistics,
    flow_config,
    region_config,
    renderer_config,
)
from tests.golden.comparison import Comparison, Golden, channels_first, compare, params_of, picture, video
from tests.golden.formula_weights import formula_weights, i3d_rule

LOSS_TOLERANCE = 1e-5
PREDICTION_TOLERANCE = 1e-4  # for the complete network in training, where batch statistics accumulate rounding errors
# Relative to the norm of each gradient, plus relative to the global norm. Rounding flips signs in L1 and ReLU, so that
# even PyTorch's float32 gradients differ by 2e-3 from the stored ones, which were computed in float64.
GRADIENT_TOLERANCES = {"float64": (1e-5, 1e-9), "float32": (1e-2, 1e-5)}


def autoencoder_configs(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config of each component from the nested arguments of the reference."""
    shared = {name: given[name] for name in ("num_regions", "num_channels", "revert_axis_swap", "estimate_affine")}
    shared["align_corners"] = given.get("align_corners", True)
    generator = given["generator_params"]
    return {
        "region_predictor": region_config({**shared, **given["region_predictor_params"]}),
        "background_predictor": background_config({**shared, **given["bg_predictor_params"]}),
        "flow_predictor": flow_config(generator["pixelwise_flow_predictor_params"], **shared),
        "renderer": renderer_config(generator, **shared),
    }


def autoencoder_rows(configs: Mapping[str, Any]) -> list[Row]:
    """Returns the conversion table of all four networks, with paths under the names of the components."""
    return [
        *under("region_predictor", "region_predictor", region_predictor_rows(configs["region_predictor"])),
        *under("bg_predictor", "background_predictor", background_predictor_rows(configs["background_predictor"])),
        *under("generator.pixelwise_flow_predictor", "flow_predictor", flow_predictor_rows(configs["flow_predictor"])),
        *under("generator", "renderer", renderer_rows(configs["renderer"])),
    ]


def _loaded(golden: Golden, policy: ComputePolicy) -> tuple[dict[str, Any], list[Row], Any]:
    configs = autoencoder_configs(golden.config["flow_ae"])
    rows = autoencoder_rows(configs)
    abstract = {name: abstract_params(config) for name, config in configs.items()}
    params = params_of(rows, golden.weights(), abstract, golden.file)
    networks = {name: network(config, policy) for name, config in configs.items()}
    return networks, rows, jax.tree.map(lambda leaf: leaf.astype(policy.params), params)


def _vgg19(policy: ComputePolicy) -> tuple[Any, Any, dict[str, float]]:
    config = VGG19Config()
    rows = vgg19_rows(config)
    leaves = flatten(abstract_params(config))
    shapes = {row.torch.removeprefix("features."): row.layout.torch_shape(leaves[row.path].shape) for row in rows}
    tensors = {f"features.{name}": array for name, array in formula_weights("vgg19.features.", shapes, i3d_rule)}
    params = jax.tree.map(
        lambda leaf: leaf.astype(policy.params), params_of(rows, tensors, abstract_params(config), "VGG19")
    )
    return network(config, policy), params, {name: float(array.flat[0]) for name, array in tensors.items()}


def reconstruction_step(golden: Golden) -> Iterator[Comparison]:
    """Compares losses, gradients, running statistics and outputs of one step, in float32 and in float64."""
    yield from _step(golden, golden.policy, "float32")
    # Strict promotion, which tests set, has no common type of float64 and the networks' float32.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        double = dataclasses.replace(golden.policy, params=jnp.float64, compute=jnp.float64)
        yield from _step(golden, double, "float64")


def _step(golden: Golden, policy: ComputePolicy, dtype: str) -> Iterator[Comparison]:
    arrays, train = golden.arrays(), golden.config["train_params"]
    networks, rows, params = _loaded(golden, policy)
    vgg19, vgg19_params, first = _vgg19(policy)
    if dtype == "float32":
        stored = golden.config["vgg_first_values"]
        yield compare("VGG19's first values", [first[name] for name in stored], list(stored.values()), 1e-6)
    source, driving = (picture(arrays[f"in/{name}"]).astype(policy.params) for name in ("source", "driving"))
    warp = Warp(*(jnp.asarray(arrays[f"in/{name}"], policy.params) for name in ("theta", "control_params")))
    warp = warp._replace(weights=warp.weights[:, 0])

    @jax.jit
    def step(params: Any, vgg19_params: Any, source: jax.Array, driving: jax.Array, warp: Warp) -> Any:
        def total(params: Any) -> Any:
            features = lambda images: vgg19.apply({"params": vgg19_params}, images)  # noqa: E731
            found = reconstruct(
                networks, params, source, driving, warp, features=features, scales=tuple(train["scales"])
            )
            return sum(loss.mean() for loss in found.losses), found

        return jax.value_and_grad(total, has_aux=True)(params)

    (loss, found), gradient = step(params, vgg19_params, source, driving, warp)
    exact = f"{dtype}: "
    for name, value in found.losses._asdict().items():
        yield compare(exact + name, value.mean(), arrays[f"out64/loss_{name}"], LOSS_TOLERANCE)
    yield compare(exact + "loss", loss, arrays["out64/loss"], LOSS_TOLERANCE)
    got = to_torch(rows, flatten(gradient))
    yield _worst_gradient(got, arrays, dtype)
    if dtype == "float64":
        return
    yield compare(
        "prediction", channels_first(found.rendered.prediction), arrays["out/prediction"], PREDICTION_TOLERANCE
    )
    yield compare("flow", found.flow.grid, arrays["out/optical_flow"], PREDICTION_TOLERANCE)
    align = networks["flow_predictor"].config.align_corners
    warped = channels_first(warp_frames(warp, driving, align_corners=align))
    yield compare("warped frame", warped, arrays["out/transformed_frame"], WARPED_TOLERANCE)
    for scale in train["scales"]:
        small = channels_first(antialiased_downscale(driving, scale))
        yield compare(f"pyramid {scale}", small, arrays[f"out/pyramid_{scale}"])
    yield compare_statistics("running statistics", rows, found.statistics, arrays, "out/state/")


def _worst_gradient(got: Mapping[str, np.ndarray], arrays: Mapping[str, np.ndarray], dtype: str) -> Comparison:
    stored = [name for name in arrays if name.startswith("g/")]
    own, shared = GRADIENT_TOLERANCES[dtype]
    global_norm = np.sqrt(sum(float(np.square(arrays[name], dtype=np.float64).sum()) for name in stored))
    shares = {}
    for name in stored:
        want = np.asarray(arrays[name], np.float64)
        allowed = own * np.linalg.norm(want) + shared * global_norm
        shares[name] = float(np.linalg.norm(np.asarray(got[name.removeprefix("g/")], np.float64) - want) / allowed)
    worst = max(shares, key=shares.__getitem__)
    label = f"{dtype}: {len(shares)} gradients / allowed"
    return Comparison(label if shares[worst] <= 1 else f"{label} ({worst})", shares[worst], 1.0)


def pipeline(golden: Golden) -> Iterator[Comparison]:
    """Compares a clip's motion frequencies (the diffusion model's targets) and a clip rendered from stored ones."""
    arrays, given = golden.arrays(), golden.config
    networks, _, params = _loaded(golden, golden.policy)
    clip, coefficients = video(arrays["in/video"]), video(arrays["in/coefficients"])
    frames, latent, size = given["num_frames"], given["latent_size"], given["render_size"]

    @jax.jit
    def run(params: Any, clip: jax.Array, coefficients: jax.Array) -> Any:
        apply = lambda name, *args, **more: networks[name].apply({"params": params[name]}, *args, **more)  # noqa: E731
        flat = clip.reshape(-1, *clip.shape[2:])
        first = jnp.repeat(clip[:, 0], clip.shape[1], axis=0)
        regions = [apply("region_predictor", images) for images in (first, flat)]
        flow = apply("flow_predictor", first, *regions, apply("background_predictor", first, flat))
        motion = jnp.concatenate([flow.grid, 2 * flow.occlusion - 1], axis=-1)
        small = resize_bilinear(motion, latent, latent)
        target = to_frequencies(small.reshape(*clip.shape[:2], *small.shape[1:]), given["k_frequency"])
        sampled = from_frequencies(coefficients, frames)
        sampled = on_frames(lambda x: resize_bilinear(x, size, size), sampled)
        drawn = sampled.reshape(-1, *sampled.shape[2:])
        again = apply("renderer", first, drawn[..., :2], (drawn[..., 2:] + 1) / 2)
        return (
            apply("renderer", first, *flow),
            flow,
            target,
            sampled,
            again,
            apply("renderer", clip[:, 0], method="levels"),
        )

    rendered, flow, target, sampled, again, levels = run(params, clip, coefficients)
    clips = lambda x: np.asarray(x).reshape(*clip.shape[:2], *x.shape[1:])  # noqa: E731
    yield compare("target", channels_first(target), arrays["out/target"])
    yield compare("features", channels_first(levels[-1]), arrays["out/features"])
    yield compare("grid", channels_first(clips(flow.grid)), arrays["out/grid"], WARPED_TOLERANCE)
    yield compare("occlusion", channels_first(clips(flow.occlusion)), arrays["out/occlusion"], WARPED_TOLERANCE)
    yield compare("sampled grid", channels_first(sampled[..., :2]), arrays["out/sample_grid"])
    yield compare("sampled occlusion", channels_first((sampled[..., 2:] + 1) / 2), arrays["out/sample_occlusion"])
    for name, value in (
        ("reconstruction", rendered.prediction),
        ("warped", rendered.deformed),
        ("sample", again.prediction),
        ("sample_warped", again.deformed),
    ):
        yield compare(name, channels_first(clips(value)), arrays[f"out/{name}"], WARPED_TOLERANCE)


RUNNERS = {"lvmm_reconstruction_step": reconstruction_step, "lvmm_pipeline": pipeline}
