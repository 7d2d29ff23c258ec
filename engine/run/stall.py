"""Who waits for whom when nothing moves: a stall is named by its wait cycle, since a time-out is no diagnosis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.errors import StallError
from engine.packet import Packet

if TYPE_CHECKING:
    from engine.run.node import NodeRun
    from engine.session import Session


def diagnose(session: Session) -> StallError:
    """Who waits for whom, as an error."""
    waits = {node.name: other for node in session.nodes.values() if (other := _waits_for(node)) is not None}
    chain: list[str] = []
    at = next(iter(waits), None)
    while at is not None and at not in chain:
        chain.append(at)
        at = waits.get(at)
    cycle = (*chain[chain.index(at):], at) if at is not None else tuple(chain)
    text = " waits for ".join(cycle) or "no node can fire"
    return StallError(f"nothing moves: {text}", cycle)


def _waits_for(node: NodeRun) -> str | None:
    """The node that has to do something before this one can."""
    full = next((c.edge.node for c in node.emit.all if c.full), None)
    if node.finished or full is not None:
        return full
    if node.gate is not None:
        held = (c.edge.node for c in node.session.channels if c.edge.credit and c.packets)
        return next(held, None) if node.gate.slot is not None else None
    assert node.trigger is not None
    head = node.claimed or node.trigger.head()
    if type(head) is Packet:
        return next((s.edge.source for s in node.waits if not s.settled(head)), None)
    return node.trigger.edge.source if head is None else None
