"""The output side of a node: checks what an operator returned, finds the buffers behind it, and puts it on the edges.

A frame that is left out is announced as a Bound on every edge whose readers wait for it. Leases are found by address, so that a view (a crop,
a flip, a torch tensor over the same memory) keeps its buffer alive too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.channel import Channel
from engine.operator import Spec
from engine.packet import Packet
from engine.payload import Payload, Scalar
from engine.pool import Lease

if TYPE_CHECKING:
    from engine.node import NodeRun


class Emitter:
    """Sends the results of one node."""

    def __init__(self, node: NodeRun, spec: Spec) -> None:
        self.node, self.spec, self.session = node, spec, node.session
        self.outs: dict[str, list[Channel]] = {o.name: [] for o in spec.outputs}
        self.all: list[Channel] = []
        self.bounded: list[Channel] = []  # those that make the node wait when they are full
        self.keeps_last = node.plan.on_error == "hold"
        self._only = spec.outputs[0] if len(spec.outputs) == 1 and spec.result is None else None
        self._last_good: list[tuple[str, Payload, tuple[Lease, ...]]] = []

    def add(self, output: str, channel: Channel) -> None:
        self.outs[output].append(channel)
        self.all.append(channel)
        if channel.edge.counted and not channel.edge.lossy:
            self.bounded.append(channel)

    def named(self, result: Any) -> list[tuple[str, Any]]:
        """A call's result as (output, payload or None) pairs. TypeError where it is not what the operator declares."""
        only = self._only
        if only is not None and type(result) is only.type:
            return [(only.name, result)]
        outputs = self.spec.outputs
        if self.spec.result is not None and isinstance(result, tuple) and len(result) == len(outputs):
            values = list(result)
        elif self.spec.result is not None and result is not None:
            raise TypeError(f"returned {type(result).__name__} where {self.spec.result.__name__} is declared")
        else:
            values = [result] * len(outputs)
        for output, value in zip(outputs, values, strict=True):
            if value is None and not output.may_skip:
                raise TypeError(f"returned no {output.name}; declare it as {output.type.__name__} | None if it may be left out")
            if value is not None and not isinstance(value, output.type):
                raise TypeError(f"returned {type(value).__name__} where {output.name}: {output.type.__name__} is declared")
        return [(output.name, value) for output, value in zip(outputs, values, strict=True)]

    def frame(self, head: Packet, values: list[tuple[str, Any]], candidates: list[Lease]) -> tuple[NodeRun, Packet] | None:
        """Send one frame's values. Returns (node, packet) where the next node may be called at once instead of being queued for."""
        device = self.node.lane.device
        ready = device.record(values) if device.asynchronous else None
        if self.keeps_last:
            self.forget_last_good()
        sent = False
        for name, payload in values:
            channels = self.outs[name]
            if payload is None:
                for channel in channels:
                    channel.put_bound(head.seq)
                continue
            if type(payload) is Scalar:
                self.session.signals[f"{self.node.name}.{name}"] = payload.value
            leases = leases_of(payload, candidates) if candidates else ()
            packet = head.with_payload(payload, leases, ready)
            if self.keeps_last:
                for lease in leases:
                    lease.retain()
                self._last_good.append((name, payload, leases))
            if len(self.all) == 1 and self.all[0].hand_over(packet):
                return self.all[0].consumer, packet
            for channel in channels:
                channel.put(packet)
                sent = True
        if not sent and head.frame is not None:
            head.frame.gate.blame(head.frame, "skipped")
        return None

    def again(self, head: Packet) -> bool:
        """Repeat the last good result for `head`; False when there is none."""
        for name, payload, leases in self._last_good:
            for channel in self.outs[name]:
                channel.put(head.with_payload(payload, leases))
        return bool(self._last_good)

    def forget_last_good(self) -> None:
        for _, _, leases in self._last_good:
            for lease in leases:
                lease.release()
        self._last_good = []

    def bound(self, seq: int) -> None:
        """Nothing will come for frames up to `seq`."""
        for channel in self.all:
            channel.put_bound(seq)

    def packet(self, output: str, packet: Packet) -> None:
        """Put an admitted packet of a source on the edges of `output`."""
        for channel in self.outs[output]:
            channel.put(packet)

    def eos(self) -> None:
        for channel in self.all:
            channel.put_eos()


def leases_of(payload: Any, candidates: list[Lease]) -> tuple[Lease, ...]:
    """Those of `candidates` whose memory a payload shows."""
    found: list[Lease] = []
    for array in (getattr(payload, name, None) for name in ("data", "people", "vertices")):
        start = _address(array)
        if start is None:
            continue
        for lease in candidates:
            low = lease.array.__array_interface__["data"][0]
            if low <= start < low + lease.array.nbytes and lease not in found:
                found.append(lease)
    return tuple(found)


def _address(array: Any) -> int | None:
    if hasattr(array, "data_ptr"):
        return int(array.data_ptr()) if array.device.type == "cpu" else None
    if hasattr(array, "__array_interface__") and array.size:
        import numpy as np

        return int(np.lib.array_utils.byte_bounds(array)[0])
    return None
