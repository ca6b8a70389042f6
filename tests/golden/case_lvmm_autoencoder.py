"""Golden cases of LVMM's flow autoencoder: sampling, blocks, predictors, renderer and random warps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smcd_jax.models.lvmm.autoencoder_config import (
    BackgroundPredictorConfig,
    FlowPredictorConfig,
    RegionPredictorConfig,
    RendererConfig,
)
from smcd_jax.models.lvmm.blocks import Encoder, Hourglass, ResidualBlock
from smcd_jax.models.lvmm.conversion.autoencoder_table import (
    background_predictor_rows,
    flow_predictor_rows,
    hourglass_rows,
    region_predictor_rows,
    renderer_rows,
    residual_block_rows,
)
from smcd_jax.models.lvmm.equivariance import Warp, warp_frames, warp_jacobian, warp_points
from smcd_jax.models.lvmm.geometry import principal_axes
from smcd_jax.models.lvmm.predictors import Regions, gaussians
from smcd_jax.nn.batch_norm import STATISTICS
from smcd_jax.nn.networks import abstract_params, flatten, network
from smcd_jax.nn.warp import antialiased_downscale, gaussian_kernel, grid_sample, resize_bilinear
from smcd_jax.weights.conversion_engine import to_torch
from smcd_jax.weights.conversion_table import under
from tests.golden.comparison import Comparison, Golden, channels_first, compare, params_of, picture

jitted_sample = jax.jit(grid_sample, static_argnames=("padding", "align_corners"))
WARPED_TOLERANCE = 5e-5  # bilinear sampling amplifies coordinate rounding by the image size times the slope


def antialias(golden: Golden) -> Iterator[Comparison]:
    """Compares antialiased pictures and kernels at each scale."""
    arrays = golden.arrays()
    for scale in golden.config["scales"]:
        kernel = gaussian_kernel(scale)
        yield compare(f"kernel {scale}", np.outer(kernel, kernel), arrays[f"out/kernel_{scale}"])
        got = antialiased_downscale(picture(arrays["in/x"]), scale)
        yield compare(f"scale {scale}", channels_first(got), arrays[f"out/y_{scale}"])


def sampling(golden: Golden) -> Iterator[Comparison]:
    """Compares grid sampling, with both paddings and both alignments, and resizing."""
    arrays = golden.arrays()
    image, grid, small = picture(arrays["in/image"]), jnp.asarray(arrays["in/grid"]), picture(arrays["in/small"])
    for padding in ("zeros", "reflection"):
        for name, align in (("aligned", True), ("unaligned", False)):
            got = jitted_sample(image, grid, padding=padding, align_corners=align)
            yield compare(f"{padding} {name}", channels_first(got), arrays[f"out/{padding}_{name}"], WARPED_TOLERANCE)
    for name in ("resize_up", "resize_down"):
        want = arrays[f"out/{name}"]
        yield compare(name, channels_first(resize_bilinear(small, *want.shape[2:])), want)
    yield compare("nearest", channels_first(small.repeat(2, axis=1).repeat(2, axis=2)), arrays["out/nearest2"])


def hourglass(golden: Golden) -> Iterator[Comparison]:
    """Compares the hourglass in evaluation, with all encoder levels, and in training, with its running statistics."""
    arrays, given = golden.arrays(), golden.config
    config = RegionPredictorConfig(
        base_channels=given["block_expansion"], max_channels=given["max_features"], levels=given["num_blocks"]
    )
    rows, module, x = hourglass_rows(config), Hourglass(config, golden.policy), picture(arrays["in/x"])
    abstract = jax.eval_shape(lambda: module.init(jax.random.key(0), x)["params"])
    params = params_of(rows, golden.weights(), abstract, golden.file)
    encoder = Encoder(config, golden.policy)

    @jax.jit
    def run(params: Any, x: jax.Array) -> Any:
        trained = module.apply({"params": params}, x, train=True, mutable=[STATISTICS])
        return module.apply({"params": params}, x), encoder.apply({"params": params["encoder"]}, x), trained

    evaluated, levels, (got, changed) = run(params, x)
    yield compare("evaluation", channels_first(evaluated), arrays["out/y"])
    for index, level in enumerate(levels):
        yield compare(f"encoder {index}", channels_first(level), arrays[f"out/encoder_{index}"])
    yield compare("training", channels_first(got), arrays["out/y_train"])
    yield compare_statistics("", rows, changed[STATISTICS], arrays, "out/train_state/")


def compare_statistics(name: str, rows: Any, statistics: Any, arrays: Any, prefix: str) -> Comparison:
    """Compares running statistics by their largest error."""
    leaves = flatten(statistics)
    got = to_torch([row for row in rows if row.path in leaves], leaves)
    expected = {key.removeprefix(prefix): arrays[key] for key in arrays if key.startswith(prefix)}
    if set(got) != set(expected):
        return Comparison(f"{name} statistics: names differ", np.inf, 0.0)
    return max((compare(f"{name} {key}", got[key], expected[key]) for key in got), key=lambda item: item.error)


def residual_block(golden: Golden) -> Iterator[Comparison]:
    """Compares the pre-activation residual block."""
    arrays, module = golden.arrays(), ResidualBlock(golden.policy)
    x = picture(arrays["in/x"])
    abstract = jax.eval_shape(lambda: module.init(jax.random.key(0), x)["params"])
    params = params_of(residual_block_rows(), golden.weights(), abstract, golden.file)
    yield compare("block", channels_first(jax.jit(module.apply)({"params": params}, x)), arrays["out/y"])


def singular_vectors(golden: Golden) -> Iterator[Comparison]:
    """Compares signed singular vectors and singular values; exactly diagonal matrices are compared separately."""
    arrays = golden.arrays()
    covariance = arrays["in/covar"]
    axes, variances = map(np.asarray, jax.jit(principal_axes)(covariance))
    diagonal = covariance[:, 0, 1] == 0
    yield compare("values", variances, arrays["out/s"])
    yield compare("vectors", axes[~diagonal], arrays["out/u"][~diagonal])
    if diagonal.any():
        yield compare("vectors of diagonal matrices", axes[diagonal], arrays["out/u"][diagonal])


def region_config(given: Mapping[str, Any]) -> RegionPredictorConfig:
    """Returns our config, given the reference's arguments."""
    return RegionPredictorConfig(
        regions=given["num_regions"],
        channels=given["num_channels"],
        base_channels=given["block_expansion"],
        max_channels=given["max_features"],
        levels=given["num_blocks"],
        temperature=given["temperature"],
        scale=given.get("scale_factor", 1),
        padding=given.get("pad", 3),
        affine=("pca" if given["pca_based"] else "jacobian") if given["estimate_affine"] else "none",
    )


def region_predictor(golden: Golden) -> Iterator[Comparison]:
    """Compares the moments and heat maps of regions."""
    arrays, config = golden.arrays(), region_config(golden.config)
    params = params_of(region_predictor_rows(config), golden.weights(), abstract_params(config), golden.file)
    got: Regions = jax.jit(network(config, golden.policy).apply)({"params": params}, picture(arrays["in/x"]))
    yield compare("shift", got.shift, arrays["out/shift"])
    yield compare("heat maps", channels_first(got.heatmap), arrays["out/heatmap"])
    if "out/down" in arrays:
        small = antialiased_downscale(picture(arrays["in/x"]), config.scale)
        yield compare("small picture", channels_first(small), arrays["out/down"])
    if config.affine != "none":
        yield compare("covariance", got.covariance, arrays["out/covar"])
        yield compare("affine", got.affine, arrays["out/affine"])
    if config.affine == "pca":
        axes, variances = map(np.asarray, jax.jit(principal_axes)(got.covariance))
        yield compare("axes", axes.reshape(-1, 2, 2), arrays["out/u"])
        deviations = np.sqrt(variances)[..., None] * np.eye(2)
        yield compare("deviations", deviations.reshape(-1, 2, 2), arrays["out/d"])


def background_config(given: Mapping[str, Any]) -> BackgroundPredictorConfig:
    """Returns our config, given the reference's arguments."""
    return BackgroundPredictorConfig(
        channels=given["num_channels"],
        base_channels=given["block_expansion"],
        max_channels=given["max_features"],
        levels=given["num_blocks"],
        motion=given["bg_type"],
    )


def background_predictor(golden: Golden) -> Iterator[Comparison]:
    """Compares the background matrix; the variant "zero" has no network."""
    arrays = golden.arrays()
    if golden.config["bg_type"] == "zero":
        return
    config = background_config(golden.config)
    params = params_of(background_predictor_rows(config), golden.weights(), abstract_params(config), golden.file)
    pictures = picture(arrays["in/source"]), picture(arrays["in/driving"])
    yield compare(
        "matrix", jax.jit(network(config, golden.policy).apply)({"params": params}, *pictures), arrays["out/H"]
    )


def flow_config(given: Mapping[str, Any], **more: Any) -> FlowPredictorConfig:
    """Returns our config, given the reference's arguments."""
    given = {**given, **more}
    return FlowPredictorConfig(
        regions=given["num_regions"],
        channels=given["num_channels"],
        base_channels=given["block_expansion"],
        max_channels=given["max_features"],
        levels=given["num_blocks"],
        scale=given.get("scale_factor", 1),
        covariance_heatmap=given.get("use_covar_heatmap", False),
        region_variance=given.get("region_var", 0.01),
        deformed_sources=given.get("use_deformed_source", True),
        occlusion=given.get("estimate_occlusion_map", False),
        revert_axis_swap=given["revert_axis_swap"],
        align_corners=given.get("align_corners", True),
    )


def _regions(arrays: Mapping[str, np.ndarray], name: str) -> Regions:
    parts = {
        part: arrays[f"in/{name}/{part}"] for part in ("shift", "affine", "covar") if f"in/{name}/{part}" in arrays
    }
    parts = {part: jnp.asarray(array) for part, array in parts.items()}
    return Regions(parts["shift"], parts.get("covar"), parts.get("affine"))


def _motion_inputs(arrays: Mapping[str, np.ndarray]) -> tuple[Any, ...]:
    background = jnp.asarray(arrays["in/bg"]) if "in/bg" in arrays else None
    regions = _regions(arrays, "source_region"), _regions(arrays, "driving_region")
    return picture(arrays["in/source"]), *regions, background


def flow_predictor(golden: Golden) -> Iterator[Comparison]:
    """Compares the flow field, the occlusion map and the intermediate results."""
    arrays, config = golden.arrays(), flow_config(golden.config)
    params = params_of(flow_predictor_rows(config), golden.weights(), abstract_params(config), golden.file)
    inputs, module = _motion_inputs(arrays), network(config, golden.policy)

    @jax.jit
    def run(params: Any, image: jax.Array, source: Regions, driving: Regions, background: Any) -> Any:
        given = image, source, driving, background
        whole = module.apply({"params": params}, *given, capture_intermediates=True)
        small = antialiased_downscale(image, config.scale)
        motions = module.motions(small, source, driving, background)
        heat = gaussians(config, small, driving) - gaussians(config, small, source)
        return whole, small, motions, heat, grid_sample(small, motions, align_corners=config.align_corners)

    (got, seen), small, motions, heat, deformed = run(params, *inputs)
    yield compare("flow", got.grid, arrays["out/optical_flow"], WARPED_TOLERANCE)
    if config.occlusion:
        yield compare("occlusion", channels_first(got.occlusion), arrays["out/occlusion_map"], WARPED_TOLERANCE)
    mask = jax.nn.softmax(seen["intermediates"]["mask"]["__call__"][0], axis=-1)
    yield compare("mask", channels_first(mask), arrays["out/mask"], WARPED_TOLERANCE)
    yield compare("small picture", channels_first(small), arrays["out/small"])
    yield compare("motions", motions, arrays["out/sparse_motions"])
    yield compare("heat maps", heat, arrays["out/heatmaps"][:, 1:, 0])
    if "out/deformed" in arrays:
        yield compare("deformed", np.moveaxis(deformed, -1, 2), arrays["out/deformed"], WARPED_TOLERANCE)


def renderer_config(given: Mapping[str, Any], **more: Any) -> RendererConfig:
    """Returns our config, given the reference's arguments."""
    given = {**given, **more}
    aligned = given.get("align_corners", True)
    return RendererConfig(
        channels=given["num_channels"],
        base_channels=given["block_expansion"],
        max_channels=given["max_features"],
        levels=given["num_down_blocks"],
        residual_blocks=given["num_bottleneck_blocks"],
        skips=given["skips"],
        align_corners=aligned,
        without_occlusion="add" if aligned else "replace",
    )


def generator(golden: Golden) -> Iterator[Comparison]:
    """Compares the flow predictor and the renderer together, and the renderer alone on a given flow field."""
    arrays, given = golden.arrays(), golden.config
    shared = {name: given[name] for name in ("num_regions", "num_channels", "revert_axis_swap", "align_corners")}
    configs = {
        "flow_predictor": flow_config(given["pixelwise_flow_predictor_params"], **shared),
        "renderer": renderer_config(given),
    }
    rows = under("pixelwise_flow_predictor", "flow_predictor", flow_predictor_rows(configs["flow_predictor"]))
    rows += [row._replace(path=f"renderer/{row.path}") for row in renderer_rows(configs["renderer"])]
    abstract = {name: abstract_params(config) for name, config in configs.items()}
    params = params_of(rows, golden.weights(), abstract, golden.file)
    networks = {name: network(config, golden.policy) for name, config in configs.items()}

    @jax.jit
    def run(params: Any, inputs: Any, given: Any) -> Any:
        render = lambda *motion: networks["renderer"].apply({"params": params["renderer"]}, inputs[0], *motion)  # noqa: E731
        flow = networks["flow_predictor"].apply({"params": params["flow_predictor"]}, *inputs)
        levels = networks["renderer"].apply({"params": params["renderer"]}, inputs[0], method="levels")
        return flow, levels[-1], render(*flow), render(*given) if given else None

    motion = None
    if "in/flow" in arrays:
        motion = jnp.asarray(arrays["in/flow"]), picture(arrays["in/occlusion"])
    flow, features, got, on_given = run(params, _motion_inputs(arrays), motion)
    yield compare("flow", flow.grid, arrays["out/optical_flow"], WARPED_TOLERANCE)
    if flow.occlusion is not None:
        yield compare("occlusion", channels_first(flow.occlusion), arrays["out/occlusion_map"], WARPED_TOLERANCE)
    for name in ("features", "bottle_neck_feat"):
        if f"out/{name}" in arrays:
            yield compare(name, channels_first(features), arrays[f"out/{name}"])
    found = {"prediction": got.prediction, "deformed": got.deformed}
    if on_given is not None:
        found |= {"with_flow_prediction": on_given.prediction, "with_flow_deformed": on_given.deformed}
        found["with_flow_deformed_feat"] = on_given.deformed_features  # LFDM's code does not return this output
    for name, value in found.items():
        if name == "with_flow_deformed_feat" and f"out/{name}" not in arrays:
            continue
        yield compare(name, channels_first(value), arrays[f"out/{name}"], WARPED_TOLERANCE)


def equivariance_transform(golden: Golden) -> Iterator[Comparison]:
    """Compares warped points, Jacobians and frames."""
    arrays = golden.arrays()
    warp = Warp(jnp.asarray(arrays["in/theta"]), jnp.asarray(arrays["in/control_params"][:, 0]))
    points, frame = jnp.asarray(arrays["in/points"]), picture(arrays["in/frame"])

    @jax.jit
    def run(warp: Warp, points: jax.Array, frame: jax.Array) -> Any:
        frames = [warp_frames(warp, frame, align_corners=align) for align in (True, False)]
        return warp_points(warp, points), warp_jacobian(warp, points), frames

    moved, jacobian, frames = run(warp, points, frame)
    yield compare("points", moved, arrays["out/warped"])
    yield compare("Jacobian", jacobian, arrays["out/jacobian"])
    for name, got in zip(("frame", "frame_unaligned"), frames, strict=True):
        yield compare(name, channels_first(got), arrays[f"out/{name}"], WARPED_TOLERANCE)


RUNNERS = {
    "lvmm_antialias": antialias,
    "lvmm_grid_sample": sampling,
    "lvmm_hourglass": hourglass,
    "lvmm_resblock2d": residual_block,
    "lvmm_svd2x2": singular_vectors,
    "lvmm_region_predictor": region_predictor,
    "lvmm_bg_predictor": background_predictor,
    "lvmm_flow_predictor": flow_predictor,
    "lvmm_generator": generator,
    "lvmm_equivariance_transform": equivariance_transform,
}
