"""Keeps every stream of a folder running: starts, watches, ends and starts again, one step at a time on one thread.

Invariant: a fault of one stream costs no other one anything; starts on one GPU are spaced. It knows no web server and no signals.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from remote.serve.child import Child
from remote.serve.log import Log
from remote.serve.policy import ended, steady
from remote.serve.streams import Folder

TICK_S = 0.1
UNWELL = ("broken", "resting", "error")


class Supervisor:
    """The streams of one folder. `run` works until `stop`; `status` may be called from any thread."""

    def __init__(self, folder: Path, wanted: Folder, *, say: Callable[[str], None] = lambda text: None) -> None:
        self.folder, self.wanted, self.say = folder, wanted, say
        logs = folder / wanted.serve.logs
        limit = round(wanted.serve.log_mb * 1e6)
        self.children = {name: Child(name, stream, folder, Log(logs / f"{name}.log", limit)) for name, stream in wanted.stream.items()}
        self.stopping = threading.Event()
        self.hard = False
        self._last_start: dict[str | None, float] = {}
        self._since = time.time()

    def run(self) -> None:
        """Work until `stop`, or until no stream has anything left to do."""
        try:
            while self.step(time.monotonic()):
                self.stopping.wait(TICK_S) if not self.stopping.is_set() else time.sleep(TICK_S)
        finally:
            for child in self.children.values():
                child.kill()
                while child.process is not None and child.gone() is None:
                    time.sleep(0.01)
                child.log.close()

    def stop(self, *, hard: bool = False) -> None:
        """End all streams: what is under way is finished, for as long as each one's drain_s, or given up (`hard`)."""
        self.hard |= hard
        self.stopping.set()

    def step(self, now: float) -> bool:
        """One look at every stream; whether there is anything left to wait for."""
        for child in self.children.values():
            try:
                self._look(child, now)
            except Exception as error:  # one stream's trouble is its own
                child.log.note(f"supervision failed: {type(error).__name__}: {error}")
        running = any(child.process is not None for child in self.children.values())
        if self.stopping.is_set():
            return running
        return running or any(child.due is not None or child.state == "broken" for child in self.children.values())

    def _look(self, child: Child, now: float) -> None:
        if child.process is not None:
            code = child.gone()
            if code is not None:
                self._ended(child, code, now)
                return
            why = child.look(now)
            if self.stopping.is_set() and (not child.stopping or child.ended_by):
                child.ask_to_stop()
            elif why:
                self.say(f"{child.name}: {why}: it is ended")
                child.ask_to_stop(why)
            if (child.stopping and self.hard) or child.overdue(now):
                child.kill()
            if child.healthy and not child.stopping:
                child.history = steady(child.stream.restart, child.history, now - child.healthy)
            return
        if self.stopping.is_set():
            child.state = "ended"
            return
        if child.state == "broken" and child.changed:
            child.due = now
        if child.due is not None and now >= child.due and self._room(child, now):
            self._start(child, now)

    def _room(self, child: Child, now: float) -> bool:
        return now - self._last_start.get(child.stream.gpu, -1e9) >= self.wanted.serve.spacing_s

    def _start(self, child: Child, now: float) -> None:
        self._last_start[child.stream.gpu] = now
        try:
            child.start()
        except OSError as error:
            self._decide(child, None, f"it cannot be started: {error}", now)

    def _ended(self, child: Child, code: int, now: float) -> None:
        if self.stopping.is_set():
            child.state, child.due = "ended", None
            return
        self._decide(child, code, child.ended_by, now)

    def _decide(self, child: Child, code: int | None, why: str, now: float) -> None:
        verdict = ended(child.stream.restart, child.history, code, why, now, random.random)
        child.state, child.why, child.history = verdict.state, verdict.why, verdict.history
        child.due = None if verdict.after is None else now + verdict.after
        again = "" if verdict.after is None else f"; again in {verdict.after:.1f} s"
        self.say(f"{child.name}: {verdict.state}: {verdict.why}{again}")
        child.log.note(f"{verdict.state}: {verdict.why}{again}")

    def status(self) -> dict[str, Any]:
        """How everything is, as plain values."""
        now = time.monotonic()
        streams = [child.described(now) for child in self.children.values()]
        well = all(map(is_well, streams))
        return {"folder": str(self.folder), "since": self._since, "well": well, "stopping": self.stopping.is_set(), "streams": streams}


def is_well(stream: dict[str, Any]) -> bool:
    """Whether nothing is wrong with a described stream: one that failed and waits for its next start is not well either."""
    return stream["state"] not in UNWELL and not (stream["state"] == "waiting" and stream["last_exit"])
