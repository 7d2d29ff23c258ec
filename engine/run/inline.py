"""The inline executor: one thread, a step clock, virtual time. The oracle of the real one.

Lanes are simulated as a discrete-event system: a call begins when its lane is free, lasts as long as its operator moves the clock plus its
entry in `costs`, and its results appear when it ends. Without costs a frame runs to its end before the next one enters. Nothing here
depends on the machine, so what a live graph does under load can be stated in a test, to the frame.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from engine.clock import StepClock
from engine.errors import Cancelled, OperatorError, UsageError
from engine.live.receipt import Receipt
from engine.run import life
from engine.run.gate import Gate
from engine.run.lane import Lane, close_all
from engine.run.reloading import carry_out
from engine.run.stall import diagnose
from engine.run.swap import Swap
from engine.run.threads import next_offer

if TYPE_CHECKING:
    from engine.session import Session


class Inline:
    """Runs a session in the caller's thread."""

    def __init__(self, session: Session) -> None:
        if not isinstance(session.clock, StepClock):
            raise UsageError("the inline executor runs on a StepClock")
        self.session, self.clock = session, session.clock
        self._ends: list[tuple[int, int, Callable[[], None]]] = []  # (time, order, what then happens)
        self._busy: set[Lane | Gate] = set()  # lanes and sources with a call under way
        self._later: dict[Lane, list[Callable[[], None]]] = {}  # what a lane has to do when its call has ended
        self._lanes: list[Lane] = []  # those that were opened
        self._count = 0
        self._frames: dict[Gate, Any] = {}
        self._seqs: dict[Gate, int] = {}
        self._course: Iterator[bool] | None = None  # of the reload under way
        self._due = list(session.replay.recording.plans) if session.replay is not None else []

    def run(self, tick: Callable[[Session], None] | None, tick_s: float) -> None:
        session = self.session
        try:
            try:
                self.open(list(session.lanes.values()))
            except OperatorError as error:
                session.fail(error)
            if not session.errors:
                session.opened = True
                self._hold_back()
                self._loop(tick, tick_s)
        finally:
            if session.aborting.is_set() or sys.exc_info()[0] is not None:
                while self._ends:  # the calls under way have happened; they only have not ended in virtual time
                    heapq.heappop(self._ends)[2]()
            for frames in self._frames.values():
                frames.close()
            close_all(node for lane in self._lanes for node in lane.opened)

    def open(self, lanes: Sequence[Lane]) -> None:
        """Open the operators of `lanes`. Raises OperatorError for the first that does not open."""
        self._lanes += lanes
        for lane in lanes:
            for node in lane.nodes:
                lane.opened.append(node)
                try:
                    node.open()
                except Exception as error:
                    raise OperatorError(node.name, -1, 0, error) from error
                if node.gate is not None:
                    self._frames[node.gate], self._seqs[node.gate] = node.frames(), node.gate.turn[0]

    def _loop(self, tick: Callable[[Session], None] | None, tick_s: float) -> None:
        session = self.session
        while not session.aborting.is_set():
            if session.nudge.is_set():
                session.nudge.clear()
                for gate in session.gates.values():
                    gate.pump()
            if self._reload():
                continue
            if self._ends and self._ends[0][0] <= self.clock.now():
                heapq.heappop(self._ends)[2]()
                session.beat()
                if tick is not None:
                    tick(session)
            elif self._start_node() or self._start_source():
                continue
            elif self._ends:
                self.clock.jump(self._ends[0][0])
            elif self._flush():
                continue
            elif self._due:
                self._repeat()
            elif session.paused and not session.draining.is_set():
                session.beat()
                self.clock.advance(round(tick_s * 1e9))  # nothing happens until somebody resumes: from the tick, or from another thread
                if tick is not None:
                    tick(session)
                session.nudge.wait(0.001)
            else:
                break
        if not session.aborting.is_set() and any(not lane.finished for lane in session.lanes.values()):
            session.errors.append(diagnose(session))

    # ---- reloads; what their course needs is named and told in engine.run.reloading

    def look(self) -> None:
        """A reload was asked for: the loop sees it by itself."""

    def _reload(self) -> bool:
        """Begin with a reload that was asked for, or go on with it; False where there is nothing to do now."""
        if self._course is None:
            asked = self.session.next_reload()
            if asked is None:
                return False
            self._course = carry_out(Swap(self.session, *asked), self)
        moved = next(self._course, None)
        if moved is None:
            self._course = None
        return moved is not False

    def drain(self, swap: Swap) -> Iterator[bool]:
        while not swap.drained():
            busy = any(lane in self._busy or lane.peek() is not None for lane in self.session.lanes.values())
            if not busy and not self._flush():
                return  # what is left cannot go on by itself
            yield not busy  # a batch that was told to call goes on at once, and then nothing else may be left to wait for

    def take_over(self, swap: Swap) -> None:
        for handover in swap.handovers:
            self._stop_frames(handover.node.gate)
            handover.give()
        self.open(swap.late)

    def give_back(self, swap: Swap) -> None:
        for handover in swap.handovers:
            handover.take_back()
            if handover.node.gate is not None and not handover.node.dead:
                self._frames[handover.node.gate] = handover.node.frames()

    def discard(self, swap: Swap) -> None:
        close_all(node for lane in swap.lanes for node in lane.opened)
        self._lanes = [lane for lane in self._lanes if lane not in swap.lanes]
        for node in swap.fresh.values():
            self._stop_frames(node.gate)

    def _stop_frames(self, gate: Gate | None) -> None:
        if gate in self._frames:
            self._frames.pop(gate).close()

    def _flush(self) -> bool:
        """Let every batch call what it has gathered so far; whether there was any."""
        return sum(node.hurry() for lane in self.session.lanes.values() for node in lane.nodes) > 0

    def put_in_force(self, swap: Swap) -> None:
        before = list(self.session.gates.values())
        swap.commit(self._on_lane)
        for gate in before:
            if gate.retired:
                self._stop_frames(gate)
                gate.finish()
                gate.source.lane.drop(gate.source)
        for node in swap.fresh.values():
            life.enter(node)
            if node.gate is not None:
                self._seqs[node.gate] = node.gate.turn[0]

    def _on_lane(self, lane: Lane, job: Callable[[], None]) -> None:
        if lane in self._busy:
            self._later.setdefault(lane, []).append(job)
        else:
            job()

    def _hold_back(self) -> None:
        """In a replay: no gate admits a frame that came after the next reload, and no node ends that had not by then."""
        due = self._due[0] if self._due else None
        if due is not None:
            self.session.closing = dict(due.ends)
        for node in self.session.nodes.values():
            node.tethered = due is not None and node.name not in due.ended
            node.lane.look(node)

    def _repeat(self) -> None:
        """In a replay: everything before a reload has happened."""
        swap = Swap(self.session, self._due.pop(0).plan, Receipt("reload"))
        if not swap.diff.structural:
            swap.adopt()
            self.session.closing = None
            self._hold_back()
            self.session.nudge.set()
            return
        swap.prepare()
        try:
            self.open(swap.early)
            self.take_over(swap)
        except OperatorError as error:
            self.session.fail(error)
            self.session.stop(drain=False)
            return
        self.put_in_force(swap)
        swap.open()
        self._hold_back()

    # ---- calls

    def _start_node(self) -> bool:
        """Begin the oldest call that a free lane could make."""
        free = [lane for lane in self.session.lanes.values() if lane not in self._busy and lane.peek() is not None]
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
            self._busy.discard(lane)
            node.finish(work)
            lane.done(node)
            for job in self._later.pop(lane, ()):
                job()

        self._schedule(stop, lane, end)
        return True

    def _start_source(self) -> bool:
        """Pull the next frame of the source that is furthest behind, if its gate can take one."""
        idle = []
        for gate in self.session.gates.values():
            if gate in self._busy or gate not in self._frames or (gate.slot is not None and not gate.lossy):
                continue
            idle.append(gate)
        if not idle:
            return False
        gate = min(idle, key=lambda gate: self._seqs[gate])
        node = gate.source
        start = self.clock.now()
        try:
            offer = None if node.site.stop.is_set() else next_offer(node, self._frames[gate], self._seqs[gate])
        except Cancelled:
            offer = None
        except Exception as error:
            self.session.fail(OperatorError(node.name, self._seqs[gate], self.session.epoch, error))
            offer = None
        self._seqs[gate] = (self._seqs[gate] if offer is None else offer.seq) + 1
        stop = self.clock.now() + self.session.costs.get(node.name, 0)
        self.clock.jump(start)

        def end() -> None:
            self._busy.discard(gate)
            if offer is not None:
                gate.offer(offer)
            elif gate in self._frames:
                self._stop_frames(gate)
                node.lane.node_finished()
                gate.finish()

        self._schedule(stop, gate, end)
        return True

    def _schedule(self, when: int, who: Lane | Gate, what: Callable[[], None]) -> None:
        self._busy.add(who)
        self._count += 1
        heapq.heappush(self._ends, (when, self._count, what))

