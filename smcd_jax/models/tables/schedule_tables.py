"""The tables of a noise schedule that published files store, for comparison with the schedule of a config."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32

from smcd_jax.diffusion.schedule import DYNAMIC_RESCALE_STEPS, NoiseSchedule

TOLERANCE = 1e-5  # tolerance of stored tables relative to their largest value, since they are rounded to float32


def schedule_tables(schedule: NoiseSchedule) -> dict[str, Float32[np.ndarray, " t"]]:
    """Returns the tables under their names in the checkpoint; ``scale_arr`` is present only with dynamic rescale.

    The two reciprocal tables are zero with v-prediction, as in the published files.
    """
    a = schedule.alphas_cumprod
    before = np.append(1.0, a[:-1])
    alphas = a / before
    betas, recip = 1 - alphas, np.zeros_like(a)
    recip_minus_one = recip
    if schedule.prediction_type != "v_prediction":
        recip, recip_minus_one = np.sqrt(1 / a), np.sqrt(1 / a - 1)
    variance = betas * (1 - before) / (1 - a)
    with np.errstate(divide="ignore"):
        tables = {
            "betas": betas,
            "alphas_cumprod": a,
            "alphas_cumprod_prev": before,
            "sqrt_alphas_cumprod": np.sqrt(a),
            "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - a),
            "log_one_minus_alphas_cumprod": np.log(1 - a),
            "sqrt_recip_alphas_cumprod": recip,
            "sqrt_recipm1_alphas_cumprod": recip_minus_one,
            "posterior_variance": variance,
            "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
            "posterior_mean_coef1": betas * np.sqrt(before) / (1 - a),
            "posterior_mean_coef2": (1 - before) * np.sqrt(alphas) / (1 - a),
        }
    if schedule.dynamic_rescale != 1:
        end = np.full(DYNAMIC_RESCALE_STEPS, schedule.dynamic_rescale)
        tables["scale_arr"] = np.concatenate([schedule.scale, end])
    return {name: table.astype(np.float32) for name, table in tables.items()}


def schedule_notes(schedule: NoiseSchedule, tables: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Returns how the stored tables agree with those of a schedule, as one line.

    Args:
        schedule: Schedule of the model.
        tables: Arrays of a file by name; arrays that are not tables of a schedule are ignored.
    """
    ours = schedule_tables(schedule)
    stored = {name: table for name, table in tables.items() if name in ours}
    if not stored:
        return ("the file stores no tables of the noise schedule; that of the model is used",)
    differing = [name for name, table in stored.items() if not _agree(ours[name], table)]
    if not differing:
        return (f"the {len(stored)} stored tables of the noise schedule agree with those of the model",)
    return (
        f"{len(differing)} of {len(stored)} stored tables of the noise schedule differ from those of the model "
        f"({', '.join(differing[:3])}); sampling uses the model's, and --to_torch writes the stored ones",
    )


def _agree(ours: np.ndarray, stored: np.ndarray) -> bool:
    if ours.shape != stored.shape:
        return False
    ours, stored = ours.astype(np.float64), stored.astype(np.float64)
    finite = np.isfinite(ours) & np.isfinite(stored)
    if not np.array_equal(ours[~finite], stored[~finite]):
        return False
    return bool(np.abs(ours - stored)[finite].max() <= TOLERANCE * max(1.0, np.abs(ours[finite]).max()))
