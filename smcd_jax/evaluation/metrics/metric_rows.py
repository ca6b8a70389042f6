"""The common record of a measure's result: its value, how sure it is, and exactly how it was made."""

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
RESAMPLES = 1000  # of the bootstrap of a mean
SEED = 0
MOST_NAMED = 5  # clips that a note lists by name


class Described(Protocol):
    """What a measure states of that which computed it, be it a network with its weights or a library."""

    name: str  # goes into the measure's name: "openclip-vit-h-14"
    implementation: str
    weights_sha256: str | None
    frame_rule: str


@dataclasses.dataclass(frozen=True)
class Measure:
    """One figure.

    Attributes:
        name: with the rule that changes the figure in it, such as "fvd-i3d-hold10".
        value: None where the measure did not run; the note then says why.
        interval: 95 % of the bootstrap over clips with a fixed seed, or None.
        count: clips measured.
        per_clip: value of each clip, or None where only the set has one.
        implementation: of the network or formula, with its settings.
        weights_sha256: of the file of weights, or None where there are none.
        frame_rule: which frames were read, and how they were resized.
        better: "higher" or "lower".
        note: warnings: clips left out, too few clips, why it did not run.
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
        """Plain floats in place of numpy's, clips in the order of their ids.

        Raises:
            SMCDError: a figure is NaN or infinite.
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
            raise SMCDError(f"{self.name}: the result holds NaN or infinity; check the videos and the weights")

    @classmethod
    def mean_of_clips(cls, name: str, per_clip: Mapping[str, float], **described: Any) -> Measure:
        """The mean over clips, with its bootstrap interval.

        Args:
            name: of the measure.
            per_clip: one value a clip.
            **described: the other attributes of `Measure`.

        Raises:
            SMCDError: no clip, or a value that is NaN or infinite.
        """
        if not per_clip:
            raise SMCDError(f"{name}: no clip can be measured{_because(described.get('note'))}")
        values = np.array([per_clip[clip] for clip in sorted(per_clip)], np.float64)
        return cls(name, values.mean(), bootstrap_interval(values), count=len(values), per_clip=per_clip, **described)

    @classmethod
    def not_run(cls, name: str, reason: object, *, better: Direction = "higher") -> Measure:
        """A measure without a value; ``reason`` may be the error that stopped it."""
        return cls(name, None, note=f"not run: {reason}", better=better)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, `from_dict`'s inverse."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return values | {
            "interval": None if self.interval is None else list(self.interval),
            "per_clip": None if self.per_clip is None else dict(self.per_clip),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Measure:
        """From JSON values.

        Raises:
            SMCDError: a key is unknown, or there is no name or value.
        """
        try:
            measure = cls(**values)
        except TypeError as error:
            raise SMCDError(f"a measure was not understood ({error}); was it written by another release?") from error
        return measure


def of_extractor(extractor: Described) -> dict[str, Any]:
    """What a measure says of an extractor, as keywords of `Measure`."""
    return {
        "implementation": extractor.implementation,
        "weights_sha256": extractor.weights_sha256,
        "frame_rule": extractor.frame_rule,
    }


def to_json(measures: Iterable[Measure]) -> str:
    """Measures as text. Floats are written as the shortest digits that read back to the same bits, never rounded."""
    return json.dumps([measure.to_dict() for measure in measures], indent=1, allow_nan=False) + "\n"


def from_json(text: str, *, where: str = "measures") -> list[Measure]:
    """The inverse of `to_json`.

    Raises:
        SMCDError: not JSON, or not a list of measures; ``where`` says in which file.
    """
    try:
        entries = json.loads(text)
        return [Measure.from_dict(entry) for entry in entries]
    except (ValueError, TypeError) as error:
        raise SMCDError(f"{where}: cannot be read as measures ({error}); evaluate again") from error


def bootstrap_interval(
    values: Sequence[float] | Float64[np.ndarray, " n"], *, resamples: int = RESAMPLES, seed: int = SEED
) -> tuple[float, float] | None:
    """The middle 95 % of means over clips drawn again with replacement; None for fewer than two clips.

    The values must come in a fixed order, that of clip ids: the same seed then draws the same clips.
    """
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return None
    drawn = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def left_out(clips: Iterable[str], total: int, reason: str) -> str:
    """A sentence for a note about clips that were not measured; "" for none."""
    clips = sorted(clips)
    if not clips:
        return ""
    more = ", ..." if len(clips) > MOST_NAMED else ""
    return f"{len(clips)} of {total} clips left out, {reason}: {', '.join(clips[:MOST_NAMED])}{more}"


def _because(note: str | None) -> str:
    return f" ({note})" if note else ""
