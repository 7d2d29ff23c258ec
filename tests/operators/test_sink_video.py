"""`sink.video`: exact times, right colours, playable after a kill or a full disk, and clear words about where it may write."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from media_clips import BARS, bar_centres, bars_rgb, decode, encode, number_of, numbered, yuv_codes

from engine.errors import DeviceError, EngineError, MediaError, UsageError
from engine.operator import StreamInfo
from engine.payload import Image
from engine.testing import Bench
from operators.sink.writer import Target, Writer

MS = 1_000_000
NAMES = ["out.mp4", "out.mov", "out.mkv", "out.webm"]


def write(path: Path, pictures: list[np.ndarray], times: list[int] | None = None, **params: object) -> Bench:
    with Bench("sink.video", url=str(path), **params) as bench:
        for index, picture in enumerate(pictures):
            bench(Image(picture), pts=times[index] if times else None)
    return bench


def test_pictures_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    bench = write(path, [numbered(i, 90, 160) for i in range(40)])
    assert [number_of(f.to_ndarray(format="rgb24")) for f, _ in decode(path)] == list(range(40))
    assert bench.outputs == [str(path)]


EMPTY = """
import sys, numpy as np
from operators.sink.writer import CONTAINERS, Target, Writer
name = sys.argv[1]
writer = Writer(Target(name, CONTAINERS["." + name.rpartition(".")[2]], "vp9" if name.endswith("webm") else "h264"), 64, 64)
try:
    writer.write(np.zeros((64, 64, 2), np.uint8), 0)
except Exception:
    writer.close()
    print("closed")
"""


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_got_no_picture_is_closed_and_not_left_behind(name: str, tmp_path: Path) -> None:
    """In a process of its own: FFmpeg's muxer for mp4 ends it where nothing was written."""
    told = subprocess.run([sys.executable, "-c", EMPTY, name], capture_output=True, text=True, timeout=60, cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])})  # fmt: skip
    assert (told.returncode, told.stdout.strip()) == (0, "closed"), told.stderr
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", NAMES)
def test_times_are_kept(tmp_path: Path, name: str) -> None:
    """Variable rate, from a start that is not zero, as long as the format can say it: 1/120000 s, in Matroska 1 ms."""
    path = tmp_path / name
    times = [7_000_000_000 + t for t in (0, 33_366_667, 40_000_000, 1_000_000_000, 1_000_100_000, 2_500_000_000)]
    write(path, [numbered(i, 90, 160) for i in range(6)], times)
    found = [seconds for _, seconds in decode(path)]
    coarse = name.endswith(("mkv", "webm"))
    assert np.abs(np.array(found) - (np.array(times) - times[0]) / 1e9).max() <= (0.0011 if coarse else 0.5 / 120_000)
    assert all(a < b for a, b in pairwise(found))


def test_ntsc_times_are_whole_ticks(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    write(path, [numbered(i, 90, 160) for i in range(30)], [round(i * 1001e9 / 30000) for i in range(30)])
    assert [seconds for _, seconds in decode(path)] == [i * 1001 / 30000 for i in range(30)]


@pytest.mark.parametrize("name", NAMES)
def test_colour_bars_and_their_tags(tmp_path: Path, name: str) -> None:
    """The codes in the file are BT.709 limited, and the file says so."""
    path = tmp_path / name
    write(path, [bars_rgb()] * 3, quality=100)
    frame = next(decode(path))[0]
    y, u, v = (p.astype(int) for p in _planes(frame))
    for index, color in enumerate(BARS):
        found = np.array((y[32, index * 32 + 16], u[16, index * 16 + 8], v[16, index * 16 + 8]))
        assert np.abs(found - yuv_codes(color, "709")).max() <= 4, color
    assert (frame.colorspace, frame.color_range) == (1, 1)
    assert np.abs(bar_centres(frame.to_ndarray(format="rgb24")) - BARS).max() <= 6


def _planes(frame: object) -> list[np.ndarray]:
    return [np.frombuffer(p, np.uint8).reshape(-1, p.line_size)[: p.height, : p.width] for p in frame.planes]  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [(91, 161), (1, 1), (90, 161), (2, 3)])
def test_odd_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "out.mp4"
    write(path, [np.full((*size, 3), 200, np.uint8)] * 3)
    frames = [f.to_ndarray(format="rgb24") for f, _ in decode(path)]
    assert len(frames) == 3
    assert frames[0].shape[:2] == (size[0] + size[0] % 2, size[1] + size[1] % 2)
    assert np.abs(frames[0].astype(int) - 200).max() <= 4, "the added edge repeats the picture"


def test_another_size_is_set_between_bars(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    bench = write(path, [np.full((90, 160, 3), 200, np.uint8), np.full((90, 90, 3), 100, np.uint8), np.full((180, 320, 3), 50, np.uint8)])
    frames = [f.to_ndarray(format="rgb24").astype(int) for f, _ in decode(path)]
    assert [f.shape for f in frames] == [(90, 160, 3)] * 3
    assert frames[1][45, 5].max() < 20
    assert abs(frames[1][45, 80].mean() - 100) < 5
    assert abs(frames[2].mean() - 50) < 5
    assert [facts["came"] for what, facts in bench.events if what == "size"] == ["90x90", "320x180"]


def test_repeated_time_does_not_break_the_file(tmp_path: Path) -> None:
    path = tmp_path / "out.mkv"
    write(path, [numbered(i, 90, 160) for i in range(5)], [0, 40 * MS, 40 * MS, 30 * MS, 80 * MS])
    assert [number_of(f.to_ndarray(format="rgb24")) for f, _ in decode(path)] == [0, 1, 2, 3, 4]


def test_no_picture_makes_no_file(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    assert write(path, []).outputs == []
    assert not path.exists()


def test_a_closed_mp4_is_an_ordinary_one(tmp_path: Path) -> None:
    """Fragments are for the crash; afterwards players get one index with every picture in it."""
    import av

    path = tmp_path / "out.mp4"
    write(path, [numbered(i, 90, 160) for i in range(60)])
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.frames == 60
        assert stream.duration * stream.time_base == pytest.approx(2.4)


CHILD = """
import os, sys
import numpy as np
from operators.sink.writer import Target, Writer
path, container, last, end = sys.argv[1:5]
if end == "full":
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
writer = Writer(Target(path, container, codec="vp9" if container == "webm" else "h264"), 90, 160)
noise = np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8)
written = 0
try:
    for index in range(int(last)):
        writer.write(np.roll(noise, index, 0), index * 40_000_000)
        written += 1
    if end == "kill":
        os.kill(os.getpid(), 9)
except Exception as error:
    print(type(error).__name__, written, error)
try:
    writer.close()
except Exception as error:
    print("close", type(error).__name__, error)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
@pytest.mark.parametrize("container", ["mp4", "mov", "matroska", "webm"])
def test_a_killed_run_leaves_a_playable_file(tmp_path: Path, container: str) -> None:
    path = tmp_path / "out.video"
    child = subprocess.run([sys.executable, "-c", CHILD, str(path), container, "120", "kill"], capture_output=True, text=True, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr
    times = [seconds for _, seconds in decode(path)]
    # What is lost is at most a fragment of two seconds and what the encoder held back.
    assert len(times) >= 60
    assert times == pytest.approx([i * 0.04 for i in range(len(times))], abs=0.001)


@pytest.mark.skipif(sys.platform == "win32", reason="no RLIMIT_FSIZE here")
@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_a_full_disk_leaves_a_playable_file(tmp_path: Path, container: str) -> None:
    path = tmp_path / "out.video"
    child = subprocess.run([sys.executable, "-c", CHILD, str(path), container, "2000", "full"], capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    kind, written = child.stdout.split()[:2]
    assert kind == "MediaError"
    assert "limit" in child.stdout
    frames = sum(1 for _ in decode(path))
    assert 0 < frames <= int(written)


def test_it_never_writes_over_its_input(tmp_path: Path) -> None:
    clip = encode(tmp_path / "clip.mp4", 5)
    before = clip.read_bytes()
    link = tmp_path / "link.mp4"
    link.symlink_to(clip)
    for url in (clip, link, tmp_path / "." / "clip.mp4"):
        with Bench("sink.video", url=str(url)) as bench:
            bench.site.stream = StreamInfo(url=f"{clip}#t=1,2")
            with pytest.raises(UsageError, match="being read"):
                bench(Image(numbered(0, 90, 160)))
    assert clip.read_bytes() == before


def refused(**params: object) -> EngineError:
    with pytest.raises(EngineError) as caught, Bench("sink.video", **params):
        pass
    return caught.value


def test_where_it_may_write(tmp_path: Path) -> None:
    (tmp_path / "kept.mp4").write_text("kept")
    assert isinstance(refused(url=str(tmp_path / "kept.mp4"), overwrite=False), UsageError)
    assert (tmp_path / "kept.mp4").read_text() == "kept"
    assert isinstance(refused(url=str(tmp_path)), UsageError)
    deep = refused(url=str(tmp_path / "a" / "b" / "out.mp4"))
    assert isinstance(deep, MediaError)
    assert "mkdir" in deep.fix
    assert ".mp4" in refused(url=str(tmp_path / "out.mp5")).fix
    under_file = refused(url=str(tmp_path / "kept.mp4" / "out.mp4"))
    assert "not a folder" in under_file.message


def test_the_last_folder_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bench = write(Path("out/clip.mp4"), [numbered(0, 90, 160)] * 2)
    assert (tmp_path / "out" / "clip.mp4").stat().st_size > 0
    assert "folder" in [what for what, _ in bench.events]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    assert isinstance(refused(url=str(tmp_path / "out.mp4")), MediaError)


def test_addresses_that_nothing_is_sent_to_are_refused() -> None:
    error = refused(url="ftp://user:s3cret@host/live.mp4")
    assert isinstance(error, UsageError)
    assert "s3cret" not in str(error)
    assert "rtsp://" in error.fix


def test_a_named_encoder_must_work() -> None:
    from operators.media.codecs import encoder_works

    if encoder_works("h264_nvenc"):
        pytest.skip("this machine has NVENC")
    error = refused(url="out.mp4", encoder="nvenc")
    assert isinstance(error, DeviceError)
    assert "auto" in error.fix


@pytest.mark.parametrize(("codec", "name"), [("hevc", "hevc"), ("av1", "libdav1d"), ("vp9", "vp9")])
def test_other_codecs(tmp_path: Path, codec: str, name: str) -> None:
    import av

    from operators.media.codecs import best_encoder

    if best_encoder(codec) is None:
        pytest.skip(f"no {codec} encoder works here")
    path = tmp_path / "out.mp4"
    write(path, [numbered(i, 180, 320) for i in range(6)], codec=codec)
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name in (name, codec, "av1")
        assert [number_of(f.to_ndarray(format="rgb24")) for f in container.decode(video=0)] == list(range(6))


def test_live_and_quality_change_the_file(tmp_path: Path) -> None:
    noise = [np.random.default_rng(i).integers(0, 256, (90, 160, 3), np.uint8) for i in range(5)]
    write(tmp_path / "low.mp4", noise, quality=10)
    write(tmp_path / "high.mp4", noise, quality=95)
    write(tmp_path / "live.mp4", noise, site_live=True)
    assert (tmp_path / "low.mp4").stat().st_size * 2 < (tmp_path / "high.mp4").stat().st_size
    assert len(list(decode(tmp_path / "live.mp4"))) == 5


def test_live_writer_gives_each_picture_at_once(tmp_path: Path) -> None:
    """Without delay: after n pictures, n packets have reached the file."""
    writer = Writer(Target(str(tmp_path / "out.mkv"), "matroska", live=True), 90, 160)
    muxed: list[int] = []
    mux = writer.stream.encode
    writer.stream = _Spy(writer.stream, lambda frame: muxed.append(len(mux(frame))) or [])
    for index in range(5):
        writer.write(numbered(index, 90, 160), index * 40 * MS)
    writer.container.close()
    assert muxed == [1, 1, 1, 1, 1]


class _Spy:
    """A stream whose `encode` is watched."""

    def __init__(self, stream: object, encode: object) -> None:
        self.stream, self.encode = stream, encode
