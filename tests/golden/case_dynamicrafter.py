"""Golden cases of DynamiCrafter: the UNets, the resampler, DDIM loops, and the command-line pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smcd_jax.diffusion.guidance import Guidance, combine
from smcd_jax.diffusion.samplers import SolverTable, initial_state, make_solver_table, solver_step
from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.models.branches import branch_inputs, branch_outputs
from smcd_jax.models.dynamicrafter.config import DynamiCrafterUNetConfig, ModelConfig, ResamplerConfig
from smcd_jax.models.dynamicrafter.conversion import resampler_rows, unet_rows
from smcd_jax.models.dynamicrafter.model import DynamiCrafterModel, Tokens
from smcd_jax.models.tables.autoencoder_kl import autoencoder_rows
from smcd_jax.models.tables.clip_towers import vision_encoder_rows
from smcd_jax.nn.config import AutoencoderConfig, VisionEncoderConfig
from smcd_jax.nn.networks import abstract_params, network
from tests.golden.comparison import Comparison, Golden, channels_first, compare, params_of, picture, video

TEXT_TOKENS = 77
LOOP_TOLERANCE = 1e-4  # ten guided steps; the reference's own float32 noise is up to 1e-5
SPACINGS = {"uniform": "reference", "uniform_trailing": "trailing"}
PREDICTIONS = {"eps": "epsilon", "v": "v_prediction"}


def unet_config(case: Mapping[str, Any]) -> DynamiCrafterUNetConfig:
    """Our config from the reference's argument names."""
    given = case["config"]
    return DynamiCrafterUNetConfig(
        latent_channels=given["out_channels"],
        base_channels=given["model_channels"],
        channel_mult=tuple(given["channel_mult"]),
        num_res_blocks=given["num_res_blocks"],
        attention_scales=tuple(1 / factor for factor in given["attention_resolutions"]),
        head_dim=given["num_head_channels"],
        stem_heads=8,
        context_dim=given["context_dim"],
        learned_image_scale=given["image_cross_attention_scale_learnable"],
    )


def resampler_config(given: Mapping[str, Any]) -> ResamplerConfig:
    """Our config from the reference's argument names."""
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


def load_unet(golden: Golden, file: str) -> tuple[DynamiCrafterUNetConfig, dict[str, Any]]:
    """Config and parameters of a UNet file."""
    config = unet_config(golden.other_case(file))
    return config, params_of(unet_rows(config), golden.weights(file), abstract_params(config), file)


def unet(golden: Golden) -> Iterator[Comparison]:
    """The output of every run."""
    arrays = golden.arrays()
    config, params = load_unet(golden, golden.file)
    module = network(config, golden.policy)

    @jax.jit
    def forward(params: Any, x: jax.Array, t: jax.Array, context: jax.Array, fps: jax.Array) -> jax.Array:
        text, image = context[:, :TEXT_TOKENS], context[:, TEXT_TOKENS:]
        keys = module.apply({"params": params}, text, image, frames=x.shape[1], method="keys_values")
        return module.apply({"params": params}, x, t, keys, fps=fps)

    for run in golden.case["runs"]:
        prefix = "" if run == "main" else f"{run}_"
        x, t = video(arrays[f"in/{prefix}x"]), jnp.asarray(arrays[f"in/{prefix}t"], jnp.float32)
        default = np.full(len(x), golden.config["default_fs"])
        fps = arrays.get(f"in/{prefix}fs", default)
        got = forward(params, x, t, jnp.asarray(arrays[f"in/{prefix}context"]), jnp.asarray(fps, jnp.float32))
        name = next(name for name in arrays if name in (f"out/{prefix}eps", f"out/{prefix}v"))
        yield compare(run, channels_first(got), arrays[name])


def resampler(golden: Golden) -> Iterator[Comparison]:
    """Image tokens."""
    arrays, config = golden.arrays(), resampler_config(golden.config)
    params = params_of(resampler_rows(config), golden.weights(), abstract_params(config), golden.file)
    (given,) = (arrays[name] for name in arrays if name.startswith("in/"))
    got = network(config, golden.policy).apply({"params": params}, jnp.asarray(given))
    want = next(arrays[name] for name in arrays if name.startswith("out/") and arrays[name].shape == got.shape)
    yield compare("tokens", got, want)


def model_of(golden: Golden, **more: Any) -> tuple[DynamiCrafterModel, dict[str, Any]]:
    """The model of a loop or pipeline, with the parameters of its UNet."""
    given = golden.config
    config, params = load_unet(golden, golden.case["unet"])
    config = ModelConfig(
        unet=config,
        prediction_type=PREDICTIONS[given["parameterization"]],
        zero_terminal_snr=given["zero_snr"],
        dynamic_rescale=given["base_scale"] or 1.0,
        **more,
    )
    return DynamiCrafterModel(config, golden.policy), {"unet": params}


def guidance_of(model: DynamiCrafterModel, given: Mapping[str, Any]) -> Guidance:
    """Two branches share one scale; three have one each."""
    own = given["image_guidance_scale"] if given["multiple_cond"] else None
    return model.guidance({"guidance_scale": given["guidance_scale"], "image_guidance_scale": own})


def solver_table(schedule: NoiseSchedule, given: Mapping[str, Any]) -> SolverTable:
    """The reference's DDIM."""
    spacing = SPACINGS[given["timestep_spacing"]]
    return make_solver_table(schedule, sampler="ddim", num_steps=given["steps"], spacing=spacing, eta=given["eta"])


def run_loop(
    model: DynamiCrafterModel, params: Any, tokens: Tokens, *, guidance: Guidance, golden: Golden
) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Latents and predicted clean latents after each step, with the stored noise."""
    arrays, given = golden.arrays(), golden.config
    table = solver_table(model.schedule, given)
    context = jax.jit(model.precompute)(params, tokens)

    @jax.jit
    def outputs(params: Any, x: jax.Array, t: jax.Array, context: Any) -> jax.Array:
        predicted = branch_outputs(model, params, context, len(guidance.branches))(x, t)
        return combine(predicted, guidance.weights, guidance_rescale=given["guidance_rescale"])

    state = initial_state(video(arrays["in/x_T"]))
    for index in range(table.num_steps):
        out = outputs(params, state.latents, jnp.float32(table.timesteps[index]), context)
        state, x0 = solver_step(table, index, state, out, noise=video(arrays["in/noise"][index]))
        yield state.latents, x0


def ddim(golden: Golden) -> Iterator[Comparison]:
    """The times, the trajectory, and the clean latents predicted at each step."""
    arrays, given = golden.arrays(), golden.config
    model, params = model_of(golden)
    guidance = guidance_of(model, given)
    stored = {
        frozenset(): "in/uncond_context",
        frozenset({"image_tokens"}): "in/image_only_context",
        frozenset({"image_tokens", "text"}): "in/context",
    }
    context = jnp.concatenate([jnp.asarray(arrays[stored[branch]]) for branch in guidance.branches])
    count = len(guidance.branches)
    tokens = Tokens(
        context[:, :TEXT_TOKENS],
        context[:, TEXT_TOKENS:],
        jnp.concatenate([video(arrays["in/c_concat"])] * count),
        jnp.asarray(np.tile(arrays["in/fs"], count), jnp.float32),
    )
    table = solver_table(model.schedule, given)
    times = table.timesteps[: table.num_steps].astype(int)
    yield compare("times", times, arrays["out/timesteps"], 0.0)
    # the reference's x_0 carries the dynamic rescale of the step's landing; the last step keeps its own
    landing = np.append(times[1:], times[-1])
    worst_x = worst_x0 = 0.0
    loop = run_loop(model, params, tokens, guidance=guidance, golden=golden)
    for index, (x, x0) in enumerate(loop):
        scaled = x0 * model.schedule.scale[landing[index]]
        worst_x = max(worst_x, compare("", channels_first(x), arrays["out/xt"][index]).error)
        worst_x0 = max(worst_x0, compare("", channels_first(scaled), arrays["out/pred_x0"][index]).error)
    yield Comparison("x of 10 steps, worst", worst_x, LOOP_TOLERANCE)
    yield Comparison("x0 of 10 steps, worst", worst_x0, LOOP_TOLERANCE)
    yield compare("final latents", channels_first(x), arrays["out/final"], LOOP_TOLERANCE)


def load_aux(golden: Golden, file: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Configs and parameters of autoencoder, image tower and resampler from their common file."""
    given, weights = golden.other_case(file)["config"], golden.weights(file)
    tower, vae = given["image_tower"], given["autoencoder"]
    configs = {
        "resampler": resampler_config(given["resampler"]),
        "image_tower": VisionEncoderConfig(
            picture_size=tower["image_size"],
            patch=tower["patch_size"],
            width=tower["width"],
            heads=tower["width"] // tower["head_width"],
            layers=tower["layers"],
            embed_width=tower["embed_dim"],
        ),
        "autoencoder": AutoencoderConfig(
            base_channels=vae["ch"], channel_mult=tuple(vae["ch_mult"]), num_res_blocks=vae["num_res_blocks"]
        ),
    }
    rows = {"resampler": resampler_rows, "image_tower": vision_encoder_rows, "autoencoder": autoencoder_rows}
    prefixes = {"resampler": "image_proj_model.", "image_tower": "embedder.model.", "autoencoder": "first_stage_model."}
    params = {}
    for name, config in configs.items():
        prefix = prefixes[name]
        tensors = {key.removeprefix(prefix): array for key, array in weights.items() if key.startswith(prefix)}
        params[name] = params_of(rows[name](config), tensors, abstract_params(config), f"{file}: {name}")
    return configs, params


def pipeline(golden: Golden) -> Iterator[Comparison]:
    """From pictures to conditions, latents and video, through the functions that pipeline and training call."""
    arrays, given = golden.arrays(), golden.config
    configs, aux = load_aux(golden, golden.case["aux"])
    model, params = model_of(golden, interpolation=given["interp"] or given["loop"], **configs)
    params |= aux
    guidance = guidance_of(model, given)
    frames = given["frames"]
    pictures = picture(arrays["in/images"])
    # the reference encodes the input video of F frames, the picture repeated, with one noise per frame
    order = np.arange(frames) // (frames // 2) if given["interp"] else np.zeros(frames, int)
    encoded = model.networks["autoencoder"].apply(
        {"params": params["autoencoder"]}, pictures[np.minimum(order, len(pictures) - 1)], method="posterior"
    )
    scale = model.config.autoencoder.scaling_factor
    latents = encoded.with_noise(picture(arrays["in/posterior_noise"]))[None] * scale
    source = np.zeros(frames, int)
    if model.config.interpolation:
        source[1:] = -1
        source[-1] = frames - 1
    tower = jax.jit(model.feature_steps[2].apply, static_argnums=2)
    features = {
        "text": jnp.asarray(arrays["in/text"]),
        "null_text": jnp.asarray(arrays["in/null_text"]),
        "picture_tokens": tower(params["image_tower"], pictures[:1], None),
        "null_picture_tokens": tower(params["image_tower"], jnp.zeros_like(pictures[:1]), None),
        "latents": latents,
        "latent_source": jnp.asarray(source)[None],
        "frame_rate": jnp.full(1, given["fs"], jnp.float32),
    }
    inputs = model.inputs(features)
    encode = jax.jit(lambda params, inputs: model.encode(params, branch_inputs(model, inputs, guidance.branches)))
    tokens = encode(params, inputs)
    context = jnp.concatenate([tokens.text, tokens.image], axis=1)
    yield compare("context", context[-1:], arrays["out/context"], LOOP_TOLERANCE)
    yield compare("unconditional context", context[:1], arrays["out/uncond_context"], LOOP_TOLERANCE)
    yield compare("image latents", channels_first(inputs.image_latents), arrays["out/c_concat"], LOOP_TOLERANCE)
    for x, _ in run_loop(model, params, tokens, guidance=guidance, golden=golden):
        latents = x
    yield compare("latents", channels_first(latents), arrays["out/latents"], LOOP_TOLERANCE)
    frames = model.render(params, model.decode(params, latents, inputs), inputs, jnp.arange(frames))
    yield compare("video", channels_first(frames), arrays["out/video"], LOOP_TOLERANCE)


RUNNERS = {"dc_unet": unet, "dc_resampler": resampler, "dc_ddim": ddim, "dc_pipeline": pipeline}
