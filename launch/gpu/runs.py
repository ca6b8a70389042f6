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
ATTENTION = ("cudnn", "xla")
CONFIG = ROOT / "configs" / "smcd" / "stage2_scene.py"
PARTS, RUN_B = "parts", "run_b.json"  # figures of the commands of a step, and the file that collects them
NO_COMMAND_BUFFERS = "XLA_FLAGS=--xla_gpu_enable_command_buffer="  # an empty list of kinds of kernels
# Seconds of run A by device. At full size there is a sampling step for each of `BATCHES`, 9 minutes in all. The
# rehearsal has one, and cuts off torch.compile, which takes minutes on two cores: 6 minutes in all.
LIMITS = {
    "gpu": {"environment": 30, "parity": 90, "sample": 115, "torch": 130, "profile": 60},
    "cpu": {"environment": 30, "parity": 150, "sample": 80, "torch": 40, "profile": 60},
}
# Seconds of run B by device: 9 minutes at full size, 6 in the rehearsal, which has fewer commands.
LIMITS_B = {
    "gpu": {"train": 290, "sample": 120, "larger batches": 130},
    "cpu": {"train": 220, "sample": 140},
}
# Remat and batch of the training steps of run B. The second list says which batch no longer fits.
TRAIN = {"gpu": (("none", 4), ("none", 16), ("blocks", 16)), "cpu": (("none", 4),)}
LARGER = {"gpu": (("none", 32), ("blocks", 32)), "cpu": ()}


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
        parts: Names of the JSON files in DIR/parts that the commands write; after the step, run_b.json collects them.
    """

    name: str
    seconds: float
    commands: Sequence[Sequence[str]]
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    parts: Sequence[str] = ()


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


# Networks of run C: the exported model has 55 MB, so that it can be sent in files of 16 MB, and compiles sooner.
NETWORKS_C = ("unet.base_channels=64", "unet.num_res_blocks=1", "autoencoder.base_channels=96")


def run_b(options: Options) -> list[Step]:
    """Returns the steps of run B: stage-2 training, settings of the sampler, larger batches; at most 9 minutes.

    The commands of a step compile side by side and measure one after the other.
    """
    # A process that waits for its turn must leave the memory to the others.
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9"}
    if options.device == "cpu":
        environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # compilation takes nearly all of the time
    limit = LIMITS_B[options.device]
    settings = {"train": _training(options, TRAIN), "sample": _sampling(options)}
    if LARGER[options.device]:
        settings["larger batches"] = _training(options, LARGER)
    return [
        Step(name, limit[name], list(commands.values()), environment, tuple(commands))
        for name, commands in settings.items()
    ]


def _training(options: Options, attempts: Mapping[str, Sequence[tuple[str, int]]]) -> dict[str, list[str]]:
    """Returns the commands that time training steps, by name; the first of run B also records a profile."""
    commands = {}
    for remat, batch in attempts[options.device]:
        name = f"train_{remat}_{batch}"
        command = [sys.executable, "-m", "smcd_jax", "bench", "train", "--config", f"{CONFIG}:{options.preset}"]
        command += [f"--config.remat={remat}", "--batch", str(batch), "--steps_timed", "5", *_part(options, name)]
        commands[name] = [*command, *(["--profile_steps", "2"] if (remat, batch) == TRAIN["gpu"][0] else [])]
    return commands


def _sampling(options: Options) -> dict[str, list[str]]:
    """Returns the commands that time the sampler by name: kernels of attention, no command buffers."""
    common = [sys.executable, "-m", "smcd_jax", "bench", "sample", "--preset", options.preset, "--dtype", options.dtype]
    common += ["--num_inference_steps", str(options.steps), "--no_decode", "--steps_timed", "10"]
    loops = ["--whole_clip", "--step_calls"]
    one = {kind: [*common, "--batch", "1", *loops, "--attention", kind] for kind in ATTENTION}
    commands = {f"sample_{kind}_1": [*command, *_part(options, f"sample_{kind}_1")] for kind, command in one.items()}
    name = "sample_no_command_buffers_1"
    commands[name] = ["env", NO_COMMAND_BUFFERS, *one["cudnn"], *_part(options, name)]
    for batch in options.batches[1:]:
        for kind in ATTENTION:
            name = f"sample_{kind}_{batch}"
            commands[name] = [*common, "--batch", str(batch), "--attention", kind, *_part(options, name)]
    return commands


def _part(options: Options, name: str) -> list[str]:
    folder = options.output / PARTS
    return ["--turns", str(folder / "turns"), "--output", str(folder / f"{name}.json")]


def run_c(options: Options) -> list[Step]:
    """Returns the steps of run C: training and evaluation in DIR/small; at most 9 minutes (6 on a CPU).

    On a GPU the model has 128 x 128 pixels and `NETWORKS_C`; the rehearsal uses 64 x 64 pixels and few clips. The
    second step packs models and evaluation into few files in DIR/packed, also if the first is cut off.
    """
    gpu = options.device == "gpu"
    size = ["--size", "128", "--minutes", "7"] if gpu else ["--size", "64", "--minutes", "4", "--clips", "64"]
    size += [f"--config.model.{setting}" for setting in NETWORKS_C] if gpu else []
    clips = "32" if gpu else "4"
    train = [sys.executable, str(ROOT / "launch" / "train_small.py"), *size, "--held_out", clips]
    pack = [sys.executable, str(ROOT / "launch" / "gpu" / "pack.py"), "--output", str(options.output / "packed")]
    small = options.output / "small"
    return [
        Step("train small", 525 if gpu else 345, [[*train, "--output", str(small)]]),
        Step("pack", 15, [[*pack, str(small)]]),
    ]


RUNS: dict[str, Callable[[Options], list[Step]]] = {"A": run_a, "B": run_b, "C": run_c}
