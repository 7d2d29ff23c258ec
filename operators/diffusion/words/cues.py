"""A schedule of prompts: which text is painted from which frame or time on.

Invariant: the cue of a frame depends on its own ordinal or time alone, so dropped frames and replays change nothing.
It knows numbers and text, not clocks or models.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import UsageError


@dataclass(frozen=True, slots=True)
class Said:
    """What to paint, what to avoid, and over how many frames it arrives."""

    text: str
    negative: str
    blend: int


class Schedule:
    """Cues in rising order, all by frame or all by time; before the first one, the parameters hold. Raises UsageError."""

    def __init__(self, cues: Sequence[Mapping[str, Any]]) -> None:
        self.by_time = any("time" in cue for cue in cues)
        key = "time" if self.by_time else "frame"
        self.points: list[float] = []
        self.said: list[Said] = []
        for n, cue in enumerate(cues):
            if ("time" in cue) == ("frame" in cue) or key not in cue:
                raise UsageError(
                    f"schedule[{n}]: expected {'either frame or time' if n == 0 else f'{key}, as in the entries before'}, "
                    f"found {', '.join(k for k in ('frame', 'time') if k in cue) or 'neither'}",
                    fix="write every entry by frame, or every entry by time",
                )
            at = float(cue[key])
            if self.points and at <= self.points[-1]:
                raise UsageError(f"schedule[{n}]: expected a {key} after {self.points[-1]:g}, found {at:g}", fix="put entries in order")
            self.points.append(at)
            self.said.append(Said(str(cue["text"]), str(cue.get("negative", "")), int(cue.get("blend", 0))))

    def at(self, seq: int, pts: int) -> Said | None:
        """The cue that holds for frame `seq` at `pts` nanoseconds; None before the first."""
        n = bisect_right(self.points, pts / 1e9 if self.by_time else seq)
        return self.said[n - 1] if n else None
