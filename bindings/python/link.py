"""The socket of a Control client: one thread that sends requests and deals out what comes back.

Invariant: the socket is touched by its own thread only, so every method may be called from any thread; each request ends in exactly one answer
or error. It knows requests by their number and nothing of verbs.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgpack

if TYPE_CHECKING:
    from .curve import Pass

VERSION = 1
REQUEST_BYTES = 1 << 20
ANSWER_BYTES = 256 << 20  # a snapshot may be large


class ControlError(Exception):
    """What a control request came to. `type`, `message`, `expected`, `found`, `fix` and `problems` (path to why) as the engine told them."""

    def __init__(self, message: str, *, type: str = "", expected: str = "", found: str = "", fix: str = "", problems: Any = None) -> None:
        facts = ", ".join(part for part in (f"expected {expected}" if expected else "", f"found {found}" if found else "") if part)
        text = f"{message} ({facts})" if facts else message
        super().__init__(f"{text}; {fix}" if fix else text)
        self.type = type or self.__class__.__name__
        self.message, self.expected, self.found, self.fix, self.problems = message, expected, found, fix, problems or {}


class Refused(ControlError):
    """The engine did not carry the request out; nothing was changed."""


class Failed(ControlError):
    """The engine accepted a change that did not land, or did not come to its end."""


class NoAnswer(ControlError, TimeoutError):
    """Nobody answered in time."""


class Lost(ControlError, ConnectionError):
    """The connection broke off, or this client was closed."""


def error_of(message: dict[str, Any], kind: type[ControlError] = Refused) -> ControlError:
    """The error that a message of the engine tells of."""
    facts = message.get("error")
    facts = facts if isinstance(facts, dict) else {}
    known = {name: str(facts.get(name) or "") for name in ("type", "expected", "found", "fix")}
    return kind(str(facts.get("message") or "refused"), problems=message.get("problems"), **known)


@dataclass(eq=False)
class Request:
    """One request under way. `answer` gets its first message; `later` is called with every further one, and with the error that ends them."""

    number: int
    op: str
    data: bytes
    until: float
    answer: Future[dict[str, Any]]
    later: Callable[[dict[str, Any] | ControlError], None] | None = None
    kept: bool = False  # a watch: there is no last message
    ends: tuple[str, ...] = ("applied", "failed", "refused")  # kinds after which nothing more comes
    sent: bool = False


class Link:
    """A DEALER socket to `url` and its thread, until `close`."""

    def __init__(self, url: str, guard: Pass | None = None) -> None:
        import zmq

        from .curve import connect

        self.url = url
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._reader, self._writer = socket.socketpair()
        try:
            self._socket.setsockopt(zmq.LINGER, 500)
            self._socket.setsockopt(zmq.MAXMSGSIZE, ANSWER_BYTES)
            self._socket.setsockopt(zmq.SNDHWM, 0)
            self._socket.setsockopt(zmq.RCVHWM, 0)  # what is not read here is left out over there
            self._socket.setsockopt(zmq.RECONNECT_IVL, 100)
            self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2000)
            self._socket.setsockopt(zmq.HEARTBEAT_IVL, 3000)
            self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 9000)
            self._socket.setsockopt(zmq.IPV6, int(url.startswith("tcp://[")))
            if guard is not None:
                guard.secure(self._socket)
            events = zmq.EVENT_CONNECTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
            self._monitor = self._socket.get_monitor_socket(events | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_SUCCEEDED)
            connect(self._socket, url)
        except BaseException:
            self._socket.close(0)
            self._reader.close()
            self._writer.close()
            self._context.destroy(0)
            raise
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._lock = threading.Lock()
        self._numbers = 0
        self._outbox: deque[Request] = deque()
        self._requests: dict[int, Request] = {}
        self._closing = False
        self._up = False  # somebody is there: a request must not lie in wait for an engine that starts an hour later
        self._why = ""  # the connection could not be made
        self._thread = threading.Thread(target=self._run, name="afterimage control", daemon=True)
        self._thread.start()

    # ---- any thread

    def ask(
        self, op: str, fields: dict[str, Any], timeout: float, later: Callable[[dict[str, Any] | ControlError], None] | None = None, *,
        kept: bool = False,
    ) -> Request:  # fmt: skip
        """Send a request; its `answer` ends within `timeout` seconds."""
        with self._lock:
            if self._closing:
                raise Lost("this client is closed")
            self._numbers += 1
            number = self._numbers
            data = msgpack.packb({"v": VERSION, "id": number, "op": op, **fields})
            if len(data) > REQUEST_BYTES:
                raise Refused("the request is too large", type="TooLarge", expected=f"at most {REQUEST_BYTES} bytes", found=str(len(data)))
            request = Request(number, op, data, time.monotonic() + timeout, Future(), later, kept)
            self._outbox.append(request)
        self._wake()
        return request

    def drop(self, request: Request) -> None:
        """Nothing further of this request is wanted."""
        self._requests.pop(request.number, None)

    def close(self) -> None:
        """Let go of the socket; what is still under way ends in Lost."""
        with self._lock:
            self._closing = True
        self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._writer.send(b"\0")

    # ---- the thread

    def _run(self) -> None:
        import zmq

        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)
        poller.register(self._reader, zmq.POLLIN)
        unsent: deque[Request] = deque()
        try:
            while not self._closing:
                poller.poll(self._pause(unsent))
                with contextlib.suppress(BlockingIOError):
                    self._reader.recv(4096)
                self._receive()
                self._watch_connection()
                while self._outbox:
                    request = self._outbox.popleft()
                    self._requests[request.number] = request
                    unsent.append(request)
                self._send(unsent)
                self._expire()
        finally:
            self._lose("this client was closed")
            with self._lock:
                self._closing = True
                left, self._outbox = self._outbox, deque()
            for request in left:
                request.answer.set_exception(Lost("this client was closed"))
            self._socket.disable_monitor()
            self._monitor.close(0)
            self._socket.close()
            self._context.term()
            self._reader.close()
            self._writer.close()

    def _pause(self, unsent: deque[Request]) -> int:
        """Milliseconds until something is due."""
        if unsent and self._up:
            return 20
        waits = [r.until for r in list(self._requests.values()) if not r.answer.done()]
        return max(1, min(1000, round((min(waits) - time.monotonic()) * 1000) + 1)) if waits else 1000

    def _receive(self) -> None:
        import zmq

        while True:
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                message = msgpack.unpackb(parts[0], raw=False)
            except Exception:  # not an engine: what asked will hear nothing, and says so in time
                continue
            if isinstance(message, dict):
                self._deal(message)

    def _deal(self, message: dict[str, Any]) -> None:
        number = message.get("id")
        if number is None and message.get("kind") == "refused":  # not about one request: the server takes none of ours
            for request in [r for r in self._requests.values() if not r.answer.done()]:
                self._end(request, error_of(message))
            return
        found = self._requests.get(number) if isinstance(number, int) else None
        if found is None:
            return
        request = found
        kind = message.get("kind")
        if not request.answer.done():
            if kind == "refused":
                self._end(request, error_of(message))
                return
            if kind in ("answer", "accepted"):
                if request.op == "ramp":
                    request.ends = ("done", "failed", "refused")
                request.answer.set_result(message)
                if kind == "answer" and not request.kept:
                    self._requests.pop(request.number, None)
                return
        if kind in request.ends and not request.kept:
            self._requests.pop(request.number, None)
        if request.later is not None:
            request.later(message)

    def _send(self, unsent: deque[Request]) -> None:
        import zmq

        while unsent and self._up:  # ZMQ_IMMEDIATE would do this too, but it throws away what the other side said last
            request = unsent[0]
            if request.number in self._requests:
                try:
                    self._socket.send(request.data, zmq.NOBLOCK)
                except zmq.Again:
                    return
                request.sent = True
            unsent.popleft()

    def _expire(self) -> None:
        now = time.monotonic()
        for request in [r for r in list(self._requests.values()) if not r.answer.done() and r.until <= now]:
            why, fix = ("no answer in time", "") if request.sent else ("nobody listens", "is the engine running with --control?")
            if self._why:
                why, fix = self._why, "the engine's public key is server_key (--server-key), a pair of ours that it allows key (--key)"
            self._end(request, NoAnswer(f"{why} at {self.url}", fix=fix))

    def _end(self, request: Request, error: ControlError) -> None:
        self._requests.pop(request.number, None)
        if not request.answer.done():
            request.answer.set_exception(error)
        elif request.later is not None:
            request.later(error)

    def _watch_connection(self) -> None:
        import zmq
        from zmq.utils.monitor import parse_monitor_message

        while True:
            try:
                event = parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))["event"]
            except zmq.Again:
                return
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._up, self._why = True, ""
            elif event == zmq.EVENT_CONNECTED:
                self._why = "somebody listens and does not speak with us: an engine that is busy, or one that asks for keys,"
            elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                self._why = "our key is not on the list of the engine"
            elif event in (zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL):
                self._why = "the handshake fails, because one side asks for keys that the other does not use, or the engine's key is another,"
            elif event == zmq.EVENT_DISCONNECTED and self._up:
                self._up = False
                self._receive()  # what came before the end counts
                self._lose(f"the connection to {self.url} was lost")

    def _lose(self, why: str) -> None:
        for request in [r for r in list(self._requests.values()) if r.sent or self._closing]:
            self._end(request, Lost(why))
