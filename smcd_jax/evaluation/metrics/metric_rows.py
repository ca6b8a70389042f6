"""Results of metrics: `Metric` (value, interval, source), and `MetricRow`, which adds the reference values."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from jaxtyping import Float64

from smcd_jax.errors import SMCDError

Direction = Literal["higher", "lower"]
CONFIDENCE = 0.95
RESAMPLES = 1000  # number of bootstrap samples for a mean
SEED = 0
MAX_NAMED = 5  # largest number of clips that a note names


class MetricSource(Protocol):
    """Description of what computed a metric, such as a network with its weights or a library."""

    name: str  # part of the metric's name: "openclip-vit-h-14"
    implementation: str
    weights_sha256: str | None
    frame_rule: str


@dataclasses.dataclass(frozen=True)
class Metric:
    """Value of one metric on a set of clips.

    Attributes:
        name: Name, including every rule that changes the value, such as "fvd-i3d-hold10".
        value: Value; None if the metric did not run, in which case the note says why.
        interval: 95 % bootstrap interval over clips with a fixed seed, or None.
        count: Number of clips measured.
        per_clip: Value of each clip by clip id; None for a metric of the whole set.
        implementation: Network or formula with its settings.
        weights_sha256: Hash of the file of weights; None without weights.
        frame_rule: Frames used, and how they were resized.
        better: Direction of improvement, "higher" or "lower".
        note: Warnings, such as omitted clips, and the reason why the metric did not run.
    """

    name: str
    value: float | None
    interval: tuple[float, float] | None = None
    count: int = 0
    per_clip: Mapping[str, float] | None = None
    implementation: str = ""
    weights_sha256: str | None = None
    frame_rule: str = ""
    better: Direction = "higher"
    note: str = ""

    def __post_init__(self) -> None:
        """Converts NumPy numbers to Python floats and sorts the clips by id.

        Raises:
            SMCDError: A number is NaN or infinite.
        """
        plain = {
            "value": None if self.value is None else float(self.value),
            "interval": None if self.interval is None else tuple(float(end) for end in self.interval),
            "per_clip": None
            if self.per_clip is None
            else {clip: float(self.per_clip[clip]) for clip in sorted(self.per_clip)},
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)
        every = [plain["value"] or 0.0, *(plain["interval"] or ()), *(plain["per_clip"] or {}).values()]
        if not all(map(math.isfinite, every)):
            raise SMCDError(
                f"{self.name}: the result contains NaN or infinity; check the videos and the weights",
                argument=self.name,
                value=self.value,
            )

    @classmethod
    def mean_of_clips(cls, name: str, per_clip: Mapping[str, float], **fields: Any) -> Metric:
        """Returns the mean over clips with its bootstrap interval.

        Args:
            name: Name of the metric.
            per_clip: Value of each clip.
            **fields: Other attributes of `Metric`.

        Raises:
            SMCDError: There is no clip, or a value is NaN or infinite.
        """
        if not per_clip:
            reason = f" ({fields['note']})" if fields.get("note") else ""
            raise SMCDError(f"{name}: no clip can be measured{reason}", argument=name)
        values = np.array([per_clip[clip] for clip in sorted(per_clip)], np.float64)
        return cls(name, values.mean(), bootstrap_interval(values), count=len(values), per_clip=per_clip, **fields)

    @classmethod
    def not_run(cls, name: str, reason: object, *, better: Direction = "higher") -> Metric:
        """Returns a metric without a value; ``reason`` is a text or the error that stopped it."""
        return cls(name, None, note=f"not run: {reason}", better=better)

    def to_dict(self) -> dict[str, Any]:
        """Converts to JSON values."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return values | {
            "interval": None if self.interval is None else list(self.interval),
            "per_clip": None if self.per_clip is None else dict(self.per_clip),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Metric:
        """Returns the metric of a dict made by `to_dict`.

        Raises:
            SMCDError: A key is unknown, or name or value is missing.
        """
        try:
            return cls(**values)
        except TypeError as error:
            raise SMCDError(f"not a metric of this release ({error}); evaluate again", value=values) from error


@dataclasses.dataclass(frozen=True)
class MetricRow:
    """A metric of the videos under test, with its reference values.

    Attributes:
        metric: Metric of the generated videos.
        references: Values of the same metric for `smcd_jax.evaluation.video_store.REFERENCES`, where it is defined.
    """

    metric: Metric
    references: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Converts to JSON values."""
        return {**self.metric.to_dict(), "references": dict(self.references)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MetricRow:
        """Returns the row of a dict made by `to_dict`."""
        rest = {name: value for name, value in values.items() if name != "references"}
        return cls(Metric.from_dict(rest), dict(values.get("references", {})))


def source_fields(extractor: MetricSource) -> dict[str, Any]:
    """Returns the description of an extractor as keyword arguments of `Metric`."""
    return {
        "implementation": extractor.implementation,
        "weights_sha256": extractor.weights_sha256,
        "frame_rule": extractor.frame_rule,
    }


def to_json(metrics: Iterable[Metric]) -> str:
    """Converts metrics to JSON text; floats are not rounded, so reading them returns the same bits."""
    return json.dumps([metric.to_dict() for metric in metrics], indent=1, allow_nan=False) + "\n"


def from_json(text: str, *, where: str = "metrics") -> list[Metric]:
    """Returns the metrics of a text made by `to_json`.

    Args:
        text: JSON text.
        where: Name of the file, for messages.

    Raises:
        SMCDError: The text is not JSON, or not a list of metrics.
    """
    try:
        entries = json.loads(text)
        return [Metric.from_dict(entry) for entry in entries]
    except (ValueError, TypeError) as error:
        raise SMCDError(f"{where}: not a list of metrics ({error}); evaluate again", path=where) from error


def bootstrap_interval(
    values: Sequence[float] | Float64[np.ndarray, " n"], *, resamples: int = RESAMPLES, seed: int = SEED
) -> tuple[float, float] | None:
    """Returns the 95 % bootstrap interval of the mean; None for fewer than two values.

    Args:
        values: Values of the clips, in the order of their ids, so that the same seed draws the same clips.
        resamples: Number of bootstrap samples.
        seed: Seed of the random number generator.
    """
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return None
    rows = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    low, high = np.quantile(values[rows].mean(axis=1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def describe_omitted(clips: Iterable[str], total: int, reason: str) -> str:
    """Returns a note about clips that were not measured; empty if all were."""
    clips = sorted(clips)
    if not clips:
        return ""
    more = ", ..." if len(clips) > MAX_NAMED else ""
    return f"{len(clips)} of {total} clips omitted ({reason}): {', '.join(clips[:MAX_NAMED])}{more}"
