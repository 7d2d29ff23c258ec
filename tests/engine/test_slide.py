"""Operators that are fed one frame at a time and answer later: every result leaves under its own frame, and nothing under way is lost."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
import toys
from toys import BOTH

from engine import Live, Operator, operator
from engine.errors import OperatorError
from engine.graph import GraphBuilder
from engine.payload import Image
from engine.planning.compile import compile
from engine.session import Session


@operator("toy.tlate")
class Late(Operator):
    """Each picture again, plus `level`, `depth` - 1 frames later; from `bad` on it raises. `calls`: new frames and results of each."""

    def __init__(self, *, depth: int, level: Annotated[int, Live(0, 1000)] = 0, bad: int = -1) -> None:
        self.depth, self.level, self.bad = depth, level, bad
        self.under: list[int] = []
        self.calls: list[tuple[int, int]] = []
        self.resets = 0

    @classmethod
    def sliding(cls, params: Any) -> bool:
        return True

    def reset(self) -> None:
        self.resets += 1
        self.under.clear()

    def __call__(self, image: Image) -> Image:
        raise AssertionError("called as if it took single frames")

    def call_batch(self, frames: list[dict[str, Any]]) -> list[Image]:
        assert len(frames) == len(self.site.packets) <= 1
        if frames and self.site.packets[0].seq == self.bad:
            raise toys.Planted("told to")
        self.under += [toys.number(frame["image"]) for frame in frames]
        ready = len(self.under) if not frames else max(0, len(self.under) - self.depth + 1)
        self.calls.append((len(frames), ready))
        done, self.under = self.under[:ready], self.under[ready:]
        return [toys.picture(self.site, number + self.level) for number in done]


def graph(depth: int = 3, *, count: int = 8, clock: str = "offline", on_error: str = "fail", cut_at: Any = (), **params: Any) -> GraphBuilder:
    g = GraphBuilder("test", clock=clock)
    g.node("film", "toy.film", count=count, **({"cut_at": list(cut_at)} if cut_at else {}))
    g.node("x", "toy.tlate", image="film", batch=depth, depth=depth, on_error=on_error, **params)
    g.node("wall", "toy.gallery", image="x")
    return g


def play(g: GraphBuilder, executor: str, tick: Any = None) -> Session:
    session = Session(compile(g.build()), executor=executor, poison=True)
    session.run(tick, tick_s=0.2)
    toys.settled(session)
    return session


def plain(count: int = 8, cut_at: Any = ()) -> list[Any]:
    g = GraphBuilder("test", clock="offline")
    g.node("film", "toy.film", count=count, **({"cut_at": list(cut_at)} if cut_at else {}))
    g.node("wall", "toy.gallery", image="film")
    return toys.taken(play(g, "inline"), "wall")


@BOTH
@pytest.mark.parametrize("depth", [2, 3, 5])
def test_every_result_leaves_under_its_own_frame(executor: str, depth: int) -> None:
    session = play(graph(depth), executor)
    assert [(t.seq, t.value) for t in toys.taken(session, "wall")] == [(t.seq, t.value) for t in plain()]
    calls = session.nodes["x"].operator.calls
    assert calls == [(1, 0)] * (depth - 1) + [(1, 1)] * (9 - depth) + [(0, depth - 1)]  # it fills, it slides, the end brings out the rest


@BOTH
def test_fewer_frames_than_it_holds_come_out_at_the_end(executor: str) -> None:
    session = play(graph(5, count=2), executor)
    assert [t.value for t in toys.taken(session, "wall")] == [t.value for t in plain(2)]


@BOTH
def test_a_reset_brings_out_what_is_under_way_first(executor: str) -> None:
    session = play(graph(3, cut_at=[4]), executor)
    assert [(t.seq, t.epoch, t.value) for t in toys.taken(session, "wall")] == [(t.seq, t.epoch, t.value) for t in plain(cut_at=[4])]
    assert session.nodes["x"].operator.calls == [(1, 0), (1, 0), (1, 1), (1, 1), (0, 2)] * 2


@BOTH
def test_a_change_lands_on_its_frame_although_older_ones_are_under_way(executor: str) -> None:
    done: list[Any] = []

    def tick(s: Session) -> None:
        if s.gates["film"].entered >= 3 and not done:
            done.append(s.set({"x.level": 100}))

    session = Session(compile(graph(3, count=40).build()), executor=executor, poison=True)
    session.run(tick, tick_s=0.001)
    toys.settled(session)
    at = done[0].applied_at
    before = {t.seq: t.value for t in plain(40)}
    if at is not None:
        assert {t.seq: t.value for t in toys.taken(session, "wall")} == {s: v + 100 * (s >= at) for s, v in before.items()}


@BOTH
@pytest.mark.parametrize("on_error", ["skip", "fail"])
def test_an_error_ends_what_is_under_way_and_it_begins_anew(executor: str, on_error: str) -> None:
    g = graph(3, on_error=on_error, bad=4)
    session = Session(compile(g.build()), executor=executor, poison=True)
    if on_error == "fail":
        with pytest.raises(OperatorError, match="told to"):
            session.run(tick_s=0.2)
    else:
        session.run(tick_s=0.2)
    toys.settled(session)
    came = [t.seq for t in toys.taken(session, "wall")]
    assert came == ([0, 1] if on_error == "fail" else [0, 1, 5, 6, 7])
    assert session.nodes["x"].operator.resets == 1


@BOTH
def test_results_that_belong_to_no_frame_are_an_error(executor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Late, "call_batch", lambda self, frames: [] if not frames else [toys.picture(self.site, 1)] * 2)
    with pytest.raises(OperatorError, match="answered 2 of 1 frames under way"):
        Session(compile(graph(3).build()), executor=executor).run(tick_s=0.2)
    monkeypatch.setattr(Late, "call_batch", lambda self, frames: [])
    with pytest.raises(OperatorError, match="answered 0 of 3 frames under way, expected at least 1"):
        Session(compile(graph(3).build()), executor=executor).run(tick_s=0.2)


@BOTH
def test_an_abort_in_the_middle_gives_everything_back(executor: str) -> None:
    session = Session(compile(graph(4, count=10**6).build()), executor=executor, poison=True)
    toys.interrupted(session)


def test_ages_are_those_of_the_frames_shown() -> None:
    """A source that is paced, a call that takes no time: a picture is as old as the frames it waited for."""
    g = GraphBuilder("test", clock="live")
    g.node("film", "toy.film", count=30, paced=True, period=40.0)
    g.node("x", "toy.tlate", image="film", batch=4, depth=4)
    g.node("wall", "toy.gallery", image="x")
    session = play(g, "inline")
    period = 40.0
    assert session.summary().age_ms["p50"] == pytest.approx(3 * period, rel=0.1)
