"""`sink.rtsp` with real players in processes of their own: PyAV, ffmpeg and GStreamer where they are; joining, leaving, freezing, killing."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from push_peers import Receiver, Watched, nothing_left, posix, receive, said

from engine.clock import RealClock
from engine.errors import MediaError, UsageError
from engine.testing import Bench
from engine.text.load import load

__all__ = ["receive"]  # a fixture

PLAYER = ("rtsp_transport=tcp", "fflags=nobuffer", "flags=low_delay", "analyzeduration=100000", "probesize=65536")


def serving(url: str = "rtsp://127.0.0.1:0/live", **params: Any) -> Bench:
    rate = params.pop("fps", 0.0)
    bench = Bench("sink.rtsp", url=url, site_live=True, site_clock=RealClock(), **params)
    bench.params["fps"] = rate  # `fps` is the bench's own word
    return bench


def watch(receive: Callable[..., Receiver], bench: Bench, user: str = "") -> Receiver:
    return receive(bench.operator.address.replace("rtsp://", f"rtsp://{user}"), "", *PLAYER)


def seen(receiver: Receiver, count: int) -> Callable[[], bool]:
    def enough() -> bool:
        while not receiver.lines.empty():
            receiver.until(len(receiver.seen) + 1)
        return len(receiver.seen) >= count

    return enough


def test_players_come_and_go_and_nothing_is_made_without_them(receive: Callable[..., Receiver]) -> None:
    with serving() as bench:
        feed = Watched(bench)
        feed.until(lambda: feed.count >= 10)
        assert feed.unwatched == 10
        assert "offered" not in bench.operator.tally()
        first = watch(receive, bench)
        feed.until(seen(first, 10))
        second = watch(receive, bench)
        feed.until(seen(second, 10))
        assert bench.operator.outlet.facts["viewers"] == 2
        first.kill()
        more = len(second.seen)
        feed.until(seen(second, more + 10))
        second.kill()
        feed.until(lambda: bench.operator.outlet.facts["viewers"] == 0)
        since = feed.unwatched
        feed.until(lambda: feed.unwatched >= since + 5)
        third = watch(receive, bench)
        feed.until(seen(third, 5))
    for receiver in (first, second, third):
        numbers = [number for number, _, _ in receiver.seen]
        assert numbers == sorted(set(numbers)), "in order, none twice"
        assert all(a[1] < b[1] for a, b in pairwise(receiver.seen))
    (a, at, _), (b, then, _) = second.seen[1], second.seen[-1]
    assert then - at == pytest.approx((b - a) * 40, abs=2)
    assert bench.operator.tally()["viewers"] >= 3
    nothing_left()


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_ffmpeg_plays_it(transport: str) -> None:
    """Asked for UDP it is answered 461 and goes over to TCP by itself."""
    with serving() as bench:
        tool = [
            "ffmpeg", "-hide_banner", "-loglevel", "error", *(["-rtsp_transport", "tcp"] if transport == "tcp" else []),
            "-i", bench.operator.address, "-frames:v", "10", "-f", "framemd5", "-",
        ]  # fmt: skip
        process = subprocess.Popen(tool, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        Watched(bench).until(lambda: process.poll() is not None)
        out, errors = process.communicate()
    assert process.returncode == 0, errors
    frames = [line for line in out.splitlines() if line and not line.startswith("#")]
    assert len(frames) == 10
    assert len({line.rpartition(",")[2] for line in frames}) == 10, "ten different pictures"


@pytest.mark.skipif(shutil.which("gst-launch-1.0") is None, reason="GStreamer is not installed")
def test_gstreamer_plays_it_with_a_log_in(tmp_path: Path) -> None:
    tools = subprocess.run(["gst-inspect-1.0", "avdec_h264"], capture_output=True, check=False)
    if tools.returncode or subprocess.run(["gst-inspect-1.0", "rtspsrc"], capture_output=True, check=False).returncode:
        pytest.skip("GStreamer lacks rtspsrc or avdec_h264")
    with serving("rtsp://me:s3cret@127.0.0.1:0/live") as bench:
        source = ["rtspsrc", f"location={bench.operator.address}", "user-id=me", "user-pw=s3cret", "latency=0"]
        sink = ["multifilesink", f"location={tmp_path}/f%d.raw"]
        tail = ["!", "rtph264depay", "!", "h264parse", "!", "avdec_h264", "!", "videoconvert", "!", "video/x-raw,format=RGB", "!", *sink]
        process = subprocess.Popen(["gst-launch-1.0", "-q", *source, *tail], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            Watched(bench).until(lambda: (tmp_path / "f8.raw").exists() or process.poll() is not None)
        finally:
            process.kill()
            out, _ = process.communicate()
    assert (tmp_path / "f8.raw").exists(), out
    assert (tmp_path / "f3.raw").stat().st_size == 160 * 90 * 3


def test_who_does_not_log_in_sees_nothing(receive: Callable[..., Receiver]) -> None:
    with serving("rtsp://me:s3cret@127.0.0.1:0/live") as bench:
        assert "s3cret" not in repr(bench.events) + repr(bench.outputs)
        feed = Watched(bench)
        stranger = watch(receive, bench)
        wrong = watch(receive, bench, "me:wrong@")
        feed.until(lambda: stranger.process.poll() is not None and wrong.process.poll() is not None)
        assert feed.unwatched == feed.count
        right = watch(receive, bench, "me:s3cret@")
        feed.until(seen(right, 5))


@posix
def test_a_frozen_viewer_costs_only_itself(receive: Callable[..., Receiver]) -> None:
    with serving(timeout=3.0) as bench:
        feed = Watched(bench)
        frozen, keen = watch(receive, bench), watch(receive, bench)
        feed.until(seen(frozen, 3))
        feed.until(seen(keen, 3))
        frozen.process.send_signal(signal.SIGSTOP)
        feed.until(seen(keen, len(keen.seen) + 20))
        feed.until(lambda: bench.operator.outlet.facts["viewers"] == 1)  # it says nothing any more, and is left
        feed.until(seen(keen, len(keen.seen) + 5))
    assert feed.slowest < 1.0


@posix
def test_a_killed_server_is_there_again_at_the_same_port(receive: Callable[..., Receiver]) -> None:
    with serving() as bench:
        feed = Watched(bench)
        first = watch(receive, bench)
        feed.until(seen(first, 5))
        (child,) = multiprocessing.active_children()
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        feed.until(lambda: "reconnected" in said(bench))
        second = watch(receive, bench)
        feed.until(seen(second, 5))
    assert [w for w in said(bench) if w in ("lost", "reconnected")] == ["lost", "reconnected"]
    nothing_left()


def test_always_on_shows_the_last_picture_to_whoever_comes(receive: Callable[..., Receiver]) -> None:
    """The source is silent before the viewer comes, and stays silent."""
    with serving(always_on=True, slate="text:Back soon", slate_after=0.0, fps=20.0) as bench:
        feed = Watched(bench)
        feed.until(lambda: bench.operator.tally().get("sent", 0) >= 1)
        shown = watch(receive, bench).until(12)
    assert len(shown) >= 12
    gaps = sorted(b[1] - a[1] for a, b in pairwise(shown))
    assert gaps[0] > 0
    assert gaps[len(gaps) // 2] == pytest.approx(50, abs=8)


def test_where_it_may_listen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"rtsp://127.0.0.1:{taken.getsockname()[1]}/live"
        with pytest.raises(MediaError, match="cannot listen"), serving(url):
            pass
    for url, words in (
        ("rtsp://0.0.0.0:0/live", "everyone"), ("rtsp://127.0.0.1/live", "no address"), ("rtmp://127.0.0.1:0/x", "no address"),
        ("rtsp://me@127.0.0.1:0/x", "not both"), ("rtsp://127.0.0.1:0", "no address"), ("rtsp://127.0.0.1:99999/x", "well formed"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=words), serving(url):
            pass
    with serving("rtsp://0.0.0.0:0/live", insecure=True) as bench:
        assert "0.0.0.0" in bench.operator.address
    nothing_left()


GRAPH = """
[graph]
clock = "live"
[node.figure]
op = "source.figure"
size = 64
fps = 25.0
[node.server]
op = "sink.rtsp"
url = "rtsp://127.0.0.1:0/live"
in.image = "figure.image"
"""


def test_in_a_graph_frames_that_nobody_watches_are_counted(receive: Callable[..., Receiver], tmp_path: Path) -> None:
    from engine.planning.compile import compile
    from engine.session import Session

    path = tmp_path / "serve.toml"
    path.write_text(GRAPH)
    with Session(compile(load(path))) as session:
        running = threading.Thread(target=session.run)
        running.start()
        limit = time.monotonic() + 30
        while not session.outputs or session.gates["figure"].drops.get("unwatched", 0) < 5:
            assert time.monotonic() < limit
            threading.Event().wait(0.02)
        assert re.fullmatch(r"rtsp://127\.0\.0\.1:\d+/live", session.outputs[0])
        assert len(receive(session.outputs[0], "", *PLAYER).until(5)) >= 5
        session.stop()
        running.join()
        session.check()
    summary = session.summary()
    assert summary.nodes["server"]["tally"]["sent"] >= 5
    nothing_left()
