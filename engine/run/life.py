"""The life of a node: its operator made and opened, its inputs and outputs taken anew, its last result, its end.

Invariant: everything that a node holds, frames and buffers and queues, is let go of when it ends, with a cause for every frame; `end` is called
once, also where `begin` failed. All of it runs on the node's lane. What happens with a frame is `engine.run.node`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine import registry
from engine.errors import OperatorError
from engine.live.control import make_ladder
from engine.operator import Operator, Spec
from engine.packet import Packet
from engine.plan import PlanNode
from engine.run import fault
from engine.run.channel import Channel
from engine.run.emit import Emitter
from engine.run.side import Side, in_order
from engine.run.work import WithSite, Work

if TYPE_CHECKING:
    from engine.run.node import NodeRun


def begin(node: NodeRun) -> None:
    """Make the operator and open it."""
    session = node.session
    if session.tap is not None:
        session.tap.joined(node)
    if session.stand_in is not None and (made := session.stand_in(node)) is not None:
        node.operator = made
    elif node.plan.process:
        from engine.run.process import ProcessOperator

        node.operator = ProcessOperator(node.plan.op, dict(node.params))
    elif node.spec.is_class:
        node.operator = node.spec.target(**node.params)
    elif node.spec.wants_site:
        node.operator = WithSite(node)
    if isinstance(node.operator, Operator):
        node.operator.open(node.site)
    settle(node)


def enter(node: NodeRun) -> None:
    """The node is in force, and its first frame may come."""
    late, node.late = node.late, {}
    if late:
        node.update(late)


def settle(node: NodeRun) -> None:
    """Find out which way frames can take through a node, once its operator, its inputs and its outputs are there."""
    kind = node.spec.target
    node.slides = node.plan.batch > 1 and isinstance(kind, type) and issubclass(kind, Operator) and kind.sliding(node.params)
    edge = node.trigger.edge if node.trigger else None
    node.port = edge.port if edge else ""
    alone = edge is not None and not node.sides and edge.slot is None and node.plan.batch == 1 and node.spec.inplace is None
    choosy = not node.spec.outputs and isinstance(node.operator, Operator) and type(node.operator).wanted is not Operator.wanted
    node.onlooker = _looks_on(node.spec) and not all(_looks_on(registry.find(n.op)) for n in node.session.plan.nodes if n.kind == "sink")
    plain = alone and not choosy and not node.onlooker and not node.dead
    node.choosy, node.simple = choosy, plain and node.emit.simple(edge)
    if node.ladder is None or not node.ladder.taken:
        node.ladder = make_ladder(node)


def _looks_on(spec: Spec) -> bool:
    return bool(getattr(spec.target, "onlooker", False))


def rewire(node: NodeRun, plan: PlanNode, trigger: Channel | None, sides: list[Side], outs: list[Channel], since: int) -> None:
    """Take other inputs and outputs, between two calls, for frames from `since` on. Those before are dropped."""
    node.flush_group()
    for side in node.sides:
        if side not in sides:
            side.end("reload")
    if node.trigger is not None and trigger is not node.trigger:
        _drop_claimed(node, "reload")
        node.trigger.close("reload")
    node.plan, node.trigger, node.sides, node.since = plan, trigger, in_order(sides), since
    node.waits = [side for side in sides if side.edge.role != "constant"]
    before, node.emit = node.emit, Emitter(node, node.spec)
    node.emit.take_over(before, outs)
    settle(node)


def flush(node: NodeRun) -> None:
    """The last frame has come: a last result, if the operator has one, goes on."""
    if isinstance(node.operator, Operator) and not node.dead:
        try:
            result = node.operator.flush()
            if result is not None and node.last_packet is not None and node.spec.outputs:
                head = node.last_packet.with_payload(node.last_packet.payload)
                head.frame = None
                node.emit.frame(head, node.emit.named(result), list(node.site._leases))
        except Exception as error:
            node.session.fail(OperatorError(node.name, -1, node.epoch, error))
        node.site.let_go()


def end(node: NodeRun) -> None:
    """Let go of everything."""
    node.emit.forget_last_good()
    left = node.session.nodes.get(node.name) is not node  # a reload took it out
    cause = "error" if node.session.errors else "reload" if left else "epoch"
    if node.group:
        fault.abandon(node, Work([g[0] for g in node.group], [pair for g in node.group for pair in g[2]], 0))
        node.group = []
    for side in node.sides:
        side.end("reload" if left else "unpaired")
    if node.trigger is not None:
        _drop_claimed(node, cause)
        node.trigger.close(cause)
    node.site.let_go()
    if isinstance(node.operator, Operator):
        node.operator.close()


def _drop_claimed(node: NodeRun, cause: str) -> None:
    if node.trigger is not None and type(node.claimed) is Packet:
        node.trigger.drop(node.claimed, cause)
    node.claimed = None
