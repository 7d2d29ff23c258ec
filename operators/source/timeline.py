"""The times of a source: from the clocks of the pieces it plays (a file's rounds, a stream's connections) to one pts that always rises.

Pure arithmetic on nanoseconds; it knows no files and no wall clock. Invariant: every pts it gives is greater than the last one.
"""

from __future__ import annotations

SECOND = 1_000_000_000
JUMP = 10 * SECOND


class Timeline:
    """Places frames. `origin`: time on the first piece's clock that is pts 0 (None: its first frame); `step`: ns between pieces."""

    def __init__(self, step: int, origin: int | None = 0) -> None:
        self.step = step
        self.last = -1
        self._shift = None if origin is None else -origin
        self._gap: int | None = None  # distance of the next frame to the last one, where a new piece starts
        self._cut = False

    def restart(self, gap: int | None = None) -> None:
        """A new piece begins: its first frame comes `gap` ns (default: one step) after the last one, behind a cut."""
        if self.last >= 0:
            self._gap, self._cut = max(gap or self.step, 1), True

    def place(self, when: int, elapsed: int | None = None) -> tuple[int, bool] | None:
        """(pts, cut) of a frame at `when` on its piece's clock; None for one that comes too late to be shown.

        `elapsed`: real ns since the frame before it, for a live stream: a time stamp that leaps ahead of it is pulled back.
        """
        if self._gap is not None:
            self._shift, self._gap = self.last + self._gap - when, None
        elif self._shift is None:
            self._shift = -when
        pts = when + self._shift
        if pts <= self.last:
            if self.last - pts <= SECOND:
                return None  # out of order within a piece
            self._shift += self.last + self.step - pts  # the piece's clock went back: joined recordings, a sender that restarted
            pts, self._cut = self.last + self.step, True
        elif elapsed is not None and self.last >= 0 and pts - self.last > elapsed + JUMP:
            self._shift += self.last + max(elapsed, 1) - pts
            pts = self.last + max(elapsed, 1)
        cut, self._cut, self.last = self._cut, False, pts
        return pts, cut
