"""How long the parts of calls take on a GPU, where the host only submits them: two events of the device around every part.

Invariant: nobody waits for an event; those that have happened are read when the report looks, and the oldest are forgotten when many are
under way. Lanes that compute on the host are left alone. It knows sites and events, not what a part computes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.session import Session
    from engine.site import Site

UNDER_WAY = 4096
KEPT = 65_536  # times of one part


class DeviceTimes:
    """`event` makes a timing event: `record()`, `query()`, `elapsed_time(other)` in ms. `times`: "node.part" to {seq: ms}."""

    def __init__(self, event: Callable[[], Any]) -> None:
        self.event = event
        self.times: dict[str, dict[int, float]] = {}
        self._pending: deque[tuple[str, int, Any, Any]] = deque(maxlen=UNDER_WAY)

    def watch(self, site: Site) -> None:
        """Time the parts of this node's calls from now on, beside what the host says of them."""
        plain = site.span

        @contextmanager
        def span(name: str) -> Iterator[None]:
            first, last = self.event(), self.event()
            with plain(name):
                first.record()
                try:
                    yield
                finally:
                    last.record()
            self._pending.append((f"{site.node}.{name}", site.seq, first, last))

        site.span = span  # type: ignore[method-assign]

    def look(self) -> None:
        """Read what has happened."""
        while self._pending and self._pending[0][3].query():
            name, seq, first, last = self._pending.popleft()
            found = self.times.setdefault(name, {})
            found[seq] = found.get(seq, 0.0) + float(first.elapsed_time(last))
            if len(found) > KEPT:
                found.pop(next(iter(found)))


def device_times(session: Session) -> DeviceTimes | None:
    """Watching every node on a stream of a GPU; None where the session has none."""
    nodes = [node for node in session.nodes.values() if node.lane.device.asynchronous]
    if not nodes:
        return None
    import torch

    found = DeviceTimes(lambda: torch.cuda.Event(enable_timing=True))
    for node in nodes:
        found.watch(node.site)
    return found
