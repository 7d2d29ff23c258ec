"""`pose.stability`: how steady the people are, as a number that a graph can steer by."""

from __future__ import annotations

from typing import Annotated, Any

from engine.operator import Live, Operator, operator
from engine.payload import Pose, Scalar
from operators.pose.people import People
from operators.pose.steadiness import Steadiness


@operator("pose.stability")
class Stability(Operator):
    """A smoothed score: 0 is erratic or lost, 1 is steady and well seen.

    Per person p, followed from the last frame by nearest torso, over dt seconds:

        speed_p = mean over joints of |way| / (torso length * dt)      torso lengths a second; joints weighted by their visibility
        r_p     = 2^(-speed_p / half_speed) * mean visibility
        r       = mean of r_p over people, weighted by torso length; 0 for somebody new, and 0 when nobody is there
        S      += (1 - 2^(-dt / half_life)) * (r - S),   S = 0 at the start of an epoch

    A joint's visibility is the lesser of its two frames'. The mean way takes joints of at least 0.3, the mean visibility those that reach
    0.05 in one of the two frames: legs outside the picture cost nothing. The torso reaches from the neck to between the hips, else it is
    taken from the shoulders. Times come from pts: a frame that is not later than the last leaves S as it is.

    half_life_ms: of the smoothing; 0 follows at once. half_speed: the speed at which the score halves, in torso lengths a second.
    """

    def __init__(
        self,
        *,
        half_life_ms: Annotated[float, Live(0, 60_000)] = 250.0,
        half_speed: Annotated[float, Live(0.01, 100)] = 1.5,
    ) -> None:
        self.half_life_ms, self.half_speed = half_life_ms, half_speed
        self._people = People(limit=100)
        self._steadiness = Steadiness()

    def __call__(self, pose: Pose) -> Scalar:
        import numpy as np

        aspect = pose.size[1] / pose.size[0] if pose.size[0] and pose.size[1] else 1.0
        when = self.site.pts
        people = self._people(np.asarray(pose.people), when, aspect=aspect, min_cutoff=None, beta=0.0)
        return Scalar(
            self._steadiness(
                people, when, aspect=aspect, half_life=self.half_life_ms / 1000, half_speed=self.half_speed, keys=self._people.keys
            )
        )

    def reset(self) -> None:
        self._people.reset()
        self._steadiness.reset()

    def snapshot(self) -> Any:
        return {"people": self._people.snapshot(), "steadiness": self._steadiness.snapshot()}

    def recall(self, state: Any) -> None:
        self._people.recall(state["people"])
        self._steadiness.recall(state["steadiness"])
