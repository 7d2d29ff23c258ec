"""Live streams against real peers in other processes and threads: newest frame first, reconnection, frozen peers, quick stops."""

from __future__ import annotations

import http.server
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from media_clips import Shown, encode, number_of, play
from push_peers import HERE, free_port

from engine.clock import RealClock, StepClock
from engine.errors import EngineError, MediaError, UsageError
from engine.testing import Bench
from operators.source.drain import Drain


def until(what: Callable[[], bool], seconds: float = 10.0) -> None:
    """Poll a real process's or thread's state, with a deadline."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        threading.Event().wait(0.005)


class Rtsp:
    """The RTSP server of the tests, in a process of its own."""

    def __init__(self) -> None:
        self.port = free_port()
        self.process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/live"

    def start(self) -> None:
        self.process = subprocess.Popen([sys.executable, str(HERE / "rtsp_server.py"), str(self.port)], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == "ready"

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None


@pytest.fixture
def server() -> Iterator[Rtsp]:
    rtsp = Rtsp()
    rtsp.start()
    yield rtsp
    rtsp.kill()


def live(url: str, **params: Any) -> Bench:
    return Bench("source.video", url=url, site_live=True, site_clock=RealClock(), **{"read_timeout": 0.7, **params})


def take(player: Iterator[Shown], count: int) -> list[Shown]:
    return [next(player) for _ in range(count)]


# ---------------------------------------------------------------- RTSP


def test_rtsp_is_read_in_real_time(server: Rtsp) -> None:
    with live(server.url) as bench:
        info = bench.site.stream
        shown = take(play(bench), 15)
    assert info is not None
    assert (info.size, info.frames, info.audio) == ((90, 160), None, False)
    numbers = [number_of(s.picture) for s in shown]
    assert all(a < b for a, b in pairwise(numbers))
    assert all(s.born is not None for s in shown)
    # Time passes in the stream as it passes here.
    assert (shown[-1].pts - shown[3].pts) / 1e9 == pytest.approx((numbers[-1] - numbers[3]) / 25, abs=0.05)
    assert shown[0].pts == 0


def test_a_stream_is_emptied_while_the_rest_of_the_graph_still_loads(server: Rtsp) -> None:
    """What comes first is the newest picture, not the oldest one in a socket."""
    with live(server.url) as bench:
        drain = bench.operator.live.drain
        until(lambda: drain.skipped >= 10)
        first = next(play(bench))
    assert number_of(first.picture) >= 10


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_killed_peer_is_met_again_behind_a_cut(server: Rtsp) -> None:
    with live(server.url) as bench:
        player = play(bench)
        before = take(player, 10)
        server.kill()
        server.start()
        after = list(seen_until_cut(player)) + take(player, 5)
    shown = before + after
    assert [s.cut for s in before] == [False] * 10
    assert sum(s.cut for s in after) == 1
    assert all(a.pts < b.pts for a, b in pairwise(shown)), "the stream's own clock started again at zero; ours did not"
    events = [what for what, _ in bench.events]
    assert events[0] == "lost"
    assert "reconnected" in events


def seen_until_cut(player: Iterator[Shown]) -> Iterator[Shown]:
    for shown in player:
        yield shown
        if shown.cut:
            return


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no SIGSTOP here")
def test_a_frozen_peer_is_left_and_met_again(server: Rtsp) -> None:
    """The connection stays open and silent: the read's time limit finds out."""
    with live(server.url) as bench:
        player = play(bench)
        before = take(player, 5)
        server.signal(signal.SIGSTOP)
        thaw = threading.Thread(target=lambda: (until(lambda: "lost" in [w for w, _ in bench.events]), server.signal(signal.SIGCONT)))
        thaw.start()
        after = list(seen_until_cut(player))
        thaw.join()
    assert after[-1].cut
    assert after[-1].pts - before[-1].pts > 0.6e9, "the silence is part of the time"


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no SIGSTOP here")
def test_stop_is_quick_whatever_the_peer_does(server: Rtsp) -> None:
    bench = live(server.url, read_timeout=30.0)
    with bench:
        player = play(bench)
        take(player, 3)
        server.signal(signal.SIGSTOP)
        stopper = threading.Timer(0.2, bench.site.stop.set)
        stopper.start()
        start = time.monotonic()
        list(player)
    assert time.monotonic() - start < 1.5, "including close, although a read is still waiting for the peer"


def test_a_peer_that_stays_away_ends_the_run(server: Rtsp) -> None:
    with live(server.url, max_reconnects=2) as bench:
        player = play(bench)
        take(player, 3)
        server.kill()
        with pytest.raises(MediaError, match="2 attempts"):
            list(player)
    assert [what for what, _ in bench.events].count("lost") == 2


# ---------------------------------------------------------------- peers that are not there


def opened(url: str, **params: Any) -> tuple[EngineError, float]:
    start = time.monotonic()
    with pytest.raises(EngineError) as caught, live(url, **params):
        pass
    return caught.value, time.monotonic() - start


@pytest.mark.parametrize("scheme", ["rtsp", "http", "rtmp"])
def test_nobody_listens(scheme: str) -> None:
    error, _ = opened(f"{scheme}://user:s3cret@127.0.0.1:{free_port()}/live")
    assert isinstance(error, MediaError)
    assert "s3cret" not in str(error)
    assert "refused" in str(error) or "running" in str(error)


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_silent_peer_is_not_waited_for(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        error, took = opened(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/live", open_timeout=0.5)
    assert isinstance(error, MediaError)
    assert "time limit" in str(error)
    assert took < 3


def test_credentials_stay_out_of_sight(server: Rtsp) -> None:
    with live(server.url.replace("//", "//me:s3cret@"), max_reconnects=0) as bench:
        assert "s3cret" not in repr(bench.site.stream)
        player = play(bench)
        take(player, 2)
        server.kill()
        with pytest.raises(MediaError) as caught:
            list(player)
    assert "s3cret" not in str(caught.value) + repr(bench.events)


def test_live_streams_have_no_span(server: Rtsp) -> None:
    error, _ = opened(server.url, start=3.0)
    assert isinstance(error, UsageError)


# ---------------------------------------------------------------- HTTP and UDP


@contextmanager
def http_server(answer: Callable[[http.server.BaseHTTPRequestHandler, int], None]) -> Iterator[str]:
    """A real HTTP server whose n-th GET is answered by `answer(handler, n)`; its address."""
    count = iter(range(1000))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                answer(self, next(count))
            except ConnectionError:
                pass

        def log_message(self, *args: object) -> None:
            pass

    class Quiet(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args: object) -> None:
            pass

    server = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_recording_over_http_is_read_like_a_file(tmp_path: Path) -> None:
    data = encode(tmp_path / "clip.mkv", 30).read_bytes()

    def answer(handler: http.server.BaseHTTPRequestHandler, count: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    with http_server(answer) as url, Bench("source.video", url=f"{url}/clip.mkv", start=0.4) as bench:
        assert [number_of(s.picture) for s in play(bench)] == list(range(10, 30))
    assert bench.events == []


def test_silent_end_of_a_live_stream_means_connect_again(tmp_path: Path) -> None:
    """A transport stream without a length, cut off twice; then the server is gone. Offline nothing is lost on the way."""
    data = encode(tmp_path / "clip.ts", 30).read_bytes()

    def answer(handler: http.server.BaseHTTPRequestHandler, count: int) -> None:
        handler.send_response(200 if count < 3 else 404)
        handler.end_headers()
        if count < 3:
            handler.wfile.write(data)

    with http_server(answer) as url, Bench("source.video", url=f"{url}/live.ts", max_reconnects=3, site_clock=StepClock()) as bench:
        shown: list[Shown] = []
        with pytest.raises(MediaError, match="404"):
            shown.extend(play(bench))
    assert [number_of(s.picture) for s in shown] == list(range(30)) * 3
    assert [i for i, s in enumerate(shown) if s.cut] == [30, 60]
    assert all(a.pts < b.pts for a, b in pairwise(shown))


def test_attempts_are_forgotten_after_good_frames(tmp_path: Path) -> None:
    """With one reconnection allowed in a row, a stream that is cut again and again goes on, as long as frames come between."""
    data = encode(tmp_path / "clip.ts", 30).read_bytes()

    def answer(handler: http.server.BaseHTTPRequestHandler, count: int) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(data)

    with http_server(answer) as url, Bench("source.video", url=f"{url}/live.ts", max_reconnects=1, site_clock=StepClock()) as bench:
        assert sum(s.cut for s in play(bench, limit=150)) == 4


def test_waits_between_attempts_double_to_a_limit(tmp_path: Path) -> None:
    data, clock, asked = encode(tmp_path / "clip.ts", 5).read_bytes(), StepClock(), []

    def answer(handler: http.server.BaseHTTPRequestHandler, count: int) -> None:
        asked.append(clock.now())
        handler.send_response(200 if count == 0 else 503)
        handler.end_headers()
        if count == 0:
            handler.wfile.write(data)

    with (
        http_server(answer) as url,
        Bench("source.video", url=f"{url}/live.ts", max_reconnects=7, site_clock=clock) as bench,
        pytest.raises(MediaError),
    ):
        list(play(bench))
    waits = [(b - a) / 1e9 for a, b in pairwise(asked)]
    for wait, nominal in zip(waits, [0.25, 0.5, 1, 2, 2, 2, 2], strict=True):
        assert 0.75 * nominal <= wait <= 1.25 * nominal
    assert len({round(w / n, 3) for w, n in zip(waits, [0.25, 0.5, 1, 2, 2, 2, 2], strict=True)}) > 3, "with jitter"


PUSH = """
import sys, time
from fractions import Fraction
sys.path.insert(0, {here!r})
import av
from media_clips import numbered
end = time.monotonic() + 20
while time.monotonic() < end:
    try:
        out = av.open({url!r}, "w", format={format!r})
        stream = out.add_stream("libx264", rate=25, options={{"preset": "ultrafast", "tune": "zerolatency"}})
        stream.width, stream.height, stream.pix_fmt = 160, 90, "yuv420p"
        stream.codec_context.gop_size = 5
        for index in range(1 << 16):
            frame = av.VideoFrame.from_ndarray(numbered(index, 90, 160), "rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            out.mux(stream.encode(frame))
            time.sleep(0.01)
    except OSError:
        time.sleep(0.05)
"""


@pytest.mark.parametrize("kind", ["udp", "rtmp", "tcp"])
def test_streams_that_are_pushed_to_us(kind: str) -> None:
    port = free_port()
    url, options = {
        "udp": (f"udp://127.0.0.1:{port}?pkt_size=1316", {}),
        "rtmp": (f"rtmp://127.0.0.1:{port}/live/key", {"listen": "1"}),
        "tcp": (f"tcp://127.0.0.1:{port}", {"listen": "1"}),
    }[kind]
    script = PUSH.format(here=str(HERE), url=url, format="flv" if kind == "rtmp" else "mpegts")
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL) as pusher:
        try:
            with live(url.partition("?")[0], options=options, open_timeout=15.0, read_timeout=3.0) as bench:
                numbers = [number_of(s.picture) for s in take(play(bench), 8)]
        finally:
            pusher.kill()
    assert all(a < b for a, b in pairwise(numbers))


# ---------------------------------------------------------------- the drain


class Frames:
    """A reader that hands out given frames, then waits to be let go."""

    def __init__(self, frames: list[str]) -> None:
        self.given, self.go, self.closed, self.damaged = frames, threading.Event(), False, 0

    def decoded(self) -> Iterator[tuple[str, int]]:
        yield from ((f, i) for i, f in enumerate(self.given))
        self.go.wait(10)

    def close(self) -> None:
        self.closed = True


def test_the_newest_frame_is_what_a_slow_graph_gets() -> None:
    reader: Any = Frames([f"f{i}" for i in range(100)])
    drain = Drain(reader, StepClock(), lossy=True)
    until(lambda: drain.skipped == 99)
    item = drain.take(0)
    assert item is not None
    assert item[0] == "f99"
    assert drain.take(0) is None
    reader.go.set()
    until(lambda: drain.finished)
    assert reader.closed


def test_where_nothing_may_be_lost_the_reading_waits() -> None:
    reader: Any = Frames([f"f{i}" for i in range(100)])
    reader.go.set()
    drain = Drain(reader, StepClock(), lossy=False, keep=4)
    got = []
    while (item := drain.take(5)) is not None:
        got.append(item[0])
    assert got == [f"f{i}" for i in range(100)]
    assert drain.skipped == 0


def test_a_stopped_drain_lets_its_reader_go() -> None:
    reader: Any = Frames([f"f{i}" for i in range(100)])
    drain = Drain(reader, StepClock(), lossy=False, keep=2)
    drain.stop(5)
    assert reader.closed
