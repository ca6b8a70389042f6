"""Starting several processes: detection of the cluster, the rendezvous, and one-line errors when it fails."""

import contextlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import pytest

from smcd_jax.errors import SMCDError
from smcd_jax.runtime import clusters, rendezvous
from smcd_jax.runtime.distributed import DistributedStart, start_distributed
from tests.errors import refused

ROOT = Path(__file__).resolve().parents[2]

# One process of a run: it joins the others and then sums a batch of 8 rows that is spread over all processes.
WORKER = """
import json, os, sys
os.environ.update(JAX_PLATFORMS="cpu", XLA_FLAGS="--xla_force_host_platform_device_count=4")
from smcd_jax.runtime.distributed import start_distributed
from smcd_jax.errors import SMCDError
port, count, index, timeout = sys.argv[1:]
try:
    start = start_distributed(f"127.0.0.1:{port}", int(count), int(index), timeout=float(timeout))
except SMCDError as error:
    print(json.dumps([error.argument, error.value]))
    print(error, file=sys.stderr)
    sys.exit(2)
import jax, numpy
from data_pipeline.prefetch import local_rows
from smcd_jax.runtime.sharding import MeshShape, batch_sharding, make_mesh
mesh = make_mesh(MeshShape(fsdp=4))
rows = local_rows(mesh, 8)
batch = jax.make_array_from_process_local_data(batch_sharding(mesh), numpy.array(rows, numpy.float32), (8,))
total = jax.jit(lambda x: x.sum())(batch)
print("RESULT", start.process_id, start.num_processes, jax.device_count(), rows.start, rows.stop, float(total))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def worker(port: int, count: int, index: int, *, timeout: float, **environ: str) -> subprocess.Popen:
    command = [sys.executable, "-c", WORKER, *map(str, (port, count, index, timeout))]
    quiet = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return subprocess.Popen(
        command, cwd=ROOT, env=quiet | environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finished(processes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    try:
        outputs = [process.communicate(timeout=90) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


@contextlib.contextmanager
def listening():
    """Yields the port of another program, which listens but never replies."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def meeting(*processes: tuple[int, int], timeout: float = 10, port: int | None = None) -> list[SMCDError | None]:
    """Runs `wait_for_all` in a thread for each (process_id, num_processes); returns each thread's error or None."""
    port = port or free_port()

    def one(index: int, count: int) -> SMCDError | None:
        try:
            rendezvous.wait_for_all(f"127.0.0.1:{port}", process_id=index, num_processes=count, timeout=timeout)
        except SMCDError as error:
            return error
        return None

    with ThreadPoolExecutor(len(processes)) as pool:
        return [task.result() for task in [pool.submit(one, *process) for process in processes]]


class TestProcesses:
    @pytest.mark.parametrize("proxy", [{}, {"http_proxy": "http://127.0.0.1:9", "no_proxy": "example.org"}])
    def test_two_processes_of_four_devices_are_one_run(self, proxy):
        port = free_port()
        done = finished([worker(port, 2, index, timeout=60, **proxy) for index in (0, 1)])
        assert [code for code, _, _ in done] == [0, 0], done
        results = [out.split("RESULT", 1)[1].split() for _, out, _ in done]
        assert results == [["0", "2", "8", "0", "4", "28.0"], ["1", "2", "8", "4", "8", "28.0"]]

    def test_a_missing_process_gives_one_line_and_not_an_abort(self):
        ((code, out, stderr),) = finished([worker(free_port(), 2, 0, timeout=2)])
        assert (code, stderr.count("\n")) == (2, 1)
        assert json.loads(out) == ["process_id", [1]]
        assert "1 of 2 processes connected" in stderr

    def test_a_taken_port_gives_one_line_and_not_a_crash(self):
        with listening() as port:
            ((code, out, stderr),) = finished([worker(port, 2, 0, timeout=30)])
        assert (code, stderr.count("\n")) == (2, 1)
        assert json.loads(out) == ["coordinator", f"127.0.0.1:{port}"]


class TestRendezvous:
    def test_all_processes_meet_and_the_port_is_free_again(self):
        port = free_port()
        assert meeting((1, 4), (3, 4), (0, 4), (2, 4), port=port) == [None] * 4
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            probe.listen()

    def test_present_processes_report_the_missing_ones(self):
        port = free_port()
        first, other = meeting((0, 5), (2, 5), timeout=1.5, port=port)
        assert (first.argument, first.value) == ("process_id", [1, 3, 4])
        # Process 2 reports either the error of process 0 or, if its own timeout expires first, that it got no reply.
        assert (other.argument, other.value) in [("process_id", [1, 3, 4]), ("coordinator", f"127.0.0.1:{port}")]

    def test_a_process_that_disconnects_is_named(self):
        port = free_port()
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(meeting, (0, 3), timeout=2, port=port)
            with keep_trying(port) as leaves, keep_trying(port) as stays:
                for index, connection in ((1, leaves), (2, stays)):
                    greeting = {rendezvous._MARK: 1, "process_id": index, "num_processes": 3}
                    connection.sendall(json.dumps(greeting).encode() + b"\n")
                    leaves.close()
                    time.sleep(0.3)
                error = run.result()[0]
        assert (error.argument, error.value) == ("process_id", [1])

    def test_without_process_0_the_others_give_up_in_time(self):
        start = time.monotonic()
        port = free_port()
        (error,) = meeting((1, 2), timeout=0.7, port=port)
        assert 0.7 <= time.monotonic() - start < 10
        assert (error.argument, error.value) == ("coordinator", f"127.0.0.1:{port}")
        assert "(Connection refused)" in str(error)

    def test_loopback_is_named_as_a_possible_reason(self):
        (error,) = meeting((0, 2), timeout=0.3)
        assert (error.argument, error.value) == ("process_id", [1])
        assert "127.0.0.1, which is local to each host" in str(error)

    def test_two_processes_with_the_same_id(self):
        errors = meeting((0, 3), (1, 3), (1, 3))
        assert [(error.argument, error.value) for error in errors] == [("process_id", 1)] * 3

    def test_different_numbers_of_processes(self):
        errors = meeting((0, 2), (1, 4))
        assert [(error.argument, error.value) for error in errors] == [("num_processes", 4)] * 2

    def test_another_program_that_never_replies(self):
        start = time.monotonic()
        with listening() as port:
            (error,) = meeting((1, 2), timeout=0.7, port=port)
        assert 0.7 <= time.monotonic() - start < 10
        assert (error.argument, error.value) == ("coordinator", f"127.0.0.1:{port}")

    def test_another_program_that_answers(self):
        with socket.create_server(("127.0.0.1", 0)) as other:

            def babble() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        connection, _ = other.accept()
                        with connection:
                            connection.sendall(b"SSH-2.0-OpenSSH\n")

            threading.Thread(target=babble, daemon=True).start()
            port = other.getsockname()[1]
            (error,) = meeting((1, 2), timeout=0.7, port=port)
            other.shutdown(socket.SHUT_RDWR)
        assert (error.argument, error.value) == ("coordinator", f"127.0.0.1:{port}")

    def test_other_programs_and_disconnected_processes_are_ignored(self):
        port = free_port()
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(meeting, (0, 2), timeout=20, port=port)
            with keep_trying(port) as silent, keep_trying(port) as stranger, keep_trying(port) as early:
                stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
                early.sendall(json.dumps({rendezvous._MARK: 1, "process_id": 1, "num_processes": 2}).encode()[:20])
                early.close()
                assert meeting((1, 2), timeout=20, port=port) == [None]
                silent.close()
            assert run.result() == [None]

    def test_an_address_of_another_host(self):
        # 192.0.2.0/24 is reserved for documentation, so no host has this address.
        address, start = f"192.0.2.1:{free_port()}", time.monotonic()
        with refused("coordinator", value=address):
            rendezvous.wait_for_all(address, process_id=0, num_processes=2, timeout=1.2)
        assert time.monotonic() - start < 10

    @pytest.mark.parametrize(("address", "parts"), [("node7:1234", ("node7", 1234)), ("[fe80::1]:80", ("fe80::1", 80))])
    def test_addresses(self, address, parts):
        assert rendezvous.split_address(address) == parts

    @pytest.mark.parametrize("address", ["node7", "node7:", ":80", "node7:http", "node7:70000", "node7:0"])
    def test_malformed_addresses(self, address):
        with refused("coordinator", value=address):
            rendezvous.split_address(address)

    @pytest.mark.parametrize(
        ("address", "loopback"),
        [("127.0.1.1:1", True), ("localhost:1", True), ("[::1]:1", True), ("10.0.0.1:1", False), ("node7:1", False)],
    )
    def test_loopback(self, address, loopback):
        assert rendezvous.is_loopback(address) is loopback


@contextlib.contextmanager
def keep_trying(port: int):
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            yield connection
            return
        time.sleep(0.05)
    raise AssertionError(f"no program listens on {port}")


@pytest.fixture
def started(monkeypatch) -> list[dict]:
    """Records the arguments of each call to `jax.distributed.initialize`, which is replaced and starts nothing."""
    calls: list[dict] = []
    monkeypatch.setattr(rendezvous, "wait_for_all", lambda *args, **kwargs: None)
    monkeypatch.setattr(
        jax.distributed,
        "initialize",
        lambda address, count, index, **options: calls.append(
            {"address": address, "count": count, "index": index, "devices": options["local_device_ids"]}
        ),
    )
    monkeypatch.setattr(clusters, "_has_tpu", lambda: False)
    return calls


SLURM = {
    "SLURM_JOB_ID": "4097",
    "SLURM_STEP_NODELIST": "node[007-008,011]",
    "SLURM_STEP_NUM_TASKS": "24",
    "SLURM_STEP_NUM_NODES": "3",
    "SLURM_STEP_TASKS_PER_NODE": "8(x3)",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_MCA_orte_hnp_uri": "8192.0;tcp://10.96.0.1,10.148.0.1:34911",
}


class TestDetection:
    def test_one_host_is_one_process_and_starts_nothing(self, started):
        assert start_distributed(environ={}) == DistributedStart(0, 1, "one process")
        assert start_distributed(num_processes=1, environ=SLURM) == DistributedStart(0, 1, "one process")
        assert started == []

    def test_flags(self, started):
        start = start_distributed("node7:1234", 3, 2, environ=SLURM)
        assert start == DistributedStart(2, 3, "flags or environment", "node7:1234")
        assert start.line() == "process 2 of 3 (flags or environment, coordinator node7:1234)"
        assert started == [{"address": "node7:1234", "count": 3, "index": 2, "devices": None}]

    def test_environment_variables(self, started):
        environ = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}
        assert start_distributed(environ=environ).coordinator == "a:1"
        assert start_distributed("b:2", environ=environ).coordinator == "b:2"
        assert started[0]["index"] == 0

    @pytest.mark.parametrize(
        ("environ", "argument", "value"),
        [
            ({"JAX_PROCESS_ID": "0"}, "coordinator", None),
            ({"JAX_COORDINATOR_ADDRESS": "a:1"}, "num_processes", None),
            ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2"}, "process_id", None),
            ({"JAX_COORDINATOR_ADDRESS": "a", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}, "coordinator", "a"),
            ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"}, "process_id", 2),
            ({"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES", "two"),
        ],
    )
    def test_incomplete_or_wrong_environment(self, started, environ, argument, value):
        with refused(argument, value=value):
            start_distributed(environ=environ)
        assert started == []

    def test_a_timeout_of_zero(self):
        with refused("timeout", value=0):
            start_distributed(timeout=0, environ={})

    def test_slurm_gives_each_process_of_a_host_one_device(self, started):
        assert start_distributed(environ=SLURM) == DistributedStart(9, 24, "SLURM", "node007:61441")
        assert started[0]["devices"] == [1]

    @pytest.mark.parametrize(
        "change", [{"SLURM_STEP_TASKS_PER_NODE": "1(x24)", "SLURM_LOCALID": "0"}, {"CUDA_VISIBLE_DEVICES": "5"}]
    )
    def test_slurm_keeps_devices_that_are_assigned_already(self, started, change):
        start_distributed(environ=SLURM | change)
        assert started[0]["devices"] is None

    @pytest.mark.parametrize(
        ("nodes", "first"), [("node001", "node001"), ("a1,b2", "a1"), ("gpu-[3,5-7]", "gpu-3"), ("x[01-04]", "x01")]
    )
    def test_slurm_node_lists(self, started, nodes, first):
        assert start_distributed(environ=SLURM | {"SLURM_STEP_NODELIST": nodes}).coordinator == f"{first}:61441"

    def test_slurm_without_srun_is_refused_for_several_tasks(self, started):
        batch = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
        with refused("num_processes", value=8):
            start_distributed(environ=batch)
        assert start_distributed(environ=batch | {"SLURM_NTASKS": "1"}).num_processes == 1

    def test_a_flag_overrides_one_value_of_the_cluster(self, started):
        start = start_distributed("node9:5000", environ=SLURM)
        assert start == DistributedStart(9, 24, "flags or environment and SLURM", "node9:5000")

    def test_loopback_with_several_hosts(self, started):
        with refused("coordinator", value="localhost:5000"):
            start_distributed("localhost:5000", environ=SLURM)

    def test_open_mpi(self, started):
        assert start_distributed(environ=OPEN_MPI) == DistributedStart(3, 4, "Open MPI", "10.96.0.1:61442")
        assert started[0]["devices"] == [1]
        six = OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": "8192.0;tcp6://[fe80::b9b,2620:10d::2]:43370"}
        assert start_distributed(environ=six).coordinator == "[fe80::b9b]:61442"

    def test_open_mpi_5_has_no_launcher_address(self, started):
        environ = {name: value for name, value in OPEN_MPI.items() if "hnp" not in name}
        environ["PMIX_NAMESPACE"] = "prterun-node-7@1"
        with refused("coordinator", value=None):
            start_distributed(environ=environ)
        one_host = start_distributed(environ=environ | {"OMPI_COMM_WORLD_LOCAL_SIZE": "4"})
        assert one_host.coordinator.startswith("127.0.0.1:6")

    def test_gke(self, started):
        environ = {"TPU_WORKER_HOSTNAMES": "job-0.sub,job-1.sub", "TPU_WORKER_ID": "1"}
        assert start_distributed(environ=environ) == DistributedStart(1, 2, "GKE", "job-0.sub:8482")
        assert started[0]["devices"] is None
        assert start_distributed(environ={"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}).num_processes == 1

    def test_gke_with_several_slices(self, started):
        environ = {
            "TPU_WORKER_HOSTNAMES": "b-0,b-1",
            "TPU_WORKER_ID": "1",
            "MEGASCALE_NUM_SLICES": "2",
            "MEGASCALE_SLICE_ID": "1",
            "MEGASCALE_COORDINATOR_ADDRESS": "a-0:8080",
        }
        assert start_distributed(environ=environ) == DistributedStart(3, 4, "GKE", "a-0:8482")

    def test_gke_without_a_worker_id(self, started):
        with refused("process_id", value=None):
            start_distributed(environ={"TPU_WORKER_HOSTNAMES": "a,b"})

    def test_an_indexed_job_gives_the_number_of_the_process(self, started):
        environ = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JOB_COMPLETION_INDEX": "1"}
        assert start_distributed(environ=environ).process_id == 1
        assert start_distributed(environ={"JOB_COMPLETION_INDEX": "0"}).num_processes == 1

    @pytest.mark.parametrize("endpoints", ["10.0.0.5,10.0.0.6", "w0:1:10.0.0.5,w1:2:10.0.0.6"])
    def test_tpu_vm(self, started, monkeypatch, endpoints):
        monkeypatch.setattr(clusters, "_has_tpu", lambda: True)
        answers = {"worker-network-endpoints": endpoints, "agent-worker-number": "1"}
        with metadata_server(answers) as server:
            start = start_distributed(environ={"GCE_METADATA_IP": server})
            assert start == DistributedStart(1, 2, "TPU VM", "10.0.0.5:8482")
            answers["tpu-env"] = "ZONE: 'z'\nMEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\n"
            assert start_distributed(environ={"GCE_METADATA_IP": server}).process_id == 3
            cpu_only = start_distributed(environ={"GCE_METADATA_IP": server, "JAX_PLATFORMS": "cpu"})
            assert cpu_only.num_processes == 1

    def test_a_tpu_host_without_metadata_is_a_single_host_with_a_warning(self, started, monkeypatch, caplog):
        monkeypatch.setattr(clusters, "_has_tpu", lambda: True)
        assert start_distributed(environ={"GCE_METADATA_IP": f"127.0.0.1:{free_port()}"}).num_processes == 1
        assert [record.name for record in caplog.records] == ["smcd_jax.runtime.clusters"]


@contextlib.contextmanager
def metadata_server(answers: dict[str, str]):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = answers.get(self.path.rsplit("/", 1)[1])
            right = text is not None and self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if right else 404)
            self.end_headers()
            self.wfile.write((text or "").encode() if right else b"")

        def log_message(self, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
