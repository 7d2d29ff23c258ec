"""Numbers about a run: percentiles, a snapshot for the live view, and the summary at the end.

Everything here is read from counters that the runtime keeps anyway; nothing is estimated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.operator import Operator
from engine.planning.memory import measured_peak

if TYPE_CHECKING:
    from engine.session import Session


def percentile(values: Sequence[float], q: float) -> float:
    """The q-th percentile (0..100) by linear interpolation; 0 for no values."""
    if not values:
        return 0.0
    ordered = sorted(values)
    at = (len(ordered) - 1) * q / 100
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def spread(values: Iterable[float]) -> dict[str, float]:
    """p50, p95 and p99 of `values`."""
    kept = list(values)
    return {f"p{q}": round(percentile(kept, q), 3) for q in (50, 95, 99)}


@dataclass(frozen=True)
class Summary:
    """What a run did. `frames` obeys in = out + in_flight + sum of drops."""

    plan: str
    clock: str
    seconds: float
    frames: dict[str, Any]
    fps: float
    age_ms: dict[str, float]
    nodes: dict[str, Any]
    edges: list[dict[str, Any]]
    knobs: dict[str, Any]
    outputs: list[str]
    events: dict[str, int]
    allocations: int
    error: str | None = None
    lanes: dict[str, float] = field(default_factory=dict)
    state: str = "stopped"
    states: dict[str, float] = field(default_factory=dict)  # seconds in each
    memory: dict[str, Any] | None = None
    parts: dict[str, dict[str, float]] = field(default_factory=dict)  # ms of the parts of calls that operators time (Site.span)
    measured: dict[str, dict[str, float]] = field(default_factory=dict)  # numbers that operators measure (Site.measure)

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def frames_of(session: Session) -> dict[str, Any]:
    """Source frames by fate."""
    past = session.past
    drops: Counter[str] = Counter(past.drops)
    totals = {"in": past.frames["in"], "out": past.frames["out"], "in_flight": 0}
    for gate in [*session.gates.values(), *past.gates]:
        with gate.lock:
            totals["in"] += gate.entered
            totals["out"] += gate.out
            totals["in_flight"] += gate.in_flight
            drops.update(gate.drops)
    return {**totals, "drops": dict(sorted(drops.items()))}


def fps_of(session: Session) -> float:
    """Frames out over the time between the first and the last."""
    first, last, count = session.first_out, session.last_out, session.frames_out
    return (count - 1) / ((last - first) / 1e9) if first is not None and last > first else 0.0


def memory_facts(session: Session) -> dict[str, Any] | None:
    """What was planned for the card's memory and what was measured, in MB; None where nothing was planned.

    `measured_mb`: what torch's allocator held at most. `tensors_mb`: what tensors took of that, to compare with `expected_mb`: the plan without
    what it keeps back and without the pools of captured work, whose tensors nobody counts. `ratio`: the one over the other.
    """
    plan = session.memory
    if plan is None:
        return None
    tensors, held = measured_peak(session.device) or (None, None)
    expected = plan.peak - plan.reserve - plan.pools
    return {
        "budget_mb": round(plan.budget / 1e6) if plan.budget else None, "planned_mb": round(plan.peak / 1e6),
        "measured_mb": round(held / 1e6) if held is not None else None, "fits": plan.fits,
        "expected_mb": round(expected / 1e6), "tensors_mb": round(tensors / 1e6) if tensors is not None else None,
        "ratio": round(expected / tensors, 3) if tensors else None, "reserve_mb": round(plan.reserve / 1e6),
        "activations_mb": round(plan.activations / 1e6), "pools_mb": round(plan.pools / 1e6),
        "kept": {f"{node}.{what}": round(size / 1e6) for node, what, size in plan.kept}, "spared": {node: way.how for node, way in plan.spared},
        "models": {
            f"{p.node}.{p.weights.name}": {"mb": round(p.weights.bytes / 1e6), "card_mb": round(p.way.stays / 1e6), "how": p.how}
            for p in plan.placements
        },
    }  # fmt: skip


def states_of(session: Session) -> dict[str, float]:
    """Seconds that a run spent in each of its states, from the events that tell of them."""
    changes = [(e["at"], e["before"]) for e in list(session.events) if e["what"] == "state"]
    found: Counter[str] = Counter()
    since = session.started
    for at, before in [*changes, (session.stopped or session.clock.now(), session.state)]:
        found[before] += max(0, at - since)
        since = max(since, at)
    return {state: round(ns / 1e9, 3) for state, ns in found.items() if ns}


def parts_of(session: Session) -> dict[str, dict[str, float]]:
    """How long the parts of calls took, by "node.part", over what the rings hold."""
    times: dict[str, list[float]] = {}
    for lane in session.lanes.values():
        for begun, ended, kind, name, _, _ in lane.trace.records():
            if kind == "part":
                times.setdefault(name, []).append((ended - begun) / 1e6)
    return {name: spread(found) for name, found in sorted(times.items())}


def measured_of(session: Session) -> dict[str, dict[str, float]]:
    """The numbers of each "node.name": least, median, most and the last."""
    found: dict[str, list[float]] = {}
    for node, rows in list(session.series.items()):
        for _, numbers in list(rows):
            for name, value in numbers.items():
                found.setdefault(f"{node}.{name}", []).append(float(value))
    told = {name: (min(v), percentile(v, 50), max(v), v[-1]) for name, v in sorted(found.items())}
    return {name: dict(zip(("least", "p50", "most", "last"), (round(x, 4) for x in v), strict=True)) for name, v in told.items()}


def summarise(session: Session) -> Summary:
    """The summary of a session, at any time."""
    ages = [age / 1e6 for age in session.ages]
    seconds = max((session.stopped or session.clock.now()) - session.started, 0) / 1e9
    nodes = {
        node.name: {
            "op": node.plan.op, "lane": node.plan.lane, "count": node.count, "errors": node.errors,
            "ms": spread(t / 1e6 for t in list(node.times)), "busy_s": round(node.busy_ns / 1e9, 4),
            "tally": node.operator.tally() if isinstance(node.operator, Operator) else {},
        }
        for node in session.nodes.values()
    }  # fmt: skip
    edges = [
        {
            "from": f"{c.edge.source}.{c.edge.output}", "to": f"{c.edge.node}.{c.edge.port}", "policy": c.edge.policy, "cap": c.edge.cap,
            "in": c.entered, "taken": c.taken, "queued": c.packets, "peak": c.peak, "drops": dict(sorted(c.drops.items())),
        }
        for c in session.channels
    ]  # fmt: skip
    busy = {lane.name: sum(n.busy_ns for n in lane.nodes) / 1e9 / seconds if seconds else 0.0 for lane in session.lanes.values()}
    return Summary(
        plan=session.plan.hash, clock=session.plan.clock, seconds=round(seconds, 4), frames=frames_of(session), fps=round(fps_of(session), 3),
        age_ms=spread(ages), nodes=nodes, edges=edges, knobs=session.knobs(), outputs=list(session.outputs),
        events=dict(Counter(e["what"] for e in session.events)), allocations=session.pools.allocated,
        error=str(session.errors[0]) if session.errors else None, lanes={name: round(share, 4) for name, share in busy.items()},
        state=session.state, states=states_of(session),
        memory=memory_facts(session), parts=parts_of(session), measured=measured_of(session),
    )  # fmt: skip
