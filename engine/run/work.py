"""One call of an operator, between its beginning and its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.packet import Packet

if TYPE_CHECKING:
    from engine.run.node import NodeRun
    from engine.run.side import Side


class Work:
    """One call under way: the packets it is for, what it was given, what came of it."""

    __slots__ = ("error", "given", "heads", "result", "started", "stopped")

    def __init__(self, heads: list[Packet], given: list[tuple[Side, Any]], started: int) -> None:
        self.heads, self.given, self.started = heads, given, started
        self.stopped = started
        self.result: Any = None
        self.error: Exception | None = None


class WithSite:
    """A function operator that takes its site."""

    def __init__(self, node: NodeRun) -> None:
        self._node = node

    def __call__(self, **arguments: Any) -> Any:
        return self._node.spec.target(**arguments, **self._node.params, site=self._node.site)
