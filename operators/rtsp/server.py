"""The server: viewers come, ask, play and go; access units are given to all that play.

Invariants: a viewer that does not read costs its own picture and nobody else's (what waits for it is bounded; when it falls behind it skips to
the next key frame); a viewer starts with a key frame; a connection that says nothing is closed after `timeout`. It runs on one event loop,
in whatever thread; `publish` is called from another. It encodes nothing: `demand` tells who does how many want pictures.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from operators.rtsp import message, rtp
from operators.rtsp.auth import Guard
from operators.rtsp.message import Refused, Request

METHODS = "OPTIONS, DESCRIBE, SETUP, PLAY, PAUSE, TEARDOWN, GET_PARAMETER, SET_PARAMETER"
BEHIND = 1 << 20  # bytes that may wait for one viewer
SEND_BUFFER = 1 << 18  # bytes in the system's buffer: what lies there is old when it is sent
WRONG = 5  # failed log-ins before a connection is closed
ASKED = 10.0  # s for which someone who asked for the description counts as wanting pictures


@dataclass(frozen=True, slots=True)
class Rules:
    """What the server holds its clients to. `timeout`: s without a sign of life."""

    path: str = "/live"
    title: str = "Afterimage"
    fps: float = 25.0
    guard: Guard | None = None
    max_viewers: int = 16
    timeout: float = 60.0
    patience: float = 10.0  # s that a client may take over one request, and that a description waits for the first picture


class Viewer:
    """One connection."""

    def __init__(self, server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server, self.reader, self.writer = server, reader, writer
        self.session = ""
        self.channel = 0
        self.playing = self.waiting = False  # waiting: for a key frame
        self.described = 0.0
        self.skipped = 0
        self.seq, self.ssrc, self.shift = secrets.randbits(16), secrets.randbits(32), secrets.randbits(32)
        self.nonce = server.rules.guard.nonce() if server.rules.guard else ""
        self.wrong = 0
        self.alive = self.drained = time.monotonic()

    @property
    def wants(self) -> bool:
        return self.playing or time.monotonic() - self.described < ASKED

    # ---- talking

    async def talk(self) -> None:
        """Serve the connection until it ends."""
        rules = self.server.rules
        while True:
            try:
                request = await asyncio.wait_for(message.read(self.reader), rules.timeout if self.session else rules.patience)
                if request is None:
                    return
                self.alive = time.monotonic()
                if request.method == "$":
                    continue
                status, headers, body = await self._carry_out(request)
                self._say(status, request.cseq, headers, body)
                if request.method == "TEARDOWN":
                    return
                if request.method == "PLAY" and status == 200:
                    self.playing = self.waiting = True
                    self.server.changed(key=True)
            except Refused as refused:
                self._say(refused.status, refused.cseq or "0", refused.headers)
                if refused.final:
                    return
            if self.writer.transport.get_write_buffer_size() > 2 * BEHIND:
                self.writer.transport.abort()  # it asks and does not read
                return
            if not self.playing:
                await asyncio.wait_for(self.writer.drain(), rules.patience)

    def _say(self, status: int, cseq: str, headers: dict[str, str], body: str = "") -> None:
        session = {"Session": f"{self.session};timeout={self.server.rules.timeout:.0f}"} if self.session else {}
        self.writer.write(message.answer(status, cseq, {"Server": "Afterimage", **session, **headers}, body))

    async def _carry_out(self, request: Request) -> tuple[int, dict[str, str], str]:
        method, cseq = request.method, request.cseq
        if method == "OPTIONS":
            return 200, {"Public": METHODS}, ""
        await self._admit(request)
        if "require" in request.headers:
            raise Refused(551, cseq=cseq, headers={"Unsupported": request.headers["require"][:200]})
        if method in ("ANNOUNCE", "RECORD"):
            raise Refused(405, cseq=cseq, headers={"Allow": METHODS})
        if method not in METHODS.split(", "):
            raise Refused(501, cseq=cseq)
        self._check_path(request)
        if method == "DESCRIBE":
            return await self._describe(request)
        if method == "SETUP":
            return self._set_up(request)
        if not self.session or request.headers.get("session", "").partition(";")[0].strip() not in (self.session, ""):
            raise Refused(454, cseq=cseq)
        if method == "PLAY":
            stamp = (rtp.stamp_of(self.server.newest) + self.shift) & 0xFFFFFFFF
            where = f"{request.url.rstrip('/')}/track0"
            return 200, {"Range": "npt=now-", "RTP-Info": f"url={where};seq={self.seq};rtptime={stamp}"}, ""
        if method in ("PAUSE", "TEARDOWN"):
            self.playing = False
            self.described = 0.0
            self.server.changed()
        elif method == "SET_PARAMETER" and request.headers.get("content-length", "0") != "0":
            raise Refused(451, cseq=cseq)
        return 200, {}, ""

    async def _admit(self, request: Request) -> None:
        guard = self.server.rules.guard
        if guard is None:
            return
        given = request.headers.get("authorization", "")
        if given and guard.admits(given, request.method, self.nonce):
            return
        if given:
            self.wrong += 1
            await asyncio.sleep(0.3)  # guessing takes its time
        raise Refused(401, final=self.wrong >= WRONG, cseq=request.cseq, headers=guard.challenge(self.nonce))

    def _check_path(self, request: Request) -> None:
        if request.url == "*":
            return
        try:
            path = unquote(urlsplit(request.url).path)
        except ValueError as error:
            raise Refused(400, cseq=request.cseq) from error
        base = self.server.rules.path
        if path.rstrip("/") not in (base, f"{base}/track0"):
            raise Refused(404, cseq=request.cseq)

    async def _describe(self, request: Request) -> tuple[int, dict[str, str], str]:
        server = self.server
        self.described = time.monotonic()
        server.changed(key=server.sets is None)
        if server.sets is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(server.known.wait(), server.rules.patience)
        if server.sets is None:
            raise Refused(503, cseq=request.cseq)  # no picture has come yet
        host = self.writer.get_extra_info("sockname")[0]
        body = rtp.description(host, server.rules.title, server.sets, server.rules.fps)
        base = request.url if request.url.endswith("/") else f"{request.url}/"
        return 200, {"Content-Base": base, "Content-Type": "application/sdp", "Cache-Control": "no-cache"}, body

    def _set_up(self, request: Request) -> tuple[int, dict[str, str], str]:
        if self.playing:
            raise Refused(455, cseq=request.cseq)
        channels = message.interleaved(request.headers.get("transport", ""))
        if channels is None:
            raise Refused(461, cseq=request.cseq)  # FFmpeg and GStreamer then ask for TCP by themselves
        if not self.session and sum(bool(v.session) for v in self.server.viewers) >= self.server.rules.max_viewers:
            raise Refused(453, cseq=request.cseq)
        self.session = self.session or secrets.token_hex(8)
        self.channel = channels[0]
        return 200, {"Transport": f"RTP/AVP/TCP;unicast;interleaved={channels[0]}-{channels[1]};ssrc={self.ssrc:08X}"}, ""

    # ---- pictures

    def give(self, parts: list[bytes], ns: int, key: bool) -> None:
        """An access unit, or none of it."""
        waits = self.writer.transport.get_write_buffer_size()
        now = time.monotonic()
        if not waits:
            self.drained = now
        elif now - self.drained > self.server.rules.timeout:
            self.writer.transport.abort()  # it has read nothing for that long
            return
        if waits > BEHIND:
            self.waiting = True
        if self.waiting and not (key and waits < BEHIND // 4):
            self.skipped += 1
            return
        self.waiting = False
        made = rtp.packets(parts, self.seq, rtp.stamp_of(ns) + self.shift, self.ssrc)
        self.seq = (self.seq + len(made)) & 0xFFFF
        head = bytes([0x24, self.channel])
        self.writer.write(b"".join(head + len(p).to_bytes(2, "big") + p for p in made))


class Server:
    """`demand(viewers, key)` is called on the loop when the number who want pictures may have changed; `key`: one needs a key frame."""

    def __init__(self, rules: Rules, demand: Callable[[int, bool], None]) -> None:
        self.rules, self.demand = rules, demand
        self.viewers: set[Viewer] = set()
        self.sets: tuple[bytes, bytes] | None = None
        self.known = asyncio.Event()
        self.newest = 0
        self.served = 0
        self._listening: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None

    async def listen(self, host: str, port: int) -> int:
        """Start to listen; the port. Raises OSError."""
        self._listening = await asyncio.start_server(self._accept, host, port, limit=message.MAX_HEAD)
        self._watching = asyncio.create_task(self._watch())
        return int(self._listening.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening and end every connection."""
        if self._listening is not None:
            self._listening.close()
        for viewer in list(self.viewers):
            viewer.writer.transport.abort()
        if self._watching is not None:
            self._watching.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=1.0)  # each finds its connection gone
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def publish(self, data: bytes, ns: int, key: bool) -> None:
        """Give an access unit (Annex B) to all that play; call it on the loop."""
        if key and (sets := rtp.parameter_sets(data)) is not None:
            self.sets = sets
            self.known.set()
        self.newest = ns
        playing = [viewer for viewer in self.viewers if viewer.playing and not viewer.writer.is_closing()]
        if playing:
            parts = rtp.payloads(data)
            for viewer in playing:
                viewer.give(parts, ns, key)

    def changed(self, *, key: bool = False) -> None:
        self.demand(sum(viewer.wants for viewer in self.viewers), key)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self.viewers) >= 2 * self.rules.max_viewers:  # some may only ask
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        viewer = Viewer(self, reader, writer)
        self.viewers.add(viewer)
        self.served += 1
        try:
            await viewer.talk()
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            pass  # it went, said nothing for too long, or the server ends
        finally:
            self.viewers.discard(viewer)
            self._tasks.discard(task)
            writer.close()
            self.changed()

    async def _watch(self) -> None:
        """Look after viewers whose demand ends by time alone."""
        while True:
            await asyncio.sleep(1.0)
            self.changed()
