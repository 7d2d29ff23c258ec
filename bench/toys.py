"""Operators for benches: a counter, a relay that does nothing, a stage that sleeps, an end."""

from __future__ import annotations

import time
from collections.abc import Iterator

from engine.operator import Operator, Stamped, operator
from engine.payload import Scalar


@operator("bench.count")
class Count(Operator):
    """`frames` numbers, `period_ms` apart in real time (0: as fast as they are taken)."""

    def __init__(self, *, frames: int, period_ms: float = 0.0) -> None:
        self.frames, self.period_ms = frames, period_ms

    def __call__(self) -> Iterator[Scalar]:
        begun = self.site.clock.now()
        value = Scalar(0.0)
        for i in range(self.frames):
            if self.period_ms:
                self.site.sleep_until(begun + round(i * self.period_ms * 1e6))
            yield Stamped(value, pts=i * 1_000_000)  # type: ignore[misc]


@operator("bench.relay")
def relay(value: Scalar) -> Scalar:
    """The same value: what is left is the engine's own cost."""
    return value


@operator("bench.stage")
def stage(value: Scalar, *, ms: float) -> Scalar:
    """Sleeps, as a stage does that waits for a GPU."""
    time.sleep(ms / 1e3)
    return value


@operator("bench.end")
class End(Operator):
    """Takes what comes."""

    def __call__(self, value: Scalar) -> None:
        return None
