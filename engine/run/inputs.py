"""The input side of a call: fills in what is missing, unpacks payloads, and keeps the fed parameters up to date."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from engine.errors import EngineError, OperatorError
from engine.graph import UNSET
from engine.operator import Port
from engine.packet import Packet
from engine.payload import WRITTEN, Payload, Scalar, from_plain
from engine.plan import Edge
from engine.run import fault
from engine.run.side import MISSING, Side

if TYPE_CHECKING:
    from engine.run.node import NodeRun


class Inputs:
    """Turns what a node has read into the arguments of its operator."""

    def __init__(self, node: NodeRun) -> None:
        self.node = node
        self.blank: dict[str, Any] = {port.name: [] if port.many else None for port in node.spec.ports}

    # ---- what may be set from outside

    def wired(self, port: str) -> list[Side]:
        """The readers of a port, or of a fed parameter, besides the trigger."""
        return [side for side in self.node.sides if side.edge.port == port]

    def edges(self, port: str) -> list[Edge]:
        """What feeds a port or a parameter, the trigger among them."""
        trigger = [self.node.trigger.edge] if self.node.trigger is not None else []
        return [edge for edge in (*trigger, *(side.edge for side in self.node.sides)) if edge.port == port]

    def settable(self) -> dict[str, tuple[bool, Port | None]]:
        """The inputs whose written value can be set: name to (whether an edge or a constant is there, the port, None for a fed parameter).

        An input that an edge feeds with every frame has no written value; one that the graph leaves open has none yet.
        """
        spec, found = self.node.spec, dict[str, tuple[bool, Port | None]]()
        trigger = self.node.trigger.edge.port if self.node.trigger is not None else ""
        for side in self.node.sides:
            if side.edge.role in ("constant", "hold") and side.edge.slot is None:
                found[side.edge.port] = (True, spec.port(side.edge.port))
        for port in spec.ports:
            if port.type in WRITTEN and port.optional and not port.many and port.name != trigger and not self.wired(port.name):
                found[port.name] = (False, port)
        return found

    def written(self, port: str) -> Any:
        """The value that an input has while nobody feeds it; None where there is none."""
        side = next(iter(self.wired(port)), None)
        value = self.blank.get(port) if side is None else side.default
        return None if value is UNSET else value

    def write(self, port: str, value: Any) -> None:
        """Set that value, between two frames; it holds until an edge brings a newer one."""
        kind = self.node.spec.port(port)
        value = value if kind is None or value is None else from_plain(kind.type, value)
        sides = self.wired(port)
        for side in sides:
            side.replace(value)
        if not sides and port in self.blank:
            self.blank[port] = value

    # ---- a call

    def complete(self, head: Packet, given: list[tuple[Side, Any]]) -> bool:
        """Deal with inputs that are missing; False when the frame was dropped for it."""
        for i, (side, value) in enumerate(given):
            edge = side.edge
            if value is not MISSING:
                if type(value) is Packet and value.ready is not None:
                    self.node.lane.device.wait(value.ready)
                continue
            port = self.node.spec.port(edge.port)
            optional = edge.feeds == "param" or (port is not None and port.optional)
            if edge.role == "carry" or (optional and (edge.missing == "default" or edge.role in ("latest", "hold"))):
                given[i] = (side, None)
            elif edge.missing == "error":
                self.node.release(head, given, "error")
                fault.fail(self.node, OperatorError(self.node.name, head.seq, head.epoch, EngineError(f"input {edge.port} never came")))
                return False
            else:
                self.node.release(head, given, "unpaired")
                return False
        return True

    def arguments(self, head: Packet, given: list[tuple[Side, Any]]) -> dict[str, Any]:
        assert self.node.trigger is not None
        if head.ready is not None:
            self.node.lane.device.wait(head.ready)
        edge = self.node.trigger.edge
        arguments = self.blank.copy()
        if not given and edge.slot is None and self.node.spec.inplace is None:
            arguments[edge.port] = head.payload
            return arguments
        lists: dict[str, list[tuple[int, Any]]] = {}
        for e, value in [(edge, head), *((side.edge, value) for side, value in given)]:
            payload = value.payload if type(value) is Packet else value
            if e.feeds == "param":
                self._feed(e, payload)
            elif e.slot is None:
                arguments[e.port] = payload
            elif payload is not None:
                lists.setdefault(e.port, []).append((e.slot, payload))
        for name, items in lists.items():
            arguments[name] = [payload for _, payload in sorted(items, key=lambda item: item[0])]
        if self.node.spec.inplace is not None and not self._alone(head):
            arguments[self.node.spec.inplace] = self._copy(arguments[self.node.spec.inplace])
        return arguments

    def _alone(self, head: Packet) -> bool:
        """Whether the buffer of the packet in hand has no other reader, so that it may be written to."""
        assert self.node.trigger is not None
        return self.node.trigger.edge.port == self.node.spec.inplace and bool(head.leases) and all(lease.users == 1 for lease in head.leases)

    def _copy(self, payload: Any) -> Any:
        """The payload with a buffer of its own, from the pool where it lies on the host."""
        if hasattr(payload.data, "data_ptr"):
            return replace(payload, data=payload.data.clone())
        data = self.node.site.empty(payload.data.shape, payload.data.dtype)
        data[...] = payload.data
        return replace(payload, data=data)

    def _feed(self, edge: Edge, payload: Any) -> None:
        """A live parameter fed by an edge: mapped, kept within its bounds, of its type."""
        if payload is None:
            return
        param = self.node.spec.param(edge.port)
        value: Any = float(payload) if isinstance(payload, Scalar) else str(payload) if isinstance(payload, Payload) else payload
        if isinstance(payload, Scalar) and param is not None:
            if edge.map is not None:
                value = edge.map[0] + value * (edge.map[1] - edge.map[0])
            value = max(value, param.lo) if param.lo is not None else value
            value = min(value, param.hi) if param.hi is not None else value
            value = round(value) if isinstance(self.node.params.get(edge.port), int) else value
        if self.node.params.get(edge.port, MISSING) != value:
            self.node.update({edge.port: value})
