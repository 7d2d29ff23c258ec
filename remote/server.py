"""The control verbs on a ROUTER socket: one thread that takes requests, hands them to `Verbs`, and sends what comes back.

Invariants: no message, however malformed, ends the thread or blocks it, and each that can be answered is; a client that does not read loses its
watch messages first and its place at last, and nobody else notices; what waits to be sent is bounded for every client. It knows no verb.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from engine.errors import DeviceError, UsageError
from remote.attachment import Carrier
from remote.request import MESSAGE_BYTES, VERSION, Refused, number_of, told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import zmq

    from bindings.python.curve import Guard
    from engine.graph import Graph
    from engine.session import Session
    from remote.verbs import Verbs

ENDPOINT = "tcp://127.0.0.1:5570"
CLIENTS = 64
WAITING = 16_384  # messages that wait for one client before it is given up
NEWS = 64  # and from how many on the messages of its watches are left out
IDLE_S = 30.0  # after which a silent client gives up its place to another
BURST = 256  # requests taken before what waits is sent
CLOSE_S = 1.0  # for the last answers to leave
PASSING = ("stats", "params", "event")
SUPERVISED = "ENGINE_SUPERVISED"  # set by a supervisor: the run ends with its standard input


class Client:
    """One peer. Calling it queues a message for it, from any thread."""

    __slots__ = ("_server", "gone", "heard", "identity", "left_out", "queue")

    def __init__(self, server: Server, identity: bytes) -> None:
        self._server, self.identity, self.heard = server, identity, time.monotonic()
        self.queue: deque[dict[str, Any]] = deque()
        self.gone = False
        self.left_out = 0

    def __call__(self, message: dict[str, Any]) -> None:
        waiting = len(self.queue)
        if self.gone or waiting >= WAITING:
            self.gone = True
        elif waiting >= NEWS and message["kind"] in PASSING:
            self.left_out += 1
            return
        else:
            self.queue.append(message)
        self._server.ready(self)


class Server:
    """Serves `verbs` at `endpoint` between `start` and `close`.

    Beyond loopback a `guard` (the server's key and those it lets in) is needed, or `insecure`. Raises UsageError for an endpoint that must not
    be opened, DeviceError for one that cannot.
    """

    def __init__(
        self, verbs: Verbs, endpoint: str = ENDPOINT, *, guard: Guard | None = None, insecure: bool = False, clients: int = CLIENTS
    ) -> None:
        self.verbs, self.endpoint, self.guard, self.insecure, self.limit = verbs, endpoint, guard, insecure, clients
        self.clients: dict[bytes, Client] = {}
        self._ready: deque[Client] = deque()
        self._woken = False
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._release: Callable[[], None] | None = None

    # ---- life

    def start(self) -> None:
        """Bind and listen."""
        import zmq

        check_reach(self.endpoint, self.guard, self.insecure)
        self._context = zmq.Context()
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        router = self._context.socket(zmq.ROUTER)
        try:
            router.setsockopt(zmq.LINGER, round(CLOSE_S * 1000))
            router.setsockopt(zmq.ROUTER_MANDATORY, 1)
            router.setsockopt(zmq.MAXMSGSIZE, MESSAGE_BYTES)
            router.setsockopt(zmq.RCVHWM, 1000)
            router.setsockopt(zmq.SNDHWM, 1000)
            router.setsockopt(zmq.BACKLOG, 2 * self.limit)
            router.setsockopt(zmq.HANDSHAKE_IVL, 5000)
            router.setsockopt(zmq.HEARTBEAT_IVL, 3000)
            router.setsockopt(zmq.HEARTBEAT_TIMEOUT, 9000)
            router.setsockopt(zmq.IPV6, int(self.endpoint.startswith("tcp://[")))
            if self.guard is not None:
                self._release = self.guard.secure(self._context, router)
            router.bind(self.endpoint)
            self.endpoint = router.getsockopt_string(zmq.LAST_ENDPOINT)
        except zmq.ZMQError as error:
            router.close(0)
            self._let_go()
            raise DeviceError(f"cannot listen at {self.endpoint}: {error}", fix="choose another port, or end who listens there") from error
        except BaseException:
            router.close(0)
            self._let_go()
            raise
        self._thread = threading.Thread(target=self._serve, args=(router,), name="control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Send what waits, within a second, and stop listening."""
        if self._thread is None:
            return
        self._closing.set()
        self._wake()
        self._thread.join()
        self._thread = None
        self._let_go()

    def _let_go(self) -> None:
        if self._release is not None:
            self._release()
            self._release = None
        self._context.term()
        self._reader.close()
        self._writer.close()

    # ---- what clients queue, from any thread

    def ready(self, client: Client) -> None:
        """A client has something to be sent."""
        self._ready.append(client)
        if not self._woken:
            self._woken = True
            self._wake()

    def _wake(self) -> None:
        with suppress(OSError):  # full: it is awake already; closed: nobody listens
            self._writer.send(b"\0")

    # ---- the thread

    def _serve(self, router: zmq.Socket[bytes]) -> None:
        import zmq

        poller = zmq.Poller()
        poller.register(router, zmq.POLLIN)
        poller.register(self._reader, zmq.POLLIN)
        stuck: set[Client] = set()
        until = 0.0
        try:
            while True:
                if self._closing.is_set():
                    until = until or time.monotonic() + CLOSE_S
                    if not (self._ready or stuck) or time.monotonic() >= until:
                        return
                poller.poll(20 if stuck else 1000)
                with suppress(BlockingIOError):
                    self._reader.recv(4096)
                self._woken = False  # only now: whoever queued something before is dealt with below, whoever does later wakes us again
                if not self._closing.is_set():
                    self._take(router)
                stuck = self._send(router, stuck)
        finally:
            router.close()

    def _take(self, router: zmq.Socket[bytes]) -> None:
        import zmq

        for _ in range(BURST):
            try:
                identity = router.recv(zmq.NOBLOCK)
                parts: list[bytes] = []
                while router.getsockopt(zmq.RCVMORE):
                    part = router.recv(zmq.NOBLOCK)
                    if len(parts) < 2:
                        parts.append(part)
            except zmq.Again:
                return
            client = self._client(identity)
            if client is not None:
                self._request(client, parts)

    def _request(self, client: Client, parts: list[bytes]) -> None:
        import msgpack

        client.heard = time.monotonic()
        request: Any = None
        try:
            if len(parts) != 1:
                found = f"{len(parts)} or more"
                raise Refused("BadRequest", "a request is one message part", expected="1 part from a DEALER socket", found=found)
            try:
                request = msgpack.unpackb(parts[0], raw=False, strict_map_key=True)
            except Exception as error:
                found = f"{len(parts[0])} bytes: {type(error).__name__}"
                raise Refused("BadRequest", "a request is one MessagePack map", found=found) from None
            self.verbs.handle(request, client)
        except Refused as error:
            self.verbs.refuse(number_of(request), error, client)

    def _client(self, identity: bytes) -> Client | None:
        client = self.clients.get(identity)
        if client is not None and not client.gone:
            return client
        if len(self.clients) >= self.limit:
            now = time.monotonic()
            for old in [c for c in self.clients.values() if c.gone or (now - c.heard > IDLE_S and not self.verbs.busy(c))]:
                self._forget(old)
        fresh = Client(self, identity)
        if len(self.clients) >= self.limit:
            error = Refused("TooMany", f"{self.limit} clients are served already", fix="end one of them, or try again later")
            self.verbs.refuse(None, error, fresh)
            return None
        self.clients[identity] = fresh
        return fresh

    def _forget(self, client: Client) -> None:
        client.gone = True
        client.queue.clear()
        if self.clients.get(client.identity) is client:
            del self.clients[client.identity]
        self.verbs.forget(client)

    def _send(self, router: zmq.Socket[bytes], stuck: set[Client]) -> set[Client]:
        """Send what waits; the clients whose socket took no more."""
        still: set[Client] = set()
        todo = list(stuck)
        while True:
            while todo:
                client = todo.pop()
                if client not in still and not self._empty(router, client):
                    still.add(client)
            try:
                todo.append(self._ready.popleft())
            except IndexError:
                return still

    def _empty(self, router: zmq.Socket[bytes], client: Client) -> bool:
        """Send the queue of one client, in order; False where its socket is full."""
        import msgpack
        import zmq

        while client.queue and not client.gone:
            message = client.queue[0]
            try:
                data = msgpack.packb(message)
            except (TypeError, ValueError, OverflowError) as error:
                fault, _ = told(Refused("InternalError", f"an answer that cannot be packed: {error}"))
                data = msgpack.packb({"v": VERSION, "id": message.get("id"), "kind": "refused", "error": fault})
            try:
                router.send_multipart([client.identity, data], zmq.NOBLOCK)
            except zmq.Again:
                return False
            except zmq.ZMQError:  # no route: it has gone
                self._forget(client)
                return True
            client.queue.popleft()
        if client.gone:
            self._forget(client)
        return True


class Control(Carrier):
    """`engine run --control ENDPOINT`: the verbs over the session, for as long as it runs.

    `key`: the server's own `.key_secret` file; `allow`: public keys that may connect (keys, files, folders). Raises UsageError.
    """

    def __init__(
        self, endpoint: str = ENDPOINT, *, key: str | None = None, allow: Iterable[str] = (), insecure: bool = False,
        say: Callable[[str], None] | None = None,
    ) -> None:  # fmt: skip
        self.endpoint, self.guard, self.insecure, self.say = check_endpoint(endpoint), guarded(key, allow), insecure, say
        check_reach(self.endpoint, self.guard, insecure)
        self.server: Server | None = None
        self._box = f"control-{secrets.token_hex(4)}/"

    def graph(self, graph: Graph) -> Graph:
        """The graph with a tap on its main picture, for snapshots, where it has no tap of its own."""
        if any(node.op == "sink.tap" for node in graph.nodes):
            return graph
        from remote.preview import tapped

        made = tapped(graph, self._box)
        return replace(made, nodes=made.nodes[: len(graph.nodes) + 1])

    def attached(self, session: Session) -> None:
        from remote.verbs import Verbs

        verbs = Verbs(session)
        server = Server(verbs, self.endpoint, guard=self.guard, insecure=self.insecure)
        server.start()
        self.verbs, self.server = verbs, server
        if os.environ.get(SUPERVISED):
            threading.Thread(target=stop_with_input, args=(session,), name="supervised", daemon=True).start()
        if self.say is not None:
            self.say(f"control: {server.endpoint}" + ("" if self.guard else ", open to every program that can reach it"))

    def shut(self, session: Session) -> None:
        if self.server is not None:
            self.server.close()
            self.server = None
        from operators.sink.tap import forget

        for node in session.plan.nodes:
            if node.op == "sink.tap" and str(node.params.get("box", "")).startswith(self._box):
                forget(str(node.params["box"]))


def stop_with_input(session: Session) -> None:
    """Stop the run when standard input ends: its other end is the supervisor's, and ends with one that dies too."""
    with suppress(OSError):
        while os.read(0, 4096):  # the descriptor itself: a buffered reader would be in the way when the interpreter ends
            pass
    session.stop()


def guarded(key: str | None, allow: Iterable[str]) -> Guard | None:
    """The server's key and those it lets in; None where no key was named. Raises UsageError."""
    from bindings.python.curve import Guard, KeyProblem

    allow = tuple(allow)
    if key is None and allow:
        raise UsageError("clients are allowed by their keys, but the server has no key of its own", fix="add --control-key FILE.key_secret")
    try:
        return None if key is None else Guard.load(key, allow)
    except KeyProblem as error:
        raise UsageError(str(error)) from None


def check_reach(endpoint: str, guard: Guard | None, insecure: bool) -> None:
    """Raise UsageError where `endpoint` is open to other machines without keys, and nobody asked for that."""
    from bindings.python.curve import KeyProblem, check_bind

    try:
        check_bind(endpoint, secured=guard is not None, insecure=insecure, what="control")
    except KeyProblem as error:
        raise UsageError(str(error), fix="--control-key FILE --control-allow KEYS, or --insecure") from None


def check_endpoint(endpoint: str) -> str:
    """`endpoint` where it is one that can be bound or connected to; a bare port means this machine. Raises UsageError."""
    if endpoint.isdigit():
        endpoint = f"tcp://127.0.0.1:{endpoint}"
    elif "://" not in endpoint and ":" in endpoint:
        endpoint = f"tcp://{endpoint}"
    if not endpoint.startswith(("tcp://", "ipc://")):
        raise UsageError(f"no endpoint: {endpoint!r}", fix=f"write tcp://HOST:PORT, such as {ENDPOINT}, or ipc://FILE")
    port = endpoint.rpartition(":")[2]
    if endpoint.startswith("tcp://") and port not in ("*", "!") and not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise UsageError(f"no port: {port!r} in {endpoint!r}", fix="write a number from 0 to 65535, or * for one that is free")
    return endpoint
