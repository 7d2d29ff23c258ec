"""Pictures as bytes for those who look on, subscribers and viewers: JPEG and PNG files, H.264 access units.

Invariant: one picture in, one unit out, at once; every key unit carries SPS and PPS, so that whoever comes can start there. Pictures are
(H, W, 3) uint8 RGB, or (H, W) for a matte; H.264 is BT.709, limited range. It knows no sockets and nobody behind them.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

from engine.errors import MediaError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

TICKS = 90_000
GOP = 60
"""Pictures between key units that nobody asked for: whoever lost one waits so long at most."""


def file_of(picture: Array, encoding: str, quality: int) -> bytes:
    """The picture as a "jpeg" or "png" file. `quality`: of JPEG, 1 .. 100."""
    import cv2

    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.ndim == 3 else picture
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if encoding == "jpeg" else [cv2.IMWRITE_PNG_COMPRESSION, 1]
    done, data = cv2.imencode(f".{encoding}", bgr, options)
    if not done:
        raise MediaError(f"a picture of {picture.shape} could not be stored as {encoding}")
    return bytes(data)


def codec_of(unit: bytes) -> str:
    """`avc1.PPCCLL` (RFC 6381) from the SPS in an Annex B access unit; "" where it has none."""
    at = 0
    while (at := unit.find(b"\x00\x00\x01", at)) >= 0:
        at += 3
        if at + 4 <= len(unit) and unit[at] & 0x1F == 7:
            return "avc1." + unit[at + 1 : at + 4].hex()
    return ""


class H264:
    """One stream of one picture size, on one thread. `quality`: 0 (worst) .. 100; `encoder`: as `choose_encoder` takes it.

    `count`: access units made; a reader that has had them all can decode the next one. `codec`: of the last key unit (RFC 6381).
    """

    def __init__(self, height: int, width: int, quality: int, *, encoder: str = "auto", gop: int = GOP) -> None:
        import av

        from operators.media.color import ToYuv
        from operators.sink.writer import Target, choose_encoder, encoder_options

        self.height, self.width, self.quality = height, width, quality
        self.count, self.codec = 0, ""
        even = (height + height % 2, width + width % 2)  # 4:2:0 needs even sizes; the reader cuts the repeated edge off
        self._pad = (even[0] - height, even[1] - width)
        self._to_yuv = ToYuv(*even)
        name = choose_encoder("h264", encoder)
        target = Target("", "", quality=quality, live=True, speed="fast")
        context: Any = av.CodecContext.create(name, "w")
        context.height, context.width, context.pix_fmt = *even, "yuv420p"
        context.time_base, context.framerate = Fraction(1, TICKS), Fraction(30)
        context.gop_size, context.max_b_frames, context.thread_count = gop, 0, 1
        context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1  # BT.709, limited
        context.options = {**encoder_options(name, target), "forced-idr": "1"}
        try:
            context.open()
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise MediaError(f"the encoder {name} does not open for {width}x{height}: {error}", fix='use encoding = "jpeg"') from error
        self._context, self._last = context, -1

    def encode(self, picture: Array, ns: int, *, key: bool = False) -> tuple[bytes, bool]:
        """The access unit in Annex B form, and whether it can be decoded alone. Times that do not rise are moved by a tick."""
        import av

        if any(self._pad):
            import cv2

            picture = cv2.copyMakeBorder(picture, 0, self._pad[0], 0, self._pad[1], cv2.BORDER_REPLICATE)
        frame = self._to_yuv(picture)
        self._last = frame.pts = max(self._last + 1, ns * TICKS // 1_000_000_000)
        frame.time_base = self._context.time_base
        kinds = av.video.frame.PictureType
        frame.pict_type = kinds.I if key or not self.count else kinds.NONE
        try:
            packets = self._context.encode(frame)
        except (av.error.FFmpegError, OSError) as error:
            raise MediaError(f"encoding a picture failed: {error}") from error
        unit, whole = b"".join(bytes(packet) for packet in packets), any(packet.is_keyframe for packet in packets)
        self.count += 1
        if whole:
            self.codec = codec_of(unit) or self.codec
        return unit, whole
