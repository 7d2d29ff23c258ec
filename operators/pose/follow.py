"""What every pose detector does with its raw finds: follow the people, smooth them, hold and fade them, and score their steadiness."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from operators.pose.people import People
from operators.pose.steadiness import Steadiness

if TYPE_CHECKING:
    import numpy as np

BETA = 3.0  # Hz per (torso length / s)
HALF_LIFE_S = 0.25
HALF_SPEED = 1.5  # torso lengths a second at which the score halves


def cutoff(smoothing: float) -> float | None:
    """The 1-euro filter's resting cutoff in Hz for a smoothing of 0..1: none at 0, then from 8 Hz down to 1/8 Hz."""
    return None if smoothing <= 0 else 8.0 * 64.0**-smoothing


class Follow:
    """Raw finds in, people and their steadiness out; one per detector."""

    def __init__(self, limit: int) -> None:
        self.people = People(limit)
        self.steadiness = Steadiness()

    def reset(self) -> None:
        self.people.reset()
        self.steadiness.reset()

    def snapshot(self) -> dict[str, Any]:
        return {"people": self.people.snapshot(), "steadiness": self.steadiness.snapshot()}

    def recall(self, state: Mapping[str, Any]) -> None:
        self.people.recall(state["people"])
        self.steadiness.recall(state["steadiness"])

    def __call__(
        self, found: np.ndarray[Any, Any], when: int, height: int, width: int, *, smoothing: float, hold_ms: float, fade_ms: float
    ) -> tuple[np.ndarray[Any, Any], float]:
        """The people (n, 18, 3) at `when` (ns) and the score."""
        import numpy as np

        aspect = width / height
        joints = self.people(
            found, when, aspect=aspect, min_cutoff=cutoff(smoothing), beta=BETA, hold=hold_ms / 1000, fade=fade_ms / 1000
        )
        # Somebody on hold does not move, and that is no steadiness: only those seen in this frame count.
        seen = [(p.key, row) for p, row in zip(self.people.followed, joints, strict=True) if p.seen == when]
        rows = np.stack([row for _, row in seen]) if seen else joints[:0]
        score = self.steadiness(rows, when, aspect=aspect, half_life=HALF_LIFE_S, half_speed=HALF_SPEED, keys=[key for key, _ in seen])
        return joints, score
