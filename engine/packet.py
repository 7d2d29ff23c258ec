"""One value travelling on an edge, and the frame it belongs to.

`seq` is identity (source ordinal, never reused); `pts` is time; the two are never mixed up. A `Frame` is what the runtime remembers of one
admitted source frame until its fate is known: how many messages of it are on the way, whether it reached a sink, why it was dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.operator import StreamInfo
    from engine.payload import Payload
    from engine.pool import Lease

CAUSES = ("gate", "paused", "stale", "overflow", "sampled", "skipped", "unpaired", "joined", "epoch", "late", "unwatched", "reload",
          "error")  # fmt: skip
"""Why a frame did not arrive: at the gate; while the session was paused; replaced by a newer one; evicted from a full queue; between every-N
samples; left out by an operator; its partner of a join never came; it went on as part of another source's frame; older than a reset; its pts
did not rise; nobody watches the sink; its way was taken out by a reload; an operator failed."""


class Frame:
    """The fate of one source frame.

    `hard` counts messages that hold the frame's credit, `total` all messages of it. When `hard` falls to zero the credit returns; when
    `total` does, the frame is `out` if a sink took it, else dropped for the first cause that was noted.
    """

    __slots__ = ("born", "cause", "epoch", "gate", "hard", "seq", "sunk", "total")

    def __init__(self, seq: int, epoch: int, born: int, gate: Any) -> None:
        self.seq, self.epoch, self.born, self.gate = seq, epoch, born, gate
        self.hard = self.total = 0
        self.sunk: int | None = None  # when a sink was last done with it
        self.cause: str | None = None


class Packet:
    """A payload with its place in the stream. Treated as frozen; slots instead of a frozen dataclass because one is made per hop."""

    __slots__ = ("born", "epoch", "frame", "leases", "origin", "payload", "pts", "ready", "seq", "version")

    def __init__(
        self, seq: int, pts: int, epoch: int, born: int, payload: Payload, *, version: int = 0, frame: Frame | None = None,
        leases: tuple[Lease, ...] = (), origin: StreamInfo | None = None,
    ) -> None:  # fmt: skip
        self.seq, self.pts, self.epoch, self.born, self.payload = seq, pts, epoch, born, payload
        self.version, self.frame, self.leases, self.origin = version, frame, leases, origin
        self.ready: Any = None

    def with_payload(self, payload: Payload, leases: tuple[Lease, ...] = (), ready: Any = None) -> Packet:
        """The same frame carrying another payload: what a node emits for the packet that fired it."""
        packet = Packet.__new__(Packet)
        packet.seq, packet.pts, packet.epoch, packet.born = self.seq, self.pts, self.epoch, self.born
        packet.version, packet.frame, packet.origin = self.version, self.frame, self.origin
        packet.payload, packet.leases, packet.ready = payload, leases, ready
        return packet

    def __repr__(self) -> str:
        return f"Packet(seq={self.seq}, epoch={self.epoch}, pts={self.pts}, {self.payload!r})"
