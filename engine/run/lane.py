"""A lane: some nodes that run one after another, on one thread and one stream, for their whole lives.

It keeps the nodes that may fire in a heap, oldest frame first, then topological order. Executors drive it: they decide when a lane runs;
the lane decides what.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from engine.errors import EngineError, OperatorError
from engine.lifecycle import Operator
from engine.run import fault
from engine.run.device import Host
from engine.trace import Ring

if TYPE_CHECKING:
    from engine.run.node import NodeRun


class Lane:
    """The runtime side of a PlanLane. `post` is the only method that other threads may call."""

    def __init__(self, name: str, device: Host, *, direct: bool = True) -> None:
        self.name, self.device = name, device
        self.direct = direct  # a result may go straight into the next call; not under the inline executor, which owns time
        self.nodes: list[NodeRun] = []
        self.opened: list[NodeRun] = []  # those whose operator has to be closed
        self.trace = Ring()
        self.busy: tuple[NodeRun, int, int] | None = None  # node, seq, since (ns): what the watchdog and the live view read
        self.open_nodes = 0
        self.over = False  # its thread runs no more jobs
        self.thread: threading.Thread | None = None
        self.guard = threading.Lock()
        self.post: Callable[[NodeRun], None] = self.look
        self._ready: list[tuple[int, int, NodeRun]] = []

    def look(self, node: NodeRun) -> None:
        """Put `node` among the ready ones if it can fire."""
        node.woken = True
        if node.queued:
            return
        node.queued = True
        while node.woken:  # looking makes room, and what comes into that room may be what the node waits for
            node.woken = False
            if (seq := node.poll()) is not None:
                heapq.heappush(self._ready, (seq, node.plan.order, node))
                return
        node.queued = False

    def peek(self) -> tuple[int, int] | None:
        """(seq, order) of what would run next."""
        return self._ready[0][:2] if self._ready else None

    def has_older(self, seq: int) -> bool:
        """Whether something of frame `seq`, or of an older one, is waiting to run."""
        return bool(self._ready) and self._ready[0][0] <= seq

    def next(self) -> NodeRun | None:
        """Take the node that should run next; give it back with `done`. A node that is being called does not queue up again: what it could
        do next is known only when all its results are out."""
        return heapq.heappop(self._ready)[2] if self._ready else None

    def done(self, node: NodeRun) -> None:
        """The call for which `next` gave out `node` is over."""
        node.queued = False
        self.look(node)

    def step(self) -> bool:
        """Run the node that comes next, and those that its result leads to; False when none is ready."""
        node = self.next()
        if node is None:
            return False
        after = node.step()
        node.queued = False
        while after is not None:
            if node.trigger is not None and node.trigger.items:
                self.look(node)
            node, packet = after
            after = node.step_on(packet)
        self.look(node)
        return True

    def idle(self) -> bool:
        """Let operators get ready for what may come, a little; whether one of them has more to do."""
        more = False
        for node in self.opened:
            if not node.dead and isinstance(node.operator, Operator) and type(node.operator).idle is not Operator.idle:
                try:
                    more = node.operator.idle() or more
                except Exception as error:
                    fault.fail(node, OperatorError(node.name, -1, node.epoch, error))
        return more

    def drop(self, node: NodeRun) -> None:
        """Take a node out, on this lane. The last one stays for whoever still looks at the lane; its thread ends."""
        self._ready = [entry for entry in self._ready if entry[2] is not node]
        heapq.heapify(self._ready)
        self.nodes = [other for other in self.nodes if other is not node] or self.nodes
        if not node.finished:
            node.finished = True
            self.node_finished()
        if node in self.opened:
            self.opened.remove(node)
            close_all([node])

    def rename(self, name: str) -> None:
        """Another name: what people see of a lane and of its thread."""
        self.name = name
        if self.thread is not None:
            self.thread.name = f"lane {name}"

    def node_finished(self) -> None:
        self.open_nodes -= 1

    @property
    def finished(self) -> bool:
        return self.open_nodes == 0


class Opening:
    """Some lanes that open together: none of them goes on before all have opened, or one has failed."""

    def __init__(self, lanes: Iterable[Lane]) -> None:
        self.lanes = list(lanes)
        self.opened = threading.Semaphore(0)
        self.go = threading.Event()
        self.cancelled = False
        self.errors: list[EngineError] = []

    def cancel(self) -> None:
        """Let the lanes close what they opened, and end."""
        self.cancelled = True
        self.go.set()


def close_all(nodes: Iterable[NodeRun]) -> None:
    """Close nodes in reverse order, every one of them; what goes wrong is added to the session's errors."""
    for node in reversed(list(nodes)):
        try:
            node.close()
        except Exception as error:
            node.session.errors.append(OperatorError(node.name, -1, node.epoch, error))
