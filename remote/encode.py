"""A picture as bytes for a viewer: H.264 access units with little delay, JPEG, PNG.

Invariant: what is encoded can be shown at once: no frame waits for a later one, every key frame carries its own headers. Pictures are
(H, W, 3) uint8 RGB, full range; H.264 is BT.709, limited range, and tagged so. It knows no viewers and no sockets.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

LONGEST = {False: 1920, True: 640}  # pixels of the longer side, full and light
SHORTEST = 256  # pixels of the shorter side below which nothing is made smaller
CRF = {False: "23", True: "28"}  # x264's scale: 0 lossless .. 51
JPEG = {False: 85, True: 55}
TICKS = 90_000  # a second, in units of the encoder's clock
GOP = 600  # frames between key frames that nobody asked for


def shrunk(picture: Array, light: bool) -> Array:
    """`picture` made smaller by a whole factor, so that it is not longer than a viewer of this kind gets it."""
    height, width = picture.shape[:2]
    factor = -(-max(height, width) // LONGEST[light])
    if light:
        factor = max(2, factor) if min(height, width) >= 2 * SHORTEST else factor
    if factor <= 1:
        return picture
    import cv2

    return cv2.resize(picture, (max(1, width // factor), max(1, height // factor)), interpolation=cv2.INTER_AREA)


def jpeg(picture: Array, quality: int = 90) -> bytes:
    """A JPEG file."""
    import cv2

    return bytes(cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def png(picture: Array) -> bytes:
    """A PNG file; every pixel as it is."""
    import cv2

    return bytes(cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1])[1])


def available() -> bool:
    """Whether this machine can encode H.264 in software."""
    from operators.media.codecs import encoder_works

    return encoder_works("libx264")


def codec_of(unit: bytes) -> str:
    """`avc1.PPCCLL` (RFC 6381) from the SPS in an Annex B access unit; "" where it has none."""
    at = 0
    while (at := unit.find(b"\x00\x00\x01", at)) >= 0:
        at += 3
        if at + 4 <= len(unit) and unit[at] & 0x1F == 7:
            return "avc1." + unit[at + 1 : at + 4].hex()
    return ""


class H264:
    """One stream of one picture size. Use it on one thread."""

    def __init__(self, height: int, width: int, *, light: bool = False) -> None:
        import av

        from operators.media.color import ToYuv

        self.height, self.width = height, width
        even = (height + height % 2, width + width % 2)  # 4:2:0 needs even sizes; the viewer cuts the repeated edge off
        self._to_yuv = ToYuv(*even)
        self._pad = (even[0] - height, even[1] - width)
        self.codec = ""
        self.count = 0  # access units made: a viewer that has had them all can decode the next one
        self._last = -1
        context: Any = av.CodecContext.create("libx264", "w")
        context.height, context.width = even
        context.pix_fmt = "yuv420p"
        context.time_base, context.framerate = Fraction(1, TICKS), Fraction(30)
        context.gop_size, context.max_b_frames = GOP, 0
        context.thread_count = 1
        context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
        context.color_range = 1  # limited
        context.options = {"preset": "ultrafast", "tune": "zerolatency", "crf": CRF[light], "forced-idr": "1"}
        context.open()
        self._context = context

    def encode(self, picture: Array, ns: int, *, key: bool = False) -> tuple[bytes, bool]:
        """The access unit of `picture` (of the stream's size) at time `ns`, and whether it can be decoded alone.

        Times that do not rise are moved.
        """
        import av

        if any(self._pad):
            import cv2

            picture = cv2.copyMakeBorder(picture, 0, self._pad[0], 0, self._pad[1], cv2.BORDER_REPLICATE)
        frame = self._to_yuv(picture)
        self._last = frame.pts = max(self._last + 1, ns * TICKS // 1_000_000_000)
        frame.time_base = self._context.time_base
        frame.pict_type = av.video.frame.PictureType.I if key or not self.count else av.video.frame.PictureType.NONE
        packets = self._context.encode(frame)
        unit = b"".join(bytes(packet) for packet in packets)
        whole = any(packet.is_keyframe for packet in packets)
        if whole:
            self.codec = codec_of(unit) or self.codec
        self.count += 1
        return unit, whole
