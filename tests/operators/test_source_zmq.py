"""`source.zmq`: another engine's frames, with their identity, times and ages; cuts, losses, and senders that are wrong or go away."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import toys  # noqa: F401  (registers its operators)
from zmq_graphs import Running, film
from zmq_peers import Publisher, flat, nothing_left, until

from bindings.python import Subscriber, curve, plain
from engine.errors import MediaError, OperatorError, UsageError
from engine.graph import GraphBuilder
from engine.operator import Operator, Stamped, operator
from engine.payload import Image, Latent, Mask, Pose, Prompt, Scalar, Text
from engine.testing import Bench, conform


@operator("test.wire_pairs")
class Pairs(Operator):
    """Keeps what came: (seq, pts, epoch, born, version, level)."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, int, int, int]] = []

    def __call__(self, image: Image) -> None:
        site = self.site
        self.seen.append((site.seq, site.pts, site.epoch, site.born, int(image.data[0, 0, 0])))


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with Publisher() as publisher:
        yield publisher


@pytest.fixture
def ports() -> tuple[str, str]:
    """Two addresses that are free."""
    import zmq

    found = []
    with zmq.Context() as context, context.socket(zmq.PUB) as one, context.socket(zmq.PUB) as two:
        for socket in (one, two):
            found.append(f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}")
    return found[0], found[1]


def chain(url: str, out: str = "", clock: str = "live", **given: Any) -> GraphBuilder:
    """A graph that takes frames from `url`, keeps what it saw, and sends them on to `out`."""
    graph = GraphBuilder("chain", clock=clock)
    graph.node("in", "source.zmq", url=url, **given)
    graph.node("pairs", "test.wire_pairs", image="in.image")
    if out:
        graph.node("out", "sink.zmq", url=out, frame="in.image", lossless=clock == "offline")
    return graph


# ---------------------------------------------------------------- from engine to engine


def test_a_chain_keeps_seq_pts_and_age(ports: tuple[str, str]) -> None:
    """Two engines, a client on each: the same frame has the same identity, times and pixels behind both."""
    first, second = ports
    graphs = Running(film(first, given={"period": 10.0})), Running(chain(first, second))
    with nothing_left(), graphs[0] as a, graphs[1], Subscriber(second, latest=False) as end:
        with Subscriber(first, latest=False, queue=1000) as begin:
            late = [end.read(20) for _ in range(40)]
            early = {frame.seq: frame for frame in (begin.read(20) for _ in range(20)) if frame}
            while max(early) < late[-1].seq:  # type: ignore[union-attr]
                frame = begin.read(20)
                assert frame is not None
                early[frame.seq] = frame
        both = [(early[frame.seq], frame) for frame in late if frame and frame.seq in early]
        assert len(both) > 20
        for source, frame in both:
            assert (frame.pts, frame.epoch) == (source.pts, source.epoch)
            assert abs(frame.header.born - source.header.born) < 20e6  # measured from clock to clock, twice
            assert (frame.array == frame.seq % 251).all()
        a.session.stop()
        for _ in end:
            pass
        assert end.end is not None  # the end went through both
        assert end.end.reason == "eof"


def test_an_offline_chain_loses_nothing(ports: tuple[str, str]) -> None:
    first, second = ports
    a = film(first, "offline", given={"frames": 60, "period": 0.0, "cut_at": [20, 40]}, lossless=True)
    with nothing_left(), Running(chain(first, second, "offline", queue=4)) as b, Subscriber(second, latest=False) as end, Running(a):
        frames = list(end)
        b.join()
        assert [frame.seq for frame in frames] == list(range(60))
        assert [frame.epoch for frame in frames] == [0] * 20 + [1] * 20 + [2] * 20
        assert [frame.seq for frame in frames if frame.header.discontinuity] == [0, 20, 40]
        assert all((frame.array == frame.seq % 251).all() for frame in frames)
        seen = b.seen("pairs")
        assert [(seq, pts) for seq, pts, *_ in seen] == [(seq, seq * 1000) for seq in range(60)]


def test_noise_is_the_same_on_both_sides(publisher: Publisher) -> None:
    """Ordinals are kept, gaps too, so random numbers keyed by them are those of the sender's graph."""
    with Running(chain(publisher.url, clock="offline")) as run:
        publisher.joined()
        for seq in (5, 6, 9, 40):
            publisher.frame(flat(seq), seq=seq, pts=seq * 1000)
        publisher.end()
        run.join()
        assert [(seq, level) for seq, *_, level in run.seen("pairs")] == [(5, 5), (6, 6), (9, 9), (40, 40)]
        run.check()


# ---------------------------------------------------------------- cuts


def test_epochs_and_restarts_are_cuts(publisher: Publisher) -> None:
    with Bench("source.zmq", url=publisher.url) as bench:
        publisher.joined()
        publisher.frame(flat(0), seq=10, pts=100, epoch=3)
        publisher.frame(flat(1), seq=11, pts=200, epoch=3)
        publisher.frame(flat(2), seq=12, pts=50, epoch=4)  # a reset there
        publisher.frame(flat(3), seq=13, pts=40, epoch=4)  # its time does not rise
        publisher.frame(flat(4), seq=14, pts=60, epoch=4)
        publisher.run, publisher.n = "e" * 16, 0
        publisher.frame(flat(5), seq=0, pts=0, epoch=0)  # started again
        publisher.frame(flat(6), seq=1, pts=10, epoch=0)
        publisher.end()
        got = bench.frames(20)
        assert [(frame.seq, frame.pts, frame.cut) for frame in got] == [
            (10, 100, False), (11, 200, False), (12, 50, True), (14, 60, False), (15, 0, True), (16, 10, False),
        ]  # fmt: skip
        assert [int(frame.value.image.data.max()) for frame in got] == [0, 1, 2, 4, 5, 6]
    assert ("missed", {"url": publisher.url, "stream": "live", "late": 1}) in bench.events


def test_live_takes_the_newest_and_offline_takes_all(publisher: Publisher) -> None:
    for live in (True, False):
        with Bench("source.zmq", url=publisher.url, site_live=live) as bench:
            publisher.joined()
            first = publisher.n
            for _ in range(10):
                publisher.frame(flat(publisher.n))
            until(lambda bench=bench: bench.operator.frames.counts.received == 10)
            frames = bench.frames(1 if live else 10)
            assert [frame.seq for frame in frames] == ([first + 9] if live else list(range(first, first + 10)))


def test_ages_come_along(publisher: Publisher) -> None:
    with Bench("source.zmq", url=publisher.url) as bench:
        publisher.joined()
        header = publisher.frame(flat(0))
        publisher.frame(flat(1), born=header.born - 500_000_000)
        publisher.frame(flat(2), born=header.born + 10**12)  # a clock that is ahead: nothing is younger than now
        frames = bench.frames(3)
        now = bench.site.clock.now()
        ages = [(now - frame.born) / 1e6 for frame in frames]
        assert 0 <= ages[0] < 20_000
        assert ages[1] - ages[0] > 400
        assert ages[2] == 0


# ---------------------------------------------------------------- payloads


def test_payloads_are_outputs_of_their_own(publisher: Publisher) -> None:
    people = np.linspace(0, 1, 54, dtype=np.float32).reshape(1, 18, 3)
    plains = {
        "Pose": plain.pose_map(people, (48, 64), 0.5), "Prompt": {"text": "a", "negative": "b", "blend": 3}, "Scalar": 0.25, "Text": "x",
        "Data": {"a": 1},
    }  # fmt: skip
    mask, latent = flat(9)[..., 0], np.ones((1, 4, 6, 8), np.float16)
    with Bench("source.zmq", url=publisher.url) as bench:
        publisher.joined()
        publisher.frame(mask, type="Mask", layout="", color={})
        publisher.frame(latent, type="Latent", layout="", color={})
        for kind, value in plains.items():
            packed = plain.pack(value)
            publisher.frame(mask, [packed], type=kind, enc="msgpack", dtype="", shape=(), layout="", color={}, size=(len(packed),))
        got = bench.frames(7)
    values = [next(value for value in frame.value if value is not None) for frame in got]
    assert [type(value).__name__ for value in values] == ["Mask", "Latent", *plains]
    by_kind: dict[str, Any] = {type(value).__name__: value for value in values}
    assert (by_kind["Mask"].data == mask).all()
    assert (by_kind["Latent"].data == latent).all()
    assert (by_kind["Pose"].people == people).all()
    assert (by_kind["Pose"].size, by_kind["Pose"].stability) == ((48, 64), 0.5)
    assert (by_kind["Prompt"], by_kind["Scalar"], by_kind["Text"]) == (Prompt("a", "b", 3), Scalar(0.25), Text("x"))
    assert dict(by_kind["Data"].values) == {"a": 1}
    assert all(sum(value is not None for value in frame.value) == 1 for frame in got)
    assert {Mask, Latent, Pose} <= {type(value) for value in values}


def test_pictures_become_rgb(publisher: Publisher) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    floats = np.ascontiguousarray(rgb.transpose(2, 0, 1).astype(np.float32) / 255)
    with Bench("source.zmq", url=publisher.url) as bench:
        publisher.joined()
        publisher.frame(np.ascontiguousarray(rgb[..., ::-1]), color={"space": "srgb", "order": "bgr"})
        publisher.frame(floats, layout="chw")
        for frame in bench.frames(2):
            image = frame.value.image
            assert (image.layout, image.color, str(image.data.dtype)) == ("hwc", "rgb", "uint8")
            assert (image.data == rgb).all()
        assert bench.site.stream.size == (6, 8)


def test_a_frame_without_the_output_that_a_join_waits_for(publisher: Publisher) -> None:
    """A stream that brings numbers only, and a node that joins them with pictures that never come: it goes on."""
    graph = GraphBuilder("g", clock="offline")
    graph.node("in", "source.zmq", url=publisher.url)
    graph.node("out", "test.wire_two", scalar="in.scalar", image={"from": "in.image", "missing": "default"})
    with Running(graph) as run:
        publisher.joined()
        for value in range(5):
            packed = plain.pack(float(value))
            publisher.frame(flat(0), [packed], type="Scalar", enc="msgpack", dtype="", shape=(), layout="", color={}, size=(len(packed),))
        publisher.end()
        run.join()
        assert run.session.summary().frames["in"] == 5
        run.check()


@operator("test.wire_two")
def two(scalar: Scalar, image: Image | None) -> None:
    """Takes a number, and a picture where there is one."""


# ---------------------------------------------------------------- senders that are wrong, or go away


def test_what_breaks_the_rules_is_passed_over(publisher: Publisher) -> None:
    with Bench("source.zmq", url=publisher.url) as bench:
        publisher.joined()
        publisher.send(b"noise")
        publisher.frame(flat(0), size=(1,))
        publisher.frame(flat(1), [b"no png"], enc="png", size=(6,))
        publisher.frame(flat(2))
        (frame,) = bench.frames(1)
        assert int(frame.value.image.data.max()) == 2
        assert bench.operator.tally()["refused"] == 2
    assert [what for what, _ in bench.events] == ["refused", "missed"]


def test_nobody_sends() -> None:
    nobody = Bench("source.zmq", url="tcp://127.0.0.1:9", open_timeout=0.3)
    with nothing_left(), nobody as bench, pytest.raises(MediaError, match="nobody answers"):
        bench.frames(1)


def test_no_such_stream(publisher: Publisher) -> None:
    other = Bench("source.zmq", url=publisher.url, stream="other", open_timeout=0.5)
    with other as bench, pytest.raises(MediaError, match="there is no such stream"):
        bench.frames(1)


@pytest.mark.parametrize("params", [{"url": "nonsense"}, {"stream": "a/b"}, {"key": "x"}])
def test_what_is_no_address(params: dict[str, Any]) -> None:
    with nothing_left(), pytest.raises(UsageError), Bench("source.zmq", **{"url": "tcp://127.0.0.1:1", **params}):
        pass


def test_a_sender_that_goes_away_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Publisher()
    with Running(chain(first.url, read_timeout=1.5)) as run:
        first.joined()
        first.frame(flat(1))
        until(lambda: run.seen("pairs"))
        first.close()
        until(lambda: run.events("lost"))
        with Publisher(url=first.url, run="d" * 16) as second:
            second.joined()
            second.frame(flat(2))
            until(lambda: len(run.seen("pairs")) == 2)
            assert run.events("reconnected")
            (_, _, before, *_), (_, _, after, *_) = run.seen("pairs")
            assert after == before + 1


def test_a_sender_that_stays_away() -> None:
    first = Publisher()
    with Running(chain(first.url, read_timeout=1.5, give_up=1.6)) as run:
        first.joined()
        first.frame(flat(1))
        until(lambda: run.seen("pairs"))
        first.close()
        run.join()
        error, run.error = run.error, None
    assert isinstance(error, OperatorError)
    assert "is lost" in str(error)


def test_stopping_does_not_wait_for_a_sender(publisher: Publisher) -> None:
    with Running(chain(publisher.url)) as run:
        publisher.joined()
        run.session.stop()
        run.join(5)


def test_keys_between_engines(ports: tuple[str, str], tmp_path: Any) -> None:
    server, friend, stranger = (curve.write(curve.generate(), tmp_path, name) for name in ("server", "friend", "stranger"))
    sender = film(ports[0], given={"period": 10.0}, key=str(server[1]), allow=[str(friend[0])])
    with Running(sender), Running(chain(ports[0], server_key=str(server[0]), key=str(friend[1]))) as run:
        until(lambda: len(run.seen("pairs")) > 5)
        other = Bench("source.zmq", url=ports[0], server_key=str(server[0]), key=str(stranger[1]), open_timeout=0.7)
        with other as bench, pytest.raises(MediaError, match="not on its list"):
            bench.frames(1)


def test_the_kit(publisher: Publisher) -> None:
    """With a sender that never rests."""
    stop = threading.Event()

    def send() -> None:
        while not stop.wait(0.005):
            publisher.frame(flat(publisher.n))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        conform("source.zmq", url=publisher.url, seeded=False)
    finally:
        stop.set()
        thread.join()


def test_stamps_with_an_ordinal() -> None:
    """The engine's side: an ordinal is used where it rises, and counted on from where it is not given."""

    @operator("test.wire_stamps")
    class Stamps(Operator):
        """Ordinals of its own."""

        def __init__(self) -> None: ...

        def __call__(self) -> Iterator[Scalar]:
            for pts, seq in enumerate([3, 4, None, 2, 9]):
                yield Stamped(Scalar(0.0), pts=pts, seq=seq)  # type: ignore[misc]

    @operator("test.wire_ordinals")
    class Ordinals(Operator):
        """Keeps them."""

        def __init__(self) -> None:
            self.seen: list[int] = []

        def __call__(self, scalar: Scalar) -> None:
            self.seen.append(self.site.seq)

    for executor in ("inline", "threaded"):
        graph = GraphBuilder("g", clock="offline")
        graph.node("in", "test.wire_stamps")
        graph.node("out", "test.wire_ordinals", scalar="in")
        with Running(graph, executor=executor) as run:
            run.join()
            assert run.operator("out").seen == [3, 4, 5, 6, 9]
