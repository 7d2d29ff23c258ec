"""The way out of the graph's process: a child that encodes and sends, pictures handed over through shared memory, and a watchdog.

Invariants: under the live clock `offer` never waits for the peer (the newest picture takes the place of the one that waits), elsewhere it
loses none; a child that dies, fails or gives no sign of life for `timeout` seconds is ended and started again, after a wait that doubles up
to a cap, with jitter; `close` always returns, and leaves no process, thread or memory. Every picture: offered = sent + replaced + lost.
It knows no codec and no address. The child's side is operators.sink.child.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine import errors
from engine.errors import EngineError, MediaError, scrub

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    import numpy as np

    from engine.site import Site
    from operators.sink.child import Output, Tell
    from operators.sink.pacing import AlwaysOn

    Array = np.ndarray[Any, Any]

SLOTS = 4  # one with the child, one waiting, one being written, one kept to start again with
TICK = 0.1  # s between looks at the child's time limits
STARTING = 60.0  # s for a child to come up: it imports codecs, on a machine that may be busy loading models
FIRST_WAIT, LONGEST_WAIT = 0.25, 2.0  # s between attempts
GOOD = 25  # pictures sent after which a connection counts as sound and the attempts before it are forgotten


@dataclass(frozen=True, slots=True)
class Patience:
    """`timeout`: s without a sign of life before a child is killed. `attempts`: how many may fail in a row, -1 for any number.
    `insist`: go on trying although no connection ever stood."""

    timeout: float = 5.0
    attempts: int = 20
    insist: bool = False


class Outlet:
    """An output in a child process. `make(settings, tell)` builds it there; both must be picklable. `name` goes into messages, scrubbed."""

    def __init__(
        self, site: Site, make: Callable[[Any, Tell], Output], settings: Any, *, name: str, lossy: bool, patience: Patience
    ) -> None:  # fmt: skip
        from engine.run.shared import Block

        self.site, self.name, self.lossy, self.patience = site, scrub(name), lossy, patience
        self.make, self.settings = make, settings
        self.about: Any = None  # what the output is told with the first picture
        self.always_on: AlwaysOn | None = None
        self.counts: Counter[str] = Counter()
        self.facts: dict[str, Any] = {}
        self.error: EngineError | None = None  # what ended the output for good
        self._told = False
        self._why: EngineError | None = None  # the last trouble
        self.connected = False  # a connection stands
        self._changed = threading.Condition()
        self._block = Block()
        self._shape: tuple[int, int] | None = None
        self._free: list[int] = list(range(SLOTS))
        self._waiting: deque[tuple[int, int]] = deque()  # (slot, ns)
        self._busy: tuple[int, int] | None = None  # with the child
        self._kept: tuple[int, int] | None = None  # the last one that was sent, for a child that starts again
        self._since = 0.0  # the child's last sign of life, or when something was asked of it
        self._state = "starting"  # starting, ready (no picture yet), opening, open
        self._closing = self._ended = self._hurry = False
        self._good = self._failures = 0
        self._lost_at = 0.0
        self._child: Any = None
        self._pipe: Connection[Any, Any] | None = None
        self._thread = threading.Thread(target=self._run, name=f"outlet {site.node}", daemon=True)
        self._thread.start()

    # ---- the lane's side

    def begin(self, about: Any, always_on: AlwaysOn | None = None) -> None:
        """What only the first picture told, before it is offered."""
        self.about, self.always_on = about, always_on

    def ready(self, seconds: float = STARTING) -> dict[str, Any]:
        """Wait until the child has come up; what it told of itself. Raises what it failed with."""
        with self._changed:
            self._changed.wait_for(lambda: self._state != "starting" or self.error is not None, seconds)
            self._complain()
            return self.facts

    def offer(self, picture: Array, ns: int) -> None:
        """Hand over a picture (H, W, 3) uint8, all of one size, to be shown at `ns`. Raises the error that ended the output, if one did."""
        slot = self._take(picture.shape[:2])
        self._into(slot)[...] = picture
        with self._changed:
            self.counts["offered"] += 1
            if self.lossy and self._waiting:
                self._free.append(self._waiting.popleft()[0])
                self.counts["replaced"] += 1
            self._waiting.append((slot, ns))
            self._send()

    def close(self) -> None:
        """Let the child send what waits and finish, as long as it gives signs of life; then end it. Raises an error that was not told yet."""
        with self._changed:
            self._closing, self._hurry = True, self.site.stopping
            self._changed.notify_all()
            if self.counts["offered"]:
                self._send()
        self._thread.join()
        left = len(self._waiting) + (self._busy is not None)
        self._waiting.clear()
        self._busy = None
        if left:
            self.counts["lost"] += left
        self._block.free()
        if self.error is None and left and not self.lossy and not self.site.stopping:
            why = f": {self._why.message}" if self._why else ""
            self.error = MediaError(f"{left} pictures could not be sent to {self.name}{why}", fix="is the receiver still there?")
        if not self._told:
            self._complain()

    def _complain(self) -> None:
        if self.error is not None:
            self._told = True
            raise self.error

    # ---- slots

    def _take(self, shape: Any) -> int:
        with self._changed:
            if self._shape is None:
                self._shape = (int(shape[0]), int(shape[1]))
                self._block.fit(SLOTS * self._shape[0] * self._shape[1] * 3)
            while True:
                self._complain()
                if self._free:
                    return self._free.pop()
                if self.lossy:
                    self.counts["replaced"] += 1
                    return self._waiting.popleft()[0]
                self.site.check()
                self._changed.wait(TICK)

    def _into(self, slot: int) -> Array:
        import numpy as np

        assert self._shape is not None
        height, width = self._shape
        return np.ndarray((height, width, 3), np.uint8, self._block.view, slot * height * width * 3)

    def _send(self) -> None:
        """Give the child its next picture, where it waits for one. The lock is held; a message is small and at most one is under way."""
        if self._pipe is None or self._state not in ("ready", "open") or self._busy is not None:
            return
        try:
            if self._waiting:
                self._busy = self._waiting.popleft()
                slot, ns = self._busy
                assert self._shape is not None
                first = (self.about, self.always_on) if self._state == "ready" else None
                self._pipe.send(("picture", slot, self._block.name, *self._shape, ns, first))
                self._state = "opening" if first else "open"
                self._since = time.monotonic()
            elif self._closing:
                self._pipe.send(("close",))
                self._state = "closing"
                self._since = time.monotonic()
        except OSError:
            pass  # the child is gone: the watchdog sees it too

    # ---- the watchdog's side

    def _run(self) -> None:
        try:
            while not self._attempt():
                if self._closing or self.error is not None or not self._hold_off():
                    return
        except Exception as error:
            self.error = MediaError(f"the output to {self.name} failed: {type(error).__name__}: {error}")
        finally:
            self._end_child()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _attempt(self) -> bool:
        """One life of a child; True when it ended in order."""
        from multiprocessing.connection import wait

        self._start_child()
        while True:
            assert self._pipe is not None
            wait([self._pipe, self._child.sentinel], TICK)
            trouble, fatal = self._read()
            if self._state == "closed":
                return True
            if trouble is None and (silent := self._silent()):
                self.site.event("stalled", to=self.name, seconds=round(silent, 1))
                trouble = MediaError(f"{self.name} took nothing for {silent:.1f} s", fix="is the receiver there? `timeout` sets the limit")
            if trouble is not None:
                self._failed(trouble, fatal)
                return False
            if self._closing and (not self.counts["offered"] or (self._hurry and time.monotonic() - self._since > 1.0)):
                return True  # there is nothing to finish, or the session is being aborted

    def _read(self) -> tuple[EngineError | None, bool]:
        """Take in what the child says; the trouble it is in, and whether trying again is of no use."""
        pipe = self._pipe
        assert pipe is not None
        try:
            while pipe.poll():
                kind, *facts = pipe.recv()
                if kind == "fault":
                    name, message, fix, fatal = facts
                    known = getattr(errors, name, MediaError)
                    usable = isinstance(known, type) and issubclass(known, EngineError) and known.__init__ is EngineError.__init__
                    return (known if usable else MediaError)(message, fix=fix), fatal
                self._heard(kind, facts)
        except (EOFError, OSError):
            pass
        if self._child.is_alive() or self._state == "closed":
            return None, False
        self._child.join(1.0)
        return MediaError(f"the process that sends to {self.name} died (exit code {self._child.exitcode})"), False

    def _heard(self, kind: str, facts: list[Any]) -> None:
        if kind == "said":
            self.site.event(facts[0], to=self.name, **facts[1])
            return
        with self._changed:
            if kind == "beat":
                self.facts.update(facts[0])
            elif kind == "ready":
                self._state, self.facts = "ready", dict(facts[0])
                if self.facts.get("stands"):  # it waits for peers instead of calling one
                    self._opened()
                if not self._waiting and self._kept is not None and self.always_on:
                    self._waiting.append(self._kept)
                    self._kept = None
                    self.counts["offered"] += 1  # it goes out a second time
                self._send()
            elif kind == "opened":
                self._state = "open"
                self._opened()
            elif kind == "done":
                self._done()
                self._send()
            elif kind == "closed":
                self._state = "closed"
            if kind != "beat" or "repeated" in facts[0]:
                self._since = time.monotonic()
            self._changed.notify_all()

    def _opened(self) -> None:
        self.connected = True
        if self._lost_at:
            gap = round(time.monotonic() - self._lost_at, 3)
            self.site.event("reconnected", to=self.name, attempts=self._failures, gap_s=gap)
            self.counts["reconnects"] += 1
            self._lost_at = 0.0

    def _done(self) -> None:
        self.counts["sent"] += 1
        self._good += 1
        if self._good >= GOOD:
            self._failures = 0
        if self._kept is not None:
            self._free.append(self._kept[0])
        self._kept, self._busy = self._busy, None

    def _silent(self) -> float:
        """Seconds over its time limit without a sign of life, where one is owed; else 0."""
        with self._changed:
            if self._state == "starting":
                limit = STARTING
            elif self._busy is not None or self._state == "closing" or (self.always_on and self._state == "open"):
                limit = self.patience.timeout
            else:
                return 0.0
            quiet = time.monotonic() - self._since
            return quiet if quiet > limit else 0.0

    def _failed(self, why: EngineError, fatal: bool) -> None:
        stood = self.connected
        with self._changed:
            self.connected = False
            self._failures += 1
            self._good = 0
            self._lost_at = self._lost_at or time.monotonic()
            state, self._state = self._state, "starting"
        self._end_child()
        with self._changed:
            self._why = why
            if self._busy is not None and self.lossy:
                kept, self._kept = (self._kept, self._busy) if self.always_on else (self._busy, self._kept)
                if kept is not None:
                    self._free.append(kept[0])
                self.counts["lost"] += 1
            elif self._busy is not None:
                self._waiting.appendleft(self._busy)
            self._busy = None
            never = not stood and not self.counts["sent"] and not self.patience.insist
            worn = 0 <= self.patience.attempts < self._failures
            if fatal or never:
                self.error = why
            elif worn:
                what = f"{self.name} is lost, and {self.patience.attempts} attempts to reach it again failed; the last: {why.message}"
                self.error = MediaError(what, fix=why.fix)
            elif self._closing and state == "closing":
                self.error = why  # everything was handed over, and then it could not be finished
            self._changed.notify_all()
        if self.error is None:
            self.site.event("lost", to=self.name, why=why.message, attempt=self._failures)

    def _hold_off(self) -> bool:
        """Wait before the next attempt; False when the output is closed meanwhile."""
        seconds = min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(self._failures - 1, 16)) * self.site.rng(self._failures).uniform(0.75, 1.25)
        with self._changed:
            return not self._changed.wait_for(lambda: self._closing, seconds)

    # ---- the child

    def _start_child(self) -> None:
        import multiprocessing

        from operators.sink.child import serve

        context = multiprocessing.get_context("spawn")
        pipe, theirs = context.Pipe()
        name = f"{self.site.node} output"
        self._child = context.Process(target=serve, args=(theirs, self.make, self.settings), name=name, daemon=True)
        with self._changed:
            self._state, self._since = "starting", time.monotonic()
        self._child.start()
        theirs.close()
        with self._changed:
            self._pipe = pipe

    def _end_child(self) -> None:
        with self._changed:
            pipe, self._pipe = self._pipe, None
        child, self._child = self._child, None
        if child is not None:
            if self._state == "closed":
                child.join(1.0)
            if child.is_alive():
                child.kill()
            child.join()
            child.close()
        if pipe is not None:
            pipe.close()
