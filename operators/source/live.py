"""A stream that is held on to: when the peer goes away or freezes, connect again, and go on behind a cut with times that still rise.

Invariant: the session's stop is noticed within a tenth of a second, whatever the peer does; attempts are spaced (doubling, capped, with
jitter) and counted, and a peer that stays away ends the run with one clear error. It knows connections and times, no pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from engine.errors import MediaError
from operators.source.drain import Drain
from operators.source.timeline import SECOND, Timeline

if TYPE_CHECKING:
    import av

    from engine.site import Site
    from operators.source.reader import Reader

TICK = 0.1  # s between looks at the session's stop
FIRST_WAIT, LONGEST_WAIT = 0.25, 2.0  # s; a server on a LAN is back long before a longer wait would end
GOOD = 25  # frames after which a connection counts as sound and the attempts before it are forgotten


class Live:
    """Frames of `address` for as long as the session runs. `patience`: s without a frame after which the connection is given up."""

    def __init__(self, site: Site, url: str, reader: Reader, connect: Callable[[], Reader], *, patience: float, max_reconnects: int) -> None:
        self.site, self.url, self.connect, self.patience, self.max_reconnects = site, url, connect, patience, max_reconnects
        self.timeline = Timeline(round(SECOND / (reader.fps or 25.0)), origin=None)
        self.drain = Drain(reader, site.clock, lossy=site.live)
        self.skipped = 0

    def frames(self) -> Iterator[tuple[av.VideoFrame, int, int, bool]]:
        """(frame, pts, capture time, cut), without end."""
        good = failures = 0
        idle, born = 0.0, 0
        lost = False
        while not self.site.stopping:
            item = self.drain.take(TICK)
            if item is not None:
                frame, when, now = item
                if lost:
                    self.timeline.restart(now - born)
                    self.site.event("reconnected", url=self.url, attempts=failures, gap_s=round((now - born) / SECOND, 3))
                placed = self.timeline.place(when, now - born if born else None)
                idle, born, lost, good = 0.0, now, False, good + 1
                if good >= GOOD:
                    failures = 0
                if placed is not None:
                    yield frame, placed[0], now, placed[1]
                continue
            idle += TICK
            dry = self.drain.dry
            if not dry and idle < self.patience:
                continue
            why = self.drain.error.message if self.drain.error else "it ended" if dry else f"no frame for {idle:.0f} s"
            self._leave()
            failures += 1
            if 0 <= self.max_reconnects < failures:
                raise MediaError(f"{self.url} is lost, and {self.max_reconnects} attempts to reach it again failed; the last: {why}")
            self.site.event("lost", url=self.url, why=why, attempt=failures)
            if not self._wait(failures):
                return
            good, idle, lost = 0, 0.0, True
            self.drain = Drain(self.connect, self.site.clock, lossy=self.site.live)

    def _wait(self, failures: int) -> bool:
        """Hold off before the next attempt; False where the session stops."""
        wait = min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(failures - 1, 16)) * self.site.rng(failures).uniform(0.75, 1.25)
        return self.site.sleep_until(self.site.clock.now() + round(wait * SECOND))

    def _leave(self) -> None:
        self.drain.stop()
        self.skipped += self.drain.skipped

    def close(self) -> None:
        self.drain.stop(0.5)
        skipped = self.skipped + self.drain.skipped
        if skipped:
            self.site.event("skipped", url=self.url, frames=skipped, why="newer ones had come before they were asked for")
