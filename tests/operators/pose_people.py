"""People made of numbers, for the pose tests."""

from __future__ import annotations

from typing import Any

import numpy as np

# x and y of the 18 joints of somebody who stands upright, in torso lengths from the neck
STANDING = np.array(
    [(0, -0.45), (0, 0), (-0.35, 0), (-0.5, 0.5), (-0.5, 1.0), (0.35, 0), (0.5, 0.5), (0.5, 1.0), (-0.2, 1.0), (-0.2, 1.8),
     (-0.2, 2.6), (0.2, 1.0), (0.2, 1.8), (0.2, 2.6), (-0.08, -0.52), (0.08, -0.52), (-0.18, -0.48), (0.18, -0.48)]
)  # fmt: skip


def standing(x: float = 0.5, y: float = 0.3, torso: float = 0.2, *, aspect: float = 1.0, visible: float = 1.0) -> np.ndarray[Any, Any]:
    """(18, 3) float32: the neck at (x, y) in shares of the picture, the torso in picture heights."""
    place = np.array([x, y]) + STANDING * torso / [aspect, 1.0]
    return np.concatenate([place, np.full((18, 1), visible)], 1).astype(np.float32)
