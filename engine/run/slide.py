"""Frames that are under way inside an operator: it is fed one at a time and answers later, in order (see `Operator.sliding`).

Invariant: a frame keeps its packet, its inputs and its credit until its own result is there, so pictures that come some calls late still carry
their own seq, pts and birth; whatever cuts a batch short (a reset, a live change, a reload, the end) first brings all of them out.
It knows the frames of one node, not what the operator does with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.run.work import Work

if TYPE_CHECKING:
    from engine.run.node import NodeRun


def feed(node: NodeRun) -> Work | None:
    """Hand over the newest of `node.group`. None where the call ended and no frame is answered yet."""
    return _call(node, [node.group[-1]])


def drain(node: NodeRun) -> Work:
    """Bring out everything under way."""
    work = _call(node, [])
    assert work is not None
    return work


def _call(node: NodeRun, new: list[Any]) -> Work | None:
    group, node.group = node.group, []
    node.site.packet, node.site.packets = group[-1][0], [entry[0] for entry in new]
    work = Work([entry[0] for entry in group], [pair for entry in group for pair in entry[2]], node.now())
    node._run(work, [entry[1] for entry in new])
    if work.error is None:
        done = len(work.result)
        least = max(0, len(group) - node.plan.batch + 1) if new else len(group)
        if not least <= done <= len(group):
            work.error = TypeError(f"answered {done} of {len(group)} frames under way, expected at least {least}")
        else:
            node.group = group[done:]
            work.heads, work.given = work.heads[:done], [pair for entry in group[:done] for pair in entry[2]]
    if work.error is not None:
        node.operator.reset()  # it goes for all that was under way
    if work.heads:
        return work
    node.lane.busy = None
    node.busy_ns += work.stopped - work.started
    node.times.append(work.stopped - work.started)
    node.lane.trace.add(work.started, work.stopped, "call", node.name, node.group[-1][0].seq, node.group[-1][0].epoch)
    node.site.let_go()
    return None
