"""The wire format, version 1: headers to bytes and back (docs/wire.md is the contract).

Invariant: what `decode` returns has been checked whole, before anything of the size that the message claims is allocated: types, ranges, and
that every payload part is as long as the header says. Whatever is wrong raises WireError, nothing else. Knows bytes, no sockets and no codecs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Union

import msgpack

from .fields import INT64, Fields, WireError, unpack

VERSION: Final = 1

MAX_HEADER: Final = 64 << 10
"""Bytes of an encoded header."""
MAX_PARTS: Final = 8
"""Payload parts of one message."""
MAX_BYTES: Final = 256 << 20
"""Bytes of a frame, on the wire and decoded, unless the reader says otherwise."""
MAX_PLAIN: Final = 1 << 20
"""Bytes of a MessagePack payload."""
MAX_SIDE: Final = 65_535
"""Of one axis of an array."""

KEY: Final = 1
"""Flag: this frame can be decoded alone."""
DISCONTINUITY: Final = 2
"""Flag: the first frame of an epoch or of a run."""
DEGRADED: Final = 4
"""Flag: made at less than the asked settings, or repeated."""

NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
RUN: Final = re.compile(r"[0-9a-f]{16}")
STATES: Final = ("loading", "online", "degraded_input", "degraded_inference", "error")
REASONS: Final = ("eof", "stopped", "error")
DTYPES: Final = ("uint8", "float16", "float32", "int32")

ENCODINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "Image": ("raw", "jpeg", "png", "h264", "shm"),
    "Mask": ("raw", "png", "shm"),
    "Latent": ("raw", "shm"),
    "Pose": ("msgpack",),
    "Prompt": ("msgpack",),
    "Scalar": ("msgpack",),
    "Text": ("msgpack",),
    "Data": ("msgpack",),
}
"""Payload types, and how each may be stored."""

ARRAYS: Final = ("Image", "Mask", "Latent")
CODED: Final = ("jpeg", "png", "h264")


@dataclass(frozen=True, slots=True)
class Shm:
    """Where a frame lies in a ring in shared memory. `mark` is what the slot's mark must read for the frame to be whole."""

    name: str
    slot: int
    offset: int
    bytes: int
    mark: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """Once a second while a stream is open. `n`: frames sent so far; `sent`: CLOCK_REALTIME ns."""

    stream: str
    run: str
    n: int
    sent: int
    fps: float = 0.0
    state: str = "online"
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The last message of a run."""

    stream: str
    run: str
    n: int
    sent: int
    reason: str = "stopped"
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The header of a frame; docs/wire.md says what each field means. Times are ns; `born` and `sent` on CLOCK_REALTIME."""

    stream: str
    run: str
    n: int
    sent: int
    seq: int
    epoch: int
    pts: int
    born: int
    params: int = 0
    flags: int = KEY
    type: str
    enc: str
    dtype: str = ""
    shape: tuple[int, ...] = ()
    layout: str = ""
    color: Mapping[str, str] = field(default_factory=dict)
    size: tuple[int, ...] = ()
    shm: Shm | None = None
    lat: Mapping[str, float] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> bool:
        return bool(self.flags & KEY)

    @property
    def discontinuity(self) -> bool:
        return bool(self.flags & DISCONTINUITY)

    @property
    def degraded(self) -> bool:
        return bool(self.flags & DEGRADED)

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded array; 0 where the payload is not one."""
        return array_bytes(self.dtype, self.shape) if self.dtype else 0


Header = Union[Frame, Beat, End]  # noqa: UP007  (a plain alias that Python 3.10 can evaluate too)


def topic(stream: str) -> bytes:
    """The topic of a stream: its name and a slash. Raises WireError where the name is none."""
    if not NAME.fullmatch(stream):
        raise WireError("stream", f"{stream!r} is no name: 1 to 64 of A-Z a-z 0-9 _ . -")
    return stream.encode() + b"/"


def array_bytes(dtype: str, shape: Sequence[int]) -> int:
    """Bytes of an array, in whole numbers that cannot overflow."""
    count = {"uint8": 1, "float16": 2, "float32": 4, "int32": 4}[dtype]
    for side in shape:
        count *= side
    return count


# ---------------------------------------------------------------- to bytes


def encode(header: Header) -> bytes:
    """The header's bytes: one MessagePack map, keys in the order of docs/wire.md, keys without a value left out.

    Raises WireError where it would be longer than MAX_HEADER or holds a value that MessagePack does not know."""
    kind = header.__class__.__name__.lower()
    out: dict[str, Any] = {
        "v": VERSION, "kind": kind, "stream": header.stream, "run": header.run, "n": header.n, "sent": header.sent,
    }  # fmt: skip
    if isinstance(header, Frame):
        out["seq"], out["epoch"], out["pts"], out["born"] = header.seq, header.epoch, header.pts, header.born
        out["params"], out["flags"], out["type"], out["enc"] = header.params, header.flags, header.type, header.enc
        if header.dtype:
            out["dtype"], out["shape"] = header.dtype, header.shape
        if header.layout:
            out["layout"], out["color"] = header.layout, header.color
        out["size"] = header.size
        if header.shm is not None:
            ring = header.shm
            out["shm"] = {"name": ring.name, "slot": ring.slot, "offset": ring.offset, "bytes": ring.bytes, "mark": ring.mark}
        if header.lat:
            out["lat"] = header.lat
    elif isinstance(header, Beat):
        out["fps"], out["state"] = header.fps, header.state
    else:
        out["reason"] = header.reason
    if header.meta:
        out["meta"] = header.meta
    return pack(out)


def pack(out: Mapping[str, Any]) -> bytes:
    """A header, which has its keys in order already, as bytes. Raises WireError as `encode` does."""
    try:
        packed = msgpack.packb(out)
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError("", f"the header cannot be written: {error}") from error
    if len(packed) > MAX_HEADER:
        raise WireError("", f"the header has {len(packed)} bytes, more than {MAX_HEADER}: put less into meta")
    return bytes(packed)


# ---------------------------------------------------------------- from bytes


def decode(parts: Sequence[Any], *, max_bytes: int = MAX_BYTES) -> tuple[Header, tuple[memoryview, ...]]:
    """The header and the payload parts of a message (anything with a buffer: bytes, memoryview, zmq.Frame). Copies no payload.

    Raises WireError for whatever does not follow the format, and for frames of more than `max_bytes`, coded or decoded."""
    if not 2 <= len(parts) <= 2 + MAX_PARTS:
        raise WireError("", f"a message has 2 to {2 + MAX_PARTS} parts, this one has {len(parts)}")
    views = [memoryview(part) for part in parts]
    header = decode_header(views[1], max_bytes=max_bytes)
    if views[0] != header.stream.encode() + b"/":
        raise WireError("stream", f"is {header.stream!r}, and the topic is another")
    payload = tuple(views[2:])
    expected = header.size if isinstance(header, Frame) else ()
    if len(payload) != len(expected):
        raise WireError("size", f"tells of {len(expected)} payload parts, {len(payload)} came")
    for view, size in zip(payload, expected, strict=True):
        if view.nbytes != size:
            raise WireError("size", f"says {size} bytes, {view.nbytes} came")
    return header, payload


def decode_header(data: Any, *, max_bytes: int = MAX_BYTES) -> Header:
    """The header alone, checked. Raises WireError."""
    view = memoryview(data)
    if view.nbytes > MAX_HEADER:
        raise WireError("", f"the header has {view.nbytes} bytes, more than {MAX_HEADER}")
    raw = unpack(view)
    if not isinstance(raw, dict):
        raise WireError("", "the header is no map")
    get = Fields(raw)
    version = get.int("v", 0, INT64 - 1)
    if version != VERSION:
        raise WireError("v", f"this reader knows version {VERSION}, the message is of version {version}: update the reader")
    kind = get.one("kind", ("frame", "beat", "end"))
    stream, run = get.text("stream"), get.text("run")
    if not NAME.fullmatch(stream):
        raise WireError("stream", f"{stream[:80]!r} is no name")
    if not RUN.fullmatch(run):
        raise WireError("run", f"{run[:80]!r} is not 16 hexadecimal digits")
    common = {"stream": stream, "run": run, "n": get.int("n", 0), "sent": get.int("sent", 0), "meta": get.map("meta")}
    if kind == "beat":
        return Beat(**common, fps=get.number("fps"), state=get.one("state", STATES))
    if kind == "end":
        return End(**common, reason=get.one("reason", REASONS))
    return _frame(get, common, max_bytes)


def _frame(get: Fields, common: dict[str, Any], max_bytes: int) -> Frame:
    kind, enc = get.one("type", tuple(ENCODINGS)), get.text("enc")
    if enc not in ENCODINGS[kind]:
        raise WireError("enc", f"{kind} is not stored as {enc[:40]!r}, but as " + ", ".join(ENCODINGS[kind]))
    dtype, shape, layout, color = "", (), "", {}
    if kind in ARRAYS:
        dtype, shape = get.one("dtype", DTYPES), get.ints("shape", MAX_SIDE, most=4)
        if array_bytes(dtype, shape) > max_bytes:
            raise WireError("shape", f"{dtype} {shape} is larger than this reader's limit of {max_bytes} bytes")
        if kind == "Image":
            layout, color = get.one("layout", ("hwc", "chw")), _color(get, enc)
        _check_array(kind, enc, dtype, shape, layout)
    size, shm = get.ints("size", max_bytes, most=MAX_PARTS), None
    if sum(size) > max_bytes:
        raise WireError("size", f"{sum(size)} bytes are more than this reader's limit of {max_bytes}")
    if enc == "shm":
        shm = _shm(get.map("shm", required=True))
        if shm.bytes != array_bytes(dtype, shape):
            raise WireError("shm", f"{dtype} {shape} has {array_bytes(dtype, shape)} bytes, {shm.bytes} are announced")
        if size:
            raise WireError("size", "a frame in shared memory has no payload part")
    elif len(size) != 1:
        raise WireError("size", f"{enc} is one payload part, {len(size)} are announced")
    elif enc == "raw" and size[0] != array_bytes(dtype, shape):
        raise WireError("size", f"{dtype} {shape} has {array_bytes(dtype, shape)} bytes, {size[0]} are announced")
    elif enc == "msgpack" and size[0] > MAX_PLAIN:
        raise WireError("size", f"{size[0]} bytes of plain values are more than {MAX_PLAIN}")
    elif enc in CODED and size[0] == 0:
        raise WireError("size", "an empty picture")
    return Frame(
        **common, seq=get.int("seq", 0), epoch=get.int("epoch", 0), pts=get.int("pts", -INT64), born=get.int("born", -INT64),
        params=get.int("params", 0), flags=get.int("flags", 0, 0xFFFF), type=kind, enc=enc, dtype=dtype, shape=shape, layout=layout,
        color=color, size=size, shm=shm, lat=get.times("lat"),
    )  # fmt: skip


def _check_array(kind: str, enc: str, dtype: str, shape: tuple[int, ...], layout: str) -> None:
    """That shape, dtype and layout are those of the payload type (engine/payload.py)."""
    if kind == "Mask":
        fits = len(shape) == 2 and dtype == "uint8"
    elif kind == "Latent":
        fits = len(shape) == 4 and shape[0] == 1 and dtype in ("float16", "float32")
    else:
        channels = shape[-1:] if layout == "hwc" else shape[-3:-2]
        ranks = (3,) if layout == "hwc" else (3, 4)
        fits = len(shape) in ranks and channels == (3,) and (len(shape) == 3 or shape[0] == 1) and dtype in ("uint8", "float16", "float32")
        if enc in CODED:
            fits = fits and layout == "hwc" and dtype == "uint8"
    if not fits or 0 in shape:
        raise WireError("shape", f"{dtype} {shape} {layout} is no {kind} that is stored as {enc}")


def _color(get: Fields, enc: str) -> dict[str, str]:
    color = get.map("color", required=True)
    if len(color) > 8 or not all(isinstance(value, str) and len(value) <= 64 for value in color.values()):
        raise WireError("color", "is no map of short texts")
    if color.get("space") != "srgb" or color.get("order") not in ("rgb", "bgr"):
        raise WireError("color", "needs space = srgb, and order = rgb or bgr")
    if enc == "h264" and (color.get("matrix"), color.get("range")) != ("bt709", "limited"):
        raise WireError("color", "h264 needs matrix = bt709 and range = limited")
    return dict(color)


def _shm(raw: Mapping[str, Any]) -> Shm:
    get = Fields(raw, "shm.")
    name = get.text("name")
    if not NAME.fullmatch(name):
        raise WireError("shm.name", f"{name[:80]!r} is no name of a ring")
    slot, offset, size, mark = get.int("slot", 0, 65_535), get.int("offset", 64), get.int("bytes", 1), get.int("mark", 0)
    return Shm(name, slot, offset, size, mark)
