"""Golden cases of LVMM's and LFDM's motion UNets, and of their layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from smcd_jax.models.lvmm.conversion.unet_table import (
    attention_rows,
    linear_attention_rows,
    motion_unet_rows,
    number_embedding_rows,
    residual_rows,
    upsample_rows,
)
from smcd_jax.models.lvmm.imagebind import image_token, text_token
from smcd_jax.models.lvmm.motion_attention import CrossAttention, LinearAttention, SpatialAttention, TemporalAttention
from smcd_jax.models.lvmm.motion_blocks import (
    MotionDownsample,
    MotionResidualBlock,
    MotionUpsample,
    NumberEmbedding,
    sine_first_sinusoid,
)
from smcd_jax.models.lvmm.unet_config import MotionUNetConfig
from smcd_jax.models.tables.imagebind import (
    IMAGEBIND_TEXT,
    IMAGEBIND_VISION,
    imagebind_text_rows,
    imagebind_vision_rows,
)
from smcd_jax.nn.frame_positions import relative_bias, relative_buckets, rotate_by_frame
from smcd_jax.nn.networks import abstract_params, network
from smcd_jax.weights.conversion_table import FRAMEWISE, Row, weighted
from tests.golden.comparison import Comparison, Golden, channels_first, compare, params_of, picture, video


def unet_config(given: Mapping[str, Any], *, vector: bool = False) -> MotionUNetConfig:
    """Returns our config, given the reference's arguments; ``vector`` selects LFDM's network."""
    return MotionUNetConfig(
        input_channels=given["channels"],
        grid_channels=given["out_grid_dim"],
        confidence_channels=given.get("out_conf_dim", 0),
        base_channels=given["dim"],
        channel_mult=tuple(given["dim_mults"]),
        heads=given["attn_heads"],
        head_dim=given["attn_dim_head"],
        condition="vector" if vector else "tokens",
        context_dim=given["cond_dim"],
        learned_null=given.get("learn_null_cond", False),
        upsampling="deconv" if given.get("use_deconv", True) else "nearest",
        padding=given.get("padding_mode", "zeros"),
        groups=given.get("resnet_groups", 8),
        per_frame=not given.get("flow_prediction", True),
    )


def load_unet(golden: Golden, file: str) -> tuple[MotionUNetConfig, dict[str, Any]]:
    """Returns the config and parameters of a UNet file."""
    case = golden.other_case(file)
    config = unet_config(case["config"], vector=case["kind"] == "lfdm_unet")
    return config, params_of(motion_unet_rows(config), golden.weights(file), abstract_params(config), file)


def layer_params(
    layer: nn.Module, rows: Sequence[Row], tensors: Mapping[str, np.ndarray], *inputs: Any, method: str = "__call__"
) -> dict[str, Any]:
    """Returns a layer's parameters from ``tensors``; ``method``, called with ``inputs``, must use all of them."""
    shapes = jax.eval_shape(lambda: layer.init(jax.random.key(0), *inputs, method=method)["params"])
    return {"params": params_of(rows, tensors, shapes, type(layer).__name__)}


def relative_position_bias(golden: Golden) -> Iterator[Comparison]:
    """Compares the bias, and the buckets exactly, for several numbers of frames."""
    arrays, given = golden.arrays(), golden.config
    (table,) = golden.weights().values()
    for name in (name for name in arrays if name.startswith("out/")):
        kind, frames = name.removeprefix("out/").split("_")
        if kind == "bias":
            got = relative_bias(jnp.asarray(table), int(frames), max_distance=given["max_distance"])[0]
            yield compare(f"bias of {frames} frames", got, arrays[name])
        else:
            sizes = {key: given[key] for key in ("num_buckets", "max_distance")}
            yield compare(f"buckets of {frames} frames", relative_buckets(int(frames), **sizes), arrays[name], 0.0)


def rotary(golden: Golden) -> Iterator[Comparison]:
    """Compares rotated queries for every head width."""
    arrays = golden.arrays()
    for name in (name for name in arrays if name.startswith("in/q_")):
        by_frame = jnp.moveaxis(jnp.asarray(arrays[name]), -2, 1)
        got = rotate_by_frame(by_frame, int(name.rsplit("rot", 1)[1]))
        yield compare(name.removeprefix("in/"), jnp.moveaxis(got, 1, -2), arrays[name.replace("in/", "out/", 1)])


def temporal_attention(golden: Golden) -> Iterator[Comparison]:
    """Compares temporal attention with and without bias, and with frames that attend only to themselves."""
    arrays, given = golden.arrays(), golden.config
    layer = TemporalAttention(given["dim"], given["heads"], given["dim_head"], golden.policy)
    x, bias = video(arrays["in/x"]), jnp.asarray(arrays["in/pos_bias"])[None]
    params = layer_params(layer, attention_rows(), _without_buffers(golden.weights()), x, bias)
    own = jnp.where(jnp.eye(x.shape[1], dtype=bool), bias, jnp.finfo(jnp.float32).min)
    mixed = np.arange(len(x)) == 0
    biases = {"y": bias, "y_no_bias": None, "y_focus_all": own}
    biases["y_focus_mixed"] = jnp.where(mixed[:, None, None, None], own, bias)
    for name, used in biases.items():
        yield compare(name, channels_first(layer.apply(params, x, used)), arrays[f"out/{name}"])


def cross_attention(golden: Golden) -> Iterator[Comparison]:
    """Compares attention to tokens and to all-zero tokens."""
    arrays, given = golden.arrays(), golden.config
    layer = CrossAttention(given["dim"], given["heads"], given["dim_head"], golden.policy)
    x, tokens = video(arrays["in/x"]), jnp.asarray(arrays["in/cond"])
    whole = lambda module, x, tokens: module(x, module.keys_values(tokens))  # noqa: E731
    params = layer_params(layer, attention_rows(), _without_buffers(golden.weights()), x, tokens, method=whole)
    for name, given_tokens in (("y", tokens), ("y_null", jnp.zeros_like(tokens))):
        got = layer.apply(params, x, given_tokens, method=whole)
        yield compare(name, channels_first(got), arrays[f"out/{name}"])


def spatial_attention(golden: Golden) -> Iterator[Comparison]:
    """Compares attention among the pixels of each frame."""
    given = golden.config
    layer = SpatialAttention(given["dim"], given["heads"], given["dim_head"], golden.policy)
    yield from _one_layer(golden, layer, attention_rows())


def linear_attention(golden: Golden) -> Iterator[Comparison]:
    """Compares linear attention among the pixels of each frame."""
    layer = LinearAttention(golden.config["heads"], golden.policy, golden.config["dim_head"])
    yield from _one_layer(golden, layer, linear_attention_rows())


def residual_block(golden: Golden) -> Iterator[Comparison]:
    """Compares residual blocks with the time embedding, and without it at equal widths."""
    arrays, given = golden.arrays(), golden.config
    policy = network(MotionUNetConfig(groups=given["groups"]), golden.policy).policy
    x, time = video(arrays["in/x"]), jnp.asarray(arrays["in/t"])
    layer = MotionResidualBlock(given["dim_out"], policy)
    rows = residual_rows(skip=given["dim"] != given["dim_out"])
    params = layer_params(layer, rows, golden.weights(), x, time)
    yield compare("y", channels_first(layer.apply(params, x, time)), arrays["out/y"])
    layer = MotionResidualBlock(given["dim"], policy)
    params = layer_params(layer, residual_rows(time=False), golden.weights(prefix="wn/"), x)
    yield compare("y_no_time", channels_first(layer.apply(params, x)), arrays["out/y_no_time"])


def resampling(golden: Golden) -> Iterator[Comparison]:
    """Compares downsampling, and upsampling by transposed convolution or by nearest neighbour with reflect padding."""
    arrays, channels, policy = golden.arrays(), golden.config["dim"], golden.policy
    x = video(arrays["in/x"])
    prefixed = lambda prefix: {f"x.{name}": tensor for name, tensor in golden.weights(prefix=prefix).items()}  # noqa: E731
    down = MotionDownsample(channels, policy)
    params = layer_params(down, weighted("x", "conv", FRAMEWISE), prefixed("wd/"), x)
    yield compare("down", channels_first(down.apply(params, x)), arrays["out/down"])
    configs = {
        "up_deconv": MotionUNetConfig(),
        "up_nearest_reflect": MotionUNetConfig(upsampling="nearest", padding="reflect"),
    }
    for (name, config), prefix in zip(configs.items(), ("wu/", "wn/"), strict=True):
        layer = MotionUpsample(channels, config, policy)
        rows = [row._replace(path=row.path.removeprefix("up/")) for row in upsample_rows(config, "x", "up")]
        params = layer_params(layer, rows, prefixed(prefix), x)
        yield compare(name, channels_first(layer.apply(params, x)), arrays[f"out/{name}"])


def time_embedding(golden: Golden) -> Iterator[Comparison]:
    """Compares the sinusoidal embedding and the layers after it."""
    arrays, width = golden.arrays(), golden.config["dim"]
    times = jnp.asarray(arrays["in/t"], jnp.float32)
    yield compare("sinusoid", sine_first_sinusoid(times, width), arrays["out/sinusoid"])
    layer = NumberEmbedding(width, golden.policy)
    rows = [Row(row.torch[2:], row.path[2:], row.layout) for row in number_embedding_rows("t", "t")]
    params = layer_params(layer, rows, golden.weights(), times)
    yield compare("y", layer.apply(params, times), arrays["out/y"])


def motion_unet(golden: Golden) -> Iterator[Comparison]:
    """Compares LVMM's network with dropped, guided and swapped conditions, and with reversed or single frames."""
    arrays = golden.arrays()
    config, params = load_unet(golden, golden.file)
    forward = _forward(config, golden)
    x, times, tokens = video(arrays["in/x"]), jnp.asarray(arrays["in/t"], jnp.float32), jnp.asarray(arrays["in/cond"])
    batch = len(x)
    keep, none = jnp.ones(batch, bool), jnp.zeros(batch, bool)

    def run(
        x: jax.Array = x, tokens: jax.Array = tokens, keep: jax.Array = keep, focus: jax.Array = none
    ) -> np.ndarray:
        return channels_first(forward(params, x, times, tokens, keep, focus))

    given, null = run(), run(keep=none)
    outputs = {"eps": lambda: given, "eps_null": lambda: null}
    outputs["eps_focus_all"] = lambda: run(focus=keep)
    outputs["eps_focus_mixed"] = lambda: run(focus=jnp.arange(batch) == batch - 1)
    outputs["eps_frames_flipped"] = lambda: run(x=x[:, ::-1])[:, :, ::-1]
    outputs["eps_tokens_swapped"] = lambda: run(tokens=tokens[:, ::-1])
    for name in (name.removeprefix("out/") for name in arrays if name.startswith("out/")):
        if name.startswith("eps_scale"):
            got = null + float(name.removeprefix("eps_scale")) * (given - null)
        else:
            got = outputs[name]()
        yield compare(name, got, arrays[f"out/{name}"])


def frame_unet(golden: Golden) -> Iterator[Comparison]:
    """Compares LVMM's network with a frame index, for given and for all-zero tokens."""
    arrays = golden.arrays()
    config, params = load_unet(golden, golden.file)
    x = jnp.concatenate([video(arrays["in/x"]), video(arrays["in/cat"])], axis=-1)
    module, index = network(config, golden.policy), jnp.asarray(arrays["in/seq"], jnp.float32)
    tokens, times = jnp.asarray(arrays["in/cross"]), jnp.asarray(arrays["in/t"], jnp.float32)

    @jax.jit
    def forward(params: Any, tokens: jax.Array) -> jax.Array:
        context = module.apply({"params": params}, tokens, frame_index=index, method="context")
        return module.apply({"params": params}, x, times, context)

    yield compare("eps", channels_first(forward(params, tokens)), arrays["out/eps"])
    yield compare("eps_null", channels_first(forward(params, jnp.zeros_like(tokens))), arrays["out/eps_null"])


def lfdm_unet(golden: Golden) -> Iterator[Comparison]:
    """Compares the output of LFDM's network with and without its condition."""
    arrays = golden.arrays()
    config, params = load_unet(golden, golden.file)
    forward = _forward(config, golden)
    x, times, vector = video(arrays["in/x"]), jnp.asarray(arrays["in/t"], jnp.float32), jnp.asarray(arrays["in/cond"])
    keep, none = jnp.ones(len(x), bool), jnp.zeros(len(x), bool)
    for name, used in (("eps", keep), ("eps_null", none)):
        got = forward(params, x, times, vector, used, none)
        yield compare(name, channels_first(got), arrays[f"out/{name}"])


def imagebind_towers(golden: Golden) -> Iterator[Comparison]:
    """Compares the tokens of enlarged pictures and of texts; the file's token table has only the rows that are used."""
    arrays, weights = golden.arrays(), golden.weights()
    stem = weights["modality_preprocessors.vision.rgbt_stem.proj.1.weight"].shape
    positions = weights["modality_preprocessors.vision.pos_embedding_helper.pos_embed"].shape[1]
    side, small = round((positions - 1) ** 0.5) * stem[-1], arrays["in/image_small"]
    pictures = picture(small.repeat(side // small.shape[2], axis=2).repeat(side // small.shape[3], axis=3))
    ids = jnp.asarray(arrays["in/ids"])
    text_width = golden.config["text_embed_dim"]
    table = np.zeros((IMAGEBIND_TEXT.vocabulary, text_width), np.float32)
    table[arrays["in/embedding_ids"]] = arrays["in/embedding_rows"]
    weights["modality_preprocessors.text.token_embedding.weight"] = table
    sizes = {"embed_width": golden.config["out_embed_dim"]}
    for tower in ("vision", "text"):
        given = {part: golden.config[f"{tower}_{part}"] for part in ("embed_dim", "num_blocks", "num_heads")}
        own = sizes | {"width": given["embed_dim"], "layers": given["num_blocks"], "heads": given["num_heads"]}
        if tower == "vision":
            own |= {"picture_size": side, "patch": stem[-1], "patch_frames": stem[2]}
        else:
            own["length"] = ids.shape[1]
        config = dataclasses.replace(IMAGEBIND_VISION if tower == "vision" else IMAGEBIND_TEXT, **own)
        rows = (imagebind_vision_rows if tower == "vision" else imagebind_text_rows)(config)
        tensors = {row.torch: weights[row.torch] for row in rows if row.torch in weights}
        params = params_of(rows, tensors, abstract_params(config), tower)
        token = image_token if tower == "vision" else text_token
        got = token(params, pictures if tower == "vision" else ids, config, golden.policy)
        yield compare(tower, got, arrays[f"out/{tower}"])


def _forward(config: MotionUNetConfig, golden: Golden) -> Any:
    """Returns the compiled network, with masks for kept conditions and for frames that attend only to themselves."""
    module = network(config, golden.policy)

    @jax.jit
    def forward(params: Any, x: Any, times: Any, condition: Any, keep: Any, focus: Any) -> jax.Array:
        variables = {"params": params}
        kept = module.apply(variables, condition, keep, method="with_null")
        context = module.apply(variables, kept, method="context")
        return module.apply(variables, x, times, context, focus_present=focus)

    return forward


def _one_layer(golden: Golden, layer: nn.Module, rows: Sequence[Row]) -> Iterator[Comparison]:
    arrays = golden.arrays()
    x = video(arrays["in/x"])
    params = layer_params(layer, rows, _without_buffers(golden.weights()), x)
    yield compare("y", channels_first(layer.apply(params, x)), arrays["out/y"])


def _without_buffers(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("rotary_emb.freqs")}


RUNNERS = {
    "lvmm_relative_position_bias": relative_position_bias,
    "lvmm_rotary": rotary,
    "lvmm_attention_temporal": temporal_attention,
    "lvmm_attention_cross": cross_attention,
    "lvmm_attention_spatial": spatial_attention,
    "lvmm_attention_linear": linear_attention,
    "lvmm_resnet_block": residual_block,
    "lvmm_down_up": resampling,
    "lvmm_time_embedding": time_embedding,
    "lvmm_unet": motion_unet,
    "lvmm_unet_frame": frame_unet,
    "lfdm_unet": lfdm_unet,
    "imagebind_towers": imagebind_towers,
}
