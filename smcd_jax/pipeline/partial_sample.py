"""State of a sample that was interrupted between two steps, and the file that stores it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from smcd_jax.diffusion.samplers import SamplerState
from smcd_jax.files import write_atomically


class PartialSample(NamedTuple):
    """An interrupted sample.

    The noise of every step depends only on the seed and the number of the step, so a resumed sample equals an
    uninterrupted one.

    Attributes:
        step: Number of completed steps.
        state: State of the sampler after these steps.
    """

    step: int
    state: SamplerState


def save_partial(path: Path, partial: PartialSample, description: Mapping[str, Any]) -> None:
    """Writes an interrupted sample.

    Args:
        path: File to write.
        partial: The sample.
        description: Inputs and options of the sample, as JSON values.

    Raises:
        SMCDError: The file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.asarray(value) for name, value in partial.state._asdict().items()}
    with write_atomically(path) as temporary:
        np.savez(temporary, step=np.int64(partial.step), description=np.array(json.dumps(description)), **arrays)


def read_partial(path: Path) -> tuple[PartialSample, dict[str, Any]] | None:
    """Returns an interrupted sample and its description; None if the file is missing or damaged."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            state = SamplerState(**{name: content[name] for name in SamplerState._fields})
            step, description = int(content["step"]), json.loads(str(content["description"][()]))
    except Exception:  # numpy and zipfile raise many types for a damaged file
        return None
    shapes = {value.shape for value in state}
    sound = len(shapes) == 1 and all(np.isfinite(value).all() for value in state)
    return (PartialSample(step, state), description) if sound and isinstance(description, dict) else None
