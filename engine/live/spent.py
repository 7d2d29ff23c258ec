"""What a frame has cost on its way to a node: the time of every call before, looked up in the rings of their lanes.

Invariant: only nodes that this very frame went through count, not those whose value was merely there; and a frame in hand costs them nothing,
because rings are written anyway. It knows plans and rings, and never waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.plan import Plan, reach

if TYPE_CHECKING:
    from engine.session import Session

FAR = 64
"""How many records of a lane are looked through, from the newest back."""


def before(plan: Plan, node: str) -> dict[str, int]:
    """The nodes that a frame goes through on its way from a source to `node`, without either, to how many frames each takes at a time."""
    ways: dict[str, list[str]] = {}
    for edge in plan.edges:
        if edge.counted:
            ways.setdefault(edge.node, []).append(edge.source)
    found = reach(ways.get(node, ()), ways)
    return {other.name: other.batch for other in plan.nodes if other.name in found and other.kind != "source"}


class Spent:
    """Tells one node of a session what frames have cost before. Used on the node's lane."""

    def __init__(self, session: Session, node: str) -> None:
        self._session, self._node = session, node
        self._plan: Plan | None = None
        self._names: list[str] = []
        self._lanes: list[tuple[str, dict[str, int]]] = []

    def __call__(self, seq: int) -> dict[str, float]:
        """Node name to milliseconds, in the order of the graph."""
        session = self._session
        if session.plan is not self._plan:  # a reload brings another
            self._look(session.plan)
        spent: dict[str, float] = {}
        for first, names in self._lanes:
            run = session.nodes.get(first)
            if run is None:
                continue
            ring, left = run.lane.trace, set(names)
            for begun, ended, kind, name, number, _ in ring.recent(FAR):
                if kind != "call" or name not in left:
                    continue
                if number == seq or (number > seq and names[name] > 1):  # a batch is known by its last frame: the first that is not older
                    spent[name] = round((ended - begun) / 1e6, 3)
                if number <= seq:
                    left.discard(name)
                    if not left:
                        break
        return {name: spent[name] for name in self._names if name in spent}

    def _look(self, plan: Plan) -> None:
        names, lanes = before(plan, self._node), {node.name: node.lane for node in plan.nodes}
        self._names = list(names)
        found: dict[str, dict[str, int]] = {}
        for name, batch in names.items():
            found.setdefault(lanes[name], {})[name] = batch
        self._plan, self._lanes = plan, [(next(iter(those)), those) for those in found.values()]
