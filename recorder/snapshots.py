"""The state of a run at a frame, taken node by node as that frame reaches each, and put back.

A snapshot at frame S is, for every node, what it had when it was about to deal with its first frame from S on: its operator's state, its
parameters, the values its side inputs kept, the counters of its outputs. Values that were made before S and first read after it are kept as
they are read (`late`), so that together they are the state of the whole graph at S, although no two nodes were asked at the same moment
(Chandy and Lamport 1985). It knows the running nodes, not the file.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.errors import ReplayError
from engine.operator import Operator
from engine.packet import Packet
from recorder.payloads import nbytes, packed, unpacked

if TYPE_CHECKING:
    from engine.run.node import NodeRun


def place(packet: Packet) -> dict[str, int]:
    """Where a packet stands in its stream."""
    return {"seq": packet.seq, "pts": packet.pts, "epoch": packet.epoch, "born": packet.born, "version": packet.version}


def counts(node: NodeRun) -> dict[str, list[int]]:
    """The sampling counters of a node's outputs: edge id to arrivals and their epoch."""
    return {str(c.edge.id): [c._count, c._count_epoch] for c in node.emit.all if c.edge.every > 1}


@dataclass
class Taken:
    """A node's state, by reference; `pack` makes it plain, on another thread."""

    facts: dict[str, Any]
    state: Any
    kept: dict[str, Packet]
    written: dict[str, Any]
    last_good: list[tuple[str, Any]]
    ready: list[Any] = field(default_factory=list)

    def pack(self) -> dict[str, Any]:
        for event in self.ready:
            event.synchronize()
        kept = {edge: {**place(packet), "payload": packed(packet.payload)} for edge, packet in self.kept.items()}
        return self.facts | {
            "state": packed(self.state), "kept": kept, "written": packed(self.written),
            "last_good": [[name, packed(payload)] for name, payload in self.last_good],
        }  # fmt: skip


def take(node: NodeRun, head: Packet, mark: int) -> tuple[Taken, list[Any], int]:
    """The state of `node` before it deals with `head`, the leases behind it and its size in bytes. On the node's lane."""
    operator = node.operator
    facts: dict[str, Any] = {
        "node": node.name, "mark": mark, "first": head.seq, "epoch": node.epoch, "previous": node.previous, "version": node.version,
        "params": packed(dict(node.params)), "errors_in_row": node.errors_in_row, "counts": counts(node), "cannot": "",
    }  # fmt: skip
    state: Any = {}
    if isinstance(operator, Operator):
        facts["cannot"], state = _state(node, operator)
    if node.group:
        facts["cannot"] = "a batch was being gathered"
    kept = {str(side.edge.id): side.value for side in node.sides if side.value is not None}
    written = {port: node.inputs.written(port) for port, (wired, _) in node.inputs.settable().items() if _rewritten(node, port, wired)}
    last_good = [(name, payload) for name, payload, _ in node.emit._last_good]
    leases = [lease for packet in kept.values() for lease in packet.leases]
    leases += [lease for _, _, found in node.emit._last_good for lease in found]
    ready = [packet.ready for packet in kept.values() if packet.ready is not None]
    if node.lane.device.asynchronous:
        ready.append(sys.modules["torch"].cuda.current_stream().record_event())
    size = nbytes(state) + sum(nbytes(packet.payload) for packet in kept.values())
    return Taken(facts, state, kept, written, last_good, ready), leases, size


def _state(node: NodeRun, operator: Operator) -> tuple[str, Any]:
    """Why the operator cannot say its state, else "", and the state."""
    try:
        state = operator.snapshot()
    except ReplayError as error:
        return f"{node.plan.op}: {error.message}", None
    return ("" if state is not None else f"{node.plan.op} keeps state that it cannot hand out"), state


def _rewritten(node: NodeRun, port: str, wired: bool) -> bool:
    if not wired:
        return node.inputs.blank.get(port) is not None
    return any(side.default is not side.edge.hold for side in node.inputs.wired(port))


def restore(node: NodeRun, facts: dict[str, Any], begin: int, *, recall: bool = True) -> None:
    """Put a node that is open and has seen no frame into the state that `facts` say, as if it had come to frame `begin`.

    `recall`: the operator too. Raises ReplayError where that cannot be done.
    """
    device = node.site.device
    params = unpacked(facts["params"], device)
    node.update({name: value for name, value in params.items() if node.params.get(name) != value})
    for port, value in unpacked(facts["written"], device).items():
        node.inputs.write(port, value)
    node.epoch, node.previous, node.version = facts["epoch"], facts["previous"], facts["version"]
    node.errors_in_row = facts["errors_in_row"]
    settle(node, begin, facts["counts"])
    for side in node.sides:
        packet = facts["kept"].get(str(side.edge.id))
        if packet is not None and side.channel is not None:
            side.channel.entered += 1
            side.channel.taken += 1
            side.value = packet_of(packet, device)
            side._last_read = packet["seq"]
    if node.emit.keeps_last:
        node.emit._last_good = [(name, unpacked(payload, device), ()) for name, payload in facts["last_good"]]
    if recall and isinstance(node.operator, Operator):
        if facts["cannot"]:
            raise ReplayError(f"no replay can begin at frame {begin}: {node.name}: {facts['cannot']}", fix="begin at the first frame")
        node.operator.recall(unpacked(facts["state"], device))


def settle(node: NodeRun, begin: int, counters: dict[str, list[int]]) -> None:
    """Every input of `node` has seen the frames before `begin`; its outputs have counted them."""
    for channel in [side.channel for side in node.sides] + [node.trigger]:
        if channel is not None:
            channel.settled = max(channel.settled, begin - 1)
    for channel in node.emit.all:
        if str(channel.edge.id) in counters:
            channel._count, channel._count_epoch = counters[str(channel.edge.id)]


def packet_of(facts: dict[str, Any], device: str) -> Packet:
    return Packet(facts["seq"], facts["pts"], facts["epoch"], facts["born"], unpacked(facts["payload"], device), version=facts["version"])

