"""The answer to a change from outside, and what becomes of it.

    accepted -> applied -> done        a ramp, at its last frame
    accepted -> applied                everything else: a set, a reset, a pause, a resume, a reload
    accepted -> failed                 also after applied: nothing of it holds, or not all of it came to its end; `reason` says why
    accepted -> refused                what could be found out only later (a reload whose graph cannot run here): nothing was changed

A change that is wrong when it is asked for raises at once and gets no receipt. Receipts of one session move in the order in which their
changes landed. A receipt knows nothing of what it is for.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

FINAL: Final = ("done", "failed", "refused")
Callback = Callable[["Receipt", str], None]

_numbers = itertools.count(1)


@dataclass(eq=False)
class Receipt:
    """One accepted change.

    `what`: set, ramp, reset, pause, resume or reload. `changes`: what was asked, `by`: who asked. `state`: where it stands.
    `applied_at`: seq of the first frame that has it, with its `epoch` and the parameter version `params` from there on; for a pause the
    first frame that is not admitted. `done_at`: seq of the frame at which it was complete. `reason`: why it failed or was refused;
    `problems`: path to why, where single paths did not come to their end. `diff`: what a reload changes.
    """

    what: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    by: str = ""
    number: int = field(default_factory=_numbers.__next__)
    state: str = "accepted"
    applied_at: int | None = None
    done_at: int | None = None
    epoch: int | None = None
    params: int | None = None
    reason: str = ""
    problems: dict[str, str] = field(default_factory=dict)
    diff: Any = None
    _moves: list[str] = field(default_factory=list)
    _callbacks: list[Callback] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _calling: threading.RLock = field(default_factory=threading.RLock)
    _applied: threading.Event = field(default_factory=threading.Event)
    _ended: threading.Event = field(default_factory=threading.Event)

    @property
    def finished(self) -> bool:
        """Whether its state will not change again."""
        return self._ended.is_set()

    def wait(self, timeout: float | None = None) -> int | None:
        """Block until it is applied, or never will be; the frame's seq, or None where there is none after `timeout` seconds."""
        self._applied.wait(timeout)
        return self.applied_at

    def wait_done(self, timeout: float | None = None) -> bool:
        """Block until its state will not change again; False when `timeout` seconds passed first."""
        return self._ended.wait(timeout)

    def on(self, callback: Callback) -> None:
        """Call `callback(receipt, state)` once for every transition, also for those that have happened already, in order.

        It is called on whichever thread moves the receipt, often a lane that holds a lock: put something into a queue and return. What it
        raises is noted by the session as an event.
        """
        with self._calling:  # in order: what was missed first, what moves meanwhile after it
            with self._lock:
                missed = list(self._moves)
                self._callbacks.append(callback)
            for state in missed:
                callback(self, state)

    def move(self, state: str, **facts: Any) -> list[Exception]:
        """Go to `state` with what is known now; the session's business. Returns what callbacks raised."""
        failures = []
        with self._calling:
            with self._lock:
                if self.finished:
                    return []
                for name, value in facts.items():
                    setattr(self, name, value)
                self.state = state
                self._moves.append(state)
                callbacks = list(self._callbacks)
            if state in FINAL or (state == "applied" and self.what != "ramp"):
                self._ended.set()
            self._applied.set()
            for callback in callbacks:
                try:
                    callback(self, state)
                except Exception as error:
                    failures.append(error)
        return failures
