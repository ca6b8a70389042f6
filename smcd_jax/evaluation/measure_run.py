"""The run that computes the metrics of an evaluation on a video store.

A result is a `Metric` of the generated videos together with the same metric of the real clip and of two baselines: the
first frame repeated, and the crop of each object's first box moved along its boxes. A metric that cannot run, because
weights or a library is missing, gives a row without a value whose note says why; the other metrics still run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from smcd_jax.errors import SMCDError
from smcd_jax.evaluation.clip_calls import ClipCalls
from smcd_jax.evaluation.grounding_run import Boxes, ObjectTracker
from smcd_jax.evaluation.metric_specs import METRICS, ByVersion, MetricSpec, check_names
from smcd_jax.evaluation.metrics.metric_rows import Metric, MetricRow
from smcd_jax.evaluation.video_store import GENERATED, REAL, REFERENCES, SLID, STILL, EvalClip, Video, VideoStore
from smcd_jax.runtime.progress import Progress

OpenExtractor = Callable[[str], Any]
OpenTracker = Callable[[str], ObjectTracker]
Features = Mapping[str, Float64[np.ndarray, "*_ d"]]


class _Source(NamedTuple):
    """Name and provenance of an extractor that is no longer in memory."""

    name: str
    implementation: str
    weights_sha256: str | None
    frame_rule: str


class _ClipFeatures(NamedTuple):
    source: _Source
    frames: Mapping[str, Features]  # by version, then clip
    texts: Features


class MetricRun:
    """Computes metrics on the clips of a store; features that several metrics need are computed once.

    Attributes:
        boxes: Boxes of the objects that the first tracker found in each generated clip, by clip id.
    """

    def __init__(
        self,
        store: VideoStore,
        *,
        open_extractor: OpenExtractor,
        open_tracker: OpenTracker,
        trackers: Sequence[str] = (),
        difference_from: Path | None = None,
        workers: int = 1,
        progress: Progress | None = None,
    ):
        """Stores the inputs; `rows` computes the metrics.

        Args:
            store: Clips and videos.
            open_extractor: Function that opens an extractor by the name of its weights, or raises SMCDError.
            open_tracker: Function that opens a tracker by name, or raises SMCDError.
            trackers: Names of the trackers for the metric "grounding".
            difference_from: Folder of other videos of the same clips, for the metric "pixel-difference".
            workers: Maximum number of processes that detect or recognize sprites.
            progress: Progress reporting, advanced once per clip.
        """
        self.store, self.trackers, self.difference_from = store, tuple(trackers), difference_from
        self.open_extractor, self.open_tracker = open_extractor, open_tracker
        self.progress = progress or Progress()
        self.calls = ClipCalls(store, self.progress, workers=workers)
        self.boxes: Mapping[str, Boxes] = {}
        self._features: dict[str, _ClipFeatures | SMCDError] = {}

    def rows(self, names: Sequence[str]) -> list[MetricRow]:
        """Computes the metrics with these names; the rows come in the order of `METRICS`.

        Raises:
            SMCDError: A name is unknown.
        """
        check_names(names)
        rows: list[MetricRow] = []
        for name, spec in METRICS.items():
            if name == "grounding" and name in names:
                for tracker in self.trackers:
                    method = tracker.partition(":")[0]  # results must not contain local paths
                    rows += self._try(f"{name}-{method}", spec, tracker)
            elif name in names:
                rows += self._try(name, spec, spec.extractor)
        return rows

    def features(self, extractor: str) -> _ClipFeatures:
        """Returns features of all frames of all versions, and of captions if the extractor reads texts; cached.

        Raises:
            SMCDError: The extractor cannot be opened.
        """
        if extractor not in self._features:
            try:
                self._features[extractor] = self._extract(extractor)
            except SMCDError as error:  # raised again for every metric that needs this extractor
                self._features[extractor] = error
        features = self._features[extractor]
        if isinstance(features, SMCDError):
            raise features
        return features

    def over_clips(
        self,
        name: str,
        function: Callable[[EvalClip, Mapping[str, Video]], Mapping[str, Any]],
        *,
        picklable: bool = False,
    ) -> dict[str, dict]:
        """Returns the values of ``function(clip, videos)`` by version, then by clip id.

        Args:
            name: Name of the stage in progress reports.
            function: Function that returns a value for each version.
            picklable: Whether function and values can be pickled, so that worker processes can compute them.
        """
        values: dict[str, dict[str, Any]] = {}
        for clip, by_version in self.calls.each(name, function, picklable=picklable):
            for version, value in by_version.items():
                values.setdefault(version, {})[clip.clip_id] = value
        return values

    def _try(self, name: str, spec: MetricSpec, argument: str | None) -> list[MetricRow]:
        try:
            return _rows(spec.run(self, argument))
        except SMCDError as error:
            return [MetricRow(Metric.not_run(name, error, better=spec.better), {})]

    def _extract(self, name: str) -> _ClipFeatures:
        extractor = self.open_extractor(name)
        frames = self.over_clips(
            f"features of {name}",
            lambda clip, videos: {version: extractor.features(videos[version]) for version in (GENERATED, REAL, SLID)},
        )
        frames[STILL] = {clip: np.repeat(rows[:1], len(rows), axis=0) for clip, rows in frames[REAL].items()}
        captions = {clip.clip_id: clip.caption for clip in self.store.clips if clip.caption.strip()}
        texts: Features = {}
        if hasattr(extractor, "texts") and captions:
            texts = dict(zip(captions, extractor.texts(list(captions.values())), strict=True))
        return _ClipFeatures(_Source(*(getattr(extractor, field) for field in _Source._fields)), frames, texts)


def _rows(metrics: ByVersion) -> list[MetricRow]:
    rows = []
    for index, metric in enumerate(metrics[GENERATED]):
        values = {version: metrics[version][index].value for version in REFERENCES if version in metrics}
        rows.append(MetricRow(metric, {version: value for version, value in values.items() if value is not None}))
    return rows
