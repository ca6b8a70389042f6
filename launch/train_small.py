"""Trains, exports and evaluates the small model within a given time; can be resumed.

    python launch/train_small.py --minutes 200 [--size 64|128] [--output DIR]

launch/train_small.sh calls it. The time of each training stage is a share of what is left when the stage begins, so
that a slow step before it shortens the stage and does not delay the end. ``progress.json`` in the folder of the run
keeps the time that was used; time between two runs of the command does not count.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from launch.measure_seams import measure as measure_seams  # noqa: E402
from smcd_jax.files import write_json  # noqa: E402

CLASSES = (
    *("cat", "dog", "panda", "fox", "frog", "pig", "owl", "penguin", "bee", "turtle", "crab", "elephant"),
    *("rocket", "airplane", "sailboat", "soccer ball", "strawberry", "donut", "tree", "pumpkin"),
    *("car", "fish", "balloon", "butterfly"),
)
# The world that the model is trained in. Clips of other seeds, on which it is evaluated, start with their objects.
WORLD: dict[str, Any] = {
    "max_objects": 3,
    "classes": CLASSES,
    "colors": ("red", "yellow", "green", "blue"),
    "backgrounds": ("photographs",),
    "shadow_share": 0.8,
}
STARTS = {"empty_start_share": 0.1, "other_start_share": 0.15}
HELD_OUT_SEED = 1
FRAMES, LONG_FRAMES = 8, 32
FEW_STEPS = "model_4step"  # folder of the distilled model
CLIPS = {64: 4000, 128: 12_000}
HELD_OUT = 200  # clips of the evaluation; fewer in a short run on CPUs, see `held_out_clips`
RESTART = 42  # exit status of `smcd train` after it was stopped and has saved a checkpoint
_BEAT, _LONGEST = 5.0, 60.0  # seconds between updates of the used time; a longer gap is a pause of the process


@dataclasses.dataclass(frozen=True)
class Stage:
    """A training stage.

    Attributes:
        name: Name of its folder.
        config: File in configs/small.
        share: Share of the training time.
    """

    name: str
    config: str
    share: float


# At 64, training continues from `tiny`, whose networks fit; at 128, larger networks are trained from scratch.
STAGES = {
    64: (
        Stage("autoencoder", "autoencoder.py", 0.08),
        Stage("object", "stage1_object.py", 0.35),
        Stage("scene", "stage2_scene.py", 0.45),
        Stage("distill", "distill.py", 0.12),
    ),
    128: (
        Stage("autoencoder", "autoencoder.py", 0.15),
        Stage("base_pictures", "base_pictures.py", 0.06),
        Stage("base_clips", "base_clips.py", 0.04),
        Stage("object", "stage1_object.py", 0.20),
        Stage("scene", "stage2_scene.py", 0.40),
        Stage("distill", "distill.py", 0.15),
    ),
}
# Share of the total time that is reserved for exports, latents and evaluation after each stage.
RESERVE = {
    "autoencoder": 0.22,
    "base_pictures": 0.17,
    "base_clips": 0.17,
    "object": 0.16,
    "scene": 0.15,
    "distill": 0.14,
}


class Progress:
    """Time used by a run, in ``progress.json`` of its folder.

    Args:
        folder: Folder of the run.
        minutes: Total time of the run; None to keep the time of a resumed run.
        size: Width and height of the videos in pixels.
    """

    def __init__(self, folder: Path, minutes: float | None, size: int):
        self._file = folder / "progress.json"
        self.values: dict[str, Any] = {"minutes": minutes, "size": size, "used_seconds": 0.0, "stages": {}}
        if self._file.is_file():
            saved = json.loads(self._file.read_text(encoding="utf-8"))
            self.values = saved | ({"minutes": minutes} if minutes else {})
        if self.values["size"] != size:
            raise SystemExit(
                f"train_small: {folder} holds a run of size {self.values['size']}; "
                f"add --size {self.values['size']}, or use another --output"
            )
        if not self.values["minutes"]:
            raise SystemExit("train_small: --minutes is missing; it must be a number above 0")
        self._last = time.monotonic()
        self.note()

    @property
    def left(self) -> float:
        """Remaining minutes; negative if the run took longer."""
        return self.values["minutes"] - self.values["used_seconds"] / 60

    def note(self) -> None:
        """Adds the time since the last call to the used time, and writes the file."""
        now = time.monotonic()
        self.values["used_seconds"] += min(now - self._last, _LONGEST)
        self._last = now
        temporary = self._file.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.values, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, self._file)

    def minutes_of(self, stage: Stage) -> float:
        """Returns the time of a stage in minutes: set when the stage begins, and at least 1 % of the total."""
        if stage.name not in self.values["stages"]:
            stages = STAGES[self.values["size"]]
            later = [other.share for other in stages[stages.index(stage) :]]
            free = self.left - RESERVE[stage.name] * self.values["minutes"]
            minutes = max(free * stage.share / sum(later), 0.01 * self.values["minutes"])
            self.values["stages"][stage.name] = round(minutes, 3)
            self.note()
        return self.values["stages"][stage.name]


class Runner:
    """Runs `smcd` commands one after the other and measures their time; a signal stops the current command.

    Args:
        progress: Used time of the run.
    """

    def __init__(self, progress: Progress):
        self._progress = progress
        self._child: subprocess.Popen[bytes] | None = None
        self._stopped = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def smcd(self, *arguments: str | Path) -> None:
        """Runs a command of `smcd`; exits with its status if it fails or was stopped."""
        if self._stopped:
            sys.exit(RESTART)
        command = [sys.executable, "-m", "smcd_jax", *map(str, arguments)]
        # A separate session, so that Ctrl-C reaches the command only once, through `_stop`.
        self._child = subprocess.Popen(command, cwd=ROOT, env=_environment(), start_new_session=True)
        status = None
        while status is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = self._child.wait(timeout=_BEAT)
            self._progress.note()
        if status or self._stopped:
            say(f"stopped with status {status}; rerun the same command to resume")
            sys.exit(status or RESTART)

    def _stop(self, *_: object) -> None:
        self._stopped = True
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()


def _environment() -> dict[str, str]:
    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part)
    return os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def say(text: str) -> None:
    """Prints one line without buffering."""
    print(f"train_small: {text}", flush=True)


def world_options(size: int, **others: Any) -> list[str]:
    """Returns the options of `smcd prepare sprites` for the world of the small model."""
    options = {"width": size, "height": size} | WORLD | others
    return [part for key, value in options.items() for part in ("--option", f"{key}={json.dumps(value)}")]


def latent_scale(model: Path, size: int) -> float:
    """Returns 1 / standard deviation of the latents of 64 pictures of the training world."""
    import jax
    import numpy as np

    from data_pipeline.sprites import SpriteWorld, WorldConfig
    from smcd_jax.model_folder import ModelFolder
    from smcd_jax.nn.autoencoder_kl import sampled_latents
    from smcd_jax.nn.networks import network

    world = SpriteWorld(WorldConfig(width=size, height=size, **WORLD))
    pictures = np.stack([world.render(index, frames=[0]).video[0] for index in range(64)])
    folder = ModelFolder(model)
    config = dataclasses.replace(folder.config.autoencoder, scaling_factor=1.0)
    module, params = network(config), folder.params("autoencoder")
    encode = jax.jit(lambda params, x: sampled_latents(module, params, x, jax.random.split(jax.random.key(0), len(x))))
    return float(1 / np.std(np.asarray(encode(params, pictures))))


def train_stage(
    run: Runner, progress: Progress, stage: Stage, folder: Path, size: int, overrides: Sequence[str]
) -> None:
    """Trains a stage and exports its model; returns at once if that has been done."""
    model = folder / stage.name / "model"
    if (model / "model.json").is_file():
        return
    stages = STAGES[size]
    minutes, number = progress.minutes_of(stage), stages.index(stage) + 1
    say(f"stage {number} of {len(stages)}, {stage.name}: {minutes:.1f} minutes; {progress.left:.1f} left in all")
    config = [f"configs/small/{stage.config}:{size}", "--workdir", folder / stage.name]
    places = [f"--config.data.records={folder / 'records'}"]
    if number > 1:
        described = json.loads((folder / "autoencoder" / "model" / "model.json").read_text(encoding="utf-8"))
        factor = described["components"]["autoencoder"]["scaling_factor"]
        places.append(f"--config.model.autoencoder.scaling_factor={factor}")
        places.append(f"--config.init.model={folder / stages[number - 2].name / 'model'}")
    run.smcd("train", "--config", *config, *places, f"--config.run.minutes={minutes}", *overrides)
    export = ["export", "--workdir", folder / stage.name, "--license", "Apache-2.0"]
    if stage.name != "autoencoder":
        run.smcd(*export, "--output", model)
        return
    unscaled = folder / stage.name / "unscaled"
    run.smcd(*export, "--output", unscaled, "--overwrite")
    factor = latent_scale(unscaled, size)
    say(f"scaling factor of the latents: {factor:.4f}")
    run.smcd(*export, "--output", model, "--scaling_factor", f"{factor:.4f}")


def held_out_clips(size: int, minutes: float) -> int:
    """Returns the number of clips of the evaluation, so that its time is a fixed share of a run.

    200 clips of 64 x 64 pixels take about 23 minutes on two CPU cores. At 128 x 128, the recipe is sized for a GPU.
    """
    return HELD_OUT if size == 128 else min(HELD_OUT, max(8, round(minutes)))


def evaluate(run: Runner, folder: Path, size: int, clips: int) -> None:
    """Measures both models on clips of a seed that no stage has seen; the long clips show the same scenes."""
    options = [*world_options(size, seed=HELD_OUT_SEED), "--option", f"test_clips={clips}"]
    for name, frames in (("held_out", FRAMES), ("long", LONG_FRAMES)):
        output = ("--output", folder / name, "--splits", "test", "--option", f"frames={frames}")
        run.smcd("prepare", "sprites", *output, *options)

    def measure(
        name: str, *arguments: str | Path | int, data: str = "held_out", metrics: str = "grounding,psnr-first"
    ) -> Path:
        output = folder / "evaluation" / name
        run.smcd(
            *("evaluate", "--data", folder / data, "--list", folder / f"{data}.json", "--output", output),
            *("--make_list", clips, "--batch_size", 8, "--trackers", "sprites", "--metrics", metrics, *arguments),
        )
        return output / "clips"

    few, subset = ("--model", folder / FEW_STEPS), ("--count", min(clips, max(8, clips // 3), 64))
    labels = "grounding,labels,psnr-first"
    everything = measure("few_steps", *few, metrics=f"{labels},psnr-autoencoder")
    measure("swapped_labels", *few, "--intervention", "swapped_labels", "--difference_from", everything, metrics=labels)
    measure("few_steps_subset", "--videos", everything, *subset)
    guidance = ("--guidance_scale", 2, "--box_guidance_scale", 2)
    measure("all_steps_subset", "--model", folder / "model", "--num_inference_steps", 50, *guidance, *subset)
    long = measure("long_subset", *few, *subset, "--num_frames", LONG_FRAMES, data="long")
    seams = measure_seams(long, window=FRAMES, overlap=FRAMES // 2)
    write_json(folder / "evaluation" / "long_subset" / "seams.json", seams)
    say(f"difference of neighbouring frames at window borders: {seams['ratio']:.2f} times the rest")


def main() -> None:
    """Runs all steps that are not complete yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, help="time of the whole run; a resumed run keeps its own")
    parser.add_argument("--size", type=int, choices=(64, 128), default=64, help="width and height (default: 64)")
    parser.add_argument("--output", type=Path, help="folder of the run (default: runs/small_SIZE)")
    parser.add_argument("--clips", type=int, help="clips to train on (default: 4000, or 12000 at 128)")
    parser.add_argument(
        "--held_out", type=int, help="clips of the evaluation (default: 200; at 64, one per minute, at most 200)"
    )
    arguments, overrides = parser.parse_known_args()
    size, folder = arguments.size, (arguments.output or ROOT / "runs" / f"small_{arguments.size}").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    progress = Progress(folder, arguments.minutes, size)
    run, records = Runner(progress), folder / "records"
    counts = {"train_clips": arguments.clips or CLIPS[size], "val_clips": 128}
    run.smcd(
        *("prepare", "sprites", "--output", records, "--splits", "train,val"),
        *world_options(size, **STARTS, **counts),
    )
    for stage in STAGES[size]:
        train_stage(run, progress, stage, folder, size, overrides)
        if stage.name == "autoencoder":
            run.smcd("prepare", "--features", folder / "autoencoder" / "model", "--output", records)
    for stage, name in (("scene", "model"), ("distill", FEW_STEPS)):
        if not (folder / name / "model.json").is_file():
            export = ["export", "--workdir", folder / stage, "--output", folder / name, "--license", "Apache-2.0"]
            run.smcd(*export, "--dtype", "bfloat16")
    evaluate(run, folder, size, arguments.held_out or held_out_clips(size, progress.values["minutes"]))
    spent = f"{progress.values['used_seconds'] / 60:.1f} minutes"
    say(f"{spent}; the models are {folder / 'model'} and, for 4 steps, {folder / FEW_STEPS}")


if __name__ == "__main__":
    main()
