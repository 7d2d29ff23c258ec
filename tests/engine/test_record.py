"""Recordings: what a run did, up to a limit, and back."""

from __future__ import annotations

from typing import Annotated

import pytest
import toys

from engine.errors import GraphError, ReplayError
from engine.graph import GraphBuilder, Input, Ref
from engine.live import record
from engine.operator import Live, Operator, operator
from engine.payload import Scalar
from engine.planning.compile import compile
from engine.session import Session


@operator("recordtest.needs")
class Needs(Operator):
    """A live parameter without a default."""

    def __init__(self, *, level: Annotated[float, Live(0, 9)]) -> None:
        self.level = level

    def __call__(self, value: Scalar) -> Scalar:
        return Scalar(value.value + self.level)


def sampled() -> GraphBuilder:
    g = GraphBuilder("sampled", clock="live")
    g.node("in", "toy.count", count=40, period=10.0, paced=True)
    g.node("work", "toy.add", a="in")
    g.node("slow", "toy.add", a="work", amount=100.0, lane="slow")
    g.node("both", "toy.add", a="work", b=Input("b", (Ref("slow"),), hold=0.0))
    g.node("sink", "toy.collect", a="both")
    return g


COSTS = {"work": 15_000_000, "slow": 100_000_000}


def test_a_live_run_is_run_again_from_its_recording():
    plan = compile(sampled().build())
    live = Session(plan, executor="inline", costs=COSTS)
    live.run()
    assert live.recording.drops, "nothing was dropped: the test tests nothing"
    assert live.recording.reads
    again = Session(plan, executor="inline", replay=live.recording)
    again.run()
    assert toys.values(again) == toys.values(live)


def test_a_recording_ends_at_its_limit_and_is_refused_then(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(record, "LIMIT", 5)
    plan = compile(sampled().build())
    live = Session(plan, executor="inline", costs=COSTS)
    live.run()
    assert len(live.recording.drops) + len(live.recording.reads) == 5
    with pytest.raises(ReplayError, match="does not cover the whole run"):
        Session(plan, executor="inline", replay=live.recording)


def test_a_required_parameter_of_a_class_needs_a_first_value():
    g = GraphBuilder("fed")
    g.node("in", "toy.count", count=3)
    g.node("stir", "recordtest.needs", value="in", level=Input("level", (Ref("in"),)))
    g.node("sink", "toy.collect", a="stir")
    with pytest.raises(GraphError, match=r"'level' of recordtest\.needs is required"):
        compile(g.build())


def test_epochs_count_towards_the_limit_as_everything_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """A film that loops for weeks begins an epoch with every round, and nothing else may ever happen."""
    monkeypatch.setattr(record, "LIMIT", 20)
    g = GraphBuilder("test")
    g.node("src", "toy.count", count=100, cut_at=list(range(1, 100)))
    g.node("sink", "toy.collect", a="src")
    session = Session(compile(g.build()), executor="inline")
    session.run()
    assert not session.recording.complete
    assert len(session.recording.stamps) + len(session.recording.resets) <= 20
