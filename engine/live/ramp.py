"""Ramps: numbers that go from where they are to a target, over frames or over time.

A ramp is clocked by one source: its first frame is the first that this source has admitted after the ramp was accepted, its last has the
target exactly. Whole numbers are rounded. Over seconds it follows the session's clock under a live clock and the stream's own times offline,
where seconds of computing say nothing; time in a pause does not count. It knows neither nodes nor parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from engine.errors import UsageError
from engine.live.receipt import Receipt

CURVES: Final = ("linear", "ease", "blend")


def share(curve: str, at: float) -> float:
    """How much of the way is done at the share `at` of the time, both 0..1. "ease": slow, fast, slow (3t² - 2t³)."""
    at = min(1.0, max(0.0, at))
    return at * at * (3 - 2 * at) if curve == "ease" else at


def between(start: Any, target: Any, at: float) -> Any:
    """The value at the share `at` of the way: numbers, lists of numbers; whole where both ends are. Exact at both ends."""
    if isinstance(target, (list, tuple)):
        return [between(a, b, at) for a, b in zip(start, target, strict=True)]
    if at >= 1.0:
        return target
    value = start + (target - start) * at
    return round(value) if isinstance(start, int) and isinstance(target, int) else value


def numeric(value: Any) -> bool:
    """Whether a ramp can start or end at `value`."""
    if isinstance(value, (list, tuple)):
        return bool(value) and all(numeric(part) and not isinstance(part, (list, tuple)) for part in value)
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check(frames: int | None, seconds: float | None, curve: str) -> None:
    """Raise UsageError where a ramp is asked for wrongly."""
    if (frames is None) == (seconds is None):
        raise UsageError("a ramp takes either frames or seconds", fix="write frames = 24, or seconds = 2.0")
    if frames is not None and (not isinstance(frames, int) or isinstance(frames, bool) or frames < 1):
        raise UsageError(f"a ramp takes at least one frame, found {frames!r}")
    if seconds is not None and (not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not 0 <= seconds < 1e6):
        raise UsageError(f"a ramp takes seconds from 0 on, found {seconds!r}")
    if curve not in CURVES:
        raise UsageError(f"a ramp has no curve {curve!r}", fix="write " + " or ".join(CURVES))


class Ramp:
    """One ramp under way. `starts` is filled in when it begins; paths that a later change overtakes leave it."""

    def __init__(self, receipt: Receipt, targets: Mapping[tuple[str, str], Any], frames: int | None, seconds: float | None, curve: str) -> None:
        self.receipt, self.targets, self.curve = receipt, dict(targets), curve
        self.frames, self.ns = frames, None if seconds is None else round(seconds * 1e9)
        self.starts: dict[tuple[str, str], Any] = {}
        self.gate: int | None = None  # the source that clocks it
        self._step = 0
        self._elapsed = 0
        self._last: int | None = None

    def begin(self, gate: int, starts: Mapping[tuple[str, str], Any]) -> None:
        self.gate, self.starts = gate, dict(starts)

    def rest(self) -> None:
        """The time until the next step does not count: a pause, or a jump of the stream's clock."""
        self._last = None

    def step(self, now: int) -> tuple[dict[tuple[str, str], Any], bool]:
        """The values of the next frame, made at `now` ns of the ramp's clock, and whether it is the last."""
        self._step += 1
        if self.frames is not None:
            at = self._step / self.frames
        else:
            self._elapsed += max(0, now - self._last) if self._last is not None else 0
            self._last = now
            at = self._elapsed / self.ns if self.ns else 1.0
        done = at >= 1.0
        if self.curve == "blend":  # all of it at once, and once: the operators themselves go over to it
            return (dict(self.targets) if self._step == 1 else {}), done
        part = 1.0 if done else share(self.curve, at)
        return {path: between(self.starts[path], target, part) for path, target in self.targets.items()}, done
