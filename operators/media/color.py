"""Colour between codecs and the engine: any decoded frame to RGB, RGB to the encoder's BT.709, with the right matrix, range and depth.

The lingua franca is uint8 RGB, full range, sRGB-like transfer. Invariant: a colour bar comes back within a few codes whatever the tags say
(601, 709 or 2020 matrix, limited or full range, 8 to 12 bit, PQ or HLG). Untagged video follows the usual rule: 720 lines and above BT.709,
below BT.601. It knows frames and arrays, no files and no clocks.

Sources: ITU-R BT.601-7, BT.709-6, BT.2020-2 (matrices, primaries), BT.2100-2 (PQ and HLG transfer), BT.2408 (203 cd/m2 reference white).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import av
    import numpy as np

    Array = np.ndarray[Any, Any]

UNSPECIFIED, BT709, BT601 = 2, 1, 6  # AVColorSpace, ISO/IEC 23091-2
_SWS = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}  # AVColorSpace -> SWS_CS_*
PQ, HLG = 16, 18  # AVColorTransferCharacteristic
LIMITED, FULL = 1, 2
SHRINK = "AREA"


def matrix_of(frame: av.VideoFrame) -> int:
    """The swscale matrix (SWS_CS_*) of `frame`: its tag, or by its height where it has none."""
    tag = int(frame.colorspace)
    if tag in _SWS:
        return _SWS[tag]
    return 1 if frame.height >= 720 or frame.width >= 1280 else 5


def is_rgb(frame: av.VideoFrame) -> bool:
    return bool(frame.format.is_rgb) or frame.format.name.startswith(("gbr", "pal"))


class ToRgb:
    """Turns decoded frames into RGB arrays, scaled on the way. Keeps its scalers: make one per stream, use it on one thread."""

    def __init__(self) -> None:
        import av  # whole, never one of its modules first: another lane may be importing it, and would need the module that this one holds

        self._scale, self._convert = av.video.reformatter.VideoReformatter(), av.video.reformatter.VideoReformatter()

    def __call__(self, frame: av.VideoFrame, out: Array) -> None:
        """Write `frame`, scaled to the size of `out` (H, W, 3) uint8, into `out`. No rotation, no cropping."""
        import numpy as np

        height, width = out.shape[:2]
        if int(frame.color_trc) in (PQ, HLG):
            self._tone_mapped(frame, out)
            return
        matrix, full = matrix_of(frame), LIMITED if is_rgb(frame) else _range(frame)
        if (width, height) != (frame.width, frame.height):
            # Scale in YUV, where a pixel costs half, then convert the small picture: unscaled swscale takes its fast path.
            smaller = width <= frame.width and height <= frame.height
            planar = not is_rgb(frame) and frame.format.name in ("yuv420p", "yuvj420p", "nv12", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p")
            if planar:
                frame = self._scale.reformat(
                    frame, width, height, frame.format.name, matrix, matrix, SHRINK if smaller else "BICUBIC", full, full, threads=1
                )
        rgb = self._convert.reformat(
            frame, width, height, "rgb24", src_colorspace=matrix, dst_colorspace=matrix, interpolation="BICUBIC",
            src_color_range=full, dst_color_range=FULL, threads=1,
        )  # fmt: skip
        np.copyto(out, packed(rgb, 3))

    def _tone_mapped(self, frame: av.VideoFrame, out: Array) -> None:
        height, width = out.shape[:2]
        deep = self._convert.reformat(
            frame, width, height, "rgb48le", src_colorspace=9, dst_colorspace=9, interpolation="BICUBIC",
            src_color_range=_range(frame), dst_color_range=FULL, threads=1,
        )  # fmt: skip
        tone_map(packed(deep, 3, "uint16"), int(frame.color_trc), out)


def _range(frame: av.VideoFrame) -> int:
    return FULL if int(frame.color_range) == FULL or frame.format.name.startswith("yuvj") else LIMITED


def packed(frame: av.VideoFrame, channels: int, dtype: str = "uint8") -> Array:
    """The pixels of a packed frame as a view (H, W, channels)."""
    import numpy as np

    plane = frame.planes[0]
    size = np.dtype(dtype).itemsize
    rows = np.frombuffer(plane, dtype).reshape(-1, plane.line_size // size)
    return rows[: frame.height, : frame.width * channels].reshape(frame.height, frame.width, channels)


def planes(frame: av.VideoFrame) -> list[Array]:
    """The planes of an 8-bit planar frame as views without their padding."""
    import numpy as np

    return [np.frombuffer(p, np.uint8).reshape(-1, p.line_size)[: p.height, : p.width] for p in frame.planes]


# ---------------------------------------------------------------- to the encoder


@functools.cache
def rgb_to_yuv(kr: float = 0.2126, kb: float = 0.0722) -> Array:
    """The 3x4 matrix from full-range RGB codes to limited-range Y'CbCr codes (BT.709 by default), for `cv2.transform`."""
    import numpy as np

    kg = 1 - kr - kb
    y = np.array([kr, kg, kb])
    cb, cr = (np.array([0, 0, 1]) - y) / (2 - 2 * kb), (np.array([1, 0, 0]) - y) / (2 - 2 * kr)
    rows = np.stack([y * 219 / 255, cb * 224 / 255, cr * 224 / 255])
    return np.hstack([rows, [[16], [128], [128]]]).astype(np.float32)


class ToYuv:
    """Turns RGB arrays of one even size into BT.709 limited-range yuv420p frames; a third of swscale's cost, within a code of it."""

    def __init__(self, height: int, width: int) -> None:
        import numpy as np

        self.height, self.width = height, width
        self._full = np.empty((height, width, 3), np.uint8)
        self._half = np.empty((height // 2, width // 2, 3), np.uint8)

    def __call__(self, rgb: Array) -> av.VideoFrame:
        import av
        import cv2

        frame = av.VideoFrame(self.width, self.height, "yuv420p")
        y, u, v = planes(frame)
        cv2.transform(rgb, rgb_to_yuv(), dst=self._full)
        cv2.resize(self._full, (self.width // 2, self.height // 2), dst=self._half, interpolation=cv2.INTER_AREA)
        cv2.extractChannel(self._full, 0, dst=y)
        cv2.extractChannel(self._half, 1, dst=u)
        cv2.extractChannel(self._half, 2, dst=v)
        frame.colorspace, frame.color_range = BT709, LIMITED
        frame.color_primaries = frame.color_trc = 1
        return frame


# ---------------------------------------------------------------- high dynamic range

WHITE = 203.0  # cd/m2: what graphics white is in PQ and HLG programmes (BT.2408)
PEAK = 1000.0  # cd/m2: the highlight that maps to full code; brighter ones clip
KNEE = 0.5  # of graphics white: below it nothing is changed

# BT.2020 to BT.709 primaries in linear light (BT.2087).
_TO_709 = ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187))


@functools.cache
def _to_light(transfer: int) -> Array:
    """Linear light, in units of graphics white, for each of 4096 signal codes."""
    import numpy as np

    e = np.linspace(0, 1, 4096)
    if transfer == PQ:
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        p = e ** (1 / m2)
        light = 10000 * (np.maximum(p - c1, 0) / (c2 - c3 * p)) ** (1 / m1)
    else:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        scene = np.where(e <= 0.5, e**2 / 3, (np.exp((e - c) / a) + b) / 12)
        light = PEAK * scene**1.2  # the system gamma of a 1000 cd/m2 display, per channel: plain on purpose
    return (light / WHITE).astype(np.float32)


@functools.cache
def _to_code() -> Array:
    """sRGB code for each of 4096 levels of the square root of linear light, which spreads the shadows."""
    import numpy as np

    light = np.linspace(0, 1, 4096) ** 2
    return np.round(255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)).astype(np.uint8)


def tone_map(rgb16: Array, transfer: int, out: Array) -> None:
    """PQ or HLG BT.2020 RGB (H, W, 3) uint16 into 8-bit sRGB: primaries to BT.709, then a curve on the largest channel, so that hues keep:
    straight up to half of graphics white, from there a shoulder of the form of Reinhard's (2002) that meets it smoothly and reaches full
    code at PEAK. Plain on purpose: no metadata, no scene analysis."""
    import cv2
    import numpy as np

    light = _to_light(transfer)[rgb16 >> 4]
    light = np.maximum(cv2.transform(light, np.array(_TO_709, np.float32)), 0)
    top = light.max(axis=2, keepdims=True)
    bend = (PEAK / WHITE - KNEE) / (1 - KNEE)  # makes the slopes equal at the knee
    above = np.maximum(top - KNEE, 0) / (PEAK / WHITE - KNEE)
    shown = np.minimum(top, KNEE) + (1 - KNEE) * bend * above / (1 + (bend - 1) * above)
    scale = shown / np.maximum(top, 1e-6)
    codes = np.sqrt(np.clip(light * scale, 0, 1)) * 4095
    np.take(_to_code(), codes.astype(np.uint16), out=out, mode="clip")
