"""Golden cases of DynamiCrafter's family: UNets, DDIM loops, and both published programs."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from smcd_jax.diffusion.guidance import Guidance
from smcd_jax.diffusion.samplers import SolverTable, initial_state, make_solver_table
from smcd_jax.diffusion.sampling import on_device, sample
from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.media import to_model_range
from smcd_jax.models.branches import branch_inputs, branch_outputs
from smcd_jax.models.dynamicrafter.config import DynamiCrafterUNetConfig, ModelConfig
from smcd_jax.models.dynamicrafter.conversion.table import resampler_rows, unet_rows
from smcd_jax.models.dynamicrafter.model import Tokens
from smcd_jax.models.dynamicrafter.requests import DynamiCrafterModel
from smcd_jax.models.registry import make_model
from smcd_jax.models.tables.autoencoder_kl import autoencoder_rows
from smcd_jax.models.tables.clip_towers import vision_encoder_rows
from smcd_jax.nn.config import VisionEncoderConfig
from smcd_jax.nn.networks import abstract_params, flatten, network, unflatten
from smcd_jax.pipeline.request import make_request
from smcd_jax.sampling_options import SamplingOptions
from smcd_jax.tokenizer import Tokenizer
from tests.golden.case_dynamicrafter_modules import SPACINGS, TEXT_TOKENS, autoencoder_config, resampler_config
from tests.golden.comparison import Comparison, Golden, channels_first, compare, params_of, picture, video
from tests.golden.formula_weights import Spread, formula_weights, unet_rule

LOOP_TOLERANCE = 1e-4  # ten guided steps; the reference's own float32 noise is up to 1e-5
PREDICTIONS = {"eps": "epsilon", "v": "v_prediction"}
PREFIXES = {
    "unet": "model.diffusion_model.",
    "resampler": "image_proj_model.",
    "image_tower": "embedder.model.",
    "autoencoder": "first_stage_model.",
}


def unet_config(given: Mapping[str, Any]) -> DynamiCrafterUNetConfig:
    """Returns our config, given the reference's arguments."""
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


def load_unet(golden: Golden, file: str) -> tuple[DynamiCrafterUNetConfig, dict[str, Any]]:
    """Returns the config and parameters of a UNet file."""
    config = unet_config(golden.other_case(file)["config"])
    return config, params_of(unet_rows(config), golden.weights(file), abstract_params(config), file)


def unet(golden: Golden) -> Iterator[Comparison]:
    """Compares the output of every run in the file."""
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


def unet_fullsize(golden: Golden) -> Iterator[Comparison]:
    """Compares the published 256 UNet and resampler, with weights from the golden README's portable hash."""
    arrays, given = golden.arrays(), golden.config
    configs = {"resampler": resampler_config(given["resampler"]), "unet": unet_config(given["unet"])}
    rows = {"unet": unet_rows, "resampler": resampler_rows}

    def weights_of(name: str) -> Any:
        leaves = flatten(abstract_params(configs[name]))
        shapes = {row.torch: row.layout.torch_shape(leaves[row.path].shape) for row in rows[name](configs[name])}
        rule = lambda torch, shape: Spread(0.0, 1.0) if torch == "latents" else unet_rule(torch, shape)  # noqa: E731
        by_name = {row.torch: row for row in rows[name](configs[name])}
        # one tensor at a time, so that memory holds only one copy of the network
        made = formula_weights(f"{name}.", shapes, rule)
        return unflatten(
            {by_name[torch].path: jnp.array(by_name[torch].layout.to_flax(array)) for torch, array in made}
        )

    tokens = jnp.asarray(arrays["in/clip_tokens"], jnp.float32)
    resampled = network(configs["resampler"], golden.policy).apply({"params": weights_of("resampler")}, tokens)
    step = resampled.shape[1] // arrays["out/resampler_tokens"].shape[1]
    yield compare("resampler", resampled[:, ::step], arrays["out/resampler_tokens"])
    params, text = weights_of("unet"), jnp.asarray(arrays["in/context"], jnp.float32)
    fs = jnp.asarray(arrays["in/fs"], jnp.float32)
    got = _forward(configs["unet"], golden, params, arrays, "x", text, fs)
    yield compare("eps, 2 frames", got, arrays["out/eps"])
    whole = jnp.concatenate([text[:, :TEXT_TOKENS], resampled.astype(text.dtype)], axis=1)
    default = jnp.full(1, given["unet"]["default_fs"], jnp.float32)
    got = _forward(configs["unet"], golden, params, arrays, "whole_x", whole, default)
    yield compare("eps, every frame reads all tokens", got, arrays["out/whole_eps"])


def _forward(
    config: DynamiCrafterUNetConfig, golden: Golden, params: Any, arrays: Any, name: str, context: Any, fps: Any
) -> np.ndarray:
    module, x = network(config, golden.policy), video(arrays[f"in/{name}"]).astype(jnp.float32)
    text, image = context[:, :TEXT_TOKENS], context[:, TEXT_TOKENS:]
    keys = module.apply({"params": params}, text, image, frames=x.shape[1], method="keys_values")
    t = jnp.asarray(arrays["in/t"], jnp.float32)
    return channels_first(jax.jit(module.apply)({"params": params}, x, t, keys, fps=fps))


def model_of(
    given: Mapping[str, Any], golden: Golden, *, aux: bool = False, **more: Any
) -> tuple[DynamiCrafterModel, dict[str, Any]]:
    """Returns a case's model with its UNet parameters and, if ``aux`` is set, those of the smaller networks."""
    unet, params = load_unet(golden, golden.case["unet"])
    configs, loaded = load_aux(golden, golden.case["aux"]) if aux else ({}, {})
    if "autoencoder" in golden.case:
        configs["autoencoder"], loaded["autoencoder"] = _load_autoencoder(golden, golden.case["autoencoder"])
    config = ModelConfig(
        **{"unet": unet, **configs},
        prediction_type=PREDICTIONS[given["parameterization"]],
        zero_terminal_snr=given["zero_snr"],
        dynamic_rescale=given["base_scale"] or 1.0,
        **more,
    )
    return make_model(config, golden.policy), {"unet": params, **loaded}


def guidance_of(model: DynamiCrafterModel, given: Mapping[str, Any]) -> Guidance:
    """Returns the guidance; only with ``multiple_cond`` does the image condition have its own scale."""
    own = given["image_guidance_scale"] if given.get("multiple_cond") else None
    return model.guidance({"guidance_scale": given["guidance_scale"], "image_guidance_scale": own})


def solver_table(schedule: NoiseSchedule, given: Mapping[str, Any]) -> SolverTable:
    """Returns the table of the reference's DDIM."""
    spacing = SPACINGS[given["timestep_spacing"]]
    return make_solver_table(schedule, sampler="ddim", num_steps=given["steps"], spacing=spacing, eta=given["eta"])


def run_loop(
    model: DynamiCrafterModel, params: Any, tokens: Tokens, *, guidance: Guidance, golden: Golden
) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Yields the latents and predicted clean latents after each step of the project's loop, with the stored noise.

    The loop would draw its own noise, so its noise scale is set to 0 and the stored noise is added after each step.
    """
    arrays, given = golden.arrays(), golden.config
    table = solver_table(model.schedule, given)
    context = jax.jit(model.precompute)(params, tokens)
    settings = {
        "table": on_device(table._replace(noise=np.zeros_like(table.noise))),
        "weights": jnp.asarray(guidance.weights, jnp.float32),
        "keys": jax.random.split(jax.random.key(0), len(arrays["in/x_T"])),
    }

    @jax.jit
    def step(params: Any, state: Any, context: Any, settings: Any, index: jax.Array) -> Any:
        predict = branch_outputs(model, params, context, len(guidance.branches))
        options = {"guidance_rescale": given["guidance_rescale"]}
        return sample(predict, state, start=index, stop=index + 1, **options, **settings)

    state = initial_state(video(arrays["in/x_T"]))
    for index in range(table.num_steps):
        state = step(params, state, context, settings, jnp.int32(index))
        noised = state.latents + table.noise[index] * video(arrays["in/noise"][index])
        state = state._replace(latents=noised)
        yield state.latents, state.previous_x0


def ddim(golden: Golden) -> Iterator[Comparison]:
    """Compares the timesteps, the trajectory, and the clean latents predicted at each step."""
    arrays, given = golden.arrays(), golden.config
    model, params = model_of(given, golden)
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
    # the reference scales x_0 by the next timestep's dynamic rescale factor; the last step uses its own factor
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
    """Returns the configs and parameters of the autoencoder, image tower and resampler, which share a file."""
    given, weights = golden.other_case(file)["config"], golden.weights(file)
    tower = given["image_tower"]
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
        "autoencoder": autoencoder_config(given["autoencoder"]),
    }
    rows = {"resampler": resampler_rows, "image_tower": vision_encoder_rows, "autoencoder": autoencoder_rows}
    params = {}
    for name, config in configs.items():
        prefix = PREFIXES[name]
        tensors = {key.removeprefix(prefix): array for key, array in weights.items() if key.startswith(prefix)}
        params[name] = params_of(rows[name](config), tensors, abstract_params(config), f"{file}: {name}")
    return configs, params


def _load_autoencoder(golden: Golden, file: str) -> tuple[Any, Any]:
    config, prefix = autoencoder_config(golden.other_case(file)["config"]["autoencoder"]), PREFIXES["autoencoder"]
    tensors = {name.removeprefix(prefix): array for name, array in golden.weights(file).items()}
    return config, params_of(autoencoder_rows(config), tensors, abstract_params(config), file)


def see(model: DynamiCrafterModel, params: Any, pictures: jax.Array) -> jax.Array:
    """Returns the image tower's tokens, computed by the model's own feature step."""
    (step,) = (part for part in model.feature_steps if part.name == "picture_tokens")
    return jax.jit(lambda params, pictures: step.apply(params, pictures, None))(params["image_tower"], pictures)


def scaled_latents(model: DynamiCrafterModel, params: Any, pictures: jax.Array, noise: np.ndarray) -> jax.Array:
    """Returns latents of pictures in -1..1, sampled from the posterior with the stored noise."""
    encode = jax.jit(functools.partial(model.networks["autoencoder"].apply, method="encode"))
    return encode({"params": params["autoencoder"]}, pictures, picture(noise))


class _Video(NamedTuple):
    """Inputs from which a video is made: picture tokens, latents, and for each frame the index of its latent."""

    picture_tokens: jax.Array
    null_picture_tokens: jax.Array
    latents: jax.Array
    latent_source: jax.Array
    frame_rate: jax.Array


def _sampled(
    golden: Golden, model: DynamiCrafterModel, params: Any, given: _Video, *, keep: int
) -> Iterator[Comparison]:
    """Compares the conditions, the final latents and the first ``keep`` frames."""
    arrays, guidance = golden.arrays(), guidance_of(model, golden.config)
    inputs = model.inputs(
        {
            **{"text": jnp.asarray(arrays["in/text"]), "null_text": jnp.asarray(arrays["in/null_text"])},
            **given._asdict(),
        }
    )
    encode = jax.jit(lambda params, inputs: model.encode(params, branch_inputs(model, inputs, guidance.branches)))
    tokens = encode(params, inputs)
    context = jnp.concatenate([tokens.text, tokens.image], axis=1)
    yield compare("context", context[-1:], arrays["out/context"], LOOP_TOLERANCE)
    yield compare("unconditional context", context[:1], arrays["out/uncond_context"], LOOP_TOLERANCE)
    yield compare("image latents", channels_first(inputs.image_latents), arrays["out/c_concat"], LOOP_TOLERANCE)
    for x, _ in run_loop(model, params, tokens, guidance=guidance, golden=golden):
        latents = x
    yield compare("latents", channels_first(latents), arrays["out/latents"], LOOP_TOLERANCE)
    decode = lambda params, latents: model.render(  # noqa: E731
        params, model.decode(params, latents, inputs), inputs, jnp.arange(keep)
    )
    frames = jax.jit(decode)(params, latents)
    yield compare("video", channels_first(frames), arrays["out/video"], LOOP_TOLERANCE)


def pipeline(golden: Golden) -> Iterator[Comparison]:
    """Compares the published command-line program, from pictures to video."""
    arrays, given = golden.arrays(), golden.config
    model, params = model_of(given, golden, aux=True, interpolation=given["interp"] or given["loop"])
    frames, pictures = given["frames"], picture(arrays["in/images"])
    # the reference repeats the picture to a video of F frames and encodes it with separate noise for each frame
    order = np.arange(frames) // (frames // 2) if given["interp"] else np.zeros(frames, int)
    repeated = pictures[np.minimum(order, len(pictures) - 1)]
    source = np.zeros(frames, int)
    if model.config.interpolation:
        source[1:], source[-1] = -1, frames - 1
    made_of = _Video(
        see(model, params, pictures[:1]),
        see(model, params, jnp.zeros_like(pictures[:1])),
        scaled_latents(model, params, repeated, arrays["in/posterior_noise"])[None],
        jnp.asarray(source)[None],
        jnp.full(1, given["fs"], jnp.float32),
    )
    yield from _sampled(golden, model, params, made_of, keep=frames)


def pipeline_gui(golden: Golden) -> Iterator[Comparison]:
    """Compares the published web demo, from pictures of any size to a video."""
    arrays, given = golden.arrays(), golden.config
    interpolates = given["mode"] in ("interp", "loop")
    strides = given["parameterization"] == "eps"
    config = {"interpolation": interpolates, "frames": given["frames"], "reads_stride": strides}
    model, params = model_of(given, golden, aux=True, **config)
    height, width = given["resolution"]
    options = SamplingOptions(
        **{"height": height, "width": width, "picture_fit": "gui"},
        **{"frame_stride" if strides else "fps_condition": given["fs"]},
        end_image=arrays["in/image2"] if given["mode"] == "interp" else None,
        loop=True if given["mode"] == "loop" else None,
    )
    request = make_request(model, image=arrays["in/image1"], prompt="any", tracks=None, options=options)
    plan = model.plan(request, Tokenizer.published())
    frames = jnp.asarray(to_model_range(plan.raw["video"][0]))
    made_of = _Video(
        see(model, params, jnp.asarray(plan.raw["picture"])),
        see(model, params, jnp.asarray(plan.raw["null_picture"])),
        scaled_latents(model, params, frames, arrays["in/posterior_noise"])[None],
        jnp.asarray(plan.raw["latent_source"]),
        jnp.asarray(plan.raw["frame_rate"]),
    )
    shown = len(plan.keep_frames) if plan.keep_frames else given["frames"]
    yield from _sampled(golden, model, params, made_of, keep=shown)


RUNNERS = {
    "dc_unet": unet,
    "dc_unet_fullsize": unet_fullsize,
    "dc_ddim": ddim,
    "dc_pipeline": pipeline,
    "dc_pipeline_gui": pipeline_gui,
}
