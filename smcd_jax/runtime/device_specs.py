"""What kinds of accelerators can do at most: operations a second in a type, and memory; as vendors state, or measured.

A kind is the text of `jax.Device.device_kind`: of TPUs JAX's own names, of NVIDIA's GPUs the name of the CUDA device.
"""

from __future__ import annotations

import re
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

MATMUL_SIDE = {"cpu": 2048}  # of the product that measures a device; large enough to fill it
ACCELERATOR_SIDE = 8192
# Products handed over before the host waits: the wait costs 0.1 ms or so, and a product takes 1.4 ms on an H100.
ACCELERATOR_QUEUE = 20


class _Peak(NamedTuple):
    """Dense operations a second in units of 1e12, a multiply-add counted as two; None where there is no figure."""

    bfloat16: float | None
    float16: float | None
    float32: float | None = None  # on the ordinary cores: "highest" precision in JAX, no TF32


def _half(tera: float, float32: float | None = None) -> _Peak:
    return _Peak(tera, tera, float32)


# TPU: cloud.google.com/tpu/docs, pages v4, v5e, v5p and v6e, "peak compute per chip (bf16)". A device is a chip for all
# of them (v4 and v5p join two cores). float16 and float32 products have no figure: they are not the chip's own types.
# JAX reports "TPU v5 lite" and "TPU v6 lite" for v5e and v6e, "TPU v5" for v5p; the short forms are its newer ones.
_TPU = {
    r"TPU v4": _Peak(275, None),
    r"TPU v5 lite|TPU v5e": _Peak(197, None),
    r"TPU v5p?": _Peak(459, None),
    r"TPU v6 lite|TPU v6e": _Peak(918, None),
}

# NVIDIA: tensor cores, dense. Where a data sheet states figures with sparsity they are halved here.
_NVIDIA = {
    # Tesla V100 data sheet: tensor cores know float16 alone
    r"V100-PCIE-\d+GB": _Peak(None, 112, 14),
    r"V100-SXM\d-\d+GB": _Peak(None, 125, 15.7),
    # A100 data sheet
    r"A100-SXM4-\d+GB|A100-PCIE-\d+GB|A100 \d+GB PCIe": _half(312, 19.5),
    # H100 data sheet (SXM, PCIe, NVL: 1979, 1513 and 1671 with sparsity)
    r"H100 80GB HBM3": _half(989.5, 67),
    r"H100 PCIe": _half(756.5, 51),
    r"H100 NVL": _half(835.5, 60),
    # H200 data sheet (SXM, NVL: 1979 and 1671 with sparsity)
    r"H200": _half(989.5, 67),
    r"H200 NVL": _half(835.5, 60),
    # HGX B200 at 1000 W, Blackwell architecture technical brief (4500 with sparsity)
    r"B200": _half(2250, 80),
    # L4 data sheet (242 with sparsity)
    r"L4": _half(121, 30.3),
    # L40S data sheet
    r"L40S": _half(362.05, 91.6),
    # Ada and Ampere GA102 whitepapers, with float32 accumulation, at which GeForce cards run at half the tensor rate
    r"GeForce RTX 4090": _half(165.2, 82.6),
    r"GeForce RTX 3090": _half(71, 35.6),
}
_BRAND = r"(?:NVIDIA |Tesla )?"  # older drivers leave the first out

# HBM of a chip, same pages as above; their gigabytes are 2**30 bytes. The compiler keeps a little for itself.
_TPU_GIBIBYTES = {
    r"TPU v4": 32,
    r"TPU v5 lite|TPU v5e": 16,
    r"TPU v5p?": 95,
    r"TPU v6 lite|TPU v6e": 32,
}


def peak_flops(device_kind: str, dtype: Any) -> float | None:
    """Dense operations a second of one device as its vendor states them, a multiply-add counted as two.

    Args:
        device_kind: `jax.Device.device_kind`.
        dtype: of the factors: bfloat16, float16 or float32. float32 is meant with precision "highest"; JAX's default
            on GPUs (TF32) and TPUs (bfloat16) is faster than its figure.

    Returns:
        None where there is no figure: CPUs, kinds that are not in the table, types that the device has no unit for.
    """
    peak = _lookup(_TPU, device_kind) or _lookup(_NVIDIA, device_kind, prefix=_BRAND)
    tera = getattr(peak, jnp.dtype(dtype).name, None)
    return None if tera is None else tera * 1e12


def memory_bytes(device_kind: str) -> int | None:
    """Memory of one TPU chip by its kind, None for other devices: those that are here say it themselves."""
    gibibytes = _lookup(_TPU_GIBIBYTES, device_kind)
    return None if gibibytes is None else gibibytes * 2**30


def measured_flops(dtype: Any, *, precision: str | None = None, repeats: int = 5) -> float:
    """Operations a second of the first device in a large matrix product: a peak for devices without a figure.

    Takes about a second, and 3 GB on an accelerator; nothing else should run meanwhile.
    """
    queued = 1 if jax.default_backend() == "cpu" else ACCELERATOR_QUEUE
    side = MATMUL_SIDE.get(jax.default_backend(), ACCELERATOR_SIDE)
    a, b = (jax.random.normal(jax.random.key(seed), (side, side)).astype(dtype) for seed in (0, 1))
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision=precision))
    product(a, b).block_until_ready()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready([product(a, b) for _ in range(queued)])
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 * queued / min(seconds)


def _lookup(table: dict[str, Any], device_kind: str, *, prefix: str = "") -> Any:
    """The entry whose pattern is the whole kind: "RTX 3090 Ti" and "4090 Laptop GPU" are other devices."""
    return next((entry for kind, entry in table.items() if re.fullmatch(f"{prefix}(?:{kind})", device_kind)), None)
