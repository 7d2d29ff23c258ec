"""`pose.smooth`: joints without tremble, by the 1-euro filter."""

from __future__ import annotations

from typing import Annotated, Any

from engine.operator import Live, Operator, Range, operator
from engine.payload import Pose
from operators.pose.people import People


@operator("pose.smooth")
class Smooth(Operator):
    """Smooth every joint with a 1-euro filter (Casiez, Roussel, Vogel 2012), person by person.

    A joint at rest is filtered at `min_cutoff` Hz; speed raises that by `beta` Hz per torso length a second, so quick movements do not lag.
    A joint that was hidden (visibility under 0.1) starts afresh where it comes back, instead of sliding there. People are told apart by
    nearest torso. hold_ms, fade_ms: how long somebody stays who is not in the input any more, and fades. At most `num_people` are kept.
    """

    def __init__(
        self,
        *,
        min_cutoff: Annotated[float, Live(0.01, 60)] = 2.0,
        beta: Annotated[float, Live(0, 100)] = 3.0,
        hold_ms: Annotated[float, Live(0, 60_000)] = 0.0,
        fade_ms: Annotated[float, Live(0, 60_000)] = 0.0,
        num_people: Annotated[int, Range(1, 100)] = 10,
    ) -> None:
        self.min_cutoff, self.beta, self.hold_ms, self.fade_ms = min_cutoff, beta, hold_ms, fade_ms
        self._people = People(num_people)

    def __call__(self, pose: Pose) -> Pose:
        import numpy as np

        aspect = pose.size[1] / pose.size[0] if pose.size[0] and pose.size[1] else 1.0
        people = self._people(
            np.asarray(pose.people), self.site.pts, aspect=aspect, min_cutoff=self.min_cutoff, beta=self.beta,
            hold=self.hold_ms / 1000, fade=self.fade_ms / 1000,
        )  # fmt: skip
        return Pose(people, pose.size, pose.stability)

    def reset(self) -> None:
        self._people.reset()

    def snapshot(self) -> Any:
        return self._people.snapshot()

    def recall(self, state: Any) -> None:
        self._people.recall(state)
