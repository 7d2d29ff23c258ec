"""Random numbers: of the frame, not of the run."""

from __future__ import annotations

import pytest
import toys

from engine import rng
from engine.graph import GraphBuilder
from engine.planning.compile import compile
from engine.session import Session


def drawn(*, modulus: int = 1, rest: int = 0, executor: str = "inline", seed: int = 3, cut_at: list[int] | None = None) -> dict[int, float]:
    g = GraphBuilder("noise", clock="offline", seed=seed)
    g.node("src", "toy.count", count=12, cut_at=cut_at)
    g.node("some", "toy.odd", a="src", modulus=modulus, rest=rest)
    g.node("x", "toy.noise", a="some")
    g.node("sink", "toy.collect", a="x")
    session = Session(compile(g.build()), executor=executor)
    session.run()
    return {t.seq: t.value for t in toys.taken(session)}


@pytest.mark.parametrize("executor", ["inline", "threaded"])
def test_a_dropped_frame_shifts_nothing(executor: str) -> None:
    every = drawn()
    odd = drawn(modulus=2, rest=1, executor=executor)
    assert odd == {seq: value for seq, value in every.items() if seq % 2}
    assert len(set(every.values())) == 12


def test_seed_node_epoch_and_seq_are_the_key() -> None:
    assert drawn(seed=4) != drawn()
    cut = drawn(cut_at=[6])
    plain = drawn()
    assert {s: v for s, v in cut.items() if s < 6} == {s: v for s, v in plain.items() if s < 6}
    assert all(cut[s] != plain[s] for s in range(6, 12))
    keys = {rng.key(seed, node, epoch, seq) for seed in (0, 1) for node in ("a", "b") for epoch in (0, 1) for seq in (-1, 0, 1)}
    assert len(keys) == 24
    assert all(0 <= key < 2**63 for key in keys)
