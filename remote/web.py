"""The web server that goes along with a run: one thread, one address, a few routes, all behind the guard.

Invariant: it starts before the first frame and is gone, thread and sockets, when `stop` returns; no request can hold a lane up. It knows the
stage and HTTP; what a verb does and how pictures come about are others' business.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import importlib.resources
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from uvicorn import Config, Server
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from engine.errors import DeviceError, EngineError, UsageError
from operators.link.coder import file_of
from remote.client import Client, dumped
from remote.feed import Frame, Watcher
from remote.guard import Guard, token_of

if TYPE_CHECKING:
    from remote.stage import Stage

PORT = 8060
PORTS = 20  # ports that are tried when none was named
MESSAGE_BYTES = 1 << 20
VIEWERS = 16
CONNECTIONS = 96
SEND_BYTES = 128 * 1024  # of the system's send buffer: what lies in it is old before it is sent
BOUNDARY = "afterimage"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
UNWELL = ("error", "stopped")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. `port` None: the default or the next free one."""

    host: str = "127.0.0.1"
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """HOST:PORT, HOST or PORT; IPv6 in brackets. Raises UsageError."""
        host, colon, port = text.rpartition(":")
        if not colon or text.endswith("]"):
            host, port = ("", text) if text.isdigit() else (text, "")
        wrong = bool(port) and not (port.isascii() and port.isdigit() and int(port) < 65536)
        if wrong or "/" in host or (":" in host and not host.startswith("[")):
            raise UsageError(f"{text!r} is no address to listen on", fix="write HOST:PORT, such as 127.0.0.1:8060 or [::1]:8060")
        return cls(host.strip("[]") or "127.0.0.1", int(port) if port else None)

    @property
    def beyond_loopback(self) -> bool:
        """Whether other machines could reach it."""
        if self.host.lower() == "localhost":
            return False
        try:
            import ipaddress

            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return True

    def listen(self) -> socket.socket:
        """A bound socket. Raises DeviceError where the address cannot be had."""
        ports = [self.port] if self.port is not None else range(PORT, PORT + PORTS)
        trouble: OSError | None = None
        for port in ports:
            try:
                return self._bound(port)
            except OSError as error:
                trouble = error
                if error.errno != errno.EADDRINUSE:
                    break
        assert trouble is not None
        taken = trouble.errno == errno.EADDRINUSE
        fix = "name another port: --web HOST:PORT" if taken else "name an address of this machine"
        raise DeviceError(f"cannot listen on {self.host}:{ports[0]}: {trouble.strerror}", fix=fix) from trouble

    def _bound(self, port: int) -> socket.socket:
        family, kind, protocol, _, address = socket.getaddrinfo(self.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.socket(family, kind, protocol)
        try:
            if os.name == "posix":  # elsewhere the option would let two programs share the port
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
            bound.bind(address)
            bound.listen(64)
        except BaseException:
            bound.close()
            raise
        return bound


class WebServer:
    """Serves a stage. Use: `url = server.start()` … `server.stop()`."""

    def __init__(self, stage: Stage, token: str, address: Address | None = None, *, origins: Iterable[str] = ()) -> None:
        self.stage, self.token, self.address = stage, token, address or Address()
        self._socket = self.address.listen()
        self.port: int = self._socket.getsockname()[1]
        self._site = Site(stage, self.port, token)
        guard = Guard(Caught(self._site.app, stage), token=token, host=self.address.host, port=self.port, origins=origins)
        config = Config(
            guard, loop="asyncio", http="h11", ws=_WebSocket, ws_max_size=MESSAGE_BYTES, ws_per_message_deflate=False, ws_ping_interval=10.0,
            ws_ping_timeout=20.0, lifespan="off", log_config=None, log_level="critical", access_log=False, proxy_headers=False,
            server_header=False, limit_concurrency=CONNECTIONS, timeout_keep_alive=10, timeout_graceful_shutdown=2,
            h11_max_incomplete_event_size=16384,
        )  # fmt: skip
        self._server = _Server(config)
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)
        self._failed: BaseException | None = None

    @property
    def host(self) -> str:
        """The host as a browser on this machine has to be told it."""
        host = self.address.host
        if host in ("0.0.0.0", "::"):
            return "127.0.0.1" if host == "0.0.0.0" else "[::1]"
        return f"[{host}]" if ":" in host else host

    @property
    def url(self) -> str:
        """The address of the page, token and all."""
        return f"http://{self.host}:{self.port}/?token={self.token}"

    def start(self) -> str:
        """Listen; the page's URL. Raises EngineError where the server does not come up."""
        self._thread.start()
        if not self._server.ready.wait(20.0) or self._failed:
            raise EngineError(f"the web server did not start: {self._failed or 'it takes too long'}")
        return self.url

    def stop(self, timeout: float = 8.0) -> None:
        """End every connection and the thread."""
        self._site.close()
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(timeout)
        self._socket.close()

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        except BaseException as error:
            self._failed = error
        finally:
            self._server.ready.set()


class _Server(Server):
    """Says when it listens."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


class _WebSocket(WebSocketsSansIOProtocol):
    """Tells the application when what it sent has left this process: a picture is chosen only then, and so is never older than it must be."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)

    async def run_asgi(self) -> None:
        self.scope["drained"] = self.writable.wait  # type: ignore[typeddict-unknown-key]
        await super().run_asgi()


class Caught:
    """ASGI middleware: a fault of ours becomes an event of the run, and an answer without details."""

    def __init__(self, app: Any, stage: Stage) -> None:
        self.app, self.stage = app, stage

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self.app(scope, receive, send)
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:
            self.stage.session.event("web_fault", "", -1, message=f"{type(error).__name__}: {error}", path=scope.get("path", ""))


# ---------------------------------------------------------------- routes


@dataclass(eq=False)
class Part(Watcher):
    """Somebody who reads the MJPEG stream."""

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    fresh: asyncio.Event = field(default_factory=asyncio.Event)
    frame: Frame | None = None
    busy: bool = False
    over: bool = False

    def free(self) -> bool:
        return not self.busy

    def give(self, frame: Frame) -> None:
        self.busy = True
        with contextlib.suppress(RuntimeError):  # the loop has closed
            self.loop.call_soon_threadsafe(self._take, frame)

    def _take(self, frame: Frame) -> None:
        self.frame = frame
        self.fresh.set()

    def end(self, code: int = 0) -> None:
        self.over = True
        self.fresh.set()


class Site:
    """The routes, and who is connected."""

    def __init__(self, stage: Stage, port: int, token: str) -> None:
        self.stage, self.port, self.token = stage, port, token
        self.viewers: set[Client | Part] = set()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.closing = False
        routes: list[Any] = [
            Route("/", self.page), Route("/healthz", self.health), Route("/graph.json", self.graph), Route("/metrics", self.metrics),
            Route("/snapshot.{format:str}", self.snapshot), Route("/stream.mjpeg", self.stream), WebSocketRoute("/ws", self.socket),
            Route("/{name:str}", self.asset),
        ]  # fmt: skip
        self.app = Starlette(routes=routes)

    def close(self) -> None:
        """Tell everybody that it is over; from another thread."""
        self.closing = True
        loop = self.loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._end_all)

    def _end_all(self) -> None:
        for viewer in list(self.viewers):
            viewer.end(1001)

    # ---- the page

    async def page(self, request: Request) -> Response:
        if token_of(request.scope):  # out of the address bar, and with it out of screenshots and histories
            answer: Response = RedirectResponse("/", 303)
            answer.set_cookie(f"afterimage-{self.port}", self.token, httponly=True, samesite="strict", path="/")
            return answer
        return _asset("index.html")

    async def asset(self, request: Request) -> Response:
        return _asset(request.path_params["name"])

    # ---- what programs ask

    async def health(self, request: Request) -> Response:
        from remote.facts import state_of

        state = state_of(self.stage.session)
        return JSONResponse({"state": state}, 503 if state in UNWELL or self.closing else 200)

    async def graph(self, request: Request) -> Response:
        from remote.facts import describe

        session = self.stage.session
        facts = {**describe(session), "plan": session.plan.hash, "clock": session.plan.clock, "outputs": self.stage.outputs()}
        return Response(dumped(facts), media_type="application/json")

    async def metrics(self, request: Request) -> Response:
        from remote.metrics import CONTENT_TYPE, render

        return Response(render(self.stage.session), media_type=CONTENT_TYPE)

    # ---- pictures

    async def snapshot(self, request: Request) -> Response:
        """The picture of now as a file."""
        format = request.path_params["format"]
        if format not in ("jpg", "png"):
            return PlainTextResponse("there is snapshot.jpg and snapshot.png\n", 404)
        try:
            chosen = self.stage.choose(request.query_params.get("of"))
        except EngineError as error:
            return PlainTextResponse(f"{error}\n", 404)
        seen = await asyncio.to_thread(self.stage.box(chosen).fresh)
        if seen is None:
            return PlainTextResponse("there has been no picture yet\n", 503, {"retry-after": "1"})
        data = await asyncio.to_thread(file_of, seen.picture, "jpeg" if format == "jpg" else "png", 92)
        facts = {"x-frame-seq": str(seen.seq), "x-frame-epoch": str(seen.epoch), "x-frame-of": chosen}
        return Response(data, media_type="image/jpeg" if format == "jpg" else "image/png", headers=facts)

    async def stream(self, request: Request) -> Response:
        """Motion JPEG: every browser, OBS and most dashboards show it."""
        try:
            feed = self.stage.feed(self.stage.choose(request.query_params.get("of")))
        except EngineError as error:
            return PlainTextResponse(f"{error}\n", 404)
        if len(self.viewers) >= VIEWERS:
            return PlainTextResponse("there are too many viewers\n", 503)

        async def parts() -> AsyncIterator[bytes]:
            part = Part()
            self._enter(part)
            feed.add(part)
            try:
                while not part.over and not self.closing:
                    await part.fresh.wait()
                    part.fresh.clear()
                    frame, part.frame = part.frame, None
                    if frame is not None:
                        lines = ["Content-Type: image/jpeg", f"Content-Length: {len(frame.payload)}", f"X-Frame-Seq: {frame.seen.seq}"]
                        yield "\r\n".join([f"--{BOUNDARY}", *lines, "", ""]).encode() + frame.payload + b"\r\n"
                        yield b""  # returns when the one before has left this process
                        part.busy = False
            finally:
                feed.remove(part)
                self.viewers.discard(part)

        return StreamingResponse(parts(), media_type=f"multipart/x-mixed-replace; boundary={BOUNDARY}")

    async def socket(self, socket: WebSocket) -> None:
        if len(self.viewers) >= VIEWERS or self.closing:
            await socket.send_denial_response(PlainTextResponse("there are too many viewers\n", 503))
            return
        client = Client(socket, self.stage, socket.scope.get("drained"))
        self._enter(client)
        try:
            await client.run()
        finally:
            self.viewers.discard(client)

    def _enter(self, viewer: Client | Part) -> None:
        self.loop = asyncio.get_running_loop()
        self.viewers.add(viewer)


@functools.cache
def _files() -> dict[str, tuple[bytes, str]]:
    """The page's files, by name."""
    folder = importlib.resources.files("remote") / "page"
    found = {}
    for file in folder.iterdir():
        suffix = os.path.splitext(file.name)[1]
        if suffix in TYPES:
            found[file.name] = (file.read_bytes(), TYPES[suffix])
    return found


def _asset(name: str) -> Response:
    found = _files().get(name)
    if found is None:
        return PlainTextResponse("there is nothing of this name\n", 404)
    return Response(found[0], media_type=found[1])


def announce(server: WebServer) -> None:
    """Say where the page is, on stderr. Not by way of the usual printing, which removes tokens from addresses."""
    print(f"preview: {server.url}", file=sys.stderr, flush=True)
    if server.address.beyond_loopback:
        print("preview: other machines can reach it, and what travels is not encrypted", file=sys.stderr, flush=True)


__all__ = ["Address", "Site", "WebServer", "announce"]
