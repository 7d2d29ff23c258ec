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

from engine.emit import leases_of
from engine.errors import Cancelled, EngineError, OperatorError, RunError, StallError
from engine.gate import Offer
from engine.lane import Lane
from engine.node import NodeRun
from engine.packet import Packet

if TYPE_CHECKING:
    from engine.session import Session

STALL_S = 5.0
JOIN_S = 10.0


class Threads:
    """Runs a session on real threads."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._go = threading.Event()
        self._inboxes: dict[str, queue.SimpleQueue[NodeRun]] = {}
        self._opened = threading.Semaphore(0)
        self._progress: tuple[int, float] = (-1, 0.0)

    def run(self, tick: Callable[[Session], None] | None, tick_s: float) -> None:
        session = self.session
        threads = []
        # Eager torch operators take the GIL hundreds of times a frame: a short switch interval keeps Python threads from starving them.
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-3)
        try:
            for lane in session.lanes.values():
                if lane.nodes[0].spec.source:
                    target: Callable[..., None] = self._source_thread
                else:
                    target = self._lane_thread
                    inbox: queue.SimpleQueue[NodeRun] = queue.SimpleQueue()
                    self._inboxes[lane.name] = inbox
                    lane.post = inbox.put
                threads.append(threading.Thread(target=target, args=(lane,), name=f"lane {lane.name}", daemon=True))
            for thread in threads:
                thread.start()
            for _ in threads:
                while not self._opened.acquire(timeout=tick_s):
                    self._watch_tick(tick, threads, opening=True)
            session.started = session.clock.now()
            self._go.set()
            self._watch(threads, tick, tick_s)
        except BaseException:
            session.stop(drain=False)
            self._go.set()
            raise
        finally:
            deadline = time.monotonic() + JOIN_S
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
            sys.setswitchinterval(interval)

    # ---- lanes

    def _lane_thread(self, lane: Lane) -> None:
        opened: list[NodeRun] = []
        try:
            if not self._open(lane, opened):
                return
            inbox, aborting = self._inboxes[lane.name], self.session.aborting
            while not lane.finished and not aborting.is_set():
                lane.look(inbox.get())
                while lane.step() and not aborting.is_set():
                    while not inbox.empty():
                        lane.look(inbox.get())
        except Cancelled:
            pass
        except BaseException as error:
            self._crash(lane, error)
        finally:
            self._close(lane, opened)

    def _open(self, lane: Lane, opened: list[NodeRun]) -> bool:
        """Open the lane's operators and wait for the others; False when the session ends before it begins."""
        try:
            lane.device.enter()
            for node in lane.nodes:
                if self.session.aborting.is_set():
                    break
                opened.append(node)
                begun = self.session.clock.now()
                node.open()
                lane.trace.add(begun, self.session.clock.now(), "open", node.name, -1, 0)
        except Exception as error:
            self.session.fail(OperatorError(opened[-1].name if opened else lane.name, -1, 0, error))
            self.session.stop(drain=False)
        finally:
            self._opened.release()
        self._go.wait()
        return not self.session.aborting.is_set()

    def _close(self, lane: Lane, opened: list[NodeRun]) -> None:
        try:
            lane.device.finish()
        except Exception as error:
            self.session.errors.append(RunError(f"lane {lane.name}: {error}"))
        for node in reversed(opened):
            try:
                node.close()
            except Exception as error:
                self.session.errors.append(OperatorError(node.name, -1, node.epoch, error))

    def _crash(self, lane: Lane, error: BaseException) -> None:
        """The runtime itself failed, or an operator raised what is no Exception: nothing can be trusted to drain."""
        failure = error if isinstance(error, EngineError) else RunError(f"lane {lane.name}: {type(error).__name__}: {error}")
        failure.__cause__ = error if failure is not error else None
        self.session.fail(failure)
        self.session.stop(drain=False)

    # ---- sources

    def _source_thread(self, lane: Lane) -> None:
        node, gate = lane.nodes[0], lane.nodes[0].gate
        opened: list[NodeRun] = []
        assert gate is not None
        frames: Any = None
        try:
            if not self._open(lane, opened):
                return
            frames = node.frames()
            seq = 0
            while not self.session.draining.is_set():
                offer = next_offer(node, frames, seq)
                if offer is None:
                    break
                gate.offer(offer)
                seq = offer.seq + 1
                if not gate.lossy:
                    with gate.emptied:
                        while gate.slot is not None and not self.session.draining.is_set():
                            gate.emptied.wait(1.0)
        except Cancelled:
            pass
        except Exception as error:
            self.session.fail(OperatorError(node.name, node.count, self.session.epoch, error))
        except BaseException as error:
            self._crash(lane, error)
        finally:
            if frames is not None:
                frames.close()
            gate.finish()
            lane.node_finished()
            self._close(lane, opened)

    # ---- the watchdog

    def _watch(self, threads: list[threading.Thread], tick: Callable[[Session], None] | None, tick_s: float) -> None:
        for thread in threads:
            while thread.is_alive():
                thread.join(tick_s)
                if thread.is_alive():
                    self._watch_tick(tick, threads)

    def _watch_tick(self, tick: Callable[[Session], None] | None, threads: list[threading.Thread], *, opening: bool = False) -> None:
        session = self.session
        if tick is not None:
            tick(session)
        session.governing.tick()
        if opening or session.aborting.is_set():
            return
        self._look_for_hang(threads)
        self._look_for_stall()

    def _look_for_hang(self, threads: list[threading.Thread]) -> None:
        session = self.session
        for lane in session.lanes.values():
            busy = lane.busy
            if busy is None or (session.clock.now() - busy[2]) / 1e9 < session.hang_s:
                continue
            ident = next((t.ident for t in threads if t.name == f"lane {lane.name}"), None)
            frame = sys._current_frames().get(ident or 0)
            where = "".join(traceback.format_stack(frame)[-3:]) if frame else ""
            session.errors.append(StallError(f"node {busy[0].name} has been in frame {busy[1]} for {session.hang_s:g} s\n{where}"))
            session.stop(drain=False)
            return

    def _look_for_stall(self) -> None:
        """Frames are in flight, every lane is idle, and nothing has moved for a while: name the wait cycle instead of waiting for ever."""
        session = self.session
        moved = sum(c.entered + c.taken + sum(c.drops.values()) for c in session.channels)
        now = time.monotonic()
        if moved != self._progress[0] or session.paused or any(lane.busy for lane in session.lanes.values()):
            self._progress = (moved, now)
            return
        # While a source waits for its stream, a join may rightly wait for the source.
        shut = all(gate.source.finished or gate.slot is not None for gate in session.gates.values())
        waiting = shut and any(gate.in_flight for gate in session.gates.values())
        if now - self._progress[1] < STALL_S or not waiting or any(not inbox.empty() for inbox in self._inboxes.values()):
            return
        session.errors.append(diagnose(session))
        session.stop(drain=False)


def next_offer(node: NodeRun, frames: Any, seq: int) -> Offer | None:
    """Pull one frame from a source; None at its end. Times the pull as the source's work."""
    session, site = node.session, node.site
    node.catch_up()
    begun = session.clock.now()
    node.lane.busy = None
    item = None if seq == session.limit else next(frames, None)
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


def diagnose(session: Session) -> StallError:
    """Who waits for whom, as an error."""
    waits = {node.name: other for node in session.nodes.values() if (other := _waits_for(node)) is not None}
    chain: list[str] = []
    at = next(iter(waits), None)
    while at is not None and at not in chain:
        chain.append(at)
        at = waits.get(at)
    cycle = (*chain[chain.index(at):], at) if at is not None else tuple(chain)
    text = " waits for ".join(cycle) or "no node can fire"
    return StallError(f"nothing moves: {text}", cycle)


def _waits_for(node: NodeRun) -> str | None:
    """The node that has to do something before this one can."""
    full = next((c.edge.node for c in node.emit.all if c.full), None)
    if node.finished or full is not None:
        return full
    if node.gate is not None:
        held = (c.edge.node for c in node.session.channels if c.edge.credit and c.packets)
        return next(held, None) if node.gate.slot is not None else None
    assert node.trigger is not None
    head = node._claimed or node.trigger.head()
    if type(head) is Packet:
        return next((s.edge.source for s in node.waits if not s.settled(head)), None)
    return node.trigger.edge.source if head is None else None
