"""The server with its encoder, as the child of `sink.rtsp` serves it: frames come on the main thread, the network runs on a loop beside it.

Invariant: nothing is encoded while nobody wants pictures; whoever joins gets a key frame with the next picture.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from operators.media.listen import listening
from operators.rtsp.auth import Guard
from operators.rtsp.server import Rules, Server
from operators.sink.child import Tell
from operators.sink.encoder import Encoder
from operators.sink.writer import Target

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


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


class RtspOutput:
    """Listens from the start; encodes from the first picture that somebody wants."""

    def __init__(self, settings: Serving, tell: Tell) -> None:
        import av  # noqa: F401  imported now, not when the first viewer waits
        import cv2  # noqa: F401

        self.tell = tell
        self.encoder: Encoder | None = None
        self.target: Target
        self.size = (0, 0)
        self.wanted = 0
        self._key = threading.Event()
        self._loop = asyncio.new_event_loop()
        guard = Guard(settings.user, settings.password) if settings.user else None
        self.server = Server(Rules(settings.path, guard=guard, max_viewers=settings.max_viewers, timeout=settings.timeout), self._demand)
        port = listening(self._loop, self.server.listen(settings.host, settings.port), settings.host, settings.port)
        self.facts: dict[str, Any] = {"port": port, "viewers": 0, "served": 0, "stands": True}
        self._thread = threading.Thread(target=self._loop.run_forever, name="rtsp", daemon=True)
        self._thread.start()

    def _demand(self, viewers: int, key: bool) -> None:
        if key:
            self._key.set()
        if viewers != self.wanted:
            self.wanted = viewers
            self.tell("beat", {"viewers": viewers, "served": self.server.served})

    def open(self, about: Target, height: int, width: int, ns: int) -> None:
        self.target, self.size = about, (height, width)
        self.server.rules = replace(self.server.rules, fps=about.fps)

    def write(self, rgb: Array, ns: int) -> None:
        if not self.wanted:
            return
        key = self._key.is_set()
        self._key.clear()
        if self.encoder is None:
            self.encoder = Encoder(self.target, *self.size)
        for unit in self.encoder(rgb, ns, key=key):
            self._loop.call_soon_threadsafe(self.server.publish, unit.data, unit.ns, unit.key)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.server.close(), self._loop).result(5.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)
        self._loop.close()
