"""What clients hear of without asking again: statistics now and then, parameters when they change, events as they come.

Invariant: one thread serves every watch of a session, reads its counters once for all that are due, and exists only while there is one. It
knows neither requests nor sockets; a client that reads too slowly is its carrier's business.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.live.describe import plain
from remote import facts
from remote.request import VERSION

if TYPE_CHECKING:
    from engine.session import Session

KINDS = ("stats", "params", "events")
PER_CLIENT = 8


@dataclass(eq=False)
class Watch:
    """What one request asked for. `every_s`: between two messages of statistics, and at least between two of parameters."""

    reply: Callable[[dict[str, Any]], None]
    number: int
    every_s: float
    what: frozenset[str]
    due: float = 0.0
    version: int = -1
    told: dict[str, Any] | None = None


class Watches:
    """The watches of one session."""

    def __init__(self, session: Session, rates: facts.Rates) -> None:
        self.session, self.rates = session, rates
        self._changed = threading.Condition()
        self._watches: list[Watch] = []
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, watch: Watch, begin: Callable[[], None]) -> bool:
        """Begin, after calling `begin`, which answers the request; False where this client has too many already."""
        with self._changed:
            if sum(w.reply == watch.reply for w in self._watches) >= PER_CLIENT or self._closed:
                return False
            begin()
            self._watches = [w for w in self._watches if (w.reply, w.number) != (watch.reply, watch.number)] + [watch]
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="control watch", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return True

    def remove(self, reply: Callable[..., None], number: int | None = None) -> int:
        """End one watch of a client, or all of them; how many there were."""
        with self._changed:
            before = len(self._watches)
            self._watches = [w for w in self._watches if w.reply != reply or (number is not None and w.number != number)]
            self._changed.notify_all()
            return before - len(self._watches)

    def has(self, reply: Callable[..., None]) -> bool:
        return any(w.reply == reply for w in self._watches)

    def event(self, event: dict[str, Any]) -> None:
        """Something happened; called from lanes too."""
        interested = [w for w in self._watches if "events" in w.what]
        if interested:
            told = plain(event)
            for watch in interested:
                watch.reply({"v": VERSION, "id": watch.number, "kind": "event", "event": told})

    def flush(self) -> None:
        """Tell everybody once more, now: the run is about to be over."""
        self._tell(list(self._watches), time.monotonic())

    def close(self) -> None:
        with self._changed:
            self._closed, self._watches = True, []
            thread, self._thread = self._thread, None
            self._changed.notify_all()
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._watches:
                    self._thread = None
                    return
                timed = [w for w in self._watches if w.what != {"events"}]
                now = time.monotonic()
                due = [w for w in timed if w.due <= now]
                if not due:
                    self._changed.wait(min((w.due for w in timed), default=now + 60.0) - now)
                    continue
                for watch in due:
                    watch.due = now + watch.every_s
            self._tell(due, now)

    def _tell(self, due: list[Watch], now: float) -> None:
        stats = facts.stats(self.session, self.rates) if any("stats" in w.what for w in due) else {}
        version = self.session.version
        values: dict[str, Any] | None = None
        for watch in due:
            if "stats" in watch.what:
                watch.reply({"v": VERSION, "id": watch.number, "kind": "stats", **stats})
            if "params" in watch.what:
                if values is None:
                    values = self.session.values()
                before = watch.told
                changed = values if before is None else {k: v for k, v in values.items() if k not in before or before[k] != v}
                gone = [k for k in before or () if k not in values]
                if changed or gone or version != watch.version:
                    watch.told, watch.version = values, version
                    more = {"gone": gone} if gone else {}
                    watch.reply({"v": VERSION, "id": watch.number, "kind": "params", "values": changed, "params": version, **more})
