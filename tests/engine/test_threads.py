"""The threaded executor: one owner per operator, a watchdog that names what waits, and nothing left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import toys

from engine import Operator, operator
from engine.errors import RunError, StallError
from engine.graph import GraphBuilder
from engine.payload import Scalar
from engine.planning.compile import compile
from engine.run import threads
from engine.session import Session
from engine.site import Site


def graph(**settings: Any) -> GraphBuilder:
    g = GraphBuilder("test", **{"clock": "offline", **settings})
    g.node("src", "toy.count", count=30)
    return g


def test_an_operator_lives_on_one_thread() -> None:
    seen: dict[str, set[str]] = {}

    @operator("test.where")
    class Where(Operator):
        def __init__(self) -> None: ...

        def note(self) -> None:
            seen.setdefault(self.site.node, set()).add(threading.current_thread().name)

        def open(self, site: Site) -> None:
            super().open(site)
            self.note()

        def __call__(self, a: Scalar) -> Scalar:
            self.note()
            return a

        def reset(self) -> None:
            self.note()

        def flush(self) -> None:
            self.note()

        def close(self) -> None:
            self.note()

    g = graph()
    g.node("x", "test.where", a="src", lane="one")
    g.node("y", "test.where", a="x", lane="two")
    g.node("z", "test.where", a="y", lane="one")
    g.node("sink", "toy.collect", a="z")
    before = threading.active_count()
    session = Session(compile(g.build()), executor="threaded")
    session.reset()
    session.run()
    toys.settled(session)
    assert seen == {"x": {"lane one"}, "y": {"lane two"}, "z": {"lane one"}}
    assert threading.active_count() == before


def test_opening_is_a_barrier() -> None:
    """No frame is admitted before the last operator is open."""
    opened, early = threading.Event(), []

    @operator("test.opens_late")
    class Late(Operator):
        def __init__(self) -> None: ...

        def open(self, site: Site) -> None:
            super().open(site)
            early.extend(n for n, node in session.nodes.items() if node.count)
            opened.set()

        def __call__(self, a: Scalar) -> Scalar:
            assert opened.is_set()
            return a

    g = graph()
    g.node("x", "toy.add", a="src", lane="first")
    g.node("y", "test.opens_late", a="x", lane="second")
    g.node("sink", "toy.collect", a="y")
    session = Session(compile(g.build()), executor="threaded")
    session.run()
    assert early == []


def test_a_stall_names_who_waits_for_whom(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime that forgets to announce a dropped frame would wait for ever; the watchdog says where."""
    monkeypatch.setattr(threads, "STALL_S", 0.05)
    g = graph(in_flight=2)
    g.node("odd", "toy.odd", a="src", modulus=10, rest=9)
    g.node("join", "toy.add", a="src", b={"from": "odd", "missing": "default"})
    g.node("sink", "toy.collect", a="join")
    plan = compile(g.build())
    mute = replace(plan, edges=tuple(replace(e, bounds=False) for e in plan.edges))
    for executor in ("threaded", "inline"):
        session = Session(mute, executor=executor)
        with pytest.raises(StallError) as caught:
            session.run(tick_s=0.01)
        assert "nothing moves" in str(caught.value)
        assert set(caught.value.cycle) >= {"join", "odd"}
        assert caught.value.cycle[0] == caught.value.cycle[-1]
        assert " waits for ".join(caught.value.cycle) in str(caught.value)
        session.check()
        assert session.pools.loaned == 0


@operator("test.silent")
class Silent(Operator):
    """A source that makes a frame when the watchdog has looked `looks` times; the other port of a join waits for it."""

    ticks = threading.Semaphore(0)

    def __init__(self, *, looks: int = 4) -> None:
        self.looks = looks

    def __call__(self) -> Iterator[Scalar]:
        for i in range(3):
            for _ in range(self.looks):
                self.ticks.acquire()
            yield Scalar(float(i))


def test_a_source_that_is_silent_for_long_is_no_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "STALL_S", 0.0)
    g = graph()
    g.node("silent", "test.silent")
    g.node("join", "toy.pair", a="src", b="silent")
    g.node("sink", "toy.collect", a="join")
    session = Session(compile(g.build()), executor="threaded")
    session.run(lambda s: Silent.ticks.release(), tick_s=0.002)
    toys.settled(session)
    assert toys.values(session) == [0, 1001, 2002]


def test_an_operator_that_hangs_is_named_with_its_frame() -> None:
    g = graph()
    g.node("w", "toy.waits", a="src", at=5)
    g.node("sink", "toy.collect", a="w")
    session = Session(compile(g.build()), executor="threaded", hang_s=0.05)
    with pytest.raises(StallError) as caught:
        session.run(tick_s=0.01)
    assert "node w has been in frame 5" in str(caught.value)
    assert "stop.wait()" in str(caught.value)  # where it hangs
    toys.settled(session)


def test_what_is_no_exception_ends_the_run_at_once() -> None:
    @operator("test.exits")
    def exits(a: Scalar) -> Scalar:
        if a.value == 3:
            raise SystemExit(9)
        return a

    g = graph()
    g.node("x", "test.exits", a="src")
    g.node("sink", "toy.collect", a="x")
    session = Session(compile(g.build()), executor="threaded")
    with pytest.raises(RunError, match="lane main: SystemExit: 9"):
        session.run()
    toys.settled(session)
    assert session.nodes["sink"].operator.closed


def test_several_errors_are_all_told() -> None:
    g = graph()
    g.node("a", "toy.memory", a="src", broken="close")
    g.node("b", "toy.memory", a="src", broken="close", lane="other")
    g.node("sink", "toy.collect", a="a")
    g.node("end", "toy.collect", a="b")
    session = Session(compile(g.build()), executor="threaded")
    with pytest.raises(RunError) as caught:
        session.run()
    assert {"a", "b"} == {e.node for e in session.errors}  # type: ignore[attr-defined]
    assert any("also: node" in note for note in caught.value.__notes__)


def test_the_watchdog_ticks_while_operators_open() -> None:
    ticked = threading.Event()

    @operator("test.opens_when_ticked")
    class Opens(Operator):
        def __init__(self) -> None: ...

        def open(self, site: Site) -> None:
            super().open(site)
            assert ticked.wait(20)

        def __call__(self, a: Scalar) -> Scalar:
            return a

    g = graph()
    g.node("x", "test.opens_when_ticked", a="src")
    g.node("sink", "toy.collect", a="x")
    Session(compile(g.build()), executor="threaded").run(lambda s: ticked.set(), tick_s=0.002)


def test_live_threads_replay_inline() -> None:
    """A live run on real threads drops as it must; its recording replays to the same numbers."""
    g = GraphBuilder("live", clock="live", in_flight=1, seed=5)
    g.node("film", "toy.film", count=300)
    g.node("x", "toy.stir", a="film", b="x.image@-1", salt=1, skips=200)
    g.node("y", "toy.stir", a="x.image", lane="slow", salt=2)
    g.node("z", "toy.stir", a="x.image", b={"from": "y.image", "policy": "latest"}, salt=3, lane="z")
    g.node("wall", "toy.gallery", image="z.image")
    plan = compile(g.build())
    lived = Session(plan, executor="threaded", poison=True)
    lived.run()
    toys.settled(lived)
    again = Session(plan, executor="inline", poison=True, replay=lived.recording)
    again.run()
    toys.settled(again)
    assert toys.values(again, "wall") == toys.values(lived, "wall")
    assert again.summary().frames["in"] == lived.summary().frames["in"] == 300
