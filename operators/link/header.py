"""The headers of one stream's frames, as bytes.

Invariant: the bytes are those that `bindings.python.wire.encode` makes of the same frame (a test holds the two together). Here one map is kept
from frame to frame, and what differs is written over, because most of a header is what it was before. It knows no sockets and no payloads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from bindings.python import wire


class Form(NamedTuple):
    """What a payload is and how it is stored; the same for most frames of a stream. Fields as in docs/wire.md."""

    type: str
    enc: str
    dtype: str = ""
    shape: tuple[int, ...] = ()
    layout: str = ""
    color: Mapping[str, str] | None = None


class Place(NamedTuple):
    """Where a frame stands in its stream, and what the graph says of it. Fields as in docs/wire.md."""

    seq: int
    epoch: int
    pts: int
    born: int
    params: int
    flags: int
    lat: Mapping[str, float] = {}
    meta: Mapping[str, Any] = {}


class Headers:
    """Makes the headers of the stream called `stream`, in the run `run`. Used by one thread at a time."""

    def __init__(self, stream: str, run: str) -> None:
        self._begin = {"v": wire.VERSION, "kind": "frame", "stream": stream, "run": run, "n": 0, "sent": 0}
        self._map: dict[str, Any] = {}
        self._like: Any = None

    def pack(self, n: int, sent: int, place: Place, form: Form, size: tuple[int, ...], shm: wire.Shm | None = None) -> bytes:
        """The header of the frame `n`. Raises WireError where it would be too long or holds what MessagePack does not know."""
        like = (form, shm is None, not place.lat)
        if like != self._like:
            self._map, self._like = self._keys(form, shm is not None, bool(place.lat)), like
        out = self._map
        out["n"], out["sent"], out["size"] = n, sent, size
        out["seq"], out["epoch"], out["pts"], out["born"], out["params"], out["flags"] = place[:6]
        if shm is not None:
            out["shm"] = {"name": shm.name, "slot": shm.slot, "offset": shm.offset, "bytes": shm.bytes, "mark": shm.mark}
        if place.lat:
            out["lat"] = place.lat
        if place.meta:
            out["meta"] = place.meta
        elif "meta" in out:
            del out["meta"]
        return wire.pack(out)

    def _keys(self, form: Form, shm: bool, lat: bool) -> dict[str, Any]:
        """A map with every key that such a frame has, in the order in which they are written; `meta` is the last of all."""
        out = {**self._begin, **dict.fromkeys(("seq", "epoch", "pts", "born", "params", "flags"), 0), "type": form.type, "enc": form.enc}
        if form.dtype:
            out |= {"dtype": form.dtype, "shape": form.shape}
        if form.layout:
            out |= {"layout": form.layout, "color": form.color}
        out["size"] = ()
        if shm:
            out["shm"] = None
        if lat:
            out["lat"] = None
        return out
