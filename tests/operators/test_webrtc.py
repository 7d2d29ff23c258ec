"""`sink.webrtc` and `source.webrtc` with aiortc peers in processes of their own, and the HTTP endpoint against what is no request."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from media_clips import number_of, play
from push_peers import Program, Watched, nothing_left, posix

from engine.clock import RealClock
from engine.errors import MediaError, UsageError
from engine.testing import Bench, conform
from operators.webrtc.endpoint import MAX_BODY, Denied, Endpoint, Where, parse_where

pytest.importorskip("aiortc")


class Peer(Program):
    """tests/operators/webrtc_peer.py."""

    def __init__(self, what: str, url: str, token: str) -> None:
        super().__init__("webrtc_peer.py", what, url, token)
        self.seen: list[str] = []

    def has(self, count: int) -> Callable[[], bool]:
        def enough() -> bool:
            while not self.lines.empty():
                self.seen.append(self.lines.get())
            return len(self.seen) >= count

        return enough


@pytest.fixture
def peer() -> Iterator[Callable[..., Peer]]:
    made: list[Peer] = []

    def start(what: str, operator: Any, token: str = "") -> Peer:
        made.append(Peer(what, operator.address, token or operator.token))
        return made[-1]

    yield start
    for one in made:
        one.kill()


def test_two_viewers_share_one_encode_and_nothing_is_made_without_them(peer: Callable[..., Peer]) -> None:
    url = "http://127.0.0.1:0/live"
    with Bench("sink.webrtc", url=url, site_live=True, site_clock=RealClock()) as bench:
        feed = Watched(bench)
        feed.until(lambda: feed.count >= 5)
        assert feed.unwatched == 5
        stranger = peer("watch", bench.operator, "wrong")
        first, second = peer("watch", bench.operator), peer("watch", bench.operator)
        feed.until(first.has(15))
        feed.until(second.has(15))
        assert bench.operator.outlet.facts["viewers"] == 2
        feed.until(stranger.has(1))
        assert stranger.seen == ["refused 401"]
    for viewer in (first, second):
        pictures = [tuple(map(int, line.split())) for line in viewer.seen[:15]]
        assert all(a[0] < b[0] for a, b in pairwise(pictures)), pictures
        (a, at), (b, then) = pictures[2], pictures[-1]
        assert then - at == pytest.approx((b - a) * 40, abs=3)
    assert feed.slowest < 1.0
    nothing_left()


@posix
@pytest.mark.slow
def test_a_viewer_that_is_killed_is_let_go(peer: Callable[..., Peer]) -> None:
    """A killed browser says no farewell; ICE's own checks find out."""
    with Bench("sink.webrtc", url="http://127.0.0.1:0/live?token=abc", site_live=True, site_clock=RealClock()) as bench:
        assert "abc" not in repr(bench.events) + repr(bench.outputs)
        feed = Watched(bench)
        viewer = peer("watch", bench.operator)
        feed.until(viewer.has(3))
        viewer.process.send_signal(signal.SIGKILL)
        feed.until(lambda: bench.operator.outlet.facts["viewers"] == 0, 60)


def test_a_publisher_is_read_and_the_next_one_comes_behind_a_cut(peer: Callable[..., Peer]) -> None:
    """A publisher that crashed is not waited for: the next one takes its place."""
    with Bench("source.webrtc", url="http://127.0.0.1:0/live", site_live=True, site_clock=RealClock()) as bench:
        shown = play(bench)
        peer("send", bench.operator)
        before = [next(shown) for _ in range(10)]
        peer("send", bench.operator)
        after = []
        while not after or not after[-1].cut:
            after.append(next(shown))
        after += [next(shown) for _ in range(5)]
    numbers = [number_of(s.picture) for s in before]
    assert all(a < b for a, b in pairwise(numbers))
    assert before[0].picture.shape == (180, 320, 3)
    assert all(a.pts < b.pts for a, b in pairwise([*before, *after]))
    assert sum(s.cut for s in after) == 1
    assert number_of(after[-6].picture) < 20, "the second publisher counts from its own start"
    assert bench.operator.tally()["publishers"] == 2


def test_a_publisher_that_leaves_is_told(peer: Callable[..., Peer]) -> None:
    with Bench("source.webrtc", url="http://127.0.0.1:0/live", site_live=True, site_clock=RealClock(), patience=30.0) as bench:
        sender = peer("send", bench.operator)
        shown = play(bench)
        next(shown)
        (name,) = bench.operator.ingest.peers.by_name
        headers = {"Authorization": f"Bearer {bench.operator.token}"}
        gone = urllib.request.Request(f"{bench.operator.address}/{name}", headers=headers, method="DELETE")
        with urllib.request.urlopen(gone, timeout=10) as answer:
            assert answer.status == 200
        bench.operator.patience = 0.5
        with pytest.raises(MediaError, match="nobody sent"):
            list(shown)
        limit = time.monotonic() + 20
        while not (sender.has(1)() and "closed" in sender.seen):
            assert time.monotonic() < limit
            threading.Event().wait(0.02)
    assert "lost" in [what for what, _ in bench.events]


def test_patience_ends() -> None:
    with Bench("source.webrtc", url="http://127.0.0.1:0/live", patience=0.2) as bench, pytest.raises(MediaError, match="nobody sent"):
        next(iter(bench()))


def test_stop_is_quick() -> None:
    with Bench("source.webrtc", url="http://127.0.0.1:0/live") as bench:
        bench.site.stop.set()
        assert list(bench()) == []


@pytest.mark.slow
def test_conformance() -> None:
    conform("sink.webrtc", url="http://127.0.0.1:0/live")
    nothing_left()


# ---------------------------------------------------------------- the endpoint


def requests(*texts: bytes) -> list[int]:
    """The status each request is answered with; 0 for none."""

    async def post(offer: str) -> tuple[str, str]:
        if offer != "v=0":
            raise Denied(422, "no offer")
        return "answer", "r1"

    async def delete(resource: str) -> bool:
        return resource == "r1"

    async def run() -> list[int]:
        endpoint = Endpoint(Where("127.0.0.1", 0, "/live", "tok"), post, delete)
        port = await endpoint.listen()
        found = []
        for text in texts:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(text)
            writer.write_eof()
            try:
                answer = await asyncio.wait_for(reader.read(), 10)
            except ConnectionError:
                answer = b""
            found.append(int(answer.split()[1]) if answer else 0)
            writer.close()
        endpoint.close()
        return found

    return asyncio.run(run())


def test_requests_and_their_answers() -> None:
    auth, sdp = b"Authorization: Bearer tok\r\n", b"Content-Type: application/sdp\r\n"
    cases = [
        (b"POST /live HTTP/1.1\r\n" + auth + sdp + b"Content-Length: 3\r\n\r\nv=0", 201),
        (b"POST /live HTTP/1.1\r\n" + auth + sdp + b"Content-Length: 3\r\n\r\nxyz", 422),
        (b"POST /live HTTP/1.1\r\n" + sdp + b"Content-Length: 3\r\n\r\nv=0", 401),
        (b"POST /live HTTP/1.1\r\nAuthorization: Bearer t\r\n" + sdp + b"Content-Length: 3\r\n\r\nv=0", 401),
        (b"POST /live HTTP/1.1\r\nAuthorization: Basic tok\r\n" + sdp + b"Content-Length: 3\r\n\r\nv=0", 401),
        (b"POST /live HTTP/1.1\r\n" + auth + b"Content-Length: 3\r\n\r\nv=0", 415),
        (b"POST /live HTTP/1.1\r\n" + auth + sdp + b"\r\n", 400),
        (b"POST /live HTTP/1.1\r\n" + auth + sdp + b"Content-Length: %d\r\n\r\n" % (MAX_BODY + 1), 413),
        (b"POST /live HTTP/1.1\r\n" + auth + sdp + b"Content-Length: 9\r\n\r\nv=0", 0),
        (b"POST /other HTTP/1.1\r\n" + auth + b"\r\n", 404),
        (b"GET /live HTTP/1.1\r\n" + auth + b"\r\n", 405),
        (b"DELETE /live/r1 HTTP/1.1\r\n" + auth + b"\r\n", 200),
        (b"DELETE /live/r2 HTTP/1.1\r\n" + auth + b"\r\n", 404),
        (b"OPTIONS /live HTTP/1.1\r\n\r\n", 204),
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", 400),
        (b"\xff\xfe\r\n\r\n", 400),
        (b"GET /live HTTP/1.1\r\n", 0),
    ]
    assert requests(*(text for text, _ in cases)) == [status for _, status in cases]


def test_where_it_may_listen() -> None:
    assert parse_where("http://127.0.0.1:1/live?token=a", insecure=False).token == "a"
    assert len(parse_where("http://127.0.0.1:1/live", insecure=False).token) > 16
    assert parse_where("http://0.0.0.0:1/live?token=a", insecure=False).host == "0.0.0.0"
    for wrong in ("http://0.0.0.0:1/live", "https://127.0.0.1:1/live", "http://127.0.0.1/live", "http://127.0.0.1:1", "http://h:x/live"):
        with pytest.raises(UsageError):
            parse_where(wrong, insecure=False)
