"""Who may talk to the web server: the right Host, no foreign Origin, and the token.

A page of another site, open in the same browser, can send requests here. So every request must name this server as its Host (a name that an
attacker points at 127.0.0.1 is refused: DNS rebinding), must not come from another origin, and must carry the token, in the query, as a bearer,
or in the cookie that the first visit left. Invariant: nothing behind the guard is reached otherwise, and every answer carries the headers
that keep a browser from doing more with it. It knows no routes beyond those that are open.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
App = Callable[[Scope, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

CONTENT = "; ".join((
    "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' blob: data:", "connect-src 'self'", "manifest-src 'self'",
    "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
))  # fmt: skip
HEADERS = (
    (b"content-security-policy", CONTENT.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
    (b"cache-control", b"no-store"),
)
OPEN = ("/healthz",)  # says only whether the run is well
LOGIN = (
    "This page needs the token of the run.\n\nOpen the address that `engine run` printed: it ends in ?token=...\n"
    "A new run has a new token, unless ENGINE_WEB_TOKEN is set.\n"
)


class Guard:
    """ASGI middleware. `host` and `port`: what the server is bound to."""

    def __init__(self, app: App, *, token: str, host: str, port: int) -> None:
        self.app, self.token, self.port = app, token, port
        self.cookie = f"afterimage-{port}"  # cookies do not tell ports apart: two runs on one machine must not share one
        self.any_address = _unspecified(host)
        self.names = {"localhost", "127.0.0.1", "::1", host.lower()} if _loopback(host) or self.any_address else {host.lower()}
        if not _loopback(host):
            own = socket.gethostname().lower()
            self.names |= {own, own.partition(".")[0], own.partition(".")[0] + ".local"}

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        refusal, status = self.judge(scope), 403
        if refusal is None and not self.known(scope):
            refusal, status = LOGIN, 401
        if refusal is not None:
            await refuse(scope, send, status, refusal)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                have = {name for name, _ in message.get("headers", ())}
                message["headers"] = [*message.get("headers", ()), *(h for h in HEADERS if h[0] not in have)]
            await send(message)

        await self.app(scope, receive, guarded)

    # ---- who asks

    def judge(self, scope: Scope) -> str | None:
        """Why a request is refused whatever token it has, or None."""
        headers = Headers(scope["headers"])
        hosts = headers.all(b"host")
        if len(hosts) != 1 or not self.is_me(hosts[0]):
            return "This server does not go by the name in the Host header. Open it by the address that engine run printed.\n"
        origins = headers.all(b"origin")
        if len(origins) > 1 or (origins and not self.same(origins[0], hosts[0])):
            return "Requests from pages of other origins are refused.\n"
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD"):
            return "Only GET and HEAD are answered here; changes go through the WebSocket.\n"
        site = headers.one(b"sec-fetch-site")
        page = scope["path"] == "/" and headers.one(b"sec-fetch-mode") == "navigate"  # a link to the page is harmless
        if site not in ("", "same-origin", "none") and not page:
            return "Requests from pages of other sites are refused.\n"
        return None

    def is_me(self, host: str) -> bool:
        """Whether a Host header names this server. Where every address is listened on, any literal address may be it; a name may not."""
        name, port = _split(host)
        if port != self.port:
            return False
        return name in self.names or (self.any_address and _address(name) is not None)

    def same(self, origin: str, host: str) -> bool:
        """Whether `origin` is this server under the name that the request called it by."""
        scheme, slashes, rest = origin.partition("://")
        return bool(slashes) and scheme in ("http", "https") and _split(rest) == _split(host)

    def known(self, scope: Scope) -> bool:
        """Whether a request carries the token. A WebSocket that shows only the cookie must say that it comes from our own page."""
        if scope["path"] in OPEN and scope["type"] == "http":
            return True
        headers = Headers(scope["headers"])
        if self._right(token_of(scope)) or self._right(headers.one(b"authorization").removeprefix("Bearer ")):
            return True
        if scope["type"] == "websocket" and not headers.all(b"origin"):
            return False
        return any(self._right(value) for value in _cookies(headers.all(b"cookie"), self.cookie))

    def _right(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self.token.encode())


async def refuse(scope: Scope, send: Any, status: int, text: str) -> None:
    """Answer with `status` and a plain text, on either kind of connection."""
    body = text.encode()
    kind = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode()), *HEADERS]
    await send({"type": f"{kind}.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.body", "body": b"" if scope.get("method") == "HEAD" else body})


class Headers:
    """The headers of a request, by lower-case name."""

    def __init__(self, raw: Iterable[tuple[bytes, bytes]]) -> None:
        self._raw = [(name.lower(), value.decode("latin-1").strip()) for name, value in raw]

    def all(self, name: bytes) -> list[str]:
        return [value for key, value in self._raw if key == name]

    def one(self, name: bytes) -> str:
        return next(iter(self.all(name)), "")


def token_of(scope: Scope) -> str:
    """The token in the query of a request, "" where there is none."""
    try:
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"), max_num_fields=32)
    except ValueError:
        return ""
    return (query.get("token") or [""])[-1]


def _cookies(headers: list[str], name: str) -> list[str]:
    pairs = (part.strip().partition("=") for header in headers for part in header.split(";"))
    return [value for key, _, value in pairs if key == name]


def _split(host: str) -> tuple[str, int]:
    """Name and port of a Host header; the port is -1 where it is none."""
    name, colon, port = host.rpartition(":")
    if not colon or "]" in port:
        name, port = host, "80"
    digits = port if port.isascii() and port.isdigit() and len(port) <= 5 else "-1"
    return name.strip("[]").lower().rstrip("."), int(digits)


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _loopback(host: str) -> bool:
    address = _address(host)
    return host.lower() == "localhost" or (address is not None and address.is_loopback)


def _unspecified(host: str) -> bool:
    address = _address(host)
    return address is not None and address.is_unspecified
