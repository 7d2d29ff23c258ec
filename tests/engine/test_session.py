"""Sessions: what nodes get, what changes do, what errors cost. Every test that can runs on both executors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import toys
from toys import BOTH

from engine import operator
from engine.errors import OperatorError, ParamError, StallError
from engine.graph import GraphBuilder, as_input
from engine.operator import Stamped
from engine.payload import Scalar
from engine.plan import Plan
from engine.planning.compile import compile
from engine.run import threads
from engine.run.node import NodeRun
from engine.session import Session


def offline(**settings: Any) -> GraphBuilder:
    return GraphBuilder("test", **{"clock": "offline", **settings})


def play(g: GraphBuilder | Plan, **options: Any) -> Session:
    """Run to the end and check that nothing is lost or left over."""
    session = Session(g if isinstance(g, Plan) else compile(g.build()), **{"poison": True, **options})
    session.run(tick_s=0.2)
    toys.settled(session)
    return session


def broken(g: GraphBuilder, **options: Any) -> tuple[Session, BaseException]:
    """The same for a run that fails."""
    session = Session(compile(g.build()), **{"poison": True, **options})
    with pytest.raises(Exception) as caught:
        session.run(tick_s=0.2)
    toys.settled(session)
    return session, caught.value


# ---------------------------------------------------------------- joins


def join(missing: str, op: str = "toy.add") -> GraphBuilder:
    g = offline()
    g.node("src", "toy.count", count=5)
    g.node("odd", "toy.odd", a="src")
    g.node("x", op, a="src", b={"from": "odd", "missing": missing})
    g.node("sink", "toy.collect", a="x")
    return g


@BOTH
@pytest.mark.parametrize(("missing", "op", "wanted"), [
    ("skip", "toy.pair", [1001, 3003]),
    ("reuse", "toy.pair", [1001, 2001, 3003, 4003]),  # nothing to reuse yet at frame 0
    ("default", "toy.add", [0, 2, 2, 6, 4]),
])  # fmt: skip
def test_a_partner_that_never_comes(executor: str, missing: str, op: str, wanted: list[float]) -> None:
    session = play(join(missing, op), executor=executor)
    assert toys.values(session) == wanted
    assert session.summary().frames["out"] == len(wanted)
    assert sum(session.summary().frames["drops"].values()) == 5 - len(wanted)


@BOTH
def test_a_missing_partner_that_is_an_error(executor: str) -> None:
    session, error = broken(join("error"), executor=executor)
    assert isinstance(error, OperatorError)
    assert (error.node, error.seq) == ("x", 0)
    assert "input b never came" in str(error)
    assert toys.values(session) == []


@BOTH
def test_a_trigger_that_drops_more_than_its_partner(executor: str) -> None:
    """The frames it leaves out must not keep their credits in the partner's queue."""
    g = offline()
    g.node("src", "toy.count", count=50)
    g.node("few", "toy.odd", a="src", modulus=20, rest=19)
    g.node("x", "toy.pair", a="few", b="src")
    g.node("sink", "toy.collect", a="x")
    assert toys.values(play(g, executor=executor)) == [19019, 39039]


@BOTH
def test_a_partner_that_comes_after_its_frame_was_given_up(executor: str) -> None:
    g = offline(in_flight=1)
    g.node("src", "toy.count", count=12)
    g.node("late", "toy.add", a={"from": "src", "every": 3}, lane="late")
    g.node("x", "toy.add", a={"from": "src", "every": 2}, b={"from": "late", "missing": "default"})
    g.node("sink", "toy.collect", a="x")
    plan = compile(g.build())
    assert toys.values(play(plan, executor=executor)) == [0, 2, 4, 12, 8, 10]
    assert toys.values(play(plan, executor="inline", costs={"late": 10**7})) == [0, 2, 4, 12, 8, 10]


@BOTH
@pytest.mark.parametrize("counts", [(3, 40), (40, 3)])
def test_sources_of_different_length(executor: str, counts: tuple[int, int]) -> None:
    """The end of one stream must not leave the other waiting for room."""
    g = offline()
    g.node("one", "toy.count", count=counts[0])
    g.node("two", "toy.count", count=counts[1])
    g.node("x", "toy.pair", a="one", b={"from": "two", "cap": 1})
    g.node("sink", "toy.collect", a="x")
    session = play(g, executor=executor)
    assert toys.values(session) == [0, 1001, 2002]
    assert session.summary().frames["drops"] == {"joined": 3, "unpaired": 37}


@BOTH
def test_list_ports_keep_their_order(executor: str) -> None:
    g = offline()
    g.node("src", "toy.count", count=3)
    g.node("ten", "toy.add", a="src", amount=10.0)
    g.node("x", "toy.sum", values=["ten", "src", "ten"])
    g.node("sink", "toy.collect", a="x")
    assert toys.values(play(g, executor=executor)) == [20, 23, 26]


# ---------------------------------------------------------------- carry, hold, fed parameters


@BOTH
@pytest.mark.parametrize("lane", [None, "other"])
@pytest.mark.parametrize(("hold", "wanted"), [(None, [0, 1, 3, 6, 10]), (5.0, [5, 6, 8, 11, 15])])
def test_a_carry_is_the_value_of_the_last_frame(executor: str, lane: str | None, hold: float | None, wanted: list[float]) -> None:
    """Also across lanes: the next frame waits for it."""
    g = offline()
    g.node("src", "toy.count", count=5)
    g.node("x", "toy.add", a="src", b={"from": "y@-1", **({} if hold is None else {"hold": hold})})
    g.node("y", "toy.add", a="x", lane=lane)
    g.node("sink", "toy.collect", a="y")
    assert toys.values(play(g, executor=executor)) == wanted


@BOTH
def test_a_carry_skips_what_was_skipped(executor: str) -> None:
    """The last *processed* frame: the loop goes on from the newest value there is."""
    g = offline()
    g.node("src", "toy.count", count=6)
    g.node("f", "toy.fails", a="src", at=[2, 3], on_error="skip")
    g.node("x", "toy.add", a="f", b="x@-1")
    g.node("sink", "toy.collect", a="x")
    assert toys.values(play(g, executor=executor)) == [0, 1, 5, 10]


@BOTH
def test_a_hold_keeps_its_last_value(executor: str) -> None:
    g = offline()
    g.node("src", "toy.count", count=6)
    g.node("slow", "toy.add", a={"from": "src", "every": 3}, amount=50.0)
    g.node("x", "toy.pair", a="src", b={"from": "slow", "hold": -1.0})
    g.node("sink", "toy.collect", a="x")
    assert toys.values(play(g, executor=executor)) == [50, 1050, 2050, 3053, 4053, 5053]


@BOTH
def test_a_hold_that_closes_a_loop_starts_with_its_default(executor: str) -> None:
    g = offline()
    g.node("src", "toy.count", count=4)
    g.node("x", "toy.pair", a="src", b={"from": "y", "hold": 7.0})
    g.node("y", "toy.add", a="src", amount=100.0, b=None)
    g.node("z", "toy.add", a="y", b="x")
    g.node("sink", "toy.collect", a="x")
    g.node("end", "toy.collect", a="z")
    session = play(g, executor=executor)
    assert toys.values(session) == [100, 1101, 2102, 3103]


@BOTH
def test_a_value_that_is_too_old_counts_as_none(executor: str) -> None:
    g = offline()
    g.node("src", "toy.count", count=6, period=10.0)
    g.node("slow", "toy.add", a={"from": "src", "every": 5}, amount=50.0)
    g.node("x", "toy.pair", a="src", b={"from": "slow", "hold": -1.0, "max_age_ms": 20.0})
    g.node("sink", "toy.collect", a="x")
    assert toys.values(play(g, executor=executor)) == [50, 1050, 2050, 2999, 3999, 5055]


@BOTH
def test_a_parameter_fed_by_an_edge(executor: str) -> None:
    """Mapped linearly, kept within its bounds, in force for the very frame."""
    g = offline()
    g.node("src", "toy.count", count=5)
    g.node("x", "toy.add", a="src", amount=as_input("amount", {"from": "src", "map": [10.0, 40.0]}))
    g.node("sink", "toy.collect", a="x")
    assert toys.values(play(g, executor=executor)) == [10, 41, 72, 103, 104]  # 10 + 30 n, at most 100


@BOTH
def test_a_constant_input(executor: str) -> None:
    g = offline()
    g.node("src", "toy.count", count=2)
    g.node("x", "toy.pair", a="src", b={"hold": 3.0})
    g.node("sink", "toy.collect", a="x")
    assert toys.values(play(g, executor=executor)) == [3, 1003]


# ---------------------------------------------------------------- several outputs, batches, last results


@BOTH
def test_an_output_that_is_left_out(executor: str) -> None:
    g = offline()
    g.node("src", "toy.count", count=5)
    g.node("h", "toy.halves", a="src")
    g.node("sink", "toy.collect", a="h.low")
    g.node("odd", "toy.collect", a="h.high")
    session = play(g, executor=executor)
    assert toys.values(session) == [0, 1, 2, 3, 4]
    assert toys.values(session, "odd") == [1.5, 3.5]


@BOTH
def test_batches(executor: str) -> None:
    g = offline()
    g.node("src", "toy.count", count=7, cut_at=[4])
    g.node("x", "toy.batch", a="src", batch=3)
    g.node("sink", "toy.collect", a="x")
    session = play(g, executor=executor)
    assert toys.values(session) == [0, 1, 2, 3, 4, 5, 6]
    assert session.nodes["x"].operator.sizes == [3, 1, 3]  # full; cut short by a new epoch; full
    assert [t.epoch for t in toys.taken(session)] == [0, 0, 0, 0, 1, 1, 1]


@BOTH
def test_the_last_batch_is_what_is_left(executor: str) -> None:
    g = offline()
    g.node("src", "toy.count", count=5)
    g.node("x", "toy.batch", a="src", batch=3)
    g.node("sink", "toy.collect", a="x")
    assert play(g, executor=executor).nodes["x"].operator.sizes == [3, 2]


@BOTH
def test_a_batch_after_skipped_frames_still_meets_its_partners(executor: str) -> None:
    g = offline()
    g.node("src", "toy.count", count=12)
    g.node("odd", "toy.odd", a="src")
    g.node("x", "toy.batch", a="odd", batch=4)
    g.node("y", "toy.add", a="src", b={"from": "x", "missing": "default"})
    g.node("sink", "toy.collect", a="y")
    assert toys.values(play(g, executor=executor)) == [0, 2, 2, 6, 4, 10, 6, 14, 8, 18, 10, 22]


@BOTH
def test_a_frame_that_stops_at_a_batch_is_told_of_after_those_gathered_before_it(executor: str) -> None:
    """Who holds the batch's newest result would else be told that nothing comes up to that frame, and go on without what does."""
    g = offline()
    g.node("src", "toy.count", count=9)
    g.node("odd", "toy.odd", a="src")
    g.node("x", "toy.batch", a="src", b={"from": "odd", "missing": "skip"}, batch=3)
    g.node("y", "toy.pair", a="src", b={"from": "x", "hold": 0.5})
    g.node("sink", "toy.collect", a="y")
    session = play(g, executor=executor)
    assert toys.values(session) == [0.5, *(1000 * n + (n - 1) // 2 * 2 + 1 for n in range(1, 9))]
    assert session.nodes["x"].operator.sizes == [1, 1, 1, 1]  # nobody waits longer than it takes to know


@operator("toy.tried_gaps")
def gaps(*, seqs: list[int]) -> Iterator[Scalar]:
    """Frames with these numbers."""
    for seq in seqs:
        yield Stamped(Scalar(float(seq)), pts=seq, seq=seq)  # type: ignore[misc]


def knot() -> GraphBuilder:
    """The second frame for the batch is a later one, whose partner cannot come before the first is out."""
    g = offline()
    g.node("few", "toy.tried_gaps", seqs=[0, 5])
    g.node("all", "toy.count", count=8)
    g.node("x", "toy.batch", a="few", b={"from": "all", "missing": "skip"}, batch=2)
    g.node("y", "toy.add", a={"from": "all", "cap": 2}, b={"from": "x", "cap": 2, "missing": "default"})
    g.node("sink", "toy.collect", a="y")
    return g


@BOTH
def test_what_a_batch_has_gathered_is_called_when_nothing_else_can_move(executor: str) -> None:
    session = play(knot(), executor=executor)
    assert toys.values(session) == [0, 1, 2, 3, 4, 10, 6, 7]
    assert session.nodes["x"].operator.sizes == [1, 1]


@BOTH
def test_a_stall_is_named_though_a_batch_has_gathered_something(executor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calling it does not help, as where there is no room for what would come of it."""
    monkeypatch.setattr(NodeRun, "hurry", lambda node: False)
    monkeypatch.setattr(threads, "STALL_S", 0.3)
    _, error = broken(knot(), executor=executor)
    assert isinstance(error, StallError)
    assert {"x", "y"} <= set(error.cycle)


@BOTH
def test_a_last_result_goes_out_at_the_end(executor: str) -> None:
    g = offline()
    g.node("src", "toy.count", count=4)
    g.node("x", "toy.last", a="src")
    g.node("y", "toy.add", a="x", amount=0.5)
    g.node("sink", "toy.collect", a="y")
    session = play(g, executor=executor)
    assert toys.values(session) == [0.5, 1.5, 2.5, 3.5, 6.5]
    assert session.summary().frames["out"] == 4


# ---------------------------------------------------------------- epochs


@BOTH
def test_a_cut_cleans_every_memory(executor: str) -> None:
    g = offline()
    g.node("src", "toy.count", count=8, cut_at=[4])
    g.node("m", "toy.memory", a="src")
    g.node("c", "toy.add", a="src", b="c@-1", lane="other")
    g.node("s", "toy.odd", a="src", modulus=4, rest=1)
    g.node("h", "toy.pair", a="src", b={"from": "s", "hold": 9.0})
    for name in "mch":
        g.node(f"end_{name}", "toy.collect", a=name)
    session = play(g, executor=executor)
    assert toys.values(session, "end_m") == [0, 1, 3, 6, 4, 9, 15, 22]
    assert toys.values(session, "end_c") == [0, 1, 3, 6, 4, 9, 15, 22]
    assert toys.values(session, "end_h") == [9, 1001, 2001, 3001, 4009, 5005, 6005, 7005]
    for name in "mch":
        assert [t.epoch for t in toys.taken(session, f"end_{name}")] == [0] * 4 + [1] * 4  # offline the older ones are not lost
    assert session.summary().events["epoch"] == 1


@BOTH
def test_a_reset_from_outside_and_from_within(executor: str) -> None:
    g = offline(in_flight=1)
    g.node("src", "toy.count", count=9)
    g.node("r", "toy.resets", a="src", at=[5])
    g.node("m", "toy.memory", a="r")
    g.node("sink", "toy.collect", a="m")
    session = Session(compile(g.build()), executor=executor)
    receipt = session.reset("by hand")
    session.run()
    toys.settled(session)
    assert receipt.wait(1) == 0
    assert toys.values(session) == [0, 1, 3, 6, 10, 15, 6, 13, 21]
    assert [t.epoch for t in toys.taken(session)] == [1] * 6 + [2] * 3
    assert [e["reason"] for e in session.events if e["what"] == "epoch"] == ["by hand", "r: asked for"]


# ---------------------------------------------------------------- live changes


def two_lanes(count: int = 40) -> GraphBuilder:
    g = offline()
    g.node("src", "toy.count", count=count)
    g.node("x", "toy.memory", a="src", lane="one")
    g.node("y", "toy.add", a="src", lane="two")
    g.node("z", "toy.pair", a="y", b="x")
    g.node("sink", "toy.collect", a="z")
    return g


@BOTH
def test_a_transaction_lands_on_one_frame_of_every_node(executor: str) -> None:
    plan = compile(two_lanes().build())
    session = Session(plan, executor=executor)
    receipts = []

    def tick(s: Session) -> None:
        if s.frames_out >= 5 and not receipts:
            receipts.append(s.set({"x.level": 500.0, "y.amount": 50.0}))

    if executor == "threaded":  # there is no frame on which a tick of the real clock comes: change before the start and look at frame 0
        receipts.append(session.set({"x.level": 500.0, "y.amount": 50.0}))
    session.run(tick)
    toys.settled(session)
    seq = receipts[0].wait(1)
    assert seq is not None
    assert executor == "threaded" or seq >= 5
    sums = [sum(range(i + 1)) for i in range(40)]
    assert toys.values(session) == [1000 * (i + 50 * (i >= seq)) + s + 500 * (i >= seq) for i, s in enumerate(sums)]
    assert session.recording.changes == [(seq, {"x.level": 500.0, "y.amount": 50.0})]


def test_changes_replay_on_the_same_frame() -> None:
    plan = compile(two_lanes().build())
    session = Session(plan, executor="inline", costs={"x": 300, "y": 1000})
    session.run(lambda s: s.set({"x.level": float(s.frames_out)}) and None if s.frames_out in (5, 9) else None)
    assert len(session.recording.changes) > 1
    again = play(plan, executor="inline", replay=session.recording)
    assert toys.values(again) == toys.values(session)


def test_a_change_within_a_batch_waits_for_the_next() -> None:
    g = offline()
    g.node("src", "toy.count", count=6)
    g.node("x", "toy.batch", a="src", batch=4)
    g.node("sink", "toy.collect", a="x")
    session = Session(compile(g.build()), executor="inline")
    done: list[Any] = []

    def tick(s: Session) -> None:
        if s.gates["src"].entered == 2 and not done:
            done.append(s.set({"x.level": 100.0}))

    session.run(tick)
    seq = done[0].applied_at
    assert seq == 2
    assert toys.values(session) == [0, 1, 102, 103, 104, 105]
    assert session.nodes["x"].operator.sizes == [2, 4]


def test_refused_changes_change_nothing() -> None:
    session = Session(compile(two_lanes(3).build()), executor="inline")
    with pytest.raises(ParamError) as caught:
        session.set({"x.level": 5.0, "y.amount": 1000.0, "x.broken": "call", "y.amuont": 1.0, "w.level": 1.0})
    assert set(caught.value.problems) == {"y.amount", "x.broken", "y.amuont", "w.level"}
    assert caught.value.problems["x.broken"] == "is fixed at open"
    assert 'did you mean "amount"' in caught.value.problems["y.amuont"]
    session.run()
    assert toys.values(session) == [0, 1001, 2003]
    assert session.recording.changes == []


def test_types_of_changes_are_strict() -> None:
    session = Session(compile(two_lanes(3).build()), executor="inline")
    with pytest.raises(ParamError, match="valid number"):
        session.set({"x.level": "5"})


def test_a_late_frame_takes_no_change_with_it() -> None:
    """A change is stamped on a frame that goes on, so its receipt names one."""
    g = offline()
    g.node("src", "toy.count", count=4, pts=[0, 10, 5, 20])
    g.node("x", "toy.add", a="src")
    g.node("sink", "toy.collect", a="x")
    session = Session(compile(g.build()), executor="inline")
    done: list[Any] = []

    def tick(s: Session) -> None:
        if s.gates["src"].entered == 2 and not done:
            done.append(s.set({"x.amount": 50.0}))

    summary = session.run(tick)
    assert summary.frames["drops"] == {"late": 1}
    assert done[0].applied_at == 3
    assert toys.values(session) == [0, 1, 53]


# ---------------------------------------------------------------- errors


@BOTH
def test_everything_before_a_failure_arrives(executor: str) -> None:
    g = offline()
    g.node("src", "toy.count", count=200)
    g.node("x", "toy.fails", a="src", after=100)
    g.node("y", "toy.add", a="x", lane="other")
    g.node("sink", "toy.collect", a="y")
    session, error = broken(g, executor=executor)
    assert isinstance(error, OperatorError)
    assert (error.node, error.seq, error.epoch) == ("x", 100, 0)
    assert isinstance(error.__cause__, toys.Planted)
    assert toys.values(session) == list(range(100))
    assert session.nodes["sink"].operator.closed
    assert session.summary().error is not None


@BOTH
@pytest.mark.parametrize(("on_error", "wanted"), [("skip", [0, 1, 4, 5]), ("hold", [0, 1, 1, 1, 4, 5])])
def test_errors_that_are_tolerated(executor: str, on_error: str, wanted: list[float]) -> None:
    g = offline()
    g.node("src", "toy.count", count=6)
    g.node("x", "toy.fails", a="src", at=[2, 3], on_error=on_error)
    g.node("sink", "toy.collect", a="x")
    session = play(g, executor=executor)
    assert toys.values(session) == wanted
    assert session.nodes["x"].errors == 2
    assert session.summary().events["error"] == 2
    drops = {"error": 2} if on_error == "skip" else {}
    assert session.summary().frames == {"in": 6, "out": len(wanted), "in_flight": 0, "drops": drops}


@BOTH
def test_too_many_errors_in_a_row(executor: str) -> None:
    g = offline()
    g.node("src", "toy.count", count=30)
    g.node("x", "toy.fails", a="src", at=[1, 2, 3, 5, 6, 7, 10, 11, 12, 13], on_error="skip", max_errors=3)
    g.node("sink", "toy.collect", a="x")
    session, error = broken(g, executor=executor)
    assert error.seq == 13  # type: ignore[attr-defined]
    assert toys.values(session) == [0, 4, 8, 9]


@BOTH
def test_hold_repeats_what_there_was_and_nothing_else(executor: str) -> None:
    """Of a frame that had left an output out, holding leaves it out too, and says so to those who wait."""
    g = offline()
    g.node("src", "toy.count", count=6)
    g.node("h", "toy.halves", a="src", at=[3], on_error="hold")
    g.node("x", "toy.add", a="h.low", b={"from": "h.high", "missing": "default"})
    g.node("sink", "toy.collect", a="x")
    assert toys.values(play(g, executor=executor)) == [0, 2.5, 2, 2, 4, 10.5]


@BOTH
def test_hold_forgets_at_a_cut(executor: str) -> None:
    g = offline()
    g.node("src", "toy.count", count=6, cut_at=[3])
    g.node("x", "toy.fails", a="src", at=[3], on_error="hold")
    g.node("sink", "toy.collect", a="x")
    assert toys.values(play(g, executor=executor)) == [0, 1, 2, 4, 5]


@BOTH
def test_a_source_that_raises_midway(executor: str) -> None:
    g = offline()
    g.node("src", "toy.count", count=20, fail_at=7)
    g.node("x", "toy.add", a="src")
    g.node("sink", "toy.collect", a="x")
    session, error = broken(g, executor=executor)
    assert isinstance(error, OperatorError)
    assert (error.node, error.seq) == ("src", 7)
    assert toys.values(session) == list(range(7))


@BOTH
def test_a_sink_that_raises(executor: str) -> None:
    g = offline()
    g.node("src", "toy.count", count=20)
    g.node("sink", "toy.collect", a="src", fail_at=5)
    g.node("other", "toy.collect", a="src")
    session, error = broken(g, executor=executor)
    assert error.node == "sink"  # type: ignore[attr-defined]
    assert toys.values(session) == [0, 1, 2, 3, 4]
    assert toys.values(session, "other")[:6] == [0, 1, 2, 3, 4, 5]
    assert session.nodes["other"].operator.closed


@BOTH
@pytest.mark.parametrize("broken_at", ["init", "open"])
def test_a_node_that_does_not_open_closes_the_others(executor: str, broken_at: str) -> None:
    g = offline()
    g.node("src", "toy.count", count=20)
    g.node("a", "toy.memory", a="src")
    g.node("b", "toy.memory", a="a", broken=broken_at, lane="other")
    g.node("sink", "toy.collect", a="b")
    session, error = broken(g, executor=executor)
    assert isinstance(error, OperatorError)
    assert (error.node, error.seq) == ("b", -1)
    assert session.nodes["a"].operator is None or session.nodes["a"].operator.calls == ["init", "open", "close"]
    if broken_at == "open":
        assert session.nodes["b"].operator.calls == ["init", "open", "close"]  # close is called after a failed open too


@BOTH
def test_a_node_that_does_not_close_is_reported_and_the_others_closed(executor: str) -> None:
    g = offline()
    g.node("src", "toy.count", count=3)
    g.node("a", "toy.memory", a="src", broken="close")
    g.node("sink", "toy.collect", a="a")
    session, error = broken(g, executor=executor)
    assert error.node == "a"  # type: ignore[attr-defined]
    assert toys.values(session) == [0, 1, 3]
    assert session.nodes["sink"].operator.closed
    assert session.nodes["a"].operator.calls == ["init", "open", "flush", "close"]


@BOTH
@pytest.mark.parametrize(("what", "message"), [("none", "returned no scalar"), ("type", "returned Text where scalar: Scalar is declared")])
def test_a_result_that_is_not_what_was_declared(executor: str, what: str, message: str) -> None:
    g = offline()
    g.node("src", "toy.count", count=3)
    g.node("x", "toy.wrong", a="src", what=what)
    g.node("sink", "toy.collect", a="x")
    _, error = broken(g, executor=executor)
    assert isinstance(error, OperatorError)
    assert message in str(error)


@BOTH
@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize(("what", "message"), [
    ("channels", "returned image of shape (1, 4, 2); a picture is (H, W, 3)"),
    ("plane", "returned image of shape (1, 4); a picture is (H, W, 3)"),
    ("empty", "not empty"),
    ("float", "returned image as float32 hwc rgb cpu where uint8 hwc rgb cpu is declared"),
    ("list", "a picture of list"),
])  # fmt: skip
def test_a_picture_that_is_not_what_was_declared(executor: str, what: str, message: str, at: int) -> None:
    """Libraries read a picture's memory as what it is declared: from the first frame on, and where pictures change in mid-stream."""
    g = offline()
    g.node("film", "toy.film", count=4)
    g.node("plain", "toy.tmisshapen", image="film", at=9)  # out of no pool: what follows is on the fast path
    g.node("x", "toy.tmisshapen", image="plain", what=what, at=at)
    g.node("sink", "toy.gallery", image="x")
    session, error = broken(g, executor=executor)
    assert isinstance(error, OperatorError)
    assert (error.node, error.seq) == ("x", at)
    assert message in str(error)
    assert len(toys.values(session)) == at


@BOTH
def test_errors_behind_a_waiting_queue_do_not_block_the_rest(executor: str) -> None:
    """A dead node goes on emptying its side inputs, or its partners would wait for room for ever."""
    g = offline()
    g.node("src", "toy.count", count=30)
    g.node("p", "toy.add", a="src", lane="p")
    g.node("x", "toy.pair", a="src", b={"from": "p", "cap": 1}, lane="x")
    g.node("f", "toy.fails", a="x", after=3000, lane="x")
    g.node("sink", "toy.collect", a="f")
    session, _ = broken(g, executor=executor)
    assert toys.values(session) == [0, 1001, 2002]


# ---------------------------------------------------------------- stopping


@BOTH
def test_a_drain_finishes_what_is_under_way(executor: str) -> None:
    g = offline()
    g.node("src", "toy.count", count=10**6)
    g.node("x", "toy.stops", a="src", at=20)
    g.node("y", "toy.add", a="x", lane="other")
    g.node("sink", "toy.collect", a="y")
    session = Session(compile(g.build()), executor=executor)
    toys.Stops.session = session
    summary = session.run()
    toys.settled(session)
    got = toys.values(session)
    assert got == list(range(len(got)))
    assert len(got) >= 21
    assert summary.frames["in"] == summary.frames["out"] + sum(summary.frames["drops"].values())


@BOTH
@pytest.mark.parametrize("costs", [{}, {"y": 5_000_000, "z": 20_000_000}])
def test_an_abort_gives_everything_back(executor: str, costs: dict[str, int]) -> None:
    """In the middle of batches, joins and calls: every buffer, credit and packet is accounted for."""
    if executor == "threaded" and costs:
        pytest.skip("costs are virtual")
    g = offline()
    g.node("film", "toy.film", count=10**6)
    g.node("src", "toy.count", count=10**6)
    g.node("x", "toy.stops", a="src", at=20, drain=False)
    g.node("y", "toy.copy", image="film", lane="other")
    g.node("b", "toy.stir_many", a="y", b="b2", batch=3)
    g.node("b2", "toy.copy", image="film")
    g.node("z", "toy.stir", a="b", b="film")
    g.node("wall", "toy.gallery", image="z")
    g.node("sink", "toy.collect", a="x")
    session = Session(compile(g.build()), executor=executor, poison=True, costs=costs)
    toys.Stops.session = session
    session.run(tick_s=0.1)
    toys.settled(session)
    assert all(node.operator is None or not hasattr(node.operator, "closed") or node.operator.closed for node in session.nodes.values())


@BOTH
def test_an_exception_of_the_caller_ends_the_session(executor: str) -> None:
    """What Ctrl-C does: the exception goes up, and everything is closed first."""
    g = offline()
    g.node("film", "toy.film", count=10**6)
    g.node("y", "toy.copy", image="film", lane="other")
    g.node("wall", "toy.gallery", image="y")
    session = Session(compile(g.build()), executor=executor, poison=True)
    toys.interrupted(session)
    assert session.nodes["wall"].operator.closed


def test_a_call_that_gives_up_when_asked() -> None:
    """`site.check()` in an operator that is told to stop: the frame in hand is dropped, not lost."""
    g = offline()
    g.node("src", "toy.count", count=100)
    g.node("w", "toy.waits", a="src", at=8, cancel=True)
    g.node("s", "toy.stops", a="src", at=8, drain=False, lane="other")
    g.node("sink", "toy.collect", a="w")
    g.node("end", "toy.collect", a="s")
    session = Session(compile(g.build()), executor="threaded")
    toys.Stops.session = session
    session.run(tick_s=0.1)
    toys.settled(session)
    got = toys.values(session)
    assert got == list(range(len(got)))
    assert 8 not in got


def test_a_call_that_gives_up_in_the_inline_executor() -> None:
    class Asked:
        """Stands in for the stop event: whoever waits on it is told to stop."""

        def wait(self) -> None:
            session.stop(drain=False)

        def is_set(self) -> bool:
            return True

    g = offline()
    g.node("src", "toy.count", count=100)
    g.node("w", "toy.waits", a="src", at=8, cancel=True)
    g.node("sink", "toy.collect", a="w")
    session = Session(compile(g.build()), executor="inline")
    session.nodes["w"].site.stop = Asked()  # type: ignore[assignment]
    session.run()
    toys.settled(session)
    assert toys.values(session) == list(range(8))


def test_a_session_ends_when_its_block_does() -> None:
    g = offline()
    g.node("src", "toy.count", count=5)
    g.node("sink", "toy.collect", a="src")
    with Session(compile(g.build()), executor="inline") as session:
        assert session.run().frames["out"] == 5
    assert session.aborting.is_set()


@BOTH
def test_a_batch_finds_room_for_all_its_results(executor: str) -> None:
    g = offline()
    g.node("src", "toy.count", count=20)
    g.node("x", "toy.batch", a="src", batch=3)
    g.node("sink", "toy.collect", a={"from": "x", "cap": 3}, lane="late")
    plan = compile(g.build())
    assert toys.values(play(plan, executor=executor)) == list(range(20))
    play(plan, executor="inline", costs={"sink": 10**6})


@BOTH
def test_a_sink_that_nobody_watches_is_given_nothing(executor: str) -> None:
    """Its frames are counted by cause, and a sink beside it still gets all of them."""
    g = offline()
    g.node("src", "toy.count", count=6)
    g.node("shy", "toy.shy", a="src", watched=[1, 4])
    g.node("sink", "toy.collect", a="src")
    session = play(g, executor=executor)
    assert toys.values(session) == [0, 1, 2, 3, 4, 5]
    assert session.nodes["shy"].operator.seen == [1, 4]
    edge = next(e for e in session.summary().edges if e["to"] == "shy.a")
    assert (edge["taken"], edge["drops"]) == (2, {"unwatched": 4})
    alone = offline()
    alone.node("src", "toy.count", count=6)
    alone.node("shy", "toy.shy", a="src", watched=[1, 4])
    assert play(alone, executor=executor).summary().frames["drops"] == {"unwatched": 4}


@BOTH
def test_an_onlooker_makes_no_frame_count_as_out(executor: str) -> None:
    """The sink takes every third frame and the onlooker all of them: three are out, and ages are those of the sink."""
    g = offline()
    g.node("src", "toy.count", count=9)
    g.node("sink", "toy.collect", a={"from": "src", "every": 3})
    g.node("look", "toy.looks", a="src")
    session = play(g, executor=executor)
    assert session.nodes["look"].operator.seen == list(range(9))
    assert session.summary().frames["out"] == 3
    assert len(session.ages) == 3
    assert sum(session.summary().frames["drops"].values()) == 6
    alone = offline()
    alone.node("src", "toy.count", count=9)
    alone.node("look", "toy.looks", a="src")
    assert play(alone, executor=executor).summary().frames["out"] == 9  # with no other sink it is the sink
