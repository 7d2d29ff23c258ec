"""`sink.tap`: the newest picture for watchers, nothing while there are none, and a graph that does not notice."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import toys

from engine.graph import GraphBuilder, Input, Ref
from engine.payload import Image
from engine.planning.compile import compile
from engine.session import Session
from engine.testing import Bench
from operators.sink.tap import Mailbox, forget, mailbox


def plain(value: int) -> Image:
    return Image(np.full((4, 6, 3), value, np.uint8))


def test_hands_out_the_newest_picture_as_a_copy() -> None:
    with Bench("sink.tap") as bench:
        assert bench.operator.mailbox.latest() is None
        given = plain(7)
        bench(plain(3), seq=4)
        bench(given, seq=9)
        seen = bench.operator.mailbox.latest()
        given.data[:] = 0  # the buffer goes back to its pool and is written to again
        assert (seen.picture == 7).all()
        assert (seen.seq, seen.count) == (9, 2)


def test_is_wanted_only_while_somebody_watches() -> None:
    with Bench("sink.tap") as bench:
        box = bench.operator.mailbox
        assert not bench.operator.wanted()
        with box.watching(), box.watching():
            assert (box.watchers, bench.operator.wanted()) == (2, True)
        assert not bench.operator.wanted()


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_takes_pictures_as_they_are_stored(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    red = torch.zeros((1, 3, 4, 6), dtype=getattr(torch, dtype))
    red[:, 0] = 255 if dtype == "uint8" else 1
    with Bench("sink.tap") as bench:
        bench(Image(red, "chw", "rgb"))
        assert bench.operator.mailbox.latest().picture.tolist() == np.full((4, 6, 3), (255, 0, 0)).tolist()
        bench(Image(red, "chw", "bgr"))
        assert (bench.operator.mailbox.latest().picture == (0, 0, 255)).all()


def test_waiting_ends_with_a_picture_a_deadline_or_the_tap() -> None:
    box = Mailbox()
    assert box.next(0, timeout=0.0) is None
    for give, seq in ((lambda: box.put(np.zeros((2, 2, 3), np.uint8), seq=5), 5), (box.end, None)):
        found: list[Any] = []
        waiter = threading.Thread(target=lambda found=found, after=box._count: found.append(box.next(after, timeout=20)))
        waiter.start()
        give()
        waiter.join(20)
        assert [seen and seen.seq for seen in found] == [seq]
    assert box.fresh(timeout=0.0).seq == 5  # closed: the last picture stays


def test_a_slow_watcher_meets_the_newest() -> None:
    box = Mailbox()
    for seq in range(50):
        box.put(np.zeros((1, 1, 3), np.uint8), seq=seq)
    assert box.next(3, timeout=0.0).seq == 49
    assert box.next(50, timeout=0.0) is None


def test_mailboxes_have_names_and_outlive_their_taps() -> None:
    try:
        with Bench("sink.tap", box="test-a") as bench:
            bench(plain(1))
        assert mailbox("test-a").latest().seq == 0
        assert mailbox("test-a").ended
        with Bench("sink.tap", box="test-a") as again:
            assert again.operator.mailbox is bench.operator.mailbox
            assert not again.operator.mailbox.ended
        assert mailbox("test-b") is not mailbox("test-a")
    finally:
        forget("test-a")
        forget("test-b")


def test_a_mailbox_goes_on_when_a_new_tap_opens_before_the_old_one_closes() -> None:
    try:
        with ExitStack() as new:
            with Bench("sink.tap", box="test-c"):
                bench = new.enter_context(Bench("sink.tap", box="test-c"))
            assert not mailbox("test-c").ended
            bench(plain(4))
            assert mailbox("test-c").next(0, timeout=0.0) is not None
            assert mailbox("test-c").next(1, timeout=0.0) is None
        assert mailbox("test-c").ended
    finally:
        forget("test-c")


def film(**tap: Any) -> Session:
    graph = GraphBuilder("film", clock="live")
    graph.node("film", "toy.film", count=40, period=5.0, paced=True)
    graph.node("out", "sink.null", image="film")
    graph.node("eye", "sink.tap", image=Input("image", (Ref("film"),), policy="latest"), lane="preview", **tap)
    return Session(compile(graph.build()), executor="inline")


def test_nothing_arrives_unless_somebody_watches_and_the_sink_gets_the_same() -> None:
    counts = {}
    for watched in (False, True):
        session = film(box="test-film")
        box = mailbox("test-film")
        try:
            with box.watching() if watched else Bench("sink.null"):
                summary = session.run()
            session.check()
            counts[watched] = summary.nodes["out"]["count"], summary.frames["out"], summary.nodes["eye"]["count"]
            edge = next(e for e in summary.edges if e["to"].startswith("eye"))
            assert edge["drops"].get("unwatched", 0) == (0 if watched else 40)
            latest = box.latest()
            if watched:
                assert (latest.seq, toys.number(Image(latest.picture))) == (39, toys.mix("film", 39))
            else:
                assert latest is None
        finally:
            forget("test-film")
    assert counts == {False: (40, 40, 0), True: (40, 40, 40)}
