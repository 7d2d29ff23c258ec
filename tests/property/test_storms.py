"""Storms of changes over random graphs: sets, ramps, resets, pauses and reloads while frames fly.

A storm is drawn with its graph; its moves come from the session's own tick, some at once, some frames apart. Afterwards:

* `toys.settled` holds: every frame and packet has a fate, credits and buffers are back, no queue was above its bound;
* every receipt has come to its end, in the order in which changes landed, and says where;
* the run replays: the recording, with its reloads, gives the same numbers at the sinks that stayed to the end.

A reload goes to another random graph over the same sources, or to the same one with nodes left out, other policies, other lanes.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import toys
from test_random_graphs import costs, graph, shown

from engine.errors import GraphError
from engine.graph import Graph
from engine.live.receipt import Receipt
from engine.planning.compile import compile
from engine.session import Session


class Refused(Exception):
    """The first graph does not compile: there is nothing to do."""


class Storm:
    """The moves of one run, and what became of them."""

    def __init__(self, dice: Random, first: Graph, moves: int) -> None:
        self.dice, self.graph, self.left = dice, first, moves
        self.receipts: list[Receipt] = []
        self.landed: list[tuple[int, str]] = []
        self.wait = 0

    def __call__(self, session: Session) -> None:
        """A tick."""
        if session.paused and self.dice.randint(0, 2) == 0:
            self.note(session.resume())
        self.wait -= 1
        while self.left and self.wait <= 0:
            self.left -= 1
            self.wait = self.dice.choice([0, 1, 1, 3])
            move: Callable[[Session], Receipt | None] = self.dice.choice(
                [self.set, self.set, self.set, self.ramp, self.ramp, self.reset, self.pause, self.reload, self.reload]
            )
            self.note(move(session))
        if not self.left and session.paused:
            self.note(session.resume())

    def note(self, receipt: Receipt | None) -> None:
        if receipt is not None:
            self.receipts.append(receipt)
            receipt.on(lambda receipt, state: self.landed.append((receipt.number, state)))

    def numbers(self, session: Session) -> list[str]:
        free = {name: run for name, run in session.nodes.items() if run.spec.param("gain") is not None}
        return [f"{name}.gain" for name, run in free.items() if not run.inputs.edges("gain")]

    def set(self, session: Session) -> Receipt | None:
        paths = self.numbers(session)
        return session.set({path: float(self.dice.randint(0, 900)) for path in self.dice.sample(paths, min(2, len(paths)))})

    def ramp(self, session: Session) -> Receipt | None:
        paths = self.numbers(session)
        if not paths:
            return None
        targets = {path: float(self.dice.randint(0, 900)) for path in self.dice.sample(paths, min(2, len(paths)))}
        curve = self.dice.choice(["linear", "ease"])
        if self.dice.randint(0, 1):
            return session.ramp(targets, frames=self.dice.randint(1, 9), curve=curve)
        return session.ramp(targets, seconds=self.dice.choice([0.0, 0.002, 0.01]), curve=curve)

    def reset(self, session: Session) -> Receipt | None:
        return session.reset()

    def pause(self, session: Session) -> Receipt | None:
        return session.pause()

    def reload(self, session: Session) -> Receipt | None:
        try:
            return session.reload(compile(other(self.dice, self.graph)))
        except GraphError:
            return None  # it is refused before anything runs


def other(dice: Random, first: Graph) -> Graph:
    """A graph that a running `first` may become: the same clock and seed, often with most of its nodes."""
    kind = dice.choice(["same", "values", "lanes", "fewer", "sources", "new"])
    if kind == "new":
        found = graph(dice, first.clock)
        return replace(found, seed=first.seed)
    nodes = []
    for node in first.nodes:
        params = dict(node.params)
        if "salt" in params and kind == "values":
            params["salt" if dice.randint(0, 1) else "gain"] = dice.randint(0, 9) if dice.randint(0, 1) else float(dice.randint(0, 9))
            params["salt"] = int(params["salt"])
            params["gain"] = float(params.get("gain", 1.0))
        if kind == "sources" and node.op == "toy.film" and dice.randint(0, 1):
            params["count"] = dice.choice([1, 7, 20, 300])
        lane = dice.choice([node.lane, "a", "c"]) if kind == "lanes" and node.op != "toy.film" else node.lane
        inputs = node.inputs
        if kind == "fewer":
            inputs = tuple(i for n, i in enumerate(inputs) if n == 0 or dice.randint(0, 2))
        nodes.append(replace(node, params=params, lane=lane, inputs=inputs))
    flight = dice.choice([first.in_flight, first.in_flight, 2, 6])
    return replace(first, nodes=tuple(nodes), in_flight=flight)


def run(dice: Random, clock: str, executor: str) -> None:
    first = graph(dice, clock, paced=executor == "inline")
    counts = (5, 60) if executor == "inline" else (100, 400)  # on threads a storm takes its time
    first = replace(first, nodes=tuple(longer(dice.randint(*counts), node) for node in first.nodes))
    try:
        plan = compile(first)
    except GraphError:
        raise Refused from None
    storm = Storm(dice, first, dice.randint(1, 14))
    options: dict[str, Any] = {"costs": costs(dice, plan)} if executor == "inline" else {}
    session = Session(plan, executor=executor, poison=True, **options)
    before = set(threading.enumerate())
    if dice.randint(0, 1):
        storm(session)  # also before it runs
    session.run(storm, tick_s=0.001)
    check(session, storm)
    assert set(threading.enumerate()) <= before
    again = Session(plan, executor="inline", poison=True, replay=session.recording)
    again.run()
    toys.settled(again)
    lived, seen = shown(session), shown(again)
    assert again.plan == session.plan
    assert seen == lived


def longer(count: int, node: Any) -> Any:
    return replace(node, params={**node.params, "count": count}) if node.op == "toy.film" else node


def check(session: Session, storm: Storm) -> None:
    toys.settled(session)
    assert not [e for e in session.events if e["what"] == "callback failed"]
    for receipt in storm.receipts:
        assert receipt.finished, (receipt.what, receipt.state)
        if receipt.state == "failed":
            assert receipt.reason
        else:
            assert receipt.applied_at is not None
    landed = [number for number, state in storm.landed if state == "applied"]
    kinds = {receipt.number: receipt.what for receipt in storm.receipts}
    for what in ("set", "ramp", "reset", "reload"):
        mine = [number for number in landed if kinds[number] == what]
        assert mine == sorted(mine), f"receipts of {what} out of order"
    assert len(set(storm.landed)) == len(storm.landed), "a transition was told twice"


BOTH = [("offline", "inline"), ("live", "inline"), ("offline", "threaded"), ("live", "threaded")]
CHECKS = pytest.mark.parametrize(("clock", "executor"), BOTH)


@CHECKS
def test_storms(clock: str, executor: str) -> None:
    storms(clock, executor, 30 if executor == "inline" else 10)


def test_a_batch_that_is_all_there_was_to_wait_for_ends_the_wait() -> None:
    """A reload told it to call what it had gathered; with that everything was through, and nothing else came to look again."""
    run(Random(380), "offline", "inline")


def test_a_source_made_anew_that_counts_on_lets_those_that_join_it_go_on() -> None:
    """Its predecessor had brought a frame that was not let in, so it begins one later than the source beside it, and nobody waits for that."""
    run(Random(2840), "offline", "inline")


def test_a_frame_that_was_lost_behind_a_cut_leaves_room_beside_it() -> None:
    """The first frame of an epoch failed, and was tolerated: what its partners had of the epoch before it filled their queue."""
    run(Random(3026), "offline", "threaded")


def test_a_carry_that_a_reload_adds_behind_a_conversion_is_not_waited_for() -> None:
    """The first frame after it looks back to none: what converts the carried value has nothing of the frames before."""
    run(Random(2037), "offline", "threaded")


def test_frames_that_a_full_queue_dropped_are_told_to_those_that_join_the_next() -> None:
    """The next one waited for its partner, which had no room where it was joined with what would never come."""
    run(Random(28444), "live", "threaded")


def test_a_replay_does_not_give_a_node_what_was_set_on_one_of_its_name_before() -> None:
    run(Random(71561), "offline", "inline")


def test_a_stream_that_ends_with_a_new_epoch_ends_though_its_carry_is_full() -> None:
    """With the value of the epoch before and its own: nobody but the next frame made room, and there was none."""
    run(Random(171367), "offline", "inline")


def test_a_node_that_has_ended_takes_no_input_more() -> None:
    """A reload gave it one whose frames nobody took."""
    run(Random(268367), "live", "inline")


def test_a_frame_that_stops_at_a_batch_is_told_of_after_those_before_it() -> None:
    """The run had room for the batch's result to come first, its replay had not, and went on without."""
    run(Random(273497), "offline", "inline")


def test_a_node_that_outlived_a_reload_ends_after_it_in_a_replay_too() -> None:
    """Its lane was busy from one reload to the next: it never saw the end of the source between them."""
    run(Random(169539), "live", "inline")


def test_a_carry_of_one_of_several_sources_forgets_the_epochs_before() -> None:
    """No frame fired in three epochs, and a value of each was kept: there was no room for the next."""
    run(Random(332328), "live", "inline")


def test_a_carry_through_a_node_made_anew_waits_for_nothing_that_was_on_the_way() -> None:
    run(Random(421130), "offline", "inline")


def test_what_waits_for_nobody_is_read_before_what_makes_room() -> None:
    """A node took its partner, which let the next one in, and what that brought was read by the same frame: no replay has it so early."""
    run(Random(10020138), "live", "inline")


def test_what_was_set_while_a_node_was_made_anew_outlives_the_next_reloads_too() -> None:
    """No frame came between them, and the one in the middle had no such value to set."""
    run(Random(31006408), "offline", "inline")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@CHECKS
def test_many_storms(clock: str, executor: str) -> None:
    storms(clock, executor, 2000)


def storms(clock: str, executor: str, count: int) -> None:
    """So many storms. Their dice are thrown as ticks come, which on threads no two runs have alike, so the seed is all that repeats."""
    ran = 0
    for seed in itertools.count():
        try:
            run(Random(seed), clock, executor)
            ran += 1
        except Refused:
            pass
        except BaseException as error:
            error.add_note(f"storm {seed} of {clock} {executor}")
            raise
        if ran == count:
            return
