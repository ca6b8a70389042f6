"""Every measure of an evaluation by its name on the command line: which clips, which extractor, which figures come out.

A figure is a `Measure` of the generated videos with the same measure of the real clip, of the still first frame and of
the slid crop beside it. A measure that cannot run (weights or a library are missing) gives a figure without a value,
whose note says why; the others run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from smcd_jax.errors import SMCDError
from smcd_jax.evaluation.grounding_run import Boxes, Follower, measure_grounding
from smcd_jax.evaluation.metrics import fidelity, motion
from smcd_jax.evaluation.metrics.clip_score import caption_similarity, frame_consistency
from smcd_jax.evaluation.metrics.fvd import fvd
from smcd_jax.evaluation.metrics.metric_rows import Direction, Measure, left_out
from smcd_jax.evaluation.trackers.opencv import load_cv2
from smcd_jax.evaluation.video_store import GENERATED, REAL, REFERENCES, SLID, STILL, ClipStore, Video
from smcd_jax.runtime.progress import Progress

OpenExtractor = Callable[[str], Any]
OpenFollower = Callable[[str], Follower]
ByVersion = Mapping[str, Sequence[Measure]]
Features = Mapping[str, Float64[np.ndarray, "*_ d"]]


@dataclass(frozen=True)
class Figure:
    """A measure, and what stands beside it.

    Attributes:
        measure: of the videos.
        references: the same of `clip_store.REFERENCES`, where it makes sense.
    """

    measure: Measure
    references: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**self.measure.to_dict(), "references": dict(self.references)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Figure:
        """The inverse of `to_dict`."""
        rest = {name: value for name, value in values.items() if name != "references"}
        return cls(Measure.from_dict(rest), dict(values.get("references", {})))


class Kind(NamedTuple):
    """A measure that can be asked for by name.

    Attributes:
        run: gives its measures by version.
        extractor: name of its weights, or None.
        better: of the row that says that it did not run.
        default: whether it runs where none are asked for by name.
    """

    run: Callable[[MeasureRun, str | None], ByVersion]
    extractor: str | None = None
    better: Direction = "higher"
    default: bool = True


class _Read(NamedTuple):
    """What an extractor of pictures has read, when it has been let go."""

    described: _Described
    frames: Mapping[str, Features]  # by version, then clip
    texts: Features


class _Described(NamedTuple):
    name: str
    implementation: str
    weights_sha256: str | None
    frame_rule: str


class MeasureRun:
    """Measures the clips of a store. What one measure has read of the clips serves the next.

    Attributes:
        boxes: where the first of the trackers has found the objects of each generated clip.
    """

    def __init__(
        self,
        store: ClipStore,
        *,
        open_extractor: OpenExtractor,
        open_follower: OpenFollower,
        trackers: Sequence[str] = (),
        progress: Progress | None = None,
    ):
        """Nothing is read yet.

        Args:
            store: of the clips.
            open_extractor: gives an extractor by the name of its weights, or raises SMCDError.
            open_follower: gives a tracker by its name, or raises SMCDError.
            trackers: names of those that "grounding" asks.
            progress: told of each clip.
        """
        self.store, self.trackers = store, tuple(trackers)
        self.open_extractor, self.open_follower = open_extractor, open_follower
        self.progress = progress or Progress()
        self.boxes: Mapping[str, Boxes] = {}
        self._read: dict[str, _Read | SMCDError] = {}

    def figures(self, names: Sequence[str]) -> list[Figure]:
        """The figures of the measures of these names, in the order of `KINDS`.

        Raises:
            SMCDError: there is no measure of a name.
        """
        check_names(names)
        made: list[Figure] = []
        for name, kind in KINDS.items():
            if name == "grounding" and name in names:
                for tracker in self.trackers:
                    method = tracker.partition(":")[0]  # results name no file of this machine
                    made += self._tried(f"{name}-{method}", kind, tracker)
            elif name in names:
                made += self._tried(name, kind, kind.extractor)
        return made

    def read(self, extractor: str) -> _Read:
        """Features of all frames of all versions, and of the captions where it reads texts; kept.

        Raises:
            SMCDError: the extractor cannot be opened.
        """
        if extractor not in self._read:
            try:
                self._read[extractor] = self._features(extractor)
            except SMCDError as error:  # said again by every measure that wants it
                self._read[extractor] = error
        found = self._read[extractor]
        if isinstance(found, SMCDError):
            raise found
        return found

    def over_clips(self, name: str, of: Callable[[Any, Mapping[str, Video]], Mapping[str, Any]]) -> dict[str, dict]:
        """What ``of(clip, videos)`` gives for each version, by version, then clip; what is None is left out."""
        values: dict[str, dict[str, Any]] = {}
        with self.progress.stage(name, len(self.store), "clip") as advance:
            for clip, videos in self.store.pairs():
                for version, value in of(clip, videos).items():
                    if value is not None:
                        values.setdefault(version, {})[clip.clip_id] = value
                advance()
        return values

    def _tried(self, name: str, kind: Kind, given: str | None) -> list[Figure]:
        try:
            return _figures(kind.run(self, given))
        except SMCDError as error:
            return [Figure(Measure.not_run(name, error, better=kind.better), {})]

    def _features(self, name: str) -> _Read:
        extractor = self.open_extractor(name)
        frames = self.over_clips(
            f"read with {name}",
            lambda clip, videos: {version: extractor.features(videos[version]) for version in (GENERATED, REAL, SLID)},
        )
        frames[STILL] = {clip: np.repeat(rows[:1], len(rows), axis=0) for clip, rows in frames[REAL].items()}
        captions = {clip.clip_id: clip.caption for clip in self.store.clips if clip.caption.strip()}
        texts: Features = {}
        if hasattr(extractor, "texts") and captions:
            texts = dict(zip(captions, extractor.texts(list(captions.values())), strict=True))
        return _Read(_Described(*(getattr(extractor, field) for field in _Described._fields)), frames, texts)


def check_names(names: Sequence[str]) -> None:
    """Refuses names of which there is no measure.

    Raises:
        SMCDError: there is none of a name.
    """
    for name in names:
        if name not in KINDS:
            raise SMCDError(f"measure {name!r} is unknown; use some of {', '.join(KINDS)}")


def _figures(measures: ByVersion) -> list[Figure]:
    figures = []
    for index, measure in enumerate(measures[GENERATED]):
        values = {version: measures[version][index].value for version in REFERENCES if version in measures}
        figures.append(Figure(measure, {version: value for version, value in values.items() if value is not None}))
    return figures


def _clip_sim(run: MeasureRun, extractor: str | None) -> ByVersion:
    read = run.read(extractor)
    return {version: [caption_similarity(of, read.texts, read.described)] for version, of in read.frames.items()}


def _consistency(run: MeasureRun, extractor: str | None) -> ByVersion:
    read = run.read(extractor)
    return {version: [frame_consistency(of, read.described)] for version, of in read.frames.items()}


def _fff(run: MeasureRun, extractor: str | None) -> ByVersion:
    read = run.read(extractor)
    given = {clip: rows[0] for clip, rows in read.frames[REAL].items()}
    return {version: fidelity.first_frame_fidelity(of, given, read.described) for version, of in read.frames.items()}


def _fvd(run: MeasureRun, extractor: str | None) -> ByVersion:
    opened = run.open_extractor(extractor)
    features = run.over_clips(
        f"read with {extractor}",
        lambda clip, videos: {version: opened.features(video[None])[0] for version, video in videos.items()},
    )
    how = {"frames": run.store.frames, "extractor": opened}
    measures = {GENERATED: [fvd(features[GENERATED], features[REAL], **how)]}
    for version in (STILL, SLID):
        measures[version] = [fvd(features[version], features[REAL], resamples=0, **how)]
    return measures


def _pixels(kind: str) -> Callable[[MeasureRun, str | None], ByVersion]:
    """PSNR, SSIM or LPIPS of the generated clip and of the floors with the real one."""

    def run_pixels(run: MeasureRun, extractor: str | None) -> ByVersion:
        lpips = run.open_extractor(extractor) if extractor else None
        between = {"psnr": fidelity.psnr, "ssim": fidelity.ssim}[kind] if lpips is None else lpips.distance
        values = run.over_clips(
            kind,
            lambda clip, videos: {
                version: between(videos[version], videos[REAL]) for version in (GENERATED, STILL, SLID)
            },
        )
        return {version: [fidelity.pixel_measure(kind, of, lpips=lpips)] for version, of in values.items()}

    return run_pixels


def _motion(run: MeasureRun, _: str | None) -> ByVersion:
    moves = run.over_clips(
        "motion",
        lambda clip, videos: {
            version: motion.motion_magnitude(video, clip.boxes, clip.mask) for version, video in videos.items()
        },
    )
    cv2 = load_cv2("optical flow", "calcOpticalFlowFarneback")
    described = {
        "implementation": f"Farneback's optical flow, OpenCV {cv2.__version__}",
        "frame_rule": f"between neighbouring frames, shorter side {motion.SHORTER_SIDE}, in shorter sides a frame",
    }
    directions: dict[str, Direction] = {"inside": "higher", "outside": "lower"}
    return {
        version: [
            _mean_motion(of, where, better, version == GENERATED, described) for where, better in directions.items()
        ]
        for version, of in moves.items()
    }


def _mean_motion(
    moves: Mapping[str, motion.Motion], where: str, better: Direction, noted: bool, described: Mapping[str, str]
) -> Measure:
    values = {clip: getattr(move, where) for clip, move in moves.items() if np.isfinite(getattr(move, where))}
    note = left_out(set(moves) - set(values), len(moves), f"nothing is {where} the boxes") if noted else ""
    name = f"motion-{where}-{motion.NAME}"
    if not values:
        return Measure.not_run(name, f"in no clip anything is {where} the boxes", better=better)
    return Measure.mean_of_clips(name, values, better=better, note=note, **described)


def _grounding(run: MeasureRun, tracker: str | None) -> ByVersion:
    found = measure_grounding(run.store, run.open_follower(tracker), run.progress)
    run.boxes = run.boxes or found.boxes
    return found.measures


# By the name on the command line; results stand in this order.
KINDS: Mapping[str, Kind] = {
    "grounding": Kind(_grounding),
    "motion": Kind(_motion),
    "psnr": Kind(_pixels("psnr")),
    "ssim": Kind(_pixels("ssim")),
    "lpips": Kind(_pixels("lpips"), "lpips", "lower"),
    "clip-sim": Kind(_clip_sim, "openclip"),
    "consistency": Kind(_consistency, "openclip"),
    "fff-clip": Kind(_fff, "openclip"),
    "fff-dino-s16": Kind(_fff, "dino-s16"),
    "fvd": Kind(_fvd, "i3d", "lower"),
    "clip-sim-openai": Kind(_clip_sim, "openai-clip", default=False),
    "consistency-openai": Kind(_consistency, "openai-clip", default=False),
    "fff-clip-openai": Kind(_fff, "openai-clip", default=False),
    "fff-dino-b16": Kind(_fff, "dino-b16", default=False),
    "fvd-torchscript": Kind(_fvd, "i3d-torchscript", "lower", default=False),
}
DEFAULT = tuple(name for name, kind in KINDS.items() if kind.default)
