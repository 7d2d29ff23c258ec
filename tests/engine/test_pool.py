"""Frame buffers: on loan while somebody reads, back when nobody does, never allocated twice for nothing."""

from __future__ import annotations

from typing import Any

import pytest
import toys
from toys import BOTH

from engine.errors import OperatorError, RunError
from engine.graph import GraphBuilder
from engine.planning.compile import compile
from engine.pool import POISON, Pools
from engine.session import Session


def test_a_buffer_comes_back_when_its_last_user_lets_go() -> None:
    pools = Pools(poison=True)
    lease = pools.take((2, 3), "uint8")
    lease.array[:] = 1
    lease.retain()
    lease.release()
    assert (pools.loaned, int(lease.array.max())) == (1, 1)
    lease.release()
    assert pools.loaned == 0
    assert (lease.array == POISON).all()
    assert pools.take((2, 3), "uint8") is not lease  # a poisoned one rests
    plain = Pools()
    first = plain.take((2, 3), "uint8")
    first.release()
    assert plain.take((2, 3), "uint8") is first
    assert plain.take((2, 3), "uint8") is not first
    assert plain.take((2, 3), "float32").array.dtype == "float32"
    assert plain.allocated == 3


def test_misuse_is_loud() -> None:
    lease = Pools().take((1,), "uint8")
    lease.release()
    with pytest.raises(RunError, match="twice"):
        lease.release()
    fresh = Pools().take((1,), "uint8")
    fresh.release()
    with pytest.raises(RunError, match="after it had been returned"):
        fresh.retain()


def chain(count: int, **settings: Any) -> GraphBuilder:
    """A film through copies, views, an in-place write, a join, a carry and a conversion, over three lanes."""
    g = GraphBuilder("film", **{"clock": "offline", **settings})
    g.node("film", "toy.film", count=count)
    g.node("copy", "toy.copy", image="film", lane="one")
    g.node("same", "toy.same", image="copy", lane="one")
    g.node("stamp", "toy.stamp", image="same", lane="two")
    g.node("bgr", "toy.bgr", image="stamp", lane="two")
    g.node("mix", "toy.stir", a="bgr", b="mix.image@-1", c={"from": "film", "policy": "latest"})
    g.node("wall", "toy.gallery", image="mix.image")
    return g


@BOTH
def test_steady_state_allocates_nothing(executor: str) -> None:
    """Ten times the frames, the same buffers: what is allocated depends on what is under way, not on how long it runs."""
    marks: list[tuple[int, int]] = []
    session = Session(compile(chain(400).build()), executor=executor, poison=True)
    session.run(lambda s: marks.append((s.frames_out, s.pools.allocated)), tick_s=0.001)
    toys.settled(session)
    bound = sum(c.edge.cap for c in session.channels) + 4 * len(session.nodes)
    assert session.pools.allocated <= bound
    if executor == "inline":
        warm = next(allocated for out, allocated in marks if out >= 20)
        assert session.pools.allocated == warm
    assert session.summary().allocations == session.pools.allocated


def test_in_place_writes_to_its_own_buffer_only() -> None:
    """Alone it writes where it reads; where a view of the buffer goes elsewhere too, it gets a copy, from the pool."""
    g = GraphBuilder("film", clock="offline")
    g.node("film", "toy.film", count=5)
    g.node("copy", "toy.copy", image="film")
    g.node("same", "toy.same", image="copy")
    g.node("stamp", "toy.stamp", image="same")
    g.node("wall", "toy.gallery", image="stamp")
    g.node("plain", "toy.gallery", image="copy")
    session = Session(compile(g.build()), executor="inline", poison=True)
    session.run()
    toys.settled(session)
    numbers = [toys.mix("film", i) for i in range(5)]
    assert toys.values(session, "plain") == numbers
    assert toys.values(session, "wall") == [n + 1 for n in numbers]


@BOTH
def test_poison_exposes_an_operator_that_keeps_a_buffer(executor: str) -> None:
    g = GraphBuilder("film", clock="offline", in_flight=1)
    g.node("film", "toy.film", count=5)
    g.node("keeps", "toy.keeps", image="film")
    g.node("wall", "toy.gallery", image="keeps")
    session = Session(compile(g.build()), executor=executor, poison=True)
    with pytest.raises(OperatorError, match="a picture that nobody made"):
        session.run()
    toys.settled(session)


def test_without_poison_nothing_is_filled() -> None:
    lease = Pools().take((3,), "uint8")
    lease.array[:] = 9
    lease.release()
    assert (lease.array == 9).all()
