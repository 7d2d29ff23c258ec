"""One node of a running session: collects its inputs, fires its operator, sends its results.

The step function that every executor shares: `poll` says whether the node may fire, `begin` takes the inputs and calls the operator,
`finish` sends the results and lets the inputs go. All three run on the node's lane; `wake` may be called from anywhere.
A frame that does not leave this node is announced as a Bound, so that nobody downstream waits for it.
"""

from __future__ import annotations

import inspect
from collections import deque
from typing import TYPE_CHECKING, Any

from engine.channel import EOS, Bound, Channel
from engine.control import make_ladder
from engine.errors import Cancelled, EngineError, OperatorError
from engine.ladder import Ladder, is_out_of_memory
from engine.operator import Operator, Spec, Stamped
from engine.packet import Packet
from engine.payload import Payload, Scalar
from engine.plan import Edge, PlanNode
from engine.side import MISSING, Side, make_side
from engine.site import Site

if TYPE_CHECKING:
    from engine.gate import Gate
    from engine.lane import Lane
    from engine.pool import Lease
    from engine.session import Session


class Work:
    """One call under way: the packets it is for, what it was given, what came of it."""

    __slots__ = ("error", "given", "heads", "result", "started", "stopped")

    def __init__(self, heads: list[Packet], given: list[tuple[Side, Any]], started: int) -> None:
        self.heads, self.given, self.started = heads, given, started
        self.stopped = started
        self.result: Any = None
        self.error: Exception | None = None


class NodeRun:
    """The running state of one node. Its operator lives on one lane, from open to close."""

    def __init__(self, plan: PlanNode, spec: Spec, site: Site, session: Session) -> None:
        self.plan, self.spec, self.site, self.session, self.name = plan, spec, site, session, plan.name
        self.params = dict(plan.params)
        self.operator: Any = None
        self.lane: Lane
        self.gate: Gate | None = None
        self.gate_id = -1 - plan.order
        self.trigger: Channel | None = None
        self.sides: list[Side] = []
        self.waits: list[Side] = []
        self.outs: dict[str, list[Channel]] = {o.name: [] for o in spec.outputs}
        self.all_outs: list[Channel] = []
        self.ladder: Ladder | None = None
        self.epoch = self.version = 0
        self.previous: int | None = None  # seq of the last frame that fired in this epoch
        self.parked = self.queued = self.finished = self.dead = False
        self.count = self.errors = self.errors_in_row = self.busy_ns = 0
        self.times: deque[int] = deque(maxlen=4096)
        self._claimed: Packet | Bound | None = None
        self._group: list[tuple[Packet, dict[str, Any], list[tuple[Side, Any]]]] = []
        self._last_good: list[tuple[str, Payload, tuple[Lease, ...]]] = []
        self._last_packet: Packet | None = None

    # ---- building

    def add_input(self, edge: Edge, channel: Channel | None) -> None:
        if edge.role == "trigger":
            self.trigger = channel
            return
        side = make_side(edge, self, channel)
        self.sides.append(side)
        if edge.role != "constant":
            self.waits.append(side)

    def open(self) -> None:
        """Make the operator and open it, on its lane."""
        if self.plan.process:
            from engine.process import ProcessOperator

            self.operator = ProcessOperator(self.plan.op, dict(self.params))
        elif self.spec.is_class:
            self.operator = self.spec.target(**self.params)
        if isinstance(self.operator, Operator):
            self.operator.open(self.site)
        self.ladder = make_ladder(self)

    def close(self) -> None:
        """Let go of everything; called once, also after a failure."""
        self._forget_last_good()
        for side in self.sides:
            side.drain()
        while self.trigger is not None and (item := self.trigger.pop()) is not None:
            if type(item) is Packet:
                self.trigger.drop(item, "error" if self.session.errors else "epoch")
        if isinstance(self.operator, Operator):
            self.operator.close()

    # ---- being woken

    def wake(self, by: NodeRun | None) -> None:
        """Something this node waits for may have happened: an item came, or room was made."""
        if self.gate is not None:
            self.gate.pump()
        elif by is not None and by.lane is self.lane:
            self.lane.look(self)
        else:
            self.lane.post(self)

    def blocked(self) -> bool:
        """Whether a queue that loses nothing is full ahead. Parks the node, so that making room wakes it."""
        for channel in self.all_outs:
            if channel.full:
                self.parked = True
                if channel.full:  # looked at again after parking: room made in between would wake nobody
                    return True
        self.parked = False
        return False

    def poll(self) -> int | None:
        """The seq this node can deal with now, or None when it has to wait."""
        if self.finished or self.trigger is None:
            return None
        head = self._claimed or self.trigger.head()
        if head is None:
            return None
        if type(head) is Packet and not self.dead and not self._settled(head):
            return None
        return None if self.blocked() else head.seq

    def _settled(self, head: Packet) -> bool:
        return not self.waits or all(side.settled(head) for side in self.waits)

    # ---- firing

    def begin(self) -> Work | None:
        """Take the next item; call the operator if it is a frame with everything it needs. None when there was nothing to call."""
        assert self.trigger is not None
        head = self._claimed or self.trigger.pop()
        self._claimed = None
        if head is None:
            return None
        if type(head) is not Packet:
            return self._begin_marker(head)
        if self._group and head.epoch != self._group[0][0].epoch:
            self._claimed = head
            return self._fire()
        if self.dead or head.epoch < self.session.epoch:
            self._skip(head, "error" if self.dead else "epoch")
            return None
        if self.waits and not self._settled(head):  # a newer frame took the place of the one that was polled
            self._claimed = head
            return None
        if head.epoch != self.epoch:
            self._enter(head.epoch)
        if head.version != self.version:
            self._apply(head.version)
        self.site.packet = head
        given = [(side, side.read(head)) for side in self.sides] if self.sides else []
        if given and not self._complete(head, given):
            return None
        self.previous = head.seq
        self._group.append((head, self._arguments(head, given), given))
        return self._fire() if len(self._group) >= self.plan.batch else None

    def _begin_marker(self, marker: Bound | Packet) -> Work | None:
        if marker is EOS:
            if self._group:
                self._claimed = marker
                return self._fire()
            self._end()
        else:
            for channel in self.all_outs:
                channel.put_bound(marker.seq)
        return None

    def _enter(self, epoch: int) -> None:
        """The first frame of a newer epoch: every memory of the older ones goes, here and now."""
        self.epoch, self.previous = epoch, None
        for side in self.sides:
            side.reset()
        self._forget_last_good()
        if isinstance(self.operator, Operator):
            self.operator.reset()

    def _apply(self, version: int) -> None:
        for change in self.session.changes(self.version, version, self.name):
            self.update(change)
        self.version = version

    def update(self, change: dict[str, Any]) -> None:
        """Set live parameters, already validated."""
        self.params.update(change)
        if isinstance(self.operator, Operator):
            self.operator.update(**change)

    def _complete(self, head: Packet, given: list[tuple[Side, Any]]) -> bool:
        """Deal with inputs that are missing; False when the frame was dropped for it."""
        for i, (side, value) in enumerate(given):
            edge = side.edge
            if value is not MISSING:
                if type(value) is Packet and value.ready is not None:
                    self.lane.device.wait(value.ready)
                continue
            port = self.spec.port(edge.port)
            optional = edge.feeds == "param" or (port is not None and port.optional)
            if edge.role == "carry" or (optional and (edge.missing == "default" or edge.role in ("latest", "hold"))):
                given[i] = (side, None)
            elif edge.missing == "error":
                self._release(head, given, "error")
                self.fail(OperatorError(self.name, head.seq, head.epoch, EngineError(f"input {edge.port} never came")))
                return False
            else:
                self._release(head, given, "unpaired")
                return False
        return True

    def _arguments(self, head: Packet, given: list[tuple[Side, Any]]) -> dict[str, Any]:
        assert self.trigger is not None
        if head.ready is not None:
            self.lane.device.wait(head.ready)
        edge = self.trigger.edge
        arguments: dict[str, Any] = {}
        for port in self.spec.ports:
            arguments[port.name] = [] if port.many else None
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
        if self.spec.inplace is not None and not self._alone(head):
            image = arguments[self.spec.inplace]
            arguments[self.spec.inplace] = type(image)(image.data.copy(), *_rest(image))
        return arguments

    def _alone(self, head: Packet) -> bool:
        """Whether the buffer of the packet in hand has no other reader, so that it may be written to."""
        assert self.trigger is not None
        return self.trigger.edge.port == self.spec.inplace and bool(head.leases) and all(lease.users == 1 for lease in head.leases)

    def _feed(self, edge: Edge, payload: Any) -> None:
        """A live parameter fed by an edge: mapped, kept within its bounds, of its type."""
        if payload is None:
            return
        param = self.spec.param(edge.port)
        value: Any = float(payload) if isinstance(payload, Scalar) else str(payload) if isinstance(payload, Payload) else payload
        if isinstance(payload, Scalar) and param is not None:
            if edge.map is not None:
                value = edge.map[0] + value * (edge.map[1] - edge.map[0])
            value = max(value, param.lo) if param.lo is not None else value
            value = min(value, param.hi) if param.hi is not None else value
            value = round(value) if isinstance(self.params.get(edge.port), int) else value
        if self.params.get(edge.port, MISSING) != value:
            self.update({edge.port: value})

    def _fire(self) -> Work:
        group, self._group = self._group, []
        head = group[-1][0]
        work = Work([g[0] for g in group], [pair for g in group for pair in g[2]], self.session.clock.now())
        self.lane.busy = (self, head.seq, work.started)
        self.site.packet = head
        while True:
            try:
                work.result = self._call([g[1] for g in group])
            except Cancelled:
                raise
            except Exception as error:
                if self._relieved(error):
                    continue
                work.error = error
            work.stopped = self.session.clock.now()
            return work

    def _call(self, arguments: list[dict[str, Any]]) -> Any:
        if self.plan.batch > 1:
            return self.operator.call_batch(arguments)
        if self.operator is not None:
            return self.operator(**arguments[0])
        if self.spec.wants_site:
            return self.spec.target(**arguments[0], **self.params, site=self.site)
        return self.spec.target(**arguments[0], **self.params)

    def _relieved(self, error: Exception) -> bool:
        """Whether the ladder found a cheaper setting after running out of memory: the same frame is then tried again."""
        if self.ladder is None or not is_out_of_memory(error):
            return False
        rung = self.ladder.descend(self.session.clock.now())
        if rung is None:
            return False
        self.session.rung(self, rung, "out of memory")
        return True

    # ---- results

    def finish(self, work: Work) -> None:
        """Send the results of a call, then let its inputs go."""
        self.lane.busy = None
        spent = work.stopped - work.started
        self.busy_ns += spent
        self.times.append(spent)
        self.count += len(work.heads)
        head = work.heads[-1]
        self.lane.trace.add(work.started, work.stopped, "call", self.name, head.seq, head.epoch)
        try:
            if work.error is not None:
                self._failed(work)
            else:
                self.errors_in_row = 0
                self._send_results(work)
        finally:
            for lease in self.site._leases:
                lease.release()
            self.site._leases.clear()
        assert self.trigger is not None
        for side, value in work.given:
            side.used(value)
        for packet in work.heads:
            self.trigger.done(packet)
        self._last_packet = head

    def _send_results(self, work: Work) -> None:
        results = work.result if self.plan.batch > 1 else [work.result]
        if not self.spec.outputs:
            for head in work.heads:
                if head.frame is not None:
                    head.frame.sunk = work.stopped
                self.session.sunk(self, head, work.stopped)
            return
        candidates = list(self.site._leases)
        for packet in [*work.heads, *(value for _, value in work.given if type(value) is Packet)]:
            candidates += packet.leases
        for head, result in zip(work.heads, results, strict=True):
            try:
                values = self._named(result)
            except TypeError as error:
                work.error = error
                self._failed(work)
                return
            self._send_frame(head, values, candidates)

    def _named(self, result: Any) -> list[tuple[str, Any]]:
        """The call's result as (output, payload or None) pairs; TypeError where it is not what the operator declares."""
        outputs = self.spec.outputs
        values = list(result) if self.spec.result is not None and isinstance(result, tuple) else [result] * len(outputs)
        for output, value in zip(outputs, values, strict=True):
            if value is None and not output.may_skip:
                raise TypeError(f"returned no {output.name}; declare it as {output.type.__name__} | None if it may be left out")
            if value is not None and not isinstance(value, output.type):
                raise TypeError(f"returned {type(value).__name__} where {output.name}: {output.type.__name__} is declared")
        return [(output.name, value) for output, value in zip(outputs, values, strict=True)]

    def _send_frame(self, head: Packet, values: list[tuple[str, Any]], candidates: list[Lease]) -> None:
        sent = False
        ready = self.lane.device.record(values) if self.lane.device.asynchronous else None
        if self.plan.on_error == "hold":
            self._forget_last_good()
        for name, payload in values:
            channels = self.outs[name]
            if payload is None:
                for channel in channels:
                    channel.put_bound(head.seq)
                continue
            if type(payload) is Scalar:
                self.session.signals[f"{self.name}.{name}"] = payload.value
            leases = _leases_of(payload, candidates) if candidates else ()
            packet = head.with_payload(payload, leases, ready)
            for channel in channels:
                channel.put(packet)
                sent = True
            if self.plan.on_error == "hold":
                for lease in leases:
                    lease.retain()
                self._last_good.append((name, payload, leases))
        if not sent and head.frame is not None:
            head.frame.gate.blame(head.frame, "skipped")

    def _forget_last_good(self) -> None:
        for _, _, leases in self._last_good:
            for lease in leases:
                lease.release()
        self._last_good = []

    def send(self, output: str, packet: Packet) -> None:
        """For sources: put an admitted packet on the edges of `output`."""
        for channel in self.outs[output]:
            channel.put(packet)

    def send_eos(self) -> None:
        for channel in self.all_outs:
            channel.put_eos()

    # ---- frames that stop here

    def _skip(self, head: Packet, cause: str) -> None:
        assert self.trigger is not None
        self.trigger.drop(head, cause)
        for channel in self.all_outs:
            channel.put_bound(head.seq)

    def _release(self, head: Packet, given: list[tuple[Side, Any]], cause: str) -> None:
        for side, value in given:
            side.used(value)
        self._skip(head, cause)

    def _failed(self, work: Work) -> None:
        """An operator raised: skip the frame, repeat the last good result, or fail the session, as the graph says."""
        assert work.error is not None
        self.errors += 1
        self.errors_in_row += 1
        head = work.heads[-1]
        error = OperatorError(self.name, head.seq, head.epoch, work.error)
        error.__cause__ = work.error
        for packet in work.heads:
            if packet.frame is not None:
                packet.frame.gate.blame(packet.frame, "error")
        tolerated = self.plan.on_error != "fail" and self.errors_in_row <= self.plan.max_errors
        self.session.event("error", self.name, head.seq, message=str(error), tolerated=tolerated)
        if tolerated and self.plan.on_error == "hold" and self._last_good:
            for packet in work.heads:
                for name, payload, leases in self._last_good:
                    for channel in self.outs[name]:
                        channel.put(packet.with_payload(payload, leases))
            return
        for packet in work.heads:
            for channel in self.all_outs:
                channel.put_bound(packet.seq)
        if not tolerated:
            self.fail(error)

    def fail(self, error: EngineError) -> None:
        """This node is out of order: what it made goes on to the sinks, what still comes is dropped, the sources stop."""
        self.dead = True
        self.session.fail(error)
        self.send_eos()

    def _end(self) -> None:
        """The input has ended: a last result if the operator has one, then the end marker."""
        if isinstance(self.operator, Operator) and not self.dead:
            try:
                result = self.operator.flush()
                if result is not None and self._last_packet is not None and self.spec.outputs:
                    head = self._last_packet.with_payload(self._last_packet.payload)
                    head.frame = None
                    self._send_frame(head, self._named(result), list(self.site._leases))
            except Exception as error:
                failure = OperatorError(self.name, -1, self.epoch, error)
                failure.__cause__ = error
                self.session.fail(failure)
        self.finished = True
        self.send_eos()
        self.lane.node_finished()

    # ---- sources

    def frames(self) -> Any:
        """For sources: an iterator of (value, pts, born, cut)."""
        for item in self.operator() if self.operator is not None else self._call([{}]):
            yield item if isinstance(item, Stamped) else Stamped(item)


def _rest(image: Any) -> list[Any]:
    """The fields of a payload after its data."""
    return [getattr(image, name) for name in list(inspect.signature(type(image)).parameters)[1:]]


def _leases_of(payload: Any, candidates: list[Lease]) -> tuple[Lease, ...]:
    """The leases whose memory a payload shows: found by address, so that views (a crop, a flip, a torch view) count too."""
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
    if hasattr(array, "__array_interface__"):
        import numpy as np

        return int(np.lib.array_utils.byte_bounds(array)[0]) if array.size else None
    if hasattr(array, "data_ptr") and getattr(array.device, "type", "") == "cpu":
        return int(array.data_ptr())
    return None
