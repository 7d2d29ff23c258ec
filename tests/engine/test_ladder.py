"""The out-of-memory ladder, with real torch errors: which settings a frame is tried with, in what order, and the way back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from toys import registered

from engine.errors import OperatorError
from engine.govern import Rules
from engine.graph import Govern, GraphBuilder, KnobRule
from engine.operator import Knob, Operator, Stamped
from engine.payload import Scalar
from engine.planning.compile import compile
from engine.run.ladder import TRIAL, Ladder, is_out_of_memory
from engine.session import Session

SECOND = 1_000_000_000
RULES = Rules.of(
    Govern(knobs=(KnobRule("paint.steps", (10, 22)), KnobRule("other.scale", (1, 9)), KnobRule("paint.size", choices=(512, 448, 384)))),
    {"paint.steps": 15, "other.scale": 3, "paint.size": 512},
)
START = (15, 512, False)


class Painter(Operator):
    """Fits only at the settings it is told; anything else raises what torch raises."""

    def __init__(self, *fits: tuple[int, int, bool], offload: bool = True) -> None:
        self.steps, self.size, self.offloaded = 15, 512, False
        self.fits, self.offload = set(fits), offload
        self.tried: list[tuple[int, int, bool]] = []

    def __call__(self) -> str:
        settings = (self.steps, self.size, self.offloaded)
        self.tried.append(settings)
        if settings not in self.fits:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {self.size} MiB.")
        return "painted"

    def relieve(self) -> bool:
        self.offloaded = self.offload
        return self.offload

    def restore(self) -> None:
        self.offloaded = False


def frame(painter: Painter, ladder: Ladder, now: int) -> str:
    """One frame as a lane runs it: the same frame again after every rung."""
    while True:
        try:
            return painter()
        except Exception as error:
            rung = ladder.descend(now) if is_out_of_memory(error) else None
            if rung is None:
                raise
            painter.update(**rung.settings)


WAY = [START, (10, 512, False), (10, 448, False), (10, 384, False), (10, 384, True)]


@pytest.mark.parametrize("depth", range(5))
def test_a_frame_is_tried_one_rung_lower_each_time_until_it_fits(depth: int) -> None:
    painter = Painter(WAY[depth])
    ladder = Ladder(RULES, "paint", painter)
    assert frame(painter, ladder, 0) == "painted"
    assert painter.tried == WAY[: depth + 1]
    assert len(ladder.taken) == depth


def test_with_nothing_left_the_error_is_the_callers() -> None:
    painter = Painter()
    ladder = Ladder(RULES, "paint", painter)
    with pytest.raises(torch.OutOfMemoryError):
        frame(painter, ladder, 0)
    assert painter.tried == WAY


def test_an_operator_that_cannot_offload_has_one_rung_less() -> None:
    painter = Painter(offload=False)
    ladder = Ladder(RULES, "paint", painter)
    with pytest.raises(torch.OutOfMemoryError):
        frame(painter, ladder, 0)
    assert painter.tried == WAY[:4]


def test_it_climbs_back_in_reverse_one_rung_a_quiet_spell() -> None:
    painter = Painter(WAY[4])
    ladder = Ladder(RULES, "paint", painter)
    frame(painter, ladder, 0)
    painter.fits = set(WAY)
    seen = []
    for second in range(1, 60):
        rung = ladder.climb(second * SECOND, 10.0)
        if rung is not None:
            painter.update(**rung.settings)
            seen.append((second, (painter.steps, painter.size, painter.offloaded)))
    assert seen == [(10, WAY[3]), (20, WAY[2]), (30, WAY[1]), (40, WAY[0])]
    assert ladder.caps == {}


def test_a_rung_that_fails_again_waits_twice_as_long_each_time() -> None:
    painter = Painter(WAY[1])
    ladder = Ladder(RULES, "paint", painter)
    climbs = []
    for second in range(400):
        rung = ladder.climb(second * SECOND, 10.0)
        if rung is not None:
            painter.update(**rung.settings)
            climbs.append(second)
        frame(painter, ladder, second * SECOND)
    assert climbs == [10, 30, 70, 150, 310]
    assert painter.tried.count(START) == 1 + len(climbs)


def test_a_rung_that_held_out_its_trial_is_trusted_again() -> None:
    painter = Painter(WAY[1])
    ladder = Ladder(RULES, "paint", painter)
    frame(painter, ladder, 0)
    assert ladder.climb(10 * SECOND, 10.0)
    painter.steps = 15
    frame(painter, ladder, 11 * SECOND)  # fails on trial
    assert ladder.failures == {"steps 10": 1}
    assert ladder.climb(31 * SECOND, 10.0)
    painter.steps = 15
    painter.fits = set(WAY)
    frame(painter, ladder, 32 * SECOND)
    painter.fits = {WAY[1]}
    frame(painter, ladder, (31 + TRIAL * 20 + 1) * SECOND)
    assert ladder.failures == {"steps 10": 0}


def test_weights_that_do_not_fit_back_are_moved_off_again() -> None:
    class Heavy(Painter):
        def restore(self) -> None:
            self.offloaded = False
            raise torch.OutOfMemoryError("CUDA out of memory.")

    painter = Heavy(WAY[4])
    ladder = Ladder(RULES, "paint", painter)
    frame(painter, ladder, 0)
    assert ladder.climb(10 * SECOND, 10.0) is None
    assert painter.offloaded
    assert ladder.climb(29 * SECOND, 10.0) is None
    assert ladder.failures["offload"] == 1
    assert ladder.climb(30 * SECOND, 10.0) is None
    assert ladder.failures["offload"] == 2


def test_it_starts_from_where_the_governor_has_the_knobs() -> None:
    painter = Painter((10, 384, False))
    painter.steps, painter.size = 10, 448
    ladder = Ladder(RULES, "paint", painter)
    frame(painter, ladder, 0)
    assert painter.tried == [(10, 448, False), (10, 384, False)]
    assert ladder.caps == {"paint.size": 384}
    assert ladder.climb(10 * SECOND, 10.0).settings == {"size": 448}  # type: ignore[union-attr]


def test_a_function_has_its_knobs_and_no_weights() -> None:
    ladder = Ladder(RULES, "paint")
    rungs = []
    while (rung := ladder.descend(0)) is not None:
        rungs.append(dict(rung.settings))
    assert rungs == [{"steps": 10}, {"size": 448}, {"size": 384}]


def host_allocator() -> None:
    torch.empty(10**15)


def numpy_array() -> None:
    np.empty(10**17)


def wrapped() -> None:
    try:
        raise torch.OutOfMemoryError("CUDA out of memory.")
    except RuntimeError as error:
        raise OperatorError("paint", 3, 0, error) from error


def raising(error: Exception) -> Any:
    def raiser() -> None:
        raise error

    return raiser


@pytest.mark.parametrize(
    "fail",
    [
        host_allocator,
        numpy_array,
        wrapped,
        raising(torch.cuda.OutOfMemoryError("CUDA out of memory.")),
        raising(RuntimeError("CUDA error: out of memory")),
        raising(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")),
        raising(RuntimeError("MPS backend out of memory (MPS allocated: 5.00 GB)")),
    ],
)
def test_out_of_memory_is_recognised(fail: Any) -> None:
    with pytest.raises(Exception) as caught:
        fail()
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error: device-side assert triggered"), ValueError("out of memory"), KeyError("x"), None]
)
def test_other_errors_are_not(error: Exception | None) -> None:
    assert not is_out_of_memory(error)


# ---------------------------------------------------------------- in a session


class Numbers(Operator):
    def __call__(self) -> Iterator[Scalar]:
        yield from (Stamped(Scalar(float(i)), pts=i) for i in range(6))  # type: ignore[misc]


class Small(Operator):
    """Never has room for more than 10 steps at 448."""

    def __init__(self, *, steps: Annotated[int, Knob(1, 60)] = 15, size: Annotated[int, Knob(64, 1024)] = 512) -> None:
        self.steps, self.size = steps, size
        self.tried: list[tuple[float, int, int]] = []

    def __call__(self, number: Scalar) -> Scalar:
        self.tried.append((number.value, self.steps, self.size))
        if number.value >= 2 and (self.steps > 10 or self.size > 448):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return number


def swallow(number: Scalar) -> None:
    """A sink."""


@pytest.fixture
def operators() -> Iterator[None]:
    with registered({"small.numbers": Numbers, "small.paint": Small, "small.sink": swallow}):
        yield


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("executor", ["inline", "threaded"])
def test_a_session_loses_no_frame_to_it(executor: str) -> None:
    knobs = (KnobRule("paint.steps", (10, 22)), KnobRule("paint.size", choices=(512, 448, 384)))
    graph = GraphBuilder("small", govern=Govern(knobs=knobs))
    graph.node("numbers", "small.numbers")
    graph.node("paint", "small.paint", number="numbers")
    graph.node("sink", "small.sink", number="paint")
    session = Session(compile(graph.build()), executor=executor)
    frames = session.run().frames
    assert (frames["in"], frames["out"]) == (6, 6)
    painter = session.nodes["paint"].operator
    assert painter.tried[:3] == [(0.0, 15, 512), (1.0, 15, 512), (2.0, 15, 512)]
    assert painter.tried[3:] == [(2.0, 10, 512), (2.0, 10, 448), (3.0, 10, 448), (4.0, 10, 448), (5.0, 10, 448)]
    assert [event["rung"] for event in session.events if event["what"] == "memory"] == ["steps 10", "size 448"]
