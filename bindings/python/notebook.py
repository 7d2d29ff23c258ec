"""Frames in a notebook: a frame shows itself as a picture, and `show` keeps the newest one in a cell.

    from afterimage_client import Subscriber, show
    show(Subscriber("tcp://127.0.0.1:5555"), seconds=20)

PNG files are written here, with zlib alone: a notebook needs neither OpenCV nor Pillow for it.
"""

from __future__ import annotations

import struct
import time
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .subscriber import Subscriber


def png(picture: Any) -> bytes:
    """(H, W, 3) RGB or (H, W) grey, uint8, as a PNG file (ISO/IEC 15948), every row against the one above."""
    rows = np.ascontiguousarray(picture).reshape(picture.shape[0], -1)
    lines = np.empty((rows.shape[0], rows.shape[1] + 1), np.uint8)
    lines[:, 0] = 2  # filter "up": differences pack better than values
    lines[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=lines[1:, 1:])

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = picture.shape[:2]
    head = struct.pack(">IIBBBBB", width, height, 8, 2 if picture.ndim == 3 else 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines, 1)) + chunk(b"IEND", b"")


def show(frames: Subscriber, seconds: float | None = None, *, fps: float = 10.0, width: int | None = None) -> int:
    """Show the newest frame in this cell, `fps` times a second at most, until the stream ends, `seconds` pass, or the cell is interrupted.

    `width`: of the picture on the page, in pixels. Returns how many frames were shown. Raises ImportError outside a notebook."""
    try:
        from IPython.display import Image, display
    except ImportError:
        raise ImportError("showing frames in a notebook needs IPython; elsewhere see examples/opencv_window.py") from None
    until = None if seconds is None else time.monotonic() + seconds
    handle, shown = None, 0
    try:
        while until is None or time.monotonic() < until:
            try:
                frame = frames.read(timeout=0.5)
            except TimeoutError:
                continue
            if frame is None:
                break
            data = frame._repr_png_()
            what = repr(frame) if data is None else Image(data=data, format="png", width=width)
            if handle is None:
                handle = display(what, display_id=True)
            else:
                handle.update(what)
            shown += 1
            time.sleep(1 / fps)
    except KeyboardInterrupt:
        pass
    return shown
