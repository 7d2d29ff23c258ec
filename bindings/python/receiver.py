"""The receiving side of a subscription: one thread that empties the socket, checks what came, and counts what did not.

Invariant: the socket is touched by its own thread only. A step in `n` is a loss on the way, a step in `seq` beyond it a drop in the graph, a
new `run` a publisher that was started again; each frame that goes on knows of what came before it. It knows frames and decoders, not who reads.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from . import decode, wire
from .curve import Pass, connect
from .frame import Frame
from .shm import Overwritten, Rings

RETRY_MS = 1500


@dataclass(slots=True)
class Counts:
    """What became of the frames. `received` = handed out or waiting + passed_over + overflowed + overwritten + undecodable + refused later."""

    received: int = 0
    bytes: int = 0
    lost: int = 0
    """On the way: steps in `n`."""
    dropped: int = 0
    """By the graph: steps in `seq` that are no loss."""
    passed_over: int = 0
    """In latest mode: a newer one came before they were read."""
    overflowed: int = 0
    """In queued mode: the queue was full."""
    overwritten: int = 0
    """In shared memory: the publisher was round the ring before they were copied."""
    undecodable: int = 0
    """Video that came before the first key unit, or after a loss and before the next."""
    refused: int = 0
    """Messages that do not follow the wire format."""
    runs: int = 0
    """Publishers seen: more than one means that it was restarted."""
    ends: int = 0


class Receiver:
    """Owns the socket. `put` gets every frame that can be used, `notify` is called for everything else; both from the thread.

    `early`: what must happen soon (copying from shared memory) happens on the thread, because the frame may wait long for its reader.
    """

    def __init__(
        self, url: str, stream: str, put: Callable[[Frame], None], notify: Callable[[], None], *,
        server_key: str | os.PathLike[str] | None, key: str | os.PathLike[str] | None, max_bytes: int, copy: bool, early: bool, decode: bool,
    ) -> None:  # fmt: skip
        self.url, self.topic, self.put, self.notify = url, wire.topic(stream), put, notify
        self.max_bytes, self.copy, self.early, self.decode = max_bytes, copy, early, decode
        self.guard = Pass.of(server_key, key)
        self.counts = Counts()
        self.beat: wire.Beat | None = None
        self.end: wire.End | None = None
        self.heard = float("-inf")
        self.connected = False
        self._cut: float | None = None  # when the connection was lost
        self.trouble = ""
        self.ages: deque[tuple[float, float, float]] = deque(maxlen=512)  # monotonic s of arrival, age ms, transit ms
        self.rings = Rings()
        self._run, self._restarted = "", False
        self._next = -1  # the n that would follow without a gap
        self._last: wire.Frame | None = None
        self._reading = threading.Lock()  # decoders and rings serve one reader at a time
        self._video: Any = None
        self._video_next = -1
        self._thread: threading.Thread | None = None

    # ---- life

    def start(self, hwm: int) -> None:
        self._context = zmq.Context()
        self._wake = self._context.socket(zmq.PAIR)
        try:
            self._wake.bind("inproc://stop")
            socket = self._context.socket(zmq.SUB)
            socket.setsockopt(zmq.RCVHWM, hwm)
            socket.setsockopt(zmq.MAXMSGSIZE, self.max_bytes + wire.MAX_PLAIN)
            socket.setsockopt(zmq.RECONNECT_IVL, 100)
            socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2000)
            socket.setsockopt(zmq.HEARTBEAT_IVL, 1000)
            socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 5000)
            socket.setsockopt(zmq.LINGER, 0)
            if self.url.startswith("tcp://["):
                socket.setsockopt(zmq.IPV6, 1)
            if self.guard is not None:
                self.guard.secure(socket)
            events = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH
            monitor = socket.get_monitor_socket(events | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
            socket.setsockopt(zmq.SUBSCRIBE, self.topic)
            connect(socket, self.url)
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self._thread = threading.Thread(target=self._loop, args=(socket, monitor), name=f"subscribe {self.url}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._wake.send(b"")
        if thread is not threading.current_thread():
            thread.join(5.0)
        self._wake.close(linger=0)
        if not thread.is_alive():
            self._context.term()
        with self._reading:
            self.rings.close()
            self._video = None

    def _loop(self, socket: Any, monitor: Any) -> None:
        stop = self._context.socket(zmq.PAIR)
        stop.connect("inproc://stop")
        poller = zmq.Poller()
        for one in (socket, monitor, stop):
            poller.register(one, zmq.POLLIN)
        try:
            while True:
                ready = dict(poller.poll(None if self._cut is None else RETRY_MS))
                if stop in ready:
                    return
                if self._cut is not None and time.monotonic() - self._cut > RETRY_MS / 1000:
                    # After what it takes for a breach of protocol (a message above the limit) ZeroMQ does not try again by itself.
                    with contextlib.suppress(zmq.ZMQError):
                        socket.disconnect(self.url)
                    socket.connect(self.url)
                    self._cut = time.monotonic()
                if monitor in ready:
                    self._connection(parse_monitor_message(monitor.recv_multipart()))
                if socket in ready:
                    self._drain(socket)
        finally:
            socket.disable_monitor()
            for one in (monitor, socket, stop):
                one.close(linger=0)

    def _drain(self, socket: Any) -> None:
        for _ in range(64):  # then the other sockets are looked at again
            try:
                parts = socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            self._take(parts)

    def _connection(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.connected, self.trouble, self._cut = True, "", None
        elif kind == zmq.EVENT_DISCONNECTED:
            self.connected, self._cut = False, time.monotonic()
        elif kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self.trouble = "the publisher does not know our key: it is not on its list"
        else:
            self.trouble = "the handshake fails: one side asks for keys that the other does not use, or the publisher's key is another"
        self.notify()

    # ---- messages

    def _take(self, parts: list[Any]) -> None:
        now = time.time_ns()
        try:
            header, payload = wire.decode([part.buffer for part in parts], max_bytes=self.max_bytes)
        except wire.WireError as error:
            self.counts.refused += 1
            self.trouble = f"a message was refused: {error}"
            return
        self.heard = time.monotonic()
        if header.run != self._run:
            self.counts.runs += 1
            self._restarted = bool(self._run)  # told with the first frame, though a heartbeat may come before it
            self._run, self._next, self._last, self.end = header.run, -1, None, None
        if isinstance(header, wire.Beat):
            self.beat = header
            self.notify()
        elif isinstance(header, wire.End):
            self.end = header
            self.counts.ends += 1
            self.notify()
        else:
            restarted, self._restarted = self._restarted, False
            self._frame(header, payload, now, restarted)

    def _frame(self, header: wire.Frame, payload: tuple[Any, ...], now: int, restarted: bool) -> None:
        counts, last = self.counts, self._last
        gap = max(0, header.n - self._next) if self._next >= 0 else 0
        counts.received += 1
        counts.bytes += sum(view.nbytes for view in payload) or (header.shm.bytes if header.shm else 0)
        counts.lost += gap
        if last is not None and last.epoch == header.epoch:
            counts.dropped += max(0, header.seq - last.seq - 1 - gap)
        self._next, self._last = header.n + 1, header
        frame = Frame(header, payload, received=now, gap=gap, restarted=restarted, rings=self.rings)
        self.ages.append((self.heard, frame.age_ms, frame.transit_ms))
        if header.enc == "shm" and self.early and self.copy:
            try:
                with self._reading:
                    self._copy(frame)
            except (Overwritten, FileNotFoundError):
                counts.overwritten += 1
                return
            except (wire.WireError, OSError) as error:
                counts.refused += 1
                self.trouble = f"a frame in shared memory was refused: {error}"
                return
        self.put(frame)

    # ---- on the reader's side

    def ready(self, frames: list[Frame]) -> Frame | None:
        """The last of `frames`, which follow each other, decoded as far as it has to be; None where it cannot be shown.

        Raises Overwritten and WireError."""
        frame = frames[-1]
        with self._reading:
            if frame.header.enc == "h264" and self.decode:
                return self._decoded(frames)
            if frame.header.enc == "shm" and frame._value is None:
                if self.copy:
                    try:
                        self._copy(frame)
                    except FileNotFoundError as error:
                        raise Overwritten("the ring is gone") from error
                    except OSError as error:
                        raise wire.WireError("shm", f"the ring cannot be read: {error}") from error
                else:
                    frame._load = lambda: self._copied(frame)
        return frame

    def _copied(self, frame: Frame) -> Any:
        with self._reading:
            self._copy(frame)
        return frame._value

    def _copy(self, frame: Frame) -> None:
        place, header = frame.header.shm, frame.header
        assert place is not None
        frame._value = self.rings.copy(place, header.dtype, header.shape)
        frame._value.flags.writeable = False

    def _decoded(self, frames: list[Frame]) -> Frame | None:
        video = self._video = self._video or decode.Video()
        found = None
        for frame in frames:
            header = frame.header
            if frame.discontinuity or header.n != self._video_next:
                if not header.key:
                    self.counts.undecodable += 1
                    continue
                video.restart()
            self._video_next = -1
            picture = video.decode(header, frame.payload[0])
            self._video_next = header.n + 1
            frame._load = _Rgb(video, header, picture)
            found = frame
        return found if found is frames[-1] else None

    def summary(self) -> dict[str, Any]:
        recent = [item for item in self.ages.copy() if self.heard - item[0] < 10.0]
        span = recent[-1][0] - recent[0][0] if len(recent) > 1 else 0.0
        return {
            **asdict(self.counts), "fps": round((len(recent) - 1) / span, 2) if span else 0.0,
            "age_ms": _percentiles([item[1] for item in recent]), "transit_ms": _percentiles([item[2] for item in recent]),
        }  # fmt: skip


class _Rgb:
    """Pixels of a decoded video picture, when they are asked for."""

    def __init__(self, video: Any, header: wire.Frame, picture: Any) -> None:
        self.video, self.header, self.picture = video, header, picture

    def __call__(self) -> Any:
        return self.video.rgb(self.header, self.picture)


def _percentiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {f"p{q}": round(ordered[min(len(ordered) - 1, len(ordered) * q // 100)], 3) if ordered else 0.0 for q in (50, 95, 99)}
