"""Golden cases of single modules: embeddings, blocks, transformers, the smaller networks, and CLIP towers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from smcd_jax.models.smcd.config import ImageEncoderConfig
from smcd_jax.models.smcd.conversion.table import image_encoder_rows, spatial_rows
from smcd_jax.models.tables.autoencoder_kl import autoencoder_rows
from smcd_jax.models.tables.box_tokens import position_net_rows
from smcd_jax.models.tables.clip_towers import text_encoder_rows, vision_encoder_rows
from smcd_jax.models.tables.unet_blocks import residual_rows, transformer_rows
from smcd_jax.nn.box_tokens import fourier_features
from smcd_jax.nn.config import AutoencoderConfig, PositionNetConfig, TextEncoderConfig, VisionEncoderConfig
from smcd_jax.nn.gated_attention import GATE_FORMS, AdapterTokens
from smcd_jax.nn.layers import Downsample, Upsample, sinusoid
from smcd_jax.nn.networks import abstract_params, network
from smcd_jax.nn.transformers import SpatialParts, SpatialTransformer, TemporalTransformer
from smcd_jax.nn.unet_blocks import ResidualBlock, TemporalConvBlock
from smcd_jax.weights.conversion_table import CONV, POINTWISE_1D, Row, weighted
from tests.golden.comparison import Comparison, Golden, channels_first, compare, params_of, picture, video

GATES = {
    None: "none",
    "vanilla": "object",
    "vanilla_cross_vision": "object_image",
    "vanilla_cross_vision_parallel": "parallel",
    "double": "double",
    "merge": "merge",
}


def module_params(golden: Golden, rows: list[Row], module: nn.Module, *inputs: jax.Array, **how: object) -> dict:
    """Returns a module's parameters, taken from the file's weights."""
    abstract = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs, **how)["params"])
    return {"params": params_of(rows, golden.weights(), abstract, golden.file)}


def sinusoidal_embedding(golden: Golden) -> Iterator[Comparison]:
    """Compares with an absolute tolerance of 1e-4: the reference's own float32 phases are off by up to 4.5e-5."""
    arrays = golden.arrays()
    for name in arrays.keys():  # noqa: SIM118
        if name.startswith("out/dim"):
            got = sinusoid(jnp.asarray(arrays["in/t"], jnp.float32), int(name.removeprefix("out/dim")))
            yield compare(name, got, arrays[name], 1e-4)


def position_net(golden: Golden) -> Iterator[Comparison]:
    """Compares Fourier features, tokens, and the tokens of absent boxes."""
    arrays, weights = golden.arrays(), golden.weights()
    config = PositionNetConfig(golden.config["in_dim"], golden.config["out_dim"], weights["linears.0.bias"].shape[0])
    params = params_of(position_net_rows(config), weights, abstract_params(config), golden.file)
    boxes, mask, labels = arrays["in/boxes"], arrays["in/masks"], arrays["in/positive_embeddings"]
    run = jax.jit(network(config, golden.policy).apply)
    yield compare("fourier", fourier_features(jnp.asarray(boxes)), arrays["out/fourier"])
    yield compare("tokens", run({"params": params}, boxes, mask, labels), arrays["out/objs"])
    zeros = [np.zeros_like(array) for array in (boxes, mask, labels)]
    yield compare("null tokens", run({"params": params}, *zeros), arrays["out/null"])


def image_encoder(golden: Golden) -> Iterator[Comparison]:
    """Compares the image tokens."""
    arrays = golden.arrays()
    config = ImageEncoderConfig(arrays["in/x"].shape[1], tuple(golden.config["channels"]), golden.config["nums_rb"])
    params = params_of(image_encoder_rows(config), golden.weights(), abstract_params(config), golden.file)
    got = jax.jit(network(config, golden.policy).apply)({"params": params}, picture(arrays["in/x"]))
    yield compare("tokens", got, arrays["out/tokens"])


def residual_block(golden: Golden) -> Iterator[Comparison]:
    """Compares the block, its temporal part alone, and the block on still images."""
    arrays, config = golden.arrays(), golden.config
    batch, channels = config["batch"], config["out_channels"]
    frames = arrays["in/x"].shape[0] // batch
    # each frame has its own time embedding, so frames enter as one-frame clips; only the temporal part gets full clips
    x, time = picture(arrays["in/x"])[:, None], jnp.asarray(arrays["in/emb"])
    module = ResidualBlock(channels, golden.policy)
    rows = residual_rows(skip=config["in_channels"] != channels)
    params = module_params(golden, rows, module, x, time)
    still = module.apply(params, x, time, temporal=False)
    yield compare("still images", channels_first(still[:, 0]), arrays["out/y_image_dataset"])
    temporal, part = TemporalConvBlock(channels, golden.policy), {"params": params["params"]["temporal_conv"]}
    clips = temporal.apply(part, still.reshape(batch, frames, *still.shape[2:]))
    yield compare("block", channels_first(clips.reshape(-1, *clips.shape[2:])), arrays["out/y"])
    got = temporal.apply(part, video(arrays["in/tc_x"]))
    yield compare("temporal convolutions", channels_first(got), arrays["out/temporal_conv"])


def downsample(golden: Golden) -> Iterator[Comparison]:
    """Compares downsampling of even and odd sizes."""
    yield from _resample(golden, Downsample, "op")


def upsample(golden: Golden) -> Iterator[Comparison]:
    """Compares nearest-neighbour upsampling followed by a convolution."""
    yield from _resample(golden, Upsample, "conv")


def _resample(golden: Golden, kind: type[nn.Module], name: str) -> Iterator[Comparison]:
    arrays, weights = golden.arrays(), golden.weights()
    module = kind(weights[f"{name}.weight"].shape[0], golden.policy)
    params = module_params(golden, weighted(name, "conv", CONV), module, picture(arrays["in/x"]))
    for key in arrays.keys():  # noqa: SIM118
        if key.startswith("in/x"):
            got = module.apply(params, picture(arrays[key]))
            yield compare(key, channels_first(got), arrays[key.replace("in/x", "out/y")])


def spatial_transformer(golden: Golden) -> Iterator[Comparison]:
    """Compares the complete transformer, with and without boxes, and its gates alone."""
    arrays, given, gate = golden.arrays(), golden.config, GATES[golden.case["gate"]]
    optional = lambda name: jnp.asarray(arrays[name]) if name in arrays else None  # noqa: E731
    objects, image_tokens = optional("in/grounding_context"), optional("in/visual_feat")
    parts = SpatialParts(adapters=GATE_FORMS.get(gate))
    module = SpatialTransformer(given["channels"], given["channels"] // given["head_dim"], golden.policy, parts)

    def run(module: SpatialTransformer, x: jax.Array, objects: jax.Array | None, mask: jax.Array | None) -> jax.Array:
        text = jnp.asarray(arrays["in/context"])
        tokens = None if objects is None else AdapterTokens(objects, mask, image_tokens)
        return module(x, module.keys_values(text, tokens))

    def run_gates(module: SpatialTransformer, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        gates = module.block.gates
        return gates(x, gates.keys_values(AdapterTokens(objects, mask, image_tokens)))

    x, mask = picture(arrays["in/x"]), optional("in/grounding_masks")
    params = module_params(golden, spatial_rows(gate), module, x, objects, mask, method=run)
    yield compare("output", channels_first(module.apply(params, x, objects, mask, method=run)), arrays["out/y"])
    if objects is None:
        return
    shut = module.apply(params, x, None, None, method=run)
    yield compare("without boxes", channels_first(shut), arrays["out/y_no_grounding"])
    gates = module.apply(params, jnp.asarray(arrays["in/gate_x"]), mask, method=run_gates)
    yield compare("gates alone", gates, arrays["out/gate_y"])
    if "out/y_masks_none" in arrays:
        unmasked = module.apply(params, x, objects, None, method=run)
        yield compare("without masks", channels_first(unmasked), arrays["out/y_masks_none"])


def temporal_transformer(golden: Golden) -> Iterator[Comparison]:
    """Compares attention across frames."""
    arrays, config = golden.arrays(), golden.config
    module = TemporalTransformer(config["channels"], config["heads"], config["head_dim"], golden.policy)
    params = module_params(golden, transformer_rows(POINTWISE_1D), module, video(arrays["in/x"]))
    yield compare("output", channels_first(module.apply(params, video(arrays["in/x"]))), arrays["out/y"])


def autoencoder(golden: Golden) -> Iterator[Comparison]:
    """Compares the posterior, a sample from it, and the decoder."""
    arrays, given = golden.arrays(), golden.config
    config = AutoencoderConfig(
        base_channels=given["ch"],
        channel_mult=tuple(given["ch_mult"]),
        num_res_blocks=given["num_res_blocks"],
        latent_channels=given["z_channels"],
        picture_channels=given["in_channels"],
    )
    params = {"params": params_of(autoencoder_rows(config), golden.weights(), abstract_params(config), golden.file)}
    module = network(config, golden.policy)
    posterior = module.apply(params, picture(arrays["in/image"]), method="posterior")
    yield compare("mean", channels_first(posterior.mean), arrays["out/mean"])
    yield compare("log variance", channels_first(posterior.log_variance), arrays["out/logvar"])
    sample = posterior.with_noise(picture(arrays["in/posterior_noise"]))
    yield compare("sample", channels_first(sample), arrays["out/sample_with_noise"])
    decode = lambda z: channels_first(module.apply(params, z, method="decode_unscaled"))  # noqa: E731
    yield compare("decoded latents", decode(picture(arrays["in/z"])), arrays["out/decode"])
    yield compare("decoded mean", decode(posterior.mean), arrays["out/recon_mode"])


def clip_towers(golden: Golden) -> Iterator[Comparison]:
    """Compares the text tower and, if the file has one, the vision tower."""
    arrays, given, weights = golden.arrays(), golden.config, golden.weights()
    embed_width = weights["text_projection"].shape[1] if "text_projection" in weights else given["width"]
    config = TextEncoderConfig(
        vocabulary=given["vocab_size"],
        length=given["context_length"],
        width=given["width"],
        heads=given["heads"],
        layers=given["layers"],
        embed_width=embed_width,
    )
    rows = text_encoder_rows(config)
    text = {row.torch: weights[row.torch] for row in rows if row.torch in weights}
    for row in rows:  # the smallest files omit weights that conditioning does not use
        if row.torch in ("text_projection", "logit_scale") and row.torch not in text:
            text[row.torch] = np.zeros({"logit_scale": ()}.get(row.torch, (config.width, embed_width)), np.float32)
    params = {"params": params_of(rows, text, abstract_params(config), golden.file)}
    tower, ids = network(config, golden.policy), jnp.asarray(arrays["in/ids"])
    yield compare("penultimate", tower.apply(params, ids), arrays["out/penultimate"])
    if "out/last" in arrays:
        yield compare("last layer", tower.apply(params, ids, method="last_layer"), arrays["out/last"])
    if "out/get_token_embedding" in arrays:
        labels = tower.apply(params, ids, method="label_embedding")
        yield compare("label embedding", labels, arrays["out/get_token_embedding"])
    if "out/visual_tokens" in arrays:
        yield from _vision_tower(golden, weights, arrays)


def _vision_tower(golden: Golden, weights: dict, arrays: dict) -> Iterator[Comparison]:
    visual = {name: array for name, array in weights.items() if name.startswith("visual.")}
    width, _, patch, _ = visual["visual.conv1.weight"].shape
    config = VisionEncoderConfig(
        picture_size=arrays["in/image"].shape[-1],
        patch=patch,
        width=width,
        heads=width // _vision_head_width(golden),
        layers=len({name.split(".")[3] for name in visual if "resblocks" in name}),
        embed_width=visual["visual.proj"].shape[1],
    )
    rows = vision_encoder_rows(config)
    params = {"params": params_of(rows, visual, abstract_params(config), golden.file)}
    got = network(config, golden.policy).apply(params, picture(arrays["in/image"]), method="patch_tokens")
    yield compare("vision tokens", got, arrays["out/visual_tokens"])


def _vision_head_width(golden: Golden) -> int:
    """Returns the head width from the note in ``index.json``; ``cases.json`` describes only the text tower's heads."""
    index = golden.folder / "index.json"
    note = json.loads(index.read_text()).get(golden.file, {}).get("note", "") if index.is_file() else ""
    found = re.search(r"'head_width': (\d+)", note)
    return int(found[1]) if found else golden.config["width"] // golden.config["heads"]


RUNNERS = {
    "sinusoidal_embedding": sinusoidal_embedding,
    "position_net": position_net,
    "visual_encoder": image_encoder,
    "resblock": residual_block,
    "downsample": downsample,
    "upsample": upsample,
    "spatial_transformer": spatial_transformer,
    "temporal_transformer": temporal_transformer,
    "autoencoder_kl": autoencoder,
    "clip_text": clip_towers,
}
