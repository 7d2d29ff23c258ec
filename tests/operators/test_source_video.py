"""`source.video` on files that the test encodes: order, times, sizes, colours, spans, pace, and what it says of the stream."""

from __future__ import annotations

import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from media_clips import BARS, bar_centres, bars_rgb, encode, number_of, play

from engine.clock import StepClock
from engine.errors import UsageError
from engine.testing import Bench

MS = 1_000_000


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(tmp_path_factory.mktemp("clips") / "clip.mp4", 30)


def test_every_frame_in_order_with_its_time(clip: Path) -> None:
    with Bench("source.video", url=str(clip)) as bench:
        shown = list(play(bench))
    assert [number_of(s.picture) for s in shown] == list(range(30))
    assert [s.pts for s in shown] == [i * 40 * MS for i in range(30)]
    assert not any(s.cut for s in shown)
    assert shown[0].picture.shape == (90, 160, 3)
    assert shown[0].picture.dtype == np.uint8
    assert bench.events == []


def test_what_it_says_of_the_stream(clip: Path) -> None:
    with Bench("source.video", url=str(clip)) as bench:
        info = bench.site.stream
    assert info is not None
    assert (info.url, info.fps, info.frames, info.size, info.audio) == (str(clip), 25.0, 30, (90, 160), False)


def test_variable_rate_keeps_its_times(tmp_path: Path) -> None:
    times = [0.0, 0.03, 0.5, 0.52, 2.0, 2.01]
    path = encode(tmp_path / "vfr.mp4", times=times)
    with Bench("source.video", url=str(path)) as bench:
        shown = list(play(bench))
    assert [s.pts for s in shown] == [round(t * 1e9) for t in times]


def test_ntsc_times_are_exact(tmp_path: Path) -> None:
    path = encode(tmp_path / "ntsc.mp4", 20, fps=Fraction(30000, 1001))
    with Bench("source.video", url=str(path)) as bench:
        assert [s.pts for s in play(bench)] == [round(i * 1001 * 1_000_000_000 / 30000) for i in range(20)]


@pytest.mark.parametrize("name", ["span.mp4", "span.mkv", "span.ts"])
def test_span(tmp_path: Path, name: str) -> None:
    path = encode(tmp_path / name, 60, gop=25)
    with Bench("source.video", url=str(path), start=1.2, end=2.0) as bench:
        info = bench.site.stream
        shown = list(play(bench))
    assert [number_of(s.picture) for s in shown] == list(range(30, 50))
    assert shown[0].pts == pytest.approx(0, abs=2 * MS)
    assert shown[-1].pts == pytest.approx(19 * 40 * MS, abs=2 * MS)
    assert info is not None
    assert info.url == f"{path}#t=1.2,2"
    assert info.frames == 20


def test_seek_without_an_index_and_with_one_key_frame(tmp_path: Path) -> None:
    """mpegts lands on any packet; with its only key frame at the start, all has to be decoded from there."""
    path = encode(tmp_path / "long_gop.ts", 120, gop=500)
    with Bench("source.video", url=str(path), start=4.0) as bench:
        assert [number_of(s.picture) for s in play(bench)] == list(range(100, 120))


def test_rate_cap_thins_by_time(clip: Path) -> None:
    with capped(clip, 10.0) as bench:
        assert bench.site.stream.fps == 10.0
        assert bench.site.stream.frames == 12
        shown = list(play(bench))
    assert [number_of(s.picture) for s in shown] == [0, 3, 5, 8, 10, 13, 15, 18, 20, 23, 25, 28]
    with capped(clip, 25.0) as bench:
        assert len(list(play(bench))) == 30


def capped(clip: Path, fps: float) -> Bench:
    """`fps` is also the name of the bench's own rate, so the parameter is set by hand."""
    bench = Bench("source.video", url=str(clip))
    bench.params["fps"] = fps
    return bench


def test_loop_goes_on_in_time_behind_a_cut(clip: Path) -> None:
    with Bench("source.video", url=str(clip), loop=True) as bench:
        assert bench.site.stream.frames is None
        shown = list(play(bench, limit=70))
    assert [number_of(s.picture) for s in shown] == [i % 30 for i in range(70)]
    assert [i for i, s in enumerate(shown) if s.cut] == [30, 60]
    assert [s.pts for s in shown] == [i * 40 * MS for i in range(70)]


@pytest.mark.parametrize(
    ("size", "fit", "shape"),
    [
        ("80x80", "fit", (45, 80)),
        ("80x80", "fill", (80, 80)),
        ("80x80", "letterbox", (80, 80)),
        ("80x40", "stretch", (40, 80)),
        ("999x999", "fit", (90, 160)),
    ],
)
def test_working_size(clip: Path, size: str, fit: str, shape: tuple[int, int]) -> None:
    with Bench("source.video", url=str(clip), size=size, fit=fit) as bench:
        assert bench.site.stream.size == shape
        first = next(play(bench)).picture
    assert first.shape[:2] == shape
    if fit == "letterbox":
        assert first[:17].max() == 0
        assert first[-17:].max() == 0
        assert first[40, 40].min() > 20


def test_odd_size(tmp_path: Path) -> None:
    """333x187 in 4:4:4: odd both ways."""
    path = tmp_path / "odd.mkv"
    write_one_ffv1(path, 333, 187)
    with Bench("source.video", url=str(path)) as bench:
        first = next(play(bench)).picture
    assert first.shape == (187, 333, 3)
    assert number_of(first) == 5


def write_one_ffv1(path: Path, width: int, height: int) -> None:
    import av
    from media_clips import numbered

    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        frame = av.VideoFrame.from_ndarray(numbered(5, height, width), "rgb24").reformat(format="yuv420p")
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize("size", ["", "60x60"])
def test_rotation_is_applied(tmp_path: Path, degrees: int, size: str) -> None:
    """A phone held upright writes landscape frames and a note to turn them."""
    import av

    plain = encode(tmp_path / "plain.mp4", 3, picture=lambda i, h, w: bars_rgb(h, w), size=(160, 80))
    path = tmp_path / "turned.mp4"
    with av.open(str(plain)) as source, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        stream.set_display_rotation(degrees)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    with Bench("source.video", url=str(path), size=size) as bench:
        picture = next(play(bench)).picture
        assert bench.site.stream.size == picture.shape[:2]
    back = np.rot90(picture, -degrees // 90)  # np.rot90 turns counter-clockwise, as the note asks
    want = {"": (80, 160), "60x60": (30, 60)}[size]
    assert back.shape[:2] == want
    assert np.abs(bar_centres(back) - BARS).max() <= (12 if not size else 25)
    assert picture.shape[0] > picture.shape[1] or degrees == 180


def test_pixels_are_made_square(tmp_path: Path) -> None:
    def anamorphic(stream: object) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)  # type: ignore[attr-defined]

    path = encode(tmp_path / "wide.mp4", 3, setup=anamorphic)
    with Bench("source.video", url=str(path)) as bench:
        assert bench.site.stream.size == (90, 320)
        assert next(play(bench)).picture.shape == (90, 320, 3)


@pytest.mark.parametrize(("matrix", "tag", "height"), [("601", 6, 120), ("709", 1, 120), ("709", 2, 720), ("601", 2, 120)])
@pytest.mark.parametrize("full", [False, True])
def test_colour_bars_through_a_real_codec(tmp_path: Path, matrix: str, tag: int, height: int, full: bool) -> None:
    import av
    from media_clips import yuv_codes

    path = tmp_path / "bars.mp4"
    width = 32 * len(BARS)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"qp": "0", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = tag, 2 if full else 1
        frame = av.VideoFrame(width, height, "yuv420p")
        codes = np.array([yuv_codes(c, matrix, full=full) for c in BARS])
        for index, plane in enumerate(frame.planes):
            rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
            rows[: plane.height, : plane.width] = np.repeat(codes[:, index], plane.width // len(BARS))
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with Bench("source.video", url=str(path)) as bench:
        assert np.abs(bar_centres(next(play(bench)).picture) - BARS).max() <= 3


def test_pace_follows_the_clock(clip: Path) -> None:
    for pace, live, took in (("auto", True, True), ("auto", False, False), ("always", False, True), ("never", True, False)):
        clock = StepClock(5_000_000_000)
        with Bench("source.video", url=str(clip), pace=pace, site_live=live, site_clock=clock) as bench:
            times = []
            for shown in play(bench):
                times.append(clock.now() - 5_000_000_000)
                assert not took or times[-1] == shown.pts
        assert times[-1] == (29 * 40 * MS if took else 0)


def test_pace_does_not_rush_after_a_pause(clip: Path) -> None:
    clock = StepClock()
    with Bench("source.video", url=str(clip), pace="always", site_clock=clock) as bench:
        player, stamps = play(bench), []
        for count, _ in enumerate(player):
            stamps.append(clock.now())
            if count == 4:
                clock.advance(10_000_000_000)
    gaps = np.diff(stamps)
    assert set(gaps[:4]) == {40 * MS}
    assert set(gaps[5:]) == {40 * MS}


def test_stop_ends_the_stream(clip: Path) -> None:
    with Bench("source.video", url=str(clip), loop=True) as bench:
        player = play(bench)
        next(player)
        bench.site.stop.set()
        assert list(player) == []


def test_spans_are_checked_before_anything_is_opened(clip: Path) -> None:
    import pydantic

    for wrong in ({"end": -1.0}, {"start": -1.0}, {"fps_": 3}):
        with pytest.raises(pydantic.ValidationError):
            Bench("source.video", url=str(clip), **wrong)


def test_end_must_follow_start(clip: Path) -> None:
    with pytest.raises(UsageError, match="not after start"), Bench("source.video", url=str(clip), start=2.0, end=1.0):
        pass


def test_file_url_and_names_with_colons(tmp_path: Path) -> None:
    odd = encode(tmp_path / "plain.mp4", 3).rename(tmp_path / "take 2#1.mp4")
    for url in (str(odd), odd.as_uri()):
        with Bench("source.video", url=url) as bench:
            assert len(list(play(bench))) == 3


def test_test_patterns_have_times_and_no_end() -> None:
    with Bench("source.video", url="lavfi:testsrc2=size=64x48:rate=30") as bench:
        assert bench.site.stream.frames is None
        shown = list(play(bench, limit=7))
    assert [round(s.pts / 1e9 * 30) for s in shown] == list(range(7))


def test_high_dynamic_range_file(tmp_path: Path) -> None:
    """A real 10-bit PQ file of reference white comes out bright and neutral."""
    import av

    path = tmp_path / "hdr.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p10le"
        stream.codec_context.colorspace, stream.codec_context.color_trc = 9, 16
        stream.codec_context.color_primaries, stream.codec_context.color_range = 9, 1
        frame = av.VideoFrame(64, 64, "yuv420p10le")
        for plane, code in zip(frame.planes, (573, 512, 512), strict=True):
            np.frombuffer(plane, np.uint16)[:] = code
        frame.colorspace, frame.color_trc, frame.color_primaries, frame.color_range = 9, 16, 9, 1
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with Bench("source.video", url=str(path)) as bench:
        pixel = next(play(bench)).picture[32, 32].astype(int)
    assert pixel.max() - pixel.min() <= 2
    assert 205 <= pixel.mean() <= 245


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="no ffmpeg command")
def test_agrees_with_the_ffmpeg_command(tmp_path: Path) -> None:
    """Our RGB against FFmpeg's own, on a picture of everything: the same decoder, another way to RGB."""
    path = tmp_path / "test.mp4"
    make = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=5:duration=1", "-pix_fmt", "yuv420p", "-c:v", "libx264"]
    subprocess.run([*make, str(path)], check=True)
    raw = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], check=True, capture_output=True
    ).stdout
    theirs = np.frombuffer(raw, np.uint8).reshape(-1, 180, 320, 3).astype(int)
    with Bench("source.video", url=str(path)) as bench:
        ours = np.stack([s.picture for s in play(bench)]).astype(int)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).mean() < 1.0
