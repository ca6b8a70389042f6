"""Golden cases of complete networks: every UNet variant, the ControlNet, and the full-size UNet."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smcd_jax.models.smcd.config import ControlNetConfig
from smcd_jax.models.smcd.conversion.table import controlnet_rows, unet_rows
from smcd_jax.nn.config import UNetConfig
from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.nn.networks import abstract_params, network
from tests.golden.case_modules import GATES
from tests.golden.comparison import Comparison, Golden, channels_first, compare, params_of, picture, video


def unet_config(case: Mapping[str, Any], image_width: int = 1024, object_width: int = 1024) -> UNetConfig:
    """Returns our config, given the reference's arguments."""
    given = case["config"]
    return UNetConfig(
        latent_channels=given["out_dim"] if "out_dim" in given else given["in_dim"],
        base_channels=given["dim"],
        channel_mult=tuple(given["dim_mult"]),
        num_res_blocks=given["num_res_blocks"],
        attention_scales=tuple(given["attn_scales"]),
        head_dim=given["head_dim"],
        stem_heads=given["num_heads"],
        context_dim=given["context_dim"],
        object_width=object_width,
        image_width=image_width,
        gate=GATES[case.get("gate")],
        image_latent=case.get("concat_image", False),
        fps_embedding=case.get("fps", False),
        control=case.get("control", False),
    )


def load_unet(golden: Golden, file: str, case: Mapping[str, Any]) -> tuple[UNetConfig, dict[str, Any]]:
    """Returns the config and parameters of a UNet file; ``case`` may be another case that reuses the file's weights."""
    weights = golden.weights(file)
    gates = {name.rsplit("gate_attn.", 1)[1]: array for name, array in weights.items() if ".gate_attn." in name}
    widths = {"object_width": gates["linear.weight"].shape[1]} if gates else {}
    image = gates.get("v_linear.weight", gates.get("visual_linear.weight"))
    widths |= {} if image is None else {"image_width": image.shape[1]}
    config = unet_config(case, **widths)
    return config, params_of(unet_rows(config), weights, abstract_params(config), file)


def run_unet(
    config: UNetConfig, params: Any, latents: Any, t: Any, text: Any, *, policy: ComputePolicy, **more: Any
) -> np.ndarray:
    """Runs the UNet on golden inputs, in which objects, masks and image tokens have shape ``(b f) n ...``."""
    module = network(config, policy)

    temporal = more.pop("temporal", True)

    @jax.jit
    def forward(params: Any, latents: jax.Array, t: jax.Array, text: jax.Array, given: dict, more: dict) -> jax.Array:
        conditions = module.apply({"params": params}, text, method="keys_values", **given)
        return module.apply({"params": params}, latents, t, conditions, temporal=temporal, **more)

    b, f = latents.shape[:2]
    folded = ("objects", "object_mask", "image_tokens")
    given = {name: jnp.asarray(more.pop(name)) for name in folded if more.get(name) is not None}
    given = {name: array.reshape(b, f, *array.shape[1:]) for name, array in given.items()}
    return channels_first(forward(params, latents, jnp.asarray(t, jnp.float32), jnp.asarray(text), given, more))


def unet(golden: Golden) -> Iterator[Comparison]:
    """Compares every output of the file except those of the unused object-oriented attention."""
    arrays = golden.arrays()
    config, params = load_unet(golden, golden.file, golden.case)
    t, text = arrays["in/t"], arrays["in/y"]
    run = functools.partial(run_unet, config, params, policy=golden.policy)
    latents = video(arrays["in/x"])
    given = {
        "objects": "in/grounding_context",
        "object_mask": "in/grounding_masks",
        "image_tokens": "in/visual_feat",
    }
    given = {name: arrays[key] for name, key in given.items() if key in arrays}
    if config.fps_embedding:
        fps = jnp.asarray(arrays["in/fps"], jnp.float32)
        yield compare("eps", run(latents, t, text, fps=fps), arrays["out/eps"])
        yield compare("eps without fps", run(latents, t, text), arrays["out/eps_fps_none"])
        return
    if config.control:
        given["control"] = control_features(arrays, latents.shape)
    yield compare("eps", run(latents, t, text, **given), arrays["out/eps"])
    if "out/eps_no_grounding" in arrays:
        yield compare("eps without boxes", run(latents, t, text), arrays["out/eps_no_grounding"])
    if "out/eps_image_f1" in arrays:
        still = {"objects": arrays["in/image_grounding_context"], "temporal": False}
        got = run(video(arrays["in/image_x"]), t, text, **still)
        yield compare("eps of still images", got, arrays["out/eps_image_f1"])


def control_features(arrays: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> tuple[jax.Array, ...]:
    """Returns the stored ControlNet features in encoder order."""
    count = sum(name.startswith("in/control_feat_") for name in arrays.keys())  # noqa: SIM118
    features = [picture(arrays[f"in/control_feat_{index}"]) for index in range(count)]
    return tuple(feature.reshape(*shape[:2], *feature.shape[1:]) for feature in features)


def controlnet(golden: Golden) -> Iterator[Comparison]:
    """Compares every ControlNet feature."""
    arrays = golden.arrays()
    config = ControlNetConfig(unet_config(golden.case))
    params = {"params": params_of(controlnet_rows(config), golden.weights(), abstract_params(config), golden.file)}
    module = network(config, golden.policy)

    @jax.jit
    def run(params: Any, text: jax.Array, *inputs: jax.Array) -> Any:
        return module.apply(params, *inputs, module.apply(params, text, method="keys_values"))

    t = jnp.asarray(arrays["in/t"], jnp.float32)
    features = run(params, jnp.asarray(arrays["in/y"]), video(arrays["in/x"]), picture(arrays["in/hint"]), t)
    for index, feature in enumerate(features):
        got = channels_first(feature.reshape(-1, *feature.shape[2:]))
        yield compare(f"feature {index}", got, arrays[f"out/feat_{index}"])


def unet_fullsize(golden: Golden) -> Iterator[Comparison]:
    """Compares the UNet at its published size, with weights from the golden README's portable hash."""
    from tests.golden.formula_weights import formula_weights

    arrays, config = golden.arrays(), unet_config(golden.case)
    abstract = abstract_params(config)
    rows = unet_rows(config)
    from smcd_jax.nn.networks import flatten

    leaves = flatten(abstract)
    shapes = {row.torch: row.layout.torch_shape(leaves[row.path].shape) for row in rows}
    params = params_of(rows, dict(formula_weights("unet.", shapes)), abstract, golden.file)
    params = jax.tree.map(jnp.asarray, params)
    given = {
        "objects": arrays["in/grounding_context"],
        "image_tokens": arrays["in/visual_feat"],
    }
    small = {name: array[:2] for name, array in given.items()}
    latents = video(arrays["in/x"])
    run = functools.partial(run_unet, config, params, policy=golden.policy)
    got = run(latents[:, :2, :16, :16], arrays["in/t"], arrays["in/y"][:, :7], **small)
    yield compare("eps, 2 frames of 16 x 16", got, arrays["out/small_eps"])
    got = run(latents, arrays["in/t"], arrays["in/y"], **given)
    yield compare("eps, 8 frames of 32 x 32", got, arrays["out/eps"])


RUNNERS = {"unet": unet, "controlnet": controlnet, "unet_fullsize": unet_fullsize}
