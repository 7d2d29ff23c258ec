"""Queues, alone: policies, counts, and what happens between looking at a packet and taking it."""

from __future__ import annotations

from typing import Any

import pytest
import toys

from engine.clock import StepClock
from engine.live.record import Recording, Replay
from engine.packet import Frame, Packet
from engine.payload import Scalar
from engine.plan import Edge
from engine.pool import Pools
from engine.run.channel import EOS, Bound, Channel


class Reader:
    """A consumer that counts how often it was woken."""

    def __init__(self) -> None:
        self.woken = 0
        self.parked = False

    def wake(self, by: Any) -> None:
        self.woken += 1


class Ledger:
    """A gate that keeps books."""

    def __init__(self) -> None:
        self.held = self.credits = 0
        self.blamed: list[str] = []

    def hold(self, frame: Any, credit: bool) -> None:
        self.held += 1
        self.credits += credit

    def release(self, frame: Any, credit: bool) -> None:
        self.held -= 1
        self.credits -= credit

    def blame(self, frame: Any, cause: str) -> None:
        self.blamed.append(cause)


class Run:
    def __init__(self, replay: Recording | None = None) -> None:
        self.recording = Recording()
        self.replay = Replay(replay) if replay else None
        self.clock, self.segment = StepClock(), 0


def queue(run: Run | None = None, **settings: Any) -> tuple[Channel, Ledger]:
    edge = Edge(7, "a", "scalar", "b", "a", None, **{"role": "trigger", "cap": 2, "bounds": True, **settings})
    channel = Channel(edge, Reader(), run or Run())  # type: ignore[arg-type]
    channel.producer = Reader()  # type: ignore[assignment]
    return channel, Ledger()


def packet(seq: int, gate: Any, *, epoch: int = 0, leases: tuple[Any, ...] = ()) -> Packet:
    return Packet(seq, seq * 10, epoch, 0, Scalar(float(seq)), frame=Frame(seq, epoch, 0, gate), leases=leases)


def seqs(channel: Channel) -> list[Any]:
    return [item.seq if type(item) is Packet else f"<={item.seq}" for item in channel.items]


def test_block_keeps_everything_and_says_when_it_is_full() -> None:
    channel, gate = queue()
    for i in range(2):
        assert not channel.full
        channel.put(packet(i, gate))
    assert channel.full
    assert (gate.held, gate.credits) == (2, 2)
    channel.producer.parked = True  # type: ignore[union-attr]
    first = channel.pop()
    assert isinstance(first, Packet)
    assert channel.producer.woken == 1  # type: ignore[union-attr]
    assert not channel.full
    channel.done(first)
    assert (gate.held, channel.taken, channel.balance, channel.peak) == (1, 1, 0, 2)


@pytest.mark.parametrize(("policy", "cap", "left", "cause"), [("latest", 1, [4], "stale"), ("drop-oldest", 3, [2, 3, 4], "overflow")])
def test_lossy_queues_keep_the_newest(policy: str, cap: int, left: list[int], cause: str) -> None:
    run = Run()
    channel, gate = queue(run, policy=policy, cap=cap, credit=False)
    for i in range(5):
        channel.put(packet(i, gate))
        assert not channel.full
    assert seqs(channel) == left
    assert channel.drops == {cause: 5 - cap}
    assert run.recording.drops == [(7, i, cause) for i in range(5 - cap)]
    assert (gate.held, gate.credits, channel.balance) == (cap, 0, 0)
    assert gate.blamed == [cause] * (5 - cap)


def test_every_n_is_counted_from_the_start_of_an_epoch() -> None:
    channel, gate = queue(every=3, cap=9)
    for i in range(5):
        channel.put(packet(i, gate))
    for i in range(5, 8):
        channel.put(packet(i, gate, epoch=1))
    assert [item.seq for item in channel.items if type(item) is Packet] == [0, 3, 5]
    assert channel.drops == {"sampled": 5}
    assert gate.held == 3
    assert channel.balance == 0


def test_bounds_follow_in_order_and_merge() -> None:
    channel, gate = queue(every=2, cap=9)
    for i in range(3):
        channel.put(packet(i, gate))
    channel.put_bound(5)
    channel.put_bound(6)
    assert seqs(channel) == [0, "<=1", 2, "<=6"]
    channel.put_eos()
    channel.put_eos()
    assert channel.items[-1] is EOS
    silent, _ = queue(bounds=False)
    silent.put_bound(3)
    assert not silent.items
    silent.put_eos()
    assert list(silent.items) == [EOS]


def test_a_head_that_was_evicted_is_not_taken_for_another() -> None:
    channel, gate = queue(policy="drop-oldest", cap=1, credit=False)
    channel.put(packet(0, gate))
    seen = channel.head()
    channel.put(packet(1, gate))  # evicts what was seen
    assert channel.pop(seen) is None
    assert seqs(channel) == [1]
    assert channel.pop(channel.head()) is not None


def test_a_kept_value_that_is_overtaken_is_no_drop_of_a_frame() -> None:
    channel, gate = queue(role="hold", policy="keep", counted=False, credit=False, cap=2)
    for i in range(5):
        channel.put(packet(i, gate))
    assert seqs(channel) == [3, 4]
    assert channel.drops == {"replaced": 3}
    assert (gate.held, gate.blamed) == (0, [])
    waited, _ = queue(role="carry", policy="keep", counted=False, credit=False, cap=2, lag=1)
    for i in range(2):
        waited.put(packet(i, gate))
    assert waited.full  # what somebody waits for is not evicted: the producer waits


def test_superseded_values_go_one_epoch_at_a_time() -> None:
    channel, gate = queue(role="carry", policy="keep", counted=False, credit=False, cap=9, lag=1)
    for i, epoch in enumerate([0, 0, 0, 1, 1, 1]):
        channel.put(packet(i, gate, epoch=epoch))
    gone = channel.superseded(4)
    assert [p.seq for p in gone] == [0, 1, 3]
    assert seqs(channel) == [2, 4, 5]


def test_a_closed_queue_refuses_and_blocks_nobody() -> None:
    pools = Pools(poison=True)
    channel, gate = queue(cap=1)
    lease = pools.take((2,), "uint8")
    channel.put(packet(0, gate, leases=(lease,)))
    channel.close("unpaired")
    assert not channel.full
    channel.put(packet(1, gate, leases=(lease,)))
    lease.release()
    assert pools.loaned == 0
    assert channel.drops == {"unpaired": 2}
    assert (gate.held, channel.balance, len(channel.items)) == (0, 0, 0)


def test_leases_live_as_long_as_the_packet() -> None:
    pools = Pools()
    channel, gate = queue()
    lease = pools.take((2,), "uint8")
    channel.put(packet(0, gate, leases=(lease,)))
    lease.release()
    assert pools.loaned == 1
    item = channel.pop()
    assert isinstance(item, Packet)
    channel.done(item)
    assert pools.loaned == 0


def test_a_replayed_queue_loses_what_was_recorded() -> None:
    channel, gate = queue(Run(Recording(drops=[(7, 1, "stale"), (8, 2, "stale")])), policy="latest", cap=1, credit=False)
    for i in range(4):
        channel.put(packet(i, gate))
    assert [item.seq for item in channel.items if type(item) is Packet] == [0, 2, 3]
    assert channel.drops == {"stale": 1}


def test_it_shows_what_it_holds() -> None:
    assert repr(Bound(3)) == "Bound(3)"
    assert "seq=2" in repr(packet(2, Ledger()))
    assert toys.SHAPE == (1, 4, 3)
