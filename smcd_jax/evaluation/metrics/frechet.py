"""The Frechet distance between two sets of features (Dowson and Landau 1982), as used by FID and FVD."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from smcd_jax.errors import SMCDError


def frechet_distance(first: Float[np.ndarray, "n d"], second: Float[np.ndarray, "m d"]) -> float:
    """Returns the squared Frechet distance between the Gaussians fitted to two sets, in float64.

    |mean_1 - mean_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)), with covariances over n - 1. With C_i = R_i^T R_i the
    trace of the square root is the sum of the singular values of R_1 R_2^T, so no matrix square root is computed. Sets
    with fewer samples than features (singular covariances) are exact too and need no regularization.

    Args:
        first: Features, one row per sample, in any order.
        second: Features of the other set, of the same width.

    Returns:
        Distance in squared units of the features; 0 for equal sets.

    Raises:
        SMCDError: A set has fewer than two samples, the widths differ, or a feature is NaN or infinite.
    """
    mean_1, root_1 = _gaussian(np.asarray(first), "first")
    mean_2, root_2 = _gaussian(np.asarray(second), "second")
    if mean_1.shape != mean_2.shape:
        raise SMCDError(
            f"Frechet distance: both sets must have the same number of features per sample, got {mean_1.size} and "
            f"{mean_2.size}",
            argument="second",
            value=mean_2.size,
        )
    shared = np.linalg.svd(root_1 @ root_2.T, compute_uv=False).sum()
    distance = np.square(mean_1 - mean_2).sum() + np.square(root_1).sum() + np.square(root_2).sum() - 2 * shared
    return max(float(distance), 0.0)  # rounding can make it negative


def _gaussian(features: np.ndarray, name: str) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "r d"]]:
    """Returns the mean, and a triangular R such that R^T R is the covariance."""
    if features.ndim != 2 or len(features) < 2:
        raise SMCDError(
            f"Frechet distance: the {name} set must have at least 2 rows of features, got shape {list(features.shape)}",
            argument=name,
            value=features.shape,
        )
    features = features.astype(np.float64)
    if not np.isfinite(features).all():
        bad = np.count_nonzero(~np.isfinite(features).all(axis=1))
        raise SMCDError(
            f"Frechet distance: {bad} of {len(features)} samples of the {name} set contain NaN or infinity; check the "
            "videos and the weights of the network",
            argument=name,
            value=bad,
        )
    mean = features.mean(axis=0)
    return mean, np.linalg.qr((features - mean) / np.sqrt(len(features) - 1), mode="r")
