"""WHIP: a publisher's pictures, from an event loop in a thread to whoever asks for the next one.

Invariant: at most `keep` decoded pictures wait; the oldest gives way and is counted, because a browser cannot be made to wait. It knows
aiortc's frames, no graph.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from typing import Any, NamedTuple

from engine.errors import MediaError
from operators.webrtc.endpoint import Denied, Endpoint, Where
from operators.webrtc.peers import Peers

SECOND = 1_000_000_000


class Came(NamedTuple):
    """A decoded picture, its time on its sender's clock (ns), when it came (monotonic ns), and which publisher it is from."""

    frame: Any
    when: int
    at: int
    publisher: int


class Ingest:
    """The endpoint and its one publisher. Raises MediaError where it cannot listen."""

    def __init__(self, where: Where, stun: str, *, keep: int) -> None:
        self.keep, self.skipped, self.publishers = keep, 0, 0
        self.connected = False
        self._frames: deque[Came] = deque()
        self._changed = threading.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self.peers = Peers(stun, 2, self._count)
        self.endpoint = Endpoint(where, self._post, self.peers.leave)
        try:
            self.port = self._loop.run_until_complete(self.endpoint.listen())
        except OSError as error:
            self._loop.close()
            why = error.strerror or str(error)
            raise MediaError(f"cannot listen on {where.host}:{where.port}: {why}", fix="choose another port, or 0 for any") from error
        self._thread = threading.Thread(target=self._loop.run_forever, name="webrtc", daemon=True)
        self._thread.start()

    def take(self, seconds: float) -> Came | None:
        """The next picture, waited for `seconds` at most."""
        with self._changed:
            if not self._frames:
                self._changed.wait(seconds)
            return self._frames.popleft() if self._frames else None

    def close(self) -> None:
        async def end() -> None:
            self.endpoint.close()
            await self.peers.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(5.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)
        self._loop.close()

    # ---- on the loop

    def _count(self) -> None:
        self.connected = any(pc.connectionState == "connected" for pc in self.peers.by_name.values())

    async def _post(self, offer: str) -> tuple[str, str]:
        tracks: list[Any] = []

        def prepare(pc: Any) -> None:
            pc.on("track", tracks.append)

        def ready(pc: Any) -> None:
            if not any(track.kind == "video" for track in tracks):
                raise Denied(422, "the offer sends no video")

        answer, name = await self.peers.answer(offer, prepare, ready)
        # The one before may have crashed, which ICE finds out only after half a minute: whoever has the token may take its place.
        for other in [one for one in self.peers.by_name if one != name]:
            await self.peers.leave(other)
        self.publishers += 1
        for track in tracks:
            task = asyncio.create_task(self._read(track, self.publishers))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return answer, name

    async def _read(self, track: Any, publisher: int) -> None:
        from aiortc.mediastreams import MediaStreamError

        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return  # it went
            if track.kind == "video":  # sound is taken from the track, or it would pile up, and goes nowhere
                when = round(frame.pts * frame.time_base * SECOND)
                self._put(Came(frame, when, time.monotonic_ns(), publisher))

    def _put(self, came: Came) -> None:
        with self._changed:
            if len(self._frames) >= self.keep:
                self._frames.popleft()
                self.skipped += 1
            self._frames.append(came)
            self._changed.notify_all()
