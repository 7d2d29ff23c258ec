"""A thread that empties a live stream, so that what a slow graph gets next is the newest picture and not the oldest one in a socket.

Invariant: at most `keep` decoded frames wait; where the graph may lose frames the oldest gives way and is counted, elsewhere the reading
waits. The thread owns its container from the first read on and closes it itself, because nothing can interrupt FFmpeg in the middle of a
read except the read's own time limit. It knows frames and errors, not when to try again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.clock import Clock
from engine.errors import EngineError, MediaError

if TYPE_CHECKING:
    import av

    from operators.source.reader import Reader


class Drain:
    """Frames of one connection. `reader`: an open one, or how to open it; `lossy`: keep the newest only."""

    def __init__(self, reader: Reader | Callable[[], Reader], clock: Clock, *, lossy: bool, keep: int = 8) -> None:
        self._reader, self._clock, self._lossy, self._keep = reader, clock, lossy, 1 if lossy else keep
        self._frames: deque[tuple[av.VideoFrame, int, int]] = deque()
        self._changed = threading.Condition()
        self._stop = False
        self.error: EngineError | None = None
        self.finished = False
        self.skipped = 0
        self.damaged = 0
        self._thread = threading.Thread(target=self._run, name="drain", daemon=True)
        self._thread.start()

    @property
    def dry(self) -> bool:
        """Whether the connection has ended and all that came through it was taken."""
        with self._changed:
            return self.finished and not self._frames

    def take(self, seconds: float) -> tuple[av.VideoFrame, int, int] | None:
        """The next (frame, ns on its clock, capture time), waited for `seconds` at most; None where none came."""
        with self._changed:
            if not self._frames and not self.finished:
                self._changed.wait(seconds)
            if not self._frames:
                return None
            item = self._frames.popleft()
            self._changed.notify_all()
            return item

    def stop(self, seconds: float = 0.0) -> None:
        """Ask the thread to end and wait for it; one that is stuck in a read ends when the read's time limit is over."""
        with self._changed:
            self._stop = True
            self._frames.clear()
            self._changed.notify_all()
        if seconds:
            self._thread.join(seconds)

    def _run(self) -> None:
        reader = None
        try:
            reader = self._reader() if callable(self._reader) else self._reader
            for frame, when in reader.decoded():
                if not self._put((frame, when, self._clock.now())):
                    return
            self.damaged = reader.damaged
        except EngineError as error:
            self.error = error
        except Exception as error:
            self.error = MediaError(f"reading the stream failed: {type(error).__name__}: {error}")
        finally:
            if reader is not None:
                reader.close()
            with self._changed:
                self.finished = True
                self._changed.notify_all()

    def _put(self, item: tuple[av.VideoFrame, int, int]) -> bool:
        with self._changed:
            while len(self._frames) >= self._keep and not self._stop:
                if self._lossy:
                    self._frames.popleft()
                    self.skipped += 1
                else:
                    self._changed.wait()
            if self._stop:
                return False
            self._frames.append(item)
            self._changed.notify_all()
            return True
