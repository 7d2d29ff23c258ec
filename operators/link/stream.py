"""One stream of a publisher, and a message on its way to the socket. Plain data: the publisher's thread and the lanes look after it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bindings.python import wire

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


@dataclass(slots=True)
class Item:
    """A message on its way: header fields, or a whole header, and the memory behind its payload."""

    stream: Stream
    fields: Mapping[str, Any] | None
    parts: Sequence[Any]
    leases: tuple[Lease, ...] = ()
    raw: Sequence[bytes] = ()
    reason: str = ""

    def release(self) -> None:
        for lease in self.leases:
            lease.release()


@dataclass(slots=True, eq=False)
class Stream:
    """One stream. `publish` is called by one lane; the counts may be read by anyone."""

    name: str
    publisher: Publisher
    topic: bytes = b""
    run: str = ""
    count: int = 0  # frames handed over so far: the `n` of the next
    subscribers: int = 0
    joins: int = 0  # how often somebody came
    overflows: int = 0  # frames that the socket's thread did not get to in time
    state: str = "loading"
    wake: Any = None
    times: deque[float] = field(default_factory=lambda: deque(maxlen=1024))
    next_beat: float = 0.0
    silent: bool = False  # another protocol, which knows neither beats nor ends
    stopping: Callable[[], bool] = lambda: False  # asked while a lossless stream waits
    health: Callable[[], str] = lambda: ""  # how the graph is

    @property
    def said(self) -> str:
        """What a heartbeat says of the graph: its own word where the format knows it, else whether a frame has come yet."""
        told = self.health()
        return told if told in wire.STATES else self.state

    def publish(self, fields: Mapping[str, Any], parts: Sequence[Any], leases: tuple[Lease, ...] = ()) -> None:
        """Hand a frame over; `fields` are those of wire.Frame without stream, run, n and sent. Each lease is released when it has been sent."""
        item = Item(self, {**fields, "stream": self.name, "run": self.run, "n": self.count}, parts, leases)
        self.count += 1
        self.publisher.put(item)

    def publish_raw(self, head: Sequence[bytes], parts: Sequence[Any], leases: tuple[Lease, ...] = ()) -> None:
        """Hand over a message of another protocol."""
        self.count += 1
        self.publisher.put(Item(self, None, parts, leases, raw=head))

    @property
    def fps(self) -> float:
        """Frames a second over the last five."""
        now = time.monotonic()
        recent = [when for when in self.times.copy() if now - when < 5.0]
        return (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 and recent[-1] > recent[0] else 0.0


def covers(prefix: bytes, stream: Stream) -> bool:
    """Whether who subscribed to `prefix` gets this stream: by its topic, or whatever the message begins with, if it has none."""
    return stream.silent or stream.topic.startswith(prefix)
