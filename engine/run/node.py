"""One node of a running session: collects its inputs, fires its operator, sends its results.

The step function that every executor shares: `poll` says whether the node may fire, `begin` takes the inputs and calls the operator,
`finish` sends the results and lets the inputs go. All three run on the node's lane; `wake` may be called from anywhere.
A frame that does not leave this node is announced as a Bound, so that nobody downstream waits for it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from engine.operator import Operator, Spec, Stamped
from engine.packet import Packet
from engine.plan import Edge, PlanNode
from engine.run import fault, life, slide
from engine.run.channel import EOS, Bound, Channel
from engine.run.emit import Emitter
from engine.run.hop import hop
from engine.run.inputs import Inputs
from engine.run.ladder import Ladder
from engine.run.side import Side, in_order, make_side
from engine.run.work import Work
from engine.site import Site

if TYPE_CHECKING:
    from engine.run.gate import Gate
    from engine.run.lane import Lane
    from engine.session import Session


NEVER = 2**63


class NodeRun:
    """The running state of one node. Its operator lives on one lane, from open to close."""

    def __init__(self, plan: PlanNode, spec: Spec, site: Site, session: Session) -> None:
        self.plan, self.spec, self.site, self.session, self.name = plan, spec, site, session, plan.name
        self.params = dict(plan.params)
        self.late: dict[str, Any] = {}  # what was changed on its predecessor while a reload made this one; `life.enter` takes it
        self.operator: Any = None
        self.lane: Lane
        self.gate: Gate | None = None
        self.gate_id = -1 - plan.order - session.segment
        self.trigger: Channel | None = None
        self.sides: list[Side] = []
        self.waits: list[Side] = []
        self.ladder: Ladder | None = None
        self.epoch = self.version = 0
        self.previous: int | None = None  # seq of the last frame that fired in this epoch
        self.parked = self.queued = self.woken = self.finished = self.dead = self.simple = self.choosy = self.onlooker = self.slides = False
        self.ended = False  # whether the end of the stream has come here; `finished` once that has been dealt with
        self.tethered = False  # whether it waits meanwhile: a reload has counted on a node that had not ended
        self.since = 0  # frames before this one belong to a wiring that is gone
        self.told = -1  # the last frame of which `_overtaken` spoke
        self.owed = -1  # a frame that stopped here, of which nobody is told before those gathered ahead of it are out
        self.mark = NEVER  # the tap is told of the first frame from this one on
        self.now = session.clock.now
        self.port = ""
        self.count = self.errors = self.errors_in_row = self.busy_ns = 0
        self.times: deque[int] = deque(maxlen=4096)
        self.claimed: Packet | Bound | None = None
        self.group: list[tuple[Packet, dict[str, Any], list[tuple[Side, Any]]]] = []  # frames that wait for their batch, or inside it
        self.last_packet: Packet | None = None
        self.inputs = Inputs(self)
        self.emit = Emitter(self, spec)

    # ---- building

    def add_input(self, edge: Edge, channel: Channel | None) -> None:
        if edge.role == "trigger":
            self.trigger = channel
            return
        side = make_side(edge, self, channel)
        self.sides = in_order([*self.sides, side])
        if edge.role != "constant":
            self.waits.append(side)

    def open(self) -> None:
        """Make the operator and open it, on its lane."""
        life.begin(self)

    def close(self) -> None:
        """Let go of everything; called once, also after a failure."""
        life.end(self)

    def flush_group(self) -> None:
        """Call the operator for the frames gathered so far."""
        after = self.finish(self._fire()) if self.group else None
        while after is not None:
            after = after[0].step_on(after[1])

    def hurry(self) -> bool:
        """Call the operator for the frames gathered so far, and go on; False where there are none, or no room for what would come of them."""
        if not self.group or self.blocked():
            return False
        self.flush_group()
        self.lane.look(self)
        return True

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
        more = self.plan.batch - 1  # a batch comes out at once
        for channel in self.emit.bounded:
            if channel.packets + more >= channel.cap:
                self.parked = True
                if channel.packets + more >= channel.cap:  # looked at again after parking: room made in between would wake nobody
                    return True
        self.parked = False
        return False

    def poll(self) -> int | None:
        """The seq this node can deal with now, or None when it has to wait."""
        if self.finished or self.trigger is None:
            return None
        head = self.claimed or self.trigger.head()
        if type(head) is not Packet:
            for side in self.waits:  # a partner of a frame that will not come may arrive after that was known, or a carry be full
                side.passed(self.trigger.settled)
            if head is None or (head is EOS and self.tethered):
                return None
        if type(head) is Packet and not self.dead and head.seq >= self.since and not self._settled(head):
            self._overtaken(head.seq - 1)
            return None
        return None if self.blocked() else head.seq

    def _overtaken(self, seq: int) -> None:
        """Say that nothing comes for frames up to `seq`, which were dropped ahead of one that has to wait: who joins them may hold up what it
        waits for."""
        if seq > self.told and seq != self.previous and self.emit.awaited and not self.group:
            self.told = seq
            self.emit.bound(seq)

    def _settled(self, head: Packet) -> bool:
        waiting = [side for side in self.waits if not side.settled(head)]  # all are asked: each lets go of what it need not keep
        return not waiting

    # ---- firing

    def step(self) -> tuple[NodeRun, Packet] | None:
        """Take the next item and deal with it whole. Returns the node to call next, if a result may go straight into it."""
        assert self.trigger is not None
        head = self.claimed or self.trigger.pop()
        self.claimed = None
        if type(head) is Packet:
            return self.step_on(head)
        if head is not None and (work := self._begin_marker(head)) is not None:
            return self.finish(work)
        return None

    def step_on(self, head: Packet) -> tuple[NodeRun, Packet] | None:
        """`step` for a frame that is in hand."""
        same = head.epoch == self.epoch == self.session.epoch and head.version == self.version
        if self.simple and same and head.ready is None and self.since <= head.seq < self.mark:
            return hop(self, head)
        work = self.take(head)
        return None if work is None else self.finish(work)

    def begin(self) -> Work | None:
        """Take the next item; call the operator if it is a frame with everything it needs. None when there was nothing to call."""
        assert self.trigger is not None
        head = self.claimed or self.trigger.pop()
        self.claimed = None
        if head is None:
            return None
        return self.take(head) if type(head) is Packet else self._begin_marker(head)

    def take(self, head: Packet) -> Work | None:
        """Go on with a frame that was taken from the queue, or handed over by the node before."""
        if self.group and (head.epoch, head.version) != (self.group[0][0].epoch, self.group[0][0].version):
            self.claimed = head
            return self._fire()
        if self.dead or head.epoch < self.session.oldest or head.seq < self.since:
            self.skip(head, "error" if self.dead else "reload" if head.seq < self.since else "epoch")
            return self._ahead()
        if self.waits and not self._settled(head):  # a newer frame took the place of the one that was polled
            self.claimed = head
            return None
        if head.epoch != self.epoch:
            self._enter(head.epoch)
        self.site.packet = head
        if head.version != self.version:
            self._apply(head.version)
        if self.choosy and not self.operator.wanted():
            self.skip(head, "unwatched")
            return self._ahead()
        given = [(side, side.read(head)) for side in self.sides] if self.sides else []
        if head.seq >= self.mark and self.session.tap is not None:
            self.session.tap.crossed(self, head)
        if given and not self.inputs.complete(head, given):
            return self._ahead()
        self.previous = head.seq
        self.group.append((head, self.inputs.arguments(head, given), given))
        if self.slides:
            return slide.feed(self)
        return self._fire() if len(self.group) >= self.plan.batch else None

    def _ahead(self) -> Work | None:
        """A frame has stopped here: call what was gathered ahead of it, where somebody waits to hear of both."""
        return self._fire() if self.group and self.owed >= 0 and not self.dead else None

    def _begin_marker(self, marker: Bound | Packet) -> Work | None:
        if self.group and (marker is EOS or self.emit.awaited):
            self.claimed = marker
            return self._fire()
        if marker is EOS:
            self._end()
            return None
        for side in self.sides:
            side.passed(marker.seq)
        self.emit.bound(marker.seq)
        return None

    def _enter(self, epoch: int) -> None:
        """The first frame of a newer epoch: every memory of the older ones goes, here and now."""
        self.epoch, self.previous = epoch, None
        for side in self.sides:
            side.reset()
        self.emit.forget_last_good()
        if isinstance(self.operator, Operator):
            self.operator.reset()

    def _apply(self, version: int) -> None:
        for change in self.session.changes(self.version, version, self.name):
            self.update(change)
        self.version = version

    def update(self, change: dict[str, Any]) -> None:
        """Set live parameters, and the written values of inputs (`in.` and the port), already validated."""
        params = {key: value for key, value in change.items() if self.spec.param(key) is not None}
        self.params.update(params)
        if params and isinstance(self.operator, Operator):
            self.operator.update(**params)
        for key in change.keys() - params.keys():
            self.inputs.write(key.removeprefix("in."), change[key])

    def _fire(self) -> Work:
        if self.slides:
            return slide.drain(self)
        group, self.group = self.group, []
        self.site.packet, self.site.packets = group[-1][0], [entry[0] for entry in group]
        work = Work([g[0] for g in group], [pair for g in group for pair in g[2]], self.now())
        return self._run(work, [g[1] for g in group])

    def _run(self, work: Work, arguments: list[dict[str, Any]]) -> Work:
        self.lane.busy = (self, work.heads[-1].seq, work.started)
        while True:
            try:
                if self.operator is None:
                    work.result = self.spec.target(**arguments[0], **self.params)
                elif self.plan.batch > 1:
                    work.result = self.operator.call_batch(arguments)
                else:
                    work.result = self.operator(**arguments[0])
            except Exception as error:
                if fault.relieved(self, error):
                    continue
                work.error = error
            except BaseException:
                fault.abandon(self, work)
                raise
            work.stopped = self.now()
            return work

    def rescue(self, work: Work, error: Exception, arguments: list[dict[str, Any]]) -> None:
        """Deal with what a call raised: try again where memory could be found, else keep the error for `finish`."""
        if fault.relieved(self, error):
            self._run(work, arguments)
        else:
            work.error, work.stopped = error, self.now()

    # ---- results

    def finish(self, work: Work) -> tuple[NodeRun, Packet] | None:
        """Send the results of a call, then let its inputs go. Returns what may be called at once, as `Emitter.frame` does."""
        self.lane.busy = None
        spent = work.stopped - work.started
        self.busy_ns += spent
        self.times.append(spent)
        self.count += len(work.heads)
        head = work.heads[-1]
        self.lane.trace.add(work.started, work.stopped, "call", self.name, head.seq, head.epoch)
        self.last_packet = head
        after: tuple[NodeRun, Packet] | None = None
        try:
            if work.error is None:
                after = self._send_results(work)
            if work.error is not None:
                fault.failed(self, work)
        finally:
            if self.site._leases:
                self.site.let_go()
        if self.owed >= 0:
            self.emit.bound(self.owed)
            self.owed = -1
        for side, value in work.given:
            side.used(value)
        channel = self.trigger
        assert channel is not None
        if after is None:
            for packet in work.heads:
                channel.done(packet)
        else:  # the next node takes over the frame's message; only the buffers are let go
            channel.taken += 1
            for lease in head.leases:
                lease.release()
        return after

    def _send_results(self, work: Work) -> tuple[NodeRun, Packet] | None:
        self.errors_in_row = 0
        if not self.spec.outputs:
            for head in work.heads if not self.onlooker else ():
                if head.frame is not None:
                    head.frame.sunk = work.stopped
                self.session.sunk(self, head, work.stopped, work.given)
            return None
        candidates = list(self.site._leases)
        for head in work.heads:
            candidates += head.leases
        for _, value in work.given:
            if type(value) is Packet:
                candidates += value.leases
        results = work.result if self.plan.batch > 1 else [work.result]
        after = None
        try:
            for head, result in zip(work.heads, results, strict=True):
                after = self.emit.frame(head, self.emit.named(result), candidates)
        except (TypeError, ValueError) as error:
            work.error = error
        return after

    # ---- frames that stop here

    def skip(self, head: Packet, cause: str) -> None:
        assert self.trigger is not None
        self.trigger.drop(head, cause)
        for side in self.sides:
            side.passed(head.seq)
        if self.group and self.emit.awaited:
            self.owed = head.seq
        else:
            self.emit.bound(head.seq)

    def release(self, head: Packet, given: list[tuple[Side, Any]], cause: str) -> None:
        for side, value in given:
            side.used(value)
        self.skip(head, cause)

    def may_end(self) -> bool:
        """Whether the node may end now. What a reload has found running goes on into the new wiring before it ends."""
        with self.session.ends:
            self.ended = self.ended or not self.tethered
            return self.ended

    def _end(self) -> None:
        """The input has ended: a last result, then the end marker."""
        if not self.may_end():
            self.claimed = EOS
            return
        life.flush(self)
        self.finished = True
        for side in self.sides:
            side.end()
        self.emit.eos()
        self.lane.node_finished()

    def __lt__(self, other: NodeRun) -> bool:
        return self.name < other.name  # where frame and place are the same, as they may be for a moment after a reload

    # ---- sources

    def catch_up(self) -> None:
        """For sources: take what was changed since the last frame. The frame a change was stamped on had been made by then."""
        version = self.session.version
        if version != self.version:
            self._apply(version)

    def frames(self) -> Any:
        """For sources: an iterator of (value, pts, born, cut)."""
        for item in self.operator() if self.operator is not None else self.spec.target(**self.params):
            yield item if isinstance(item, Stamped) else Stamped(item)
