"""A run's folder: created or refused, locked against a second run, and unlocked when the first run ends."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from smcd_jax.training import workdir
from smcd_jax.training.workdir import Workdir
from tests.errors import refused

HOLD = """
import sys, time
from smcd_jax.training.workdir import Workdir
folder = Workdir(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


def test_subfolders_are_created_and_reused(tmp_path):
    for _ in range(2):
        with Workdir(tmp_path / "runs" / "one") as folder:
            assert [part.is_dir() for part in (folder.checkpoints, folder.samples, folder.logs)] == [True] * 3


def test_a_relative_path_stays_valid_after_a_change_of_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Workdir("run") as folder:
        monkeypatch.chdir("/")
        folder.write_config({"seed": 1})
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == {"seed": 1}


@pytest.mark.parametrize("path", ["gs://bucket/runs/one", Path("s3://bucket/one")])
def test_the_address_of_a_bucket_is_refused(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with refused("workdir", value=str(path)):
        Workdir(path)
    assert not list(tmp_path.iterdir())


def test_a_second_run_is_refused_with_the_process_host_and_start_of_the_first(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "held\n"
        started = json.loads((tmp_path / "lock").read_text())["started"]
        holder = {"pid": child.pid, "host": socket.gethostname(), "started": started}
        with refused("workdir", path=tmp_path, value=holder) as record:
            Workdir(tmp_path)
        assert f"in use by the run of process {child.pid} on {holder['host']}, started {started}" in str(record.value)
        child.send_signal(signal.SIGKILL)
        child.wait()
        Workdir(tmp_path).close()  # the lock was released when its holder ended
    finally:
        child.kill()
        child.communicate()


def test_a_second_run_in_the_same_process_is_refused_until_the_first_is_closed(tmp_path):
    with Workdir(tmp_path):
        with refused("workdir", path=tmp_path) as record:
            Workdir(tmp_path)
        assert record.value.value["pid"] == os.getpid()
    Workdir(tmp_path).close()


def test_a_refused_run_does_not_change_the_lock_file(tmp_path):
    with Workdir(tmp_path):
        with refused("workdir", path=tmp_path):
            Workdir(tmp_path)
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_a_holder_that_has_not_written_its_name_yet_is_refused_too(tmp_path):
    with (tmp_path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with refused("workdir", path=tmp_path, value=None):
            Workdir(tmp_path)


def test_only_process_0_takes_the_lock(tmp_path, monkeypatch):
    with Workdir(tmp_path):
        monkeypatch.setattr(workdir.jax, "process_index", lambda: 1)
        with Workdir(tmp_path) as second:
            second.write_config({"seed": 2})
    assert not (tmp_path / "config.json").exists()


def test_a_file_system_without_locks_is_one_warning(tmp_path, monkeypatch, caplog):
    def no_locks(*_):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(workdir.fcntl, "flock", no_locks)
    Workdir(tmp_path).close()
    assert [record.args for record in caplog.records] == [(tmp_path / "lock", os.strerror(errno.ENOTSUP))]


def test_a_path_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with refused("workdir", path=tmp_path / "file" / "run"):
        Workdir(tmp_path / "file" / "run")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change to another user")
@pytest.mark.parametrize("made_before", [False, True])
def test_a_folder_without_write_permission_is_refused(made_before):
    with tempfile.TemporaryDirectory() as parent:  # pytest's own folders are not accessible to other users
        folder = Path(parent) / "run"
        if made_before:
            Workdir(folder).close()
        for path in (Path(parent), *Path(parent).rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        body = "import os, sys; from smcd_jax.training.workdir import Workdir; os.setuid(65534); Workdir(sys.argv[1])"
        child = subprocess.run([sys.executable, "-c", body, str(folder)], capture_output=True, text=True)
    last = child.stderr.strip().split("\n")[-1]
    assert f"cannot write to {folder} (Permission denied)" in last, child.stderr


def test_the_config_is_written_atomically(tmp_path, monkeypatch):
    with Workdir(tmp_path) as folder:
        folder.write_config({"seed": 1})

        def full(_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(workdir.os, "fsync", full)
        with refused():
            folder.write_config({"seed": 2})
    assert json.loads((tmp_path / "config.json").read_text()) == {"seed": 1}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "checkpoints",
        "config.json",
        "lock",
        "logs",
        "samples",
    ]
