"""RTSP requests and answers (RFC 2326, 4 to 7), read with limits on everything.

Invariant: `read` returns a well-formed request, None at the end of the connection, or raises Refused with the status to answer; it never holds
more than the limits, whatever comes. It knows no methods.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field

MAX_HEAD, MAX_BODY, MAX_LINES = 8192, 4096, 64
STATUS = {
    200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed", 413: "Request Entity Too Large",
    451: "Parameter Not Understood", 453: "Not Enough Bandwidth", 454: "Session Not Found", 455: "Method Not Valid in This State",
    461: "Unsupported Transport", 501: "Not Implemented", 503: "Service Unavailable", 505: "RTSP Version Not Supported",
    551: "Option not supported",
}  # fmt: skip
_LINE = re.compile(r"([A-Z_]{1,32}) (\S{1,2048}) RTSP/(\d)\.(\d)")
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}):[ \t]*(.*)")


class Refused(Exception):
    """A request that is answered with `status` instead of being carried out; `final`: the connection cannot go on after it."""

    def __init__(self, status: int, *, final: bool = False, cseq: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(status)
        self.status, self.final, self.cseq, self.headers = status, final, cseq, headers or {}


@dataclass(frozen=True, slots=True)
class Request:
    """A request; header names in lower case."""

    method: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def cseq(self) -> str:
        return self.headers.get("cseq", "0")


async def read(reader: asyncio.StreamReader) -> Request | None:
    """The next request; interleaved packets of the client (its RTCP reports) are passed over. None at the end."""
    while True:
        first = await reader.read(1)
        if not first:
            return None
        if first == b"$":
            head = await reader.readexactly(3)
            await reader.readexactly(int.from_bytes(head[1:], "big"))
            return Request("$", "")  # a sign of life
        if first not in b"\r\n":
            break
    try:
        head = first + await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as error:
        raise Refused(413, final=True) from error
    except asyncio.IncompleteReadError:
        return None
    if len(head) > MAX_HEAD:
        raise Refused(413, final=True)
    request = parse(head)
    length = request.headers.get("content-length", "0")
    if not length.isascii() or not length.isdecimal() or len(length) > 9:
        raise Refused(400, final=True, cseq=request.cseq)
    if int(length) > MAX_BODY:
        raise Refused(413, final=True, cseq=request.cseq)
    await reader.readexactly(int(length))
    return request


def parse(head: bytes) -> Request:
    """A request line and its fields. Raises Refused where it is not one."""
    try:
        lines = head.decode("utf-8").split("\r\n")
    except UnicodeDecodeError as error:
        raise Refused(400, final=True) from error
    line = _LINE.fullmatch(lines[0])
    if line is None or len(lines) > MAX_LINES:
        raise Refused(400, final=True)
    headers: dict[str, str] = {}
    for text in lines[1:]:
        if not text:
            continue
        found = _FIELD.fullmatch(text)
        if found is None:
            raise Refused(400, final=True)
        headers[found[1].lower()] = found[2].strip()
    cseq = headers.get("cseq", "")
    if not (cseq.isascii() and cseq.isdecimal() and len(cseq) < 12):
        raise Refused(400, final=True)
    if line[3] != "1":
        raise Refused(505, cseq=cseq)
    return Request(line[1], line[2], headers)


def answer(status: int, cseq: str, headers: dict[str, str], body: str = "") -> bytes:
    """An answer as bytes."""
    data = body.encode()
    fields = {"CSeq": cseq or "0", **headers, **({"Content-Length": str(len(data))} if data else {})}
    lines = [f"RTSP/1.0 {status} {STATUS[status]}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def interleaved(transport: str) -> tuple[int, int] | None:
    """The channels of the first transport a client offers that goes over this connection; None where there is none."""
    for offer in transport.split(","):
        parts = [part.strip() for part in offer.split(";")]
        if parts[0].upper() != "RTP/AVP/TCP":
            continue
        for part in parts[1:]:
            found = re.fullmatch(r"interleaved=(\d{1,3})(?:-(\d{1,3}))?", part)
            if found:
                low = int(found[1])
                high = int(found[2]) if found[2] else low + 1
                return (low, high) if low < 255 and high < 256 else None
        return (0, 1)
    return None
