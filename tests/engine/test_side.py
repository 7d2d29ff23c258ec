"""Side inputs, alone: what each waits for, what it gives, what it lets go."""

from __future__ import annotations

from typing import Any

from engine.live.record import Recording
from engine.packet import Packet
from engine.payload import Scalar
from engine.plan import Edge
from engine.run.channel import Channel
from engine.run.side import MISSING, Exact, Kept, make_side


class Node:
    """As much of a node as a side input looks at."""

    def __init__(self, batch: int = 1) -> None:
        self.previous: int | None = None
        self.epoch = 0
        self.parked = False
        self.plan = type("Plan", (), {"batch": batch})()
        self.site = type("Site", (), {"packet": None})()
        self.session = type("Session", (), {"replay": None, "segment": 0, "recording": Recording()})()

    def wake(self, by: Any) -> None: ...


def packet(seq: int, *, pts: int | None = None, epoch: int = 0) -> Packet:
    return Packet(seq, seq * 10**6 if pts is None else pts, epoch, 0, Scalar(float(seq)))


def side(role: str, node: Node, **settings: Any) -> Any:
    kept = role in ("hold", "latest", "carry")
    settings = {"policy": "keep" if kept else "block", "cap": 4, "bounds": True, "counted": not kept, "credit": not kept, **settings}
    edge = Edge(1, "p", "scalar", "n", "b", None, role, **settings)
    return make_side(edge, node, Channel(edge, node, node.session))  # type: ignore[arg-type]


def value(found: Any) -> Any:
    return found.seq if isinstance(found, Packet) else found


def test_exact_waits_for_its_frame_or_word_of_it() -> None:
    node = Node()
    exact = side("exact", node, lag=0)
    assert isinstance(exact, Exact)
    assert not exact.settled(packet(2))
    exact.channel.put(packet(1))
    assert not exact.settled(packet(2))
    assert exact.channel.drops == {"unpaired": 1}
    exact.channel.put(packet(2))
    assert exact.settled(packet(2))
    assert value(exact.read(packet(2))) == 2
    exact.channel.put_bound(3)
    assert exact.settled(packet(3))
    assert exact.read(packet(3)) is MISSING
    exact.channel.put(packet(5))
    assert exact.settled(packet(4))  # a newer one says as much as a bound
    assert exact.read(packet(4)) is MISSING


def test_exact_lets_go_of_what_comes_too_late() -> None:
    exact = side("exact", Node(), lag=0)
    exact.channel.put(packet(1))
    exact.channel.put(packet(2))
    exact.passed(1)
    assert [p.seq for p in exact.channel.items] == [2]


def test_reuse_gives_the_last_partner_also_within_a_batch() -> None:
    exact = side("exact", Node(batch=3), lag=0, missing="reuse")
    exact.channel.put(packet(1))
    assert exact.settled(packet(1))
    first = exact.read(packet(1))
    exact.channel.put_bound(2)
    assert exact.settled(packet(2))
    again = exact.read(packet(2))  # before the call for frame 1 was made
    assert (value(first), value(again)) == (1, 1)
    exact.used(first)
    exact.used(again)
    assert exact.channel.taken == 1
    exact.reset()
    assert exact.read(packet(3)) is MISSING


def test_a_live_hold_never_waits() -> None:
    hold = side("hold", Node(), hold=Scalar(9.0))
    assert isinstance(hold, Kept)
    assert hold.settled(packet(0))
    assert hold.read(packet(0)) == Scalar(9.0)
    for i in (1, 2, 7):
        hold.channel.put(packet(i))
    assert value(hold.read(packet(5))) == 2  # the newest that is not after the trigger
    hold.reset()
    assert hold.read(packet(6)) == Scalar(9.0)


def test_a_value_grows_too_old() -> None:
    latest = side("latest", Node(), max_age_ms=3.0)
    latest.channel.put(packet(1))
    assert value(latest.read(packet(4))) == 1
    assert latest.read(packet(5)) is MISSING


def test_values_of_other_epochs_do_not_count() -> None:
    node = Node()
    hold = side("hold", node, hold=Scalar(9.0))
    hold.channel.put(packet(1))
    hold.channel.put(packet(2, epoch=1))
    assert value(hold.read(packet(3))) == 1  # the newer epoch waits
    hold.reset()
    node.epoch = 1
    assert value(hold.read(packet(4, epoch=1))) == 2


def test_a_carry_waits_for_the_frame_before() -> None:
    node = Node()
    carry = side("carry", node, lag=1)
    assert carry.settled(packet(3))  # the first frame has none before it
    assert carry.read(packet(3)) is MISSING
    node.previous = 3
    assert not carry.settled(packet(8))
    carry.channel.put(packet(3))
    assert carry.settled(packet(8))
    assert value(carry.read(packet(8))) == 3
    node.previous = 8
    carry.channel.put_bound(8)  # frame 8 came to nothing
    assert carry.settled(packet(9))
    assert value(carry.read(packet(9))) == 3


def test_what_is_looked_at_may_be_overtaken() -> None:
    """Between looking at a value and taking it, a lossy queue may evict it: the reader must then not keep it."""
    node = Node()
    hold = side("hold", node, cap=1)
    hold.channel.put(packet(1))

    def overtaken(item: Packet) -> bool:
        if item.seq == 1:
            hold.channel.put(packet(2))
        return True

    hold._advance(overtaken, 0)
    assert value(hold.value) == 2
    assert (hold.channel.taken, hold.channel.balance) == (1, 0)


def test_a_waiting_node_makes_room_for_what_is_still_to_come() -> None:
    """Values of an older epoch, or that newer ones replace, must not fill the queue while the node waits for another input."""
    node = Node()
    node.previous = 3
    carry = side("carry", node, lag=1, cap=3)
    for i in (1, 2, 3):
        carry.channel.put(packet(i))
    assert carry.channel.full
    assert carry.settled(packet(4, epoch=1))
    assert not carry.channel.full
    carry.reset()
    node.epoch, node.previous = 1, None
    for i in (4, 5, 6):
        carry.channel.put(packet(i, epoch=1))
    assert carry.settled(packet(6, epoch=1))
    assert [p.seq for p in carry.channel.items] == [6]
