"""Colour in and out, proven on colour bars computed from the standards' definitions."""

from __future__ import annotations

import av
import numpy as np
import pytest
from media_clips import BARS, bar_centres, bars_rgb, yuv_codes

from operators.media.color import HLG, PQ, ToRgb, ToYuv, planes, rgb_to_yuv, tone_map

TAGS = {"601": 6, "709": 1, "2020": 9}


def bars_frame(matrix: str, *, full: bool = False, format: str = "yuv420p", tag: int | None = None, height: int = 64) -> av.VideoFrame:
    bits = 10 if "10" in format else 8
    width = 32 * len(BARS)
    frame = av.VideoFrame(width, height, format)
    shape = np.uint16 if bits == 10 else np.uint8
    codes = np.array([yuv_codes(c, matrix, full=full, bits=bits) for c in BARS])
    for index, plane in enumerate(frame.planes):
        rows = np.frombuffer(plane, shape).reshape(-1, plane.line_size // np.dtype(shape).itemsize)
        rows[: plane.height, : plane.width] = np.repeat(codes[:, index], plane.width // len(BARS))
    frame.colorspace = TAGS[matrix] if tag is None else tag
    frame.color_range = 2 if full else 1
    return frame


def seen(frame: av.VideoFrame, size: tuple[int, int] | None = None) -> np.ndarray:
    width, height = size or (frame.width, frame.height)
    out = np.full((height, width, 3), 77, np.uint8)
    ToRgb()(frame, out)
    return bar_centres(out)


@pytest.mark.parametrize("matrix", ["601", "709", "2020"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("format", ["yuv420p", "yuv444p", "yuv422p", "yuv420p10le"])
@pytest.mark.parametrize("size", [None, (160, 32), (480, 96)])
def test_bars_come_back_whatever_the_tags_say(matrix: str, full: bool, format: str, size: tuple[int, int] | None) -> None:
    assert np.abs(seen(bars_frame(matrix, full=full, format=format), size) - BARS).max() <= 3


def test_the_wrong_matrix_would_be_seen() -> None:
    """The control of the test above: bars read through another matrix are far off."""
    assert np.abs(seen(bars_frame("709", tag=TAGS["601"])) - BARS).max() > 20


@pytest.mark.parametrize(("height", "matrix"), [(720, "709"), (480, "601")])
def test_untagged_video_is_read_by_its_height(height: int, matrix: str) -> None:
    assert np.abs(seen(bars_frame(matrix, tag=2, height=height)) - BARS).max() <= 3


@pytest.mark.parametrize("size", [(641, 359), (33, 17), (1, 1)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    frame = av.VideoFrame(*size, "yuv420p")
    for plane, code in zip(frame.planes, yuv_codes((190, 20, 70), "709"), strict=True):
        plane.update(bytes([code]) * plane.buffer_size)
    frame.colorspace, frame.color_range = 1, 1
    out = np.zeros((size[1], size[0], 3), np.uint8)
    ToRgb()(frame, out)
    assert np.abs(out.astype(int) - (190, 20, 70)).max() <= 3


def test_rgb_frames_pass_unchanged() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (32, 48, 3), np.uint8)
    out = np.zeros_like(picture)
    ToRgb()(av.VideoFrame.from_ndarray(picture, "rgb24"), out)
    assert (out == picture).all()


def test_encoder_matrix_is_the_standards() -> None:
    found = rgb_to_yuv() @ np.vstack([np.array(BARS).T, np.ones(len(BARS))])
    assert np.abs(found.T - [yuv_codes(c, "709") for c in BARS]).max() < 0.51


def test_encoder_planes_are_709_limited() -> None:
    frame = ToYuv(64, 32 * len(BARS))(bars_rgb())
    y, u, v = (p.astype(int) for p in planes(frame))
    for index, color in enumerate(BARS):
        found = (y[32, index * 32 + 16], u[16, index * 16 + 8], v[16, index * 16 + 8])
        assert np.abs(np.array(found) - yuv_codes(color, "709")).max() <= 1, color
    assert (frame.colorspace, frame.color_range) == (1, 1)


def test_encoder_conversion_agrees_with_swscale() -> None:
    """The fast path against its plain twin, on noise (luma) and on a smooth picture (chroma, where siting matters little)."""
    noise = np.random.default_rng(2).integers(0, 256, (64, 96, 3), np.uint8)
    ramp = np.stack(np.meshgrid(np.linspace(0, 255, 96), np.linspace(0, 255, 64)), -1)
    smooth = np.dstack([ramp, 255 - ramp[..., :1]]).astype(np.uint8)
    for picture, checked in ((noise, 1), (smooth, 3)):
        plain = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(
            format="yuv420p", src_colorspace=1, dst_colorspace=1, src_color_range=2, dst_color_range=1
        )
        for fast, slow in list(zip(planes(ToYuv(64, 96)(picture)), planes(plain), strict=True))[:checked]:
            assert np.abs(fast.astype(int) - slow.astype(int)).max() <= 2


def test_there_and_back() -> None:
    out = np.zeros_like(bars_rgb())
    ToRgb()(ToYuv(*out.shape[:2])(bars_rgb()), out)
    assert np.abs(bar_centres(out) - BARS).max() <= 3


def pq(nits: float) -> float:
    """The PQ signal of a luminance (SMPTE ST 2084)."""
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
    y = (nits / 10000) ** m1
    return ((c1 + c2 * y) / (1 + c3 * y)) ** m2


def test_high_dynamic_range_keeps_order_greys_and_hues() -> None:
    nits = np.array([0, 1, 10, 50, 100, 203, 400, 1000, 4000])
    signal = (np.array([pq(n) for n in nits]) * 65535).round().astype(np.uint16)
    out = np.zeros((1, len(nits), 3), np.uint8)
    tone_map(np.repeat(signal[None, :, None], 3, axis=2), PQ, out)
    grey = out[0, :, 0].astype(int)
    assert (out.max(axis=2) - out.min(axis=2)).max() <= 1, "greys stay grey"
    assert (np.diff(grey[:8]) > 0).all(), "brighter stays brighter, up to the peak"
    assert grey[0] == 0
    assert grey[-1] == 255
    # 100 cd/m2 is what 8-bit white was graded for; reference white keeps clear of the highlights above it.
    assert 150 <= grey[4] <= 215
    assert 200 <= grey[5] <= 245
    red = np.array([[[pq(150), pq(5), pq(5)]]]) * 65535
    tone_map(red.round().astype(np.uint16), PQ, out[:, :1])
    assert out[0, 0, 0] > 180
    assert out[0, 0, 1:].max() < 60


def test_hlg_white_is_bright_and_black_is_black() -> None:
    out = np.zeros((1, 3, 3), np.uint8)
    # 0.75 of the signal is reference white in HLG (BT.2408).
    tone_map(np.repeat((np.array([0, 0.75, 1.0]) * 65535).astype(np.uint16)[None, :, None], 3, axis=2), HLG, out)
    assert out[0, 0, 0] == 0
    assert 200 <= out[0, 1, 0] <= 245
    assert out[0, 2, 0] >= 252


def test_a_pq_frame_takes_the_tone_curve() -> None:
    code = round(64 + 876 * pq(203))  # limited-range luma of reference white, 10 bit
    frame = av.VideoFrame(64, 64, "yuv420p10le")
    for plane, value in zip(frame.planes, (code, 512, 512), strict=True):
        np.frombuffer(plane, np.uint16)[:] = value
    frame.colorspace, frame.color_range, frame.color_trc = 9, 1, PQ
    out = np.zeros((64, 64, 3), np.uint8)
    ToRgb()(frame, out)
    assert 200 <= out[32, 32].min() <= out[32, 32].max() <= 245
