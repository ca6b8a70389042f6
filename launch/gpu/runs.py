"""The runs of launch/gpu.sh: their steps, the most valuable first, with the commands and time limits of each."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHECK = ROOT / "tests" / "golden" / "check.py"
SELECTION = ROOT / "tests" / "golden" / "selection"
BATCHES = (1, 8)
# Seconds by device. At full size there is a sampling step for each of `BATCHES`, 9 minutes in all. The rehearsal has
# one, and cuts off torch.compile, which takes minutes on two cores: 6 minutes in all.
LIMITS = {
    "gpu": {"environment": 30, "parity": 90, "sample": 115, "torch": 130, "profile": 60},
    "cpu": {"environment": 30, "parity": 150, "sample": 80, "torch": 40, "profile": 60},
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of a run.

    Attributes:
        device: "gpu" or "cpu".
        preset: Name of the preset, "smcd" or "tiny".
        output: Folder of the results.
    """

    device: str
    preset: str
    output: Path

    @property
    def dtype(self) -> str:
        """Dtype of the timed networks: bfloat16, and float32 on a CPU, which computes bfloat16 slowly."""
        return "bfloat16" if self.device == "gpu" else "float32"

    @property
    def steps(self) -> int:
        """Denoising steps of a clip."""
        return 50

    @property
    def batches(self) -> tuple[int, ...]:
        """Numbers of videos that are sampled at once."""
        return BATCHES if self.device == "gpu" else BATCHES[:1]


@dataclasses.dataclass(frozen=True)
class Step:
    """A part of a run that is useful on its own.

    Attributes:
        name: Short name.
        seconds: Time limit, to which unused time of earlier steps is added.
        commands: Commands that run side by side.
        environment: Environment variables of the commands.
    """

    name: str
    seconds: float
    commands: Sequence[Sequence[str]]
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


def run_a(options: Options) -> list[Step]:
    """Returns the steps of run A: environment, parity, sampling, diffusers in PyTorch, profile; at most 9 minutes."""
    python, file = sys.executable, lambda name: str(options.output / name)
    # Two processes share the device while parity is checked; otherwise one process has it alone.
    shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    # On a CPU, the check spends nearly all of its time on compilation.
    quick = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"} if options.device == "cpu" else {}
    alone = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9"}
    parity = {
        dtype: [python, str(CHECK), str(SELECTION), "--dtype", dtype, "--output", file(f"parity_{dtype}.json")]
        for dtype in ("float32", "bfloat16")
    }
    parity["float32"] = ["env", "JAX_DEFAULT_MATMUL_PRECISION=highest", *parity["float32"]]  # no TF32 anywhere
    sample = [python, "-m", "smcd_jax", "bench", "sample", "--preset", options.preset, "--dtype", options.dtype]
    sample += ["--num_inference_steps", str(options.steps), "--no_decode", "--output"]
    timed = "10" if options.device == "gpu" else "3"
    limit = LIMITS[options.device]
    torch = [python, str(ROOT / "launch" / "gpu" / "torch_unet.py"), "--preset", options.preset]
    torch += ["--device", "cuda" if options.device == "gpu" else "cpu", "--dtype", options.dtype]
    torch += ["--batches", ",".join(map(str, options.batches)), "--steps", str(options.steps), "--steps_timed", timed]
    samples = {
        batch: [*sample, file(f"sample_{batch}.json"), "--batch", str(batch), "--whole_clip", "--steps_timed", timed]
        for batch in options.batches
    }
    return [
        Step(
            "environment",
            limit["environment"],
            [[python, str(ROOT / "launch" / "gpu" / "environment.py"), "--output", file("environment.json")]],
            shared,
        ),
        Step("parity", limit["parity"], list(parity.values()), shared | quick),
        *[Step(f"sample, batch {n}", limit["sample"], [command], alone) for n, command in samples.items()],
        Step("torch", limit["torch"], [[*torch, "--output", file("torch.json")]], {"JAX_PLATFORMS": "cpu"}),
        Step(
            "profile",
            limit["profile"],
            [[*sample, file("profile.json"), "--batch", "1", "--steps_timed", "1", "--profile_steps", "10"]],
            alone,
        ),
    ]


def run_c(options: Options) -> list[Step]:
    """Returns the steps of run C: training from scratch and evaluation in DIR/small; at most 9 minutes (6 on a CPU).

    On a GPU the model has 128 x 128 pixels; the rehearsal uses 64 x 64 pixels and few clips.
    """
    gpu = options.device == "gpu"
    size = ["--size", "128", "--minutes", "8"] if gpu else ["--size", "64", "--minutes", "4", "--clips", "64"]
    clips = "32" if gpu else "4"
    command = [sys.executable, str(ROOT / "launch" / "train_small.py"), *size, "--held_out", clips]
    limit = 540 if gpu else 360
    return [Step("train small", limit, [[*command, "--output", str(options.output / "small")]])]


RUNS: dict[str, Callable[[Options], list[Step]]] = {"A": run_a, "C": run_c}
