"""The output of a stream's process: into a file that does not grow for ever, without credentials, and its last lines kept for the status."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from engine.errors import scrub

KEPT = 200  # lines in memory
LINE = 4000  # characters of one


class Log:
    """Reads a process's output on a thread. `heard` is called with every line."""

    def __init__(self, path: Path, limit: int) -> None:
        self.path, self.limit = path, limit
        self.lines: deque[str] = deque(maxlen=KEPT)
        self._lock = threading.Lock()
        self._file: Any = None

    def note(self, text: str) -> None:
        """One line of our own."""
        self.write(f"[serve] {text}")

    def write(self, text: str) -> None:
        """Keep one line. A disk that is full or gone costs the file, not the stream."""
        line = f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {scrub(text)[:LINE]}"
        with self._lock:
            self.lines.append(line)
            try:
                if self._file is None:
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    self._file = self.path.open("a", encoding="utf-8")
                self._file.write(line + "\n")
                self._file.flush()
                if self._file.tell() > self.limit:
                    self._file.close()
                    self._file = None
                    self.path.replace(self.path.with_name(self.path.name + ".1"))
            except OSError:
                self._file = None

    def follow(self, stream: IO[str], heard: Callable[[str], None], name: str) -> threading.Thread:
        """Take in `stream` until it ends."""

        def read() -> None:
            with stream:
                for line in stream:
                    text = line.rstrip("\r\n")
                    self.write(text)
                    heard(text)

        thread = threading.Thread(target=read, name=f"log {name}", daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None
