"""Carries out reloads under the threaded executor: what is due when, and what is waited for.

Invariants: one reload after another; the run goes on, in the old wiring or in the new, unless half of the new is in force already; every
handover is decided. What a reload does is `engine.run.swap`; lanes and their threads are the executor's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.errors import EngineError, RunError
from engine.run.handover import GIVE_S
from engine.run.lane import Lane, Opening
from engine.run.swap import Swap

if TYPE_CHECKING:
    from engine.run.threads import Threads
    from engine.session import Session

DRAIN_S = 2.0  # how long a reload waits for the frames under way
LOOK_S = 0.02  # how often it looks for frames that a batch has gathered


class Reloading:
    """The reloads of one run, on a thread that exists while there is one to carry out."""

    def __init__(self, session: Session, runner: Threads) -> None:
        self.session, self.runner = session, runner
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """Begin with the reloads that were asked for, unless somebody is at it."""
        with self._lock:
            if not self.session.reloads or (self._thread is not None and self._thread.is_alive()):
                return
            self._thread = threading.Thread(target=self._run, name="reload", daemon=True)
            self.runner.begin(self._thread)

    def _run(self) -> None:
        while True:
            with self._lock:
                asked = self.session.next_reload()
                if asked is None:
                    self._thread = None
                    return
            try:
                self._reload(Swap(self.session, *asked))
            except Exception as error:  # half-way between two wirings nothing can be trusted to drain
                self.session.closing = None
                self.session.changing.post(asked[1], "failed", reason=str(error))
                self.session.fail(error if isinstance(error, EngineError) else RunError(f"reload: {type(error).__name__}: {error}"))
                self.session.stop(drain=False)

    def _reload(self, swap: Swap) -> None:
        session = self.session
        if session.ending:
            swap.refuse("the run is ending")
            return
        if not swap.diff.structural:
            swap.adopt()
            return
        try:
            swap.prepare()
        except EngineError as error:
            swap.discard()
            swap.refuse(str(error))
            return
        opening = Opening(lane for lane in swap.lanes if lane not in swap.late)
        if why := self._open_beside(opening):
            swap.discard()
            swap.refuse(why)
            return
        swap.shut()
        deadline = time.monotonic() + DRAIN_S
        while not swap.drained() and not session.aborting.is_set() and time.monotonic() < deadline:
            if session.quiet.wait(LOOK_S):
                session.quiet.clear()
                continue
            for lane in list(session.lanes.values()):
                for node in lane.nodes:
                    if node.plan.batch > 1:
                        self.runner.on_lane(lane, node.flush_group)
        if swap.stale():
            opening.cancel()
            swap.discard()
            session.reloads.appendleft((swap.plan, swap.receipt))
            return
        late = Opening(swap.late)
        try:
            why = self._take_over(swap, late)
            if why:
                opening.cancel()
                for thread in [lane.thread for lane in swap.late if lane.thread is not None]:
                    thread.join(GIVE_S)  # what did not open may hold some of it
                for handover in swap.handovers:
                    handover.back = True
                    self.runner.on_lane(handover.node.lane, handover.take_back)
                swap.discard()
                swap.refuse(why)
                return
            self._put_in_force(swap)
        finally:
            for handover in swap.handovers:
                handover.decided.set()
        opening.go.set()
        late.go.set()
        swap.open()

    def _open_beside(self, opening: Opening) -> str:
        """Open new lanes; why they do not, where one does not."""
        self.runner.start(opening)
        for _ in opening.lanes:
            while not opening.opened.acquire(timeout=LOOK_S):
                if self.session.ending and not opening.cancelled:
                    opening.cancel()
        if not opening.errors and not self.session.ending:
            return ""
        opening.cancel()
        return str(opening.errors[0]) if opening.errors else "the run is ending"

    def _take_over(self, swap: Swap, late: Opening) -> str:
        """Let old nodes close what new ones need, and open these; why that did not come about."""
        for handover in swap.handovers:
            node = handover.node
            if node.gate is None:
                self.runner.on_lane(node.lane, handover.give)
            else:
                self.runner.lent[node] = handover
                node.site.stop.set()
                with node.gate.lock:
                    node.gate.emptied.notify_all()
        deadline = time.monotonic() + GIVE_S
        for handover in swap.handovers:
            while not handover.given.wait(LOOK_S) and not handover.node.lane.over:
                if time.monotonic() > deadline or self.session.aborting.is_set():
                    return f"{handover.node.name} did not let go of what it holds within {GIVE_S:g} s"
        return self._open_beside(late) if swap.late else ""

    def _put_in_force(self, swap: Swap) -> None:
        session = self.session
        waits = [lane for lane in session.lanes.values() if swap.waits_for(lane)]
        done: list[threading.Event] = []

        def on_lane(lane: Lane, job: Callable[[], None]) -> None:
            ended = self.runner.on_lane(lane, job)
            done.extend([ended] if lane in waits else [])

        swap.commit(on_lane)
        for ended in done:
            while not ended.wait(LOOK_S) and not session.aborting.is_set():
                pass
