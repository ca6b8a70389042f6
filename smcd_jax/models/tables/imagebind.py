"""Conversion tables of ImageBind's image and text towers in ``imagebind_huge.pth``, which also holds other towers.

The towers have the architecture of CLIP's (`smcd_jax.nn.clip_towers`).
"""

from __future__ import annotations

from smcd_jax.nn.config import TextEncoderConfig, VisionEncoderConfig
from smcd_jax.weights.conversion_table import CONV_3D, LINEAR, Layout, Row, array, norm, under, weighted

TEXT_MASK = "modality_preprocessors.text.mask"  # the causal mask, which the network computes
IMAGEBIND_TEXT = TextEncoderConfig(skip_last=0, epsilon=1e-6)
IMAGEBIND_VISION = VisionEncoderConfig(epsilon=1e-6, patch_frames=2)


def imagebind_text_rows(config: TextEncoderConfig) -> list[Row]:
    """Returns the conversion table of the text tower."""
    rows = array("modality_preprocessors.text.token_embedding.weight", "token_embedding")
    rows += array("modality_preprocessors.text.pos_embed", "position_embedding", Layout(ones=(0,)))
    rows += _block_rows("text", config.layers)
    rows += norm("modality_heads.text.proj.0", "norm_final")
    rows += array("modality_heads.text.proj.1.weight", "text_projection", LINEAR)
    return rows + array("modality_postprocessors.text.1.log_logit_scale", "logit_scale")


def imagebind_vision_rows(config: VisionEncoderConfig) -> list[Row]:
    """Returns the conversion table of the image tower."""
    preprocessor = "modality_preprocessors.vision"
    rows = array(f"{preprocessor}.cls_token", "class_embedding", Layout(ones=(0, 1)))
    rows += array(f"{preprocessor}.pos_embedding_helper.pos_embed", "position_embedding", Layout(ones=(0,)))
    rows += weighted(f"{preprocessor}.rgbt_stem.proj.1", "video_patch_embedding", CONV_3D, bias=False)
    rows += norm("modality_trunks.vision.pre_transformer_layer.0", "norm_in")
    rows += _block_rows("vision", config.layers)
    rows += norm("modality_heads.vision.0", "norm_out")
    return rows + array("modality_heads.vision.2.weight", "projection", LINEAR)


def _block_rows(tower: str, layers: int) -> list[Row]:
    block = norm("norm_1", "norm_attention") + norm("norm_2", "norm_mlp")
    block += array("attn.in_proj_weight", "attention/query_key_value/kernel", LINEAR)
    block += array("attn.in_proj_bias", "attention/query_key_value/bias")
    block += weighted("attn.out_proj", "attention/out", LINEAR)
    block += weighted("mlp.fc1", "dense_in", LINEAR) + weighted("mlp.fc2", "dense_out", LINEAR)
    trunk = f"modality_trunks.{tower}.blocks"
    return [row for layer in range(layers) for row in under(f"{trunk}.{layer}", f"block_{layer}", block)]
