"""Results that reach the host later: readers on other lanes wait for them, the lane that made them does not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import toys

from engine.graph import GraphBuilder
from engine.operator import Operator, operator
from engine.payload import Image, Scalar
from engine.planning.compile import compile
from engine.pool import Pools
from engine.run import device as devices
from engine.run.device import Cuda, Host, Landing
from engine.session import Session
from engine.site import Site


class Event:
    """Happens when somebody waits for it: as late as can be."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.work: Callable[[], None] | None = work
        self.waits: list[str] = []

    def synchronize(self) -> None:
        self.waits.append(threading.current_thread().name)
        if self.work is not None:
            work, self.work = self.work, None
            work()


class Lane(Host):
    """A lane on a device whose results are waited for where they are read."""

    asynchronous = True

    def wait(self, ready: Any) -> None:
        assert type(ready) is Landing
        ready.synchronize()


EVENTS: list[Event] = []


@operator("toy.tlands")
class Lands(Operator):
    """A picture that is filled in when its event happens."""

    def __init__(self) -> None: ...

    def __call__(self, a: Scalar) -> Image:
        out = self.site.empty((4, 4, 3), pinned=self.site.later)
        out.fill(0)

        def fill(value: int = round(a.value) + 1) -> None:
            out.fill(value)

        if self.site.later:
            EVENTS.append(Event(fill))
            self.site.landing(EVENTS[-1])
        else:
            fill()
        return Image(out)


@operator("toy.tlevel")
def level(image: Image) -> Scalar:
    """The number that fills a picture."""
    return Scalar(float(image.data[0, 0, 0]))


def run(**settings: Any) -> list[float]:
    EVENTS.clear()
    g = GraphBuilder("test", clock="offline")
    g.node("src", "toy.count", count=8)
    g.node("late", "toy.tlands", a="src", **settings)
    g.node("level", "toy.tlevel", image="late", lane="out")
    g.node("sink", "toy.collect", a="level", lane="out")
    session = Session(compile(g.build()), executor="threaded")
    session.run()
    session.check()
    return [float(value) for value in toys.values(session)]


def test_readers_on_other_lanes_wait_and_the_lane_itself_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "lane_device", lambda name, priority: Lane(name))
    assert run() == [float(n) for n in range(1, 9)]
    assert len(EVENTS) == 8
    assert all(event.waits == ["lane out"] for event in EVENTS)


def test_where_nobody_listens_a_result_is_whole_when_the_call_returns() -> None:
    assert run() == [float(n) for n in range(1, 9)]
    assert EVENTS == []


def test_a_node_that_repeats_its_last_result_does_not_land_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "lane_device", lambda name, priority: Lane(name))
    assert run(on_error="hold") == [float(n) for n in range(1, 9)]
    assert EVENTS == []


def test_a_reader_on_a_gpu_waits_on_the_host_for_what_lies_there() -> None:
    """Its stream would wait for the event, and its Python would read what is not there yet."""
    lane, seen = Cuda("cuda:0", 0), []

    class Stream:
        def wait_event(self, event: Any) -> None:
            seen.append(event)

    lane._stream = Stream()
    event = Event(lambda: None)
    lane.wait(Landing(event))
    assert (len(event.waits), seen) == (1, [])
    lane.wait(event)
    assert (len(event.waits), seen) == (1, [event])


def test_slow_lanes_go_after_the_one_that_paints() -> None:
    g = GraphBuilder("test", clock="live")
    g.node("src", "toy.count", count=8)
    g.node("late", "toy.tlands", a="src")
    g.node("look", "toy.tlevel", image="late", lane="slow")
    g.node("sink", "toy.collect", a="look", lane="slow")
    priorities = {lane.name: lane.priority for lane in compile(g.build()).lanes}
    assert priorities["main"] < priorities["slow"]


def test_pinned_buffers_are_of_one_node() -> None:
    pools = Pools()
    one, two = Site(node="one", pools=pools), Site(node="two", pools=pools)
    first = one.empty((4, 4), pinned=True)
    one.let_go()
    assert two.empty((4, 4), pinned=True) is not first
    assert two.empty((4, 4)) is not first
    assert one.empty((4, 4), pinned=True) is first
