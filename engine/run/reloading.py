"""The course of a reload, the same under both executors, and how the threaded one carries it out.

Invariants: one reload after another; the run goes on, in the old wiring or in the new, unless half of the new is in force already; every
handover is decided. What a reload does to the graph is `engine.run.swap`; lanes and their threads are the executor's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from engine.errors import EngineError, RunError
from engine.run.handover import GIVE_S
from engine.run.lane import Lane, Opening
from engine.run.swap import Swap

if TYPE_CHECKING:
    from engine.run.inline import Inline
    from engine.run.threads import Threads
    from engine.session import Session

DRAIN_S = 2.0  # how long a reload waits for the frames under way
LOOK_S = 0.02  # how often it looks for frames that a batch has gathered


def carry_out(swap: Swap, means: Reloading | Inline) -> Iterator[bool]:
    """One reload, from its beginning to its end; yields where its caller has to go on meanwhile, and whether anything moved for that. `means`:
    what executors do differently."""
    if swap.session.ending:
        swap.refuse("the run is ending")
        return
    if not swap.diff.structural:
        swap.adopt()
        return
    try:
        swap.prepare()
        means.open(swap.early)
    except EngineError as error:
        means.discard(swap)
        swap.discard()
        swap.refuse(str(error))
        return
    swap.shut()
    yield from means.drain(swap)
    swap.tether()
    if swap.stale():
        means.discard(swap)
        swap.discard()
        swap.session.reloads.appendleft((swap.plan, swap.receipt))
        return
    try:
        try:
            means.take_over(swap)
        except EngineError as error:
            means.discard(swap)
            means.give_back(swap)
            swap.discard()
            swap.refuse(str(error))
            return
        means.put_in_force(swap)
    finally:
        for handover in swap.handovers:
            handover.decided.set()
    swap.open()


class Reloading:
    """The reloads of one run on real threads, on one of their own that exists while there is a reload to carry out."""

    def __init__(self, session: Session, runner: Threads) -> None:
        self.session, self.runner = session, runner
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._openings: list[Opening] = []  # of the reload under way

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
            self._openings = []
            try:
                for _ in carry_out(Swap(self.session, *asked), self):
                    pass
            except Exception as error:  # half-way between two wirings nothing can be trusted to drain
                self.session.closing = None
                self.session.changing.post(asked[1], "failed", reason=str(error))
                self.session.fail(error if isinstance(error, EngineError) else RunError(f"reload: {type(error).__name__}: {error}"))
                self.session.stop(drain=False)

    # ---- the means

    def open(self, lanes: Sequence[Lane]) -> None:
        """Open the operators of new lanes. Raises EngineError where one does not open."""
        opening = Opening(lanes)
        self._openings.append(opening)
        self.runner.start(opening)
        for _ in lanes:
            while not opening.opened.acquire(timeout=LOOK_S):
                if self.session.ending and not opening.cancelled:
                    opening.cancel()
        if opening.errors:
            raise opening.errors[0]
        if self.session.ending:
            raise RunError("the run is ending")

    def drain(self, swap: Swap) -> Iterator[bool]:
        """Wait for the frames under way, as long as there is sense in it."""
        session, deadline = self.session, time.monotonic() + DRAIN_S
        while not swap.drained() and not session.aborting.is_set() and time.monotonic() < deadline:
            if session.quiet.wait(LOOK_S):
                session.quiet.clear()
                continue
            for lane in list(session.lanes.values()):
                for node in lane.nodes:
                    if node.plan.batch > 1:
                        self.runner.on_lane(lane, node.flush_group)
        yield from ()  # the wait was here: this thread has nothing else to do

    def take_over(self, swap: Swap) -> None:
        """Let old nodes close what new ones need, and open these. Raises EngineError where that does not come about."""
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
                    raise RunError(f"{handover.node.name} did not let go of what it holds within {GIVE_S:g} s")
        if swap.late:
            self.open(swap.late)

    def give_back(self, swap: Swap) -> None:
        """Let old nodes open again what they closed."""
        for thread in [lane.thread for lane in swap.late if lane.thread is not None]:
            thread.join(GIVE_S)  # what did not open may hold some of it
        for handover in swap.handovers:
            handover.back = True
            self.runner.on_lane(handover.node.lane, handover.take_back)

    def discard(self, swap: Swap) -> None:
        """Let the new lanes close what they opened, and end."""
        for opening in self._openings:
            opening.cancel()

    def put_in_force(self, swap: Swap) -> None:
        """Let every lane take the new wiring, and the new ones begin."""
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
        for opening in self._openings:
            opening.go.set()
