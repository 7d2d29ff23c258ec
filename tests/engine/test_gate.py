"""The gate: credits, the newest frame, and when a source may go on."""

from __future__ import annotations

from typing import Any

import pytest
import toys

from engine.graph import GraphBuilder
from engine.planning.compile import compile
from engine.session import Session


def sessions(executor: str = "inline", *, clock: str = "offline", count: int = 10, in_flight: int = 2, **costs: int) -> Session:
    g = GraphBuilder("gate", clock=clock, in_flight=in_flight)
    g.node("src", "toy.count", count=count, paced=clock == "live")
    g.node("x", "toy.add", a="src")
    g.node("sink", "toy.collect", a="x")
    return Session(compile(g.build()), executor=executor, costs=costs)


@pytest.mark.parametrize("executor", ["inline", "threaded"])
@pytest.mark.parametrize("in_flight", [1, 2, 5])
def test_no_more_under_way_than_credits(executor: str, in_flight: int) -> None:
    session = sessions(executor, in_flight=in_flight, count=60, x=5)
    gate, least = session.gates["src"], []
    admit = gate._admit

    def watched(offer: Any) -> None:
        admit(offer)
        least.append(gate.credits)

    gate._admit = watched  # type: ignore[method-assign]
    session.run()
    toys.settled(session)
    assert min(least) >= 0
    assert len(least) == 60
    assert gate.credits == in_flight


def test_conservation_holds_at_every_moment() -> None:
    session = sessions(clock="live", count=60, x=3_500_000)
    seen: list[int] = []

    def tick(s: Session) -> None:
        frames = s.summary().frames
        assert frames["in"] == frames["out"] + frames["in_flight"] + sum(frames["drops"].values())
        seen.append(frames["in_flight"])

    session.run(tick)
    toys.settled(session)
    assert max(seen) == 3  # two admitted, one in the slot


def test_a_frame_that_waits_when_all_is_given_up_is_dropped_at_the_gate() -> None:
    session = sessions(clock="live", count=60, in_flight=1, x=50_000_000)
    session.run(lambda s: s.stop(drain=False) if s.gates["src"].entered == 5 else None)
    toys.settled(session)
    assert session.summary().frames["drops"]["gate"] >= 1


def test_two_sources_keep_in_step_offline() -> None:
    """A cut in one meets the same frames of the other in every run, however the threads go."""
    seen = set()
    for _ in range(5):
        g = GraphBuilder("two", clock="offline", in_flight=3)
        g.node("one", "toy.count", count=12, cut_at=[5])
        g.node("two", "toy.count", count=12)
        g.node("m", "toy.memory", a="two", lane="other")
        g.node("end", "toy.collect", a="one")
        g.node("sink", "toy.collect", a="m")
        session = Session(compile(g.build()), executor="threaded")
        session.run()
        toys.settled(session)
        seen.add(tuple(toys.values(session)))
        assert [t.epoch for t in toys.taken(session)] == [0] * 5 + [1] * 7
    assert len(seen) == 1
