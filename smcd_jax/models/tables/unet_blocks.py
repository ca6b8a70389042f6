"""Conversion tables of video UNet blocks, for ModelScope's files and those of models made from it."""

from __future__ import annotations

from smcd_jax.weights.conversion_table import (
    CONV,
    LINEAR,
    POINTWISE_2D,
    TEMPORAL,
    Layout,
    Row,
    norm,
    under,
    weighted,
)


def embedding_rows(torch: str, path: str) -> list[Row]:
    """Returns the rows of the MLP that embeds a scalar, such as the timestep or the frame rate."""
    return weighted(f"{torch}.0", f"{path}/dense_in", LINEAR) + weighted(f"{torch}.2", f"{path}/dense_out", LINEAR)


def residual_rows(*, skip: bool) -> list[Row]:
    """Returns the rows of a residual block, whose temporal part the files spell ``temopral_conv``."""
    rows = norm("in_layers.0", "norm_in") + weighted("in_layers.2", "conv_in", CONV)
    rows += weighted("emb_layers.1", "time", LINEAR)
    rows += norm("out_layers.0", "norm_out") + weighted("out_layers.3", "conv_out", CONV)
    rows += weighted("skip_connection", "skip", POINTWISE_2D) if skip else []
    return rows + under("temopral_conv", "temporal_conv", temporal_conv_rows())


def temporal_conv_rows() -> list[Row]:
    """Returns the rows of four temporal convolutions; the first has no dropout, so one layer's number differs."""
    rows = []
    for index in range(4):
        rows += norm(f"conv{index + 1}.0", f"norm_{index}")
        rows += weighted(f"conv{index + 1}.{3 if index else 2}", f"conv_{index}/conv", TEMPORAL)
    return rows


def transformer_rows(projection: Layout) -> list[Row]:
    """Returns the rows of a transformer, whose projections are linear layers or convolutions of width 1."""
    block = under("attn1", "self_attention", attention_rows()) + under("attn2", "cross_attention", attention_rows())
    block += under("ff", "ff", feed_forward_rows())
    block += norm("norm1", "norm_self") + norm("norm2", "norm_cross") + norm("norm3", "norm_ff")
    rows = norm("norm", "norm") + weighted("proj_in", "proj_in", projection)
    return rows + under("transformer_blocks.0", "block", block) + weighted("proj_out", "proj_out", projection)


def attention_rows() -> list[Row]:
    """Returns the rows of multi-head attention: queries, keys and values without bias."""
    rows = []
    for torch, path in (("to_q", "query"), ("to_k", "key"), ("to_v", "value")):
        rows += weighted(torch, path, LINEAR, bias=False)
    return rows + weighted("to_out.0", "out", LINEAR)


def feed_forward_rows() -> list[Row]:
    """Returns the rows of the GEGLU feed-forward layer."""
    return weighted("net.0.proj", "dense_in", LINEAR) + weighted("net.2", "dense_out", LINEAR)
