"""Golden case of the Frechet video distance: preprocessing, the I3D network with formula weights, and the distance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smcd_jax.conversion.i3d_table import i3d_rows
from smcd_jax.evaluation.metrics.frechet import frechet_distance
from smcd_jax.evaluation.metrics.fvd_preprocess import fvd_frames
from smcd_jax.nn.i3d import I3D, I3DConfig
from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.nn.networks import flatten
from tests.golden.comparison import MODULE_TOLERANCE, Comparison, Golden, compare, params_of, video
from tests.golden.formula_weights import formula_weights, i3d_rule

REPEAT = 8  # the file stores every eighth pixel of its inputs


def i3d_params(config: I3DConfig) -> dict[str, Any]:
    """Returns parameters computed by the golden README's formula and mapped to Flax by the conversion table."""
    rows = i3d_rows(config)
    abstract = abstract_i3d(config)
    leaves = flatten(abstract)
    shapes = {row.torch: row.layout.torch_shape(leaves[row.path].shape) for row in rows}
    return params_of(rows, dict(formula_weights("i3d.", shapes, i3d_rule)), abstract, "formula weights")


def abstract_i3d(config: I3DConfig) -> dict[str, Any]:
    """Returns the shapes of the parameters."""
    module = I3D(config, ComputePolicy())
    return jax.eval_shape(lambda: module.init(jax.random.key(0), method="dummy_call")["params"])


def check_i3d(
    case: Mapping[str, Any], arrays: Mapping[str, np.ndarray], config: Mapping[str, Any]
) -> Iterator[tuple[str, Any, np.ndarray, float]]:
    """Yields each quantity's name, our value, the reference's, and the tolerance relative to the largest value."""
    frames = fvd_frames(arrays["in/frames_uint8"])
    yield "preprocessed frames", np.asarray(frames).transpose(3, 0, 1, 2), arrays["out/preprocessed"], MODULE_TOLERANCE

    module = I3D(I3DConfig(classes=config["num_classes"]), ComputePolicy())
    params = {"params": i3d_params(module.config)}
    both = jax.jit(lambda params, clip: (module.apply(params, clip), module.apply(params, clip, method="pooled")))
    for length in sorted(int(name.removeprefix("in/small_")) for name in arrays if name.startswith("in/small_")):
        small = video(arrays[f"in/small_{length}"].astype(np.float32))
        clip = small.repeat(REPEAT, axis=2).repeat(REPEAT, axis=3)
        logits, pooled = both(params, clip)
        yield f"logits of {length} frames", logits, arrays[f"out/logits_{length}"], MODULE_TOLERANCE
        wanted = arrays[f"out/pooled_{length}"]
        yield f"pooled of {length} frames", jnp.swapaxes(pooled, 1, 2), wanted, MODULE_TOLERANCE

    a, b = arrays["in/features_a"], arrays["in/features_b"]
    got = np.array([frechet_distance(a, b), frechet_distance(a, a)])
    want = np.array([arrays["out64/frechet_ab"], arrays["out64/frechet_aa"]])
    yield "Frechet distances", got, want, 1e-12  # both in float64


def i3d(golden: Golden) -> Iterator[Comparison]:
    """Runs `check_i3d` on a golden file."""
    for quantity, got, want, tolerance in check_i3d(golden.case, golden.arrays(), golden.config):
        yield compare(quantity, got, want, tolerance)


RUNNERS = {"i3d": i3d}
