"""A socket that streams are published on: lanes send their frames themselves, a thread looks after the rest: who listens, signs of life.

Invariant: the socket belongs to whoever has its lock, and with that in hand nobody waits for a subscriber, unless the streams are lossless. The
memory of a frame is not given back before ZeroMQ is done with it. A subscriber that is too slow loses frames, nobody else does. It knows
bytes and who listens, not what frames mean.
"""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from bindings.python import wire
from bindings.python.curve import local
from engine.errors import DeviceError, UsageError
from operators.link.held import hold, wait_for
from operators.link.stream import Settings, Stream, covers

if TYPE_CHECKING:
    from engine.pool import Lease

BEAT_S = 1.0
LINGER_S = 1.0
"""How long the last frames may take to leave when the run ends."""
WAIT_MS = 50
"""How long a lossless stream waits for room before it looks up."""
FLOW_S = 0.05
"""While frames follow each other faster than this, lanes look for news themselves: the socket has some for every few frames."""
LOOK_S = 0.02
"""How often at most they do."""
NEAR_BYTES = 256 << 10
"""What the system buffers for a peer on this machine. What it would choose itself, for long ways, does not stay in the processor's cache: a
frame would go through memory once more. Nor do old frames wait there."""
PEER_MS = 5_000
"""A peer that answers nothing for so long is taken for gone: a frozen one, a network that fell away."""


_sharing = threading.Lock()
_shared: dict[str, Publisher] = {}


def join(settings: Settings, name: str, *, silent: bool = False) -> Stream:
    """A new stream on the socket at `settings.url`, which is bound where nobody has yet. Raises UsageError or DeviceError."""
    with _sharing:
        fixed = not settings.url.endswith((":*", ":0"))
        publisher = _shared.get(settings.url) if fixed else None
        if publisher is None:
            publisher = Publisher(settings)
            if fixed:
                _shared[settings.url] = publisher
        elif publisher.settings != settings:
            raise UsageError(f"{settings.url} is published on already, with other settings", fix="give both sinks the same, or another port")
        elif name in {stream.name for stream in publisher.streams}:
            raise UsageError(f"a stream {name!r} is published at {settings.url} already", fix='set stream = "another name"')
        return publisher.add(name, silent=silent)


def leave(stream: Stream, reason: str) -> None:
    """End a stream: `reason` goes to the subscribers. The last one closes the socket; comes back when that is done."""
    publisher = stream.publisher
    with _sharing:
        last = publisher.remove(stream, reason)
        if last and _shared.get(publisher.settings.url) is publisher:
            del _shared[publisher.settings.url]
        if last:
            publisher.close()  # within the lock: whoever wants the address next finds it free


class Publisher:
    """The socket, and the thread that looks after it."""

    def __init__(self, settings: Settings) -> None:
        import zmq

        self.settings = settings
        self.streams: list[Stream] = []
        self._lock = threading.Lock()
        self._joined = threading.Condition(self._lock)
        self._closing = False
        self._subscriptions: Counter[bytes] = Counter()
        self._in_use: set[int] = set()  # pooled memory that ZeroMQ still reads from
        self._sent = self._next_look = 0.0  # when the last frame was, and when lanes look for news again
        self._context: Any = zmq.Context()
        self._socket: Any = self._context.socket(zmq.XPUB)
        self._bell, self._inbox = self._context.socket(zmq.PAIR), self._context.socket(zmq.PAIR)
        self._end_guard: Any = None
        # As plain numbers: pyzmq's own flags are enums, and adding two of them costs as much as sending.
        self._quick, self._more, self._again = int(zmq.NOBLOCK), int(zmq.SNDMORE), zmq.Again
        self._flags = 0 if settings.lossless else self._quick
        self._events, self._readable = int(zmq.EVENTS), int(zmq.POLLIN)
        try:
            self._bind(zmq)
        except BaseException:
            self._close_sockets(0)
            raise
        self._descriptor = self._socket.getsockopt(zmq.FD)
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")
        self._thread = threading.Thread(target=self._run, name=f"publish {self.endpoint}", daemon=True)
        self._thread.start()

    def _bind(self, zmq: Any) -> None:
        socket, settings = self._socket, self.settings
        socket.setsockopt(zmq.XPUB_VERBOSER, 1)  # every join and leave, so that they can be counted
        socket.setsockopt(zmq.SNDHWM, settings.hwm)
        socket.setsockopt(zmq.MAXMSGSIZE, 65_536)  # subscriptions come in here, and nothing else
        socket.setsockopt(zmq.XPUB_NODROP, int(settings.lossless))
        # Lossless, a send waits in ZeroMQ for room: its POLLOUT says nothing of it on this kind of socket.
        socket.setsockopt(zmq.SNDTIMEO, WAIT_MS)
        socket.setsockopt(zmq.HEARTBEAT_IVL, PEER_MS // 5)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, PEER_MS)
        socket.setsockopt(zmq.LINGER, round(LINGER_S * 1000))
        if local(settings.url):
            socket.setsockopt(zmq.SNDBUF, NEAR_BYTES)
        if settings.url.startswith("tcp://["):
            socket.setsockopt(zmq.IPV6, 1)
        if settings.guard is not None:
            self._end_guard = settings.guard.secure(self._context, socket)
        self._inbox.bind(f"inproc://bell-{id(self)}")
        self._bell.connect(f"inproc://bell-{id(self)}")
        try:
            socket.bind(settings.url)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EINVAL, zmq.EPROTONOSUPPORT, zmq.ENOCOMPATPROTO):
                raise UsageError(f"{settings.url} is no address to publish at", fix="write tcp://127.0.0.1:5555") from error
            raise DeviceError(f"cannot publish at {settings.url}: {error.strerror}", fix="is the port in use? choose another") from error

    # ---- streams, from lanes

    def add(self, name: str, *, silent: bool) -> Stream:
        stream = Stream(name, self, wire.topic(name), secrets.token_hex(8), silent=silent)
        with self._lock:
            self.streams.append(stream)
            self._count(stream)
            self._ring()
        return stream

    def remove(self, stream: Stream, reason: str) -> bool:
        """Send the end of a stream; whether it was the last one."""
        end = wire.End(stream=stream.name, run=stream.run, n=stream.count, sent=time.time_ns(), reason=reason)
        with self._lock:
            self.streams.remove(stream)
            deadline = time.monotonic() + (LINGER_S if self.settings.lossless else 0.0)
            while not stream.silent and not self._say(stream, end, self._flags) and time.monotonic() < deadline:
                self._attend()
            self._closing = not self.streams
            self._ring()
        return self._closing

    def send(self, stream: Stream, head: Callable[[], Sequence[bytes]], parts: Sequence[Any], leases: tuple[Lease, ...]) -> bool:
        """Send a frame: what `head` makes when it is its turn, then `parts` as they lie in memory. `leases` are given back when ZeroMQ is done.

        False where the frame was given up: a lossless stream was told to stop while it waited for room."""
        try:
            first = head()
        except BaseException:
            for lease in leases:
                lease.release()
            raise
        if leases:
            (whole,) = parts
            parts = (hold(whole, leases, self._in_use),)
            del whole
        try:
            while not self._put(stream, first, parts):
                if not self.settings.lossless or stream.stopping():
                    return False
                time.sleep(0.0005)  # whoever else wants the socket gets it
                first = head()  # which says when it was sent
        finally:
            parts = ()  # an error's traceback would keep them
        return True

    def _put(self, stream: Stream, first: Sequence[bytes], parts: Sequence[Any]) -> bool:
        """Put a message on the socket; False where its subscribers had no room for a while. There is room for all of it or none."""
        send, flags, more = self._socket.send, self._flags, self._flags | self._more
        left = len(first) + len(parts)
        with self._lock:
            try:
                for part in first:
                    left -= 1
                    send(part, more if left else flags)
            except self._again:
                return False
            for part in parts:
                left -= 1
                send(part, more if left else flags, copy=False)
            stream.count += 1
            self._sent = now = time.monotonic()
            if now >= self._next_look:  # what comes while a lane has the socket, the thread is not told of
                self._look(now)
        stream.times.append(now)
        if stream.state == "loading":
            stream.state = "online"
        return True

    def wait_for_subscriber(self, stream: Stream, seconds: float) -> bool:
        """Wait until somebody subscribes to `stream`."""
        if stream.subscribers:
            return True
        with self._joined:
            return bool(stream.subscribers) or (self._joined.wait(seconds) and bool(stream.subscribers))

    def close(self) -> None:
        """After the last stream was removed: end the thread, send what is left, and let go of everything."""
        self._thread.join()
        self._close_sockets(round(LINGER_S * 1000))

    # ---- the thread

    def _run(self) -> None:
        import zmq

        poller = zmq.Poller()
        poller.register(self._inbox, zmq.POLLIN)
        poller.register(self._descriptor, zmq.POLLIN)  # not the socket: looking at that would need the lock
        while not self._closing:
            if time.monotonic() - self._sent < FLOW_S:
                self._inbox.poll(round(FLOW_S * 1000))
            else:
                poller.poll(self._patience())
            with suppress(zmq.Again):
                while True:
                    self._inbox.recv(zmq.NOBLOCK)
            with self._lock:
                self._attend()

    def _ring(self) -> None:
        """Wake the thread. With the lock in hand."""
        with suppress(self._again):
            self._bell.send(b"", self._quick)

    def _patience(self) -> int:
        """Milliseconds until the next sign of life is due."""
        now = time.monotonic()
        due = min((stream.next_beat for stream in tuple(self.streams)), default=now + BEAT_S)
        return max(0, min(math.ceil((due - now) * 1000), 1000))

    # ---- with the lock in hand

    def _attend(self) -> None:
        """Read who has come and gone, and give the signs of life that are due."""
        now = time.monotonic()
        self._look(now)
        for stream in self.streams:
            if now >= stream.next_beat:
                stream.next_beat = now + BEAT_S
                if not stream.silent:
                    beat = wire.Beat(
                        stream=stream.name, run=stream.run, n=stream.count, sent=time.time_ns(), fps=round(stream.fps, 2),
                        state=stream.said,
                    )  # fmt: skip
                    self._say(stream, beat, self._quick)

    def _say(self, stream: Stream, what: wire.Header, flags: int) -> bool:
        """Send a message without a payload; False where there is no room for it."""
        try:
            self._socket.send_multipart([stream.topic, wire.encode(what)], flags)
        except self._again:
            return False
        return True

    def _look(self, now: float) -> None:
        self._next_look = now + LOOK_S
        if self._socket.getsockopt(self._events) & self._readable:
            self._read_subscriptions()

    def _read_subscriptions(self) -> None:
        joined: list[bytes] = []
        with suppress(self._again):
            while True:
                message = self._socket.recv(self._quick)
                if message[:1] == b"\1":
                    self._subscriptions[message[1:]] += 1
                    joined.append(message[1:])
                elif message[:1] == b"\0":
                    self._subscriptions[message[1:]] -= 1
        self._subscriptions = +self._subscriptions
        for stream in self.streams:
            came = sum(covers(prefix, stream) for prefix in joined)
            self._count(stream)
            stream.joins += came
            if came:
                stream.next_beat = 0.0  # a newcomer hears at once that somebody is there
                self._ring()
        self._joined.notify_all()

    def _count(self, stream: Stream) -> None:
        stream.subscribers = sum(count for prefix, count in self._subscriptions.items() if covers(prefix, stream))

    # ---- the end

    def _close_sockets(self, linger: int) -> None:
        for socket in (self._bell, self._inbox):
            socket.close(linger=0)
        self._socket.close(linger=linger)
        if self._end_guard is not None:
            self._end_guard()
        self._context.term()
        # Every message is destroyed now; pyzmq's own thread only has to say so.
        wait_for(self._in_use, 1.0)
