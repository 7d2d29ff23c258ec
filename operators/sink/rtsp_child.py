"""The server with its encoder, as the child of `sink.rtsp` serves it: frames come on the main thread, the network runs on a loop beside it.

Invariant: nothing is encoded while nobody wants pictures; whoever joins gets a key frame with the next picture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from operators.rtsp.auth import Guard
from operators.rtsp.server import Rules, Server
from operators.sink.child import Tell
from operators.sink.encoder import Unit
from operators.sink.on_demand import OnDemand
from operators.sink.writer import Target


@dataclass(frozen=True, slots=True)
class Serving:
    """Where to listen and for whom, plain data."""

    host: str
    port: int
    path: str
    user: str = ""
    password: str = ""
    max_viewers: int = 16
    timeout: float = 60.0


class RtspOutput(OnDemand):
    """The server and its pictures."""

    def __init__(self, settings: Serving, tell: Tell) -> None:
        import av  # noqa: F401  imported now, not when the first viewer waits

        super().__init__(tell)
        guard = Guard(settings.user, settings.password) if settings.user else None
        self.server = Server(Rules(settings.path, guard=guard, max_viewers=settings.max_viewers, timeout=settings.timeout), self._demand)
        self.serve("rtsp", self.server.listen(settings.host, settings.port), settings.host, settings.port)

    def _demand(self, viewers: int, key: bool) -> None:
        if key:
            self._key.set()
        if viewers != self.wanted:
            self.wanted = viewers
            self.tell("beat", {"viewers": viewers, "served": self.server.served})

    def open(self, about: Target, height: int, width: int, ns: int) -> None:
        super().open(about, height, width, ns)
        self.server.rules = replace(self.server.rules, fps=about.fps)

    def publish(self, unit: Unit) -> None:
        self.server.publish(unit.data, unit.ns, unit.key)

    def close(self) -> None:
        self.end(self.server.close())
