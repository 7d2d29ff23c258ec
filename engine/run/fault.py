"""What becomes of a call that failed, and of its frames.

A call that ran out of memory is made again with less of it, where the ladder knows how; after that the graph's word counts: the frame is left
out, or the last good result stands in for it, or the node is out of order and the run comes to its end. Every frame of the call has a cause.
All of it runs on the node's lane.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.errors import EngineError, OperatorError
from engine.run.ladder import is_out_of_memory

if TYPE_CHECKING:
    from engine.run.node import NodeRun
    from engine.run.work import Work


def relieved(node: NodeRun, error: Exception) -> bool:
    """Whether the ladder found a cheaper setting after running out of memory: the same frame is then tried again."""
    if node.ladder is None or not is_out_of_memory(error):
        return False
    rung = node.ladder.descend(node.session.clock.now())
    if rung is None:
        return False
    node.session.governing.step_down(node, rung)
    return True


def failed(node: NodeRun, work: Work) -> None:
    """An operator raised: skip the frame, repeat the last good result, or fail the session, as the graph says."""
    assert work.error is not None
    node.errors += 1
    node.errors_in_row += 1
    head = work.heads[-1]
    error = OperatorError(node.name, head.seq, head.epoch, work.error)
    for packet in work.heads:
        if packet.frame is not None:
            packet.frame.gate.blame(packet.frame, "error")
    tolerated = node.plan.on_error != "fail" and node.errors_in_row <= node.plan.max_errors
    node.session.event("error", node.name, head.seq, message=str(error), tolerated=tolerated)
    for packet in work.heads:
        if not (tolerated and node.emit.again(packet)):
            node.emit.bound(packet.seq)
    if not tolerated:
        fail(node, error)


def fail(node: NodeRun, error: EngineError) -> None:
    """The node is out of order: what it made goes on to the sinks, what still comes is dropped, the sources stop."""
    node.dead, node.simple = True, False
    node.session.fail(error)
    node.emit.eos()


def abandon(node: NodeRun, work: Work) -> None:
    """A call that will have no result, because the session is being given up: its frames are dropped."""
    assert node.trigger is not None
    for side, value in work.given:
        side.used(value)
    for packet in work.heads:
        node.trigger.drop(packet, "error" if node.session.errors else "epoch")
    node.site.let_go()
