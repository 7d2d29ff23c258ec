"""Which files have changed since somebody last looked.

Looked at by name, not by handle: an editor that writes a new file and renames it over the old one, a link that is set anew, a file that is
gone for a moment, all show. A change is told once the files have been still for a moment, so that a half-written file is not read. Polling
a handful of names costs microseconds and works on every system and every file system; it knows nothing of graphs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

STILL_S = 0.15  # without a further change
GONE_S = 1.0  # how long a file may be missing before that counts as its change

Stamp = tuple[int, int, int] | None  # mtime in ns, size, inode; None: not there


class Watch:
    """Watches `files`. `changed` is cheap and meant to be called often, from one thread."""

    def __init__(self, files: Iterable[str | os.PathLike[str]], *, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self.files: tuple[Path, ...] = ()
        self._known: dict[Path, Stamp] = {}
        self._seen: dict[Path, Stamp] = {}
        self._since: float | None = None  # when the change that is not told yet was last seen to go on
        self.follow(files)

    def follow(self, files: Iterable[str | os.PathLike[str]]) -> None:
        """Watch these from now on; those that were watched before keep what is known of them."""
        self.files = tuple(dict.fromkeys(Path(file) for file in files))
        self._known = {file: self._known[file] if file in self._known else stamp(file) for file in self.files}

    def changed(self) -> list[Path]:
        """The files that have changed and are still now; empty most of the time. A change is told once."""
        seen = {file: stamp(file) for file in self.files}
        if seen == self._known:
            self._since = None  # nothing, or back to what it was
            return []
        if self._since is None or seen != self._seen:
            self._seen, self._since = seen, self.now()
            return []
        missing = any(now is None and self._known[file] is not None for file, now in seen.items())
        if self.now() - self._since < (GONE_S if missing else STILL_S):
            return []
        changed = [file for file in self.files if seen[file] != self._known[file]]
        self._known, self._since = seen, None
        return changed


def stamp(file: Path) -> Stamp:
    """What tells one content of a file from another without reading it."""
    try:
        found = os.stat(file)
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
