"""The status of a supervisor over HTTP: a page that renews itself, the same as JSON, and numbers for Prometheus. On loopback, with a token.

It only reads. Invariant: without the token, or with another Host, nothing is told but that. It knows the status as plain values.
"""

from __future__ import annotations

import hmac
import html
import http.server
import json
import os
import secrets
import socket
import socketserver
import threading
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from engine.cli.report import clock, size
from engine.errors import DeviceError, UsageError

TONE = {"online": "good", "loading": "wait", "starting": "wait", "waiting": "wait", "stopping": "wait", "degraded_input": "warn",
        "degraded_inference": "warn", "ended": "done", "stopped": "done"}  # fmt: skip
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
}  # fmt: skip
STYLE = """
:root { color-scheme: dark light; font: 15px/1.45 system-ui, sans-serif; background: var(--ground); color: var(--text);
  --ground: #14161a; --text: #d9dde3; --card: #1c1f25; --muted: #9aa2ae; --why: #e8b339 }
@media (prefers-color-scheme: light) { :root { --ground: #f4f5f7; --text: #1c2028; --card: #fff; --muted: #5c6472; --why: #8a5a00 } }
body { margin: 0 auto; max-width: 64rem; padding: 1.2rem }
h1 { font-size: 1.1rem; margin: 0 0 1rem; font-weight: 600 } h1 small { color: var(--muted); font-weight: 400 }
.stream { background: var(--card); border-left: .25rem solid #596273; border-radius: .3rem; padding: .7rem .9rem; margin: 0 0 .7rem }
.good { border-color: #4cc38a } .warn { border-color: #e8b339 } .bad { border-color: #ea5c5c } .wait { border-color: #5b8def }
.head { display: flex; flex-wrap: wrap; gap: .2rem 1rem; align-items: baseline } .head b { font-size: 1.02rem }
.state { text-transform: uppercase; font-size: .74rem; letter-spacing: .05em; color: var(--muted) }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .3rem .9rem; margin: .5rem 0 0 }
dl .wide { grid-column: span 2 }
dt { color: var(--muted); font-size: .74rem } dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere }
.why { color: var(--why); margin: .4rem 0 0; overflow-wrap: anywhere }
pre { color: var(--muted); font-size: .72rem; white-space: pre-wrap; overflow-wrap: anywhere; margin: .5rem 0 0 }
"""


class Page:
    """Serves `status()` between its making and `close`. `logs(name)` gives the last lines of a stream. Raises UsageError and DeviceError."""

    def __init__(self, address: str, status: Callable[[], dict[str, Any]], logs: Callable[[str], list[str]], *, insecure: bool = False) -> None:
        from remote.metrics import loopback, split

        host, port = split(address)
        if not (insecure or loopback(host)):
            fix = "listen on 127.0.0.1 and tunnel to it (ssh -L), or add --insecure"
            raise UsageError(f"the status page at {address} can be reached from other machines, and is not encrypted", fix=fix)
        self.token = secrets.token_urlsafe(24)
        self._status, self._logs = status, logs
        self._server = _listen(self, host, port)
        self.port = int(self._server.server_address[1])
        self.names = {f"{name}:{self.port}" for name in (host if ":" not in host else f"[{host}]", "localhost", "127.0.0.1", "[::1]")}
        shown = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        self.address = f"http://{shown}:{self.port}"
        self.any_host = not loopback(host)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="status", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The page's address, token and all."""
        return f"{self.address}/?token={self.token}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # ---- what is asked

    def answer(self, path: str, given: str) -> tuple[int, str, bytes]:
        """Status code, content type and body of a request that carries the token `given`."""
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            return 401, "text/plain", b"a token is needed: open the address that engine serve printed\n"
        if path == "/":
            return 200, "text/html; charset=utf-8", page(self._status(), self._logs).encode()
        if path == "/status.json":
            return 200, "application/json", json.dumps(self._status()).encode()
        if path == "/metrics":
            from remote.metrics import CONTENT_TYPE

            return 200, CONTENT_TYPE, numbers(self._status())
        return 404, "text/plain", b"there is /, /status.json and /metrics\n"


def _listen(page: Page, host: str, port: int) -> socketserver.TCPServer:
    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = 5.0
        server_version, sys_version = "afterimage", ""

        def do_GET(self) -> None:
            where = urlsplit(self.path)
            query = parse_qs(where.query).get("token", [""])[0]
            if not page.any_host and self.headers.get("Host", "") not in page.names:
                self._send(403, "text/plain", b"this server has another name\n")  # a name that was pointed here: DNS rebinding
                return
            given = query or self._cookie() or self.headers.get("Authorization", "").removeprefix("Bearer ")
            code, kind, data = page.answer(where.path, given)
            if code == 200 and query and where.path == "/":  # out of the address bar, and so out of screenshots
                cookie = f"afterimage-serve-{page.port}={page.token}; HttpOnly; SameSite=Strict; Path=/"
                self._send(303, "text/plain", b"", {"Location": "/", "Set-Cookie": cookie})
                return
            self._send(code, kind, data)

        def _cookie(self) -> str:
            try:
                found = SimpleCookie(self.headers.get("Cookie", "")).get(f"afterimage-serve-{page.port}")
            except CookieError:
                return ""
            return found.value if found else ""

        def _send(self, code: int, kind: str, data: bytes, more: dict[str, str] | None = None) -> None:
            self.send_response(code)
            for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(data)), **(more or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(socketserver.ThreadingTCPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        allow_reuse_address = os.name == "posix"  # elsewhere two programs would share the port
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a browser that went away is nobody's error

    try:
        return Server((host, port), Handler)
    except OSError as error:
        raise DeviceError(f"cannot listen at {host}:{port}: {error.strerror or error}", fix="choose another address: [serve] status") from error


# ---------------------------------------------------------------- what is shown


def page(status: dict[str, Any], logs: Callable[[str], list[str]]) -> str:
    """The page."""
    streams = "".join(_stream(stream, logs(stream["name"])) for stream in status["streams"])
    title = html.escape(os.path.abspath(status["folder"]))
    running = sum(stream["pid"] is not None for stream in status["streams"])
    note = "stopping" if status["stopping"] else f"{running} of {len(status['streams'])} running"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="refresh" content="2"><title>engine serve</title><style>{STYLE}</style>'
        f"<h1>{title} <small>{note}</small></h1>{streams}</html>"
    )


def _stream(stream: dict[str, Any], lines: list[str]) -> str:
    tone = TONE.get(stream["state"], "bad")
    frames = stream["frames"]
    facts = {
        "frames/s": f"{stream['fps']:.1f}", "age": f"{stream['age_ms']:.0f} ms", "in · out": f"{frames['in']} · {frames['out']}",
        "dropped": str(frames["drops"]), "unwatched": str(frames.get("unwatched") or ""),
        "running": clock(stream["seconds"]), "starts": str(stream["starts"]),
        "memory": size(stream["rss"]) if stream["rss"] else "", "last exit": "" if stream["last_exit"] is None else str(stream["last_exit"]),
        "gpu": stream["gpu"] or "", "control": stream["control"],
    }  # fmt: skip
    wide = {"control": ' class="wide"'}
    cells = "".join(f"<div{wide.get(name, '')}><dt>{name}</dt><dd>{html.escape(value)}</dd></div>" for name, value in facts.items() if value)
    why = [stream["why"]] if stream["why"] else []
    why += [f"starts in {stream['due_s']:g} s"] if stream["due_s"] else []
    why += stream["reasons"] if tone != "good" else []
    told = f'<p class="why">{html.escape("; ".join(why))}</p>' if why else ""
    log = f"<pre>{html.escape(chr(10).join(line[:200] for line in lines[-4:]))}</pre>" if tone == "bad" and lines else ""
    return (
        f'<section class="stream {tone}"><div class="head"><b>{html.escape(stream["name"])}</b>'
        f'<span class="state">{html.escape(stream["state"].replace("_", " "))}</span></div><dl>{cells}</dl>{told}{log}</section>'
    )


def numbers(status: dict[str, Any]) -> bytes:
    """The same for Prometheus. Each stream's own numbers are its own to serve."""
    from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

    registry = CollectorRegistry()
    labels = ["stream"]
    up = Gauge("afterimage_stream_up", "1 while the stream brings frames.", labels, registry=registry)
    state = Gauge("afterimage_stream_state", "1 for the state that a stream is in.", ["stream", "state"], registry=registry)
    fps = Gauge("afterimage_stream_fps", "Frames a second.", labels, registry=registry)
    starts = Counter("afterimage_stream_starts", "Starts of the stream's process.", labels, registry=registry)
    for stream in status["streams"]:
        name = stream["name"]
        up.labels(name).set(stream["frame_s"] is not None and stream["state"] in ("online", "degraded_inference"))
        state.labels(name, stream["state"]).set(1)
        fps.labels(name).set(stream["fps"])
        starts.labels(name).inc(stream["starts"])
    return bytes(generate_latest(registry))
