"""Conversion tables of DynamiCrafter's ``model.ckpt``, by component; gates and position net have names of our own."""

from __future__ import annotations

from smcd_jax.models.dynamicrafter.config import DynamiCrafterUNetConfig, ModelConfig, ResamplerConfig
from smcd_jax.models.leftovers import leftovers_rows
from smcd_jax.models.tables.autoencoder_kl import autoencoder_rows
from smcd_jax.models.tables.box_tokens import position_net_rows
from smcd_jax.models.tables.clip_towers import text_encoder_rows, vision_encoder_rows
from smcd_jax.models.tables.gates import gates_rows
from smcd_jax.models.tables.unet_blocks import embedding_rows, residual_rows, transformer_rows
from smcd_jax.nn.config import Gate
from smcd_jax.nn.unet_blocks import BlockPlan, decoder_plan, encoder_plan
from smcd_jax.weights.conversion_table import CONV, LINEAR, POINTWISE_1D, Row, array, norm, under, weighted

PREFIXES = {
    "unet": "model.diffusion_model.",
    "resampler": "image_proj_model.",
    "image_tower": "embedder.model.",
    "text_encoder": "cond_stage_model.model.",
    "autoencoder": "first_stage_model.",
    "position_net": "position_net.",
    "leftovers": "",
}
FRAMESTRIDE, FPS = "model.diffusion_model.framestride_embed.", "model.diffusion_model.fps_embedding."


def component_rows(config: ModelConfig) -> dict[str, list[Row]]:
    """Returns the conversion table of each component, with names as in the checkpoint file."""
    tables = {
        "unet": unet_rows,
        "resampler": resampler_rows,
        "image_tower": vision_encoder_rows,
        "text_encoder": text_encoder_rows,
        "autoencoder": autoencoder_rows,
        "position_net": position_net_rows,
        "leftovers": leftovers_rows,
    }
    rows = {
        name: [row._replace(torch=PREFIXES[name] + row.torch) for row in tables[name](part)]
        for name, part in config.components().items()
    }
    if config.leftovers is not None and config.leftovers.framestride_names:
        rows["unet"] = [row._replace(torch=row.torch.replace(FPS, FRAMESTRIDE)) for row in rows["unet"]]
    return rows


def unet_rows(config: DynamiCrafterUNetConfig) -> list[Row]:
    """Returns the rows of ``model.diffusion_model.``; the 256 file calls ``fps_embedding`` ``framestride_embed``."""
    rows = embedding_rows("time_embed", "time_embedding") + embedding_rows("fps_embedding", "fps_embedding")
    rows += under("init_attn.0", "encoder_0/temporal", transformer_rows(POINTWISE_1D))
    channels = config.base_channels
    for index, plan in enumerate(encoder_plan(config)):
        rows += _block_rows(config, plan, f"input_blocks.{index}", f"encoder_{index}", skip=plan.channels != channels)
        channels = plan.channels
    rows += under("middle_block.0", "middle/attended/residual", residual_rows(skip=False))
    rows += under("middle_block.1", "middle/attended/spatial", _spatial_rows(config))
    rows += under("middle_block.2", "middle/attended/temporal", transformer_rows(LINEAR))
    rows += under("middle_block.3", "middle/plain/residual", residual_rows(skip=False))
    for index, plan in enumerate(decoder_plan(config)):
        rows += _block_rows(config, plan, f"output_blocks.{index}", f"decoder_{index}", skip=True)
    return rows + norm("out.0", "norm_out") + weighted("out.2", "conv_out", CONV)


def resampler_rows(config: ResamplerConfig) -> list[Row]:
    """Returns the rows of all arrays under ``image_proj_model.``."""
    rows = array("latents", "latents") + weighted("proj_in", "proj_in", LINEAR)
    rows += weighted("proj_out", "proj_out", LINEAR) + norm("norm_out", "norm_out")
    for layer in range(config.layers):
        attention = norm("norm1", "norm_image") + norm("norm2", "norm_queries")
        for torch, path in (("to_q", "query"), ("to_kv", "key_value"), ("to_out", "out")):
            attention += weighted(torch, path, LINEAR, bias=False)
        rows += under(f"layers.{layer}.0", f"attention_{layer}", attention)
        rows += norm(f"layers.{layer}.1.0", f"norm_{layer}")
        rows += weighted(f"layers.{layer}.1.1", f"dense_in_{layer}", LINEAR, bias=False)
        rows += weighted(f"layers.{layer}.1.3", f"dense_out_{layer}", LINEAR, bias=False)
    return rows


def spatial_rows(*, images: bool = True, learned_scale: bool = False, gate: Gate = "none") -> list[Row]:
    """Returns the rows of a SpatialTransformer, with dual cross-attention, its scale, and gates."""
    own: list[Row] = []
    if images:
        own += weighted("to_k_ip", "image_key", LINEAR, bias=False)
        own += weighted("to_v_ip", "image_value", LINEAR, bias=False)
        own += array("alpha", "alpha_image") if learned_scale else []
    rows = transformer_rows(LINEAR) + under("transformer_blocks.0.attn2", "block/cross_attention", own)
    return rows + under("transformer_blocks.0.gate_attn", "block/gates", gates_rows(gate))


def _spatial_rows(config: DynamiCrafterUNetConfig) -> list[Row]:
    return spatial_rows(learned_scale=config.learned_image_scale, gate=config.gate)


def _block_rows(config: DynamiCrafterUNetConfig, plan: BlockPlan, torch: str, path: str, *, skip: bool) -> list[Row]:
    if plan.kind == "stem":
        return weighted(f"{torch}.0", f"{path}/conv", CONV)
    if plan.kind == "downsample":
        return weighted(f"{torch}.0.op", f"{path}/downsample/conv", CONV)
    rows = under("0", "residual", residual_rows(skip=skip))
    if plan.attention:
        rows += under("1", "spatial", _spatial_rows(config)) + under("2", "temporal", transformer_rows(LINEAR))
    if plan.upsample:
        rows += weighted(f"{3 if plan.attention else 1}.conv", "upsample/conv", CONV)
    return under(torch, path, rows)
