"""Names of the smaller networks in the published weights: position net, image encoder, autoencoder, CLIP towers."""

from __future__ import annotations

from smcd_jax.models.smcd.config import ImageEncoderConfig
from smcd_jax.nn.config import AutoencoderConfig, PositionNetConfig, TextEncoderConfig, VisionEncoderConfig
from smcd_jax.weights.conversion_table import CONV, LINEAR, POINTWISE_2D, Row, array, norm, under, weighted


def position_net_rows(config: PositionNetConfig) -> list[Row]:
    """``pytorch_model_1.bin``."""
    rows = array("null_positive_feature", "null_label") + array("null_position_feature", "null_box")
    for index in range(3):
        rows += weighted(f"linears.{2 * index}", f"dense_{index}", LINEAR)
    return rows


def image_encoder_rows(config: ImageEncoderConfig) -> list[Row]:
    """``pytorch_model_2.bin``, where it holds an image encoder."""
    rows = []
    for block in range(len(config.stages) * config.num_res_blocks):
        parts = weighted("in_conv", "conv_in", CONV)
        parts += weighted("block1", "conv_0", CONV) + weighted("block2", "conv_1", CONV)
        if block % config.num_res_blocks == 0 and block > 0:
            parts += weighted("down_opt.op", "downsample/conv", CONV)
        rows += under(f"body.{block}", f"block_{block}", parts)
    return rows + weighted("conv_in", "conv_in", CONV)


def autoencoder_rows(config: AutoencoderConfig) -> list[Row]:
    """``VQGAN_autoencoder.pth`` behind its prefix ``first_stage_model.``."""
    rows = weighted("encoder.conv_in", "encoder/conv_in", CONV)
    width, top = config.base_channels, len(config.channel_mult) - 1
    for level, multiplier in enumerate(config.channel_mult):
        for index in range(config.num_res_blocks):
            skip = width != config.base_channels * multiplier
            width = config.base_channels * multiplier
            torch, path = f"encoder.down.{level}.block.{index}", f"encoder/down_{level}_residual_{index}"
            rows += under(torch, path, _residual_rows(skip=skip))
        if level < top:
            rows += weighted(f"encoder.down.{level}.downsample.conv", f"encoder/down_{level}_downsample", CONV)
    for level, multiplier in reversed(list(enumerate(config.channel_mult))):
        for index in range(config.num_res_blocks + 1):
            skip = width != config.base_channels * multiplier
            width = config.base_channels * multiplier
            torch, path = f"decoder.up.{level}.block.{index}", f"decoder/up_{level}_residual_{index}"
            rows += under(torch, path, _residual_rows(skip=skip))
        if level > 0:
            rows += weighted(f"decoder.up.{level}.upsample.conv", f"decoder/up_{level}_upsample/conv", CONV)
    rows += weighted("decoder.conv_in", "decoder/conv_in", CONV)
    for side in ("encoder", "decoder"):
        rows += under(f"{side}.mid", f"{side}/middle", _middle_rows())
        rows += norm(f"{side}.norm_out", f"{side}/norm_out") + weighted(f"{side}.conv_out", f"{side}/conv_out", CONV)
    return (
        rows + weighted("quant_conv", "quant", POINTWISE_2D) + weighted("post_quant_conv", "post_quant", POINTWISE_2D)
    )


def text_encoder_rows(config: TextEncoderConfig) -> list[Row]:
    """The text half of ``open_clip_pytorch_model.bin``."""
    rows = array("token_embedding.weight", "token_embedding") + array("positional_embedding", "position_embedding")
    for layer in range(config.layers):
        rows += under(f"transformer.resblocks.{layer}", f"block_{layer}", _clip_block_rows())
    rows += norm("ln_final", "norm_final")
    if config.embed_width:
        rows += array("text_projection", "text_projection") + array("logit_scale", "logit_scale")
    return rows


def vision_encoder_rows(config: VisionEncoderConfig) -> list[Row]:
    """The vision half of ``open_clip_pytorch_model.bin``."""
    rows = array("class_embedding", "class_embedding") + array("positional_embedding", "position_embedding")
    rows += weighted("conv1", "patch_embedding", CONV, bias=False)
    rows += norm("ln_pre", "norm_in") + norm("ln_post", "norm_out") + array("proj", "projection")
    for layer in range(config.layers):
        rows += under(f"transformer.resblocks.{layer}", f"block_{layer}", _clip_block_rows())
    return [Row(f"visual.{row.torch}", row.path, row.layout) for row in rows]


def _residual_rows(*, skip: bool) -> list[Row]:
    rows = norm("norm1", "norm_0") + weighted("conv1", "conv_0", CONV)
    rows += norm("norm2", "norm_1") + weighted("conv2", "conv_1", CONV)
    return rows + (weighted("nin_shortcut", "skip", POINTWISE_2D) if skip else [])


def _middle_rows() -> list[Row]:
    rows = under("block_1", "residual_0", _residual_rows(skip=False))
    rows += under("block_2", "residual_1", _residual_rows(skip=False))
    rows += norm("attn_1.norm", "attention/norm")
    for torch, path in (("q", "query"), ("k", "key"), ("v", "value"), ("proj_out", "out")):
        rows += weighted(f"attn_1.{torch}", f"attention/{path}", POINTWISE_2D)
    return rows


def _clip_block_rows() -> list[Row]:
    rows = norm("ln_1", "norm_attention") + norm("ln_2", "norm_mlp")
    rows += array("attn.in_proj_weight", "attention/query_key_value/kernel", LINEAR)
    rows += array("attn.in_proj_bias", "attention/query_key_value/bias")
    rows += weighted("attn.out_proj", "attention/out", LINEAR)
    return rows + weighted("mlp.c_fc", "dense_in", LINEAR) + weighted("mlp.c_proj", "dense_out", LINEAR)
