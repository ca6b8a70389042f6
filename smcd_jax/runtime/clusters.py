"""Detection of the cluster that started this process: Open MPI, SLURM, GKE or a TPU VM.

JAX has the same detection, but only inside `jax.distributed.initialize`, and the address, the number of processes and
the process id are needed before that (see `smcd_jax.runtime.rendezvous`). Its classes are private
(``jax._src.clusters``) and, in JAX 0.10, differ in ways that users notice:

- SLURM: each process gets the GPU of its local index, even if one process has the whole host or SLURM has already
  limited ``CUDA_VISIBLE_DEVICES``. A batch script without ``srun`` is not detected at all.
- Open MPI 5 sets no ``OMPI_MCA_orte_hnp_uri`` and is not detected.
- TPU VM: every metadata request may take six times 60 s, and a host without metadata ends in a traceback.
- Any Kubernetes pod without the ``kubernetes`` package gets a warning.

Ports and addresses are chosen as JAX chooses them.
"""

from __future__ import annotations

import glob
import importlib.util
import logging
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import NamedTuple

from smcd_jax.errors import SMCDError

logger = logging.getLogger(__name__)

TPU_PORT = 8482  # coordinator port on TPU workers, the same as in JAX
_METADATA_SECONDS = 5.0


class ClusterSpec(NamedTuple):
    """Processes and devices of a run, where known.

    Attributes:
        method: Source of the values, for messages.
        coordinator: HOST:PORT of process 0, or None.
        num_processes: Number of processes, or None.
        process_id: Index of this process, or None.
        multi_host: Whether the processes run on several hosts.
        local_devices: Indices of the GPUs of this process; None for all visible ones.
    """

    method: str = "one process"
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    multi_host: bool = False
    local_devices: list[int] | None = None


def detect_cluster(environ: Mapping[str, str]) -> ClusterSpec:
    """Returns what the environment variables, or the metadata server of a TPU VM, say about the run.

    Args:
        environ: Environment variables.

    Returns:
        A spec whose ``num_processes`` is None if there is no cluster.

    Raises:
        SMCDError: A variable is not a number, or a SLURM job of several tasks was not started with srun.
    """
    return _open_mpi(environ) or _slurm(environ) or _gke(environ) or _tpu_vm(environ) or ClusterSpec()


def read_number(name: str, environ: Mapping[str, str]) -> int | None:
    """Returns the integer in an environment variable, or None if it is unset or empty.

    Raises:
        SMCDError: The value is not a non-negative integer.
    """
    text = environ.get(name)
    if text is None or not text.strip():
        return None
    if not text.strip().isdecimal():
        raise SMCDError(
            f"environment variable {name} must be an integer of at least 0, got {text!r}", argument=name, value=text
        )
    return int(text)


def _open_mpi(environ: Mapping[str, str]) -> ClusterSpec | None:
    count = read_number("OMPI_COMM_WORLD_SIZE", environ)
    if count is None:
        return None
    local_count = read_number("OMPI_COMM_WORLD_LOCAL_SIZE", environ) or count
    launcher = environ.get("OMPI_MCA_orte_hnp_uri", "")  # "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"
    port = _job_port(launcher or environ.get("PMIX_NAMESPACE", ""))
    address = re.search(r"tcp://([^,:]+)|tcp6://\[([^],]+)", launcher)
    host = "127.0.0.1" if local_count == count else address and (address[1] or f"[{address[2]}]")
    return ClusterSpec(
        "Open MPI",
        f"{host}:{port}" if host else None,
        count,
        read_number("OMPI_COMM_WORLD_RANK", environ),
        multi_host=local_count < count,
        local_devices=_local_devices(read_number("OMPI_COMM_WORLD_LOCAL_RANK", environ), local_count, environ),
    )


def _slurm(environ: Mapping[str, str]) -> ClusterSpec | None:
    count = read_number("SLURM_STEP_NUM_TASKS", environ) or read_number("SLURM_NTASKS", environ)
    if "SLURM_JOB_ID" not in environ or not count:
        return None
    nodes = environ.get("SLURM_STEP_NODELIST")
    if nodes is None and count > 1:
        raise SMCDError(
            f"SLURM job {environ['SLURM_JOB_ID']} has {count} tasks, but this process was not started with srun; use "
            "srun, or pass --num_processes 1 for a single process",
            argument="num_processes",
            value=count,
        )
    if nodes is None:
        return None
    first = re.match(r"([^,\[]+)(?:\[(\d+))?", nodes)  # "node001", "node001,other2", "node[001-015,020]"
    host = "".join(filter(None, first.groups())) if first else nodes
    local_count = re.match(r"\d+", environ.get("SLURM_STEP_TASKS_PER_NODE", "1"))  # "8(x2)"
    return ClusterSpec(
        "SLURM",
        f"{host}:{_job_port(environ['SLURM_JOB_ID'])}",
        count,
        read_number("SLURM_PROCID", environ),
        multi_host=(read_number("SLURM_STEP_NUM_NODES", environ) or 1) > 1,
        local_devices=_local_devices(
            read_number("SLURM_LOCALID", environ), int(local_count[0]) if local_count else 1, environ
        ),
    )


def _gke(environ: Mapping[str, str]) -> ClusterSpec | None:
    workers = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES")
    if not workers:
        return None
    names = [re.sub(r":\d+$", "", name) for name in workers.split(",")]
    return _tpu_workers("GKE", names, read_number("TPU_WORKER_ID", environ), environ)


def _tpu_vm(environ: Mapping[str, str]) -> ClusterSpec | None:
    if "TPU_SKIP_MDS_QUERY" in environ or "tpu" not in (environ.get("JAX_PLATFORMS") or "tpu") or not _has_tpu():
        return None
    endpoints, number = _metadata("worker-network-endpoints", environ), _metadata("agent-worker-number", environ)
    if endpoints is None or number is None:
        logger.warning("no worker list in the metadata of this TPU host; continuing as a single host")
        return None
    # Either "host1,host2" or "name:id:ip,name:id:ip".
    names = [worker.split(":")[2] if worker.count(":") == 2 else worker for worker in endpoints.split(",")]
    settings = dict(re.findall(r"^\s*(MEGASCALE_\w+):\s*'?([^'\n]*?)'?\s*$", _metadata("tpu-env", environ) or "", re.M))
    return _tpu_workers("TPU VM", names, int(number), {**settings, **environ})


def _tpu_workers(method: str, names: list[str], worker: int | None, environ: Mapping[str, str]) -> ClusterSpec:
    """Returns the spec of a run over all slices, whose processes are numbered slice by slice."""
    slices = read_number("MEGASCALE_NUM_SLICES", environ) or 1
    own_slice = read_number("MEGASCALE_SLICE_ID", environ) or 0
    first = environ.get("MEGASCALE_COORDINATOR_ADDRESS", "").split(":")[0] or names[0]
    return ClusterSpec(
        method,
        f"{first}:{TPU_PORT}",
        len(names) * slices,
        None if worker is None else worker + own_slice * len(names),
        multi_host=len(names) * slices > 1,
    )


def _has_tpu() -> bool:
    chips = glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*")
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def _metadata(attribute: str, environ: Mapping[str, str]) -> str | None:
    server = environ.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(
        f"http://{server}/computeMetadata/v1/instance/attributes/{attribute}", headers={"Metadata-Flavor": "Google"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_METADATA_SECONDS) as reply:
            return reply.read().decode()
    except (urllib.error.URLError, OSError):
        return None


def _local_devices(local: int | None, local_count: int, environ: Mapping[str, str]) -> list[int] | None:
    """Returns one GPU for each of several processes on a host, or None if the launcher has already assigned them."""
    assigned = len(environ.get("CUDA_VISIBLE_DEVICES", ",").split(",")) == 1 or "JAX_LOCAL_DEVICE_IDS" in environ
    return None if local is None or local_count == 1 or assigned else [local]


def _job_port(job: str) -> int:
    """Returns a port from 61440 to 65535, derived from the job id so that concurrent jobs rarely share one."""
    digits = re.match(r"\d+", job)
    number = int(digits[0]) if digits else sum(job.encode())
    # Open MPI numbers its jobs in steps of 4096.
    return 61440 + (number // 4096 if number % 4096 == 0 else number) % 4096
