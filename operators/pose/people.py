"""People followed from frame to frame: who is who, smoothed, held for a while when they are lost, and faded out.

Invariant: a person keeps the same place in the list for as long as the person is followed, and a person who is not detected any more is
gone `hold + fade` after the last sight. It knows arrays and times, neither pictures nor pose networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from operators.pose.euro import OneEuro, share
from operators.pose.joints import torso

if TYPE_CHECKING:
    import numpy as np

REACH = 1.5  # torso lengths a person may have moved between two sights, and still be the same
FAINT = 0.1  # a joint less visible than this has no history worth smoothing
VISIBILITY_HZ = 6.0  # cutoff for visibility: keeps joints from blinking at a threshold


@dataclass(slots=True)
class Person:
    """One followed person: the smoothed (18, 3) joints and when they were last seen (ns)."""

    key: int
    joints: np.ndarray[Any, Any]
    seen: int
    detected: np.ndarray[Any, Any]
    euro: OneEuro = field(default_factory=OneEuro)


class People:
    """Follows up to `limit` people. Call it once a frame with that frame's detections."""

    def __init__(self, limit: int = 10) -> None:
        self.limit = limit
        self.followed: list[Person] = []
        self._next = 0
        self._when: int | None = None

    def reset(self) -> None:
        """Forget everybody."""
        self.followed, self._when = [], None

    def snapshot(self) -> dict[str, Any]:
        """Who is followed, and how far, in arrays that nobody writes to."""
        return {
            "next": self._next, "when": self._when,
            "followed": [
                {
                    "key": p.key, "seen": p.seen, "joints": p.joints.copy(), "detected": p.detected.copy(),
                    "position": None if p.euro.position is None else p.euro.position.copy(),
                    "slope": None if p.euro.slope is None else p.euro.slope.copy(),
                }
                for p in self.followed
            ],
        }  # fmt: skip

    def recall(self, state: Mapping[str, Any]) -> None:
        """Go on from a `snapshot`."""
        self._next, self._when, self.followed = state["next"], state["when"], []
        for known in state["followed"]:
            person = Person(known["key"], known["joints"], known["seen"], known["detected"])
            person.euro.position, person.euro.slope = known["position"], known["slope"]
            self.followed.append(person)

    @property
    def keys(self) -> list[int]:
        """A number per person, in the order of the result: the same person keeps it, and it is never given twice."""
        return [p.key for p in self.followed]

    def __call__(
        self,
        found: np.ndarray[Any, Any],
        when: int,
        *,
        aspect: float,
        min_cutoff: float | None,
        beta: float,
        hold: float = 0.0,
        fade: float = 0.0,
    ) -> np.ndarray[Any, Any]:
        """The people at `when` (ns), (n, 18, 3) float32, from those `found` in the frame.

        `min_cutoff` None leaves positions as they are; `beta` is in Hz per (torso length / s); `hold` and `fade` are in seconds.
        """
        import numpy as np

        dt = 0.0 if self._when is None else (when - self._when) / 1e9
        self._when = when if self._when is None else max(when, self._when)
        pairs = match([p.detected for p in self.followed], list(found), aspect)
        taken = {new: old for old, new in pairs}
        for index, joints in enumerate(found):
            if index in taken:
                self._see(self.followed[taken[index]], joints, when, dt, aspect, min_cutoff, beta)
            else:
                person = Person(self._next, np.array(joints, np.float32), when, np.array(joints, np.float32))
                self._next += 1
                self.followed.append(person)
                if min_cutoff is not None:
                    self._see(person, joints, when, 0.0, aspect, min_cutoff, beta)
        self.followed = [p for p in self.followed if (when - p.seen) / 1e9 <= hold + fade and (p.seen == when or hold + fade > 0)]
        if len(self.followed) > self.limit:
            # Those on hold go first: a ghost must not stand beside the person it was.
            kept = sorted(self.followed, key=lambda p: (-p.seen, p.key))[: self.limit]
            self.followed = [p for p in self.followed if p in kept]
        shown = [self._shown(p, when, hold, fade) for p in self.followed]
        return np.stack(shown) if shown else np.zeros((0, 18, 3), np.float32)

    @staticmethod
    def _see(
        person: Person, joints: np.ndarray[Any, Any], when: int, dt: float, aspect: float, min_cutoff: float | None, beta: float
    ) -> None:
        import numpy as np

        out = np.array(joints, np.float32)
        if min_cutoff is not None:
            _, _, length = torso(joints, aspect)
            # Lengths in torsos, so that somebody far away is smoothed like somebody near; the picture stays in fractions.
            scale = np.array([aspect / length, 1 / length])
            before, after = person.joints[:, 2], out[:, 2]
            fresh = (person.detected[:, 2] < FAINT) | (after < FAINT)
            if person.euro.position is not None:
                person.euro.position = person.joints[:, :2] * scale
            out[:, :2] = person.euro(joints[:, :2] * scale, dt, min_cutoff=min_cutoff, beta=beta, fresh=fresh) / scale
            if dt > 0:
                out[:, 2] = before + share(VISIBILITY_HZ, dt) * (after - before)
        person.joints, person.detected, person.seen = out, np.array(joints, np.float32), when

    @staticmethod
    def _shown(person: Person, when: int, hold: float, fade: float) -> np.ndarray[Any, Any]:
        late = (when - person.seen) / 1e9 - hold
        if late <= 0:
            return person.joints
        faded = person.joints.copy()
        faded[:, 2] *= max(0.0, 1.0 - late / fade) if fade > 0 else 0.0
        return faded


def match(before: list[np.ndarray[Any, Any]], after: list[np.ndarray[Any, Any]], aspect: float) -> list[tuple[int, int]]:
    """Pairs (old, new) of the same person: nearest torsos first, none farther apart than REACH torso lengths."""
    import math

    places = [torso(p, aspect) for p in before]
    found = [torso(p, aspect) for p in after]
    ways = sorted(
        (math.hypot(a[0] - b[0], a[1] - b[1]) / max(a[2], b[2]), old, new)
        for old, a in enumerate(places)
        for new, b in enumerate(found)
    )
    pairs: list[tuple[int, int]] = []
    for way, old, new in ways:
        if way <= REACH and all(old != o and new != n for o, n in pairs):
            pairs.append((old, new))
    return pairs
