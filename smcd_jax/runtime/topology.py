"""Devices by topology name: local devices, fake CPU devices, or a TPU slice or GPUs to compile for without them."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from smcd_jax.errors import SMCDError
from smcd_jax.runtime.device_specs import memory_bytes

LOCAL = "local"
EXAMPLES = "local, cpu:8, v5e:2x4, v5p:2x2x2, v4:2x2x1, v6e:4x4, h100:8"
_AXES = {"v4": 3, "v5e": 2, "v5p": 3, "v6e": 2}  # number of axes of a slice's shape

# HBM available to a program in GiB, from the error of libtpu 0.0.42 for programs that do not fit. The compiler
# reserves the rest.
_USABLE_GIBIBYTES = {"TPU v4": 30.75, "TPU v5 lite": 15.75, "TPU v5": 95.74, "TPU v6 lite": 31.25}

# GPU descriptions for the compiler, as XLA prints them for an installed card (``GpuTargetConfigProto`` in text form).
# For the H200, memory and bandwidth come from its data sheet and from a card; the rest is that of the H100.
_TARGETS = Path(__file__).parent / "gpu_targets"
_GPUS = ("h100", "h200")
GPU_SHARE = 0.75  # share of a GPU's memory that JAX takes by default, and that a running program can use

# Keeps libtpu from looking for a local TPU and for other processes that use it.
_COMPILE_ONLY = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class Topology(NamedTuple):
    """Devices for a mesh.

    Attributes:
        name: Topology name as requested.
        devices: Real or fake devices, or compile-only ones.
        usable_bytes: Memory available to a program on each device; None for CPU devices, which share main memory.
    """

    name: str
    devices: tuple[jax.Device, ...]
    usable_bytes: int | None

    @property
    def platform(self) -> str:
        """Platform of the devices: "cpu", "gpu" or "tpu"."""
        return self.devices[0].platform

    @property
    def device_kind(self) -> str:
        """Kind of the devices, see `smcd_jax.runtime.device_specs`."""
        return self.devices[0].device_kind


def check_topology_name(name: str) -> None:
    """Checks the form of a topology name without initializing JAX.

    Raises:
        SMCDError: The name is malformed.
    """
    if name == LOCAL or re.fullmatch(r"cpu:[1-9][0-9]{0,3}", name):
        return
    if _is_gpu(name):
        if not re.fullmatch(r".+:[1-8]", name):
            raise SMCDError(
                f"topology must have 1 to 8 GPUs of one host, as in h100:8; got {name!r}",
                argument="topology",
                value=name,
            )
        return
    kind, _, shape = name.partition(":")
    if kind not in _AXES:
        raise SMCDError(
            f"topology must be one of local, cpu:N, {', '.join(_AXES)} with a shape, or {', '.join(_GPUS)} or a .txtpb "
            f"file with a number, as in {EXAMPLES}; got {name!r}",
            argument="topology",
            value=name,
        )
    if not re.fullmatch(r"[1-9][0-9]{0,2}(x[1-9][0-9]{0,2}){1,2}", shape) or shape.count("x") + 1 != _AXES[kind]:
        example = "x".join(["2"] * _AXES[kind])
        raise SMCDError(
            f"topology of {kind} must have a shape of {_AXES[kind]} axes, as in {kind}:{example}; got {name!r}",
            argument="topology",
            value=name,
        )


def _is_gpu(name: str) -> bool:
    kind = name.rpartition(":")[0] or name
    return kind in _GPUS or kind.endswith(".txtpb")


def needs_other_devices(name: str) -> bool:
    """Returns whether the topology has no local devices, so that JAX can stay on the CPU."""
    return name != LOCAL


def find_topology(name: str) -> Topology:
    """Returns the devices of a topology.

    Args:
        name: "local" for the local devices; "cpu:N" for fake CPU devices, which are requested before JAX is initialized
            unless it already has that many; a TPU slice such as "v5e:2x4", which needs libtpu but no TPU; or GPUs of
            one host such as "h100:8" or "FILE.txtpb:1", which need JAX's CUDA plugin but no GPU.

    Raises:
        SMCDError: The topology is unknown, libtpu or the CUDA plugin is missing, or JAX has too few CPU devices.
    """
    check_topology_name(name)
    if name == LOCAL:
        devices = tuple(jax.devices())
        return Topology(name, devices, _usable_bytes(devices[0]))
    if _is_gpu(name):
        return _gpu_topology(name)
    kind, _, shape = name.partition(":")
    if kind == "cpu":
        return Topology(name, _cpu_devices(int(shape)), None)
    devices = _tpu_devices(kind, shape)
    return Topology(name, devices, _usable_bytes(devices[0]))


def topology_id(name: str) -> str:
    """Returns the name, followed by the contents of the file if it names one."""
    kind = name.rpartition(":")[0]
    return f"{name} {Path(kind).read_text()}" if kind.endswith(".txtpb") and Path(kind).is_file() else name


def _cpu_devices(count: int) -> tuple[jax.Device, ...]:
    with contextlib.suppress(RuntimeError):  # JAX is initialized already and may have enough devices
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise SMCDError(
            f"topology cpu:{count} needs {count} CPU devices, JAX has {len(devices)}; set "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={count}",
            argument="topology",
            value=f"cpu:{count}",
        )
    return tuple(devices[:count])


def _gpu_topology(name: str) -> Topology:
    kind, _, count = name.rpartition(":")
    if not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        raise SMCDError(
            f"topology {name} needs JAX's CUDA plugin, but no GPU; run pip install 'smcd_jax[cuda]'",
            argument="topology",
            value=name,
        )
    file = Path(kind) if kind.endswith(".txtpb") else _TARGETS / f"{kind}.txtpb"
    try:
        target = file.read_text()
        found = topologies.get_topology_desc(
            topology_name="", platform="cuda", target_config=target, topology=f"1x1x{count}"
        )
    except (OSError, jax.errors.JaxRuntimeError) as error:
        first = str(error).splitlines()[0]
        raise SMCDError(f"topology {name} cannot be created: {first}", argument="topology", value=name) from error
    memory = re.search(r"device_memory_size: (\d+)", target)
    return Topology(name, tuple(found.devices), int(int(memory[1]) * GPU_SHARE) if memory else None)


def _tpu_devices(kind: str, shape: str) -> tuple[jax.Device, ...]:
    if importlib.util.find_spec("libtpu") is None:
        raise SMCDError(
            f"topology {kind}:{shape} needs the TPU compiler; run pip install 'smcd_jax[tpu]'",
            argument="topology",
            value=f"{kind}:{shape}",
        )
    for variable, value in _COMPILE_ONLY.items():
        os.environ.setdefault(variable, value)
    options: dict[str, Any] = {}
    if kind == "v4":
        options["chip_config_name"] = "megacore"  # one device per chip, which combines its two cores
    if set(shape) <= {"1", "x"}:
        options["chips_per_host_bounds"] = [1, 1, 1]
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=f"{kind}:{shape}", **options)
    except jax.errors.JaxRuntimeError as error:
        raise SMCDError(
            f"topology {kind}:{shape} cannot be created: {error}", argument="topology", value=f"{kind}:{shape}"
        ) from error
    return tuple(found.devices)


def _usable_bytes(device: jax.Device) -> int | None:
    gibibytes = _USABLE_GIBIBYTES.get(device.device_kind)
    if gibibytes is not None:
        return int(gibibytes * 2**30)
    if device.platform == "cpu":
        return None
    stats = device.memory_stats() or {}
    return stats.get("bytes_limit") or memory_bytes(device.device_kind)
