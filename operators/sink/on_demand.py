"""What children that serve viewers share: pictures come on the main thread, the network runs on a loop beside it, and one encode is for all.

Invariant: nothing is encoded while nobody wants pictures; whoever joins gets a key frame with the next picture. It knows no protocol.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from operators.media.listen import listening
from operators.sink.child import Tell
from operators.sink.encoder import Encoder, Unit
from operators.sink.writer import Target

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


class OnDemand:
    """Listens from the start; encodes from the first picture that somebody wants. Subclasses `serve` and `publish`."""

    def __init__(self, tell: Tell) -> None:
        import cv2  # noqa: F401  imported now, not when the first viewer waits

        self.tell = tell
        self.encoder: Encoder | None = None
        self.target: Target
        self.size = (0, 0)
        self.wanted = 0  # viewers
        self.facts: dict[str, Any] = {"port": 0, "viewers": 0, "served": 0, "stands": True}
        self._key = threading.Event()  # somebody needs a key frame
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread

    def serve(self, name: str, listen: Coroutine[Any, Any, int], host: str, port: int) -> None:
        """Listen, and let the loop run on a thread called `name`. Raises MediaError."""
        self.facts["port"] = listening(self._loop, listen, host, port)
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def open(self, about: Target, height: int, width: int, ns: int) -> None:
        self.target, self.size = about, (height, width)

    def write(self, rgb: Array, ns: int) -> None:
        if not self.wanted:
            return
        key = self._key.is_set()
        self._key.clear()
        if self.encoder is None:
            self.encoder = Encoder(self.target, *self.size)
        for unit in self.encoder(rgb, ns, key=key):
            self._loop.call_soon_threadsafe(self.publish, unit)

    def publish(self, unit: Unit) -> None:
        """Hand an access unit to the viewers; on the loop."""
        raise NotImplementedError

    def end(self, closing: Coroutine[Any, Any, None]) -> None:
        """Let the loop do `closing`, and end."""
        asyncio.run_coroutine_threadsafe(closing, self._loop).result(5.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)
        self._loop.close()
