"""H.264 access units as RTP packets (RFC 3550, RFC 6184), and what the session description says of them (RFC 4566).

Pure functions. Invariant: what is packed is the access unit's NAL units in order; only access unit delimiters and filler are left out.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator

CLOCK = 90_000
PAYLOAD_TYPE = 96
PACKET = 1400  # bytes of RTP payload at most: what goes through every network
SPS, PPS, DELIMITER, FILLER = 7, 8, 9, 12


def nal_units(data: bytes) -> Iterator[bytes]:
    """The NAL units of an Annex B byte stream, without start codes and trailing zeros (ITU-T H.264, B.1)."""
    at = data.find(b"\0\0\1")
    while at >= 0:
        start = at + 3
        at = data.find(b"\0\0\1", start)
        unit = (data[start:] if at < 0 else data[start:at]).rstrip(b"\0")
        if unit:
            yield unit


def parameter_sets(data: bytes) -> tuple[bytes, bytes] | None:
    """The SPS and PPS of an access unit; None where it lacks one."""
    found = {unit[0] & 31: unit for unit in nal_units(data)}
    return (found[SPS], found[PPS]) if SPS in found and PPS in found else None


def payloads(data: bytes, room: int = PACKET) -> list[bytes]:
    """The RTP payloads of an access unit: single NAL units, and FU-A fragments of those that do not fit (RFC 6184, 5.6 and 5.8)."""
    made: list[bytes] = []
    for unit in nal_units(data):
        head = unit[0]
        if head & 31 in (DELIMITER, FILLER):
            continue
        if len(unit) <= room:
            made.append(unit)
            continue
        indicator, kind, step = bytes([head & 0xE0 | 28]), head & 31, room - 2
        for at in range(1, len(unit), step):
            part = unit[at : at + step]
            mark = (0x80 if at == 1 else 0) | (0x40 if at + step >= len(unit) else 0)
            made.append(indicator + bytes([mark | kind]) + part)
    return made


def packets(parts: list[bytes], seq: int, stamp: int, ssrc: int) -> list[bytes]:
    """RTP packets of one access unit, numbered from `seq`; the last one carries the marker."""
    end = len(parts) - 1
    return [
        struct.pack(">BBHII", 0x80, PAYLOAD_TYPE | (0x80 if index == end else 0), (seq + index) & 0xFFFF, stamp & 0xFFFFFFFF, ssrc) + part
        for index, part in enumerate(parts)
    ]


def stamp_of(ns: int) -> int:
    """RTP time of a time in ns."""
    return ns * 9 // 100_000


def description(host: str, title: str, sets: tuple[bytes, bytes], fps: float) -> str:
    """The SDP of a live H.264 stream."""
    sps, pps = sets
    coded = ",".join(base64.b64encode(part).decode() for part in (sps, pps))
    kind = "IP6" if ":" in host else "IP4"
    lines = (
        "v=0", f"o=- 0 0 IN {kind} {host}", f"s={title}", f"c=IN {kind} {'::' if kind == 'IP6' else '0.0.0.0'}", "t=0 0", "a=range:npt=now-",
        "a=control:*", f"m=video 0 RTP/AVP {PAYLOAD_TYPE}", f"a=rtpmap:{PAYLOAD_TYPE} H264/{CLOCK}",
        f"a=fmtp:{PAYLOAD_TYPE} packetization-mode=1;profile-level-id={sps[1:4].hex().upper()};sprop-parameter-sets={coded}",
        f"a=framerate:{fps:g}", "a=control:track0",
    )  # fmt: skip
    return "\r\n".join(lines) + "\r\n"
