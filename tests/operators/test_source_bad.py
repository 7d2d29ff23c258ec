"""Bad input to the sources: each gets one clear typed error, and what decodes is delivered."""

from __future__ import annotations

import os
import struct
import zlib
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from media_clips import encode, number_of, play

from engine.errors import EngineError, MediaError, MissingError, UsageError
from engine.testing import Bench


def opened(url: str, **params: object) -> EngineError:
    """The error that opening `url`, or else its first frame, raises."""
    with pytest.raises(EngineError) as caught, Bench("source.video", url=url, **params) as bench:
        next(play(bench))
    return caught.value


def big_png(path: Path, side: int) -> Path:
    """A grey PNG of side x side that is small on disk."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(side + 1)) for _ in range(side)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


def test_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    encode(tmp_path / "dancer.mp4", 3)
    error = opened(str(tmp_path / "dancr.mp4"))
    assert isinstance(error, MissingError)
    assert error.exit_code == 3
    assert "dancer.mp4" in error.fix
    assert "folder" in opened(str(tmp_path / "nowhere" / "x.mp4")).fix


def test_text_file(tmp_path: Path) -> None:
    path = tmp_path / "notes.mp4"
    path.write_text("this is not a video\n" * 50)
    assert isinstance(opened(str(path)), MediaError)


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.mp4"
    path.touch()
    assert isinstance(opened(str(path)), MediaError)


def test_no_video_stream(tmp_path: Path) -> None:
    import av
    import numpy as np

    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as out:
        tone = out.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.int16), "s16", "mono")
        frame.sample_rate = 44100
        out.mux(tone.encode(frame))
        out.mux(tone.encode(None))
    error = opened(str(path))
    assert isinstance(error, MediaError)
    assert "no video stream" in error.message
    assert "audio" in error.message


def test_a_file_of_sound_alone(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp3"
    path.write_bytes((b"\xff\xfb\x90\x00" + bytes(413)) * 40)
    error = opened(str(path))
    assert isinstance(error, MediaError)
    assert "not a video this engine can read" in error.message


def test_zero_frames(tmp_path: Path) -> None:
    """A header that promises a video, and nothing behind it."""
    whole = encode(tmp_path / "whole.mkv", 5).read_bytes()
    path = tmp_path / "none.mkv"
    path.write_bytes(whole[: whole.index(b"\x1f\x43\xb6\x75")])  # up to the first cluster
    error = opened(str(path))
    assert isinstance(error, MediaError)
    assert "no frame" in error.message


def test_unsupported_codec(tmp_path: Path) -> None:
    path = encode(tmp_path / "odd.avi", 5, codec="mjpeg")
    path.write_bytes(path.read_bytes().replace(b"MJPG", b"QZXW"))
    error = opened(str(path))
    assert isinstance(error, MediaError)
    assert "decoder" in error.message


def test_cut_without_an_index(tmp_path: Path) -> None:
    """An mp4 whose end, and with it its index, was lost."""
    whole = encode(tmp_path / "whole.mp4", 50).read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole[: len(whole) // 2])
    assert isinstance(opened(str(path)), MediaError)


def test_truncated_in_the_middle(tmp_path: Path) -> None:
    """With the index first, half a file plays its half, and says so."""
    path = encode(tmp_path / "whole.mp4", 100, format="mp4", options={"preset": "ultrafast", "movflags": "faststart"})
    front = tmp_path / "front.mp4"
    remux_index_first(path, front)
    data = front.read_bytes()
    front.write_bytes(data[: len(data) * 2 // 3])
    with Bench("source.video", url=str(front)) as bench:
        numbers = [number_of(s.picture) for s in play(bench)]
    assert 30 < len(numbers) < 90
    assert numbers == list(range(len(numbers)))
    assert [what for what, _ in bench.events] == ["corrupt"]
    assert bench.events[0][1]["expected_s"] == pytest.approx(4.0, abs=0.1)


def remux_index_first(path: Path, out: Path) -> None:
    import av

    with av.open(str(path)) as source, av.open(str(out), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)


@pytest.mark.parametrize("name", ["noise.mp4", "noise.mkv", "noise.ts"])
def test_corrupt_in_the_middle(tmp_path: Path, name: str) -> None:
    """Noise in the middle costs its frames and no more: what comes after it is played too, and the times still rise."""
    path = encode(tmp_path / name, 120, gop=10)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes((i * 73 + 41) % 256 for i in range(3000))
    path.write_bytes(data)
    with Bench("source.video", url=str(path)) as bench:
        shown = list(play(bench))
    numbers = [number_of(s.picture) for s in shown]
    assert numbers[:30] == list(range(30))
    assert numbers[-1] == 119
    assert all(a.pts < b.pts for a, b in pairwise(shown))
    if not name.endswith(".ts"):  # whole packets vanish from a transport stream without a trace
        assert [what for what, _ in bench.events] == ["corrupt"]


def test_a_bomb_costs_no_memory(tmp_path: Path) -> None:
    """15000 x 15000 in a few hundred kilobytes, as a one-frame video: refused before it is decoded."""
    import psutil

    png = big_png(tmp_path / "bomb.png", 15000)
    path = tmp_path / "bomb.avi"
    mux_png(png.read_bytes(), 15000, path)
    before = psutil.Process().memory_info().rss
    error = opened(str(path))
    assert isinstance(error, MediaError)
    assert psutil.Process().memory_info().rss - before < 100e6


def test_a_bomb_that_lies_about_its_size(tmp_path: Path) -> None:
    """The container says 64 x 64, the picture inside is 15000 x 15000: the decoder's own limit holds."""
    import psutil

    png = big_png(tmp_path / "bomb.png", 15000)
    path = tmp_path / "liar.avi"
    mux_png(png.read_bytes(), 64, path)
    before = psutil.Process().memory_info().rss
    assert isinstance(opened(str(path)), MediaError)
    assert psutil.Process().memory_info().rss - before < 100e6


def mux_png(data: bytes, side: int, path: Path) -> None:
    import av

    with av.open(str(path), "w") as out:
        stream = out.add_stream("png", rate=25)
        stream.width = stream.height = side
        stream.pix_fmt = "rgb24"
        packet = av.Packet(data)
        packet.stream, packet.pts, packet.dts, packet.time_base, packet.is_keyframe = stream, 0, 0, Fraction(1, 25), True
        out.mux(packet)


def test_max_pixels_is_a_parameter(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4", 3)
    error = opened(str(path), max_pixels=10_000)
    assert isinstance(error, MediaError)
    assert "max_pixels" in str(error) or "not a video" in str(error)


def test_start_after_the_end(tmp_path: Path) -> None:
    error = opened(str(encode(tmp_path / "clip.mp4", 10)), start=60.0)
    assert isinstance(error, MediaError)
    assert "before start" in error.message


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "empty"),
        ("clips\take.mp4", "has a tab in it"),
        ("ftp://host/x.mp4", "ftp"),
        ("rstp://host/live", "rtsp"),
        ("concat:a.mp4|b.mp4", "not allowed"),
        ("subfile,,start,0,end,9,,:a.mp4", ""),
        ("data:video/mp4;base64,AAAA", "not allowed"),
        ("pipe:0", "not allowed"),
        ("http://169.254.169.254/latest/meta-data", "metadata"),
        ("http://metadata.google.internal/x.mp4", "metadata"),
        ("rtsp://[fe80::1]/x", "link-local"),
        ("http://", "no host"),
        ("http://host:99999999/x", "not well formed"),
    ],
)
def test_addresses_that_no_source_opens(url: str, words: str) -> None:
    error = opened(url)
    assert isinstance(error, (UsageError, MissingError))
    assert words in str(error)


def test_private_addresses_can_be_refused() -> None:
    for url in ("rtsp://192.168.1.4/live", "http://127.0.0.1:1/x", "http://localhost/x", "rtsp://[::1]/x"):
        error = opened(url, allow_private=False)
        assert isinstance(error, UsageError), url
        assert "allow_private" in error.fix


def test_a_playlist_cannot_reach_out(tmp_path: Path) -> None:
    """A file that names another file or a network address is refused; the control shows that FFmpeg itself would follow it."""
    import av

    inside = encode(tmp_path / "inside.ts", 5)
    path = tmp_path / "list.m3u8"
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{inside.name}\n#EXT-X-ENDLIST\n")
    with av.open(str(path), options={"protocol_whitelist": "file,crypto,data", "allowed_extensions": "ALL"}) as control:
        assert next(control.decode(video=0)) is not None
    assert isinstance(opened(str(path)), MediaError)
    renamed = path.rename(tmp_path / "list.mp4")
    assert isinstance(opened(str(renamed)), MediaError)
    options = {"protocol_whitelist": "file,crypto,data", "format_whitelist": "hls", "allowed_extensions": "ALL", "safe": "0"}
    assert isinstance(opened(str(renamed), options=options), MediaError), "options cannot lift the whitelist"


def test_concat_script_is_refused(tmp_path: Path) -> None:
    import av

    inside = encode(tmp_path / "inside.mp4", 5)
    path = tmp_path / "list.txt"
    path.write_text(f"ffconcat version 1.0\nfile {inside.name}\n")
    with av.open(str(path), options={"safe": "0"}) as control:
        assert next(control.decode(video=0)) is not None
    assert isinstance(opened(str(path), options={"safe": "0"}), MediaError)


def test_folder_and_picture_point_to_images(tmp_path: Path) -> None:
    assert "source.images" in opened(str(tmp_path)).fix
    assert "source.images" in opened(str(big_png(tmp_path / "a.png", 4))).fix
    assert "source.images" in opened(str(tmp_path / "shot_%04d.png")).fix


def test_size_must_be_a_size(tmp_path: Path) -> None:
    path = str(encode(tmp_path / "clip.mp4", 2))
    for size in ("big", "0x10", "10x", "10x10x10"):
        assert isinstance(opened(path, size=size), UsageError)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4", 2)
    path.chmod(0)
    assert isinstance(opened(str(path)), MediaError)


def test_no_camera_is_a_device_error() -> None:
    from engine.errors import DeviceError

    if Path("/dev/video37").exists():
        pytest.skip("camera 37 exists")
    error = opened("37")
    assert isinstance(error, DeviceError)
    assert error.exit_code == 4
    assert "engine devices" in error.fix
