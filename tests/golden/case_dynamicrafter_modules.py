"""Golden cases of DynamiCrafter's modules: blocks, towers, resampler, preprocessing, schedule and clip sampling."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.order.strides import strided_frames, strided_window
from smcd_jax.diffusion.guidance import combine
from smcd_jax.diffusion.loss import prediction_target
from smcd_jax.diffusion.prediction import per_example, x0_coefficients
from smcd_jax.diffusion.samplers import make_solver_table
from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.diffusion.timesteps import inference_timesteps
from smcd_jax.media import to_model_range
from smcd_jax.models.dynamicrafter.config import ResamplerConfig
from smcd_jax.models.dynamicrafter.conversion.table import resampler_rows, spatial_rows
from smcd_jax.models.dynamicrafter.pictures import fit_picture, fit_tensor
from smcd_jax.models.dynamicrafter.preprocess import preprocess
from smcd_jax.models.dynamicrafter.unet3d import DualTokens, dual_cross_attention
from smcd_jax.models.tables.autoencoder_kl import autoencoder_rows
from smcd_jax.models.tables.clip_towers import text_encoder_rows, vision_encoder_rows
from smcd_jax.models.tables.schedule_tables import schedule_tables
from smcd_jax.models.tables.unet_blocks import residual_rows, transformer_rows
from smcd_jax.nn.config import AutoencoderConfig, TextEncoderConfig, VisionEncoderConfig
from smcd_jax.nn.networks import abstract_params, network
from smcd_jax.nn.transformers import SpatialParts, SpatialTransformer, TemporalTransformer
from smcd_jax.nn.unet_blocks import ResidualBlock, TemporalConvBlock
from smcd_jax.weights.conversion_table import LINEAR, POINTWISE_1D
from tests.golden.case_modules import module_params, sinusoidal_embedding
from tests.golden.comparison import Comparison, Golden, channels_first, compare, params_of, picture, video

TEXT_TOKENS = 77
PREPROCESSED_TOLERANCE = 1e-4  # the reference computes bicubic coordinates in float32, with an error of 3e-5
IMAGE_TOKEN_TOLERANCE = 5e-5  # the same error, passed through the tower
SPACINGS = {"uniform": "reference", "uniform_trailing": "trailing"}


def resampler_config(given: Mapping[str, Any]) -> ResamplerConfig:
    """Returns our config, given the reference's arguments."""
    return ResamplerConfig(
        width=given["dim"],
        layers=given["depth"],
        heads=given["heads"],
        head_dim=given["dim_head"],
        queries=given["num_queries"],
        frames=given["video_length"] or 1,
        input_width=given["embedding_dim"],
        output_width=given["output_dim"],
        hidden_factor=given["ff_mult"],
    )


def resampler(golden: Golden) -> Iterator[Comparison]:
    """Compares the image tokens and the first layer's queries."""
    arrays, config = golden.arrays(), resampler_config(golden.config)
    params = {"params": params_of(resampler_rows(config), golden.weights(), abstract_params(config), golden.file)}
    got, seen = network(config, golden.policy).apply(params, jnp.asarray(arrays["in/x"]), capture_intermediates=True)
    outputs = {name: values["__call__"][0] for name, values in seen["intermediates"].items() if name != "__call__"}
    attended = params["params"]["latents"] + outputs["attention_0"]
    yield compare("tokens", got, arrays["out/tokens"])
    yield compare("queries after attention", attended, arrays["out/latents_after_attention_0"])
    yield compare("queries after layer", attended + outputs["dense_out_0"], arrays["out/latents_after_layer_0"])


def image_tower(golden: Golden) -> Iterator[Comparison]:
    """Compares preprocessed pictures of every size, the tower's tokens, and its tokens for an all-zero picture."""
    arrays, given, weights = golden.arrays(), golden.config, golden.weights()
    config = VisionEncoderConfig(
        picture_size=given["image_size"],
        patch=given["patch_size"],
        width=given["width"],
        heads=given["width"] // given["head_width"],
        layers=given["layers"],
        embed_width=given["embed_dim"],
    )
    params = {"params": params_of(vision_encoder_rows(config), weights, abstract_params(config), golden.file)}
    tower, size = network(config, golden.policy), config.picture_size
    tokens = jax.jit(lambda params, seen: tower.apply(params, seen, method="raw_tokens"))
    rows, columns = (_slice(given[f"preprocessed_{axis}"]) for axis in ("rows", "columns"))
    for tag, count in given["repeat"].items():
        pixels = np.moveaxis(arrays[f"in/small_{tag}"], 1, -1).repeat(count, axis=1).repeat(count, axis=2)
        seen = preprocess(jnp.asarray(to_model_range(pixels)), size)
        sampled = channels_first(seen[:, rows, columns])
        yield compare(f"preprocessed {tag}", sampled, arrays[f"out/preprocessed_{tag}"], PREPROCESSED_TOLERANCE)
        yield compare(f"tokens {tag}", tokens(params, seen), arrays[f"out/tokens_{tag}"], IMAGE_TOKEN_TOLERANCE)
    zero = preprocess(jnp.zeros((1, size, size, 3)), size)
    yield compare("tokens of the zero picture", tokens(params, zero), arrays["out/tokens_zero_image"])


def _slice(text: str) -> slice:
    return slice(*(int(part) if part else None for part in text.strip("[]").split(":")))


def text_tower(golden: Golden) -> Iterator[Comparison]:
    """Compares the layer used for conditioning and the last layer."""
    arrays, given = golden.arrays(), golden.config
    config = TextEncoderConfig(
        vocabulary=given["vocab_size"],
        length=given["context_length"],
        width=given["width"],
        heads=given["heads"],
        layers=given["layers"],
        embed_width=given["embed_dim"],
    )
    params = {"params": params_of(text_encoder_rows(config), golden.weights(), abstract_params(config), golden.file)}
    tower, ids = network(config, golden.policy), jnp.asarray(arrays["in/tokens"])
    yield compare("penultimate", tower.apply(params, ids), arrays["out/penultimate"])
    yield compare("last layer", tower.apply(params, ids, method="last_layer"), arrays["out/diagnostic_last"])


def spatial_transformer(golden: Golden) -> Iterator[Comparison | str]:
    """Compares the complete transformer, and its parts applied to tokens."""
    arrays, given = golden.arrays(), golden.config
    if not given["use_linear"] or given["depth"] > 1:
        yield "left out: convolution projections and depth 2, which no published model has"
        return
    images = given["image_cross_attention"]
    learned = given.get("image_cross_attention_scale_learnable", False)
    parts = SpatialParts(cross_attention=dual_cross_attention(learned)) if images else SpatialParts()
    width = given["n_heads"] * given["d_head"]
    module = SpatialTransformer(given["in_channels"], given["n_heads"], golden.policy, parts, width)
    context = jnp.asarray(arrays["in/context"])
    text, image = context[:, :TEXT_TOKENS], context[:, TEXT_TOKENS:]
    tokens = DualTokens(text, image) if images else text

    def whole(module: SpatialTransformer, x: jax.Array) -> jax.Array:
        return module(x, module.keys_values(tokens))

    def alone(module: SpatialTransformer, x: jax.Array) -> dict[str, jax.Array]:
        block = module.block
        own = block.self_attention
        return {
            "attn1": own(x, own.keys_values(x)),
            "attn2": block.cross_attention(x, block.cross_attention.keys_values(tokens)),
            "ff": block.ff(x),
        }

    x = picture(arrays["in/x"])
    rows = spatial_rows(images=images, learned_scale=learned)
    params = module_params(golden, rows, module, x, method=whole)
    yield compare("output", channels_first(module.apply(params, x, method=whole)), arrays["out/y"])
    for name, got in module.apply(params, jnp.asarray(arrays["in/attn2_x"]), method=alone).items():
        yield compare(name, got, arrays[f"out/{name}_y"])


def temporal_transformer(golden: Golden) -> Iterator[Comparison | str]:
    """Compares attention across frames."""
    arrays, given = golden.arrays(), golden.config
    if given["causal_attention"] or given["relative_position"]:
        kind = "causal attention" if given["causal_attention"] else "relative positions"
        yield f"left out: {kind}, which no published model has"
        return
    module = TemporalTransformer(given["in_channels"], given["n_heads"], given["d_head"], golden.policy)
    rows, x = transformer_rows(LINEAR if given["use_linear"] else POINTWISE_1D), video(arrays["in/x"])
    got = module.apply(module_params(golden, rows, module, x), x)
    yield compare("output", channels_first(got), arrays["out/y"])


def residual_block(golden: Golden) -> Iterator[Comparison]:
    """Compares the block, and its temporal part alone."""
    arrays, given = golden.arrays(), golden.config
    batch, channels = given["batch"], given["out_channels"]
    # each frame has its own time embedding, so frames enter as one-frame clips; only the temporal part gets full clips
    x, time = picture(arrays["in/x"])[:, None], jnp.asarray(arrays["in/emb"])
    module = ResidualBlock(channels, golden.policy)
    params = module_params(golden, residual_rows(skip=given["channels"] != channels), module, x, time)
    still = module.apply(params, x, time, temporal=False)
    temporal, part = TemporalConvBlock(channels, golden.policy), {"params": params["params"]["temporal_conv"]}
    clips = temporal.apply(part, still.reshape(batch, -1, *still.shape[2:]))
    yield compare("block", channels_first(clips.reshape(-1, *clips.shape[2:])), arrays["out/y"])
    alone = temporal.apply(part, video(arrays["in/tc_x"]))
    yield compare("temporal convolutions", channels_first(alone), arrays["out/temporal_conv"])


def autoencoder_config(given: Mapping[str, Any]) -> AutoencoderConfig:
    """Returns our config, given the reference's arguments."""
    return AutoencoderConfig(
        base_channels=given["ch"],
        channel_mult=tuple(given["ch_mult"]),
        num_res_blocks=given["num_res_blocks"],
        latent_channels=given["z_channels"],
        picture_channels=given["in_channels"],
    )


def autoencoder(golden: Golden) -> Iterator[Comparison]:
    """Compares the posterior, the scaled latents and the decoder."""
    arrays, config = golden.arrays(), autoencoder_config(golden.config)
    params = {"params": params_of(autoencoder_rows(config), golden.weights(), abstract_params(config), golden.file)}
    module, pixels = network(config, golden.policy), picture(arrays["in/image"])
    posterior = module.apply(params, pixels, method="posterior")
    yield compare("mean", channels_first(posterior.mean), arrays["out/mean"])
    yield compare("log variance", channels_first(posterior.log_variance), arrays["out/logvar"])
    latents = module.apply(params, pixels, picture(arrays["in/posterior_noise"]), method="encode")
    yield compare("latents", channels_first(latents), arrays["out/latent"])
    decoded = module.apply(params, picture(arrays["in/z"]), method="decode")
    yield compare("decoded", channels_first(decoded), arrays["out/decoded"])


def schedule(golden: Golden) -> Iterator[Comparison]:
    """Compares tables, timesteps, DDIM coefficients, noising, training targets and guidance rescaling."""
    arrays, given = golden.arrays(), golden.config
    base = {
        "num_train_timesteps": given["steps"],
        "beta_start": given["linear_start"],
        "beta_end": given["linear_end"],
    }
    v_base = {"rescale_zero_terminal_snr": True, "prediction_type": "v_prediction"}
    schedules = {"eps": NoiseSchedule(**base), "v": NoiseSchedule(**base, **v_base)}
    rescaled = {
        name.removeprefix("v/scale_arr_base"): NoiseSchedule(
            **base, **v_base, dynamic_rescale=float(name.split("base")[1])
        )
        for name in arrays
        if name.startswith("v/scale_arr_base")
    }
    for model, ours in schedules.items():
        yield compare(f"{model}: alphas_cumprod", ours.alphas_cumprod, arrays[f"f64/{model}_alphas_cumprod"], 1e-12)
        for name, table in schedule_tables(ours).items():
            yield _near(f"{model}: {name}", table, arrays[f"{model}/{name}"], 1e-6)
    for scale, ours in rescaled.items():
        yield compare(f"scale {scale}", schedule_tables(ours)["scale_arr"], arrays[f"v/scale_arr_base{scale}"], 1e-6)
    for name in arrays:
        if name.startswith("times/"):
            spacing, steps = name.removeprefix("times/").rsplit("_", 1)
            times = inference_timesteps(schedules["eps"], int(steps), SPACINGS[spacing])
            yield compare(name, times[::-1], arrays[name], 0.0)
        if name.startswith("ddim/") and name.endswith("/sigmas"):
            yield from _ddim_table(name.removesuffix("/sigmas"), arrays, schedules, rescaled)
    yield from _noising(arrays, schedules, rescaled)


def _near(quantity: str, got: np.ndarray, want: np.ndarray, tolerance: float) -> Comparison:
    """Like `compare`, for tables that may contain zeros or infinities; infinities must agree."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    finite = np.isfinite(want)
    if got.shape != want.shape or not np.array_equal(got[~finite], want[~finite]):
        return Comparison(quantity, np.inf, tolerance)
    return Comparison(
        quantity, float(np.abs(got - want)[finite].max() / max(np.abs(want[finite]).max(), 1.0)), tolerance
    )


def _ddim_table(
    folder: str,
    arrays: Mapping[str, np.ndarray],
    schedules: Mapping[str, NoiseSchedule],
    rescaled: Mapping[str, NoiseSchedule],
) -> Iterator[Comparison]:
    """Compares the reference's columns with those computed from our table's coefficients."""
    head, steps, eta = folder.removeprefix("ddim/").rsplit("_", 2)
    model, spacing = head.split("_", 1)
    options = {"num_steps": int(steps), "spacing": SPACINGS[spacing], "eta": float(eta.removeprefix("eta"))}

    def columns(ours: NoiseSchedule) -> dict[str, np.ndarray]:
        table = make_solver_table(ours, sampler="ddim", **options)
        used = slice(table.num_steps - 1, None, -1) if table.num_steps < len(table.alpha) else slice(None, None, -1)
        alpha, sigma, noise, update, times = (
            np.asarray(part, np.float64)[used]
            for part in (table.alpha, table.sigma, table.noise, table.update, table.timesteps)
        )
        scale = ours.scale[times.astype(int)]
        from_x, from_x0 = update[:, 0], update[:, 1]
        return {
            "sigmas": noise,
            "alphas": (alpha / scale) ** 2,
            "alphas_prev": 1 - (from_x * sigma) ** 2 - noise**2,
            "next signal": (from_x0 + alpha * from_x) / scale,
        }

    got = columns(schedules[model])
    for name in ("sigmas", "alphas", "alphas_prev"):
        yield _near(f"{folder.removeprefix('ddim/')} {name}", got[name], arrays[f"{folder}/{name}"], 2e-6)
    for scale, ours in rescaled.items():
        if f"{folder}/rescale_base{scale}" in arrays:
            want = np.sqrt(arrays[f"{folder}/alphas_prev"]) * arrays[f"{folder}/rescale_base{scale}"]
            yield _near(f"{folder.removeprefix('ddim/')} rescale {scale}", columns(ours)["next signal"], want, 2e-6)


def _noising(
    arrays: Mapping[str, np.ndarray], schedules: Mapping[str, NoiseSchedule], rescaled: Mapping[str, NoiseSchedule]
) -> Iterator[Comparison]:
    x0, noise, t = video(arrays["in/x0"]), video(arrays["in/noise"]), jnp.asarray(arrays["in/t"])
    got: dict[str, Any] = {}
    for model, ours in schedules.items():
        a = jnp.asarray(ours.training_alphas_cumprod)[t]
        x = got[f"{model}_x_t"] = ours.add_noise(x0, noise, t)
        target = prediction_target(ours, x0, noise, t=t)
        alpha, sigma = per_example(jnp.sqrt(a), x), per_example(jnp.sqrt(1 - a), x)
        from_x, from_target = x0_coefficients(alpha, sigma, ours.prediction_type)
        if model == "v":
            got["v_target"], got["v_x0_from_v"] = target, from_x * x + from_target * target
            got["v_eps_from_v"] = alpha * target + sigma * x
        else:
            got["eps_x0_from_eps"] = from_x * x + from_target * target
    for ours in rescaled.values():
        matches = channels_first(ours.add_noise(x0, noise, t)) - arrays["out/v_x_t_dynamic_rescale"]
        if "v_x_t_dynamic_rescale" not in got or np.abs(matches).max() < 1e-5:  # the file does not store the base scale
            got["v_x_t_dynamic_rescale"] = ours.add_noise(x0, noise, t)
            got["v_target_dynamic_rescale"] = prediction_target(ours, x0, noise, t=t)
    outputs = jnp.stack([video(arrays[f"in/{name}_output"]) for name in ("guided", "cond")])
    for name in arrays:
        if name.startswith("out/guidance_rescale_"):
            phi = float(name.rsplit("_", 1)[1])
            got[name.removeprefix("out/")] = combine(outputs, (1.0, 0.0), guidance_rescale=phi)
    for name, value in got.items():
        yield compare(name, channels_first(value), arrays[f"out/{name}"], 1e-5)


def pictures(golden: Golden) -> Iterator[Comparison]:
    """Compares pictures resized as in the scripts, and as in the web demo with and without antialiasing."""
    arrays, (height, width) = golden.arrays(), golden.config["size"]
    for name in arrays:
        if not name.startswith("in/"):
            continue
        tag, pixels = name.removeprefix("in/"), arrays[name]
        cli = to_model_range(fit_picture(pixels, height=height, width=width, fit="pad").pixels)
        yield compare(f"{tag}: scripts", np.moveaxis(cli, -1, 0), arrays[f"out/{tag}_cli"], 1e-4)
        for antialias in (True, False):
            gui = fit_tensor(to_model_range(pixels), height=height, width=width, antialias=antialias)
            want = arrays[f"out/{tag}_gui_antialias_{antialias}"]
            yield compare(f"{tag}: web page, antialias {antialias}", np.moveaxis(gui, -1, 0), want, 1e-4)


def clip_sampling(golden: Golden) -> Iterator[Comparison]:
    """Compares the strides, starts, frames and frame rates of training clips."""
    arrays, length = golden.arrays(), golden.config["video_length"]
    count, fps, drawn, start = (arrays[f"in/{name}"] for name in ("frame_count", "video_fps", "drawn_stride", "start"))
    windows = [
        strided_window(int(frames), float(rate), length=length, stride=int(stride))
        for frames, rate, stride in zip(count, fps, drawn, strict=True)
    ]
    indices = [strided_frames(int(first), length, part.stride) for first, part in zip(start, windows, strict=True)]
    yield compare("frames", np.stack(indices), arrays["out/frame_indices"], 0.0)
    for name, column in (("frame_stride", "stride"), ("last_possible_start", "last_start"), ("fps", "fps")):
        yield compare(name, [getattr(part, column) for part in windows], arrays[f"out/{name}"], 0.0)


RUNNERS = {
    "dc_timestep_embedding": sinusoidal_embedding,
    "dc_resampler": resampler,
    "dc_openclip_image": image_tower,
    "dc_openclip_text": text_tower,
    "dc_spatial_transformer": spatial_transformer,
    "dc_temporal_transformer": temporal_transformer,
    "dc_resblock": residual_block,
    "dc_autoencoder": autoencoder,
    "dc_schedule": schedule,
    "dc_picture": pictures,
    "dc_clip_sampling": clip_sampling,
}
