"""Wiring: order, cycles, bounds and who waits, as plans show them."""

from __future__ import annotations

from typing import Any

import pytest
import toys

from engine.graph import GraphBuilder
from engine.plan import Plan
from engine.planning.compile import compile
from engine.session import Session


def graph(**settings: Any) -> GraphBuilder:
    g = GraphBuilder("wire", **{"clock": "offline", **settings})
    g.node("src", "toy.count", count=6)
    return g


def edge(plan: Plan, node: str, port: str) -> Any:
    return next(e for e in plan.edges if (e.node, e.port) == (node, port))


def test_a_hold_runs_forward_where_it_can_and_back_where_it_must() -> None:
    g = graph()
    g.node("x", "toy.pair", a="src", b={"from": "y", "hold": 0.0})
    g.node("y", "toy.add", a="src")
    g.node("z", "toy.add", a="src", b={"from": "w", "hold": 0.0})
    g.node("w", "toy.add", a="z")
    for name in "xw":
        g.node(f"end_{name}", "toy.collect", a=name)
    plan = compile(g.build())
    order = [n.name for n in plan.nodes]
    assert order.index("y") < order.index("x")
    assert (edge(plan, "x", "b").lag, edge(plan, "z", "b").lag) == (0, 1)


def test_drops_are_announced_only_where_somebody_waits() -> None:
    g = graph()
    g.node("odd", "toy.odd", a="src")
    g.node("free", "toy.add", a="odd")
    g.node("sink", "toy.collect", a="free")
    assert not any(e.bounds for e in compile(g.build()).edges)
    g.node("x", "toy.add", a="odd", b="src")
    g.node("end", "toy.collect", a="x")
    plan = compile(g.build())
    assert {(e.node, e.port) for e in plan.edges if e.bounds} == {("odd", "a"), ("x", "a"), ("x", "b")}


def test_a_slow_branch_holds_no_credit() -> None:
    g = graph(clock="live")
    g.node("fast", "toy.add", a="src")
    g.node("slow", "toy.add", a="fast", lane="slow")
    g.node("after", "toy.add", a="slow")
    g.node("sink", "toy.collect", a="fast")
    g.node("end", "toy.collect", a="after")
    plan = compile(g.build())
    credit = {e.node: e.credit for e in plan.edges}
    assert credit == {"fast": True, "slow": False, "after": False, "sink": True, "end": False}
    assert edge(plan, "slow", "a").policy == "latest"


def test_block_on_the_slow_lane_is_what_was_asked_for() -> None:
    g = graph(clock="live")
    g.node("slow", "toy.add", a={"from": "src", "policy": "block"}, lane="slow")
    g.node("sink", "toy.collect", a="slow")
    assert edge(compile(g.build()), "slow", "a").policy == "block"


def test_another_port_may_fire() -> None:
    g = graph()
    g.node("odd", "toy.odd", a="src")
    g.node("x", "toy.pair", a={"from": "src", "missing": "skip"}, b="odd", trigger="b")
    g.node("sink", "toy.collect", a="x")
    plan = compile(g.build())
    assert (edge(plan, "x", "b").role, edge(plan, "x", "a").role) == ("trigger", "exact")
    session = Session(plan, executor="inline")
    session.run()
    assert toys.values(session) == [1001, 3003, 5005]


@pytest.mark.parametrize("policy", ["latest", "drop-oldest"])
def test_offline_loses_nothing_whatever_is_written(policy: str) -> None:
    g = graph()
    g.node("x", "toy.add", a={"from": "src", "policy": policy}, lane="slow")
    g.node("sink", "toy.collect", a="x")
    plan = compile(g.build())
    assert edge(plan, "x", "a").policy == "block"
    session = Session(plan, executor="inline", costs={"x": 10**9})
    session.run()
    assert toys.values(session) == [0, 1, 2, 3, 4, 5]


def test_the_newest_value_offline_is_the_settled_one() -> None:
    g = graph()
    g.node("late", "toy.add", a="src", amount=10.0, lane="late")
    g.node("x", "toy.pair", a="src", b={"from": "late", "policy": "latest"})
    g.node("sink", "toy.collect", a="x")
    session = Session(compile(g.build()), executor="inline", costs={"late": 10**8})
    session.run()
    assert toys.values(session) == [1000 * i + i + 10 for i in range(6)]
