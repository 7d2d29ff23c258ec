"""Who gives way when memory runs out: models that nobody waits for first, then steps, then size, then weights; and all of it comes back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Annotated

import pytest
import torch
from toys import registered

from engine.govern import Rules
from engine.graph import Govern, GraphBuilder, KnobRule
from engine.live import control
from engine.operator import Knob, Operator, Stamped
from engine.payload import Scalar
from engine.planning.compile import compile
from engine.run.ladder import Ladder
from engine.session import Session

SECOND = 1_000_000_000
RULES = Rules.of(
    Govern(knobs=(KnobRule("paint.steps", (10, 22)), KnobRule("paint.size", choices=(512, 448)))), {"paint.steps": 15, "paint.size": 512}
)


class Watcher(Operator):
    """Holds a model that nobody waits for; `there` says whether it is on the device."""

    gives_way = True

    def __init__(self) -> None:
        self.there, self.threads = True, set[int]()

    def __call__(self, number: Scalar) -> Scalar:
        return number

    def relieve(self) -> bool:
        was, self.there = self.there, False
        self.threads.add(threading.get_ident())
        return was

    def restore(self) -> None:
        self.there = True


class Painter(Operator):
    """Runs out of memory until everything that `needs` names has been given up."""

    def __init__(self, *, steps: Annotated[int, Knob(1, 60)] = 15, size: Annotated[int, Knob(64, 1024)] = 512) -> None:
        self.steps, self.size, self.away = steps, size, False
        self.tried: list[tuple[float, int, int, bool]] = []

    def __call__(self, number: Scalar) -> Scalar:
        self.tried.append((number.value, self.steps, self.size, self.away))
        if number.value >= 2 and self.short():
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return number

    def short(self) -> bool:
        return False

    def relieve(self) -> bool:
        was, self.away = self.away, True
        return not was

    def restore(self) -> None:
        self.away = False


def test_others_go_first_and_come_back_last() -> None:
    """Two watchers, then the painter's own rungs; the way back is the reverse."""
    watchers = {"look": Watcher(), "refer": Watcher()}
    painter = Painter()
    ladder = Ladder(RULES, "paint", painter, lambda: watchers)
    down = []
    for second in range(9):
        rung = ladder.descend(second * SECOND)
        if rung is None:
            break
        painter.update(**rung.settings)
        down.append((rung.name, watchers["look"].there, watchers["refer"].there, painter.steps, painter.size, painter.away))
    assert down == [
        ("look away", False, True, 15, 512, False),
        ("refer away", False, False, 15, 512, False),
        ("steps 10", False, False, 10, 512, False),
        ("size 448", False, False, 10, 448, False),
        ("offload", False, False, 10, 448, True),
    ]
    assert ladder.caps == {"paint.steps": 10, "paint.size": 448}
    up = []
    for second in range(10, 200, 10):
        rung = ladder.climb(second * SECOND, 10.0)
        if rung is not None:
            up.append(rung.name)
    assert up == ["offload", "size 448", "steps 10", "refer away", "look away"]
    assert watchers["look"].there
    assert watchers["refer"].there


def test_one_that_is_away_already_is_passed_over() -> None:
    gone = Watcher()
    gone.there = False
    ladder = Ladder(RULES, "paint", Painter(), lambda: {"look": gone})
    rung = ladder.descend(0)
    assert rung is not None
    assert rung.name == "steps 10"


# ---------------------------------------------------------------- in a session


class Numbers(Operator):
    def __call__(self) -> Iterator[Scalar]:
        yield from (Stamped(Scalar(float(i)), pts=i * SECOND) for i in range(6))  # type: ignore[misc]


def swallow(number: Scalar) -> None:
    """A sink."""


@pytest.fixture
def operators() -> Iterator[None]:
    with registered({"small.numbers": Numbers, "small.paint": Painter, "small.look": Watcher, "small.sink": swallow}):
        yield


def opened(executor: str) -> Session:
    knobs = (KnobRule("paint.steps", (10, 22)), KnobRule("paint.size", choices=(512, 448)))
    g = GraphBuilder("way", clock="offline", govern=Govern(knobs=knobs))
    g.node("numbers", "small.numbers")
    g.node("paint", "small.paint", number="numbers")
    g.node("look", "small.look", number="paint", lane="slow")
    g.node("out", "small.sink", number="paint")
    g.node("seen", "small.sink", number="look")
    return Session(compile(g.build()), executor=executor)  # type: ignore[arg-type]


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("executor", ["inline", "threaded"])
def test_the_watcher_leaves_before_the_painter_loses_anything(executor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The frame that did not fit is tried again with the same settings, because the watcher's memory is enough."""
    session = opened(executor)
    monkeypatch.setattr(Painter, "short", lambda self: session.nodes["look"].operator.there)
    summary = session.run()
    session.check()
    painter, watcher = session.nodes["paint"].operator, session.nodes["look"].operator
    assert [t for t in painter.tried if t[0] == 2] == [(2.0, 15, 512, False)] * 2
    assert {t[1:] for t in painter.tried} == {(15, 512, False)}
    assert not watcher.there
    assert summary.frames["out"] == 6
    told = [e for e in session.events if e["what"] == "memory"]
    assert [(e["node"], e["rung"], e["settings"]) for e in told] == [("paint", "look away", {})]
    assert "look gave way" in told[0]["cause"]
    if executor == "threaded":
        assert len(watcher.threads) == 1  # from the painter's lane


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("depth", range(1, 5))
def test_every_rung_is_taken_by_one_frame(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rungs a frame needs, it is the same frame, and none is lost."""
    session = opened("inline")
    rungs = ["look away", "steps 10", "size 448", "offload"]

    def short(painter: Painter) -> bool:
        taken = [not session.nodes["look"].operator.there, painter.steps <= 10, painter.size <= 448, painter.away]
        return not all(taken[:depth])

    monkeypatch.setattr(Painter, "short", short)
    summary = session.run()
    session.check()
    assert summary.frames["out"] == 6
    assert summary.frames["drops"] == {}
    assert [e["rung"] for e in session.events if e["what"] == "memory"] == rungs[:depth]
    assert [t[0] for t in session.nodes["paint"].operator.tried] == [0, 1, *[2.0] * (depth + 1), 3, 4, 5]


@pytest.mark.usefixtures("operators")
def test_with_nothing_left_the_error_is_final(monkeypatch: pytest.MonkeyPatch) -> None:
    session = opened("inline")
    monkeypatch.setattr(Painter, "short", lambda self: True)
    with pytest.raises(Exception, match="out of memory"):
        session.run()
    assert len([e for e in session.events if e["what"] == "memory"]) == 4


@pytest.mark.usefixtures("operators")
def test_the_watcher_drives_nobody_away() -> None:
    """One that gives way itself takes its own rung; and who computes elsewhere has nothing to give."""
    session = opened("inline")
    session.run()
    ladder, painting = (control.make_ladder(session.nodes[name]) for name in ("look", "paint"))
    assert ladder is not None
    assert painting is not None
    assert dict(ladder.others()) == {}
    assert list(painting.others()) == ["look"]
    session.nodes["look"].site.device = "elsewhere"
    assert list(painting.others()) == []
