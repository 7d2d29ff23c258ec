"""One stream of a publisher: its name, its place, its counts. Plain data: the publisher and the stream's lane look after it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bindings.python import wire
from operators.link.header import Form, Headers, Place

if TYPE_CHECKING:
    from bindings.python.curve import Guard
    from engine.pool import Lease
    from operators.link.publisher import Publisher


@dataclass(frozen=True, slots=True)
class Settings:
    """What a socket is. Streams that share an address must agree on all of it."""

    url: str
    hwm: int = 8
    guard: Guard | None = None
    lossless: bool = False


@dataclass(eq=False)
class Stream:
    """One stream. `publish` is called by one lane; the counts may be read by anyone."""

    name: str
    publisher: Publisher
    topic: bytes = b""
    run: str = ""
    count: int = 0  # frames sent so far: the `n` of the next
    subscribers: int = 0
    joins: int = 0  # how often somebody came
    state: str = "loading"
    times: deque[float] = field(default_factory=lambda: deque(maxlen=1024))
    next_beat: float = 0.0
    silent: bool = False  # another protocol, which knows neither beats nor ends
    stopping: Callable[[], bool] = lambda: False  # asked while a lossless stream waits
    health: Callable[[], str] = lambda: ""  # how the graph is

    def __post_init__(self) -> None:
        self._headers = Headers(self.name, self.run)

    @property
    def said(self) -> str:
        """What a heartbeat says of the graph: its own word where the format knows it, else whether a frame has come yet."""
        told = self.health()
        return told if told in wire.STATES else self.state

    def publish(
        self, form: Form, place: Place, parts: Sequence[Any], leases: tuple[Lease, ...] = (), *, shm: wire.Shm | None = None
    ) -> bool:  # fmt: skip
        """Send a frame. Each lease is given back when it has been sent; False where the frame was given up, see `Publisher.send`."""
        size = tuple([part.nbytes if hasattr(part, "nbytes") else len(part) for part in parts])

        def head() -> Sequence[bytes]:
            return self.topic, self._headers.pack(self.count, time.time_ns(), place, form, size, shm)

        return self.publisher.send(self, head, parts, leases)

    def publish_raw(self, head: Sequence[bytes], parts: Sequence[Any]) -> bool:
        """Send a message of another protocol."""
        return self.publisher.send(self, lambda: head, parts, ())

    @property
    def fps(self) -> float:
        """Frames a second over the last five."""
        now = time.monotonic()
        recent = [when for when in self.times.copy() if now - when < 5.0]
        return (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 and recent[-1] > recent[0] else 0.0


def covers(prefix: bytes, stream: Stream) -> bool:
    """Whether who subscribed to `prefix` gets this stream: by its topic, or whatever the message begins with, if it has none."""
    return stream.silent or stream.topic.startswith(prefix)
