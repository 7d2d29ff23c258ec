"""Pictures to H.264 access units without a container: for servers that packetize themselves.

Invariant: one picture in, its access unit out at once, in Annex B form; a key frame carries its parameter sets. It knows no network.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.errors import DeviceError
from operators.media.color import ToYuv
from operators.sink.writer import SECOND, TIME_BASE, Target, choose_encoder, encoder_options, padded

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


class Unit(NamedTuple):
    """An access unit: its bytes, when it is shown (ns), and whether it can be decoded alone."""

    data: bytes
    ns: int
    key: bool


class Encoder:
    """A live H.264 encoder for pictures of one size. Use it on one thread."""

    def __init__(self, target: Target, height: int, width: int) -> None:
        import av

        self.name = choose_encoder("h264", target.encoder)
        even = (height + height % 2, width + width % 2)
        self.to_yuv, self.size = ToYuv(*even), even
        options = encoder_options(self.name, target)
        if self.name == "libx264" or self.name.endswith("_nvenc"):
            options |= {"forced-idr": "1"}  # a key frame asked for is one that a viewer can start with
        rate = Fraction(target.fps).limit_denominator(1001) or Fraction(25)
        context: Any = av.CodecContext.create(self.name, "w")
        context.height, context.width = even
        context.pix_fmt, context.time_base, context.framerate = "yuv420p", TIME_BASE, rate
        context.gop_size = max(1, round(rate * (target.gop_s or 1)))
        context.max_b_frames = 0
        context.thread_type = "SLICE"
        context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
        context.color_range = 1
        context.options = options
        self.context = context
        self.last = -1

    def __call__(self, rgb: Array, ns: int, *, key: bool = False) -> list[Unit]:
        """The access unit of a picture (H, W, 3) shown from `ns` on; `key` asks for a key frame. Times that do not rise are moved by a tick."""
        import av

        frame = self.to_yuv(padded(rgb, self.size))
        self.last = frame.pts = max(round(ns * TIME_BASE.denominator / SECOND), self.last + 1)
        frame.time_base = TIME_BASE
        if key:
            frame.pict_type = av.video.frame.PictureType.I
        try:
            packets = self.context.encode(frame)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise DeviceError(f"the encoder {self.name} failed: {error}") from error
        return [Unit(bytes(p), round((p.pts or 0) * SECOND / TIME_BASE.denominator), bool(p.is_keyframe)) for p in packets]
