"""A subscription for asyncio programs.

    async with AsyncSubscriber("tcp://127.0.0.1:5555") as frames:
        async for frame in frames:
            ...

The same receiving thread does the work; the event loop is told through `call_soon_threadsafe` and never blocked, except by what is decoded in
`read`: a video picture, or the copy of a frame from shared memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Self

from .frame import Frame
from .subscriber import Subscriber


class AsyncSubscriber:
    """As Subscriber, with `await read()` and `async for`. Make and use it in one event loop."""

    def __init__(self, url: str, stream: str = "live", **options: Any) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._came: asyncio.Event | None = None
        self.subscriber = Subscriber(url, stream, **options)
        self.subscriber.on_change(self._wake)

    def _wake(self) -> None:
        loop, came = self._loop, self._came
        if loop is not None and came is not None and not loop.is_closed():
            loop.call_soon_threadsafe(came.set)

    async def read(self, timeout: float | None = None) -> Frame | None:
        """The next frame; None at the end of the stream. Raises TimeoutError."""
        if self._came is None:
            self._loop, self._came = asyncio.get_running_loop(), asyncio.Event()
        until = None if timeout is None else self._running().time() + timeout
        while True:
            self._came.clear()
            try:
                return self.subscriber.read(0)
            except TimeoutError:
                left = None if until is None else until - self._running().time()
                if left is not None and left <= 0:
                    raise
                await asyncio.wait_for(self._came.wait(), left)

    def _running(self) -> asyncio.AbstractEventLoop:
        assert self._loop is not None
        return self._loop

    def latest(self) -> Frame | None:
        """The newest frame there is, without waiting."""
        return self.subscriber.latest()

    @property
    def alive(self) -> bool:
        return self.subscriber.alive

    def stats(self) -> dict[str, Any]:
        return self.subscriber.stats()

    async def close(self) -> None:
        await asyncio.to_thread(self.subscriber.close)
        self._wake()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def __aiter__(self) -> AsyncIterator[Frame]:
        while (frame := await self.read()) is not None:
            yield frame
