"""Random graphs: what compiles, runs; both executors do the same; every packet is accounted for.

A graph is drawn with sources, toy operators that skip and fail by seq, joins, holds, carries, fed parameters, batches, lanes, policies and
costs. It compiles or is refused with a GraphError, and then:

* offline: inline with costs, inline without and threads give the same numbers at the sinks, and they are a second time the same;
* live: a run on the step clock or on threads, replayed from its own recording in the inline executor, gives the same numbers;
* after every run `toys.settled` holds: conservation on every edge and at every gate, all credits and buffers back, no queue above its bound.

Buffers are poisoned when they return, so a packet that outlives its buffer is a wrong number.
"""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import toys
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from engine.errors import GraphError
from engine.graph import Graph, Input, Node, Ref
from engine.plan import Plan
from engine.planning.compile import compile
from engine.session import Session

IMAGES = ("toy.stir", "toy.stir", "toy.stir", "toy.stir_many", "toy.stir_bgr", "toy.copy", "toy.same", "toy.stamp")
WITH_SIDES = ("toy.stir", "toy.stir_many", "toy.stir_bgr")


def graph(dice: Random, clock: str, *, paced: bool = True) -> Graph:
    """A graph with one or two sources, up to eight nodes and one or two sinks."""
    sources = [f"s{i}" for i in range(dice.randint(1, 2))]
    names = [f"n{i}" for i in range(dice.randint(1, 8))]
    nodes = [
        Node(name, "toy.film", {
            "count": dice.randint(1, 20), "period": dice.choice([0.5, 1.0, 3.0]), "paced": paced and clock == "live",
            "cut_at": [dice.randint(0, 20)] if dice.randint(0, 3) == 0 else [],
        })
        for name in sources
    ]  # fmt: skip
    ops = {name: dice.choice(IMAGES) for name in names}
    lanes = [None, None, "a", "b", "slow"]
    for i, name in enumerate(names):
        op, params, extra = ops[name], {}, {}
        before = sources + names[:i]
        inputs = [trigger(dice, "a" if op in WITH_SIDES else "image", ref(dice.choice(before), ops))]
        if op in WITH_SIDES:
            params["salt"] = i
            inputs += [side(dice, port, before, names[i:], ops) for port in ("b", "c") if dice.randint(0, 1)]
            inputs += [fed(dice, before, names[i:], ops)] if dice.randint(0, 3) == 0 else []
        if op == "toy.stir":
            params.update(skips=dice.choice([0, 0, 200, 700]), fails=dice.choice([0, 0, 150]))
            if params["fails"]:
                extra.update(on_error=dice.choice(["skip", "hold"]), max_errors=10**6)
        if op == "toy.stir_many":
            params.update(skips=dice.choice([0, 300]))
            extra.update(batch=dice.randint(1, 3))
        nodes.append(Node(name, op, params, tuple(inputs), lane=dice.choice(lanes), **extra))
    for i, name in enumerate(dice.sample(names, min(len(names), dice.randint(1, 2)))):
        nodes.append(Node(f"sink{i}", "toy.gallery", {}, (trigger(dice, "image", ref(name, ops)),), lane=dice.choice(lanes)))
    return Graph("random", tuple(nodes), clock=clock, in_flight=dice.choice([None, 1, 2, 3, 5]), seed=dice.randint(0, 9))


def ref(name: str, ops: dict[str, str], output: str = "image", delay: int = 0) -> Ref:
    return Ref(name, output if ops.get(name) in WITH_SIDES else "image", delay)


def trigger(dice: Random, port: str, source: Ref) -> Input:
    policy, cap = dice.choice([None, None, None, "latest", "drop-oldest"]), dice.choice([None, None, 1, 2, 4])
    return Input(port, (source,), policy=policy, cap=cap, every=dice.choice([1, 1, 1, 2, 3]))


def side(dice: Random, port: str, before: list[str], after: list[str], ops: dict[str, str]) -> Input:
    """An input that does not fire its node: exact, the newest, or a carry from anywhere."""
    kind = dice.choice(["exact", "exact", "latest", "carry"])
    if kind == "carry":
        return Input(port, (ref(dice.choice(before + after), ops, delay=-1),))
    source = (ref(dice.choice(before), ops),)
    if kind == "latest":
        return Input(port, source, policy="latest", every=dice.choice([1, 3]), max_age_ms=dice.choice([None, 1.5, 6.0]))
    return Input(
        port, source, missing=dice.choice([None, "skip", "reuse", "default"]), cap=dice.choice([None, None, 1, 3]),
        every=dice.choice([1, 1, 2]), policy=dice.choice([None, None, "drop-oldest"]),
    )  # fmt: skip


def fed(dice: Random, before: list[str], after: list[str], ops: dict[str, str]) -> Input:
    """A live parameter fed by an edge, forward or (with a hold) in a loop."""
    forward = [n for n in before if ops.get(n) in WITH_SIDES]
    anywhere = [n for n in before + after if ops.get(n) in WITH_SIDES]
    if forward and dice.randint(0, 1):
        missing = dice.choice([None, "skip", "reuse", "default"])
        return Input("gain", (Ref(dice.choice(forward), "level"),), missing=missing, map=dice.choice([None, (0.0, 2.0)]))
    return Input("gain", (Ref(dice.choice(anywhere), "level"),), hold=3.5, max_age_ms=dice.choice([None, 2.5]))


def costs(dice: Random, plan: Plan) -> dict[str, int]:
    """Virtual time per call, ns."""
    return {node.name: dice.choice([0, 0, 100_000, 700_000, 2_500_000, 9_000_000]) for node in plan.nodes if node.kind != "source"}


def plan_of(graph: Graph) -> Plan:
    try:
        return compile(graph)
    except GraphError as refused:
        problems = refused.diagnostics
    assert problems
    assert all(problem.path and problem.message for problem in problems)
    assume(False)
    raise AssertionError


def shown(session: Session) -> dict[str, list[tuple[int, int, int]]]:
    """What the sinks got, frame by frame."""
    return {
        name: [(t.seq, t.epoch, t.value) for t in node.operator.taken] for name, node in session.nodes.items() if node.plan.kind == "sink"
    }


def play(plan: Plan, **options: Any) -> Session:
    session = Session(plan, poison=True, **options)
    session.run(tick_s=0.5)
    toys.settled(session)
    return session


def check_offline(dice: Random) -> None:
    plan = plan_of(graph(dice, "offline"))
    first = play(plan, executor="inline")
    wanted = shown(first)
    assert shown(play(plan, executor="inline", costs=costs(dice, plan))) == wanted
    assert shown(play(plan, executor="threaded")) == wanted
    drops = {cause for gate in first.gates.values() for cause in gate.drops}
    assert drops <= {"skipped", "error", "sampled", "unpaired", "joined"}, "offline loses nothing"


def check_live(dice: Random) -> None:
    plan = plan_of(graph(dice, "live"))
    spent = costs(dice, plan)
    lived = play(plan, executor="inline", costs=spent)
    again = play(plan, executor="inline", costs=spent)
    assert shown(again) == shown(lived)
    assert again.recording == lived.recording
    assert shown(play(plan, executor="inline", replay=lived.recording)) == shown(lived)


def check_live_threads(dice: Random) -> None:
    plan = plan_of(graph(dice, "live", paced=False))
    lived = play(plan, executor="threaded")
    assert shown(play(plan, executor="inline", replay=lived.recording)) == shown(lived)


PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
QUICK = settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=PHASES)
THOROUGH = settings(max_examples=4000, deadline=None, suppress_health_check=list(HealthCheck), phases=PHASES)
CHECKS = pytest.mark.parametrize("check", [check_offline, check_live, check_live_threads])


@CHECKS
def test_random_graphs(check: Any) -> None:
    QUICK(given(st.randoms(use_true_random=False))(check))()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@CHECKS
def test_many_random_graphs(check: Any) -> None:
    THOROUGH(given(st.randoms(use_true_random=False))(check))()
