"""Which encoders and decoders really work on this machine: probed by opening them, never assumed from a list.

A build lists hardware codecs whether or not the hardware is there; only opening one tells. Results are kept for the process.
It encodes one black picture at most and writes no file.
"""

from __future__ import annotations

import functools
import os
from fractions import Fraction

HARDWARE = ("nvenc", "qsv", "amf")
ENCODERS: dict[str, tuple[str, ...]] = {
    "h264": ("h264_nvenc", "h264_qsv", "h264_amf", "libx264", "libopenh264"),
    "hevc": ("hevc_nvenc", "hevc_qsv", "hevc_amf", "libx265"),
    "av1": ("av1_nvenc", "av1_qsv", "av1_amf", "libsvtav1", "libaom-av1"),
    "vp9": ("libvpx-vp9",),
}
"""Encoders of each codec in order of preference."""

DECODERS: dict[str, tuple[str, ...]] = {
    "h264": ("h264", "h264_cuvid", "h264_qsv", "h264_amf"),
    "hevc": ("hevc", "hevc_cuvid", "hevc_qsv", "hevc_amf"),
    "av1": ("libdav1d", "av1_cuvid", "av1_qsv", "av1_amf"),
    "vp9": ("vp9", "vp9_cuvid", "vp9_qsv", "vp9_amf"),
    "mjpeg": ("mjpeg", "mjpeg_cuvid", "mjpeg_qsv"),
}
"""Decoders of each codec, software first."""

QUIET = {"libx265": {"x265-params": "log-level=none"}}
"""Options that keep an encoder from printing."""


@functools.cache
def encoder_works(name: str) -> bool:
    """Whether the encoder `name` opens and encodes one picture here."""
    return bool(_sample(name))


@functools.cache
def decoder_works(codec: str, name: str) -> bool:
    """Whether the decoder `name` decodes a picture of `codec` here."""
    import av

    made = next((name for name in (*ENCODERS.get(codec, ()), codec) if not name.endswith(HARDWARE) and _sample(name)), None)
    if made is None:
        return False
    try:
        context = av.CodecContext.create(name, "r")
        frames = [frame for data in _sample(made) for frame in context.decode(av.Packet(data))]
        return bool(frames or context.decode(None))
    except (av.error.FFmpegError, OSError, ValueError, RuntimeError):
        return False


@functools.cache
def _sample(name: str) -> tuple[bytes, ...]:
    """One black picture as the encoder `name` packs it; nothing where it does not work."""
    import av

    os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 prints a page to stderr otherwise: errors only
    try:
        context = av.CodecContext.create(name, "w")
        context.options = QUIET.get(name, {})
        layout = "yuvj420p" if name == "mjpeg" else "yuv420p"
        context.width, context.height, context.pix_fmt = 640, 360, layout
        context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
        frame = av.VideoFrame(640, 360, layout)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.pts, frame.time_base = 0, context.time_base
        return tuple(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])
    except (av.error.FFmpegError, OSError, ValueError, RuntimeError):
        return ()


@functools.cache
def best_encoder(codec: str) -> str | None:
    """The first encoder of `codec` that works, hardware before software; None where there is none."""
    return next((name for name in ENCODERS.get(codec, ()) if encoder_works(name)), None)


@functools.cache
def working_hwaccel(kind: str) -> bool:
    """Whether a hardware decoder of `kind` ("cuda") can be set up here."""
    import av
    from av.codec.hwaccel import HWAccel, hwdevices_available

    if kind not in hwdevices_available():
        return False
    try:
        codec = av.Codec("h264", "r")
        HWAccel(device_type=kind).create(codec)
    except (av.error.FFmpegError, OSError, ValueError, NotImplementedError, RuntimeError):
        return False
    return True
