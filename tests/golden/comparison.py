"""Helpers for golden cases: reading files, converting weights, and comparing relative to the largest output."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smcd_jax.models.smcd.config import ImageEncoderConfig
from smcd_jax.models.smcd.conversion.table import image_encoder_rows
from smcd_jax.models.tables.box_tokens import position_net_rows
from smcd_jax.nn.config import PositionNetConfig
from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.nn.networks import abstract_params, flatten, unflatten
from smcd_jax.weights.conversion_engine import match, to_flax
from smcd_jax.weights.conversion_table import Row

MODULE_TOLERANCE = 2e-5  # share of the largest output; the reference's own float32 noise is about 1e-6
# bfloat16 keeps 8 significant bits, so rounding changes a value by up to 2^-9 (0.2 %). As a random walk, a hundred
# successive roundings add up to about 2 % of the largest output; 5 % leaves room for kernels that sum in another order.
BFLOAT16_TOLERANCE = 0.05
BFLOAT16_LOOP_TOLERANCE = 0.15  # ten steps; guidance multiplies differences between outputs, and with them their errors


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The comparison of one quantity in one file."""

    quantity: str
    error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether the error is within the tolerance; False for NaN."""
        return bool(self.error <= self.tolerance)


@dataclasses.dataclass(frozen=True)
class Golden:
    """One golden file with its entry in ``cases.json``."""

    folder: Path
    file: str
    case: Mapping[str, Any]
    policy: ComputePolicy = dataclasses.field(default_factory=ComputePolicy)

    @property
    def config(self) -> Mapping[str, Any]:
        """Sizes, under the reference's names."""
        return self.case["config"]

    def other_case(self, file: str) -> Mapping[str, Any]:
        """Returns the entry of another file, for cases that use that file's weights."""
        return json.loads((self.folder / "cases.json").read_text())[file]

    def arrays(self, file: str | None = None) -> Mapping[str, np.ndarray]:
        """Returns the arrays of this file, or of another file in the same folder; no file stays open."""
        return np.load(io.BytesIO((self.folder / (file or self.file)).read_bytes()))

    def weights(self, file: str | None = None, prefix: str = "w/") -> dict[str, np.ndarray]:
        """Returns the weights as float32 arrays by PyTorch name."""
        arrays = self.arrays(file)
        names = [name for name in arrays.keys() if name.startswith(prefix)]  # noqa: SIM118
        return {name.removeprefix(prefix): arrays[name].astype(np.float32) for name in names}


def params_of(rows: Sequence[Row], tensors: Mapping[str, np.ndarray], abstract: Any, where: str) -> dict[str, Any]:
    """Returns our parameter tree from golden weights; every name must match."""
    match(rows, tensors, flatten(abstract), where=where)
    return unflatten({path: jnp.asarray(leaf) for path, leaf in to_flax(rows, tensors).items()})


def load_aux(golden: Golden, file: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the configs and parameters of the position net and the image encoder, which share a file."""
    given, weights = golden.other_case(file)["config"], golden.weights(file)
    part = lambda prefix: {  # noqa: E731
        name.removeprefix(prefix): array for name, array in weights.items() if name.startswith(prefix)
    }
    tensors = {"position_net": part("position_net."), "image_encoder": part("visual_encoder.")}
    hidden = tensors["position_net"]["linears.0.bias"].shape[0]
    channels = tensors["image_encoder"]["conv_in.weight"].shape[1]
    encoder = given["visual_encoder"]
    configs = {
        "position_net": PositionNetConfig(given["position_net"]["in_dim"], given["position_net"]["out_dim"], hidden),
        "image_encoder": ImageEncoderConfig(channels, tuple(encoder["channels"]), encoder["nums_rb"]),
    }
    rows = {"position_net": position_net_rows, "image_encoder": image_encoder_rows}
    return configs, {
        name: params_of(rows[name](config), tensors[name], abstract_params(config), f"{file}: {name}")
        for name, config in configs.items()
    }


def compare(quantity: str, got: Any, want: np.ndarray, tolerance: float = MODULE_TOLERANCE) -> Comparison:
    """Compares arrays by their largest difference, relative to the largest expected value."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if got.shape != want.shape:
        return Comparison(f"{quantity}: shape {got.shape}, wanted {want.shape}", np.inf, tolerance)
    return Comparison(quantity, float(np.abs(got - want).max() / np.abs(want).max()), tolerance)


def video(array: np.ndarray) -> jax.Array:
    """Transposes [b, c, f, h, w] to [b, f, h, w, c]."""
    return jnp.asarray(array.transpose(0, 2, 3, 4, 1))


def picture(array: np.ndarray) -> jax.Array:
    """Transposes [b, c, h, w] to [b, h, w, c]."""
    return jnp.asarray(array.transpose(0, 2, 3, 1))


def channels_first(array: Any) -> np.ndarray:
    """Moves the channels from the last axis to axis 1, undoing `video` or `picture`."""
    return np.moveaxis(np.asarray(array), -1, 1)
