"""Pictures as bytes: without loss for replay, as JPEG for viewers."""

from __future__ import annotations

from typing import Any

from engine.payload import Image, Mask, Payload
from recorder.foxglove import Raw
from recorder.payloads import host

LONG_SIDE = 640  # of a preview


def raw(value: Image | Mask) -> tuple[int, int, str, bytes] | None:
    """(width, height, rgb | bgr | mono, bytes) of a picture that lies as bytes with channels innermost; None for other formats."""
    data: Any = value.data
    if hasattr(data, "data_ptr") or str(data.dtype) != "uint8":
        return None
    if isinstance(value, Mask):
        return (data.shape[1], data.shape[0], "mono", host(data).tobytes()) if data.ndim == 2 else None
    if value.layout != "hwc" or value.color not in ("rgb", "bgr") or data.ndim != 3 or data.shape[2] != 3:
        return None
    return data.shape[1], data.shape[0], value.color, host(data).tobytes()


def cooked(picture: Raw) -> Payload:
    """The payload that `raw` was given."""
    import numpy as np

    flat = np.frombuffer(picture.data, np.uint8)
    if picture.encoding == "mono8":
        return Mask(flat.reshape(picture.height, picture.width).copy())
    return Image(flat.reshape(picture.height, picture.width, 3).copy(), color=picture.encoding.removesuffix("8"))


def jpeg(image: Image) -> bytes:
    """A small JPEG; empty where the picture has another format, or nobody can make one."""
    found = raw(image)
    if found is None:
        return b""
    try:
        import cv2
    except ImportError:
        return b""
    width, height, color, _ = found
    data: Any = image.data
    scale = LONG_SIDE / max(width, height)
    if scale < 1:
        data = cv2.resize(data, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA)
    ok, made = cv2.imencode(".jpg", data[..., ::-1] if color == "rgb" else data, [cv2.IMWRITE_JPEG_QUALITY, 80])
    return bytes(made) if ok else b""
