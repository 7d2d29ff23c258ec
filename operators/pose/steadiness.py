"""How steady the people in a picture are, as one number; the score behind `pose.stability`.

Invariant: the score stays within 0..1 and depends only on the poses and times it was given since the last `reset`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from operators.pose.joints import torso

if TYPE_CHECKING:
    import numpy as np

SEEN = 0.3  # a joint counts as moving where it is at least this visible in both frames
FAINT = 0.05  # a joint below this in both frames was never expected to be seen


class Steadiness:
    """The score S, updated once a frame; `pose.stability` documents the formula. People must keep their places from frame to frame."""

    def __init__(self) -> None:
        self.score = 0.0
        self._last: dict[int, np.ndarray[Any, Any]] | None = None
        self._when = 0

    def reset(self) -> None:
        """Forget everything: the score starts again from 0."""
        self.score, self._last = 0.0, None

    def snapshot(self) -> dict[str, Any]:
        """The score and the last poses; the poses are never written to."""
        return {"score": self.score, "when": self._when, "last": None if self._last is None else dict(self._last)}

    def recall(self, state: Mapping[str, Any]) -> None:
        """Go on from a `snapshot`."""
        self.score, self._when, self._last = state["score"], state["when"], state["last"]

    def __call__(
        self, people: np.ndarray[Any, Any], when: int, *, aspect: float, half_life: float, half_speed: float, keys: list[int] | None = None
    ) -> float:
        """Take the poses at `when` (ns) and return the score. `keys` name the people; by default their place in the list does."""
        now = dict(zip(range(len(people)) if keys is None else keys, people, strict=True))
        if self._last is None:
            self._last, self._when = now, when
            return self.score
        dt = (when - self._when) / 1e9
        if dt <= 0:
            return self.score
        target = self._target(self._last, now, dt, aspect, half_speed)
        self.score += (1 - math.pow(2, -dt / half_life) if half_life > 0 else 1.0) * (target - self.score)
        self.score = min(1.0, max(0.0, self.score))
        self._last, self._when = now, when
        return self.score

    @staticmethod
    def _target(last: Any, now: Any, dt: float, aspect: float, half_speed: float) -> float:
        if not now:
            return 0.0
        total = weight = 0.0
        for key, person in now.items():
            _, _, length = torso(person, aspect)
            weight += length
            if key in last:
                total += length * steady(last[key], person, dt, length, aspect, half_speed)
        return total / weight


def steady(before: Any, after: Any, dt: float, length: float, aspect: float, half_speed: float) -> float:
    """The unsmoothed score of one person over `dt` seconds: 2^(-speed / half_speed) times the mean visibility."""
    import numpy as np

    weakest = np.clip(np.minimum(before[:, 2], after[:, 2]), 0, 1)
    expected = np.maximum(before[:, 2], after[:, 2]) >= FAINT
    moving = weakest >= SEEN
    if not moving.any():
        return 0.0
    way = np.hypot((after[:, 0] - before[:, 0]) * aspect, after[:, 1] - before[:, 1])
    speed = float(np.average(way[moving], weights=weakest[moving])) / (length * dt)
    return math.pow(2, -speed / half_speed) * float(weakest[expected].mean())
