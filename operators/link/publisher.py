"""A socket that streams are published on: one thread that owns it, sends what lanes hand over, and says once a second that it is alive.

Invariant: a lane that hands over a frame never waits for a subscriber (unless the stream is lossless), and the memory of a frame is not given
back before ZeroMQ is done with it. A subscriber that is too slow loses frames, nobody else does. It knows bytes and who listens, not what
frames mean.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter, deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from bindings.python import wire
from engine.errors import DeviceError, UsageError
from operators.link.stream import Item, Settings, Stream, covers

if TYPE_CHECKING:
    from engine.pool import Lease

BEAT_S = 1.0
LINGER_S = 1.0
"""How long the last frames may take to leave when the run ends."""
WAIT_MS = 50
LOOK_S = 0.05
"""How often every message that has not been sent yet is looked at."""
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
            publisher.join()  # within the lock: whoever wants the address next finds it free


class Publisher:
    """The socket and its thread."""

    def __init__(self, settings: Settings) -> None:
        import zmq

        self.settings = settings
        self.streams: list[Stream] = []
        self._leaving: list[Stream] = []  # those whose end has not been sent
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._subscriptions: Counter[bytes] = Counter()
        self._in_use: deque[tuple[Any, tuple[Lease, ...]]] = deque()  # what ZeroMQ still reads from
        self._next_look = 0.0
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB)
        self._inbox = self._context.socket(zmq.PULL)
        self._end_guard: Any = None
        # As plain numbers: pyzmq's own flags are enums, and adding two of them costs as much as sending.
        self._quick, self._more, self._again = int(zmq.NOBLOCK), int(zmq.SNDMORE), zmq.Again
        self._flags = 0 if settings.lossless else self._quick
        self.inbox_url = f"inproc://wake-{id(self)}"
        try:
            self._bind(zmq)
        except BaseException:
            self._close_sockets(0)
            raise
        self.endpoint = self._socket.getsockopt(zmq.LAST_ENDPOINT).decode().rstrip("\0")
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
        if settings.url.startswith("tcp://["):
            socket.setsockopt(zmq.IPV6, 1)
        if settings.guard is not None:
            self._end_guard = settings.guard.secure(self._context, socket)
        self._inbox.bind(self.inbox_url)
        try:
            socket.bind(settings.url)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EINVAL, zmq.EPROTONOSUPPORT, zmq.ENOCOMPATPROTO):
                raise UsageError(f"{settings.url} is no address to publish at", fix="write tcp://127.0.0.1:5555") from error
            raise DeviceError(f"cannot publish at {settings.url}: {error.strerror}", fix="is the port in use? choose another") from error

    # ---- streams, from lanes

    def add(self, name: str, *, silent: bool) -> Stream:
        import zmq

        stream = Stream(name, self, wire.topic(name), secrets.token_hex(8), silent=silent)
        stream.wake = self._context.socket(zmq.PUSH)
        stream.wake.connect(self.inbox_url)
        with self._changed:
            self.streams.append(stream)
            self._count(stream)
        self._wake(stream)
        return stream

    def remove(self, stream: Stream, reason: str) -> bool:
        """Send the end of a stream; whether it was the last one."""
        with self._changed:
            self._items.append(Item(stream, None, (), reason=reason))
            self.streams.remove(stream)
            self._leaving.append(stream)
            self._closing = not self.streams
            # Within the lock: once the thread has seen the end it closes this stream's inbox, and nobody may be writing to it then.
            self._wake(stream)
        return self._closing

    def put(self, item: Item) -> None:
        """Queue a message for the socket. Where that cannot keep up the stream's oldest gives way, or the lane waits, if it is lossless."""
        with self._changed:
            while len(self._items) >= self.settings.hwm and not self._closing:
                if self.settings.lossless:
                    self._changed.wait(0.1)
                    if item.stream.stopping():
                        item.release()
                        return
                elif not self._give_way(item.stream):
                    break
            idle = not self._items
            self._items.append(item)
        if idle:
            self._wake(item.stream)

    def _give_way(self, stream: Stream) -> bool:
        old = next((i for i, item in enumerate(self._items) if item.stream is stream and not item.reason), None)
        if old is None:
            return False
        gone = self._items[old]
        del self._items[old]
        stream.overflows += 1
        gone.release()
        return True

    @staticmethod
    def _wake(stream: Stream) -> None:
        import zmq

        with suppress(zmq.Again):  # a thousand wake-ups wait already
            stream.wake.send(b"", zmq.NOBLOCK)

    def join(self) -> None:
        self._thread.join(LINGER_S + 10.0)

    # ---- the thread

    def _run(self) -> None:
        import zmq

        poller = zmq.Poller()
        poller.register(self._inbox, zmq.POLLIN)
        poller.register(self._socket, zmq.POLLIN)
        deadline, behind = 0.0, False
        try:
            while True:
                ready = dict(poller.poll(0 if behind else self._patience()))
                if self._inbox in ready:
                    with suppress(zmq.Again):
                        while True:
                            self._inbox.recv(zmq.NOBLOCK)
                if ready.get(self._socket, 0) & zmq.POLLIN:
                    self._read_subscriptions()
                behind = not self._send_waiting()
                self._beat()
                self._give_back()
                if self._closing:
                    deadline = deadline or time.monotonic() + LINGER_S
                    if not self._items or time.monotonic() > deadline:
                        return
        finally:
            self._close_sockets(round(LINGER_S * 1000))

    def _patience(self) -> int:
        """Milliseconds until something is due."""
        now = time.monotonic()
        due = min((stream.next_beat for stream in tuple(self.streams)), default=now + BEAT_S)
        return max(0, min(round((due - now) * 1000), 20 if self._in_use or self._closing else 1000))

    def _read_subscriptions(self) -> None:
        import zmq

        joined: list[bytes] = []
        with suppress(zmq.Again):
            while True:
                message = self._socket.recv(zmq.NOBLOCK)
                if message[:1] == b"\1":
                    self._subscriptions[message[1:]] += 1
                    joined.append(message[1:])
                elif message[:1] == b"\0":
                    self._subscriptions[message[1:]] -= 1
        self._subscriptions = +self._subscriptions
        with self._changed:
            for stream in self.streams:
                came = sum(covers(prefix, stream) for prefix in joined)
                self._count(stream)
                stream.joins += came
                if came:
                    stream.next_beat = 0.0  # a newcomer hears at once that somebody is there
            self._changed.notify_all()

    def _count(self, stream: Stream) -> None:
        stream.subscribers = sum(count for prefix, count in self._subscriptions.items() if covers(prefix, stream))

    def wait_for_subscriber(self, stream: Stream, seconds: float) -> bool:
        """Wait until somebody subscribes to `stream`."""
        if stream.subscribers:
            return True
        with self._changed:
            return bool(stream.subscribers) or (self._changed.wait(seconds) and bool(stream.subscribers))

    def _send_waiting(self) -> bool:
        """Send what lanes have handed over; False where a lossless stream's subscribers had no room for a while."""
        lossless = self.settings.lossless
        while self._items:
            try:
                self._send(self._items[0] if lossless else self._taken())
            except self._again:
                return False
            if lossless:
                with self._changed:
                    self._items.popleft()
                    if len(self._items) <= self.settings.hwm // 2:  # lanes that wait fill the queue again in one go
                        self._changed.notify_all()
            self._give_back()
        return True

    def _taken(self) -> Item:
        with self._changed:
            return self._items.popleft()

    def _send(self, item: Item) -> None:
        stream, socket, sent = item.stream, self._socket, time.time_ns()
        if item.reason:
            if not stream.silent:
                end = wire.End(stream=stream.name, run=stream.run, n=stream.count, sent=sent, reason=item.reason)
                socket.send_multipart([stream.topic, wire.encode(end)], self._flags)
            with self._changed:
                self._leaving.remove(stream)
            stream.wake.close(linger=0)
            return
        head = item.raw or (stream.topic, wire.encode(wire.Frame(**item.fields, sent=sent)))  # type: ignore[arg-type]
        more, left = self._flags | self._more, len(head) + len(item.parts)
        for part in head:
            left -= 1
            socket.send(part, more if left else self._flags)
        for part in item.parts:
            left -= 1
            tracker = socket.send(part, more if left else self._flags, copy=False, track=bool(item.leases))
        if item.leases:
            self._in_use.append((tracker, item.leases))
        stream.times.append(time.monotonic())
        if stream.state == "loading":
            stream.state = "online"

    def _beat(self) -> None:
        now = time.monotonic()
        for stream in tuple(self.streams):
            if now >= stream.next_beat:
                stream.next_beat = now + BEAT_S
                if not stream.silent:
                    beat = wire.Beat(
                        stream=stream.name, run=stream.run, n=stream.count, sent=time.time_ns(), fps=round(stream.fps, 2),
                        state=stream.said,
                    )  # fmt: skip
                    with suppress(self._again):
                        self._socket.send_multipart([stream.topic, wire.encode(beat)], self._quick)

    def _give_back(self, wait: float | None = None) -> None:
        """Release the buffers that ZeroMQ has finished reading."""
        import zmq

        # Messages are done in the order they were sent, but for those that a frozen subscriber keeps: so the first is looked at every time, all
        # of them now and then.
        in_use, now = self._in_use, time.monotonic()
        everything = wait is not None or now >= self._next_look
        if everything:
            self._next_look = now + LOOK_S
        for _ in range(len(in_use)):
            tracker, leases = in_use[0]
            if wait is not None:
                with suppress(zmq.NotDone):
                    tracker.wait(wait)
            elif not tracker.done:
                if not everything:
                    return
                in_use.rotate(-1)
                continue
            in_use.popleft()
            for lease in leases:
                lease.release()

    def _close_sockets(self, linger: int) -> None:
        self._inbox.close(linger=0)
        self._socket.close(linger=linger)
        if self._end_guard is not None:
            self._end_guard()
        with self._changed:
            self._closing = True
            items = list(self._items)
            self._items.clear()
            self._changed.notify_all()
        for item in items:
            item.release()
        for stream in self._leaving:
            stream.wake.close(linger=0)
        self._context.term()
        # Every message is destroyed now; pyzmq's own thread only has to say so.
        self._give_back(wait=1.0)
