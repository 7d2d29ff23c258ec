"""Time, injected: a real clock for sessions and a step clock for tests and replay.

All engine times are integers in nanoseconds. `now` is monotonic. Nothing else in the engine reads a clock.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    def now(self) -> int:
        """Monotonic time in ns."""

    def sleep_until(self, when: int, cancelled: threading.Event) -> bool:
        """Wait until `when`; True when reached, False when `cancelled` was set first."""


class RealClock:
    """The machine's monotonic clock."""

    def now(self) -> int:
        return time.monotonic_ns()

    def sleep_until(self, when: int, cancelled: threading.Event) -> bool:
        while (left := when - time.monotonic_ns()) > 0:
            if cancelled.wait(left / 1e9):
                return False
        return not cancelled.is_set()


class StepClock:
    """A clock that moves only when told to: sleeping on it jumps straight to the wanted time."""

    def __init__(self, start: int = 0) -> None:
        self._now = start
        self._lock = threading.Lock()

    def now(self) -> int:
        return self._now

    def advance(self, ns: int) -> None:
        with self._lock:
            self._now += ns

    def jump(self, when: int) -> None:
        """Go to `when`, also back: the inline executor runs overlapping calls one after another."""
        with self._lock:
            self._now = when

    def sleep_until(self, when: int, cancelled: threading.Event) -> bool:
        with self._lock:
            self._now = max(self._now, when)
        return not cancelled.is_set()
