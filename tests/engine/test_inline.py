"""The live runtime on the step clock: ages, drops and lanes, to the millisecond, computed by hand."""

from __future__ import annotations

from typing import Any

import pytest
import toys

from engine.clock import RealClock
from engine.errors import UsageError
from engine.graph import GraphBuilder
from engine.planning.compile import compile
from engine.session import Session

MS = toys.MS


def live(count: int = 40, period: float = 10.0, **settings: Any) -> GraphBuilder:
    g = GraphBuilder("live", **{"clock": "live", **settings})
    g.node("cam", "toy.count", count=count, period=period, paced=True)
    return g


def play(g: GraphBuilder, **costs: float) -> Session:
    session = Session(compile(g.build()), executor="inline", costs={name: round(ms * MS) for name, ms in costs.items()})
    session.run()
    toys.settled(session)
    return session


def ages(session: Session, sink: str = "sink") -> list[float]:
    """Milliseconds from capture to the end of the sink's call; toy sources are born at seq * period."""
    return [(t.at - t.pts) / MS for t in toys.taken(session, sink)]


def test_a_graph_that_keeps_up_drops_nothing() -> None:
    g = live()
    g.node("x", "toy.add", a="cam")
    g.node("sink", "toy.collect", a="x")
    session = play(g, x=7)
    assert ages(session) == [7.0] * 40
    assert session.summary().frames == {"in": 40, "out": 40, "in_flight": 0, "drops": {}}
    assert session.summary().age_ms == {"p50": 7.0, "p95": 7.0, "p99": 7.0}


@pytest.mark.parametrize(("in_flight", "steady"), [(1, 30.0), (2, 55.0), (3, 80.0)])
def test_age_is_bounded_by_what_may_be_under_way(in_flight: int, steady: float) -> None:
    """One node of 25 ms, a frame every 10: with n frames under way a frame waits for n - 1 calls, one in progress, and the gate's rhythm."""
    g = live(in_flight=in_flight)
    g.node("x", "toy.add", a="cam")
    g.node("sink", "toy.collect", a="x")
    session = play(g, x=25)
    assert max(ages(session)) <= 25.0 * in_flight + 10.0
    assert ages(session)[-2] <= steady + 5.0
    frames = session.summary().frames
    assert frames["out"] + frames["drops"]["gate"] == 40
    assert frames["out"] == pytest.approx(400 / 25, abs=in_flight)


def test_the_gate_keeps_the_newest() -> None:
    """A node of 35 ms, one frame under way: it is free at 35, 70, 105, … and takes the newest frame there is."""
    g = live(in_flight=1, count=15)
    g.node("x", "toy.add", a="cam")
    g.node("sink", "toy.collect", a="x")
    session = play(g, x=35)
    assert [t.seq for t in toys.taken(session)] == [0, 3, 7, 10, 14]
    assert [t.at / MS for t in toys.taken(session)] == [35, 70, 105, 140, 175]
    assert session.summary().frames["drops"] == {"gate": 10}


def test_two_lanes_overlap() -> None:
    """Two nodes of 10 ms on two lanes work on two frames at once: the rate is that of one of them."""
    one = live(in_flight=2)
    one.node("x", "toy.add", a="cam")
    one.node("y", "toy.add", a="x")
    one.node("sink", "toy.collect", a="y")
    two = live(in_flight=2)
    two.node("x", "toy.add", a="cam", lane="a")
    two.node("y", "toy.add", a="x", lane="b")
    two.node("sink", "toy.collect", a="y")
    assert play(two, x=10, y=10).summary().frames["out"] == 40
    assert play(one, x=10, y=10).summary().frames["out"] == pytest.approx(20, abs=2)


@pytest.mark.parametrize("slow_ms", [3.0, 47.0, 400.0])
@pytest.mark.parametrize("every", [1, 4])
def test_the_slow_lane_never_delays_the_fast_one(slow_ms: float, every: int) -> None:
    """Frame by frame, the fast lane's times are the same with the slow branch, whatever that costs, and without."""

    def graph(*, branch: bool) -> GraphBuilder:
        g = live(count=60, period=10.0)
        g.node("pose", "toy.add", a="cam", lane="pose")
        g.node("paint", "toy.add", a="pose", b={"from": "refine", "hold": 0.0} if branch else None)
        if branch:
            g.node("refine", "toy.add", a={"from": "paint", "every": every}, amount=0.25, lane="slow")
        g.node("sink", "toy.collect", a="paint")
        return g

    def times(session: Session) -> list[tuple[int, int]]:
        return [(t.seq, t.at) for t in toys.taken(session)]

    costs = {"pose": 4.0, "paint": 13.0}
    g = graph(branch=True)
    fast = times(play(graph(branch=False), **costs))
    both = play(g, **costs, refine=slow_ms)
    assert times(both) == fast
    assert both.nodes["refine"].count > 0
    assert toys.values(both) != [t.value for t in toys.taken(play(graph(branch=False), **costs))]  # and its word arrives


def test_the_slow_lane_samples_the_newest() -> None:
    g = live(count=20)
    g.node("x", "toy.add", a="cam")
    g.node("s", "toy.add", a="x", lane="slow")
    g.node("sink", "toy.collect", a="x")
    g.node("end", "toy.collect", a="s", lane="slow")
    session = play(g, s=34)
    assert [t.seq for t in toys.taken(session)] == list(range(20))
    assert [t.seq for t in toys.taken(session, "end")] == [0, 3, 6, 10, 13, 16, 19]
    channel = next(c for c in session.channels if c.edge.node == "s")
    assert channel.drops == {"stale": 13}
    assert session.summary().frames["out"] == 20  # a frame that reached a sink on another way is no drop


def test_drop_oldest_keeps_the_last_few() -> None:
    g = live(count=10, in_flight=2)
    g.node("x", "toy.add", a={"from": "cam", "policy": "drop-oldest", "cap": 3})
    g.node("sink", "toy.collect", a="x")
    session = play(g, x=10**4)
    assert [t.seq for t in toys.taken(session)] == [0, 7, 8, 9]
    assert session.summary().frames["drops"] == {"overflow": 6}


def test_every_counts_what_arrives() -> None:
    g = live(count=10)
    g.node("x", "toy.odd", a="cam")
    g.node("sink", "toy.collect", a={"from": "x", "every": 2})
    session = play(g)
    assert toys.values(session) == [1, 5, 9]
    assert session.summary().frames["drops"] == {"sampled": 2, "skipped": 5}


def test_a_reset_drops_what_is_older_at_the_next_edge() -> None:
    """Live: nothing of the old epoch passes an edge after the first frame of the new one was admitted."""
    g = GraphBuilder("live", clock="live", in_flight=3)
    g.node("cam", "toy.count", count=12, period=10.0, paced=True, cut_at=[6])
    g.node("x", "toy.memory", a="cam", lane="a")
    g.node("y", "toy.memory", a="x", lane="b")
    g.node("sink", "toy.collect", a="y")
    session = play(g, x=9.0, y=9.0)
    cut_at = 60 * MS
    for t in toys.taken(session):
        assert t.epoch == (1 if t.seq >= 6 else 0)
        assert t.epoch == 1 or t.at <= cut_at
    assert 5 not in [t.seq for t in toys.taken(session)]
    assert session.summary().frames["drops"] == {"epoch": 1}
    first = next(t for t in toys.taken(session) if t.epoch == 1)
    assert (first.seq, first.value) == (6, 6.0)  # both memories were clean


def test_frames_whose_time_does_not_rise_are_late() -> None:
    g = GraphBuilder("live", clock="live")
    g.node("cam", "toy.count", count=6, pts=[0, 10, 10, 5, 11, 3], cut_at=[5])
    g.node("sink", "toy.collect", a="cam")
    session = play(g)
    assert [t.seq for t in toys.taken(session)] == [0, 1, 4, 5]  # a cut may set the time back
    assert session.summary().frames["drops"] == {"late": 2}


def test_the_same_run_twice() -> None:
    def one() -> Session:
        g = live(count=50, period=7.0, in_flight=2, seed=3)
        g.node("x", "toy.noise", a="cam")
        g.node("y", "toy.add", a="x", b={"from": "z", "hold": 0.0}, lane="b")
        g.node("z", "toy.add", a="y", lane="slow")
        g.node("sink", "toy.collect", a="y")
        return play(g, x=11, y=5, z=30)

    first, second = one(), one()
    assert toys.taken(first) == toys.taken(second)
    assert first.recording == second.recording
    assert first.summary() == second.summary()


def test_operators_may_move_the_clock_themselves() -> None:
    g = live(count=3)
    g.node("x", "toy.late", a="cam", cost=4)
    g.node("sink", "toy.collect", a="x")
    assert ages(play(g)) == [4.0, 4.0, 4.0]


def test_it_runs_on_a_step_clock_only() -> None:
    g = live()
    g.node("sink", "toy.collect", a="cam")
    with pytest.raises(UsageError, match="StepClock"):
        Session(compile(g.build()), executor="inline", clock=RealClock()).run()
