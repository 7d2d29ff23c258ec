"""Edges, joins and the gate against models a few lines long."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
import toys
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.clock import StepClock
from engine.graph import GraphBuilder
from engine.live.record import Recording
from engine.packet import Frame, Packet
from engine.payload import Scalar
from engine.plan import Edge
from engine.planning.compile import compile
from engine.run.channel import Channel
from engine.session import Session

QUICK = settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


class Books:
    """Consumer, producer, gate and session at once: counts what is held."""

    parked = False
    replay, segment = None, 0

    def __init__(self) -> None:
        self.held, self.recording, self.clock = 0, Recording(), StepClock()

    def wake(self, by: Any) -> None: ...
    def blame(self, frame: Any, cause: str) -> None: ...

    def hold(self, frame: Any, credit: bool) -> None:
        self.held += 1

    def release(self, frame: Any, credit: bool) -> None:
        self.held -= 1


@QUICK
@given(
    policy=st.sampled_from(["block", "latest", "drop-oldest"]), cap=st.integers(1, 4), every=st.integers(1, 3),
    moves=st.lists(st.sampled_from(["put", "put", "take", "bound", "cut"]), max_size=60),
)  # fmt: skip
def test_a_queue_is_its_model(policy: str, cap: int, every: int, moves: list[str]) -> None:
    books = Books()
    cap = 1 if policy == "latest" else cap
    edge = Edge(0, "p", "o", "n", "a", None, "trigger", policy=policy, cap=cap, every=every, credit=policy == "block")
    channel = Channel(edge, books, books)  # type: ignore[arg-type]
    model: deque[int] = deque()
    arrived = epoch = dropped = 0
    for seq, move in enumerate(moves):
        if move == "cut":
            epoch, arrived = epoch + 1, 0
        elif move == "bound":
            channel.put_bound(seq)
        elif move == "put":
            if channel.full:
                assert policy == "block"
                assert len(model) == cap
                continue
            channel.put(Packet(seq, seq, epoch, 0, Scalar(0.0), frame=Frame(seq, epoch, 0, books)))
            arrived += 1
            if (arrived - 1) % every:
                dropped += 1
                continue
            if len(model) == cap:
                model.popleft()
                dropped += 1
            model.append(seq)
        else:
            while (item := channel.pop()) is not None and type(item) is not Packet:
                pass
            assert (item.seq if item else None) == (model.popleft() if model else None)
            if type(item) is Packet:
                channel.done(item)
        assert [i.seq for i in channel.items if type(i) is Packet] == list(model)
        assert channel.packets == books.held == len(model) <= cap
        assert channel.balance == 0
    assert sum(channel.drops.values()) == dropped


@QUICK
@given(
    count=st.integers(1, 25), left=st.tuples(st.integers(1, 5), st.integers(0, 4)), right=st.tuples(st.integers(1, 5), st.integers(0, 4)),
    missing=st.sampled_from(["skip", "reuse", "default"]), threaded=st.booleans(), in_flight=st.integers(1, 4),
)  # fmt: skip
def test_a_join_is_its_model(
    count: int, left: tuple[int, int], right: tuple[int, int], missing: str, threaded: bool, in_flight: int
) -> None:  # fmt: skip
    g = GraphBuilder("join", clock="offline", in_flight=in_flight)
    g.node("src", "toy.count", count=count)
    g.node("l", "toy.odd", a="src", modulus=left[0], rest=left[1] % left[0])
    g.node("r", "toy.odd", a="src", modulus=right[0], rest=right[1] % right[0], lane="r")
    g.node("x", "toy.add", a="l", b={"from": "r", "missing": missing})
    g.node("sink", "toy.collect", a="x")
    session = Session(compile(g.build()), executor="threaded" if threaded else "inline")
    session.run()
    toys.settled(session)
    wanted, last = [], None
    for i in range(count):
        if i % left[0] != left[1] % left[0]:
            continue
        there = i % right[0] == right[1] % right[0]
        last = i if there else last
        if there:
            wanted.append(2.0 * i)
        elif missing == "default":
            wanted.append(float(i))
        elif missing == "reuse" and last is not None:
            wanted.append(float(i + last))
    assert toys.values(session) == wanted


@QUICK
@given(
    period=st.integers(1, 20), cost=st.integers(0, 60), in_flight=st.integers(1, 3), count=st.integers(1, 40),
)  # fmt: skip
def test_the_gate_is_its_model(period: int, cost: int, in_flight: int, count: int) -> None:
    """Whatever the load: every frame is accounted for, order is kept, and no frame is older than the queue in front of it allows."""
    g = GraphBuilder("gate", clock="live", in_flight=in_flight)
    g.node("cam", "toy.count", count=count, period=float(period), paced=True)
    g.node("x", "toy.add", a="cam")
    g.node("sink", "toy.collect", a="x")
    session = Session(compile(g.build()), executor="inline", costs={"x": cost * toys.MS})
    frames = session.run().frames
    toys.settled(session)
    taken = toys.taken(session)
    assert frames["in"] == count == frames["out"] + frames["drops"].get("gate", 0)
    assert [t.seq for t in taken] == sorted({t.seq for t in taken})
    assert taken[-1].seq == count - 1  # the newest always gets through
    assert max(t.at - t.pts for t in taken) <= ((in_flight + 1) * cost) * toys.MS
    if cost <= period:
        assert len(taken) == count


@pytest.mark.parametrize("executor", ["inline", "threaded"])
@QUICK
@given(cuts=st.lists(st.integers(0, 20), max_size=4), lanes=st.integers(1, 3))
def test_an_epoch_is_clean_everywhere(executor: str, cuts: list[int], lanes: int) -> None:
    g = GraphBuilder("epoch", clock="offline")
    g.node("src", "toy.count", count=20, cut_at=cuts)
    for name in ("a", "b", "c"):
        g.node(name, "toy.add", a="src", b=f"{name}@-1", lane=f"lane{ord(name) % lanes}")
        g.node(f"end_{name}", "toy.collect", a=name)
    session = Session(compile(g.build()), executor=executor)
    session.run()
    toys.settled(session)
    wanted, total = [], 0
    for i in range(20):
        total = i if i in cuts else total + i
        wanted.append(total)
    for name in ("a", "b", "c"):
        assert toys.values(session, f"end_{name}") == wanted
        assert [t.epoch for t in toys.taken(session, f"end_{name}")] == [sum(c <= i for c in set(cuts)) for i in range(20)]
