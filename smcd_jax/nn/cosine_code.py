"""Linear code of image patches: the largest coefficients of the discrete cosine transform, as in JPEG.

It is the starting point of an autoencoder's linear shortcut. Natural pictures need few of the coefficients, so that an
autoencoder that starts from this code only learns what the code leaves out.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

# Orthonormal axes of color: brightness, red against blue, green against both; and typical sizes of their coefficients.
_COLOR_AXES = np.array([[1, 1, 1], [1, 0, -1], [-1, 2, -1]]) / np.sqrt([[3], [2], [6]])
_COLOR_SIZES = (1.0, 0.6, 0.3)
_LARGEST, _FALL = 0.5, 2.6  # typical constant coefficient per pixel of the side, and decay with frequency


def cosine_code(side: int, channels: int) -> tuple[Float32[np.ndarray, "p c"], Float32[np.ndarray, "c p"]]:
    """Returns the encoder and decoder matrices for patches of a picture in -1..1.

    Args:
        side: Side of a patch in pixels.
        channels: Number of coefficients, at most 3 * side^2; the typically largest ones are kept.

    Returns:
        Matrix from a patch `[side, side, 3]`, flattened, to coefficients divided by the square root of their typical
        size, and the inverse mapping. The coarse shape of a picture thus has more variance than its details, and more
        weight in the loss of a diffusion model.
    """
    place = np.arange(side)
    waves = np.cos(np.pi * (place + 0.5) * place[:, None] / side) * np.sqrt(np.where(place == 0, 1, 2) / side)[:, None]
    sizes = {
        (u, v, color): _LARGEST * side * size / (1 + _FALL * (u + v))
        for u in range(side)
        for v in range(side)
        for color, size in enumerate(_COLOR_SIZES)
    }
    kept = sorted(sizes, key=lambda key: -sizes[key])[:channels]
    basis = np.stack([np.einsum("y,x,c->yxc", waves[u], waves[v], _COLOR_AXES[color]).ravel() for u, v, color in kept])
    scale = np.sqrt([sizes[key] for key in kept])
    return (basis.T / scale).astype(np.float32), (basis * scale[:, None]).astype(np.float32)
