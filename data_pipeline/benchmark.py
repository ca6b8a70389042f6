"""Benchmark of the input pipeline: clips per second and per core, compared with a plain loop over raw frames.

One run measures every path on clips generated in the layout of GOT-10k, with frames of 1280 x 720. The plain loop
works like the reference's data set: in the main process, Pillow opens, decodes and resizes each frame of a window. The
pipeline reads what `prepare` made from the same frames:

- "decoded": records of `smcd prepare --frame_size`, with frames of the training size, the main source of the speedup;
- "decoded, short side": records of `smcd prepare --short_side`, which keep the aspect ratio and are resized on reading;
- "decoded, original size": records with the frames of the raw data;
- "cached": a feature cache with the published model's shapes. Its values are random, which takes as long to read.

Clips per core are clips per second of processor time, summed over all threads of the process, and so do not depend on
the number of free cores. The paths are measured in turn, and the rounds of each path are summed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Generator, Sequence
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipeline.batches import Batches
from data_pipeline.examples import ExampleSize, ExampleSource
from data_pipeline.features.cache import FeatureCache
from data_pipeline.features.source import FeatureSource
from data_pipeline.features.writer import FeatureEncoders, write_features
from data_pipeline.order.permutation import OrderState
from data_pipeline.records.frames import StoredFrames
from data_pipeline.records.prepare import prepare
from data_pipeline.records.reader import RecordFolder
from data_pipeline.sources import VideoSource
from smcd_jax.tokenizer import CONTEXT_LENGTH, Tokenizer

PLAIN = "plain loop"
DECODED, SHORT_SIDE, ORIGINAL_SIZE = "decoded", "decoded, short side", "decoded, original size"
CACHED = "cached"
# Batches taken before a measurement, until threads are running, files are open and prefetched batches are used up.
_WARM_UP = 6
_SETTLING = 0.3  # seconds to wait after each measurement for threads to end
_LATENT_SCALE, _LATENT_CHANNELS, _TEXT_WIDTH = 8, 4, 1024  # shapes of the published model
_IDENTITY = {"random numbers": "0"}


@dataclasses.dataclass(frozen=True)
class InputBenchmark:
    """Settings of the benchmark.

    Attributes:
        size: Size of an example.
        batch: Number of examples per batch.
        threads: Number of threads of the pipeline; None for one per core.
        clips: Number of clips in the generated data set.
        length: Number of frames per clip.
        raw_width: Width of raw frames in pixels.
        raw_height: Height of raw frames in pixels.
        rounds: Number of measurements per path.
        seconds: Duration of each measurement.
    """

    size: ExampleSize = dataclasses.field(default_factory=ExampleSize)
    batch: int = 16
    threads: int | None = None
    clips: int = 16
    length: int = 24
    raw_width: int = 1280
    raw_height: int = 720
    rounds: int = 4
    seconds: float = 2.0


@dataclasses.dataclass
class PathSpeed:
    """Sums over the measurements of one path.

    Attributes:
        name: Name of the path.
        clips: Number of clips delivered.
        seconds: Elapsed time.
        core_seconds: Processor time of this process, summed over threads.
    """

    name: str
    clips: int = 0
    seconds: float = 0.0
    core_seconds: float = 0.0

    @property
    def clips_per_second(self) -> float:
        """Clips per second of elapsed time."""
        return self.clips / self.seconds

    @property
    def clips_per_core_second(self) -> float:
        """Clips per second of processor time."""
        return self.clips / self.core_seconds


def measure_input(
    settings: InputBenchmark, folder: Path, *, progress: Callable[[str], None] = lambda line: None
) -> list[PathSpeed]:
    """Generates the data in an empty folder and measures every path.

    Args:
        settings: Settings of the benchmark.
        folder: Empty folder; the data take about 150 MB with the default settings.
        progress: Function called with a line of text at each step.

    Returns:
        Speed of every path, the plain loop first.
    """
    progress(f"making {settings.clips} clips of {settings.length} frames, {settings.raw_width} x {settings.raw_height}")
    raw = folder / "raw"
    write_raw_clips(settings, raw)
    sources = _prepared_sources(settings, raw, folder)
    paths: dict[str, Callable[[int], Generator[int]]] = {PLAIN: lambda number: _plain_loop(settings, raw)}
    for name, source in sources.items():
        batches = Batches([source], settings.batch, threads=settings.threads)
        paths[name] = functools.partial(_clip_counts, batches)
    speeds = [PathSpeed(name) for name in paths]
    for number in range(settings.rounds):
        for speed in speeds:
            progress(f"round {number + 1} of {settings.rounds}: {speed.name}")
            with contextlib.closing(paths[speed.name](number)) as deliveries:
                _measure(speed, deliveries, settings.seconds)
            time.sleep(_SETTLING)
    return speeds


def write_raw_clips(settings: InputBenchmark, folder: Path) -> None:
    """Writes clips in the layout of GOT-10k: a moving window over an enlarged picture, with camera-like noise."""
    split = folder / "train"
    with resources.as_file(resources.files("smcd_jax") / "assets" / "examples" / "rocket" / "img.png") as path:
        picture = Image.open(path).convert("RGB")
    width, height = settings.raw_width, settings.raw_height
    large = np.asarray(picture.resize((width * 5 // 4, height * 5 // 4), Image.Resampling.BICUBIC)).astype(np.int16)
    grain = np.rint(np.random.default_rng(0).normal(0, 3, (height * 2, width, 3))).astype(np.int16)
    names = [f"GOT-10k_Train_{number + 1:06d}" for number in range(settings.clips)]
    for number, name in enumerate(names):
        clip = split / name
        clip.mkdir(parents=True)
        for frame in range(settings.length):
            x, y = (number * 7 + frame * 3) % (width // 4), (number * 5 + frame * 2) % (height // 4)
            noise = grain[(frame * 29) % height :][:height]
            pixels = np.clip(large[y : y + height, x : x + width] + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(clip / f"{frame + 1:08d}.jpg", quality=90)
        _write_labels(clip, settings.length, width=width, height=height)
    (split / "list.txt").write_text("\n".join(names) + "\n", encoding="utf-8")


def table(speeds: Sequence[PathSpeed]) -> list[str]:
    """Formats the result as lines of text."""
    plain = speeds[0].clips_per_core_second
    lines = [f"{'path':<28}{'clips/s':>10}{'cores busy':>12}{'clips/s/core':>16}{'x plain':>9}"]
    for speed in speeds:
        busy, core = speed.core_seconds / speed.seconds, speed.clips_per_core_second
        lines.append(f"{speed.name:<28}{speed.clips_per_second:>10.1f}{busy:>12.2f}{core:>16.1f}{core / plain:>9.1f}")
    return lines


def _write_labels(clip: Path, frames: int, *, width: int, height: int) -> None:
    lefts = [width * (10 + frame % 50) / 100 for frame in range(frames)]
    lines = [f"{left:.1f},{height / 4},{width / 3:.1f},{height / 3:.1f}" for left in lefts]
    meta = f"[METAINFO]\nobject_class: rocket\nmotion_class: moving ({clip.name})\nresolution: ({width}, {height})\n"
    (clip / "groundtruth.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (clip / "absence.label").write_text("0\n" * frames, encoding="utf-8")
    (clip / "meta_info.ini").write_text(meta, encoding="utf-8")


def _prepared_sources(settings: InputBenchmark, raw: Path, folder: Path) -> dict[str, ExampleSource]:
    size, tokenizer = settings.size, Tokenizer.published()
    records = {}
    for name, stored in (
        (DECODED, StoredFrames(size=(size.width, size.height))),
        (SHORT_SIDE, StoredFrames(short_side=min(size.height, size.width))),
        (ORIGINAL_SIZE, StoredFrames()),
    ):
        output = folder / f"records {name}"
        prepare("got10k", raw, output, stored=stored)
        records[name] = RecordFolder(output, "train")
    cache = folder / "features"
    write_features(records[DECODED], cache, random_encoders(size), progress=False)
    sources: dict[str, ExampleSource] = {
        name: VideoSource(part, size, tokenizer=tokenizer) for name, part in records.items()
    }
    return sources | {CACHED: FeatureSource(FeatureCache(cache, encoders=_IDENTITY), size)}


def random_encoders(size: ExampleSize) -> FeatureEncoders:
    """Returns encoders that give random numbers in the published model's shapes."""
    generator = np.random.default_rng(0)
    latent = (2, size.height // _LATENT_SCALE, size.width // _LATENT_SCALE, _LATENT_CHANNELS)
    return FeatureEncoders(
        identity=_IDENTITY,
        precision="float32",
        height=size.height,
        width=size.width,
        scaling_factor=1.0,
        frame_batch=32,
        text_batch=32,
        moments=lambda frames: generator.standard_normal((len(frames), *latent), np.float32),
        texts=lambda texts: generator.standard_normal((len(texts), CONTEXT_LENGTH, _TEXT_WIDTH), np.float32),
        labels=lambda texts: generator.standard_normal((len(texts), _TEXT_WIDTH), np.float32),
    )


def _plain_loop(settings: InputBenchmark, raw: Path) -> Generator[int]:
    """Reads clips one by one like the reference; yields 1 per clip."""
    size, generator = settings.size, np.random.default_rng(0)
    clips = [sorted(clip.glob("*.jpg")) for clip in sorted((raw / "train").iterdir()) if clip.is_dir()]
    while True:
        files = clips[generator.integers(len(clips))]
        start = generator.integers(len(files) - size.frames + 1)
        frames = []
        for file in files[start : start + size.frames]:
            with Image.open(file) as image:
                small = image.convert("RGB").resize((size.width, size.height), Image.Resampling.BILINEAR)
            frames.append(np.asarray(small))
        np.stack(frames)
        yield 1


def _clip_counts(batches: Batches, number: int) -> Generator[int]:
    with contextlib.closing(batches.iterate(OrderState(seed=number))) as stream:
        for batch in stream:
            yield len(batch.clip_ids)


def _measure(speed: PathSpeed, deliveries: Generator[int], seconds: float) -> None:
    for _ in range(_WARM_UP):
        next(deliveries)
    start, core_start, clips = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < seconds:
        clips += next(deliveries)
    speed.clips += clips
    speed.seconds += time.perf_counter() - start
    speed.core_seconds += time.process_time() - core_start
