"""A studio in its own process: stopped with Ctrl-C, killed while it writes, out of disk space, and closed tabs."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from smcd_jax.pipeline import VideoPipeline
from smcd_jax.pipeline.clip_run import make_clip
from smcd_jax.studio.studio import Studio
from tests.pipeline.test_partial_sample import Steps
from tests.studio.support import client_of, finished, request_of

pytestmark = pytest.mark.usefixtures("shared_programs")

# The server with mocked sampling. "kill" ends the process after some files of the second video have been written, and
# "full" simulates a full disk: no file can grow beyond 200 bytes while the second video is written.
PROGRAM = """
    import os, resource, signal, sys
    from smcd_jax import cli
    from smcd_jax.studio import jobs
    from smcd_jax.files import atomic
    from tests.studio.fake_clip import FakeClip

    fake, fault, replace = FakeClip(steps=int(sys.argv[2]), pause=0.002), sys.argv[1], os.replace
    done = []

    def replace_and_die(source, target):
        replace(source, target)
        done.append(target)
        if sum(".smcd-" not in str(path) for path in done) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    def make(pipeline, clip, *, progress):
        if fault == "kept" and not fake.prompts:
            import numpy as np
            clip.files.keep(np.zeros((1, 8, 8, 8, 4), np.float32), clip.description)
        if fake.prompts and fault == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
        if fake.prompts and fault == "kill":
            atomic.os.replace = replace_and_die
        try:
            return fake(pipeline, clip, progress=progress)
        finally:
            if fault == "full":
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    jobs.make_clip = make
    sys.exit(cli.main(["studio", "--no_browser", "--port", "0", "--output", sys.argv[3]]))
"""


@contextmanager
def server(fault: str, output: Path, *, steps: int = 2) -> Iterator[tuple[subprocess.Popen, httpx.Client]]:
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), fault, str(steps), str(output)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        line = process.stdout.readline()
        address = re.search(r"http://[^/ ]+", line)
        assert address is not None, line + process.stdout.read()
        with httpx.Client(base_url=address[0], timeout=60) as client:
            yield process, client
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()


def start(client: httpx.Client, **changes) -> dict:
    return client.post("/api/jobs", json=request_of(client, **changes)).raise_for_status().json()


def wait_for(client: httpx.Client, job: dict, state: str) -> None:
    end = time.monotonic() + 60
    while client.get(f"/api/jobs/{job['id']}").json()["state"] != state:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_ctrl_c_ends_a_server_with_a_running_job_and_a_restart_lists_it(tmp_path):
    with server("none", tmp_path, steps=1_000_000) as (process, client):
        job = start(client)
        wait_for(client, job, "sampling")
        threading.Thread(target=_read_events, args=(str(client.base_url), job["id"]), daemon=True).start()
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert "stopped" in process.stdout.read()
    studio = Studio({"tiny": VideoPipeline.from_pretrained("tiny")}, tmp_path)
    studio.queue.start()
    (listed,) = client_of(studio).get("/api/jobs").json()["jobs"]
    assert (listed["id"], listed["state"]) == (job["id"], "failed")
    studio.queue.close()
    studio.close()


def test_a_server_killed_while_it_writes_leaves_the_history_whole(tmp_path):
    with server("kill", tmp_path) as (process, client):
        first = finished(client, start(client))
        assert first["state"] == "done"
        second = start(client)
        assert process.wait(60) == -signal.SIGKILL
    written = {path.name for path in (tmp_path / second["id"]).iterdir()}
    assert written & {"video.json", "video.mp4", "video.gif", "video_boxes.mp4"}  # killed while writing
    studio = Studio({"tiny": VideoPipeline.from_pretrained("tiny")}, tmp_path)
    client = client_of(studio)
    (entry,) = client.get("/api/history").json()["entries"]
    assert entry["id"] == first["result"]
    assert all(client.get(entry["videos"][0][name]).status_code == 200 for name in ("mp4", "gif", "frames", "json"))
    studio.close()


def test_a_full_disk_fails_one_job_and_the_server_stays_usable(tmp_path):
    with server("full", tmp_path) as (_, client):
        assert finished(client, start(client))["state"] == "done"
        failed = finished(client, start(client))
        assert failed["state"] == "failed"
        assert "space" in failed["error"]
        assert len(client.get("/api/history").json()["entries"]) == 1
        assert client.get("/api/info").status_code == 200


def test_a_closed_tab_does_not_stop_its_job(tmp_path):
    with server("none", tmp_path, steps=1000) as (_, client):
        job = start(client)
        wait_for(client, job, "sampling")
        with client.stream("GET", f"/api/jobs/{job['id']}/events") as answer:
            lines = answer.iter_lines()
            assert next(lines) == "event: job"
            assert json.loads(next(lines).removeprefix("data: "))["id"] == job["id"]
        assert finished(client, job)["state"] == "done"


def test_a_port_in_use_and_a_wrong_host_are_one_line(tmp_path, capsys):
    from smcd_jax.cli import main

    with server("none", tmp_path) as (_, client):
        port = str(client.base_url.port)
        assert main(["studio", "--no_browser", "--port", port, "--output", str(tmp_path / "b")]) == 2
    assert main(["studio", "--host", "no such host", "--no_browser"]) == 2
    assert main(["studio", "--port", "70000", "--no_browser"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_a_kept_sample_is_decoded_after_a_restart(tmp_path):
    pipeline = VideoPipeline.from_pretrained("tiny", keep_loaded=True)
    studio = Studio({"tiny": pipeline}, tmp_path)
    client = client_of(studio)
    job = client.post("/api/jobs", json=request_of(client)).json()  # the job waits, because the worker is not running
    entry = studio.results.entry(job["id"])
    clip = studio.queue.check(entry)
    description = {**clip.description, "seconds": {}, "formats": clip.files.formats}
    clip.files.keep(np.zeros((1, 8, 8, 8, 4), np.float32), description)
    studio.close()
    again = Studio({"tiny": pipeline}, tmp_path)
    again.queue.start()
    client = client_of(again)
    assert finished(client, job)["state"] == "done"
    assert client.get(f"/api/history/{job['id']}").json()["videos"][0]["num_frames"] == 8
    assert not entry.files.latents.exists()
    again.queue.close()
    assert again.queue.wait_closed(60)
    again.close()


def test_an_interrupted_sample_continues_after_a_restart(tmp_path):
    pipeline = VideoPipeline.from_pretrained("tiny", keep_loaded=True)
    studio = Studio({"tiny": pipeline}, tmp_path)
    client = client_of(studio)
    job = client.post("/api/jobs", json=request_of(client)).json()  # the job waits, because the worker is not running
    entry = studio.results.entry(job["id"])
    with pytest.raises(KeyboardInterrupt):
        make_clip(pipeline, studio.queue.check(entry), progress=Steps(last=1))
    assert entry.files.partial.exists()
    studio.close()
    again = Studio({"tiny": pipeline}, tmp_path)
    again.queue.start()
    client = client_of(again)
    assert finished(client, job)["state"] == "done"
    assert not entry.files.partial.exists()
    again.queue.close()
    assert again.queue.wait_closed(60)
    again.close()


@pytest.mark.slow
def test_ctrl_c_while_decoding_keeps_the_sample(tmp_path):
    with server("kept", tmp_path, steps=1_000_000) as (process, client):
        job = start(client)
        wait_for(client, job, "sampling")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert (tmp_path / job["id"] / "video.latents.npz").exists()


def _read_events(address: str, job_id: str) -> None:
    with (
        httpx.Client(base_url=address, timeout=60) as client,
        client.stream("GET", f"/api/jobs/{job_id}/events") as answer,
    ):
        for _ in answer.iter_lines():
            pass
