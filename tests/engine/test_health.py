"""The state of a session: from signs to one word, with hysteresis, on the step clock; and in running sessions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import toys

from engine.errors import OperatorError
from engine.graph import GraphBuilder
from engine.live.health import CALM_S, ERRORS_S, FROZEN_S, SECOND, SLOW_S, STATES, Health, Signs, Source, look
from engine.planning.compile import compile
from engine.session import Session

STEP = SECOND // 10
GOOD = Signs(0, opened=True, out=100, sources={"cam": Source(0, 25.0)})


class Watch:
    """Looks ten times a second at signs that go on by themselves."""

    def __init__(self, signs: Signs = GOOD) -> None:
        self.signs, self.health = signs, Health()
        self.seen: list[str] = []

    def go(self, seconds: float, fps: float = 25.0, **changes: Any) -> str:
        self.signs = replace(self.signs, **changes)
        frames = 0.0
        for _ in range(round(seconds * 10)):
            frames += fps / 10
            come, frames = int(frames), frames - int(frames)
            sources = {name: replace(source, count=source.count + come) for name, source in self.signs.sources.items()}
            self.signs = replace(self.signs, now=self.signs.now + STEP, sources=sources)
            self.health = look(self.health, self.signs)
            if not self.seen or self.seen[-1] != self.health.state:
                self.seen.append(self.health.state)
        return self.health.state


def cam(watch: Watch, **changes: Any) -> dict[str, Source]:
    return {"cam": replace(watch.signs.sources["cam"], **changes)}


def test_a_run_that_nothing_happens_to() -> None:
    watch = Watch(replace(GOOD, opened=False, out=0))
    assert watch.go(60, fps=0) == "loading"  # weights may take their time
    assert watch.health.reasons == ("operators are opening",)
    assert watch.go(1, opened=True) == "loading"
    assert watch.go(100, out=5) == "online"
    assert watch.health.reasons == ()
    assert watch.go(1, ended=True) == "stopped"
    assert watch.seen == ["loading", "online", "stopped"]


def test_a_failure_shows_at_once_and_stays() -> None:
    watch = Watch()
    watch.go(1)
    assert watch.go(0.1, failure="node x, frame 7: boom") == "error"
    assert watch.health.reasons == ("node x, frame 7: boom",)
    assert watch.go(10, ended=True) == "error"


def test_a_frozen_source_and_its_return() -> None:
    watch = Watch()
    watch.go(5)
    assert watch.go(FROZEN_S - 0.1, fps=0) == "online"
    assert watch.go(0.2, fps=0) == "degraded_input"
    assert "cam has brought no frame for 2 s" in watch.health.reasons
    assert watch.go(CALM_S - 0.2) == "degraded_input"  # better only after a while
    assert watch.go(0.4) == "online"


def test_a_rare_source_is_not_frozen_between_its_frames() -> None:
    watch = Watch(replace(GOOD, sources={"cam": Source(0, 0.5)}))
    assert watch.go(120, fps=0.5) == "online"
    assert set(watch.seen) == {"online"}


def test_a_source_far_below_its_rate() -> None:
    watch = Watch()
    assert watch.go(3 * SLOW_S, fps=14) == "online"  # more than half
    assert watch.go(2 * SLOW_S, fps=10) == "degraded_input"
    assert "less than half of the 25 frames" in watch.health.reasons[0]
    assert watch.go(2 * SLOW_S + CALM_S) == "online"


def test_a_lost_stream_shows_at_once() -> None:
    watch = Watch()
    watch.go(2)
    assert watch.go(0.1, sources=cam(watch, lost="it ended")) == "degraded_input"
    assert watch.health.reasons == ("cam has lost its stream: it ended",)
    assert watch.go(0.1, sources=cam(watch, lost="")) == "degraded_input"
    assert watch.go(CALM_S + 0.2) == "online"


def test_a_pause_is_no_trouble_and_time_in_it_does_not_count() -> None:
    watch = Watch()
    watch.go(2)
    assert watch.go(600, fps=0, paused=True) == "online"
    assert watch.health.reasons == ("paused",)
    assert watch.go(FROZEN_S - 0.2, fps=0, paused=False) == "online"
    assert watch.go(5) == "online"


def test_a_source_that_is_held_up_by_the_graph_is_not_frozen() -> None:
    watch = Watch()
    watch.go(2)
    assert watch.go(60, fps=0, sources=cam(watch, held=True)) == "online"


def test_errors_that_are_tolerated_count_for_a_while() -> None:
    watch = Watch()
    watch.go(2)
    assert watch.go(0.1, errors={"x": 1}) == "degraded_inference"
    assert watch.go(ERRORS_S - 0.3) == "degraded_inference"
    assert watch.go(CALM_S + 0.5) == "online"
    assert watch.go(0.1, errors={"x": 2}) == "degraded_inference"


def test_rungs_and_the_budget() -> None:
    watch = Watch()
    watch.go(2)
    assert watch.go(0.1, rungs={"paint": "steps"}) == "degraded_inference"
    assert watch.health.reasons == ("paint runs on rung 'steps' for lack of memory",)
    watch.go(CALM_S + 0.2, rungs={})
    assert watch.health.state == "online"
    assert watch.go(1, missed=0.49) == "online"
    assert watch.go(0.1, missed=0.5) == "degraded_inference"
    assert watch.go(60, missed=0.3) == "degraded_inference"  # not clearly kept
    assert watch.go(CALM_S + 0.2, missed=0.2) == "online"


def test_trouble_that_comes_and_goes_does_not_flicker() -> None:
    watch = Watch()
    watch.go(2)
    for _ in range(20):
        watch.go(0.5, rungs={"paint": "steps"})
        watch.go(1.0, rungs={})
    assert watch.seen == ["online", "degraded_inference"]


def test_the_input_says_more_than_the_inference() -> None:
    watch = Watch()
    watch.go(2)
    assert watch.go(3, fps=0, rungs={"paint": "steps"}) == "degraded_input"
    assert len(watch.health.reasons) == 2
    assert STATES.index("degraded_input") > STATES.index("degraded_inference")


def graph(**settings: Any) -> GraphBuilder:
    g = GraphBuilder("t", **{"clock": "live", **settings})
    g.node("cam", "toy.count", count=100, period=100.0, paced=True)
    return g


@pytest.mark.parametrize("executor", ["inline", "threaded"])
def test_a_session_says_how_it_is(executor: str) -> None:
    g = GraphBuilder("t", clock="offline")
    g.node("cam", "toy.count", count=10)
    g.node("sink", "toy.collect", a="cam")
    session = Session(compile(g.build()), executor=executor)
    assert session.state == "loading"
    session.run()
    assert session.state == "stopped"
    assert [e["state"] for e in session.events if e["what"] == "state"][-1] == "stopped"


def test_a_sink_that_nobody_watches_is_no_reason_to_wait() -> None:
    g = graph()
    g.node("sink", "toy.shy", a="cam", watched=[])
    session = Session(compile(g.build()), executor="inline")
    session.run()
    assert session.frames_out == 0
    assert [e["state"] for e in session.events if e["what"] == "state"] == ["online", "stopped"]


def test_a_session_that_tolerates_errors_and_then_fails() -> None:
    g = graph()
    g.node("x", "toy.fails", a="cam", at=[20], after=80, on_error="skip", max_errors=3)
    g.node("sink", "toy.collect", a="x")
    session = Session(compile(g.build()), executor="inline")
    with pytest.raises(OperatorError):
        session.run()
    toys.settled(session)
    states = [e["state"] for e in session.events if e["what"] == "state"]
    assert states == ["online", "degraded_inference", "error"]
    assert "boom" in session.health.reasons[0] or "Planted" in session.health.reasons[0]
    assert session.state == "error"


def test_a_budget_that_is_not_kept() -> None:
    g = graph(budget_ms=50.0)
    g.node("x", "toy.add", a="cam")
    g.node("sink", "toy.collect", a="x")
    session = Session(compile(g.build()), executor="inline", costs={"x": 80 * toys.MS})
    session.run()
    states = [e["state"] for e in session.events if e["what"] == "state"]
    assert states == ["online", "degraded_inference", "stopped"]
