"""The Frechet distance between two sets of features (Dowson and Landau 1982), of which FID and FVD are instances."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from smcd_jax.errors import SMCDError


def frechet_distance(first: Float[np.ndarray, "n d"], second: Float[np.ndarray, "m d"]) -> float:
    """Squared Frechet distance between the Gaussians fitted to two sets, in float64.

    |mean_1 - mean_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)), with covariances over n - 1. With C_i = R_i^T R_i the
    trace of the root is the sum of the singular values of R_1 R_2^T, so no root of a matrix is ever taken: sets
    smaller than their width (singular covariances) are as exact as any other, and need no added diagonal.

    Args:
        first: one row per sample, in any order.
        second: another set, of the same width.

    Returns:
        The distance, 0 for equal sets; in units of the features squared.

    Raises:
        SMCDError: fewer than two samples, sets of different width, or NaN or infinite features.
    """
    mean_1, root_1 = _gaussian(np.asarray(first), "first")
    mean_2, root_2 = _gaussian(np.asarray(second), "second")
    if mean_1.shape != mean_2.shape:
        raise SMCDError(
            f"Frechet distance: the first set has {mean_1.size} features a sample, the second {mean_2.size}; "
            "take both from one network"
        )
    shared = np.linalg.svd(root_1 @ root_2.T, compute_uv=False).sum()
    distance = np.square(mean_1 - mean_2).sum() + np.square(root_1).sum() + np.square(root_2).sum() - 2 * shared
    return max(float(distance), 0.0)  # rounding alone can take it below


def _gaussian(features: np.ndarray, name: str) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "r d"]]:
    """Mean, and a triangular R with R^T R the covariance."""
    if features.ndim != 2 or len(features) < 2:
        raise SMCDError(
            f"Frechet distance: the {name} set has shape {features.shape}; give at least 2 samples as rows of features"
        )
    features = features.astype(np.float64)
    if not np.isfinite(features).all():
        bad = np.count_nonzero(~np.isfinite(features).all(axis=1))
        raise SMCDError(
            f"Frechet distance: {bad} of {len(features)} samples of the {name} set hold NaN or infinity; "
            "check the videos and the weights of the network that read them"
        )
    mean = features.mean(axis=0)
    return mean, np.linalg.qr((features - mean) / np.sqrt(len(features) - 1), mode="r")
