"""Who may talk to the web server: the right Host, no foreign Origin, and the token.

A page of another site, open in the same browser, can send requests here. So every request must name this server as its Host (a name that an
attacker points at 127.0.0.1 is refused: DNS rebinding), must not come from another origin, and must carry the token, in the query, as a bearer,
or in the cookie that the first visit left. Pages of origins that were named to the guard are let in too, with the token said outright: the
cookie is not theirs to use. Invariant: nothing behind the guard is reached otherwise, and every answer carries the headers that keep a
browser from doing more with it. It knows no routes beyond those that are open.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

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
    """ASGI middleware. `host` and `port`: what the server is bound to. `origins`: of other pages that may use it, as `origin_of` gives them."""

    def __init__(self, app: App, *, token: str, host: str, port: int, origins: Iterable[str] = ()) -> None:
        self.app, self.token, self.port, self.origins = app, token, port, frozenset(origins)
        self.headers = HEADERS
        if self.origins:  # x-frame-options knows no list
            framed = CONTENT.replace("frame-ancestors 'none'", "frame-ancestors " + " ".join(sorted(self.origins)))
            self.headers = (HEADERS[0][0], framed.encode()), *(header for header in HEADERS[1:] if header[0] != b"x-frame-options")
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
        guest = self.guest(scope)
        always = self.headers
        if guest:
            kept = (header for header in self.headers if header[0] != b"cross-origin-resource-policy")
            always = (*kept, (b"cross-origin-resource-policy", b"cross-origin"), (b"vary", b"origin"))
            always += ((b"access-control-allow-origin", guest.encode()),)
        refusal, status = self.judge(scope), 403
        if guest and refusal is not None and self.preflight(scope):
            await self._may(send, always)
            return
        if refusal is None and not self.known(scope):
            refusal, status = LOGIN, 401
        if refusal is not None:
            await refuse(scope, send, status, refusal, self.headers)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                have = {name for name, _ in message.get("headers", ())}
                message["headers"] = [*message.get("headers", ()), *(h for h in always if h[0] not in have)]
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
        guest = self.guest(scope)
        if len(origins) > 1 or (origins and not guest and not self.same(origins[0], hosts[0])):
            return "Requests from pages of other origins are refused.\n"
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD"):
            return "Only GET and HEAD are answered here; changes go through the WebSocket.\n"
        site = headers.one(b"sec-fetch-site")
        page = scope["path"] == "/" and headers.one(b"sec-fetch-mode") == "navigate"  # a link to the page is harmless
        if site not in ("", "same-origin", "none") and not page and not guest:
            return "Requests from pages of other sites are refused.\n"
        return None

    def guest(self, scope: Scope) -> str:
        """The origin of the page that asks, where it is another's and was named; "" else. An embedded picture says it by its Referer only,
        which a page can leave out and not make up."""
        if not self.origins:
            return ""
        headers = Headers(scope["headers"])
        says = headers.one(b"origin") or "/".join(headers.one(b"referer").split("/", 3)[:3])
        return says if says in self.origins else ""

    def preflight(self, scope: Scope) -> bool:
        """Whether a browser asks beforehand if a page may send its token as a bearer (Fetch standard, CORS)."""
        headers = Headers(scope["headers"])
        hosts = headers.all(b"host")
        mine = len(hosts) == 1 and self.is_me(hosts[0])
        return mine and scope.get("method") == "OPTIONS" and headers.one(b"access-control-request-method") in ("GET", "HEAD")

    @staticmethod
    async def _may(send: Any, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        more = ((b"access-control-allow-headers", b"authorization"), (b"access-control-allow-private-network", b"true"))
        await send({"type": "http.response.start", "status": 204, "headers": [*headers, *more]})
        await send({"type": "http.response.body", "body": b""})

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
        if self.guest(scope) and headers.one(b"sec-fetch-mode") != "navigate":
            return False
        return any(self._right(value) for value in _cookies(headers.all(b"cookie"), self.cookie))

    def _right(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self.token.encode())


def origin_of(text: str) -> str:
    """An origin as browsers write it: `https://HOST`, the port only where it is not the usual one. Raises ValueError for what is none."""
    parts = urlsplit(text.strip())
    bare = parts.path in ("", "/") and not parts.query and not parts.fragment and not {"*", "@"} & set(parts.netloc)
    if parts.scheme not in ("http", "https") or not parts.hostname or not bare:
        raise ValueError(f"{text!r} is no origin")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname.encode("idna").decode()
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port not in (None, {"http": 80, "https": 443}[parts.scheme]) else "")


async def refuse(scope: Scope, send: Any, status: int, text: str, more: tuple[tuple[bytes, bytes], ...] = HEADERS) -> None:
    """Answer with `status` and a plain text, on either kind of connection."""
    body = text.encode()
    kind = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode()), *more]
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
