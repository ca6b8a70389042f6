"""Golden cases of training: the loss of one step and the gradient of every trained parameter."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from smcd_jax.models.registry import make_model
from smcd_jax.models.smcd.config import ModelConfig
from smcd_jax.models.smcd.conversion.table import image_encoder_rows, unet_rows
from smcd_jax.models.smcd.model import Inputs, SMCDModel
from smcd_jax.models.tables.box_tokens import position_net_rows
from smcd_jax.nn.config import AutoencoderConfig
from smcd_jax.nn.networks import flatten
from smcd_jax.training.config import TrainConfig
from smcd_jax.training.step import Noised, denoising_losses
from smcd_jax.weights.conversion_engine import to_torch
from tests.golden.case_unet import load_unet
from tests.golden.comparison import Comparison, Golden, compare, load_aux, picture, video

LOSS_TOLERANCE = 1e-5
# A gradient may differ by 1e-3 of its own norm plus 1e-6 of the global norm, because gradients of scalar gates are sums
# that nearly cancel, and the true gradient of one tensor is exactly zero.
OF_ITS_NORM, OF_GLOBAL_NORM = 1e-3, 1e-6
PREFIXES = {"unet": "unet.", "position_net": "position_net.", "image_encoder": "visual_encoder."}


def train_step(golden: Golden) -> Iterator[Comparison]:
    """Stage 1 trains on still images without temporal layers; stage 2 on clips with the first frame as condition."""
    arrays, stage = golden.arrays(), golden.config["stage"]
    config, unet_params = load_unet(golden, golden.case["unet"], golden.other_case(golden.case["unet"]))
    configs, aux = load_aux(golden, golden.case["aux"])
    configs = {"unet": config} | configs
    params = {"unet": unet_params} | aux
    loss = loss_and_gradients(tuple(configs.items()), stage)
    value, gradients = loss(params, step_inputs(arrays, drop_all=golden.config["drop_all"]))
    yield compare("loss", value, arrays["out/loss"], LOSS_TOLERANCE)

    ours: dict[str, np.ndarray] = {}
    tables = {"unet": unet_rows, "position_net": position_net_rows, "image_encoder": image_encoder_rows}
    for name in configs:
        named = to_torch(tables[name](configs[name]), flatten(gradients[name]))
        ours |= {PREFIXES[name] + torch: array for torch, array in named.items()}
    yield worst_gradient(ours, arrays)


@functools.cache
def loss_and_gradients(configs: tuple[tuple[str, Any], ...], stage: int) -> Callable[..., Any]:
    """Returns one program for all files of a stage; every input is an argument, including the dropped conditions."""
    return jax.jit(jax.value_and_grad(lambda params, step: step_loss(dict(configs), params, step, stage)))


class StepInputs(NamedTuple):
    """Inputs of one step."""

    latents: jax.Array
    noised: Noised
    inputs: Inputs


def step_inputs(arrays: Mapping[str, np.ndarray], *, drop_all: bool) -> StepInputs:
    """Returns the stored latents, noise, timesteps and conditions."""
    noise = video(arrays["in/noise"])
    batch, frames = noise.shape[:2]
    clips = lambda name: jnp.asarray(arrays[name]).reshape(batch, frames, *arrays[name].shape[1:])  # noqa: E731
    latents = (picture(arrays["in/z_vae"]) * AutoencoderConfig().scaling_factor).reshape(noise.shape)
    boxes, mask, labels = (clips(f"in/{name}") for name in ("boxes", "masks", "text_embeddings"))
    given = Inputs(jnp.asarray(arrays["in/y"]), None, boxes, mask, labels, latents[:, 0], latents[:, 0])
    if drop_all:
        nothing = jnp.zeros(batch, bool)
        keep = {"boxes": nothing, "image_latent": nothing, "image_tokens": nothing}
        given = SMCDModel(ModelConfig()).drop(given, keep)
    return StepInputs(latents, Noised(noise, jnp.asarray(arrays["in/t"])), given)


def step_loss(configs: Mapping[str, Any], params: Mapping[str, Any], step: StepInputs, stage: int) -> jax.Array:
    """Returns the loss that `smcd train` minimises."""
    used = configs if stage == 2 else {name: part for name, part in configs.items() if name != "image_encoder"}
    config = TrainConfig(
        model=ModelConfig(**{"image_encoder": None, **used}), trainable=("unet/.*",), temporal=stage == 2
    )
    model = make_model(config.model)
    return denoising_losses(
        model, params, step.latents, step.noised, inputs=step.inputs, temporal=config.temporal
    ).mean()


def worst_gradient(ours: Mapping[str, np.ndarray], arrays: Mapping[str, np.ndarray]) -> Comparison:
    """Compares every stored gradient, complete or sampled; the error is relative to the allowed difference."""
    stored = {name.split("/", 1)[1]: name for name in arrays.keys() if name.startswith(("g/", "g_sample/"))}  # noqa: SIM118
    global_norm = np.sqrt(sum(float(arrays[f"g_norm/{name}"]) ** 2 for name in stored if f"g_norm/{name}" in arrays))
    if not global_norm:
        global_norm = np.sqrt(sum(float(np.square(arrays[key]).sum()) for key in stored.values()))
    shares = {}
    for name, key in stored.items():
        got = np.asarray(ours[name], np.float64)
        if key.startswith("g_sample/"):
            got = got.reshape(-1)[:: int(arrays[f"g_stride/{name}"])]
        want = np.asarray(arrays[key], np.float64)
        allowed = OF_ITS_NORM * np.linalg.norm(want) + OF_GLOBAL_NORM * global_norm
        shares[name] = np.linalg.norm(got - want) / allowed
        if f"g_norm/{name}" in arrays:
            norm = float(arrays[f"g_norm/{name}"])
            off = abs(np.linalg.norm(np.asarray(ours[name], np.float64)) - norm)
            shares[name] = max(shares[name], off / (OF_ITS_NORM * norm + OF_GLOBAL_NORM * global_norm))
    name = max(shares, key=shares.get)
    label = f"{len(shares)} gradients / allowed"
    return Comparison(label if shares[name] <= 1 else f"{label} ({name})", float(shares[name]), 1.0)


RUNNERS = {"train_step": train_step}
