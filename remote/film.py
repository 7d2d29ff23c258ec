"""The page's record button: the shown picture into a video file, on a thread of its own.

Invariant: recording delays nobody. It takes the newest picture when it is ready for one, and counts those that it missed; whatever ends it, the
file plays up to the last picture written. It knows mailboxes and the video writer, no sockets.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import MediaError

if TYPE_CHECKING:
    from operators.sink.tap import Mailbox

WAIT_S = 0.25


class Film:
    """One recording, from its construction to `stop`. Raises MediaError where the folder cannot be made."""

    def __init__(self, box: Mailbox, folder: Path, name: str, *, tell: Callable[..., None] = lambda **facts: None) -> None:
        self.box, self.path = box, _free(folder, name)
        self.frames = self.missed = 0
        self.fault = ""
        self.began = time.monotonic()
        self._tell = tell
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="preview film", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def stop(self, timeout: float = 10.0) -> None:
        """Finish the file."""
        self._stop.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        from operators.sink.writer import Target, Writer

        writer: Any = None
        try:
            with self.box.watching():
                count, zero, size = self.box.count, 0, (0, 0)
                while not self._stop.is_set():
                    seen = self.box.next(count, WAIT_S)
                    if seen is None:
                        if self.box.ended and self._stop.wait(WAIT_S):
                            break
                        continue
                    if writer is None:
                        zero, size = seen.born, seen.picture.shape[:2]
                        target = Target(str(self.path), "mp4", live=True, speed="fast", fps=30.0)
                        writer = Writer(target, *size)
                    elif seen.picture.shape[:2] != size:
                        height, width = seen.picture.shape[:2]
                        self._tell(size=f"{width}x{height}", done="the recording ends with the size of its picture")
                        break
                    self.missed += seen.count - count - 1
                    count = seen.count
                    writer.write(seen.picture, max(0, seen.born - zero))
                    self.frames += 1
        except Exception as error:  # a full disk ends the recording, never the run
            self.fault = str(error)
            self._tell(fault=self.fault)
        finally:
            if writer is not None:
                try:
                    writer.close()
                except Exception as error:
                    self.fault = self.fault or str(error)
            self._tell(path=str(self.path), frames=self.frames, missed=self.missed)


def _free(folder: Path, name: str) -> Path:
    """A path in `folder` that is not taken yet."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(f"the folder {folder} cannot be made: {error.strerror}", fix="write to another folder") from error
    stem = re.sub(r"[^\w-]+", "_", name) + time.strftime("-%Y%m%d-%H%M%S")
    paths = (folder / f"{stem}{f'-{n}' if n else ''}.mp4" for n in range(1000))
    return next(path for path in paths if not path.exists())
