"""One thread for what takes time, with a short queue, there only when something was asked of it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

WAITING = 16


class Worker:
    """Runs what is `put` one after the other. What it runs must not raise."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(WAITING)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def put(self, work: Callable[[], None]) -> bool:
        """Run `work` later; False where too much waits already, or all is over."""
        with self._lock:
            if self._closed:
                return False
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
                self._thread.start()
            try:
                self._queue.put_nowait(work)
            except queue.Full:
                return False
        return True

    def close(self) -> None:
        """Finish what is under way, and what waits."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is not None:
            self._queue.put(None)
            thread.join()

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            work()
