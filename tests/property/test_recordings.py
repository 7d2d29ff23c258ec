"""Random graphs recorded to a file: read back and run again, the sinks get the same; from the first frame, from a snapshot, and from a file
that was cut off anywhere.

The graphs are those of test_random_graphs; while they run, parameters change and epochs begin at random.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random
from typing import Any

import pytest
import toys
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from test_random_graphs import costs, graph, plan_of

from engine.errors import ReplayError
from engine.plan import Plan
from engine.session import Session
from recorder import recorder as recording
from recorder.recorder import Recorder
from recorder.replay import Wish, replay
from recorder.tape import Tape, read

PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
QUICK = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=PHASES)
THOROUGH = settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck), phases=PHASES)


@pytest.fixture(autouse=True)
def _cut_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "FLUSH_S", 0.002)  # so that what is cut off ends anywhere


def recorded(dice: Random, plan: Plan, path: Path, *, every: int, **options: Any) -> Tape:
    """A run of `plan` with random changes and resets, recorded and read."""
    session = Session(plan, poison=True, **options)
    recorder = Recorder(path, snapshot_every=every, frames="store")
    recorder.attach(session)
    luck = Random(dice.getrandbits(32))  # of its own: how often it is asked depends on the threads
    stirs = [node.name for node in plan.nodes if node.op.startswith("toy.stir")]

    def meddle(session: Session) -> None:
        if stirs and luck.randint(0, 2) == 0:
            session.set({f"{luck.choice(stirs)}.gain": float(luck.randint(0, 9))})
        if luck.randint(0, 9) == 0:
            session.reset()

    try:
        session.run(meddle, tick_s=0.002)
    finally:
        recorder.close()
    toys.settled(session)
    return read(path)


def check_replay(dice: Random, clock: str, executor: str) -> None:
    plan = plan_of(graph(dice, clock, paced=executor == "inline"))
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"executor": executor} | ({"costs": costs(dice, plan)} if executor == "inline" else {})
        tape = recorded(dice, plan, Path(folder) / "run.mcap", every=5, **options)
        luck = Random(dice.getrandbits(32))
        if not tape.frames:
            return
        whole = replay(tape)
        assert whole.verdict == "identical", whole.to_dict()
        assert {name: seen.identical for name, seen in whole.sinks.items()} == {name: len(frames) for name, frames in tape.sunk.items()}
        if not any(node.batch > 1 for node in plan.nodes):
            part = replay(tape, Wish(begin=luck.randint(0, tape.last)))
            assert part.verdict == "identical", part.to_dict()


def check_cut(dice: Random) -> None:
    plan, share = plan_of(graph(dice, "live", paced=False)), dice.uniform(0.3, 0.999)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.mcap"
        recorded(dice, plan, path, every=0, executor="threaded")
        data = path.read_bytes()
        path.write_bytes(data[: round(len(data) * share)])
        try:
            tape = read(path)
        except ReplayError:  # before the first flush, which says what was run
            return
        if not tape.frames:
            return
        again = replay(tape)
        assert again.verdict == "identical", again.to_dict()


CHECKS = {
    "live threads": lambda dice: check_replay(dice, "live", "threaded"),
    "live inline": lambda dice: check_replay(dice, "live", "inline"),
    "offline threads": lambda dice: check_replay(dice, "offline", "threaded"),
    "cut off": check_cut,
}


@pytest.mark.parametrize("check", CHECKS)
def test_what_was_recorded_runs_again(check: str) -> None:
    QUICK(given(st.randoms(use_true_random=False))(CHECKS[check]))()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("check", CHECKS)
def test_many_recordings_run_again(check: str) -> None:
    THOROUGH(given(st.randoms(use_true_random=False))(CHECKS[check]))()
