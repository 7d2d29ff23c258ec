"""Changes from outside: ramps, inputs that are set, pauses, and what receipts say of them. On both executors where both can."""

from __future__ import annotations

import threading
from bisect import bisect_right
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import toys
from toys import BOTH

from engine.errors import ParamError, UsageError
from engine.graph import GraphBuilder, Input, as_input
from engine.live.ramp import between, share
from engine.live.receipt import Receipt
from engine.operator import operator
from engine.payload import Prompt, Scalar, Text, from_plain
from engine.planning.compile import compile
from engine.session import Session


@operator("toy.tried_say")
def say(a: Scalar, prompt: Prompt | None = None, *, prefix: str = "", loud: bool = False) -> Text:
    """What it is told to say."""
    return Text(f"{prompt.text}/{prompt.negative}/{prompt.blend}" if prompt else "nothing")


def adds(clock: str = "offline", count: int = 20, **params: Any) -> GraphBuilder:
    g = GraphBuilder("test", clock=clock)
    g.node("src", "toy.count", count=count, **params)
    g.node("x", "toy.add", a="src")
    g.node("sink", "toy.collect", a="x")
    return g


def once(when: int, what: Any) -> Any:
    """A tick that calls `what` once, when so many frames have entered."""
    done: list[Any] = []

    def tick(session: Session) -> None:
        if not done and sum(g.entered for g in session.gates.values()) >= when:
            done.append(what(session))

    tick.done = done  # type: ignore[attr-defined]
    return tick


def moves(receipt: Receipt) -> list[tuple[str, int | None]]:
    seen: list[tuple[str, int | None]] = []
    receipt.on(lambda r, state: seen.append((state, r.done_at if state == "done" else r.applied_at)))
    return seen


# ---------------------------------------------------------------- ramps


@BOTH
def test_a_ramp_moves_with_every_frame_and_ends_at_its_target(executor: str) -> None:
    session = Session(compile(adds().build()), executor=executor)
    receipt = session.ramp({"x.amount": 10.0}, frames=5)
    seen = moves(receipt)
    assert receipt.state == "accepted"
    session.run()
    toys.settled(session)
    assert toys.values(session)[:7] == [2, 5, 8, 11, 14, 15, 16]
    assert seen == [("applied", 0), ("done", 4)]
    assert (receipt.state, receipt.applied_at, receipt.done_at, receipt.finished) == ("done", 0, 4, True)
    assert [seq for seq, _ in session.recording.changes] == [0, 1, 2, 3, 4]
    again = Session(session.plan, executor="inline", replay=session.recording)
    again.run()
    assert toys.values(again) == toys.values(session)


def test_a_ramp_starts_where_the_value_is_and_eases() -> None:
    session = Session(compile(adds().build()), executor="inline")
    session.set({"x.amount": 100.0})
    session.ramp({"x.amount": 0.0}, frames=4, curve="ease")
    session.run()
    assert toys.values(session)[:5] == [100 * (1 - share("ease", 0.25)), 1 + 50.0, 2 + 100 * (1 - share("ease", 0.75)), 3, 4]


@pytest.mark.parametrize("clock", ["offline", "live"])
def test_a_ramp_over_seconds_follows_the_stream_offline_and_the_clock_live(clock: str) -> None:
    g = adds(clock, count=10, period=100.0, paced=clock == "live")
    session = Session(compile(g.build()), executor="inline")
    receipt = session.ramp({"x.amount": 8.0}, seconds=0.4)
    session.run()
    assert toys.values(session)[:6] == [0, 3, 6, 9, 12, 13]
    assert (receipt.applied_at, receipt.done_at) == (0, 4)


def test_time_in_a_pause_is_no_time_of_a_ramp() -> None:
    g = adds("live", count=40, period=100.0, paced=True)
    session = Session(compile(g.build()), executor="inline")
    receipt = session.ramp({"x.amount": 20.0}, seconds=2.0)

    def tick(s: Session) -> None:
        now, dropped = s.clock.now(), s.gates["src"].drops["paused"]
        if now >= 500 * toys.MS and not s.paused and not dropped:
            s.pause()
        elif now >= 1500 * toys.MS and s.paused:
            s.resume()

    session.run(tick)
    toys.settled(session)
    dropped = session.gates["src"].drops["paused"]
    assert dropped >= 9
    steps = [seq for seq, _ in session.recording.changes]
    assert receipt.done_at == steps[-1]
    amounts = [values["x.amount"] for _, values in session.recording.changes]
    assert amounts == sorted(amounts)
    assert max(b - a for a, b in pairwise(amounts)) <= 1.0 + 1e-9  # no jump over the pause
    assert amounts[-1] == 20.0


def test_a_later_set_takes_over_its_path_and_leaves_the_others() -> None:
    g = adds()
    g.node("y", "toy.add", a="src")
    g.node("end", "toy.collect", a="y")
    session = Session(compile(g.build()), executor="inline")
    receipt = session.ramp({"x.amount": 10.0, "y.amount": 10.0}, frames=10)
    session.run(once(4, lambda s: s.set({"x.amount": 50.0})))
    at = session.recording.changes[-1][0]
    assert receipt.state == "done"
    assert receipt.done_at == at == 9
    assert list(receipt.problems) == ["x.amount"]
    assert toys.values(session)[-1] == 19 + 50
    assert toys.values(session, "end")[-1] == 19 + 10


def test_a_ramp_that_is_overtaken_whole_has_failed() -> None:
    session = Session(compile(adds().build()), executor="inline")
    first = session.ramp({"x.amount": 10.0}, frames=10)
    seen = moves(first)
    second = session.ramp({"x.amount": 0.0}, frames=2)
    session.run()
    assert [state for state, _ in seen] == ["applied", "failed"]
    assert "took over" in first.reason
    assert (second.state, second.done_at) == ("done", 1)


def test_a_ramp_whose_run_ends_first_has_failed() -> None:
    session = Session(compile(adds(count=3).build()), executor="inline")
    receipt = session.ramp({"x.amount": 10.0}, frames=100)
    session.run()
    assert receipt.state == "failed"
    assert "run ended" in receipt.reason
    late = session.set({"x.amount": 1.0})
    assert late.state == "failed"


def test_a_ramp_goes_on_when_the_source_that_clocks_it_ends() -> None:
    g = adds(count=3)
    g.node("long", "toy.count", count=9)
    g.node("y", "toy.add", a="long")
    g.node("end", "toy.collect", a="y")
    session = Session(compile(g.build()), executor="inline")
    receipt = session.ramp({"y.amount": 10.0}, frames=100)
    session.run()
    assert receipt.state == "done"
    assert toys.values(session, "end")[-1] == 18.0


def test_whole_numbers_are_rounded_and_lists_go_part_by_part() -> None:
    assert [between(1, 4, i / 4) for i in range(5)] == [1, 2, 2, 3, 4]
    assert between([0, 1.0], [10, 2.0], 0.5) == [5, 1.5]
    assert share("linear", 0.3) == 0.3
    assert [share("ease", i / 4) for i in (0, 2, 4)] == [0.0, 0.5, 1.0]


def test_what_is_no_number_is_refused_with_a_reason() -> None:
    session = Session(compile(talking().build()), executor="inline")
    with pytest.raises(ParamError) as caught:
        session.ramp({"say.prompt": "a robot", "x.amount": 5.0}, frames=5)
    assert list(caught.value.problems) == ["say.in.prompt"]
    assert "blend" in caught.value.problems["say.in.prompt"]
    for wrong in ({"frames": 0}, {"frames": 5, "seconds": 1.0}, {}, {"seconds": -1.0}, {"frames": 5, "curve": "bouncy"}, {"frames": True}):
        with pytest.raises(UsageError):
            session.ramp({"x.amount": 5.0}, **wrong)
    with pytest.raises(ParamError, match="less than or equal to 100"):
        session.ramp({"x.amount": 1e9}, frames=5)
    session.run()
    assert session.recording.changes == []


# ---------------------------------------------------------------- inputs


def talking(count: int = 6, **inputs: Any) -> GraphBuilder:
    g = GraphBuilder("test", clock="offline")
    g.node("src", "toy.count", count=count)
    g.node("x", "toy.add", a="src")
    g.node("say", "toy.tried_say", a="x", **{"prompt": {"hold": {"text": "a dancer", "negative": "fog", "blend": 8}}, **inputs})
    g.node("sink", "toy.read", text="say")
    return g


@BOTH
def test_a_written_input_is_set_live_with_parameters_on_one_frame(executor: str) -> None:
    session = Session(compile(talking().build()), executor=executor)
    receipt = session.set({"say.prompt": {"text": "a robot", "blend": 3}, "x.amount": 1.0})
    session.run()
    toys.settled(session)
    assert receipt.applied_at == 0
    assert toys.values(session) == ["a robot//3"] * 6
    assert session.recording.changes == [(0, {"say.in.prompt": {"text": "a robot", "negative": "", "blend": 3}, "x.amount": 1.0})]


@BOTH
def test_a_blend_is_there_at_once_and_done_at_its_last_frame(executor: str) -> None:
    session = Session(compile(talking(count=9).build()), executor=executor)
    receipt = session.ramp({"say.prompt": {"text": "a robot", "blend": 4}, "x.amount": 1.0}, frames=4, curve="blend")
    session.run()
    toys.settled(session)
    assert (receipt.state, receipt.applied_at, receipt.done_at) == ("done", 0, 3)
    assert toys.values(session) == ["a robot//4"] * 9
    assert [seq for seq, _ in session.recording.changes] == [0]


def test_other_words_keep_what_to_avoid_and_how_to_blend_and_replay() -> None:
    session = Session(compile(talking().build()), executor="inline")
    session.run(once(3, lambda s: s.set({"say.prompt": "a robot"})))
    said = toys.values(session)
    assert said[0] == "a dancer/fog/8"
    assert said[-1] == "a robot/fog/8"
    again = Session(session.plan, executor="inline", replay=session.recording)
    again.run()
    assert toys.values(again) == said


def test_an_input_that_the_graph_leaves_open_can_be_set_and_let_go() -> None:
    session = Session(compile(talking(prompt=None).build()), executor="inline")
    session.run(once(2, lambda s: s.set({"say.prompt": "hello"})))
    said = toys.values(session)
    assert said[0] == "nothing"
    assert said[-1] == "hello//0"
    session = Session(compile(talking(prompt=None).build()), executor="inline")
    session.set({"say.prompt": "hello"})
    session.run(once(3, lambda s: s.set({"say.in.prompt": None})))
    assert (toys.values(session)[0], toys.values(session)[-1]) == ("hello//0", "nothing")


@BOTH
def test_a_hold_reads_what_was_set_until_its_edge_brings_a_newer_one(executor: str) -> None:
    g = GraphBuilder("test", clock="offline", in_flight=1)
    g.node("src", "toy.count", count=9)
    g.node("slow", "toy.add", a={"from": "src", "every": 4}, amount=50.0)
    g.node("x", "toy.pair", a="src", b={"from": "slow", "hold": -1.0})
    g.node("sink", "toy.collect", a="x")
    session = Session(compile(g.build()), executor="inline")
    tick = once(3, lambda s: s.set({"x.b": 7.0}))
    session.run(tick)
    at = tick.done[0].applied_at
    assert 0 < at < 4
    wanted = [1000 * i + (50 if i < at else 7 if i < 4 else 54 if i < 8 else 58) for i in range(9)]
    assert toys.values(session) == wanted
    again = Session(session.plan, executor=executor, replay=session.recording)
    again.run()
    assert toys.values(again) == wanted


def test_a_hold_that_feeds_a_parameter_is_set_by_the_name_of_the_parameter() -> None:
    g = GraphBuilder("test", clock="offline")
    g.node("src", "toy.count", count=4)
    g.node("x", "toy.add", a="src", amount=1.0)
    g.node("sink", "toy.collect", a="x")
    graph = g.build()
    nodes = tuple(replace(n, params={}, inputs=(*n.inputs, Input("amount", (), hold=2.0))) if n.name == "x" else n for n in graph.nodes)
    session = Session(compile(replace(graph, nodes=nodes)), executor="inline")
    session.set({"x.amount": 5.0})
    session.run()
    assert toys.values(session) == [5, 6, 7, 8]


def test_a_parameter_that_an_edge_feeds_cannot_be_set_or_ramped_and_says_which_edge() -> None:
    g = GraphBuilder("test", clock="offline")
    g.node("src", "toy.count", count=6)
    g.node("other", "toy.add", a="src", amount=10.0)
    g.node("x", "toy.add", a="src", amount=as_input("amount", {"from": "other"}))
    g.node("sink", "toy.collect", a="x")
    session = Session(compile(g.build()), executor="inline")
    for change in (session.set, lambda changes: session.ramp(changes, frames=3)):
        for path in ("x.amount", "x.in.amount"):
            with pytest.raises(ParamError) as caught:
                change({path: 5.0, "other.amount": 1.0})
            assert caught.value.problems == {
                path: "is fed by other.scalar with every frame, which would overwrite it; take that edge out of the graph to set it"
            }
    session.run()
    assert toys.values(session) == [2 * i + 10 for i in range(6)]  # nothing of the refused transactions landed


def test_inputs_that_frames_feed_cannot_be_set() -> None:
    session = Session(compile(talking().build()), executor="inline")
    with pytest.raises(ParamError) as caught:
        session.set({"say.a": 1.0, "say.in.a": 1.0, "say.nonsense": 1, "say.in.nonsense": 1, "say.prompt": 3})
    problems = caught.value.problems
    assert problems["say.a"] == problems["say.in.a"] == "comes from x.scalar with every frame; give it a hold in the graph to set it"
    assert "no parameter 'nonsense'" in problems["say.nonsense"]
    assert "no input 'nonsense'" in problems["say.in.nonsense"]
    assert "no Prompt" in problems["say.prompt"]


@pytest.mark.parametrize("value", [{"text": 3}, {"text": "a", "blend": -1}, {"text": "a", "blend": "soon"}, {"text": "a", "negative": 1}, {}])
def test_prompts_are_checked(value: Any) -> None:
    with pytest.raises(ValueError):
        from_plain(Prompt, value)


# ---------------------------------------------------------------- pauses


@BOTH
def test_offline_a_pause_loses_nothing(executor: str) -> None:
    session = Session(compile(adds(count=30).build()), executor=executor)
    before = session.pause()
    assert before.state == "applied"
    seen: list[int] = []

    def tick(s: Session) -> None:
        seen.append(s.frames_out)
        if len(seen) == 5:
            assert s.frames_out == 0
            tick.receipt = s.resume()  # type: ignore[attr-defined]

    session.run(tick, tick_s=0.002)
    toys.settled(session)
    assert toys.values(session) == list(range(30))
    assert before.applied_at == 0
    assert tick.receipt.applied_at == 0  # type: ignore[attr-defined]


def test_live_the_frames_of_a_pause_are_dropped_and_counted_and_ages_stay_honest() -> None:
    g = adds("live", count=60, period=10.0, paced=True)
    session = Session(compile(g.build()), executor="inline", costs={"x": 4 * toys.MS})

    def tick(s: Session) -> None:
        now = s.clock.now()
        if 100 * toys.MS <= now < 300 * toys.MS and not s.paused:
            s.pause()
        elif now >= 300 * toys.MS and s.paused:
            s.resume()

    session.run(tick)
    toys.settled(session)
    frames = session.summary().frames
    assert frames["in"] == 60 == frames["out"] + frames["drops"]["paused"]
    assert 18 <= frames["drops"]["paused"] <= 22
    assert max(session.ages) == 4 * toys.MS  # none of them waited for the pause to end
    again = Session(session.plan, executor="inline", replay=session.recording)
    again.run()
    assert toys.values(again) == toys.values(session)


def test_a_run_that_is_stopped_in_a_pause_ends() -> None:
    session = Session(compile(adds(count=30).build()), executor="threaded")
    session.pause()
    ticks: list[int] = []

    def tick(s: Session) -> None:
        ticks.append(1)
        if len(ticks) == 3:
            s.stop()

    session.run(tick, tick_s=0.002)
    toys.settled(session)
    assert session.frames_out <= 1


def test_the_watchdog_does_not_take_a_pause_for_a_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.run import threads

    monkeypatch.setattr(threads, "STALL_S", 0.01)
    session = Session(compile(adds(count=30).build()), executor="threaded")
    session.pause()
    ticks: list[int] = []

    def tick(s: Session) -> None:
        ticks.append(1)
        if len(ticks) == 30:
            s.resume()

    session.run(tick, tick_s=0.002)
    assert toys.values(session) == list(range(30))


def test_a_frame_that_is_dropped_takes_no_cut_with_it() -> None:
    """A stream that begins anew while nobody admits frames begins a new epoch with the next that goes in."""
    times = [(i if i < 20 else i - 20) * 10 * toys.MS for i in range(40)]
    g = adds("live", count=40, period=10.0, paced=True, cut_at=[20], pts=times)
    session = Session(compile(g.build()), executor="inline")

    def tick(s: Session) -> None:
        if 150 * toys.MS <= s.clock.now() < 250 * toys.MS and not s.paused:
            s.pause()
        elif s.clock.now() >= 250 * toys.MS and s.paused:
            s.resume()

    session.run(tick)
    assert "late" not in session.summary().frames["drops"]
    taken = toys.taken(session)
    assert {t.epoch for t in taken if t.seq < 20} == {0}
    assert {t.epoch for t in taken if t.seq > 20} == {1}


# ---------------------------------------------------------------- receipts


def test_a_receipt_tells_late_listeners_what_they_missed_once_and_in_order() -> None:
    receipt = Receipt("ramp")
    early: list[str] = []
    receipt.on(lambda r, state: early.append(state))
    receipt.move("applied", applied_at=3)
    receipt.move("done", done_at=5)
    assert receipt.move("failed") == []  # it is at its end
    late: list[str] = []
    receipt.on(lambda r, state: late.append(state))
    assert early == late == ["applied", "done"]
    assert receipt.wait(0) == 3
    assert receipt.wait_done(0)


def test_what_a_callback_raises_is_an_event_and_hurts_nobody() -> None:
    session = Session(compile(adds(count=3).build()), executor="inline")
    receipt = session.set({"x.amount": 1.0})

    def broken(receipt: Receipt, state: str) -> None:
        raise ValueError("no")

    receipt.on(broken)
    session.run()
    assert toys.values(session) == [1, 2, 3]
    assert [e["message"] for e in session.events if e["what"] == "callback failed"] == ["ValueError: no"]


def test_a_thousand_transactions_while_frames_fly() -> None:
    """Every one lands whole, on one frame, in the order in which they were asked for; nobody is forgotten."""
    g = GraphBuilder("test", clock="live", in_flight=3)
    g.node("src", "toy.count", count=10**7)
    g.node("x", "toy.add", a="src", lane="one")
    g.node("y", "toy.add", a="src", lane="two")
    g.node("z", "toy.pair", a="x", b={"from": "y", "missing": "skip"})
    g.node("sink", "toy.collect", a="z")
    session = Session(compile(g.build()), executor="threaded")
    told: list[tuple[int, str]] = []
    receipts: list[Receipt] = []

    def storm() -> None:
        for i in range(1000):
            value = float(i % 90)
            changes = {"x.amount": value, "y.amount": value}
            receipt = session.set(changes) if i % 7 else session.ramp(changes, frames=3)
            receipt.on(lambda r, state: told.append((r.number, state)))
            receipts.append(receipt)
            if i % 50 == 0:
                receipt.wait(10)
        receipts[-1].wait(10)
        session.stop()

    thread = threading.Thread(target=storm)
    thread.start()
    session.run(tick_s=0.01)
    thread.join()
    toys.settled(session)
    assert len(receipts) == 1000
    assert all(r.applied_at is not None for r in receipts)
    landed = [number for number, state in told if state == "applied"]
    assert landed == [r.number for r in receipts]
    seqs = [r.applied_at for r in receipts]
    assert seqs == sorted(seqs)
    for values in (values for _, values in session.recording.changes):
        assert values["x.amount"] == values["y.amount"]
    steps = [(0, 0.0), *((seq, values["x.amount"]) for seq, values in session.recording.changes)]
    for one in toys.taken(session):
        amount = steps[bisect_right(steps, one.seq, key=lambda step: step[0]) - 1][1]
        assert one.value == pytest.approx(1001 * (one.seq + amount)), "a frame saw half of a transaction"


# ---------------------------------------------------------------- what a session says of itself


def test_describe_and_values() -> None:
    import json

    session = Session(compile(talking().build()), executor="inline")
    told = session.describe()
    json.dumps(told)
    x, said = told["nodes"]["x"], told["nodes"]["say"]
    assert x["op"] == "toy.add"
    assert x["doc"] == "a + b + amount."
    assert x["params"]["amount"]["live"]
    assert x["params"]["amount"]["schema"]["maximum"] == 100
    assert x["params"]["amount"]["value"] == 0.0
    assert x["inputs"]["a"]["from"] == ["src.scalar"]
    assert not x["inputs"]["a"]["settable"]
    assert x["inputs"]["b"]["settable"]
    assert said["inputs"]["prompt"]["value"] == {"text": "a dancer", "negative": "fog", "blend": 8}
    assert "say.in.prompt" in told["inputs"]
    assert {"from": "x.scalar", "to": "say.a"}.items() <= told["edges"][1].items()
    assert told["state"] == "loading"
    assert session.values(["x.amount", "say.prompt", "x.b"]) == {
        "x.amount": 0.0, "say.prompt": {"text": "a dancer", "negative": "fog", "blend": 8}, "x.b": None
    }  # fmt: skip
    assert session.values()["src.count"] == 6
    with pytest.raises(ParamError) as caught:
        session.values(["x.amuont"])
    assert "amount" in caught.value.problems["x.amuont"]
