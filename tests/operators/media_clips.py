"""Clips that the media tests make for themselves, with PyAV directly, and a way to play a source to its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engine.testing import Bench

BARS = [
    (255, 255, 255), (255, 255, 0), (0, 255, 255), (0, 255, 0), (255, 0, 255), (255, 0, 0), (0, 0, 255), (0, 0, 0), (128, 128, 128),
    (190, 20, 70),
]  # fmt: skip
"""Full-amplitude colour bars, a grey and a skin-like red."""

KR_KB = {"601": (0.299, 0.114), "709": (0.2126, 0.0722), "2020": (0.2627, 0.0593)}


def yuv_codes(rgb: tuple[int, int, int], matrix: str, *, full: bool = False, bits: int = 8) -> tuple[int, int, int]:
    """Y'CbCr codes of a full-range RGB colour, from the definition in ITU-R BT.601, BT.709 and BT.2020."""
    kr, kb = KR_KB[matrix]
    r, g, b = (c / 255 for c in rgb)
    y = kr * r + (1 - kr - kb) * g + kb * b
    cb, cr = (b - y) / (2 - 2 * kb), (r - y) / (2 - 2 * kr)
    top, unit = 2**bits - 1, 2 ** (bits - 8)
    if full:
        codes = (top * y, 128 * unit + top * cb, 128 * unit + top * cr)
    else:
        codes = (unit * (16 + 219 * y), unit * (128 + 224 * cb), unit * (128 + 224 * cr))
    return tuple(int(np.clip(round(c), 0, top)) for c in codes)  # type: ignore[return-value]


def bars_rgb(height: int = 64, width: int = 32 * len(BARS)) -> np.ndarray:
    """The colour bars as a picture."""
    bar = width // len(BARS)
    return np.repeat(np.repeat(np.array(BARS, np.uint8)[None], bar, axis=1), height, axis=0)


def bar_centres(picture: np.ndarray) -> np.ndarray:
    """The colour in the middle of each bar (n, 3)."""
    step = picture.shape[1] / len(BARS)
    return np.array([picture[picture.shape[0] // 2, int((i + 0.5) * step)] for i in range(len(BARS))]).astype(int)


def numbered(index: int, height: int, width: int) -> np.ndarray:
    """A picture that knows its number: sixteen black or white blocks along the top (bits), a slope of grey below."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = np.linspace(40, 200, width, dtype=np.uint8)[None, :, None]
    block = width // 16
    for bit in range(16):
        picture[: max(8, height // 6), bit * block : (bit + 1) * block] = 255 * (index >> bit & 1)
    return picture


def number_of(picture: np.ndarray) -> int:
    """What `numbered` wrote."""
    height, block = max(8, picture.shape[0] // 6), picture.shape[1] // 16
    return sum(1 << bit for bit in range(16) if picture[height // 3, bit * block + block // 2].mean() > 128)


def encode(
    path: Path, frames: int = 30, *, size: tuple[int, int] = (160, 90), fps: int | Fraction = 25, times: list[float] | None = None,
    codec: str = "libx264", options: dict[str, str] | None = None, picture: Callable[[int, int, int], np.ndarray] = numbered,
    gop: int = 10, format: str | None = None, sound: str | None = None, setup: Callable[[Any], None] | None = None,
) -> Path:  # fmt: skip
    """Encode `frames` pictures of `size` (w, h) with PyAV; `times` in seconds make a variable rate; `sound` names an audio codec for a tone."""
    import av

    width, height = size
    with av.open(str(path), "w", format=format) as out:
        stream = out.add_stream(codec, rate=fps, options=options or ({"preset": "ultrafast"} if codec == "libx264" else {}))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p" if codec != "mjpeg" else "yuvj420p"
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = 0
        stream.codec_context.time_base = base = Fraction(1, 12000) if times else 1 / Fraction(fps)
        if setup:
            setup(stream)
        tone = out.add_stream(sound, rate=44100) if sound else None
        for index in range(frames if times is None else len(times)):
            frame = av.VideoFrame.from_ndarray(picture(index, height, width), "rgb24")
            frame = frame.reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = (round(times[index] / base) if times else index), base
            out.mux(stream.encode(frame))
        if tone is not None:
            seconds = (times[-1] if times else (frames - 1) / float(fps)) + 1 / float(fps)
            for at in range(0, int(seconds * 44100), 1024):
                wave = (8000 * np.sin(2 * np.pi * 440 * np.arange(at, at + 1024) / 44100)).astype(np.int16)
                note = av.AudioFrame.from_ndarray(wave[None], "s16", "mono")
                note.sample_rate, note.pts, note.time_base = 44100, at, Fraction(1, 44100)
                out.mux(tone.encode(note))
            out.mux(tone.encode(None))
        out.mux(stream.encode(None))
    return path


def decode(path: Path, kind: str = "video") -> Iterator[Any]:
    """(frame, seconds) of a file, by PyAV alone."""
    import av

    with av.open(str(path)) as container:
        for frame in container.decode(**{kind: 0}):
            yield frame, float(frame.pts * frame.time_base)


class Shown(NamedTuple):
    picture: np.ndarray
    pts: int
    cut: bool
    born: int | None


def play(bench: Bench, limit: int | None = None) -> Iterator[Shown]:
    """What a source yields, copied, its buffers returned as the runtime would: a source that keeps one would read poison."""
    for count, item in enumerate(bench()):
        yield Shown(np.array(item.value.data), item.pts, item.cut, item.born)
        bench.let_go()
        if limit is not None and count + 1 >= limit:
            return
