"""The books of queues and gates that reloads took out: what they counted still counts, and is checked when they are settled."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from engine.errors import RunError

if TYPE_CHECKING:
    from engine.run.channel import Channel
    from engine.run.gate import Gate
    from engine.session import Session
    from engine.trace import Ring


class Past:
    """Those that are not settled yet, and the sums of those that are."""

    def __init__(self) -> None:
        self.traces: deque[tuple[str, Ring]] = deque(maxlen=8)  # of lanes that ended, by name
        self.channels: list[Channel] = []
        self.gates: list[Gate] = []
        self.frames: Counter[str] = Counter()  # in, out
        self.drops: Counter[str] = Counter()

    def add(self, channels: Iterable[Channel], gates: Iterable[Gate]) -> None:
        """Take over what has left the graph, and close the books on what nothing can happen to any more."""
        self.channels = [c for c in [*self.channels, *channels] if c.balance or c.packets or not c.closed]
        open_ones: list[Gate] = []
        for gate in [*self.gates, *gates]:
            with gate.lock:
                if gate.in_flight or not gate.finished:
                    open_ones.append(gate)
                    continue
                self.frames.update({"in": gate.entered, "out": gate.out})
                self.drops.update(gate.drops)
        self.gates = open_ones


def check(session: Session) -> None:
    """Raise RunError where packets were lost without a cause, on any edge or at any gate that a session has or had."""
    for channel in [*session.channels, *session.past.channels]:
        if channel.balance:
            raise RunError(f"edge {channel.edge}: {channel.balance} packets unaccounted for")
    for gate in [*session.gates.values(), *session.past.gates]:
        missing = gate.entered - gate.out - gate.in_flight - sum(gate.drops.values())
        if missing:
            raise RunError(f"source {gate.source.name}: {missing} frames unaccounted for")
