"""What only one can hold, a camera or a port or a file, on its way from the node that leaves to the one that comes.

A swap uses it when the gates are shut and what was under way has ended: the old node closes, the new one opens, and where it does not, the old
one opens again. Invariant: at most one of the two has it open. Frames that reach the old node meanwhile are dropped as `reload`.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from engine import registry
from engine.errors import OperatorError
from engine.plan import Plan, PlanNode
from engine.run import fault, life
from engine.run.node import NEVER, NodeRun

if TYPE_CHECKING:
    from collections.abc import Collection

GIVE_S = 10.0  # how long the old node may take to close


def claim(node: PlanNode) -> str | None:
    """What the operator of `node` must have for itself alone."""
    spec = registry.find(node.op)
    target: Any = spec.target
    what: str | None = target.exclusive(node.params) if spec.is_class else None
    return what


def claims(plan: Plan, kept: Collection[str]) -> dict[str, str]:
    """What the nodes of `plan` that are not kept hold for themselves alone, to the node."""
    found = {claim(node): node.name for node in plan.nodes if node.name not in kept}
    return {what: name for what, name in found.items() if what is not None}


class Handover:
    """What one node gives up. `give` and `take_back` run on its thread."""

    def __init__(self, node: NodeRun) -> None:
        self.node = node
        self.given = threading.Event()
        self.decided = threading.Event()  # for a source, whose thread waits for what becomes of it
        self.back = False
        self._since = node.since
        self._open = False

    def give(self) -> None:
        """Close the operator. A sink has had its last frame, and is told so."""
        node = self.node
        try:
            if node in node.lane.opened:  # else it had ended, and is closed
                part(node)
                self._open = True
                node.since = NEVER
                operator, node.operator = node.operator, None
                operator.close()
        except Exception as error:
            node.session.errors.append(OperatorError(node.name, -1, node.epoch, error))
        finally:
            self.given.set()

    def take_back(self) -> None:
        """Open again what was given up: anew, with the parameters of now. Ends the session where that fails too."""
        node = self.node
        if not self._open:
            return
        node.since, self._open = self._since, False
        try:
            life.begin(node)
            if node.gate is not None:
                node.gate.broken()
            elif not node.spec.sink:
                node.session.reset("reload")  # what it had in it is gone
        except Exception as error:
            fault.fail(node, OperatorError(node.name, -1, node.epoch, error))


def part(node: NodeRun) -> None:
    """A node that leaves: a sink has had its last frame, and is told so; what anybody else would still say nobody would hear."""
    if node.spec.sink and not node.finished and not node.dead and node.operator is not None and node in node.lane.opened:
        node.flush_group()
        life.flush(node)
