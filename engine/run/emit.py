"""The output side of a node: checks what an operator returned, finds the buffers behind it, and puts it on the edges.

A frame that is left out is announced as a Bound on every edge whose readers wait for it. Leases are found by address, so that a view (a crop,
a flip, a torch tensor over the same memory) keeps its buffer alive too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.operator import Format, Output, Spec
from engine.packet import Packet
from engine.payload import Image, Payload, Scalar
from engine.plan import Edge
from engine.pool import Lease
from engine.run.channel import Channel
from engine.run.device import Landing

if TYPE_CHECKING:
    from engine.run.node import NodeRun


class Emitter:
    """Sends the results of one node."""

    def __init__(self, node: NodeRun, spec: Spec) -> None:
        self.node, self.spec, self.session = node, spec, node.session
        self.outs: dict[str, list[Channel]] = {o.name: [] for o in spec.outputs}
        self.all: list[Channel] = []
        self.bounded: list[Channel] = []  # those that make the node wait when they are full
        self.awaited = False  # whether somebody downstream waits to hear of frames that do not come
        self.keeps_last = node.plan.on_error == "hold"
        self.only = spec.outputs[0] if len(spec.outputs) == 1 and spec.result is None else None
        followed = {rule.follow for rule in node.session.plan.govern.knobs}
        self.signals = {o.name for o in spec.outputs if f"{node.name}.{o.name}" in followed}
        self.pictures = self.only is not None and self.only.type is Image  # then the fast path asks whether the shape is the one seen last
        self.array: Any = None
        self.shape: Any = None
        self.dtype: Any = None
        self.tapped = False  # whether the session's tap is told of what the node makes
        self._last_good: list[tuple[str, Payload, tuple[Lease, ...]]] = []

    def add(self, output: str, channel: Channel) -> None:
        self.outs[output].append(channel)
        self.all.append(channel)
        self.awaited |= channel.edge.bounds
        if channel.blocks:
            self.bounded.append(channel)

    def take_over(self, before: Emitter, outs: list[Channel]) -> None:
        """Go on for `before`, on the edges `outs`."""
        for channel in outs:
            self.add(channel.edge.output, channel)
        self.tapped, self._last_good = before.tapped, before._last_good
        if not self.keeps_last:
            self.forget_last_good()

    def simple(self, trigger: Edge | None) -> bool:
        """Whether results may take the fast path (`engine.run.hop`): a sink, or one output on one plain edge that takes the message on."""
        if not self.spec.outputs:
            return True
        if self.tapped or self.only is None or len(self.all) != 1 or self.keeps_last or self.signals or self.node.lane.device.asynchronous:
            return False
        return self.all[0].plain and trigger is not None and trigger.counted and self.all[0].edge.credit == trigger.credit

    def named(self, result: Any) -> list[tuple[str, Any]]:
        """A call's result as (output, payload or None) pairs. TypeError where it is not what the operator declares."""
        only = self.only
        if only is not None and type(result) is only.type:
            if self.pictures:
                data = check_picture(result, only)
                self.array, self.shape, self.dtype = type(data), data.shape, data.dtype
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
            if isinstance(value, Image):
                check_picture(value, output)
        return [(output.name, value) for output, value in zip(outputs, values, strict=True)]

    def frame(self, head: Packet, values: list[tuple[str, Any]], candidates: list[Lease]) -> tuple[NodeRun, Packet] | None:
        """Send one frame's values. Returns (node, packet) where the next node may be called at once instead of being queued for."""
        device, site = self.node.lane.device, self.node.site
        landing = None
        if site._landing is not None:
            landing, site._landing = Landing(site._landing), None
        if self.tapped and self.session.tap is not None:
            if landing is not None:
                landing.synchronize()
            self.session.tap.made(self.node, head, values)
        ready = device.record(values) if device.asynchronous else None
        if self.keeps_last:
            self.forget_last_good()
        sent, after = False, None
        for name, payload in values:
            channels = self.outs[name]
            if payload is None:
                for channel in channels:
                    channel.put_bound(head.seq)
                continue
            if name in self.signals and type(payload) is Scalar:
                self.session.signals[f"{self.node.name}.{name}"] = payload.value
            leases = leases_of(payload, candidates) if candidates else ()
            here = landing is not None and not getattr(getattr(payload, "data", None), "is_cuda", False)
            packet = head.with_payload(payload, leases, landing if here else ready)
            if self.keeps_last:
                for lease in leases:
                    lease.retain()
                self._last_good.append((name, payload, leases))
            if channels and len(self.all) == 1 and channels[0].hand_over(packet):
                after = (channels[0].consumer, packet)
                continue
            for channel in channels:
                channel.put(packet)
                sent = True
        if not sent and after is None and head.frame is not None:
            head.frame.gate.blame(head.frame, "skipped")
        return after

    def again(self, head: Packet) -> bool:
        """Repeat the last good result for `head`; False when there is none."""
        if not self._last_good:
            return False
        for name, payload, leases in self._last_good:
            for channel in self.outs[name]:
                channel.put(head.with_payload(payload, leases))
        for name in self.outs.keys() - {name for name, _, _ in self._last_good}:
            for channel in self.outs[name]:
                channel.put_bound(head.seq)
        return True

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

    def missing(self, given: set[str], seq: int) -> None:
        """A source's frame came without the outputs that are not `given`: nobody is to wait for them."""
        for output in self.outs.keys() - given:
            for channel in self.outs[output]:
                channel.put_bound(seq)

    def eos(self) -> None:
        for channel in self.all:
            channel.put_eos()


def check_picture(image: Any, output: Output) -> Any:
    """The array of a picture. TypeError where that is not what the output declares: libraries read its memory as if it were."""
    data = image.data
    shape = getattr(data, "shape", None)
    if shape is None:
        raise TypeError(f"returned {output.name}: a picture of {type(data).__name__}; its data is an array")
    axes = "(H, W, 3)" if image.layout == "hwc" else "(3, H, W) or (1, 3, H, W)"
    fits = len(shape) == 3 and shape[2] == 3 if image.layout == "hwc" else len(shape) in (3, 4) and shape[-3] == 3
    if not fits or 0 in shape:
        raise TypeError(f"returned {output.name} of shape {tuple(shape)}; a picture is {axes}, not empty")
    device = "cpu" if hasattr(data, "__array_interface__") else "lane"
    found = Format(str(data.dtype).removeprefix("torch."), image.layout, image.color, device)
    if not output.format.accepts(found):
        raise TypeError(f"returned {output.name} as {found} where {output.format} is declared")
    return data


def leases_of(payload: Any, candidates: list[Lease]) -> tuple[Lease, ...]:
    """Those of `candidates` whose memory a payload shows."""
    found: list[Lease] = []
    for array in (getattr(payload, name, None) for name in ("data", "people", "vertices")) if candidates else ():
        if array is not None:
            own = [lease for lease in candidates if lease.array is array]  # mostly: then nobody has to ask where it lies
            found += [lease for lease in own or _around(array, candidates) if lease not in found]
    return tuple(found)


def _around(array: Any, candidates: list[Lease]) -> list[Lease]:
    """Those whose memory `array` begins in."""
    start = _address(array)
    if start is None:
        return []
    lows = [(lease, lease.array.__array_interface__["data"][0]) for lease in candidates]
    return [lease for lease, low in lows if low <= start < low + lease.array.nbytes]


def _address(array: Any) -> int | None:
    if hasattr(array, "data_ptr"):
        return int(array.data_ptr()) if array.device.type == "cpu" else None
    if hasattr(array, "__array_interface__") and array.size:
        import numpy as np

        return int(np.lib.array_utils.byte_bounds(array)[0])
    return None
