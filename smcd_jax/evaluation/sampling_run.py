"""Owns the making of an evaluation's videos: each clip once, over all devices of this machine, resumed after a kill.

One pipeline works on each device, fed from one queue. Every call holds the same number of clips, the same ones whatever
devices there are or have been, and each clip has its own seed: so a clip is the same, bit for bit on devices of a kind,
on one device or on eight, in one run or in two.
"""

from __future__ import annotations

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
from smcd_jax.evaluation.video_store import AskedClip, Fault, Video
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
    """What to make, and where to.

    Attributes:
        folder: of the clips; each gets a folder ``CLIP_ID`` with its frames as 0000.png, ``video.mp4`` and
            ``provenance.json``, which appears whole or not at all.
        arguments: of the pipeline's call, but picture, prompt, tracks and seed.
        fps: of the video files.
        said: what provenance says of every clip.
        batch_size: clips in a call. Another number is another program: figures then agree to rounding only.
    """

    folder: Path
    arguments: Mapping[str, Any]
    fps: float
    said: Mapping[str, Any]
    batch_size: int = 1

    def made(self, clip: AskedClip) -> bool:
        """Whether the clip is there, whole."""
        return (self.folder / clip.clip_id / PROVENANCE).is_file()

    def run(
        self,
        asked: Sequence[AskedClip],
        open_pipeline: Callable[[bool], VideoPipeline],
        *,
        devices: Sequence[jax.Device] | None = None,
        part: tuple[int, int] = (1, 1),
        progress: Progress | None = None,
    ) -> list[Fault]:
        """Makes the clips that are missing.

        Args:
            asked: all clips, in the order of the list.
            open_pipeline: called once on each device, with whether to compare the weights with their checksums.
            devices: by default all of this process.
            part: (2, 4) makes the second quarter of the calls, for one of four machines that share ``folder``.
            progress: told of each clip.

        Returns:
            Clips that the model could not make a video of.

        Raises:
            SMCDError: the model cannot be read, or a file not written.
        """
        progress = progress or Progress()
        calls = [asked[start : start + self.batch_size] for start in range(0, len(asked), self.batch_size)]
        calls = [call for call in calls[part[0] - 1 :: part[1]] if not all(map(self.made, call))]
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
                    work.stop.set()  # the others end their clip and no more
        return sorted(work.faults)

    def make(self, pipeline: VideoPipeline, call: Sequence[AskedClip]) -> list[Fault]:
        """Makes and writes the clips of one call.

        Returns:
            Those that cannot be made: a damaged record, input that the model refuses, or a sample that is not finite.

        Raises:
            SMCDError: a file cannot be written.
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
            tracks = [BoxTracks(clip.boxes, clip.mask, clip.labels, prompt=clip.caption) for clip in filled]
            made = pipeline(
                [pictures[clip.clip_id] for clip in filled],
                [clip.caption for clip in filled],
                tracks=tracks,
                seed=[clip.seed for clip in filled],
                output_type="uint8",
                **self.arguments,
            )
        except SMCDError as error:
            return [*faults, *(Fault(clip.clip_id, "no sample", f"clip {clip.clip_id}: {error}") for clip in sound)]
        for clip, video, asked in zip(sound, made.frames, tracks, strict=False):  # the rest only filled the call
            said = {"tracks": json.loads(track_file_text(asked)), **device_summary(), "seconds": made.seconds}
            self._write(clip, video, said)
        return faults

    def _write(self, clip: AskedClip, video: Video, said: Mapping[str, Any]) -> None:
        place = self.folder / clip.clip_id
        place.parent.mkdir(parents=True, exist_ok=True)
        entry = {"clip_id": clip.clip_id, "start": clip.start, "seed": clip.seed, "prompt": clip.caption}
        content = {"format": FORMAT, "version": VERSION, **entry, **self.said, **said}
        with write_folder_atomically(place, may_replace=lambda path: path.is_file()) as folder:
            for index, frame in enumerate(video):
                Image.fromarray(frame).save(folder / f"{index:04d}.png")
            write_video(video, folder / VIDEO, fps=self.fps)
            text = json.dumps(content, indent=1, ensure_ascii=False, default=_plain)
            (folder / PROVENANCE).write_text(text + "\n", encoding="utf-8")


class _Work:
    """The calls still to be made, shared by the threads of all devices."""

    def __init__(self, run: SamplingRun, calls: Sequence[Sequence[AskedClip]], advance: Callable[[], object]):
        self._run, self._advance = run, advance
        self._left: queue.SimpleQueue[Sequence[AskedClip]] = queue.SimpleQueue()
        for call in calls:
            self._left.put(call)
        self.stop = threading.Event()
        self.faults: list[Fault] = []

    def on(self, device: jax.Device, open_pipeline: Callable[[bool], VideoPipeline], *, verify: bool) -> None:
        """Makes calls on a device until none is left."""
        try:
            with jax.default_device(device):
                pipeline = open_pipeline(verify)
                pipeline.load()
                while not self.stop.is_set():
                    try:
                        call = self._left.get_nowait()
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
    raise TypeError(f"{type(value).__name__} has no form in JSON")
