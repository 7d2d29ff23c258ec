"""The fast path: a node with one input and at most one output edge, fired in one go.

Does exactly what `NodeRun.take` and `NodeRun.finish` do for such a node, in one body, because most hops of most graphs are of this kind and a
hop must cost next to nothing beside the work. The plain way stays the reference: the inline executor never comes here, and the property
tests hold both to the same results. Whatever is not plain sailing (an exception, a wrong type, a pooled buffer, a reset, a live change) is
handed to the plain way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.packet import Packet
from engine.run import fault
from engine.run.work import Work

if TYPE_CHECKING:
    from engine.run.node import NodeRun


def hop(node: NodeRun, head: Packet) -> tuple[NodeRun, Packet] | None:
    """Fire `node` on `head`, which was taken from its queue or handed over. Returns the node to call next, with its packet, if any."""
    session, lane, site, now = node.session, node.lane, node.site, node.now
    site.packet = head
    node.previous = head.seq
    arguments = node.inputs.blank.copy()
    arguments[node.port] = head.payload
    started = now()
    lane.busy = (node, head.seq, started)
    try:
        result = node.spec.target(**arguments, **node.params) if node.operator is None else node.operator(**arguments)
    except Exception as error:
        work = Work([head], [], started)
        node.rescue(work, error, [arguments])
        return node.finish(work)
    except BaseException:
        fault.abandon(node, Work([head], [], started))
        raise
    stopped = now()
    emit, channel = node.emit, node.trigger
    assert channel is not None
    only = emit.only
    odd = only is not None and type(result) is not only.type
    if emit.pictures and not odd:  # as the one before it, which was looked at
        data = result.data
        odd = type(data) is not emit.array or data.shape != emit.shape or data.dtype is not emit.dtype
    if head.leases or site._leases or odd:
        work = Work([head], [], started)
        work.result, work.stopped = result, stopped
        return node.finish(work)
    lane.busy = None
    node.busy_ns += stopped - started
    node.times.append(stopped - started)
    node.count += 1
    node.errors_in_row = 0
    node.last_packet = head
    lane.trace.add(started, stopped, "call", node.name, head.seq, head.epoch)
    if only is None:
        if head.frame is not None:
            head.frame.sunk = stopped
        session.sunk(node, head, stopped, [])
        channel.done(head)
        return None
    out = emit.all[0]
    packet = head.with_payload(result)
    channel.taken += 1  # the frame's message goes on with the packet instead of being ended here and begun there
    if out.hand_over(packet):
        return out.consumer, packet
    out.append(packet)
    return None

