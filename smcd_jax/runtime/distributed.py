"""Start of JAX's distributed service from flags, environment variables or a detected cluster."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import NamedTuple

import jax

from smcd_jax.errors import SMCDError
from smcd_jax.runtime import rendezvous
from smcd_jax.runtime.clusters import ClusterSpec, detect_cluster, read_number

logger = logging.getLogger(__name__)

_VARIABLES = {
    "coordinator": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}


class DistributedStart(NamedTuple):
    """How this process was started, for the log and for provenance records.

    Attributes:
        process_id: Index of this process.
        num_processes: Number of processes in the run.
        method: Source of these values.
        coordinator: HOST:PORT of process 0; None for a single process.
    """

    process_id: int
    num_processes: int
    method: str
    coordinator: str | None = None

    def line(self) -> str:
        """Returns one line for the log."""
        place = f", coordinator {self.coordinator}" if self.coordinator else ""
        return f"process {self.process_id} of {self.num_processes} ({self.method}{place})"


def start_distributed(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: float = 300.0,
    environ: Mapping[str, str] | None = None,
) -> DistributedStart:
    """Connects this process to the other processes of its run; must be called before any device is used.

    Values that are not passed come from ``JAX_COORDINATOR_ADDRESS``, ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID``, then
    from `detect_cluster`. Without any of these the run is a single process, and nothing is started. The processes meet
    with `rendezvous.wait_for_all` before JAX starts its service on the same port.

    Args:
        coordinator: HOST:PORT of process 0, reachable from every process.
        num_processes: Number of processes in the run; 1 overrides a detected cluster.
        process_id: Index of this process, 0 to num_processes - 1.
        timeout: Time limit for the start in seconds, greater than 0.
        environ: Environment variables; by default those of this process.

    Raises:
        SMCDError: A value is missing or wrong, or not all processes have connected within ``timeout``.
    """
    environ = os.environ if environ is None else environ
    if timeout <= 0:
        raise SMCDError(
            f"start_timeout must be greater than 0 seconds, got {timeout:g}", argument="timeout", value=timeout
        )
    requested = ClusterSpec(
        "flags or environment",
        coordinator or environ.get("JAX_COORDINATOR_ADDRESS"),
        read_number("JAX_NUM_PROCESSES", environ) if num_processes is None else num_processes,
        read_number("JAX_PROCESS_ID", environ) if process_id is None else process_id,
    )
    if requested.num_processes == 1 and requested.process_id in (None, 0):
        return DistributedStart(0, 1, "one process")
    spec = _complete(requested, environ)
    if spec.num_processes == 1:
        return DistributedStart(0, 1, spec.method)
    address, count, index = _checked(spec)
    rendezvous.wait_for_all(address, process_id=index, num_processes=count, timeout=timeout)
    _bypass_proxy(address)
    try:
        jax.distributed.initialize(
            address,
            count,
            index,
            local_device_ids=spec.local_devices,
            cluster_detection_method="deactivate",
            initialization_timeout=max(round(timeout), 30),  # all processes are present; some may be slow
        )
    except RuntimeError as error:
        raise SMCDError(
            f"process {index} of {count} cannot start JAX's distributed service at {address}: {error}",
            argument="coordinator",
            value=address,
        ) from error
    start = DistributedStart(index, count, spec.method, address)
    logger.info("%s", start.line())
    return start


def _complete(requested: ClusterSpec, environ: Mapping[str, str]) -> ClusterSpec:
    """Fills missing values from the detected cluster."""
    values = (requested.coordinator, requested.num_processes, requested.process_id)
    if None not in values:
        return requested
    detected = detect_cluster(environ)
    if values == (None, None, None):
        return detected if detected.num_processes else detected._replace(num_processes=1)
    index = read_number("JOB_COMPLETION_INDEX", environ) if detected.process_id is None else detected.process_id
    return detected._replace(
        method=f"{requested.method} and {detected.method}" if detected.num_processes else requested.method,
        coordinator=requested.coordinator or detected.coordinator,
        num_processes=detected.num_processes if requested.num_processes is None else requested.num_processes,
        process_id=index if requested.process_id is None else requested.process_id,
    )


def _checked(spec: ClusterSpec) -> tuple[str, int, int]:
    address, count, index = spec.coordinator, spec.num_processes, spec.process_id
    values = {"coordinator": address, "num_processes": count, "process_id": index}
    missing = [name for name, value in values.items() if value is None]
    if address is None or count is None or index is None:
        flags = " and ".join(f"--{name} ({_VARIABLES[name]})" for name in missing)
        raise SMCDError(
            f"cannot start several processes ({spec.method}): missing {flags}; pass all three or none",
            argument=missing[0],
        )
    if not 0 <= index < count:
        raise SMCDError(
            f"process_id must be from 0 to num_processes - 1 = {count - 1}, got {index}",
            argument="process_id",
            value=index,
        )
    rendezvous.split_address(address)
    if spec.multi_host and rendezvous.is_loopback(address):
        raise SMCDError(
            f"coordinator must be an address that all hosts can reach, got {address}, which is local to each host; "
            f"{spec.method} runs on several hosts",
            argument="coordinator",
            value=address,
        )
    return address, count, index


def _bypass_proxy(address: str) -> None:
    """Excludes the coordinator from the proxy settings, which JAX's gRPC connection would otherwise follow."""
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return
    exceptions = os.environ.get("no_grpc_proxy") or os.environ.get("no_proxy")  # noqa: SIM112 (names read by gRPC)
    host = rendezvous.split_address(address)[0]
    os.environ["no_grpc_proxy"] = f"{exceptions},{host}" if exceptions else host  # noqa: SIM112
    jax.config.update("jax_check_proxy_envs", False)  # JAX warns about proxies, which is no longer needed
