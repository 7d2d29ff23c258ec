"""The running side of an edge: a finite queue with a policy.

Packets and markers travel in the same queue, in order. Invariants: never more than `cap` packets; every packet put is later taken, dropped
for a counted cause, or still here (`Channel.balance`); a frame's message count rises before the packet can be seen and falls after it was
dealt with, so a frame's fate is decided exactly once. It knows frames and leases, but not what fires when.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from itertools import pairwise
from typing import TYPE_CHECKING

from engine.packet import Packet
from engine.plan import Edge

if TYPE_CHECKING:
    from engine.run.node import NodeRun
    from engine.session import Session


class Bound:
    """A marker: nothing more will come for frames up to `seq`."""

    __slots__ = ("seq",)

    def __init__(self, seq: int) -> None:
        self.seq = seq

    def __repr__(self) -> str:
        return f"Bound({self.seq})"


EOS = Bound(2**62)
"""The last marker: the stream has ended."""


class Channel:
    """A queue between an output and a port. Producers call `put`, `put_bound`, `put_eos`; the consumer's lane calls the rest."""

    __slots__ = (
        "_closed", "_count", "_count_epoch", "_left", "_lock", "_put", "blocks", "cap", "consumer", "direct", "drops", "edge", "entered",
        "evicts", "id", "items", "peak", "plain", "producer", "session", "settled", "taken",
    )  # fmt: skip

    def __init__(self, edge: Edge, consumer: NodeRun, session: Session) -> None:
        self.edge, self.consumer, self.session = edge, consumer, session
        self.id = edge.id + session.segment  # what a recording calls it; stays the same when a reload numbers edges anew
        self.producer: NodeRun | None = None
        self.items: deque[Packet | Bound] = deque()
        self.cap = edge.cap
        self.direct = False
        self.peak = self.entered = self.taken = 0
        self._put = self._left = 0  # packets queued and gone; each has one writer where the queue is plain, so no lock is needed
        self.settled = -1  # every frame up to this seq has been seen here, as a packet or a bound
        self.drops: Counter[str] = Counter()
        # A replayed queue loses what the recording says and nothing else; a value that is kept may be overtaken without being lost.
        self.evicts = edge.lossy and session.replay is None
        self.blocks = not edge.lossy and (edge.counted or edge.lag is not None)  # a kept value that somebody waits for is not evicted either
        # Nothing can be evicted or merged: the producer only appends and the consumer only takes, which deques do atomically.
        self.plain = edge.counted and not edge.lossy and edge.every == 1 and session.replay is None
        self._count, self._count_epoch = 0, -1
        self._closed = ""  # the cause for which packets are dropped once the consumer has ended
        self._lock = threading.Lock()

    # ---- producer side

    def put(self, packet: Packet) -> None:
        """Queue `packet` by this edge's policy, or drop it (or an older one) for a counted cause."""
        self.entered += 1
        edge, seq = self.edge, packet.seq
        if self.plain:
            if packet.frame is not None:
                packet.frame.gate.hold(packet.frame, edge.credit)
            for lease in packet.leases:
                lease.retain()
            self._push(packet)
            return
        if edge.every > 1 and not self._sampled(packet):
            self._refuse(packet, "sampled")
            return
        replay = self.session.replay
        if replay is not None and (cause := replay.drop_at(self.id, seq)):
            self._refuse(packet, cause)
            return
        if edge.counted and packet.frame is not None:
            packet.frame.gate.hold(packet.frame, edge.credit)
        for lease in packet.leases:
            lease.retain()
        victim = None
        with self._lock:
            if self.packets >= edge.cap and (self.evicts or (edge.lag is None and not edge.counted and replay is None)):
                victim = self._evict()
            self.items.append(packet)
            self._put += 1
            self.peak = max(self.peak, self.packets)
        if victim is not None:
            self._lose(victim)
        self._announce()

    def append(self, packet: Packet) -> None:
        """`put` for a packet that brings its frame's message along and shows no pooled buffer; for plain queues only."""
        self.entered += 1
        self._push(packet)

    def _push(self, packet: Packet) -> None:
        self.items.append(packet)
        self._put += 1
        self.peak = max(self.peak, self._put - self._left)
        self._announce()

    def _announce(self) -> None:
        """Tell the consumer of what was queued; where it has ended, nobody will take it."""
        if self._closed:
            self._sweep()
        else:
            self.consumer.wake(self.producer)

    def put_bound(self, seq: int) -> None:
        """Announce that nothing will come for frames up to `seq`."""
        if not self.edge.bounds and seq != EOS.seq:
            return
        marker = EOS if seq == EOS.seq else Bound(seq)
        if self.plain:
            self.items.append(marker)
            self.consumer.wake(self.producer)
            return
        with self._lock:
            if self.items and type(self.items[-1]) is Bound and self.items[-1] is not EOS:
                self.items[-1] = marker
            else:
                self.items.append(marker)
        self.consumer.wake(self.producer)

    def put_eos(self) -> None:
        self.put_bound(EOS.seq)

    def hand_over(self, packet: Packet) -> bool:
        """Whether the consumer may be called with `packet` at once, on the producer's own lane, without queueing.

        True only where that is what the queue would lead to: same lane, nothing queued, nothing older ready, nothing to wait for. The
        packet then counts as taken, and the producer's message of the frame becomes the consumer's.
        """
        if not self.direct or self.items or packet.frame is None:
            return False
        if self.consumer.lane.has_older(packet.seq) or self.consumer.blocked():
            return False
        self.entered += 1
        self.settled = packet.seq
        for lease in packet.leases:
            lease.retain()
        return True

    def settle(self) -> None:
        """Called when every edge is in place: find out whether packets may ever be handed over."""
        consumer, producer = self.consumer, self.producer
        if producer is None or producer.trigger is None or producer.lane is not consumer.lane:
            return
        waits = consumer.waits or consumer.plan.batch > 1 or producer.plan.batch > 1
        self.direct = self.plain and consumer.lane.direct and not waits and producer.trigger.edge.credit == self.edge.credit

    @property
    def packets(self) -> int:
        """How many packets wait here."""
        return self._put - self._left

    @property
    def full(self) -> bool:
        """Whether a producer has to wait: only queues that lose nothing make it."""
        return self.blocks and self.packets >= self.cap

    def _sampled(self, packet: Packet) -> bool:
        # Counted in arrivals, not in seq: under a live clock most seqs never arrive, and a key frame would come by luck only.
        if packet.epoch != self._count_epoch:
            self._count, self._count_epoch = 0, packet.epoch
        self._count += 1
        return (self._count - 1) % self.edge.every == 0

    def _evict(self) -> Packet | None:
        for i, item in enumerate(self.items):
            if type(item) is Packet:
                del self.items[i]
                self._left += 1
                return item
        return None

    def _refuse(self, packet: Packet, cause: str) -> None:
        self.drops[cause] += 1
        if self.edge.counted and packet.frame is not None:
            packet.frame.gate.blame(packet.frame, cause)
        self.put_bound(packet.seq)

    def _lose(self, victim: Packet) -> None:
        if not self.edge.counted:
            self.drops["replaced"] += 1  # a kept value that was overtaken before anyone looked: no frame is lost
            self.let_go(victim)
            return
        self.drop(victim, "stale" if self.edge.policy == "latest" else "overflow")

    # ---- consumer side

    def head(self) -> Packet | Bound | None:
        return self.items[0] if self.items else None

    def pop(self, wanted: Packet | Bound | None = None) -> Packet | Bound | None:
        """Take the head. The caller then owns a packet's message and leases, and ends them with `done` or `drop`.

        `wanted`: only if it is still the head, which a lossy queue may have evicted since it was looked at.
        """
        if self.plain:
            if not self.items:
                return None
            item = self.items.popleft()
            self._left += type(item) is Packet
        else:
            with self._lock:
                if not self.items or (wanted is not None and self.items[0] is not wanted):
                    return None
                item = self.items.popleft()
                self._left += type(item) is Packet
        self.settled = item.seq
        producer = self.producer
        if producer is not None and producer.parked:
            producer.wake(self.consumer)
        return item

    def drop(self, packet: Packet, cause: str) -> None:
        """End a packet's message without its having been used."""
        self.drops[cause] += 1
        self._forget(packet, cause)

    def _forget(self, packet: Packet, cause: str) -> None:
        if cause in ("stale", "overflow", "epoch", "unwatched", "reload"):
            self.session.recording.drop(self.id, packet.seq, cause)
        if self.edge.counted and packet.frame is not None:
            packet.frame.gate.blame(packet.frame, cause)
        self.let_go(packet)

    def done(self, packet: Packet) -> None:
        """End a packet's message: it was used."""
        self.taken += 1
        self.let_go(packet)

    def let_go(self, packet: Packet) -> None:
        """Release what a packet holds: its buffers, and its place in its frame."""
        for lease in packet.leases:
            lease.release()
        if self.edge.counted and packet.frame is not None:
            packet.frame.gate.release(packet.frame, self.edge.credit)

    def superseded(self, seq: int) -> list[Packet]:
        """Take out the packets up to `seq` that a later one of them, of the same epoch, makes superfluous."""
        with self._lock:
            old = [item for item in self.items if type(item) is Packet and item.seq <= seq]
            gone = [a for a, b in pairwise(old) if a.epoch == b.epoch]
            for packet in gone:
                self.items.remove(packet)
            self._left += len(gone)
        if gone and self.producer is not None and self.producer.parked:
            self.producer.wake(self.consumer)
        return gone

    def close(self, cause: str) -> None:
        """The consumer has ended: what is here and what still comes is dropped for `cause`, and nobody waits for room any more."""
        self._closed, self.cap = cause, EOS.seq
        self._sweep()
        if self.producer is not None and self.producer.parked:
            self.producer.wake(self.consumer)

    def _sweep(self) -> None:
        cause = self._closed if self.edge.counted else "replaced"
        while True:
            with self._lock:  # the producer and the consumer may both be here
                if not self.items:
                    return
                item = self.items.popleft()
                if type(item) is not Packet:
                    continue
                self._left += 1
                self.drops[cause] += 1
            self._forget(item, cause)

    @property
    def closed(self) -> bool:
        """Whether its consumer has ended, so that whatever comes is dropped."""
        return bool(self._closed)

    @property
    def balance(self) -> int:
        """Zero when nothing was lost without a cause: entered = taken + dropped + still here."""
        return self.entered - self.taken - sum(self.drops.values()) - self.packets
