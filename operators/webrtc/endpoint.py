"""The HTTP endpoint of WHIP and WHEP (RFC 9725; draft-ietf-wish-whep): POST an offer, get an answer and a resource; DELETE it to leave.

Invariants: nothing is looked at before the bearer token was right; every size and every wait has a limit; one request a connection. It knows
HTTP and SDP as text, no media.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from engine.errors import UsageError
from operators.media.listen import check_listen

MAX_HEAD, MAX_BODY = 8192, 65536
PATIENCE = 10.0  # s for a request, and for its answer
STATUS = {
    200: "OK", 201: "Created", 204: "No Content", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed",
    413: "Content Too Large", 415: "Unsupported Media Type", 422: "Unprocessable Content", 503: "Service Unavailable",
}  # fmt: skip
_LINE = re.compile(r"([A-Z]{1,16}) (/\S{0,1024}) HTTP/1\.[01]")
CORS = {
    "Access-Control-Allow-Origin": "*", "Access-Control-Allow-Methods": "POST, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "Authorization, Content-Type", "Access-Control-Expose-Headers": "Location",
}  # fmt: skip
"""Pages of any origin may try: without the token they get nothing."""


class Denied(Exception):
    """A request that is answered with `status`."""

    def __init__(self, status: int, why: str = "") -> None:
        super().__init__(why)
        self.status, self.why = status, why


@dataclass(frozen=True, slots=True)
class Where:
    """Where to listen. The token is asked of everyone."""

    host: str
    port: int
    path: str
    token: str


def parse_where(url: str, *, insecure: bool) -> Where:
    """`http://HOST:PORT/PATH?token=TOKEN` taken apart; a token is made where none is given. Raises UsageError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"the address {url} is not well formed: {error}") from error
    path = parts.path.rstrip("/")
    if parts.scheme != "http" or not parts.hostname or port is None or not path:
        raise UsageError(f"{url} is no address to serve at", fix='such as "http://127.0.0.1:8889/live", with "?token=${ENV:TOKEN}"')
    token = parse_qs(parts.query).get("token", [""])[0]
    check_listen(parts.hostname, guarded=bool(token), insecure=insecure, how="set ?token=${ENV:TOKEN}")
    return Where(parts.hostname, port, path, token or secrets.token_urlsafe(16))


class Endpoint:
    """`post(offer)` answers (answer, resource); `delete(resource)` says whether there was one. Both are called on the loop."""

    def __init__(
        self, where: Where, post: Callable[[str], Awaitable[tuple[str, str]]], delete: Callable[[str], Awaitable[bool]], *, most: int = 32
    ) -> None:  # fmt: skip
        self.where, self.post, self.delete, self.most = where, post, delete, most
        self._open = 0
        self._server: asyncio.Server | None = None

    async def listen(self) -> int:
        """Start to listen; the port. Raises OSError."""
        self._server = await asyncio.start_server(self._accept, self.where.host, self.where.port, limit=MAX_HEAD)
        return int(self._server.sockets[0].getsockname()[1])

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._open >= self.most:
            writer.transport.abort()
            return
        self._open += 1
        try:
            try:
                status, headers, body = await asyncio.wait_for(self._request(reader), 2 * PATIENCE)
            except Denied as denied:
                status, headers, body = denied.status, {"WWW-Authenticate": "Bearer"} if denied.status == 401 else {}, denied.why
            data = body.encode()
            fields = {**CORS, **headers, "Content-Length": str(len(data)), "Connection": "close"}
            text = f"HTTP/1.1 {status} {STATUS[status]}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
            writer.write(text.encode() + b"\r\n" + data)
            await asyncio.wait_for(writer.drain(), PATIENCE)
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # it went, or took too long
        finally:
            self._open -= 1
            writer.close()

    async def _request(self, reader: asyncio.StreamReader) -> tuple[int, dict[str, str], str]:
        try:
            head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)).decode("ascii")
        except (asyncio.LimitOverrunError, UnicodeDecodeError) as error:
            raise Denied(400) from error
        lines = head.split("\r\n")
        line = _LINE.fullmatch(lines[0])
        if line is None:
            raise Denied(400)
        headers = {name.strip().lower(): value.strip() for name, _, value in (text.partition(":") for text in lines[1:] if text)}
        method, path = line[1], line[2].partition("?")[0].rstrip("/")
        base = self.where.path
        if path != base and not path.startswith(f"{base}/"):
            raise Denied(404)
        if method == "OPTIONS":
            return 204, {"Accept-Post": "application/sdp"}, ""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self.where.token.encode()):
            await asyncio.sleep(0.3)  # guessing takes its time
            raise Denied(401)
        if method == "DELETE" and path != base:
            if not await self.delete(path.removeprefix(f"{base}/")):
                raise Denied(404)
            return 200, {}, ""
        if method != "POST" or path != base:
            raise Denied(405)
        return await self._posted(reader, headers)

    async def _posted(self, reader: asyncio.StreamReader, headers: dict[str, str]) -> tuple[int, dict[str, str], str]:
        if headers.get("content-type", "").partition(";")[0].strip() != "application/sdp":
            raise Denied(415)
        length = headers.get("content-length", "")
        if not length.isdecimal() or not 0 < int(length[:9]) <= MAX_BODY:
            raise Denied(413 if length.isdecimal() else 400)
        try:
            offer = (await asyncio.wait_for(reader.readexactly(int(length)), PATIENCE)).decode()
        except UnicodeDecodeError as error:
            raise Denied(400) from error
        answer, resource = await self.post(offer)
        return 201, {"Content-Type": "application/sdp", "Location": f"{self.where.path}/{resource}"}, answer
