"""The 1-euro filter for key points, after Casiez, Roussel and Vogel, "1 € Filter" (CHI 2012).

A low pass whose cutoff rises with speed: still joints do not tremble, quick ones do not lag. Invariant: for positive time steps every
filtered coordinate lies between its last value and the new one. It knows nothing of people or pictures.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def share(cutoff: Any, dt: float) -> Any:
    """How much of the new value a first-order low pass of `cutoff` Hz takes over `dt` seconds: 0..1. Works on numbers and arrays."""
    turn = 2 * math.pi * cutoff * dt
    return turn / (turn + 1)


class OneEuro:
    """Filters (k, 2) positions. Positions are in any length unit; `beta` is in Hz per (unit / s).

    `min_cutoff` Hz is the cutoff of a joint at rest (lower: calmer, slower), `beta` how much speed raises it, `slope_cutoff` Hz the
    cutoff of the speed estimate itself.
    """

    def __init__(self, slope_cutoff: float = 1.0) -> None:
        self.slope_cutoff = slope_cutoff
        self.position: np.ndarray[Any, Any] | None = None
        self.slope: np.ndarray[Any, Any] | None = None

    def __call__(
        self, now: np.ndarray[Any, Any], dt: float, *, min_cutoff: float, beta: float, fresh: np.ndarray[Any, Any] | None = None
    ) -> np.ndarray[Any, Any]:
        """The filtered positions `dt` seconds after the last call. `fresh` (k,) marks joints without a history: they are taken as they are."""
        import numpy as np

        now = np.asarray(now, np.float64)
        if self.position is None or self.slope is None or self.position.shape != now.shape or dt <= 0:
            if self.position is None or self.position.shape != now.shape:
                self.position, self.slope = now.copy(), np.zeros_like(now)
            return self.position.copy()
        if fresh is not None:
            self.position[fresh], self.slope[fresh] = now[fresh], 0.0
        slope = (now - self.position) / dt
        self.slope += share(self.slope_cutoff, dt) * (slope - self.slope)
        speed = np.linalg.norm(self.slope, axis=-1, keepdims=True)
        self.position = self.position + share(min_cutoff + beta * speed, dt) * (now - self.position)
        return self.position.copy()
