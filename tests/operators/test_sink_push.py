"""`sink.video` to receivers: every way out, HLS folders, addresses, and what a child's faults come back as."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media_clips import encode, number_of, numbered
from push_peers import Feed, Receiver, balanced, free_port, listener, listens, nothing_left, posix, receive, sending

from engine.errors import EngineError, MediaError, UsageError
from engine.operator import StreamInfo
from engine.payload import Image
from engine.testing import Bench, conform
from operators.sink import outlet as outlets
from operators.sink.outlet import Outlet, Patience
from operators.sink.push import check_address, shown

__all__ = ["receive"]  # a fixture


# ---------------------------------------------------------------- every way out


@pytest.mark.parametrize("kind", ["tcp", "udp", "rtmp", "rtsp"])
def test_pictures_arrive_in_order_at_their_times(kind: str, receive: Callable[..., Receiver]) -> None:
    url, listening = listener(kind, free_port())
    with sending(url, timeout=10.0) as bench:
        receiver = receive(*listening)
        if kind == "rtsp":  # it prints before it listens
            listens(int(url.rpartition(":")[2].partition("/")[0]))
        feed = Feed(bench)
        feed.until(lambda: feed.count >= 30)
    shown = receiver.rest()
    counts = balanced(bench)
    numbers = [number for number, _, _ in shown]
    assert numbers == sorted(set(numbers))
    assert len(numbers) >= counts["sent"] - 3, "what a parser holds back at the end of a stream without an end"
    assert len(numbers) >= 15
    # The stream's clock is the graph's, whatever it starts from.
    (first, at, _), (last, then, _) = shown[2], shown[-1]
    assert then - at == pytest.approx((last - first) * 40, abs=3)
    assert bench.outputs == [url.replace("/key", "/***")]


def test_offline_nothing_is_lost(receive: Callable[..., Receiver]) -> None:
    url, listening = listener("tcp", free_port())
    receiver = receive(*listening)
    with Bench("sink.video", url=url, timeout=10.0) as bench:
        for index in range(60):
            bench(Image(numbered(index, 90, 160)))
    assert [number for number, _, _ in receiver.rest()] == list(range(60))
    assert balanced(bench) == {"offered": 60, "sent": 60}


def test_the_sound_of_a_file_goes_along(tmp_path: Path, receive: Callable[..., Receiver]) -> None:
    clip = encode(tmp_path / "clip.mp4", 25, sound="aac")
    url, listening = listener("tcp", free_port())
    receiver = receive(*listening)
    with Bench("sink.video", url=url, timeout=10.0) as bench:
        bench.site.stream = StreamInfo(str(clip), 25.0, 25, (90, 160), audio=True)
        for index in range(25):
            bench(Image(numbered(index, 90, 160)))
    assert len(receiver.rest()) == 25
    assert receiver.sound > 40_000


# ---------------------------------------------------------------- HLS


def playlist(path: Path) -> list[int]:
    import av

    with av.open(str(path)) as container:
        return [number_of(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def test_hls_offline_keeps_everything(tmp_path: Path) -> None:
    path = tmp_path / "hls" / "show.m3u8"
    with Bench("sink.video", url=str(path)) as bench:
        for index in range(60):
            bench(Image(numbered(index, 90, 160)))
    assert playlist(path) == list(range(60))
    text = path.read_text()
    assert "#EXT-X-ENDLIST" in text
    assert "#EXT-X-INDEPENDENT-SEGMENTS" in text
    files = {"show.m3u8", "show_init.mp4", *(f"show_00000{n}.m4s" for n in range(3))}
    assert {p.name for p in path.parent.iterdir()} == files


def test_hls_live_deletes_what_is_over(tmp_path: Path) -> None:
    path = tmp_path / "show.m3u8"
    with Bench("sink.video", url=str(path), segment=0.2, site_live=True) as bench:  # a step clock: every picture is taken
        for index in range(100):
            bench(Image(numbered(index, 90, 160)))
    listed = [line for line in path.read_text().splitlines() if line.endswith(".m4s")]
    assert len(listed) == 6
    assert len(list(tmp_path.glob("*.m4s"))) < 10


@posix
def test_hls_on_a_full_disk_is_a_typed_error(tmp_path: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    noise = np.random.default_rng(0).integers(0, 256, (360, 640, 3), np.uint8)
    bench = Bench("sink.video", url=str(tmp_path / "show.m3u8"), max_reconnects=0, quality=100)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        bench.__enter__()  # the child is started with the limit
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    feed = Feed(bench, lambda i: np.roll(noise, i, 0))
    with pytest.raises(MediaError) as caught:
        feed.forever()
    bench.operator.close()
    assert "limit" in str(caught.value)
    nothing_left()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_hls_into_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(MediaError), sending(str(tmp_path / "show.m3u8")):
        pass


def test_hls_into_a_folder_that_goes_away(tmp_path: Path) -> None:
    """It does not get better by itself: the run ends at once, whatever `max_reconnects` says."""
    folder = tmp_path / "hls"
    with sending(str(folder / "show.m3u8"), segment=0.2, max_reconnects=-1) as bench:
        feed = Feed(bench)
        feed.until(lambda: (folder / "show.m3u8").exists())
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
        folder.write_text("not a folder")
        with pytest.raises(EngineError):
            feed.forever()
    nothing_left()


# ---------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("rtmpp://host/x", "rtmp"), ("srt://host:1", "relay"), ("http://host/x", "m3u8"), ("udp://127.0.0.1", "5000"), ("rtsp:///live", "live"),
        ("gopher://x", "there is"),
    ],
)  # fmt: skip
def test_addresses_that_cannot_be_sent_to(url: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_address(url, "auto", "auto")
    assert hint in str(caught.value)


def test_what_people_get_to_see_of_an_address() -> None:
    assert shown("rtmp://a.example.org/app/s3cret-key?x=1") == "rtmp://a.example.org/app/***"
    assert shown("rtmp://me:pw@h/live") == "rtmp://***@h/live"
    assert shown("rtsp://me:pw@h/live") == "rtsp://***@h/live"
    assert shown("out/live.m3u8") == "out/live.m3u8"


def test_formats_and_codecs_that_do_not_fit() -> None:
    assert check_address("tcp://h:1", "mpegts", "auto") == "mpegts"
    with pytest.raises(UsageError, match="not sent over rtmp"):
        check_address("rtmp://h/x", "mpegts", "auto")
    with pytest.raises(UsageError, match="vp9"):
        check_address("rtmp://h/x", "auto", "vp9")


def test_conformance_and_nothing_is_left(receive: Callable[..., Receiver]) -> None:
    conform("sink.video", url=f"udp://127.0.0.1:{free_port()}", timeout=30.0)
    nothing_left()


def test_always_on_is_not_for_files_and_slates_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="receivers"), sending(str(tmp_path / "out.mp4"), always_on=True):
        pass
    with pytest.raises(UsageError, match="slate"), sending("udp://127.0.0.1:9", always_on=True, slate="blue"):
        pass
    with pytest.raises(EngineError, match="does not exist"), sending("udp://127.0.0.1:9", always_on=True, slate=str(tmp_path / "none.png")):
        pass


# ---------------------------------------------------------------- the outlet by itself


class Fails:
    """An output whose child fails in every way, as it is told."""

    facts: dict[str, Any] = {}

    def __init__(self, how: str, tell: Any) -> None:
        self.how = how

    def open(self, about: Any, height: int, width: int, ns: int) -> None:
        if self.how == "odd":
            raise RuntimeError("something odd")
        if self.how == "fatal":
            error = UsageError("no such thing", fix="use another")
            error.fatal = True  # type: ignore[attr-defined]
            raise error

    def write(self, rgb: Any, ns: int) -> None: ...

    def close(self) -> None:
        if self.how == "close":
            raise MediaError("not finished")


def test_faults_in_the_child_come_back_as_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlets, "FIRST_WAIT", 0.01)
    cases = (("odd", MediaError, "something odd"), ("fatal", UsageError, "no such thing"), ("close", MediaError, "not finished"))
    for how, kind, words in cases:
        with Bench("sink.null") as bench:
            outlet = Outlet(bench.site, Fails, how, name="x", lossy=False, patience=Patience(5.0, 3))
            outlet.offer(np.zeros((2, 2, 3), np.uint8), 0)
            with pytest.raises(kind, match=words):
                outlet.close()
    nothing_left()


class Gated:
    """An output that writes nothing until a file appears, and tells what it writes."""

    facts: dict[str, Any] = {}

    def __init__(self, gate: str, tell: Any) -> None:
        self.gate, self.tell = Path(gate), tell

    def open(self, about: Any, height: int, width: int, ns: int) -> None: ...

    def write(self, rgb: Any, ns: int) -> None:
        while not self.gate.exists():
            threading.Event().wait(0.005)
        self.tell("said", "wrote", {"ns": ns, "light": int(rgb[0, 0, 0])})

    def close(self) -> None: ...


@pytest.mark.parametrize("lossy", [True, False])
def test_the_newest_picture_takes_the_place_of_the_one_that_waits(tmp_path: Path, lossy: bool) -> None:
    """While the peer takes nothing; offline every one waits for its turn, and no picture is another's."""
    with Bench("sink.null") as bench:
        outlet = Outlet(bench.site, Gated, str(tmp_path / "gate"), name="x", lossy=lossy, patience=Patience(60.0, 3))
        outlet.ready()
        for index in range(3 if not lossy else 10):
            outlet.offer(np.full((2, 2, 3), index, np.uint8), index)
        (tmp_path / "gate").touch()
        for index in range(3, 10 if not lossy else 3):
            outlet.offer(np.full((2, 2, 3), index, np.uint8), index)
        outlet.close()
    wrote = [(facts["ns"], facts["light"]) for what, facts in bench.events if what == "wrote"]
    assert wrote == ([(0, 0), (9, 9)] if lossy else [(i, i) for i in range(10)])
    assert outlet.counts == ({"offered": 10, "sent": 2, "replaced": 8} if lossy else {"offered": 10, "sent": 10})
