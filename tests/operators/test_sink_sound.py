"""Sound laid beside the picture: copied where it can be, in step with it, and never at its cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from media_clips import decode, encode

from engine.errors import EngineError
from engine.testing import Bench


def through(source: Path, out: Path, audio: str = "auto", skip: int = 0, **span: float) -> Bench:
    """A file copied by the two operators, the first `skip` frames lost on the way."""
    with Bench("source.video", url=str(source), **span) as give, Bench("sink.video", url=str(out), audio=audio) as take:
        for index, item in enumerate(give()):
            take.site.stream = give.site.stream
            if index >= skip:
                take(item.value, pts=item.pts)
    return take


def tone(path: Path) -> tuple[float, float, str]:
    """Start and end of the sound in seconds, and its codec."""
    import av

    times = [(seconds, seconds + f.samples / f.sample_rate) for f, seconds in decode(path, "audio")]
    with av.open(str(path)) as container:
        return times[0][0], times[-1][1], container.streams.audio[0].codec_context.codec.canonical_name


@pytest.mark.parametrize(
    ("source", "codec", "out", "made"),
    [
        ("in.mp4", "aac", "out.mp4", "aac"),
        ("in.mp4", "aac", "out.mkv", "aac"),
        ("in.mp4", "aac", "out.webm", "opus"),
        ("in.ts", "aac", "out.mp4", "aac"),
        ("in.mkv", "pcm_s16le", "out.mp4", "aac"),
        ("in.mkv", "pcm_s16le", "out.mov", "pcm_s16le"),
    ],
)
def test_sound_comes_along(tmp_path: Path, source: str, codec: str, out: str, made: str) -> None:
    clip = encode(tmp_path / source, 50, sound=codec)
    take = through(clip, tmp_path / out)
    start, end, name = tone(tmp_path / out)
    assert name == made
    assert start == pytest.approx(0, abs=0.06)
    assert end == pytest.approx(2.0, abs=0.06)
    assert next(seconds for _, seconds in decode(tmp_path / out)) == pytest.approx(0, abs=0.002)
    assert "sound" not in [what for what, _ in take.events]


def test_copied_packets_are_the_same(tmp_path: Path) -> None:
    import av

    clip = encode(tmp_path / "in.mp4", 50, sound="aac")
    through(clip, tmp_path / "out.mp4")

    def packets(path: Path) -> list[bytes]:
        with av.open(str(path)) as container:
            return [bytes(p) for p in container.demux(audio=0) if p.size]

    ours, theirs = packets(tmp_path / "out.mp4"), packets(clip)
    assert len(ours) >= len(theirs) - 4
    assert all(packet in theirs for packet in ours)


def clicks(path: Path) -> Path:
    """Four seconds in which a white flash and a loud click come at 2.0 s."""
    import av
    from media_clips import encode as make

    silent = make(path.with_name("silent.mkv"), 100, picture=lambda i, h, w: np.full((h, w, 3), 255 if i == 50 else 0, np.uint8))
    wave = np.zeros(4 * 44100, np.int16)
    wave[2 * 44100 : 2 * 44100 + 441] = 30000
    with av.open(str(silent)) as source, av.open(str(path), "w") as out:
        video = out.add_stream_from_template(source.streams.video[0])
        sound = out.add_stream("pcm_s16le", rate=44100)
        sound.codec_context.layout = "mono"
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = video
                out.mux(packet)
        for at in range(0, len(wave), 441):
            frame = av.AudioFrame.from_ndarray(wave[None, at : at + 441], "s16", "mono")
            frame.sample_rate, frame.pts = 44100, at
            out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    return path


@pytest.mark.parametrize(("span", "skip"), [({}, 0), ({"start": 1.0, "end": 3.0}, 0), ({"start": 1.0}, 7)])
@pytest.mark.parametrize("out", ["out.mkv", "out.mp4"])
def test_flash_and_click_stay_together(tmp_path: Path, span: dict[str, float], skip: int, out: str) -> None:
    """From the start, from a span, and with the first frames lost at a gate."""
    through(clicks(tmp_path / "in.mkv"), tmp_path / out, skip=skip, **span)
    flash = next(seconds for f, seconds in decode(tmp_path / out) if f.to_ndarray(format="gray").mean() > 128)
    click = None
    for frame, seconds in decode(tmp_path / out, "audio"):
        loud = np.abs(frame.to_ndarray().astype(float)).max(axis=0)
        peak = 10000 if frame.format.name.startswith("s16") else 0.3
        if loud.max() > peak:
            click = seconds + int((loud > peak).argmax()) / frame.sample_rate
            break
    assert click is not None
    assert click == pytest.approx(flash, abs=0.03)
    assert flash == pytest.approx(2.0 - span.get("start", 0.0) - skip * 0.04, abs=0.002)


def test_no_sound_on_request_and_none_to_take(tmp_path: Path) -> None:
    clip = encode(tmp_path / "in.mp4", 10, sound="aac")
    through(clip, tmp_path / "mute.mp4", audio="none")
    assert list(decode_streams(tmp_path / "mute.mp4")) == ["video"]
    through(encode(tmp_path / "silent.mp4", 10), tmp_path / "out.mp4")
    assert list(decode_streams(tmp_path / "out.mp4")) == ["video"]


def decode_streams(path: Path) -> list[str]:
    import av

    with av.open(str(path)) as container:
        return [s.type for s in container.streams]


def test_sound_of_another_file(tmp_path: Path) -> None:
    music = encode(tmp_path / "music.mp4", 100, sound="aac")
    through(encode(tmp_path / "silent.mp4", 25), tmp_path / "out.mp4", audio=str(music))
    assert tone(tmp_path / "out.mp4")[1] == pytest.approx(1.0, abs=0.06)


def test_a_named_file_without_sound_is_an_error(tmp_path: Path) -> None:
    silent = encode(tmp_path / "silent.mp4", 5)
    with pytest.raises(EngineError, match="no sound"):
        through(silent, tmp_path / "out.mp4", audio=str(silent))


def test_damaged_sound_does_not_cost_the_picture(tmp_path: Path) -> None:
    clip = encode(tmp_path / "in.mkv", 50, sound="aac")
    data = bytearray(clip.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    broken = tmp_path / "broken.mkv"
    broken.write_bytes(data)
    take = through(encode(tmp_path / "good.mp4", 50), tmp_path / "out.mp4", audio=str(broken))
    assert len(list(decode(tmp_path / "out.mp4"))) == 50
    assert take is not None


def test_sound_that_vanished_is_told(tmp_path: Path) -> None:
    """The source said that it has sound; when the sink comes to open it, the file is gone."""
    from engine.operator import StreamInfo
    from engine.payload import Image

    with Bench("sink.video", url=str(tmp_path / "out.mp4")) as take:
        take.site.stream = StreamInfo(url=str(tmp_path / "gone.mp4"), audio=True)
        for _ in range(3):
            take(Image(np.zeros((90, 160, 3), np.uint8)))
    assert "sound" in [what for what, _ in take.events]
    assert len(list(decode(tmp_path / "out.mp4"))) == 3
