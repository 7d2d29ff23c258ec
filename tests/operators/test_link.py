"""The publisher under `sink.zmq`: its headers, the memory it borrows, and lanes that share a socket."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st
from zmq_graphs import SIDE, Running
from zmq_peers import until

from bindings.python import Subscriber, wire
from engine import Operator, operator
from engine.errors import OperatorError
from engine.graph import GraphBuilder
from engine.payload import Data, Image
from engine.pool import Lease, Pools
from engine.testing import Bench
from operators.link.header import Form, Headers, Place
from operators.link.held import hold, wait_for
from operators.link.publisher import Publisher, Settings, join, leave

LOCAL = "tcp://127.0.0.1:*"
LARGE, SMALL = (SIDE, SIDE, 3), (8, 8, 3)
FORM = Form("Image", "raw", "uint8", LARGE, "hwc", {"space": "srgb", "order": "rgb"})
PLACE = Place(1, 0, 2, 3, 0, wire.KEY)

# ---------------------------------------------------------------- headers

whole = st.integers(0, 2**63 - 1)
signed = st.integers(-(2**63), 2**63 - 1)
maps = st.dictionaries(st.text(max_size=8), st.floats(0, 1e6), max_size=3)
forms = st.sampled_from([
    FORM, FORM._replace(shape=(7, 9, 3)), FORM._replace(color={"space": "srgb", "order": "bgr"}), FORM._replace(enc="shm"),
    Form("Mask", "raw", "uint8", (4, 5)), Form("Latent", "raw", "float16", (1, 4, 6, 8)), Form("Pose", "msgpack"), Form("Text", "msgpack"),
])  # fmt: skip
places = st.builds(Place, whole, whole, signed, signed, whole, st.integers(0, 0xFFFF), maps, maps)


@given(st.lists(st.tuples(whole, whole, places, forms, whole, whole), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_headers_are_those_of_the_format(frames: list[Any]) -> None:
    """Frame after frame, whatever comes after whatever: to the byte what `wire.encode` writes."""
    headers = Headers("live", "0123456789abcdef")
    for n, sent, place, form, size, slot in frames:
        shm = wire.Shm("ring", slot, 640, 9, n) if form.enc == "shm" else None
        sizes = () if shm else (size,)
        frame = wire.Frame(
            stream="live", run="0123456789abcdef", n=n, sent=sent, size=sizes, shm=shm, **{**form._asdict(), "color": form.color or {}},
            **place._asdict(),
        )  # fmt: skip
        assert headers.pack(n, sent, place, form, sizes, shm) == wire.encode(frame)


def test_a_header_that_cannot_be_written_is_refused_and_the_next_is_not() -> None:
    headers = Headers("live", "0123456789abcdef")
    for meta, what in (({"x": object()}, "cannot be written"), ({"x": "x" * 70_000}, "more than 65536")):
        with pytest.raises(wire.WireError, match=what):
            headers.pack(0, 0, PLACE._replace(meta=meta), FORM, (1,))
    assert b"meta" not in headers.pack(0, 0, PLACE, FORM, (1,))


# ---------------------------------------------------------------- memory


def borrowed(pools: Pools, shape: tuple[int, ...]) -> Lease:
    lease = pools.take(shape, "uint8")
    lease.array[:] = 7
    return lease


@pytest.mark.parametrize("shape", [LARGE, SMALL])
def test_memory_comes_back_when_nobody_takes_the_frame(shape: tuple[int, ...]) -> None:
    pools, stream = Pools(), join(Settings(LOCAL), "live")
    try:
        for _ in range(20):
            lease = borrowed(pools, shape)
            assert stream.publish(FORM._replace(shape=shape), PLACE, (lease.array,), (lease,))
        until(lambda: pools.loaned == 0)
    finally:
        leave(stream, "eof")


def test_memory_comes_back_when_the_header_is_refused() -> None:
    pools, stream = Pools(), join(Settings(LOCAL), "live")
    lease = borrowed(pools, LARGE)
    try:
        with pytest.raises(wire.WireError) as refused:
            stream.publish(FORM, PLACE._replace(meta={"x": object()}), (lease.array,), (lease,))
        assert (pools.loaned, stream.count) == (0, 0)
    finally:
        leave(stream, "eof")
    assert refused.value.key == ""


def test_memory_comes_back_when_the_stream_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A subscriber that reads nothing holds frames; with the socket they go, and leaving waits for pyzmq to say so of each."""
    real = Lease.release
    monkeypatch.setattr(Lease, "release", lambda self: (time.sleep(0.02), real(self))[1])
    pools, stream = Pools(), join(Settings(LOCAL, hwm=4), "live")
    with zmq.Context() as context, context.socket(zmq.SUB) as deaf:
        deaf.setsockopt(zmq.RCVHWM, 1)
        deaf.setsockopt(zmq.LINGER, 0)
        deaf.setsockopt(zmq.RCVBUF, 4096)
        deaf.setsockopt(zmq.SUBSCRIBE, b"live/")
        deaf.connect(stream.publisher.endpoint)
        until(lambda: stream.subscribers)
        for _ in range(40):
            lease = borrowed(pools, LARGE)
            stream.publish(FORM, PLACE, (lease.array,), (lease,))
        until(lambda: pools.loaned < 20)
        assert pools.loaned > 2
        begun = time.monotonic()
        leave(stream, "eof")
        assert pools.loaned == 0
        assert time.monotonic() - begun < 10


def test_a_held_view_gives_back_once_and_last() -> None:
    pools, among = Pools(), set[int]()
    lease = borrowed(pools, SMALL)
    view = hold(lease.array, (lease,), among)
    crop = view[2:4]
    assert (pools.loaned, len(among)) == (1, 1)
    assert not wait_for(among, 0.01)
    del view
    assert pools.loaned == 1  # the crop still shows it
    del crop
    assert wait_for(among, 0)
    assert pools.loaned == 0


# ---------------------------------------------------------------- lanes that share a socket


def test_messages_of_many_lanes_do_not_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four lanes send as fast as they can on one socket, in parts: every message arrives whole, in its stream's order."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    real = zmq.Socket.send
    monkeypatch.setattr(zmq.Socket, "send", lambda self, *args, **more: (real(self, *args, **more), time.sleep(0))[0])
    names, count = ("a", "b", "c", "d"), 150
    streams = [join(Settings("tcp://127.0.0.1:*", hwm=10_000), names[0])]
    publisher = streams[0].publisher
    streams += [publisher.add(name, silent=False) for name in names[1:]]
    picture = np.full(LARGE, 5, np.uint8)
    how: Any = {"latest": False, "queue": 1000}
    with Subscriber(publisher.endpoint, "a", **how) as one, Subscriber(publisher.endpoint, "d", **how) as other:
        until(lambda: streams[0].subscribers and streams[3].subscribers)

        def send(stream: Any) -> None:
            for _ in range(count):
                stream.publish(FORM, PLACE, (picture,))

        lanes = [threading.Thread(target=send, args=(stream,)) for stream in streams]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()
        sys.setswitchinterval(interval)
        for frames in (one, other):
            assert [frames.read(20).n for _ in range(count)] == list(range(count))  # type: ignore[union-attr]
            assert frames.counts.refused == 0
    for stream in streams:
        leave(stream, "eof")
    assert not publisher._thread.is_alive()


def test_a_lossless_stream_that_waits_lets_others_go() -> None:
    """One lane waits for a subscriber that reads nothing. Another leaves the socket meanwhile, and is not held up by it."""
    waiting = join(Settings(LOCAL, hwm=1, lossless=True), "waiting")
    leaving = waiting.publisher.add("leaving", silent=False)
    over, full = threading.Event(), threading.Event()
    waiting.stopping = lambda: full.set() or over.is_set()  # it is asked each time that there was no room
    picture = np.full((1024, 1024, 3), 5, np.uint8)
    with zmq.Context() as context, context.socket(zmq.SUB) as deaf:
        deaf.setsockopt(zmq.RCVHWM, 1)
        deaf.setsockopt(zmq.LINGER, 0)
        deaf.setsockopt(zmq.SUBSCRIBE, b"waiting/")
        deaf.connect(waiting.publisher.endpoint)
        until(lambda: waiting.subscribers)

        def send() -> None:
            while waiting.publish(FORM._replace(shape=picture.shape), PLACE, (picture,)):
                pass

        lane = threading.Thread(target=send)
        lane.start()
        assert full.wait(20)
        other = threading.Thread(target=leave, args=(leaving, "eof"))
        other.start()
        other.join(20)
        assert not other.is_alive()
        assert lane.is_alive()  # it went while the lane waited, not because the lane had given up
        over.set()
        lane.join(20)
        assert not lane.is_alive()
    leave(waiting, "stopped")


# ---------------------------------------------------------------- what a frame has cost


@operator("test.link_takes")
class Takes(Operator):
    """The picture, `ms` later."""

    def __init__(self, *, ms: float = 5.0) -> None:
        self.ms = ms

    def __call__(self, image: Image) -> Image:
        self.site.sleep_until(self.site.clock.now() + round(self.ms * 1e6))
        return image


def test_clients_read_where_the_time_went() -> None:
    graph = GraphBuilder("g", clock="live")
    graph.node("film", "test.wire_film", period=40.0)
    graph.node("first", "test.link_takes", image="film", ms=3.0)
    graph.node("second", "test.link_takes", image="first", ms=9.0)
    graph.node("out", "sink.zmq", url=LOCAL, frame="second")
    with Running(graph) as run:
        stream = until(lambda: getattr(run.operator("out"), "stream", None))
        with Subscriber(stream.publisher.endpoint, latest=False) as frames:
            for _ in range(3):
                frame = frames.read(20)
                assert frame is not None
                assert list(frame.lat) == ["first", "second"]
                assert 3 <= frame.lat["first"] < 1000
                assert 9 <= frame.lat["second"] < 1000
                assert frame.lat["first"] + frame.lat["second"] <= (frame.header.sent - frame.header.born) / 1e6


def test_what_cannot_be_sent_ends_the_graph_and_keeps_no_memory() -> None:
    @operator("test.link_film_of_things")
    class Things(Operator):
        def __call__(self) -> Iterator[Data]:
            yield Data({"x": object()})

    graph = GraphBuilder("g", clock="offline")
    graph.node("things", "test.link_film_of_things")
    graph.node("out", "sink.zmq", url=LOCAL, frame="things", lossless=True)
    with Running(graph) as run:
        stream = until(lambda: getattr(run.operator("out"), "stream", None))
        with Subscriber(stream.publisher.endpoint, latest=False):
            run.join()
        error, run.error = run.error, None
        assert isinstance(error, OperatorError)


def test_who_comes_while_frames_fly_is_seen_by_the_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lane that sends takes the socket's news away from the thread, which is not told a second time: the lane looks for them itself."""
    monkeypatch.setattr(Publisher, "_run", lambda self: until(lambda: self._closing))
    with Bench("sink.zmq", url=LOCAL) as bench:
        stream, picture = bench.operator.stream, np.full(LARGE, 5, np.uint8)
        for count in (1, 2):
            with Subscriber(stream.publisher.endpoint) as frames:
                until(lambda: stream.publish(FORM, PLACE, (picture,)) and stream.subscribers)
                assert stream.joins == count
                assert stream.publish(FORM, PLACE, (picture,))
                assert frames.read(10) is not None
            until(lambda: stream.publish(FORM, PLACE, (picture,)) and not stream.subscribers)
