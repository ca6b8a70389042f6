"""Devices by name: those of this machine, fake CPU devices, and TPU slices to compile for without a TPU."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from smcd_jax.errors import SMCDError
from smcd_jax.runtime.device_specs import memory_bytes

LOCAL = "local"
EXAMPLES = "local, cpu:8, v5e:2x4, v5p:2x2x2, v4:2x2x1, v6e:4x4"
_AXES = {"v4": 3, "v5e": 2, "v5p": 3, "v6e": 2}  # of the torus or mesh that a slice is cut from

# HBM that the compiler gives a program, in GiB: what it names when a program does not fit ("exceeds available HBM"),
# libtpu 0.0.42. The rest of a chip's memory it keeps for itself.
_USABLE_GIBIBYTES = {"TPU v4": 30.75, "TPU v5 lite": 15.75, "TPU v5": 95.74, "TPU v6 lite": 31.25}

# libtpu looks for the TPU it runs on, and for other processes that use it; here there is neither.
_COMPILE_ONLY = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class Topology(NamedTuple):
    """Devices to make a mesh of.

    Attributes:
        name: as asked for.
        devices: real, fake, or only to compile for.
        usable_bytes: memory of one that a program may take; None where it is main memory, which all share.
    """

    name: str
    devices: tuple[jax.Device, ...]
    usable_bytes: int | None

    @property
    def platform(self) -> str:
        """Of the devices: "cpu", "gpu" or "tpu"."""
        return self.devices[0].platform

    @property
    def device_kind(self) -> str:
        """Of the devices, as `smcd_jax.runtime.device_specs` knows them."""
        return self.devices[0].device_kind


def check_topology_name(name: str) -> None:
    """Whether a name is well formed, without asking JAX.

    Raises:
        SMCDError: it is not.
    """
    if name == LOCAL or re.fullmatch(r"cpu:[1-9][0-9]{0,3}", name):
        return
    kind, _, shape = name.partition(":")
    if kind not in _AXES:
        raise SMCDError(f"topology {name!r}: unknown; write one of {', '.join(_AXES)} with its shape, as in {EXAMPLES}")
    if not re.fullmatch(r"[1-9][0-9]{0,2}(x[1-9][0-9]{0,2}){1,2}", shape) or shape.count("x") + 1 != _AXES[kind]:
        example = "x".join(["2"] * _AXES[kind])
        raise SMCDError(f"topology {name!r}: a slice of {kind} has {_AXES[kind]} axes, as in {kind}:{example}")


def needs_other_devices(name: str) -> bool:
    """Whether the devices are not this machine's own, so that JAX may keep to the CPU."""
    return name != LOCAL


def find_topology(name: str) -> Topology:
    """The devices of a name.

    Args:
        name: "local"; "cpu:N" for fake CPU devices, which must come before JAX is used unless there are as many; or a
            slice of TPU chips, "v5e:2x4", which needs libtpu and no TPU.

    Raises:
        SMCDError: no such topology, libtpu is missing, or too few CPU devices.
    """
    check_topology_name(name)
    if name == LOCAL:
        devices = tuple(jax.devices())
        return Topology(name, devices, _usable_bytes(devices[0]))
    kind, _, shape = name.partition(":")
    if kind == "cpu":
        return Topology(name, _cpu_devices(int(shape)), None)
    devices = _tpu_devices(kind, shape)
    return Topology(name, devices, _usable_bytes(devices[0]))


def _cpu_devices(count: int) -> tuple[jax.Device, ...]:
    with contextlib.suppress(RuntimeError):  # JAX is in use already: its devices may still suffice
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise SMCDError(
            f"topology cpu:{count}: JAX runs with {len(devices)} CPU devices; set "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={count}"
        )
    return tuple(devices[:count])


def _tpu_devices(kind: str, shape: str) -> tuple[jax.Device, ...]:
    if importlib.util.find_spec("libtpu") is None:
        raise SMCDError(f"topology {kind}:{shape}: the TPU's compiler is not installed; pip install 'smcd_jax[tpu]'")
    for variable, value in _COMPILE_ONLY.items():
        os.environ.setdefault(variable, value)
    options: dict[str, Any] = {}
    if kind == "v4":
        options["chip_config_name"] = "megacore"  # a device is a chip, its two cores joined
    if set(shape) <= {"1", "x"}:
        options["chips_per_host_bounds"] = [1, 1, 1]
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=f"{kind}:{shape}", **options)
    except jax.errors.JaxRuntimeError as error:
        raise SMCDError(f"topology {kind}:{shape}: {error}") from error
    return tuple(found.devices)


def _usable_bytes(device: jax.Device) -> int | None:
    gibibytes = _USABLE_GIBIBYTES.get(device.device_kind)
    if gibibytes is not None:
        return int(gibibytes * 2**30)
    if device.platform == "cpu":
        return None
    stats = device.memory_stats() or {}
    return stats.get("bytes_limit") or memory_bytes(device.device_kind)
