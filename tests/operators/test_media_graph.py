"""The media operators inside the engine: a file through a graph, buffers from the pool, cuts as epochs, exit on bad input."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from media_clips import decode, encode, number_of

from engine.errors import MediaError, OperatorError
from engine.graph import GraphBuilder
from engine.planning.compile import compile
from engine.session import Session


def transcode(clip: Path, out: Path, executor: str = "threaded", **source: object) -> Session:
    g = GraphBuilder("copy")
    camera = g.node("camera", "source.video", url=str(clip), **source)
    small = g.node("small", "image.resize", image=camera, width=96, height=54)
    g.node("screen", "sink.video", image=small, url=str(out))
    session = Session(compile(g.build()), executor=executor, poison=True)
    session.run()
    session.check()
    return session


@pytest.mark.parametrize("executor", ["threaded", "inline"])
def test_a_file_through_a_graph(tmp_path: Path, executor: str) -> None:
    times = [0.0, 0.03, 0.5, 0.52, 1.0, 1.01, 1.5, 1.9]
    clip = encode(tmp_path / "in.mp4", times=times, sound="aac")
    session = transcode(clip, tmp_path / "out.mp4", executor)
    shown = list(decode(tmp_path / "out.mp4"))
    assert [number_of(f.to_ndarray(format="rgb24")) for f, _ in shown] == list(range(8))
    assert [seconds for _, seconds in shown] == pytest.approx(times, abs=1e-5)
    assert list(decode(tmp_path / "out.mp4", "audio"))
    assert session.outputs == [str(tmp_path / "out.mp4")]


def test_buffers_come_back_to_the_pool(tmp_path: Path) -> None:
    session = transcode(encode(tmp_path / "in.mp4", 60), tmp_path / "out.mp4")
    assert session.pools.loaned == 0
    assert session.pools.allocated <= 16, "60 frames, and no more buffers than are in flight"


def test_rounds_of_a_loop_are_epochs(tmp_path: Path) -> None:
    g = GraphBuilder("loop")
    camera = g.node("camera", "source.video", url=str(encode(tmp_path / "in.mp4", 10)), loop=True)
    g.node("screen", "sink.video", image=camera, url=str(tmp_path / "out.mp4"))
    session = Session(compile(g.build()), executor="inline", frames=25)
    session.run()
    session.check()
    shown = list(decode(tmp_path / "out.mp4"))
    assert session.epoch == 2
    assert [number_of(f.to_ndarray(format="rgb24")) for f, _ in shown] == [i % 10 for i in range(25)]
    assert all(a[1] < b[1] for a, b in pairwise(shown))


def test_bad_input_ends_the_run_in_clear_words(tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video" * 100)
    with pytest.raises((OperatorError, MediaError)) as caught:
        transcode(bad, tmp_path / "out.mp4")
    assert caught.value.exit_code == 5
    assert "bad.mp4" in str(caught.value)


def test_what_came_before_the_damage_is_kept(tmp_path: Path) -> None:
    clip = encode(tmp_path / "in.mkv", 100)
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) // 2])
    session = transcode(clip, tmp_path / "out.mp4")
    shown = [number_of(f.to_ndarray(format="rgb24")) for f, _ in decode(tmp_path / "out.mp4")]
    assert len(shown) > 20
    assert shown == list(range(len(shown)))
    assert "corrupt" in [event["what"] for event in session.events]
