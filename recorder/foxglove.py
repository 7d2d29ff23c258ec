"""The messages that Foxglove and other readers of MCAP show as pictures: foxglove.RawImage and foxglove.CompressedImage, as protobuf.

Field numbers are those of Foxglove's published schemas (github.com/foxglove/foxglove-sdk, schemas/proto); the wire format is that of
protobuf.dev/programming-guides/encoding. The descriptors travel in the file, as MCAP asks. Hand-written, because a recorder must not depend on
a code generator for four fields. It knows pictures as bytes only.
"""

from __future__ import annotations

from typing import Any, NamedTuple

RAW, COMPRESSED = "foxglove.RawImage", "foxglove.CompressedImage"
_ENCODINGS = {"rgb": "rgb8", "bgr": "bgr8", "mono": "mono8"}

# Types of google.protobuf.FieldDescriptorProto.
_INT64, _INT32, _FIXED32, _STRING, _MESSAGE, _BYTES = 3, 5, 7, 9, 11, 12


def varint(value: int) -> bytes:
    out = bytearray()
    value &= (1 << 64) - 1  # negative numbers travel as two's complement
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, data: bytes | str) -> bytes:
    data = data.encode() if isinstance(data, str) else data
    return varint(number << 3 | 2) + varint(len(data)) + data


def _number(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def _fixed32(number: int, value: int) -> bytes:
    return varint(number << 3 | 5) + value.to_bytes(4, "little")


def _time(ns: int) -> bytes:
    return _number(1, ns // 1_000_000_000) + _number(2, ns % 1_000_000_000)


# ---------------------------------------------------------------- descriptors


def _member(name: str, number: int, kind: int, type_name: str = "") -> bytes:
    made = _field(1, name) + _number(3, number) + _number(4, 1) + _number(5, kind)
    return made + (_field(6, type_name) if type_name else b"")


def _file(path: str, package: str, message: str, members: list[bytes], needs: list[str]) -> bytes:
    body = _field(1, message) + b"".join(_field(2, m) for m in members)
    return _field(1, path) + _field(2, package) + b"".join(_field(3, n) for n in needs) + _field(4, body) + _field(12, "proto3")


def descriptors(schema: str) -> bytes:
    """A google.protobuf.FileDescriptorSet that defines `schema` and what it needs."""
    stamp = "google/protobuf/timestamp.proto"
    files = [_file(stamp, "google.protobuf", "Timestamp", [_member("seconds", 1, _INT64), _member("nanos", 2, _INT32)], [])]
    when = _member("timestamp", 1, _MESSAGE, ".google.protobuf.Timestamp")
    if schema == RAW:
        members = [
            when, _member("frame_id", 7, _STRING), _member("width", 2, _FIXED32), _member("height", 3, _FIXED32),
            _member("encoding", 4, _STRING), _member("step", 5, _FIXED32), _member("data", 6, _BYTES),
        ]  # fmt: skip
    else:
        members = [when, _member("frame_id", 4, _STRING), _member("data", 2, _BYTES), _member("format", 3, _STRING)]
    files.append(_file(f"foxglove/{schema.partition('.')[2]}.proto", "foxglove", schema.partition(".")[2], members, [stamp]))
    return b"".join(_field(1, file) for file in files)


# ---------------------------------------------------------------- messages


class Raw(NamedTuple):
    """A picture of bytes: `encoding` is rgb8, bgr8 or mono8, rows are packed."""

    width: int
    height: int
    encoding: str
    data: bytes


def raw_image(when: int, frame: str, width: int, height: int, color: str, data: bytes) -> bytes:
    """A foxglove.RawImage. `when`: ns since 1970. `color`: rgb, bgr or mono."""
    step = width * (1 if color == "mono" else 3)
    return b"".join((
        _field(1, _time(when)), _fixed32(2, width), _fixed32(3, height), _field(4, _ENCODINGS[color]), _fixed32(5, step),
        _field(7, frame), _field(6, data),
    ))  # fmt: skip


def compressed_image(when: int, frame: str, kind: str, data: bytes) -> bytes:
    """A foxglove.CompressedImage. `kind`: jpeg or png."""
    return _field(1, _time(when)) + _field(4, frame) + _field(3, kind) + _field(2, data)


def read_raw(message: bytes) -> Raw:
    """The picture in a foxglove.RawImage. Raises ValueError."""
    found: dict[int, Any] = {}
    at, view = 0, memoryview(message)
    while at < len(message):
        tag, at = _read_varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == 2:
            size, at = _read_varint(message, at)
            found[number], at = view[at : at + size], at + size
        elif wire == 5:
            found[number], at = int.from_bytes(view[at : at + 4], "little"), at + 4
        elif wire == 0:
            found[number], at = _read_varint(message, at)
        else:
            raise ValueError(f"wire type {wire}")
    if at != len(message):
        raise ValueError("the message is cut off")
    made = Raw(int(found.get(2, 0)), int(found.get(3, 0)), bytes(found.get(4, b"")).decode(), bytes(found.get(6, b"")))
    if len(made.data) != made.width * made.height * (1 if made.encoding == "mono8" else 3):
        raise ValueError(f"{len(made.data)} bytes for a picture of {made.width}x{made.height} {made.encoding}")
    return made


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value, at, shift = value | (byte & 0x7F) << shift, at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("the message is cut off")
