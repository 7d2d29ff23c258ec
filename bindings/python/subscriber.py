"""Frames of a running graph, as they come: always the newest, or every one in order.

    with Subscriber("tcp://127.0.0.1:5555", stream="live") as frames:
        for frame in frames:                        # the newest each time, however slow this loop is
            show(frame.bgr)

Invariant: a thread of its own empties the socket, whatever the program does, so that what `read` hands out was sent last and not first (a
slow reader behind ZeroMQ's own queues would look ever further into the past; ZeroMQ's CONFLATE breaks messages of several parts). What does not
follow the wire format is counted and passed over, and never ends the stream.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Self

from . import wire
from .frame import Frame
from .receiver import Receiver
from .shm import Overwritten

ALIVE_S = 3.0
UNITS = 600
"""Units of video that wait, in latest mode, for a reader that needs them to decode the newest."""


class Subscriber:
    """A subscription to one stream.

    `url`: where the sink listens. `stream`: its name there. `latest`: hand out the newest frame each time; False: every frame in order, of
    which at most `queue` wait before the oldest gives way, or, with `wait`, before no more are taken from the connection (a lossless sink
    then waits; any other loses frames there). `follow`: go on after the end of a run and wait for the next one.
    `server_key`, `key`: the publisher's public key and a file with a pair of one's own, where it asks for keys (CURVE).
    `copy`: copy frames from shared memory when they are read; False: only where they are looked at, see `Frame.lease`.
    `decode`: False leaves video alone, for programs that want `frame.payload`. `max_bytes`: larger frames are refused.

    Methods may be called from any thread. Raises KeyProblem (curve.py, a ValueError) where keys or address are none.
    """

    def __init__(
        self, url: str, stream: str = "live", *, latest: bool = True, queue: int = 64, wait: bool = False, follow: bool = False,
        server_key: str | os.PathLike[str] | None = None, key: str | os.PathLike[str] | None = None, copy: bool = True, decode: bool = True,
        max_bytes: int = wire.MAX_BYTES,
    ) -> None:  # fmt: skip
        self.url, self.stream, self.only_latest, self.follow = url, stream, latest, follow
        self._changed = threading.Condition()
        self._waiting: deque[Frame] = deque()
        self._most, self._patient = (1, False) if latest else (queue, wait)
        self._newest: Frame | None = None
        self._callbacks: list[Callable[[], None]] = []
        self._closed = False
        self._receiver = Receiver(url, stream, self._put, self._notify, server_key=server_key, key=key, max_bytes=max_bytes, copy=copy,
                                  early=not latest, decode=decode)  # fmt: skip
        self.counts = self._receiver.counts
        self._receiver.start(hwm=16 if latest else queue if wait else max(16, queue))

    # ---- frames

    def read(self, timeout: float | None = None) -> Frame | None:
        """The next frame: in latest mode the newest that has not been read, waited for. None at the end of the stream, or after `close`.

        Raises TimeoutError when `timeout` seconds pass without one."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._changed:
                while not self._waiting:
                    if self._closed or (self._receiver.end is not None and not self.follow):
                        return None
                    left = None if until is None else until - time.monotonic()
                    if left is not None and left <= 0:
                        raise TimeoutError(f"no frame of {self.stream} from {self.url} for {timeout:g} s: {self.trouble or self._silence()}")
                    self._changed.wait(left)
                taken = list(self._waiting) if self.only_latest else [self._waiting.popleft()]
                if self.only_latest:
                    self._waiting.clear()
                elif self._patient:
                    self._changed.notify_all()
            frame = self._ready(taken)
            if frame is not None:
                self._newest = frame
                return frame

    def latest(self) -> Frame | None:
        """The newest frame there is, without waiting: the same again where none has come since, None before the first."""
        while True:
            with self._changed:
                taken = list(self._waiting)
                self._waiting.clear()
            if not taken:
                return self._newest
            self._newest = self._ready(taken) or self._newest

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self.read()) is not None:
            yield frame

    def _ready(self, taken: list[Frame]) -> Frame | None:
        """The last of `taken`, with what has to happen in order done: video is decoded unit by unit, shared memory copied."""
        try:
            return self._receiver.ready(taken)
        except Overwritten:
            self.counts.overwritten += 1
        except wire.WireError as error:
            self.counts.refused += 1
            self._receiver.trouble = str(error)
        return None

    def _put(self, frame: Frame) -> None:
        with self._changed:
            if self.only_latest:
                # Video needs the units in between; everything else only the last. A key unit makes those before it superfluous.
                if frame.header.enc != "h264" or frame.key:
                    self.counts.passed_over += len(self._waiting)
                    self._waiting.clear()
                elif self._waiting:
                    self.counts.passed_over += 1
                    if len(self._waiting) >= UNITS:
                        self._waiting.clear()  # nobody has looked for long: the next key unit is where it goes on
            elif self._patient:
                while len(self._waiting) >= self._most and not self._closed:
                    self._changed.wait(0.5)
                    self._receiver.heard = time.monotonic()  # it is this side that is silent
            elif len(self._waiting) >= self._most:
                self._waiting.popleft()
                self.counts.overflowed += 1
            self._waiting.append(frame)
        self._notify()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()
            callbacks = list(self._callbacks)
        for call in callbacks:
            call()

    def on_change(self, call: Callable[[], None]) -> None:
        """Have `call` called, from the receiving thread, whenever a frame, a heartbeat or the end has come: for event loops."""
        with self._changed:
            self._callbacks.append(call)

    # ---- how it stands

    @property
    def alive(self) -> bool:
        """Whether the publisher has been heard of in the last three seconds and has not said that it ends. It beats once a second."""
        return self._receiver.end is None and time.monotonic() - self._receiver.heard < ALIVE_S

    @property
    def heard(self) -> float:
        """When the publisher was last heard of, on time.monotonic(); -inf before that."""
        return self._receiver.heard

    @property
    def ended(self) -> bool:
        """Whether the run has ended, and why is in `end`."""
        return self._receiver.end is not None

    @property
    def end(self) -> wire.End | None:
        return self._receiver.end

    @property
    def beat(self) -> wire.Beat | None:
        """The last heartbeat: `state` of the graph, `fps`."""
        return self._receiver.beat

    @property
    def connected(self) -> bool:
        """Whether a connection stands, with keys agreed on where there are any."""
        return self._receiver.connected

    @property
    def trouble(self) -> str:
        """The last thing that went wrong, in words; "" where nothing did."""
        return self._receiver.trouble

    def _silence(self) -> str:
        if not self.connected:
            return "nobody answers there"
        if not self.alive:
            return f"connected, but nothing is heard of a stream {self.stream!r}"
        state = self.beat.state if self.beat else ""
        return "the publisher is alive and sends none" + (f": its graph is {state.replace('_', ' ')}" if state not in ("", "online") else "")

    def stats(self) -> dict[str, Any]:
        """Counts, frames a second, and percentiles of age and transit over the last frames, in ms."""
        return {
            "alive": self.alive, "connected": self.connected, "state": self.beat.state if self.beat else "", "trouble": self.trouble,
            **self._receiver.summary(),
        }  # fmt: skip

    # ---- ending

    def close(self) -> None:
        """End the subscription. Frames that were read stay good."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._receiver.stop()
        self._notify()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
