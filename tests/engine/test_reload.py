"""From one plan to another while frames fly: what stays, what goes, what is lost. On both executors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import toys
from toys import BOTH

from engine import Operator, operator
from engine.cli.attach import Attachment
from engine.cli.reload import Reload
from engine.cli.run import Options, run
from engine.errors import GraphError, UsageError
from engine.graph import GraphBuilder
from engine.live.changes import Changes
from engine.live.receipt import Receipt
from engine.payload import Scalar
from engine.plan import Plan
from engine.planning.compile import compile
from engine.session import Session
from engine.site import Site

LIVES: dict[str, list[tuple[str, str]]] = {}


@operator("toy.tried_life")
class Life(Operator):
    """a + the number of calls so far; notes where it lives."""

    def __init__(self, *, tag: str = "", slow: float = 0.0) -> None:
        self.tag, self.calls = tag, 0

    def note(self, what: str) -> None:
        LIVES.setdefault(f"{self.site.node}{self.tag}", []).append((what, threading.current_thread().name))

    def open(self, site: Site) -> None:
        super().open(site)
        if self.tag == "broken":
            raise RuntimeError("no such thing")
        self.note("open")

    def __call__(self, a: Scalar) -> Scalar:
        self.calls += 1
        if self.calls == 1:
            self.note("call")
        return Scalar(a.value)

    def close(self) -> None:
        self.note("close")


@operator("toy.tried_stuck")
class Stuck(Operator):
    """Says nothing on its second frame until it is let go."""

    free = threading.Event()
    there = threading.Event()

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, a: Scalar) -> Scalar:
        self.calls += 1
        if self.calls == 2:
            self.there.set()
            assert self.free.wait(20)
        return a


@pytest.fixture(autouse=True)
def _forget() -> None:
    LIVES.clear()
    Stuck.free.clear()
    Stuck.there.clear()


def graph(count: int = 10**7, **settings: Any) -> GraphBuilder:
    g = GraphBuilder("test", **{"clock": "offline", **settings})
    g.node("src", "toy.count", count=count)
    return g


def chain(count: int = 10**7, *, tag: str = "", amount: float = 0.0, extra: bool = False, sink: bool = True, **settings: Any) -> Plan:
    g = graph(count, **settings)
    g.node("x", "toy.add", a="src", amount=amount)
    g.node("life", "toy.tried_life", a="x", lane="b", tag=tag)
    if sink:
        g.node("sink", "toy.collect", a="life")
    if extra:
        g.node("y", "toy.add", a="life", amount=0.5, lane="new")
        g.node("end", "toy.collect", a="y")
    return compile(g.build())


class Script:
    """Reloads, one after another, each when the one before has landed and some frames have passed; then the run is stopped."""

    def __init__(self, *steps: Plan | Callable[[Session], Receipt], every: int = 20) -> None:
        self.steps, self.every = list(steps), every
        self.receipts: list[Receipt] = []
        self.at = 5

    def __call__(self, session: Session) -> None:
        if self.receipts and not self.receipts[-1].finished:
            self.at = max(self.at, session.frames_out + self.every)  # counted from where it lands
            return
        if self.steps and session.frames_out >= self.at:
            step = self.steps.pop(0)
            self.receipts.append(session.reload(step) if isinstance(step, Plan) else step(session))
            self.at = session.frames_out + self.every
        elif not self.steps and session.frames_out >= self.at:
            session.stop()


def play(plan: Plan, script: Script, executor: str, **options: Any) -> Session:
    before = set(threading.enumerate())
    session = Session(plan, **{"executor": executor, "poison": True, **options})
    session.run(script, tick_s=0.0005)
    toys.settled(session)
    assert set(threading.enumerate()) <= before
    assert not script.steps
    return session


def frames(session: Session) -> int:
    """How many frames the source has brought."""
    return session.gates["src"].offered


def replayed(first: Plan, session: Session) -> Session:
    again = Session(first, executor="inline", poison=True, replay=session.recording, frames=frames(session))
    again.run()
    toys.settled(again)
    assert again.plan == session.plan
    return again


# ---------------------------------------------------------------- what stays, what goes


@BOTH
def test_what_is_the_same_stays_warm_on_its_thread_and_sinks_keep_what_they_have(executor: str) -> None:
    first = chain()
    session = Session(first, executor=executor, poison=True)
    operators = {}

    def look(s: Session) -> Receipt:
        operators.update({name: node.operator for name, node in s.nodes.items()})
        return s.reload(chain(extra=True))

    script = Script(look)
    session.run(script, tick_s=0.0005)
    toys.settled(session)
    receipt = script.receipts[0]
    assert receipt.state == "applied"
    assert receipt.diff.added == ("y", "end")
    assert all(session.nodes[name].operator is kept for name, kept in operators.items())
    assert toys.values(session) == list(range(frames(session)))
    at = receipt.applied_at
    assert at is not None
    assert toys.values(session, "end") == [i + 0.5 for i in range(at, frames(session))]
    assert session.epoch == 0
    assert [what for what, _ in LIVES["life"]] == ["open", "call", "close"]
    assert len({where for _, where in LIVES["life"]}) == 1
    assert toys.values(replayed(first, session), "end") == toys.values(session, "end")


@BOTH
def test_what_had_ended_is_made_anew_behind_a_source_that_is(executor: str) -> None:
    """A stream had come to its end, all the way to its sink; its source is made anew, and what it brings arrives."""

    def two(count: int) -> Plan:
        g = graph(10**7)
        g.node("sink", "toy.collect", a="src")
        g.node("short", "toy.count", count=count)
        g.node("half", "toy.add", a={"from": "short", "every": 2, "cap": 1}, lane="b")
        g.node("end", "toy.collect", a="half", lane="c")
        return compile(g.build())

    asked: list[Receipt] = []

    def tick(s: Session) -> None:
        if not asked and s.nodes["end"].finished:
            asked.append(s.reload(two(10**7)))
        elif asked and asked[0].finished and toys.values(s, "end")[9:]:
            s.stop()

    session = Session(two(3), executor=executor, poison=True)
    session.run(tick, tick_s=0.0005)
    toys.settled(session)
    assert asked[0].diff.rebuilt == {"short": "count 3 -> 10000000", "half": "it had ended", "end": "it had ended"}
    assert toys.values(session, "end")[:4] == [0, 2, 4, 6]


@BOTH
def test_a_node_that_goes_is_closed_where_it_lived_and_its_sink_has_every_frame_before(executor: str) -> None:
    first = chain(extra=True)
    session = Session(first, executor=executor, poison=True)
    gone: list[Any] = []

    def drop(s: Session) -> Receipt:
        gone.append(s.nodes["end"].operator)
        return s.reload(chain())

    script = Script(drop)
    session.run(script, tick_s=0.0005)
    toys.settled(session)
    at = script.receipts[0].applied_at
    assert at is not None
    assert gone[0].closed
    assert [t.value for t in gone[0].taken] == [i + 0.5 for i in range(at)]
    assert toys.values(session) == list(range(frames(session)))
    assert set(session.nodes) == {"src", "x", "life", "sink"}


@BOTH
def test_a_node_made_anew_lives_on_a_thread_of_its_own_from_open_to_close(executor: str) -> None:
    first = chain()
    script = Script(*(chain(tag=f".{i}") for i in range(4)))
    session = play(first, script, executor)
    assert toys.values(session) == list(range(frames(session)))
    for name in ("life", "life.0", "life.1", "life.2", "life.3"):
        assert [what for what, _ in LIVES[name]] == ["open", "call", "close"]
        assert len({where for _, where in LIVES[name]}) == 1
    seqs = [receipt.applied_at for receipt in script.receipts]
    assert seqs == sorted(seqs)
    assert len(set(seqs)) == 4


@BOTH
def test_live_values_alone_are_a_plain_change(executor: str) -> None:
    first = chain()
    script = Script(chain(amount=50.0))
    session = play(first, script, executor)
    at = script.receipts[0].applied_at
    assert at is not None
    assert toys.values(session) == [i + 50 * (i >= at) for i in range(frames(session))]
    assert not script.receipts[0].diff.structural
    assert session.recording.changes == [(at, {"x.amount": 50.0})]
    assert toys.values(replayed(first, session)) == toys.values(session)


@BOTH
def test_values_land_on_the_first_frame_of_the_new_wiring(executor: str) -> None:
    first = chain()
    script = Script(chain(amount=50.0, extra=True))
    session = play(first, script, executor)
    at = script.receipts[0].applied_at
    assert at is not None
    assert toys.values(session) == [i + 50 * (i >= at) for i in range(frames(session))]
    assert toys.values(session, "end") == [i + 50.5 for i in range(at, frames(session))]
    assert toys.values(replayed(first, session), "end") == toys.values(session, "end")


@BOTH
def test_what_was_set_live_outlives_a_rebuild_unless_the_file_says_otherwise(executor: str) -> None:
    g = graph()
    g.node("m", "toy.memory", a="src", level=1.0)
    g.node("h", "toy.pair", a="m", b={"hold": 2.0}, lane="h")
    g.node("sink", "toy.collect", a="h")
    first = compile(g.build())

    def change(s: Session) -> Receipt:
        return s.set({"m.level": 7.0, "h.b": 3.0})

    def rebuild(s: Session) -> Receipt:
        assert s.plan.graph is not None
        nodes = tuple(replace(n, lane="z") if n.name in "mh" else n for n in s.plan.graph.nodes)
        return s.reload(compile(replace(s.plan.graph, nodes=nodes)))

    script = Script(change, rebuild)
    session = play(first, script, executor)
    assert set(script.receipts[1].diff.rebuilt) == {"m", "h"}
    last = toys.taken(session)[-1]
    begun = script.receipts[1].applied_at
    assert begun is not None
    assert session.nodes["m"].params["level"] == 7.0
    assert last.value == 1000 * (sum(range(begun, frames(session))) + 7.0) + 3.0  # the sum began anew, the values did not
    assert toys.values(replayed(first, session)) == toys.values(session)


# ---------------------------------------------------------------- loops and streams


def loop(*, end: bool = False) -> Plan:
    g = graph()
    g.node("x", "toy.add", a="src", b="x@-1", lane="b")
    g.node("sink", "toy.collect", a="x")
    if end:
        g.node("end", "toy.collect", a="src")
    return compile(g.build())


@BOTH
def test_a_carry_whose_ends_stay_goes_on(executor: str) -> None:
    first = loop()
    script = Script(loop(end=True), loop(), loop(end=True))
    session = play(first, script, executor)
    assert session.epoch == 0
    assert toys.values(session) == [sum(range(i + 1)) for i in range(frames(session))]


@BOTH
def test_a_carry_that_loses_an_end_begins_an_epoch(executor: str) -> None:
    first = loop()
    g = graph()
    g.node("x", "toy.add", a="src", b="x@-1", lane="elsewhere")
    g.node("sink", "toy.collect", a="x")
    script = Script(compile(g.build()))
    session = play(first, script, executor)
    at = script.receipts[0].applied_at
    assert at is not None
    assert session.epoch == 1
    assert toys.values(session)[at:] == [sum(range(at, i + 1)) for i in range(at, frames(session))]
    assert {t.epoch for t in toys.taken(session) if t.seq >= at} == {1}
    assert toys.values(replayed(first, session)) == toys.values(session)


@BOTH
def test_a_source_made_anew_goes_on_counting(executor: str) -> None:
    def plan(offset: int) -> Plan:
        g = GraphBuilder("test", clock="offline")
        g.node("src", "toy.count", count=10**7, offset=offset)
        g.node("sink", "toy.collect", a="src")
        return compile(g.build())

    script = Script(plan(5000))
    session = play(plan(0), script, executor)
    at = script.receipts[0].applied_at
    assert at is not None
    taken = toys.taken(session)
    assert [t.seq for t in taken] == sorted({t.seq for t in taken})
    assert [t.value for t in taken if t.seq >= at] == [5000 + i for i in range(frames(session) - at)]
    assert session.epoch == 1
    told = session.summary().frames
    assert told["in"] == told["out"] + sum(told["drops"].values())
    assert toys.values(replayed(plan(0), session)) == toys.values(session)


@BOTH
def test_sources_in_step_stop_at_the_same_frame(executor: str) -> None:
    def plan(*, end: bool) -> Plan:
        g = graph()
        g.node("other", "toy.count", count=10**7)
        g.node("x", "toy.pair", a="src", b="other")
        g.node("sink", "toy.collect", a="x")
        if end:
            g.node("end", "toy.collect", a="x", lane="late")
        return compile(g.build())

    session = play(plan(end=False), Script(plan(end=True), plan(end=False), plan(end=True)), executor)
    assert toys.values(session) == [1001 * i for i in range(len(toys.values(session)))]
    assert len(toys.values(session)) >= 65


@BOTH
def test_a_join_behind_a_kept_node_does_not_wait_for_frames_that_a_source_made_anew_never_brings(executor: str) -> None:
    """The frame that waits at the gate of the old source is gone, so the new one begins a frame later than the one that stays. With one
    frame in flight, and reloads on each other's heels, nothing else would ever tell the join."""

    def joined(offset: int) -> Plan:
        g = GraphBuilder("test", clock="offline", in_flight=1)
        g.node("src", "toy.count", count=10**7)
        g.node("other", "toy.count", count=10**7, offset=offset)
        g.node("mid", "toy.add", a="other")
        g.node("x", "toy.pair", a="src", b="mid")
        g.node("sink", "toy.collect", a="x")
        return compile(g.build())

    asked: list[Receipt] = []

    def tick(session: Session) -> None:
        if not asked and session.frames_out >= 3:
            asked.extend(session.reload(joined(1000 * n)) for n in range(1, 6))
        elif asked and asked[-1].finished and session.frames_out >= (asked[-1].applied_at or 0) + 20:
            session.stop()

    session = Session(joined(0), executor=executor, poison=True)
    session.run(tick, tick_s=0.0005)
    toys.settled(session)
    assert {receipt.state for receipt in asked} == {"applied"}


@BOTH
def test_a_batch_is_called_with_what_it_has(executor: str) -> None:
    def plan(*, end: bool) -> Plan:
        g = graph()
        g.node("x", "toy.batch", a="src", batch=7)
        g.node("sink", "toy.collect", a="x")
        if end:
            g.node("end", "toy.collect", a="x", lane="late")
        return compile(g.build())

    session = play(plan(end=False), Script(plan(end=True), plan(end=False)), executor)
    assert toys.values(session) == list(range(frames(session)))
    assert sum(session.nodes["x"].operator.sizes) == frames(session)


@BOTH
def test_a_change_may_come_while_the_wiring_is_new_and_its_values_are_not(executor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From another thread it can: the node is in the graph already, and what it begins with is told last."""

    def plan(*, more: bool) -> Plan:
        g = graph()
        g.node("x", "toy.add", a="src")
        g.node("sink", "toy.collect", a="x")
        if more:
            g.node("y", "toy.add", a="src", amount=2.0)
            g.node("end", "toy.collect", a="y")
        return compile(g.build())

    tell, came = Changes.reload, list[Receipt]()

    def late(self: Changes, *args: Any) -> None:
        came.extend([self.session.set({"y.amount": 7.0}), self.session.ramp({"x.amount": 1.0}, frames=2)])
        tell(self, *args)

    monkeypatch.setattr(Changes, "reload", late)
    session = play(plan(more=False), Script(plan(more=True)), executor)
    assert [receipt.state for receipt in came] == ["applied", "done"]
    seqs = [seq for seq, _ in session.recording.changes]
    assert toys.values(session, "end") == [float(seq + 7) for seq in range(seqs[0], frames(session))]


@BOTH
def test_a_ramp_may_come_while_another_operator_has_just_taken_a_name(executor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(op: str, **params: Any) -> Plan:
        g = graph()
        g.node("x", op, a="src", **params)
        g.node("sink", "toy.collect", a="x")
        return compile(g.build())

    tell, came = Changes.reload, list[Receipt]()

    def late(self: Changes, *args: Any) -> None:
        came.append(self.session.ramp({"x.amount": 9.0}, frames=1))
        tell(self, *args)

    monkeypatch.setattr(Changes, "reload", late)
    session = play(plan("toy.odd"), Script(plan("toy.add", amount=2.0)), executor)
    assert [receipt.state for receipt in came] == ["done"]
    assert toys.values(session, "sink")[-1] == float(frames(session) - 1 + 9)


# ---------------------------------------------------------------- what is refused, what fails


@BOTH
def test_a_node_that_does_not_open_changes_nothing(executor: str) -> None:
    first = chain()
    script = Script(chain(tag="broken", extra=True), chain(tag=".fine", extra=True))
    session = play(first, script, executor)
    failed, fine = script.receipts
    assert (failed.state, failed.applied_at) == ("failed", None)
    assert "no such thing" in failed.reason
    assert fine.state == "applied"
    assert toys.values(session) == list(range(frames(session)))
    assert [what for what, _ in LIVES["life"]] == ["open", "call", "close"]
    assert LIVES["lifebroken"][-1][0] == "close"  # what was entered is left
    assert [e["reason"] for e in session.events if e["what"] == "reload failed"] == [failed.reason]
    assert toys.values(replayed(first, session), "end") == toys.values(session, "end")


@pytest.mark.parametrize(("key", "value"), [("clock", "live"), ("seed", 9)])
def test_what_a_session_cannot_change_is_refused_with_what_to_do(key: str, value: Any) -> None:
    session = Session(chain(40), executor="inline")
    with pytest.raises(UsageError, match=f"{key} of a running session cannot change") as caught:
        session.reload(chain(**{key: value}))
    assert "start the new graph" in caught.value.fix
    session.run()
    assert toys.values(session) == list(range(frames(session)))


def test_a_rebuild_names_parameters_that_are_fixed_at_open() -> None:
    session = Session(chain(), executor="inline")
    script = Script(lambda s: s.rebuild({"life.tag": ".again"}))
    session.run(script)
    toys.settled(session)
    assert script.receipts[0].diff.rebuilt == {"life": "tag '' -> '.again'"}
    assert toys.values(session) == list(range(frames(session)))
    with pytest.raises(UsageError, match="no parameter"):
        session.rebuild({"lief.tag": "a"})
    with pytest.raises(GraphError):
        session.rebuild({"life.tag": 3})


def test_a_change_that_waits_for_a_node_that_goes_has_failed() -> None:
    session = Session(chain(400, extra=True), executor="inline")
    receipts: list[Receipt] = []

    def tick(s: Session) -> None:
        if s.frames_out == 10 and not receipts:
            s.pause()
            receipts.append(s.set({"y.amount": 1.0, "x.amount": 1.0}))
            receipts.append(s.set({"x.amount": 2.0}))
            receipts.append(s.reload(chain(400)))
        elif receipts and s.paused:
            s.resume()

    session.run(tick)
    toys.settled(session)
    lost, kept, reload = receipts
    assert lost.state == "failed"
    assert "y.amount is not there any more" in lost.reason
    assert (kept.state, reload.state) == ("applied", "applied")
    assert toys.values(session)[-1] == 401.0


def test_what_one_reload_brought_outlives_another_that_comes_before_a_frame() -> None:
    """It set a value on a node that the next takes away, and on one that stays."""
    first = chain(400, extra=True)
    assert first.graph is not None
    values = {"x": {"amount": 50.0}, "y": {"amount": 9.0}}
    nodes = tuple(replace(node, params={**node.params, **values.get(node.name, {})}) for node in first.graph.nodes)
    receipts: list[Receipt] = []

    def tick(s: Session) -> None:
        if s.frames_out == 10 and not receipts:
            assert first.graph is not None
            s.pause()
            receipts.append(s.reload(compile(replace(first.graph, nodes=nodes))))
            receipts.append(s.reload(chain(400, amount=50.0)))
        elif s.paused and not s.reloads:
            s.resume()

    session = Session(first, executor="inline")
    session.run(tick)
    toys.settled(session)
    assert [receipt.state for receipt in receipts] == ["applied", "applied"]
    assert toys.values(session)[-1] == 449.0
    assert toys.values(replayed(first, session)) == toys.values(session)


def test_reloads_that_come_before_the_run_or_too_late() -> None:
    session = Session(chain(), executor="threaded")
    early = session.reload(chain(extra=True))
    session.run(lambda s: s.stop() if early.finished and s.frames_out > 5 else None, tick_s=0.0005)
    assert early.state == "applied"
    assert toys.values(session, "end")[-1] == frames(session) - 0.5
    late = session.reload(chain())
    assert late.state == "accepted"  # nobody will look at it: the run is over
    with pytest.raises(UsageError, match="replay"):
        Session(chain(), executor="inline", replay=session.recording).reload(chain())


# ---------------------------------------------------------------- while frames fly


def test_a_slow_branch_does_not_hold_a_reload_up() -> None:
    def plan(*, end: bool) -> Plan:
        g = GraphBuilder("test", clock="live")
        g.node("src", "toy.count", count=10**7)
        g.node("slow", "toy.tried_stuck", a="src", lane="slow")
        g.node("x", "toy.add", a="src", b={"from": "slow", "hold": 0.0})
        g.node("sink", "toy.collect", a="x")
        if end:
            g.node("end", "toy.collect", a="x", lane="late")
        return compile(g.build())

    session = Session(plan(end=False), executor="threaded")
    receipts: list[Receipt] = []

    def tick(s: Session) -> None:
        if Stuck.there.is_set() and not receipts:
            receipts.append(s.reload(plan(end=True)))
        elif receipts and receipts[0].finished and not Stuck.free.is_set():
            assert s.nodes["slow"].lane.busy is not None  # still in its call
            assert s.nodes["slow"].operator.calls == 2
            Stuck.free.set()
        elif Stuck.free.is_set() and s.nodes["slow"].operator.calls > 4 and toys.taken(s, "end"):
            s.stop()

    session.run(tick, tick_s=0.001)
    toys.settled(session)
    assert receipts[0].state == "applied"
    assert toys.taken(session, "end")[0].seq == receipts[0].applied_at


@pytest.mark.parametrize("clock", ["offline", "live"])
def test_many_swaps_while_frames_fly(clock: str) -> None:
    """Wirings of two kinds in turn, as fast as they land; every frame goes through one of them whole, and all is let go of."""

    def plan(which: int) -> Plan:
        g = GraphBuilder("test", clock=clock, in_flight=3)
        g.node("src", "toy.count", count=10**7)
        if which % 2:
            g.node("x", "toy.add", a="src", amount=1.0, lane="one")
            g.node("y", "toy.pair", a="x", b="src", lane="two")
        else:
            g.node("y", "toy.pair", a="src", b="src", lane=f"l{which % 4}")
        g.node("sink", "toy.collect", a="y")
        return compile(g.build())

    plans = [plan(i) for i in range(4)]
    before = set(threading.enumerate())
    session = Session(plans[0], executor="threaded", poison=True)
    receipts: list[Receipt] = []
    order: list[int] = []

    def tick(s: Session) -> None:
        if len(receipts) == 60:
            if receipts[-1].finished:
                s.stop()
        elif not receipts or receipts[-1].finished:
            receipt = s.reload(plans[(len(receipts) + 1) % 4])
            receipt.on(lambda r, state: order.append(r.number))
            receipts.append(receipt)

    session.run(tick, tick_s=0.0005)
    toys.settled(session)
    assert set(threading.enumerate()) <= before
    assert [r.state for r in receipts] == ["applied"] * 60
    assert order == [r.number for r in receipts]
    seqs = [r.applied_at or 0 for r in receipts]
    assert seqs == sorted(set(seqs))
    edges = [0, *seqs, 10**9]
    for one in toys.taken(session):
        which = next(i for i in range(len(edges)) if edges[i] <= one.seq < edges[i + 1])
        plain = 1001 * one.seq
        assert one.value == (plain + 1000 if which % 2 else plain), f"frame {one.seq} went through two wirings"
    if clock == "offline":
        assert [t.seq for t in toys.taken(session)] == list(range(len(toys.taken(session))))
    assert len(session.past.channels) < 20
    assert not session.past.gates


def test_a_reload_that_a_stop_overtakes_leaves_nothing() -> None:
    @operator("toy.tried_opens_slowly")
    class Slowly(Operator):
        def __init__(self) -> None: ...

        def open(self, site: Site) -> None:
            super().open(site)
            opening.set()
            assert may.wait(20)

        def __call__(self, a: Scalar) -> None: ...

    opening, may = threading.Event(), threading.Event()
    g = graph()
    g.node("sink", "toy.collect", a="src")
    first = compile(g.build())
    g.node("end", "toy.tried_opens_slowly", a="src")
    before = set(threading.enumerate())
    session = Session(first, executor="threaded")
    receipts: list[Receipt] = []

    def tick(s: Session) -> None:
        if not receipts:
            receipts.append(s.reload(compile(g.build())))
        elif opening.is_set() and not may.is_set():
            s.stop()
            may.set()

    session.run(tick, tick_s=0.001)
    toys.settled(session)
    assert receipts[0].state == "failed"
    assert receipts[0].reason == "the run is ending"
    assert set(threading.enumerate()) <= before


# ---------------------------------------------------------------- engine run --watch

FILE = """
include = "more.toml"
[param]
amount = 1.0
[graph]
clock = "offline"
[node.src]
op = "toy.count"
count = 100000000
"""
MORE = """
[node.x]
op = "toy.add"
in.a = "src"
amount = "${amount}"
[node.sink]
op = "toy.collect"
in.a = "x"
"""


class Editor(Attachment):
    """Writes the files as a person would, a step whenever the last one has shown; ends the run after the last."""

    def __init__(self, folder: Path, *steps: Callable[[Path], None]) -> None:
        self.folder, self.steps = folder, list(steps)
        self.waits = False
        self.seen: list[dict[str, Any]] = []
        self.session: Session | None = None

    def attached(self, session: Session) -> None:
        self.session = session

    def event(self, event: dict[str, Any]) -> None:
        if event["what"] in ("reload", "reload refused", "reload failed"):
            self.seen.append(event)
            self.waits = False

    def tick(self, session: Session) -> None:
        if self.waits or not session.frames_out:
            return
        if not self.steps:
            session.stop()
            return
        self.waits = True
        self.steps.pop(0)(self.folder)


def write(name: str, text: str) -> Callable[[Path], None]:
    def step(folder: Path) -> None:
        fresh = folder / f"{name}.new"
        fresh.write_text(text)
        fresh.replace(folder / name)

    return step


def test_a_watched_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    write("g.toml", FILE)(tmp_path)
    write("more.toml", MORE)(tmp_path)
    five = FILE.replace("amount = 1.0", "amount = 5.0")

    def mend(folder: Path) -> None:
        write("g.toml", five)(folder)  # a [param] that the included file uses
        write("more.toml", MORE)(folder)

    editor = Editor(
        tmp_path,
        write("more.toml", MORE.replace("${amount}", "${amonut}")),
        mend,
        write("g.toml", five.replace("offline", "live").replace("5.0", "6.0")),  # --set says offline, and holds
        write("more.toml", MORE + '[node.end]\nop = "toy.collect"\nin.a = "x"\n'),
    )
    code = run(Options("g.toml", sets=("graph.in_flight=3", "graph.clock=offline"), duration=30.0, quiet=True, attachments=(Reload(), editor)))
    said = capsys.readouterr().err
    assert code == 0
    whats = [event["what"] for event in editor.seen]
    assert whats == ["reload refused", "reload", "reload", "reload"]
    assert "more.toml" in editor.seen[0]["problems"][0]
    assert "amonut" in editor.seen[0]["problems"][0]
    assert "more.toml changed, and nothing was changed for it" in said
    assert [event["diff"].splitlines()[0] for event in editor.seen[1:]] == ["= x.amount  1.0 -> 5.0", "= x.amount  5.0 -> 6.0", "+ end"]
    session = editor.session
    assert session is not None
    assert (session.plan.in_flight, session.plan.clock) == (3, "offline")
    assert session.values(["x.amount"]) == {"x.amount": 6.0}
    assert "end" in session.nodes
