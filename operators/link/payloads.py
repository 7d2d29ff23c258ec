"""The engine's payloads as wire fields and parts, and back.

Invariant: an array that lies on the host as the wire wants it is never copied here. Everything else (a picture on a device, a half float that
NumPy does not know, a view with gaps) is brought into a pooled buffer of the site first. It knows payloads and arrays, no sockets.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bindings.python import plain, wire
from engine.errors import MediaError
from engine.payload import Data, Image, Latent, Mask, Payload, Pose, Prompt, Scalar, Text
from engine.planning.convert import convert
from operators.link.header import Form

if TYPE_CHECKING:
    from engine.site import Site

SRGB = {"space": "srgb", "order": "rgb"}
BGR = {"space": "srgb", "order": "bgr"}
VIDEO = {**SRGB, "matrix": "bt709", "range": "limited"}


NAMES: dict[Any, str] = {np.dtype(name): name for name in wire.DTYPES}
"""What the wire calls a dtype. Looked up, because NumPy puts such a name together anew each time."""


def hosted(value: Payload, site: Site, *, keep: bool) -> Payload:
    """`value` with its array on the host, in C order, in a dtype of the wire. Pictures become 8-bit RGB unless `keep`."""
    if isinstance(value, Image) and not keep:
        data: Any = value.data
        if not (isinstance(data, np.ndarray) and data.dtype == np.uint8 and value.layout == "hwc" and value.color == "rgb"):
            value = convert(value, site=site)
    before: Any = value.people if isinstance(value, Pose) else value.data  # type: ignore[attr-defined]
    array = before if isinstance(before, np.ndarray) and before.dtype in NAMES else _downloaded(before, site)
    if not array.flags.c_contiguous:
        copy = site.empty(array.shape, array.dtype)
        copy[...] = array
        array = copy
    if array is before:
        return value
    return replace(value, **{"people" if isinstance(value, Pose) else "data": array})  # type: ignore[type-var]


def _downloaded(array: Any, site: Site) -> Any:
    """A tensor, or an array of an odd dtype, in a pooled buffer on the host."""
    kind = str(array.dtype).removeprefix("torch.")
    kind = kind if kind in wire.DTYPES else "float32"
    out = site.empty(tuple(array.shape), kind)
    if hasattr(array, "detach"):
        import torch

        torch.from_numpy(out).copy_(array.detach())
    else:
        np.copyto(out, array, casting="unsafe")
    return out


def form_of(value: Payload, enc: str) -> Form:
    """How a picture, matte or latent that is `hosted` lies on the wire, stored as `enc`."""
    data: Any = value.data  # type: ignore[attr-defined]
    if not isinstance(value, Image):
        return Form(value.kind, enc, NAMES[data.dtype], data.shape)
    color = VIDEO if enc == "h264" else SRGB if value.color == "rgb" else BGR
    return Form("Image", enc, NAMES[data.dtype], data.shape, value.layout, color)


def plain_of(value: Payload, site: Site) -> Any:
    """A payload without an array of pixels, as the plain value that goes on the wire."""
    if isinstance(value, Pose):
        pose: Any = hosted(value, site, keep=True)
        return plain.pose_map(pose.people, value.size, value.stability)
    if isinstance(value, Prompt):
        return {"text": value.text, "negative": value.negative, "blend": value.blend}
    if isinstance(value, Scalar):
        return float(value.value)
    if isinstance(value, Text):
        return value.text
    if isinstance(value, Data):
        return dict(value.values)
    raise MediaError(f"a {value.kind} has no form on the wire", fix="publish " + ", ".join(wire.ENCODINGS))


def payload_of(header: wire.Frame, found: Any) -> Payload:
    """The engine's payload of a received frame: `found` is its array, or its plain value."""
    if header.type == "Image":
        return Image(found, header.layout, header.color["order"])
    if header.type in ("Mask", "Latent"):
        return (Mask if header.type == "Mask" else Latent)(found)
    if header.type == "Pose":
        return Pose(found["people"], tuple(found["size"]), found["stability"])
    if header.type == "Prompt":
        return Prompt(**found)
    kinds: dict[str, Any] = {"Scalar": Scalar, "Text": Text, "Data": Data}
    return kinds[header.type](found)  # type: ignore[no-any-return]
