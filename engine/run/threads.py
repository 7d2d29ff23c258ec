"""The real executor: a thread per lane and per source, and the caller's thread as watchdog.

Opening is a barrier: no frame is admitted before every operator is open, and when one fails to open, those that did are closed.
An operator's exception ends its node, not the others: what was under way is finished, so that sinks close complete files.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine.errors import Cancelled, EngineError, OperatorError, RunError, StallError
from engine.run import life
from engine.run.emit import leases_of
from engine.run.gate import Offer
from engine.run.handover import Handover
from engine.run.lane import Lane, Opening, close_all
from engine.run.node import NodeRun
from engine.run.reloading import Reloading
from engine.run.stall import diagnose

if TYPE_CHECKING:
    from engine.session import Session

GATHER_S = 0.1  # what a batch has gathered waits so long for more when nothing moves
STALL_S = 5.0
JOIN_S = 10.0


class Threads:
    """Runs a session on real threads."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._threads: list[threading.Thread] = []
        self._inboxes: dict[Lane, queue.SimpleQueue[NodeRun | Callable[[], None]]] = {}
        self._opening = Opening(session.lanes.values())
        self._reloading = Reloading(session, self)
        self.lent: dict[NodeRun, Handover] = {}  # sources that are to give up what they hold
        self._lock = threading.RLock()
        self._progress: tuple[int, float] = (-1, 0.0)

    def run(self, tick: Callable[[Session], None] | None, tick_s: float) -> None:
        session, opening = self.session, self._opening
        # Eager torch operators take the GIL hundreds of times a frame: a short switch interval keeps Python threads from starving them.
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-3)
        try:
            self.start(opening)
            for _ in opening.lanes:
                while not opening.opened.acquire(timeout=tick_s):
                    self._watch_tick(tick, opening=True)
            for error in opening.errors:
                session.fail(error)
                session.stop(drain=False)
            session.started, session.opened = session.clock.now(), True
            opening.go.set()
            self.look()
            self._watch(tick, tick_s)
        except BaseException:
            session.stop(drain=False)
            opening.go.set()
            raise
        finally:
            deadline = time.monotonic() + JOIN_S
            for thread in self._threads:
                thread.join(max(0.0, deadline - time.monotonic()))
            sys.setswitchinterval(interval)

    def start(self, opening: Opening) -> None:
        """Let lanes open, each on a thread of its own."""
        for lane in opening.lanes:
            if lane.nodes[0].spec.source:
                target: Callable[..., None] = self._source_thread
            else:
                target = self._lane_thread
                inbox = self._inboxes[lane] = queue.SimpleQueue()
                lane.post = inbox.put
            lane.thread = threading.Thread(target=target, args=(lane, opening), name=f"lane {lane.name}", daemon=True)
            self.begin(lane.thread)

    def begin(self, thread: threading.Thread) -> None:
        """Start a thread that the run waits for at its end."""
        thread.start()
        with self._lock:
            self._threads = [old for old in self._threads if old.is_alive()] + [thread]

    # ---- lanes

    def _lane_thread(self, lane: Lane, opening: Opening) -> None:
        inbox, aborting = self._inboxes[lane], self.session.aborting
        try:
            if not self._open(lane, opening):
                return
            while not lane.finished and not aborting.is_set():
                while inbox.empty() and not aborting.is_set() and lane.idle():
                    pass
                self._take(lane, inbox.get())
                while True:  # a reload's job goes before the next step, whatever came before it: frames that follow it are of the new wiring
                    while not inbox.empty():
                        self._take(lane, inbox.get())
                    if aborting.is_set() or not lane.step():
                        break
        except Cancelled:
            pass
        except BaseException as error:
            self._crash(lane, error)
        finally:
            self._close(lane)
            del self._inboxes[lane]

    def _take(self, lane: Lane, what: NodeRun | Callable[[], None]) -> None:
        if isinstance(what, NodeRun):
            lane.look(what)
        else:
            what()

    def _open(self, lane: Lane, opening: Opening) -> bool:
        """Open the lane's operators and wait for the others; False when they are not to begin."""
        try:
            lane.device.enter()
            for node in lane.nodes:
                if self.session.aborting.is_set() or opening.cancelled or opening.errors:
                    break
                lane.opened.append(node)
                begun = self.session.clock.now()
                node.open()
                lane.trace.add(begun, self.session.clock.now(), "open", node.name, -1, 0)
        except Exception as error:
            opening.errors.append(OperatorError(lane.opened[-1].name if lane.opened else lane.name, -1, 0, error))
        finally:
            opening.opened.release()
        opening.go.wait()
        if self.session.aborting.is_set() or opening.cancelled:
            return False
        for node in lane.nodes:
            life.enter(node)
        return True

    def _close(self, lane: Lane) -> None:
        with lane.guard:
            lane.over = True
            opened, lane.opened = lane.opened, []
        inbox = self._inboxes.get(lane)
        while inbox is not None and not inbox.empty():
            if not isinstance(job := inbox.get(), NodeRun):
                job()
        try:
            lane.device.finish()
        except Exception as error:
            self.session.errors.append(RunError(f"lane {lane.name}: {error}"))
        close_all(opened)

    def _crash(self, lane: Lane, error: BaseException) -> None:
        """The runtime itself failed, or an operator raised what is no Exception: nothing can be trusted to drain."""
        failure = error if isinstance(error, EngineError) else RunError(f"lane {lane.name}: {type(error).__name__}: {error}")
        failure.__cause__ = error if failure is not error else None
        self.session.fail(failure)
        self.session.stop(drain=False)

    # ---- sources

    def _source_thread(self, lane: Lane, opening: Opening) -> None:
        node, gate = lane.nodes[0], lane.nodes[0].gate
        assert gate is not None
        frames: Any = None
        stop = node.site.stop
        try:
            if not self._open(lane, opening):
                return
            frames = node.frames()
            seq = gate.turn[0]
            while True:
                try:
                    while not stop.is_set() and (offer := next_offer(node, frames, seq)) is not None:
                        gate.offer(offer)
                        seq = offer.seq + 1
                        if not gate.lossy:
                            with gate.emptied:
                                while gate.slot is not None and not stop.is_set():
                                    gate.emptied.wait(1.0)
                except Cancelled:
                    if node not in self.lent:
                        raise
                frames.close()
                if not self._lend(node):
                    break
                frames = node.frames()
        except Cancelled:
            pass
        except Exception as error:
            if gate.retired:
                self.session.event("error", node.name, -1, message=f"while it was taken out: {error}", tolerated=True)
            else:
                self.session.fail(OperatorError(node.name, node.count, self.session.epoch, error))
        except BaseException as error:
            self._crash(lane, error)
        finally:
            if frames is not None:
                frames.close()
            gate.finish()
            lane.node_finished()
            self._close(lane)

    def _lend(self, node: NodeRun) -> bool:
        """Where a reload wants what this source holds, give it up and wait; whether it has it again."""
        handover = self.lent.pop(node, None)
        if handover is None:
            return False
        handover.give()
        handover.decided.wait()  # always comes
        if not handover.back:
            return False
        node.site.stop.clear()
        if self.session.draining.is_set():
            node.site.stop.set()
        handover.take_back()
        return not node.dead

    # ---- reloads

    def look(self) -> None:
        """Begin with the reloads that were asked for, unless somebody is at it."""
        if self._opening.go.is_set():
            self._reloading.look()

    def on_lane(self, lane: Lane, job: Callable[[], object]) -> threading.Event:
        """Let a lane do `job` between two calls; at once where its thread has ended. The event is set when it is done."""
        ended = threading.Event()

        def run() -> None:
            try:
                if not self.session.aborting.is_set():
                    job()
            finally:
                ended.set()

        with lane.guard:
            inbox = self._inboxes.get(lane)
            if not lane.over and inbox is not None:
                inbox.put(run)
                return ended
        if inbox is not None or lane.over:
            run()
        else:
            ended.set()  # a source, which has no queue: its gate knows
        return ended

    # ---- the watchdog

    def _watch(self, tick: Callable[[Session], None] | None, tick_s: float) -> None:
        while alive := [thread for thread in list(self._threads) if thread.is_alive()]:
            alive[0].join(tick_s)
            if alive[0].is_alive():
                self._watch_tick(tick)

    def _watch_tick(self, tick: Callable[[Session], None] | None, *, opening: bool = False) -> None:
        session = self.session
        if tick is not None:
            tick(session)
        session.beat()
        if opening or session.aborting.is_set():
            return
        self._look_for_hang()
        self._look_for_stall()

    def _look_for_hang(self) -> None:
        session = self.session
        for lane in session.lanes.values():
            busy = lane.busy
            if busy is None or (session.clock.now() - busy[2]) / 1e9 < session.hang_s:
                continue
            frame = sys._current_frames().get(lane.thread.ident or 0) if lane.thread is not None else None
            where = "".join(traceback.format_stack(frame)[-3:]) if frame else ""
            session.errors.append(StallError(f"node {busy[0].name} has been in frame {busy[1]} for {session.hang_s:g} s\n{where}"))
            session.stop(drain=False)
            return

    def _look_for_stall(self) -> None:
        """Frames are in flight, every lane is idle, and nothing has moved for a while: call what batches have gathered, which may be what the
        others wait for; where that does not help, name the wait cycle instead of waiting for ever."""
        session = self.session
        moved = sum(c.entered + c.taken + sum(c.drops.values()) for c in session.channels)
        now = time.monotonic()
        if moved != self._progress[0] or session.paused or session.closing is not None or any(lane.busy for lane in session.lanes.values()):
            self._progress = (moved, now)
            return
        # While a source waits for its stream, a join may rightly wait for the source.
        shut = all(gate.source.finished or gate.slot is not None for gate in session.gates.values())
        waiting = shut and any(gate.in_flight for gate in session.gates.values())
        if now - self._progress[1] < GATHER_S or not waiting or any(not inbox.empty() for inbox in list(self._inboxes.values())):
            return
        if now - self._progress[1] >= STALL_S:
            session.errors.append(diagnose(session))
            session.stop(drain=False)
            return
        for node in session.nodes.values():
            if node.group:
                self.on_lane(node.lane, node.hurry)


def next_offer(node: NodeRun, frames: Any, seq: int) -> Offer | None:
    """Pull one frame from a source; None at its end. Times the pull as the source's work."""
    session, site = node.session, node.site
    node.catch_up()
    begun = session.clock.now()
    node.lane.busy = None
    item = None if session.limit is not None and seq >= session.limit else next(frames, None)
    now = session.clock.now()
    if item is None:
        return None
    node.count += 1
    node.times.append(now - begun)
    node.busy_ns += now - begun
    node.lane.trace.add(begun, now, "source", node.name, seq, session.epoch)
    values = tuple((name, value, leases_of(value, site._leases)) for name, value in node.emit.named(item.value) if value is not None)
    used = [lease for _, _, leases in values for lease in leases]
    for lease in used[:]:
        if used.count(lease) > 1:
            lease.retain()  # two outputs show one buffer: one user each
            used.remove(lease)
    for lease in site._leases:
        if lease not in used:
            lease.release()
    site._leases.clear()
    born = now if item.born is None else item.born
    pts = item.pts if item.pts is not None else born - session.started
    return Offer(seq if item.seq is None else max(seq, item.seq), pts, born, values, item.cut)
