"""From a plan to what runs it: lanes, nodes with their sites, gates, queues. Used when a session begins and when a reload brings new nodes.

Invariant: what is made here is reached by nobody yet; it becomes part of the session only when all of it is there.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engine import registry
from engine.live.spent import Spent
from engine.plan import Plan, PlanLane, PlanNode
from engine.planning.memory import MemoryPlan, memory_of
from engine.run import device
from engine.run.channel import Channel
from engine.run.gate import Gate
from engine.run.lane import Lane
from engine.run.node import NodeRun
from engine.site import Site

if TYPE_CHECKING:
    from engine.session import Session


def build(session: Session) -> None:
    """Make everything that the session's plan asks for."""
    plan = session.plan
    session.device = device_of(session, plan)
    session.memory = memory_of(plan, session.device)
    for planned in plan.lanes:
        session.lanes[planned.name] = make_lane(session, planned)
    for node in plan.nodes:
        run = session.nodes[node.name] = make_node(session, plan, node, session.lanes[node.lane], session.memory)
        session.changing.know(node.name, node.params)
        if run.gate is not None:
            session.gates[node.name] = run.gate
    keep_step(session.gates)
    for edge in plan.edges:
        consumer = session.nodes[edge.node]
        channel = None
        if edge.role != "constant":
            channel = Channel(edge, consumer, session)
            channel.producer = session.nodes[edge.source]
            channel.producer.emit.add(edge.output, channel)
            session.channels.append(channel)
        consumer.add_input(edge, channel)
    for channel in session.channels:
        channel.settle()


def device_of(session: Session, plan: Plan) -> str:
    """Where the operators of a plan compute."""
    return session.wanted_device or (device.pick() if any(registry.find(node.op).gpu for node in plan.nodes) else "cpu")


def make_lane(session: Session, planned: PlanLane) -> Lane:
    """A lane as planned."""
    wanted, inline = session.wanted_device, session.executor == "inline"
    here = wanted if wanted and inline and not planned.source else "cpu"
    alone = planned.source or inline  # one thread and one stream: nothing crosses, so nothing has to be waited for
    where = device.Host(here) if alone else device.lane_device(session.device, planned.priority)
    return Lane(planned.name, where, direct=not inline)


def make_node(
    session: Session, plan: Plan, node: PlanNode, lane: Lane, memory: MemoryPlan | None, params: Mapping[str, Any] | None = None
) -> NodeRun:  # fmt: skip
    """A node on its lane, not connected yet, with a gate where it is a source. `params`: values that are not the plan's any more."""
    spec = registry.find(node.op)
    placed, hosted = (memory.placed(node.name), memory.on_host(node.name)) if memory else ({}, False)
    stop = threading.Event() if spec.source else session.aborting
    if spec.source and session.draining.is_set():
        stop.set()
    site = Site(
        node=node.name, seed=plan.seed, live=plan.live, embedded=plan.embedded, device="cpu" if hosted else lane.device.name, placed=placed,
        choices={r.set.partition(".")[2]: r.choices for r in plan.govern.knobs if r.choices and r.set.startswith(f"{node.name}.")},
        later=lane.device.asynchronous and node.on_error != "hold" and node.batch == 1,
        batch=node.batch, budget_ms=plan.budget_ms, clock=session.clock, pools=session.pools, stop=stop, _event=session.event,
        _reset=lambda name, reason: session.reset(f"{name}: {reason}"), _output=session._site_output, _outcome=session.outcome,
        _measure=lambda name, seq, numbers: session.series[name].append((seq, numbers)), _health=lambda: session.state,
        _decide=session.decide, _spent=Spent(session, node.name),
        _span=lambda start, stop, name, seq, epoch: lane.trace.add(start, stop, "part", name, seq, epoch),
    )  # fmt: skip
    run = NodeRun(node, spec, site, session)
    run.params.update(params or {})
    run.lane = lane
    lane.nodes.append(run)
    lane.open_nodes += 1
    if spec.source:
        lossy = plan.live and session.replay is None  # a replayed gate drops what was dropped, and waits otherwise
        run.gate = Gate(run, session, credits=plan.in_flight, lossy=lossy)
    return run


def keep_step(gates: Mapping[str, Gate]) -> None:
    """Offline, the gates of several sources take turns."""
    for gate in gates.values():
        gate.others = [] if gate.session.plan.live else [other for other in gates.values() if other is not gate]
