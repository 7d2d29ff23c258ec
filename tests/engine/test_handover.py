"""What only one can hold, a camera or a port, across a reload: the old node closes before the new one opens, and opens again if that fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import toys
from test_reload import Script, Stuck, play, replayed
from toys import BOTH

from engine import Operator, Stamped, operator
from engine.errors import DeviceError
from engine.graph import GraphBuilder
from engine.payload import Scalar
from engine.plan import Plan
from engine.planning.compile import compile
from engine.session import Session
from engine.site import Site
from engine.trace import joined

HELD: dict[str, str] = {}  # port to who has it
NOTES: list[str] = []


class Holder(Operator):
    """Takes a port that is there once."""

    def __init__(self, *, port: str = "one", tag: str = "", bad: bool = False) -> None:
        self.port, self.tag, self.bad = port, tag, bad

    @classmethod
    def exclusive(cls, params: Mapping[str, Any]) -> str | None:
        return f"port {params['port']}"

    def open(self, site: Site) -> None:
        super().open(site)
        if self.port in HELD:
            raise DeviceError(f"{self.port} is taken by {HELD[self.port]}")
        HELD[self.port] = site.node
        NOTES.append(f"+{site.node}{self.tag}")
        if self.bad:
            raise DeviceError("it does not answer")

    def close(self) -> None:
        if HELD.pop(self.port, None) is not None:
            NOTES.append(f"-{self.site.node}{self.tag}")


@operator("toy.tried_bound")
class Bound(Holder):
    """A sink at a port."""

    def __call__(self, a: Scalar) -> None:
        assert HELD[self.port] == self.site.node
        self.got = [*getattr(self, "got", []), a.value]

    def flush(self) -> None:
        NOTES.append(f"flush {self.site.node}{self.tag}")


@operator("toy.tried_camera")
class Camera(Holder):
    """Counts on for as long as it is asked, from 0 each time that it is opened; blocks as a camera does."""

    def __call__(self) -> Iterator[Scalar]:
        for i in range(10**7):
            if self.site.stop.is_set():
                return
            assert HELD[self.port] == self.site.node
            yield Stamped(Scalar(float(i)), pts=i * toys.MS)  # type: ignore[misc]


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    HELD.clear()
    NOTES.clear()
    yield
    assert not HELD, "somebody never let go"


def bound(*, clock: str = "offline", name: str = "out", lane: str | None = None, **params: Any) -> Plan:
    g = GraphBuilder("test", clock=clock)
    g.node("src", "toy.count", count=10**7)
    g.node("x", "toy.add", a="src")
    g.node("sink", "toy.collect", a="x")
    g.node(name, "toy.tried_bound", a="x", **({"lane": lane} if lane else {}), **params)
    return compile(g.build())


def filmed(*, clock: str = "offline", **params: Any) -> Plan:
    g = GraphBuilder("test", clock=clock)
    g.node("cam", "toy.tried_camera", **params)
    g.node("x", "toy.add", a="cam")
    g.node("sink", "toy.collect", a="x")
    return compile(g.build())


@BOTH
def test_the_old_one_closes_before_the_new_one_opens(executor: str) -> None:
    first = bound()
    script = Script(bound(tag="b"))
    session = play(first, script, executor)
    (receipt,) = script.receipts
    assert (receipt.state, receipt.reason) == ("applied", "")
    assert NOTES == ["+out", "flush out", "-out", "+outb", "flush outb", "-outb"]
    assert toys.values(session) == list(map(float, range(len(toys.values(session)))))  # nothing is lost offline
    assert receipt.applied_at is not None
    assert session.nodes["out"].operator.got[0] == receipt.applied_at
    replayed(first, session)


@BOTH
def test_what_another_node_held_is_handed_over_too_and_what_is_free_is_opened_beside(executor: str) -> None:
    script = Script(bound(name="other"), bound(name="other", port="two"))
    play(bound(), script, executor)
    assert [r.state for r in script.receipts] == ["applied", "applied"]
    assert NOTES[:4] == ["+out", "flush out", "-out", "+other"]
    assert NOTES[4:6] == ["+other", "flush other"]  # another port: both were open for a moment


@BOTH
@pytest.mark.parametrize("clock", ["offline", "live"])
def test_one_that_does_not_open_gives_way_to_the_old_one_again(executor: str, clock: str) -> None:
    script = Script(bound(clock=clock, bad=True), bound(clock=clock, tag="c"))
    session = play(bound(clock=clock), script, executor)
    failed, applied = script.receipts
    assert (failed.state, applied.state) == ("failed", "applied")
    assert "it does not answer" in failed.reason
    assert NOTES == ["+out", "flush out", "-out", "+out", "-out", "+out", "flush out", "-out", "+outc", "flush outc", "-outc"]
    assert [e["reason"] for e in session.events if e["what"] == "reload failed"] == [failed.reason]
    assert not session.errors
    if clock == "offline":
        assert toys.values(session) == list(map(float, range(len(toys.values(session)))))


@BOTH
def test_a_camera_is_let_go_of_and_taken_again(executor: str) -> None:
    script = Script(filmed(tag="b"), filmed(bad=True))
    session = play(filmed(), script, executor)
    swapped, failed = script.receipts
    assert (swapped.state, failed.state) == ("applied", "failed")
    assert NOTES == ["+cam", "-cam", "+camb", "-camb", "+cam", "-cam", "+camb", "-camb"]
    taken = session.nodes["sink"].operator.taken
    seqs = [packet.seq for packet in taken]
    assert seqs == sorted(set(seqs))  # it goes on counting
    assert seqs[-1] <= len(seqs) + 2  # at most what waited at the gate is lost, twice
    restarts = [packet for packet in taken if packet.value == 0.0]
    assert [packet.epoch for packet in restarts] == [0, 1, 2]  # each begins an epoch
    assert taken[-1].value > 0


def test_live_what_comes_in_the_gap_is_counted_as_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    opening, go, real = threading.Event(), threading.Event(), Bound.open

    def slow(self: Bound, site: Site) -> None:
        if self.tag == "slow":
            opening.set()
            assert go.wait(20)
        real(self, site)

    monkeypatch.setattr(Bound, "open", slow)
    script, offered = Script(bound(clock="live", tag="slow")), list[int]()

    def tick(session: Session) -> None:
        if opening.is_set():
            offered.append(session.gates["src"].offered)
            if offered[-1] > offered[0] + 50:
                go.set()
        script(session)

    session = Session(bound(clock="live"), poison=True)
    session.run(tick, tick_s=0.0005)
    toys.settled(session)
    assert script.receipts[0].state == "applied"
    assert session.gates["src"].drops["gate"] >= 50


@pytest.mark.parametrize("bad", [False, True])
def test_what_a_slow_branch_brings_in_the_gap_is_dropped_as_reload(monkeypatch: pytest.MonkeyPatch, bad: bool) -> None:
    def plan(tag: str, bad: bool = False) -> Plan:
        g = GraphBuilder("test", clock="live")
        g.node("src", "toy.count", count=10**7)
        g.node("sink", "toy.collect", a="src")
        g.node("slow", "toy.tried_stuck", a={"from": "src", "policy": "latest"}, lane="slow")
        g.node("out", "toy.tried_bound", a="slow", lane="out", tag=tag, bad=bad)
        return compile(g.build())

    Stuck.free.clear()
    Stuck.there.clear()
    opening, go, real = threading.Event(), threading.Event(), Bound.open

    def late(self: Bound, site: Site) -> None:
        if self.tag == "b":
            opening.set()
            assert go.wait(20)
        real(self, site)

    monkeypatch.setattr(Bound, "open", late)
    script = Script(plan("b", bad))

    def tick(session: Session) -> None:
        if not script.receipts and not Stuck.there.is_set():
            return
        if opening.is_set():
            Stuck.free.set()
            if sum(channel.drops["reload"] for channel in session.channels if channel.edge.node == "out"):
                go.set()
        script(session)

    session = Session(plan(""), poison=True)
    session.run(tick, tick_s=0.0005)
    toys.settled(session)
    assert script.receipts[0].state == ("failed" if bad else "applied")
    assert session.nodes["out"].count > 0


@BOTH
def test_where_the_old_one_does_not_open_again_either_the_run_ends_and_says_so(executor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Bound.open

    def gone(self: Bound, site: Site) -> None:
        if NOTES:
            raise DeviceError("unplugged")
        real(self, site)

    monkeypatch.setattr(Bound, "open", gone)
    script = Script(bound(tag="b"))
    session = Session(bound(), executor=executor)
    with pytest.raises(Exception, match="unplugged"):
        session.run(script, tick_s=0.0005)
    assert script.receipts[0].state == "failed"
    toys.settled(session)


def test_lanes_are_called_as_in_the_plan_however_often_their_nodes_are_made_anew() -> None:
    def plan(tag: str, tags: str = "") -> Plan:
        g = GraphBuilder("test", clock="offline")
        g.node("src", "toy.count", count=10**7)
        g.node("x", "toy.tried_life", a="src", tag=tag)
        g.node("y", "toy.tried_life", a="x", tag=tags)
        g.node("sink", "toy.collect", a="y", lane="far")
        return compile(g.build())

    names: list[list[str]] = []

    def look(to: Plan) -> Any:
        def step(session: Session) -> Any:
            names.append(list(session.lanes))
            return session.reload(to)

        return step

    steps = [plan("a"), plan("b"), plan("c"), plan("c", "d"), plan("e", "e"), plan("f", "f")]
    session = play(plan(""), Script(*[look(p) for p in steps]), "threaded")
    names.append(list(session.lanes))
    before, *one_of_two, fourth, fifth, sixth = names
    assert before == ["in:src", "main", "far"]
    assert [sorted(found) for found in one_of_two] == [["far", "in:src", "main", "main~2"]] * 3  # two threads, and no more names than that
    assert sorted(fourth) == ["far", "in:src", "main", "main~2"]
    assert fifth == sixth == ["in:src", "main", "far"]  # all of the lane is new: it is the lane of the plan again
    rings = joined([*session.past.traces, *((name, lane.trace) for name, lane in session.lanes.items())])
    assert set(rings) == {"in:src", "main", "main~2", "far"}
    calls = [record for record in rings["main"].records() if record[2] == "call"]
    assert [record[0] for record in calls] == sorted(record[0] for record in calls)
    assert {record[4] for record in calls} > {0, session.frames_out - 1}  # from the first frame on to the last, on whichever thread
    assert {lane.thread.name for lane in session.lanes.values() if lane.thread} == {"lane in:src", "lane main", "lane far"}
