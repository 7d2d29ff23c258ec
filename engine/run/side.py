"""How a node reads the inputs that do not fire it: exact, hold, latest, carry, constant.

`settled` says whether the node may fire for a given trigger; `read` gives the value for it. Both run on the consumer's lane only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from engine.errors import ReplayError
from engine.graph import UNSET
from engine.packet import Packet
from engine.plan import Edge
from engine.run.channel import EOS, Channel

if TYPE_CHECKING:
    from engine.run.node import NodeRun

MISSING: Final[Any] = type("_Missing", (), {"__repr__": lambda self: "MISSING"})()


class Side:
    """One input of a node besides its trigger; by itself, a value written in the graph. Subclasses read a queue."""

    def __init__(self, edge: Edge, node: NodeRun, channel: Channel | None) -> None:
        self.edge, self.node, self.channel = edge, node, channel
        self.default = edge.hold  # what is written in the graph, or was set since
        self.value: Packet | None = None  # kept from frame to frame, with its buffers
        self.lends = node.plan.batch > 1  # a kept value may be replaced before the batch is called that was given it
        self._lent: list[Packet] = []
        self._last_read = -1

    def settled(self, head: Packet) -> bool:
        """Whether everything this input must wait for, before the node fires on `head`, has come."""
        return True

    def read(self, head: Packet) -> Any:
        """The packet for `head`, or a written default, or MISSING."""
        return self.default

    def used(self, value: Any) -> None:
        """The call for which `value` was read is over."""

    def reset(self) -> None:
        """A new epoch: forget the kept value."""
        self._keep(None)
        self._last_read = -1

    def passed(self, seq: int) -> None:
        """No frame up to `seq` will fire the node: what waits for one need not."""

    def end(self, cause: str = "unpaired") -> None:
        """The node has ended: let go of everything, also of what still comes."""
        self._keep(None)
        if self.channel is not None:
            self.channel.close(cause)

    def _keep(self, packet: Packet | None) -> None:
        old, self.value = self.value, packet
        if old is not None and self.channel is not None:
            self.channel.let_go(old)

    @staticmethod
    def _copy(packet: Packet) -> Packet:
        """The packet once more, with its buffers but without its frame: it may be kept for long, and the frame's credit must not."""
        copy = packet.with_payload(packet.payload, packet.leases, packet.ready)
        copy.frame = None
        for lease in copy.leases:
            lease.retain()
        return copy

    def _lend(self, packet: Packet) -> Packet:
        """A kept value for one call, whatever happens to it meanwhile; `_return` ends that."""
        copy = self._copy(packet)
        self._lent.append(copy)
        return copy

    def _return(self, value: Any) -> bool:
        if value not in self._lent or self.channel is None:
            return False
        self._lent.remove(value)
        self.channel.let_go(value)
        return True

    def _default(self) -> Any:
        return MISSING if self.default is UNSET else self.default

    def replace(self, value: Any) -> None:
        """Read `value` from now on, until the edge brings a newer one."""
        self.default = value
        self._keep(None)


class Exact(Side):
    """The packet of the same seq. `missing = "reuse"` keeps the last one for frames whose partner never comes."""

    channel: Channel

    def settled(self, head: Packet) -> bool:
        channel = self.channel
        self.passed(head.seq - 1)
        return channel.head() is not None or channel.settled >= head.seq

    def passed(self, seq: int) -> None:
        channel = self.channel
        while (item := channel.head()) is not None and item.seq <= seq:
            if channel.pop(item) is not None and type(item) is Packet:
                channel.drop(item, "unpaired")

    def read(self, head: Packet) -> Any:
        item = self.channel.head()
        if type(item) is Packet and item.seq == head.seq and self.channel.pop(item) is not None:
            if self.edge.missing == "reuse":
                self._keep(self._copy(item))
            return item
        return self._lend(self.value) if self.value is not None else MISSING

    def used(self, value: Any) -> None:
        if type(value) is Packet and not self._return(value):
            head = self.node.site.packet
            if value.frame is not None and head is not None and head.frame is not None and value.frame.gate is not head.frame.gate:
                value.frame.gate.blame(value.frame, "joined")
            self.channel.done(value)


class Kept(Side):
    """Hold, latest and carry: the newest value not after a limit; which limit depends on what the plan says to wait for."""

    channel: Channel

    def replace(self, value: Any) -> None:
        head = self.node.site.packet
        limit = self._limit(head) if self.edge.lag is not None and head is not None else None
        if limit is not None and head is not None:  # whether it has been looked at before is a matter of luck
            self._advance(lambda item: item.seq <= limit, head.epoch)
        super().replace(value)

    def settled(self, head: Packet) -> bool:
        edge, session = self.edge, self.node.session
        if edge.lag is None:
            if session.replay is None:
                return True
            wanted = session.replay.read_at(self.channel.id, head.seq)
            if wanted is None or wanted < 0 or self._has(wanted):
                return True
            last = self.channel.items[-1].seq if self.channel.items else -1
            return not session.replay.strict and max(last, self.channel.settled) >= wanted
        limit = self._limit(head)
        last = self.channel.items[-1].seq if self.channel.items else -1
        settled = limit is None or max(last, self.channel.settled) >= limit
        if self.channel.packets > 1:  # what is still to come must find room, also while the node waits for another input
            if limit is None:
                self._advance(lambda item: False, head.epoch)
            self._thin(head.seq)
        return settled

    def _has(self, seq: int) -> bool:
        return (self.value is not None and self.value.seq == seq) or any(type(i) is Packet and i.seq == seq for i in list(self.channel.items))

    def _limit(self, head: Packet) -> int | None:
        """The seq up to which values count; None when this is the first frame of its epoch and there is none to look back to."""
        if self.edge.lag == 0:
            return head.seq
        return self.node.previous if head.epoch == self.node.epoch else None

    def read(self, head: Packet) -> Any:
        if self.edge.lag is None:
            self._advance_asynchronous(head)
        else:
            limit = self._limit(head)
            if limit is not None:
                self._advance(lambda item: item.seq <= limit, head.epoch)
        value = self.value
        if value is not None and self.edge.max_age_ms is not None and head.pts - value.pts > self.edge.max_age_ms * 1e6:
            return self._default()
        if value is None:
            return self._default()
        return self._lend(value) if self.lends else value

    def used(self, value: Any) -> None:
        self._return(value)

    def _advance_asynchronous(self, head: Packet) -> None:
        session, edge = self.node.session, self.edge
        if session.replay is None:
            self._advance(lambda item: item.pts <= head.pts, head.epoch)
            now = -1 if self.value is None else self.value.seq
            if now != self._last_read:
                session.recording.note("reads", (self.channel.id, head.seq, now))
                if session.recording.tap is not None:
                    session.recording.tap.read(self, head)
                self._last_read = now
            return
        wanted = session.replay.read_at(self.channel.id, head.seq)
        if wanted is None:
            return
        self._advance(lambda item: item.seq <= wanted, head.epoch)
        found = -1 if self.value is None else self.value.seq
        if found != wanted and session.replay.strict:
            raise ReplayError(f"{edge.node}.{edge.port}: frame {head.seq} read the value of frame {wanted}, but the replay has {found}")

    def _advance(self, counts: Any, epoch: int) -> None:
        while (item := self.channel.head()) is not None:
            if item is EOS:
                return
            if type(item) is not Packet:
                self.channel.pop(item)
            elif item.epoch < epoch:
                if self.channel.pop(item) is not None:
                    self.channel.drop(item, "replaced")
            elif item.epoch == epoch and counts(item):
                if self.channel.pop(item) is not None:
                    self.channel.taken += 1
                    if self.value is not None and item.seq < self.value.seq:
                        self.channel.let_go(item)  # a replay that began in the middle makes again what had been read by then
                    else:
                        self._keep(item)
            else:
                return

    def passed(self, seq: int) -> None:
        if self.edge.lag is None:
            return  # these queues evict by themselves
        self._thin(seq)
        if not self.channel.packets:
            return
        session, newest = self.node.session, self.node.session.oldest
        if not session.plan.live or len(session.gates) == 1 or source_of(self.channel.producer) is source_of(self.node):
            # Frames after `seq` are of the newest epoch that there is up to it, or of a later one: for them, what is older does not count.
            # The ordinals of live sources say nothing of each other.
            newest = max((item.epoch for item in list(self.channel.items) if type(item) is Packet and item.seq <= seq), default=newest)
        self._advance(lambda item: False, newest)

    def _thin(self, seq: int) -> None:
        """Make room for what is still to come: of the values up to `seq`, those that a later one of their epoch replaces."""
        before = self.node.previous
        if self.edge.lag == 1 and before is not None:
            self._advance(lambda item: item.seq <= before, self.node.epoch)
        for packet in self.channel.superseded(seq):
            self.channel.drop(packet, "replaced")


def in_order(sides: list[Side]) -> list[Side]:
    """The order in which a node reads: first what waits for nobody. Reading another makes room, and what comes into that room is not to be seen
    by this frame yet: a replay has it only after the frame."""
    return sorted(sides, key=lambda side: side.edge.lag is not None)


def source_of(node: NodeRun | None) -> NodeRun | None:
    """The source whose frames fire a node."""
    while node is not None and node.trigger is not None:
        node = node.trigger.producer
    return node


def make_side(edge: Edge, node: NodeRun, channel: Channel | None) -> Side:
    """The reader for an edge's role."""
    kinds: dict[str, type[Side]] = {"constant": Side, "exact": Exact}
    return kinds.get(edge.role, Kept)(edge, node, channel)
