"""The inline executor: one thread, a step clock, virtual time. The oracle of the real one.

Lanes are simulated as a discrete-event system: a call begins when its lane is free, lasts as long as its operator moves the clock plus its
entry in `costs`, and its results appear when it ends. Without costs a frame runs to its end before the next one enters. Nothing here
depends on the machine, so what a live graph does under load can be stated in a test, to the frame.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine.clock import StepClock
from engine.errors import Cancelled, OperatorError, UsageError
from engine.lane import Lane
from engine.node import NodeRun
from engine.threads import diagnose, next_offer

if TYPE_CHECKING:
    from engine.session import Session


class Inline:
    """Runs a session in the caller's thread."""

    def __init__(self, session: Session) -> None:
        if not isinstance(session.clock, StepClock):
            raise UsageError("the inline executor runs on a StepClock")
        self.session, self.clock = session, session.clock
        self._ends: list[tuple[int, int, Callable[[], None]]] = []  # (time, order, what then happens)
        self._busy: set[str] = set()  # lanes and sources with a call under way
        self._count = 0
        self._frames: dict[str, Any] = {}
        self._seqs: dict[str, int] = {}

    def run(self, tick: Callable[[Session], None] | None, tick_s: float) -> None:
        session = self.session
        opened: list[NodeRun] = []
        try:
            self._open(opened)
            if not session.errors:
                self._loop(tick, tick_s)
        finally:
            if session.aborting.is_set() or sys.exc_info()[0] is not None:
                while self._ends:  # the calls under way have happened; they only have not ended in virtual time
                    heapq.heappop(self._ends)[2]()
            for frames in self._frames.values():
                frames.close()
            for node in reversed(opened):
                try:
                    node.close()
                except Exception as error:
                    session.errors.append(OperatorError(node.name, -1, node.epoch, error))

    def _open(self, opened: list[NodeRun]) -> None:
        for lane in self.session.lanes.values():
            for node in lane.nodes:
                opened.append(node)
                try:
                    node.open()
                except Exception as error:
                    self.session.fail(OperatorError(node.name, -1, 0, error))
                    return
                if node.gate is not None:
                    self._frames[node.name] = node.frames()
                    self._seqs[node.name] = 0

    def _loop(self, tick: Callable[[Session], None] | None, tick_s: float) -> None:
        session = self.session
        while not session.aborting.is_set():
            if session.nudge.is_set():
                session.nudge.clear()
                for gate in session.gates.values():
                    gate.pump()
            elif self._ends and self._ends[0][0] <= self.clock.now():
                heapq.heappop(self._ends)[2]()
                session.governing.tick()
                if tick is not None:
                    tick(session)
            elif self._start_node() or self._start_source():
                continue
            elif self._ends:
                self.clock.jump(self._ends[0][0])
            elif session.paused and not session.draining.is_set():
                self.clock.advance(round(tick_s * 1e9))  # nothing happens until somebody resumes: from the tick, or from another thread
                if tick is not None:
                    tick(session)
                session.nudge.wait(0.001)
            else:
                break
        if not session.aborting.is_set() and any(not lane.finished for lane in session.lanes.values()):
            session.errors.append(diagnose(session))

    def _start_node(self) -> bool:
        """Begin the oldest call that a free lane could make."""
        free = [lane for lane in self.session.lanes.values() if lane.name not in self._busy and lane.peek() is not None]
        if not free:
            return False
        lane = min(free, key=lambda lane: lane.peek() or (0, 0))
        node = lane.next()
        assert node is not None
        start = self.clock.now()
        try:
            work = node.begin()
        except Cancelled:
            work = None
        if work is None:
            lane.done(node)
            return True
        stop = work.stopped = self.clock.now() + self.session.costs.get(node.name, 0)
        self.clock.jump(start)

        def end() -> None:
            self._busy.discard(lane.name)
            node.finish(work)
            lane.done(node)

        self._schedule(stop, lane.name, end)
        return True

    def _start_source(self) -> bool:
        """Pull the next frame of the source that is furthest behind, if its gate can take one."""
        idle = []
        for name, gate in self.session.gates.items():
            if name in self._busy or name not in self._frames or (gate.slot is not None and not gate.lossy):
                continue
            idle.append(name)
        if not idle:
            return False
        name = min(idle, key=lambda n: self._seqs[n])
        node, gate = self.session.nodes[name], self.session.gates[name]
        start = self.clock.now()
        try:
            offer = None if self.session.draining.is_set() else next_offer(node, self._frames[name], self._seqs[name])
        except Cancelled:
            offer = None
        except Exception as error:
            self.session.fail(OperatorError(name, self._seqs[name], self.session.epoch, error))
            offer = None
        self._seqs[name] = (self._seqs[name] if offer is None else offer.seq) + 1
        stop = self.clock.now() + self.session.costs.get(name, 0)
        self.clock.jump(start)

        def end() -> None:
            self._busy.discard(name)
            if offer is None:
                self._frames.pop(name).close()
                node.lane.node_finished()
                gate.finish()
            else:
                gate.offer(offer)

        self._schedule(stop, name, end)
        return True

    def _schedule(self, when: int, who: str, what: Callable[[], None]) -> None:
        self._busy.add(who)
        self._count += 1
        heapq.heappush(self._ends, (when, self._count, what))


__all__ = ["Inline", "Lane"]
