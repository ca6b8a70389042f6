"""Sampling of an evaluation's videos on all devices of this machine; an interrupted run resumes.

One pipeline per device takes its calls from a shared queue. The clips of a call do not depend on the number of devices,
and each clip has its own seed, so on devices of one kind a clip is the same bit for bit whether it is sampled on one
device or on eight, in one run or in two.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from PIL import Image

from data_pipeline.records.schema import BadClip
from smcd_jax.errors import SMCDError
from smcd_jax.evaluation.video_store import EvalClip, Fault, Video
from smcd_jax.files import write_folder_atomically
from smcd_jax.media import write_video
from smcd_jax.runtime.devices import device_summary
from smcd_jax.runtime.progress import Progress
from smcd_jax.tracks import BoxTracks
from smcd_jax.tracks.track_file import track_file_text

if TYPE_CHECKING:
    from smcd_jax.pipeline import VideoPipeline

FORMAT, VERSION = "smcd-evaluation-clip", 1
PROVENANCE, VIDEO = "provenance.json", "video.mp4"


@dataclass(frozen=True)
class SamplingRun:
    """Settings of a sampling run.

    Attributes:
        folder: Folder of the clips; each gets a folder ``CLIP_ID`` with its frames as 0000.png, ``video.mp4`` and
            ``provenance.json``, which appears complete or not at all.
        arguments: Arguments of the pipeline's call except picture, prompt, tracks and seed.
        fps: Frame rate of the video files, frames per second.
        provenance: Entries of every ``provenance.json``.
        batch_size: Number of clips per call. Each batch size is a separate program, whose metrics agree with those of
            others only up to rounding.
    """

    folder: Path
    arguments: Mapping[str, Any]
    fps: float
    provenance: Mapping[str, Any]
    batch_size: int = 1

    def is_complete(self, clip: EvalClip) -> bool:
        """Returns whether the clip has been sampled and written."""
        return (self.folder / clip.clip_id / PROVENANCE).is_file()

    def run(
        self,
        clips: Sequence[EvalClip],
        open_pipeline: Callable[[bool], VideoPipeline],
        *,
        devices: Sequence[jax.Device] | None = None,
        part: tuple[int, int] = (1, 1),
        progress: Progress | None = None,
    ) -> list[Fault]:
        """Samples the missing clips.

        Args:
            clips: All clips, in the order of the list.
            open_pipeline: Function that opens the pipeline, called once per device; its argument says whether to
                verify the checksums of the weights.
            devices: Devices to use; by default all of this process.
            part: Index (from 1) and number of parts: (2, 4) samples the second quarter of the calls, for one of four
                machines that share `folder`.
            progress: Progress reporting, advanced once per clip.

        Returns:
            Faults of the clips that could not be sampled.

        Raises:
            SMCDError: The model cannot be read, or a file cannot be written.
        """
        progress = progress or Progress()
        calls = [clips[start : start + self.batch_size] for start in range(0, len(clips), self.batch_size)]
        calls = [call for call in calls[part[0] - 1 :: part[1]] if not all(map(self.is_complete, call))]
        if not calls:
            return []
        devices = list(devices or jax.local_devices())[: len(calls)]
        with progress.stage("sample", sum(map(len, calls)), "clip") as advance:
            work = _Work(self, calls, advance)
            with ThreadPoolExecutor(len(devices)) as pool:
                running = [
                    pool.submit(work.on, device, open_pipeline, verify=index == 0)
                    for index, device in enumerate(devices)
                ]
                try:
                    for one in running:
                        one.result()
                finally:
                    work.stop.set()  # the other devices finish their current call
        return sorted(work.faults)

    def make(self, pipeline: VideoPipeline, call: Sequence[EvalClip]) -> list[Fault]:
        """Samples and writes the clips of one call.

        Returns:
            Faults: damaged records, inputs that the model rejects, samples that are not finite.

        Raises:
            SMCDError: A file cannot be written.
        """
        pictures, faults = {}, []
        height, width = (self.arguments[name] for name in ("height", "width"))
        for clip in call:
            try:
                pictures[clip.clip_id] = clip.real(height, width)[0]
            except BadClip as error:
                faults.append(Fault(clip.clip_id, error.kind, error.reason))
        sound = [clip for clip in call if clip.clip_id in pictures]
        if not sound:
            return faults
        filled = [*sound, *[sound[-1]] * (self.batch_size - len(sound))]
        try:
            tracks = [dataclasses.replace(clip.tracks, prompt=clip.caption) for clip in filled]
            output = pipeline(
                [pictures[clip.clip_id] for clip in filled],
                [clip.caption for clip in filled],
                tracks=tracks if pipeline.model.takes_tracks else None,
                seed=[clip.seed for clip in filled],
                output_type="uint8",
                **self.arguments,
            )
        except SMCDError as error:
            return [*faults, *(Fault(clip.clip_id, "no sample", f"clip {clip.clip_id}: {error}") for clip in sound)]
        for clip, video, given in zip(
            sound, output.frames, tracks, strict=False
        ):  # the other entries only fill the batch
            details = {"tracks": _content(given), **device_summary(), "seconds": output.seconds}
            self._write(clip, video, details)
        return faults

    def _write(self, clip: EvalClip, video: Video, details: Mapping[str, Any]) -> None:
        target = self.folder / clip.clip_id
        target.parent.mkdir(parents=True, exist_ok=True)
        entry = {"clip_id": clip.clip_id, "start": clip.start, "seed": clip.seed, "prompt": clip.caption}
        content = {"format": FORMAT, "version": VERSION, **entry, **self.provenance, **details}
        with write_folder_atomically(target, may_replace=lambda path: path.is_file()) as folder:
            for index, frame in enumerate(video):
                Image.fromarray(frame).save(folder / f"{index:04d}.png")
            if importlib.util.find_spec("av"):  # the frames are enough on a machine without PyAV
                write_video(video, folder / VIDEO, fps=self.fps)
            text = json.dumps(content, indent=1, ensure_ascii=False, default=_plain)
            (folder / PROVENANCE).write_text(text + "\n", encoding="utf-8")


class _Work:
    """Queue of the remaining calls, shared by the threads of all devices."""

    def __init__(self, run: SamplingRun, calls: Sequence[Sequence[EvalClip]], advance: Callable[[], object]):
        self._run, self._advance = run, advance
        self._queue: queue.SimpleQueue[Sequence[EvalClip]] = queue.SimpleQueue()
        for call in calls:
            self._queue.put(call)
        self.stop = threading.Event()
        self.faults: list[Fault] = []

    def on(self, device: jax.Device, open_pipeline: Callable[[bool], VideoPipeline], *, verify: bool) -> None:
        """Runs calls on one device until the queue is empty."""
        try:
            with jax.default_device(device):
                pipeline = open_pipeline(verify)
                pipeline.load()
                while not self.stop.is_set():
                    try:
                        call = self._queue.get_nowait()
                    except queue.Empty:
                        return
                    self.faults += self._run.make(pipeline, call)
                    for _ in call:
                        self._advance()
        except BaseException:
            self.stop.set()
            raise


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _content(tracks: BoxTracks) -> dict[str, Any] | None:
    """Returns the objects that the model saw, as in a track file; None if there are none."""
    return json.loads(track_file_text(tracks.without_absent()[0])) if tracks.mask.any() else None
