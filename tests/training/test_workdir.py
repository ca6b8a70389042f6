"""The folder of a run: made or refused in one line, closed to a second run, open again when the first one dies."""

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

from smcd_jax.errors import SMCDError
from smcd_jax.training import workdir
from smcd_jax.training.workdir import Workdir

HOLD = """
import sys, time
from smcd_jax.training.workdir import Workdir
folder = Workdir(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


def refusal(path) -> str:
    with pytest.raises(SMCDError) as refused:
        Workdir(path)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_the_parts_are_made_and_found_again(tmp_path):
    for _ in range(2):
        with Workdir(tmp_path / "runs" / "one") as folder:
            assert [part.is_dir() for part in (folder.checkpoints, folder.samples, folder.logs)] == [True] * 3


def test_a_relative_path_still_holds_after_the_working_folder_has_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Workdir("run") as folder:
        monkeypatch.chdir("/")
        folder.write_config({"seed": 1})
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == {"seed": 1}


@pytest.mark.parametrize("path", ["gs://bucket/runs/one", Path("s3://bucket/one")])
def test_the_address_of_a_bucket_is_no_folder(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no folder; mount the bucket" in refusal(path)
    assert not list(tmp_path.iterdir())


def test_a_second_run_is_refused_with_the_first_ones_process_host_and_start(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "held\n"
        message = refusal(tmp_path)
        started = json.loads((tmp_path / "lock").read_text())["started"]
        assert f"in use by the run of process {child.pid} on {socket.gethostname()}, started {started}" in message
        child.send_signal(signal.SIGKILL)
        child.wait()
        Workdir(tmp_path).close()  # the lock died with its holder
    finally:
        child.kill()
        child.communicate()


def test_in_one_process_too_a_second_run_is_refused_until_the_first_is_closed(tmp_path):
    with Workdir(tmp_path):
        assert f"process {os.getpid()}" in refusal(tmp_path)
    Workdir(tmp_path).close()


def test_a_refused_run_leaves_the_holders_name_in_the_lock(tmp_path):
    with Workdir(tmp_path):
        refusal(tmp_path)
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_a_holder_that_has_not_written_its_name_yet_is_another_run(tmp_path):
    with (tmp_path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "in use by another run" in refusal(tmp_path)


def test_a_process_that_is_not_the_first_takes_no_lock(tmp_path, monkeypatch):
    with Workdir(tmp_path):
        monkeypatch.setattr(workdir.jax, "process_index", lambda: 1)
        with Workdir(tmp_path) as second:
            second.write_config({"seed": 2})
    assert not (tmp_path / "config.json").exists()


def test_a_file_system_without_locks_is_named_once(tmp_path, monkeypatch, caplog):
    def no_locks(*_):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(workdir.fcntl, "flock", no_locks)
    Workdir(tmp_path).close()
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/lock: this file system knows no locks ({os.strerror(errno.ENOTSUP)}): start no second run here"
    ]


def test_a_path_below_a_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    assert f"cannot write to {tmp_path / 'file' / 'run'}" in refusal(tmp_path / "file" / "run")


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user takes root; others meet the same refusal")
@pytest.mark.parametrize("made_before", [False, True])
def test_a_folder_that_the_user_may_not_write_to_is_refused_in_one_line(made_before):
    with tempfile.TemporaryDirectory() as parent:  # those of pytest are closed to other users
        folder = Path(parent) / "run"
        if made_before:
            Workdir(folder).close()
        for path in (Path(parent), *Path(parent).rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        body = "import os, sys; from smcd_jax.training.workdir import Workdir; os.setuid(65534); Workdir(sys.argv[1])"
        child = subprocess.run([sys.executable, "-c", body, str(folder)], capture_output=True, text=True)
    last = child.stderr.strip().split("\n")[-1]
    assert f"cannot write to {folder} (Permission denied)" in last, child.stderr


def test_the_config_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    with Workdir(tmp_path) as folder:
        folder.write_config({"seed": 1})

        def full(_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(workdir.os, "fsync", full)
        with pytest.raises(SMCDError, match=r"cannot write .*config\.json \(No space left on device\)"):
            folder.write_config({"seed": 2})
    assert json.loads((tmp_path / "config.json").read_text()) == {"seed": 1}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "checkpoints",
        "config.json",
        "lock",
        "logs",
        "samples",
    ]
