"""From a frame's payload to its value: arrays, pictures, video, plain values.

Invariant: the measures inside a picture file are compared with the header's before a pixel is decoded, so that a small message cannot become a
large array. Decoders are whichever of OpenCV, Pillow and PyAV are installed; where none fits, MissingDecoder says what to install.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import plain
from .wire import ARRAYS, Frame, WireError

_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class MissingDecoder(ImportError):
    """A package that would decode this is not installed."""


def value_of(header: Frame, payload: Sequence[Any]) -> Any:
    """The value of a `raw`, `jpeg`, `png` or `msgpack` frame: a read-only array, or what `plain.read` gives.

    A raw array shows the payload's memory. Raises WireError, and MissingDecoder."""
    if header.type not in ARRAYS:
        return plain.read(header, payload)
    if header.enc == "raw":
        array = np.frombuffer(payload[0], np.dtype(header.dtype).newbyteorder("<")).reshape(header.shape)
    elif header.enc in ("jpeg", "png"):
        array = picture(payload[0], header)
    else:
        raise WireError("enc", f"a frame stored as {header.enc} has no value of its own")
    array.flags.writeable = False
    return array


def picture(data: Any, header: Frame) -> Any:
    """The pixels of a JPEG or PNG file as the header describes them: (H, W, 3) in `color.order`, or (H, W)."""
    view = memoryview(data)
    found = jpeg_size(view) if header.enc == "jpeg" else png_size(view)
    if found is None:
        raise WireError("payload", f"is no {header.enc} file")
    if found != tuple(header.shape[:2]):
        raise WireError("shape", f"says {tuple(header.shape[:2])}, the {header.enc} file is {found}")
    grey = len(header.shape) == 2
    array = _by_cv2(view, grey)
    if array is None:
        array = _by_pillow(view, grey)
    if array.shape != header.shape:
        raise WireError("shape", f"says {header.shape}, the {header.enc} file is {array.shape}")
    if not grey and header.color.get("order") == "bgr":
        array = np.ascontiguousarray(array[..., ::-1])
    return array


def _by_cv2(view: memoryview, grey: bool) -> Any:
    """None where OpenCV is not installed."""
    try:
        import cv2
    except ImportError:
        return None
    flags = cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR
    try:
        array = cv2.imdecode(np.frombuffer(view, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
        if array is None:
            raise WireError("payload", "is a damaged picture file")
        return array if grey else cv2.cvtColor(array, cv2.COLOR_BGR2RGB)
    except cv2.error as error:
        raise WireError("payload", f"is a damaged picture file: {error}") from error


def _by_pillow(view: memoryview, grey: bool) -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise MissingDecoder("decoding pictures needs OpenCV or Pillow: pip install opencv-python, or pip install pillow") from None
    import io

    try:
        with Image.open(io.BytesIO(view), formats=("JPEG", "PNG")) as file:
            return np.asarray(file.convert("L" if grey else "RGB")).copy()
    except Exception as error:  # Pillow says in many ways that a file is damaged
        raise WireError("payload", f"is a damaged picture file: {error}") from error


def png_size(view: memoryview) -> tuple[int, int] | None:
    """(height, width) of a PNG file from its first bytes (ISO/IEC 15948); None where it is none."""
    if view.nbytes < 33 or bytes(view[:8]) != b"\x89PNG\r\n\x1a\n" or bytes(view[12:16]) != b"IHDR":
        return None
    width, height = struct.unpack(">II", view[16:24])
    return height, width


def jpeg_size(view: memoryview) -> tuple[int, int] | None:
    """(height, width) of a JPEG file from its frame header (ISO/IEC 10918-1, B.2.2); None where there is none."""
    if view.nbytes < 4 or bytes(view[:2]) != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= view.nbytes:
        if view[at] != 0xFF:
            return None
        marker = view[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker in _SOF:
            height, width = struct.unpack(">HH", view[at + 5 : at + 9])
            return height, width
        if marker in (0xD9, 0xDA):
            return None
        at += 2 if 0xD0 <= marker <= 0xD7 or marker == 1 else 2 + struct.unpack(">H", view[at + 2 : at + 4])[0]
    return None


class Video:
    """Decodes the access units of one h264 stream, in the order they are given; starts anew at every discontinuity."""

    def __init__(self) -> None:
        try:
            import av
        except ImportError:
            raise MissingDecoder("decoding h264 needs PyAV: pip install av (or let the sink use encoding = \"jpeg\")") from None
        self._av = av
        self._decoder: Any = None

    def restart(self) -> None:
        """Forget the pictures so far: the next unit is a key unit."""
        self._decoder = None

    def decode(self, header: Frame, unit: Any) -> Any:
        """The picture of the next unit, a YUV frame that `rgb` turns into pixels. Raises WireError where there is none."""
        if self._decoder is None:
            self._decoder = self._av.CodecContext.create("h264", "r")
            self._decoder.thread_count = 1
            self._decoder.flags |= 1 << 19  # AV_CODEC_FLAG_LOW_DELAY
            # What FFmpeg compares is the size of its buffers, whose rows are rounded up.
            self._decoder.options = {"max_pixels": str((header.shape[0] + 64) * (header.shape[1] + 128))}
        try:
            frames = self._decoder.decode(self._av.Packet(bytes(unit)))
        except (self._av.error.FFmpegError, ValueError) as error:
            self._decoder = None
            raise WireError("payload", f"is a damaged access unit: {error}") from error
        if not frames:
            raise WireError("payload", "is an access unit without a picture")
        return frames[-1]

    def rgb(self, header: Frame, frame: Any) -> Any:
        """(H, W, 3) uint8 in `color.order`, cut to the header's shape. BT.709, limited to full range."""
        height, width = header.shape[:2]
        if frame.height - height not in (0, 1) or frame.width - width not in (0, 1):
            raise WireError("shape", f"says {(height, width)}, the access unit is {(frame.height, frame.width)}")
        picture = frame.reformat(format="rgb24", src_colorspace=1, dst_colorspace=1, src_color_range=1, dst_color_range=2).to_ndarray()
        picture = picture[:height, :width]
        if header.color.get("order") == "bgr":
            picture = picture[..., ::-1]
        array = np.ascontiguousarray(picture)
        array.flags.writeable = False
        return array
