"""Helpers of the golden cases: open files, weights by our names, and comparisons relative to the largest output."""

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
# bfloat16 keeps 8 significant bits, so a rounding is off by up to 2^-9 (0.2 %) of a value. A hundred roundings in a row
# add up to about 2 % of the largest output as a random walk; 5 % leaves room for other kernels' order of summation.
BFLOAT16_TOLERANCE = 0.05
BFLOAT16_LOOP_TOLERANCE = 0.15  # ten steps; guidance weighs differences of outputs, and their errors, several times


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One quantity of one file."""

    quantity: str
    error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """False for NaN."""
        return bool(self.error <= self.tolerance)


@dataclasses.dataclass(frozen=True)
class Golden:
    """One golden file with its entry of ``cases.json``."""

    folder: Path
    file: str
    case: Mapping[str, Any]
    policy: ComputePolicy = dataclasses.field(default_factory=ComputePolicy)

    @property
    def config(self) -> Mapping[str, Any]:
        """Sizes, by the reference's names."""
        return self.case["config"]

    def other_case(self, file: str) -> Mapping[str, Any]:
        """The entry of another file, for cases that borrow its weights."""
        return json.loads((self.folder / "cases.json").read_text())[file]

    def arrays(self, file: str | None = None) -> Mapping[str, np.ndarray]:
        """Returns the arrays of the file, or of another file in the same folder, and closes it."""
        return np.load(io.BytesIO((self.folder / (file or self.file)).read_bytes()))

    def weights(self, file: str | None = None, prefix: str = "w/") -> dict[str, np.ndarray]:
        """PyTorch names to float32 arrays."""
        arrays = self.arrays(file)
        names = [name for name in arrays.keys() if name.startswith(prefix)]  # noqa: SIM118
        return {name.removeprefix(prefix): arrays[name].astype(np.float32) for name in names}


def params_of(rows: Sequence[Row], tensors: Mapping[str, np.ndarray], abstract: Any, where: str) -> dict[str, Any]:
    """Returns our parameter tree from golden weights; every name must match."""
    match(rows, tensors, flatten(abstract), where=where)
    return unflatten({path: jnp.asarray(leaf) for path, leaf in to_flax(rows, tensors).items()})


def load_aux(golden: Golden, file: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns configs and parameters of position net and image encoder from their common file."""
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
    """Compares arrays by the largest difference, as a share of the largest expected value."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if got.shape != want.shape:
        return Comparison(f"{quantity}: shape {got.shape}, wanted {want.shape}", np.inf, tolerance)
    return Comparison(quantity, float(np.abs(got - want).max() / np.abs(want).max()), tolerance)


def video(array: np.ndarray) -> jax.Array:
    """[b, c, f, h, w] to [b, f, h, w, c]."""
    return jnp.asarray(array.transpose(0, 2, 3, 4, 1))


def picture(array: np.ndarray) -> jax.Array:
    """[b, c, h, w] to [b, h, w, c]."""
    return jnp.asarray(array.transpose(0, 2, 3, 1))


def channels_first(array: Any) -> np.ndarray:
    """The inverse of `video` and `picture`."""
    return np.moveaxis(np.asarray(array), -1, 1)
