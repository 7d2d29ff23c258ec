"""What a frame has cost before a node: the nodes it went through, each with its own frame's time, and nobody else's."""

from __future__ import annotations

from typing import Any

import toys  # noqa: F401  (registers its operators)

from engine import Operator, operator
from engine.graph import GraphBuilder
from engine.payload import Scalar
from engine.planning.compile import compile
from engine.session import Session

MS = 1_000_000


@operator("toy.tells_costs")
class TellsCosts(Operator):
    """Keeps what the site says each frame has cost."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, dict[str, float]]] = []

    def __call__(self, a: Scalar) -> None:
        self.seen.append((self.site.seq, self.site.spent))


def told(graph: GraphBuilder, **costs: float) -> list[tuple[int, dict[str, float]]]:
    session = Session(compile(graph.build()), executor="inline", costs={name: round(ms * MS) for name, ms in costs.items()})
    session.run()
    seen: list[tuple[int, dict[str, float]]] = session.nodes["sink"].operator.seen
    return seen


def graph(**source: Any) -> GraphBuilder:
    g = GraphBuilder("g", clock="offline")
    g.node("src", "toy.count", **source)
    return g


def test_every_node_on_the_way_and_no_other() -> None:
    """A side branch, a source and the node itself do not count; neither does what is only held."""
    g = graph(count=6)
    g.node("x", "toy.add", a="src", lane="one")
    g.node("held", "toy.add", a="src", lane="one")
    g.node("y", "toy.pair", a="x", b={"from": "held", "hold": 0.0}, lane="two")
    g.node("beside", "toy.add", a="src", lane="one")
    g.node("end", "toy.collect", a="beside")
    g.node("sink", "toy.tells_costs", a="y")
    assert told(g, src=3, x=1.25, held=0.25, y=9, beside=0.5, sink=4) == [(seq, {"x": 1.25, "y": 9.0}) for seq in range(6)]


def test_in_the_order_of_the_graph() -> None:
    g = graph(count=3)
    g.node("x", "toy.add", a="src")
    g.node("y", "toy.add", a="x")
    g.node("sink", "toy.tells_costs", a="y")
    assert all(list(costs) == ["x", "y"] for _, costs in told(g))


def test_both_ways_to_a_join() -> None:
    g = graph(count=4)
    g.node("x", "toy.add", a="src", lane="one")
    g.node("y", "toy.add", a="src", lane="two")
    g.node("both", "toy.pair", a="x", b="y")
    g.node("sink", "toy.tells_costs", a="both")
    assert told(g, x=1, y=9) == [(seq, {"x": 1.0, "y": 9.0, "both": 0.0}) for seq in range(4)]


def test_each_frame_has_its_own_time() -> None:
    g = graph(count=5)
    g.node("cost", "toy.spends", a="src", lane="one")
    g.node("sink", "toy.tells_costs", a="cost")
    assert told(g) == [(seq, {"cost": float(seq)}) for seq in range(5)]


@operator("toy.spends")
class Spends(Operator):
    """`a`, after as many ms of the step clock."""

    def __call__(self, a: Scalar) -> Scalar:
        self.site.clock.advance(round(a.value * MS))  # type: ignore[attr-defined]
        return a


def test_a_frame_of_a_batch_has_waited_for_all_of_it() -> None:
    g = graph(count=5)
    g.node("four", "toy.batch", a="src", lane="one", batch=2)
    g.node("sink", "toy.tells_costs", a="four")
    assert told(g, four=3) == [(seq, {"four": 3.0}) for seq in range(5)]


def test_a_reset_changes_nothing() -> None:
    g = graph(count=6, cut_at=[3])
    g.node("x", "toy.add", a="src")
    g.node("sink", "toy.tells_costs", a="x")
    assert [seq for seq, costs in told(g, x=1) if costs == {"x": 1.0}] == list(range(6))
