"""Distributed start: which process of how many this is, by flags, environment or cluster, then JAX's own start."""

from __future__ import annotations

import glob
import importlib.util
import logging
import os
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import NamedTuple

import jax

from smcd_jax.errors import SMCDError
from smcd_jax.runtime import rendezvous

logger = logging.getLogger(__name__)

TPU_PORT = 8482  # of the coordinator on TPU workers, as JAX has it
_METADATA_SECONDS = 5.0


class DistributedStart(NamedTuple):
    """How this process was started, for the log and for provenance."""

    process_id: int
    num_processes: int
    method: str  # how it was found out
    coordinator: str | None = None  # HOST:PORT of process 0; None for one process

    def line(self) -> str:
        """One line for the log."""
        place = f", coordinator {self.coordinator}" if self.coordinator else ""
        return f"process {self.process_id} of {self.num_processes} ({self.method}{place})"


class _Found(NamedTuple):
    """What flags, environment or a cluster say; None where they do not."""

    method: str = "one process"
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    several_hosts: bool = False
    local_devices: list[int] | None = None  # None is all that are there


def start_distributed(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: float = 300.0,
    environ: Mapping[str, str] | None = None,
) -> DistributedStart:
    """Joins this process to its run; call it before anything else touches a device.

    What is not given comes from ``JAX_COORDINATOR_ADDRESS``, ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID``, then from
    Open MPI, SLURM, GKE or the TPU VM. Where nothing speaks of several processes, this is one process and nothing
    happens. The processes first meet by `rendezvous.wait_for_all`, then start JAX's own service on the same port.

    Args:
        coordinator: HOST:PORT of process 0, as every process reaches it.
        num_processes: of the run; 1 is one process whatever the cluster says.
        process_id: of this process, from 0.
        timeout: seconds to wait for the other processes.
        environ: environment variables; the process's own by default.

    Raises:
        SMCDError: within ``timeout``: what is missing, taken or wrong.
    """
    environ = os.environ if environ is None else environ
    if timeout <= 0:
        raise SMCDError(f"start_timeout {timeout:g}: must be seconds above 0")
    given = _Found(
        "flags or environment",
        coordinator or environ.get("JAX_COORDINATOR_ADDRESS"),
        _number("JAX_NUM_PROCESSES", environ) if num_processes is None else num_processes,
        _number("JAX_PROCESS_ID", environ) if process_id is None else process_id,
    )
    if given.num_processes == 1 and given.process_id in (None, 0):
        return DistributedStart(0, 1, "one process")
    found = _complete(given, environ)
    if found.num_processes == 1:
        return DistributedStart(0, 1, found.method)
    address, count, index = _checked(found)
    rendezvous.wait_for_all(address, process_id=index, num_processes=count, timeout=timeout)
    _reach_past_proxies(address)
    try:
        jax.distributed.initialize(
            address,
            count,
            index,
            local_device_ids=found.local_devices,
            cluster_detection_method="deactivate",
            initialization_timeout=max(round(timeout), 30),  # all are there: this is for a slow one, not a missing one
        )
    except RuntimeError as error:
        raise SMCDError(f"process {index} of {count} cannot start at {address}: {error}") from error
    start = DistributedStart(index, count, found.method, address)
    logger.info("%s", start.line())
    return start


def _complete(given: _Found, environ: Mapping[str, str]) -> _Found:
    parts = (given.coordinator, given.num_processes, given.process_id)
    if None not in parts:
        return given
    detected = _open_mpi(environ) or _slurm(environ) or _gke(environ) or _tpu_vm(environ) or _Found()
    if parts == (None, None, None):
        return detected if detected.num_processes else detected._replace(num_processes=1)
    index = _number("JOB_COMPLETION_INDEX", environ) if detected.process_id is None else detected.process_id
    return detected._replace(
        method=f"{given.method} and {detected.method}" if detected.num_processes else given.method,
        coordinator=given.coordinator or detected.coordinator,
        num_processes=detected.num_processes if given.num_processes is None else given.num_processes,
        process_id=index if given.process_id is None else given.process_id,
    )


def _checked(found: _Found) -> tuple[str, int, int]:
    parts = {
        "--coordinator (JAX_COORDINATOR_ADDRESS)": found.coordinator,
        "--num_processes (JAX_NUM_PROCESSES)": found.num_processes,
        "--process_id (JAX_PROCESS_ID)": found.process_id,
    }
    missing = [name for name, value in parts.items() if value is None]
    if found.coordinator is None or found.num_processes is None or found.process_id is None:
        raise SMCDError(
            f"start of several processes ({found.method}): {' and '.join(missing)} missing; give all three or none"
        )
    if not 0 <= found.process_id < found.num_processes:
        raise SMCDError(
            f"process_id {found.process_id} with num_processes {found.num_processes}: processes count from 0 to "
            f"{max(found.num_processes - 1, 0)}"
        )
    rendezvous.split_address(found.coordinator)
    if found.several_hosts and rendezvous.is_loopback(found.coordinator):
        raise SMCDError(
            f"coordinator {found.coordinator} is each host's own address, and {found.method} runs on several: "
            "give an address of process 0's host that all of them reach"
        )
    return found.coordinator, found.num_processes, found.process_id


def _open_mpi(environ: Mapping[str, str]) -> _Found | None:
    count = _number("OMPI_COMM_WORLD_SIZE", environ)
    index, local = _number("OMPI_COMM_WORLD_RANK", environ), _number("OMPI_COMM_WORLD_LOCAL_RANK", environ)
    if count is None:
        return None
    local_count = _number("OMPI_COMM_WORLD_LOCAL_SIZE", environ) or count
    launcher = environ.get("OMPI_MCA_orte_hnp_uri", "")  # "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"
    job = environ.get("OMPI_MCA_orte_hnp_uri") or environ.get("PMIX_NAMESPACE", "")
    address = re.search(r"tcp://([^,:]+)|tcp6://\[([^],]+)", launcher)
    host = next(filter(None, address.groups()), None) if address else None
    if local_count == count:
        host = "127.0.0.1"
    return _Found(
        "Open MPI",
        f"[{host}]:{_port(job)}" if host and ":" in host else f"{host}:{_port(job)}" if host else None,
        count,
        index,
        several_hosts=local_count < count,
        local_devices=_own_device(local, local_count, environ),
    )


def _slurm(environ: Mapping[str, str]) -> _Found | None:
    count = _number("SLURM_STEP_NUM_TASKS", environ) or _number("SLURM_NTASKS", environ)
    if "SLURM_JOB_ID" not in environ or not count:
        return None
    nodes = environ.get("SLURM_STEP_NODELIST")
    if nodes is None and count > 1:
        raise SMCDError(
            f"SLURM job {environ['SLURM_JOB_ID']} has {count} tasks, and srun did not start this process: start it "
            "with srun, or as one process with --num_processes 1"
        )
    if nodes is None:
        return None
    first = re.match(r"([^,\[]+)(?:\[(\d+))?", nodes)  # "node001", "node001,other2", "node[001-015,020]"
    host = "".join(filter(None, first.groups())) if first else nodes
    tasks_here = re.match(r"\d+", environ.get("SLURM_STEP_TASKS_PER_NODE", "1"))  # "8(x2)"
    return _Found(
        "SLURM",
        f"{host}:{_port(environ['SLURM_JOB_ID'])}",
        count,
        _number("SLURM_PROCID", environ),
        several_hosts=(_number("SLURM_STEP_NUM_NODES", environ) or 1) > 1,
        local_devices=_own_device(_number("SLURM_LOCALID", environ), int(tasks_here[0]) if tasks_here else 1, environ),
    )


def _gke(environ: Mapping[str, str]) -> _Found | None:
    workers = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES")
    if not workers:
        return None
    names = [re.sub(r":\d+$", "", name) for name in workers.split(",")]
    return _tpu_workers("GKE", names, _number("TPU_WORKER_ID", environ), environ)


def _tpu_vm(environ: Mapping[str, str]) -> _Found | None:
    if "TPU_SKIP_MDS_QUERY" in environ or "tpu" not in (environ.get("JAX_PLATFORMS") or "tpu") or not _has_tpu():
        return None
    endpoints, number = _metadata("worker-network-endpoints", environ), _metadata("agent-worker-number", environ)
    if endpoints is None or number is None:
        logger.warning("this TPU host's metadata name no workers; taken as the only host")
        return None
    # "host1,host2", or "name:id:ip" of each
    names = [worker.split(":")[2] if worker.count(":") == 2 else worker for worker in endpoints.split(",")]
    settings = dict(re.findall(r"^\s*(MEGASCALE_\w+):\s*'?([^'\n]*?)'?\s*$", _metadata("tpu-env", environ) or "", re.M))
    return _tpu_workers("TPU VM", names, int(number), {**settings, **environ})


def _tpu_workers(method: str, names: list[str], worker: int | None, environ: Mapping[str, str]) -> _Found:
    """All slices of a multislice run count as one, slice after slice."""
    slices, own_slice = _number("MEGASCALE_NUM_SLICES", environ) or 1, _number("MEGASCALE_SLICE_ID", environ) or 0
    first = environ.get("MEGASCALE_COORDINATOR_ADDRESS", "").split(":")[0] or names[0]
    return _Found(
        method,
        f"{first}:{TPU_PORT}",
        len(names) * slices,
        None if worker is None else worker + own_slice * len(names),
        several_hosts=len(names) * slices > 1,
    )


def _has_tpu() -> bool:
    chips = glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*")
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def _metadata(attribute: str, environ: Mapping[str, str]) -> str | None:
    server = environ.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(
        f"http://{server}/computeMetadata/v1/instance/attributes/{attribute}", headers={"Metadata-Flavor": "Google"}
    )
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            request, timeout=_METADATA_SECONDS
        ) as reply:
            return reply.read().decode()
    except (urllib.error.URLError, OSError):
        return None


def _own_device(local: int | None, local_count: int, environ: Mapping[str, str]) -> list[int] | None:
    """Of several processes on one host each takes one GPU, unless its launcher or user has dealt them out already."""
    dealt = len(environ.get("CUDA_VISIBLE_DEVICES", ",").split(",")) == 1 or "JAX_LOCAL_DEVICE_IDS" in environ
    return None if local is None or local_count == 1 or dealt else [local]


def _port(job: str) -> int:
    """A port that all processes of a job know and another job hardly has: 61440..65535, above those lent out."""
    digits = re.match(r"\d+", job)
    number = int(digits[0]) if digits else sum(job.encode())
    return 61440 + (number // 4096 if number % 4096 == 0 else number) % 4096  # Open MPI counts jobs in steps of 4096


def _number(name: str, environ: Mapping[str, str]) -> int | None:
    text = environ.get(name)
    if text is None or not text.strip():
        return None
    if not text.strip().isdecimal():
        raise SMCDError(f"environment variable {name} is {text!r}: it must be a whole number from 0")
    return int(text)


def _reach_past_proxies(address: str) -> None:
    """JAX's connection obeys http_proxy, and a proxy does not lead to the coordinator: that becomes an exception."""
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return
    exceptions = os.environ.get("no_grpc_proxy") or os.environ.get("no_proxy")  # noqa: SIM112 (gRPC reads these)
    host = rendezvous.split_address(address)[0]
    os.environ["no_grpc_proxy"] = f"{exceptions},{host}" if exceptions else host  # noqa: SIM112
    jax.config.update("jax_check_proxy_envs", False)  # its warning is about what is mended here
