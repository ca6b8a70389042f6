"""Peak FLOP/s and memory of accelerators, as published by their vendors, and a measured peak for other devices.

Devices are identified by `jax.Device.device_kind`: JAX's own names for TPUs, the CUDA device name for NVIDIA GPUs.
"""

from __future__ import annotations

import re
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# Side of the square matrices used to measure a device, large enough to occupy it fully.
MATMUL_SIDE = {"cpu": 2048}
ACCELERATOR_SIDE = 8192
# Number of products queued before the host waits: a wait costs about 0.1 ms, a product 1.4 ms on an H100.
ACCELERATOR_QUEUE = 20


class _Peak(NamedTuple):
    """Dense TFLOP/s per dtype, a multiply-add counted as two; None if no figure is published."""

    bfloat16: float | None
    float16: float | None
    float32: float | None = None  # without TF32, which is precision "highest" in JAX


def _half(tera: float, float32: float | None = None) -> _Peak:
    return _Peak(tera, tera, float32)


# TPU: cloud.google.com/tpu/docs, pages v4, v5e, v5p and v6e, "peak compute per chip (bf16)". One JAX device is
# one chip (v4 and v5p combine two cores). There is no figure for float16 and float32, which TPUs do not support
# natively. JAX reports "TPU v5 lite" for v5e, "TPU v6 lite" for v6e and "TPU v5" for v5p, or the short names.
_TPU = {
    r"TPU v4": _Peak(275, None),
    r"TPU v5 lite|TPU v5e": _Peak(197, None),
    r"TPU v5p?": _Peak(459, None),
    r"TPU v6 lite|TPU v6e": _Peak(918, None),
}

# NVIDIA: dense tensor core figures; figures that a data sheet gives with sparsity are halved here.
_NVIDIA = {
    # Tesla V100 data sheet; its tensor cores support float16 only
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
    # Ada and Ampere GA102 whitepapers, with float32 accumulation, which halves the tensor rate of GeForce cards
    r"GeForce RTX 4090": _half(165.2, 82.6),
    r"GeForce RTX 3090": _half(71, 35.6),
}
_BRAND = r"(?:NVIDIA |Tesla )?"  # older drivers omit "NVIDIA"

# HBM per chip in GiB, from the same pages as above; the compiler reserves a small part of it.
_TPU_GIBIBYTES = {
    r"TPU v4": 32,
    r"TPU v5 lite|TPU v5e": 16,
    r"TPU v5p?": 95,
    r"TPU v6 lite|TPU v6e": 32,
}


class _Bandwidth(NamedTuple):
    """Bandwidth of the memory, and of all links together over which one device sends data, in GB/s."""

    memory: float
    links: float


# TPU: HBM bandwidth, and half of the inter-chip interconnect bandwidth (one direction) per chip, from the pages above.
# NVIDIA: data sheets; NVLink's published figure counts both directions, so half of it is listed.
_BANDWIDTHS = {
    r"TPU v4": _Bandwidth(1228, 150),
    r"TPU v5 lite|TPU v5e": _Bandwidth(819, 100),
    r"TPU v5p?": _Bandwidth(2765, 300),
    r"TPU v6 lite|TPU v6e": _Bandwidth(1640, 224),
    r"(?:NVIDIA )?H100 80GB HBM3": _Bandwidth(3350, 450),
    r"(?:NVIDIA )?H200": _Bandwidth(4800, 450),
}


def memory_bandwidth(device_kind: str) -> float | None:
    """Returns the published bytes per second of one device's memory, or None if it is not in the table."""
    found = _lookup(_BANDWIDTHS, device_kind)
    return None if found is None else found.memory * 1e9


def link_bandwidth(device_kind: str) -> float | None:
    """Returns the published bytes per second that a device sends to others, or None if it is not in the table."""
    found = _lookup(_BANDWIDTHS, device_kind)
    return None if found is None else found.links * 1e9


def peak_flops(device_kind: str, dtype: Any) -> float | None:
    """Returns the published dense peak of one device in FLOP/s, a multiply-add counted as two.

    Args:
        device_kind: Value of `jax.Device.device_kind`.
        dtype: Dtype of the factors: bfloat16, float16 or float32. The float32 figure is for precision "highest"; JAX's
            default precision on GPUs (TF32) and TPUs (bfloat16) is faster.

    Returns:
        FLOP/s, or None for CPUs, devices that are not in the table, and dtypes without hardware support.
    """
    peak = _lookup(_TPU, device_kind) or _lookup(_NVIDIA, device_kind, prefix=_BRAND)
    tera = getattr(peak, jnp.dtype(dtype).name, None)
    return None if tera is None else tera * 1e12


def memory_bytes(device_kind: str) -> int | None:
    """Returns the memory of one TPU chip; None for other devices, which report their memory at run time."""
    gibibytes = _lookup(_TPU_GIBIBYTES, device_kind)
    return None if gibibytes is None else gibibytes * 2**30


def measured_flops(dtype: Any, *, precision: str | None = None, repeats: int = 5) -> float:
    """Measures the FLOP/s of the first device in a large matrix product, for devices without a published peak.

    Takes about a second, and 3 GB on an accelerator; the device should be idle otherwise.

    Args:
        dtype: Dtype of the factors.
        precision: Matmul precision as for `jax.numpy.matmul`.
        repeats: Number of products; the fastest one counts.
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
    """Returns the entry whose pattern matches the whole name; "RTX 3090 Ti" is not an "RTX 3090"."""
    return next((entry for kind, entry in table.items() if re.fullmatch(f"{prefix}(?:{kind})", device_kind)), None)
