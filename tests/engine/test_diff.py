"""What a reload would change, as data and in words."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import toys

from engine.graph import Govern, Graph, GraphBuilder, KnobRule, Node
from engine.plan import Plan
from engine.planning.compile import compile
from engine.planning.diff import diff

assert toys


def base() -> Graph:
    g = GraphBuilder("test", clock="offline", seed=3)
    g.node("src", "toy.count", count=5)
    g.node("x", "toy.add", a="src", amount=1.0)
    g.node("m", "toy.memory", a="x", lane="other")
    g.node("h", "toy.pair", a="m", b={"hold": 2.0})
    g.node("sink", "toy.collect", a="h")
    return g.build()


def with_node(graph: Graph, name: str, **changes: Any) -> Plan:
    return compile(replace(graph, nodes=tuple(replace(n, **changes) if n.name == name else n for n in graph.nodes)))


def test_the_same_graph_changes_nothing() -> None:
    found = diff(compile(base()), compile(base()))
    assert not found
    assert not found.structural
    assert found.kept == ("src", "x", "m", "h", "sink")
    assert str(found) == "nothing changes"


def test_live_values_are_values_and_no_more() -> None:
    found = diff(compile(base()), with_node(base(), "x", params={"amount": 4.0}))
    assert found
    assert not found.structural
    assert found.params == {"x.amount": (1.0, 4.0)}
    assert "x.amount  1.0 -> 4.0" in str(found)


def test_a_written_input_is_a_value_too() -> None:
    h = next(n for n in base().nodes if n.name == "h")
    inputs = tuple(replace(i, hold=9.0) if i.port == "b" else i for i in h.inputs)
    found = diff(compile(base()), with_node(base(), "h", inputs=inputs))
    assert found.params == {"h.in.b": (2.0, 9.0)}
    assert not found.structural


def test_what_is_fixed_at_open_makes_a_node_anew_and_its_edges_with_it() -> None:
    found = diff(compile(base()), with_node(base(), "m", params={"broken": "close"}))
    assert found.rebuilt == {"m": "broken '' -> 'close'"}
    assert found.kept == ("src", "x", "h", "sink")
    assert found.structural
    assert not found.edges_added  # the edges are the same to whoever reads the graph
    moved = diff(compile(base()), with_node(base(), "m", lane="elsewhere"))
    assert moved.rebuilt == {"m": "lane 'other' -> 'elsewhere'"}


def test_nodes_and_edges_that_come_and_go() -> None:
    graph = base()
    more = replace(graph, nodes=(*graph.nodes, Node("end", "toy.collect", {}, (replace(graph.nodes[1].inputs[0]),))))
    found = diff(compile(graph), compile(more))
    assert found.added == ("end",)
    assert found.edges_added == ("end.a <- src.scalar  (block 4)",)
    assert found.rewired == ("src",)
    back = diff(compile(more), compile(graph))
    assert back.removed == ("end",)
    assert back.edges_removed == found.edges_added


def test_settings_and_how_errors_are_dealt_with() -> None:
    found = diff(compile(base()), with_node(base(), "x", on_error="skip"))
    assert (found.rewired, found.rebuilt) == (("x",), {})
    governed = replace(base(), govern=Govern(target_fps=5.0, knobs=(KnobRule("x.amount", (0.0, 1.0)),)), budget_ms=40.0)
    changed = diff(compile(base()), replace(compile(base()), govern=governed.govern, budget_ms=40.0))
    assert set(changed.settings) == {"govern", "budget_ms"}
    assert changed.structural
    json.dumps(changed.to_dict())


def test_a_node_that_has_ended_is_made_anew_where_it_is_asked_for() -> None:
    found = diff(compile(base()), compile(base()), force={"x"})
    assert found.rebuilt == {"x": "it had ended"}
