"""Keeps a native library's chatter off the screen, and nothing else.

While `quiet()` lasts, what the process writes to its error stream is set aside; afterwards it is written out after all, less the lines that
match a known remark. So a real error still shows, a moment late.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator

# Said on every start by MediaPipe and TensorFlow Lite, about their own models; nothing that a user could act on.
REMARKS = re.compile(
    rb"Created TensorFlow Lite XNNPACK delegate|inference_feedback_manager|landmark_projection_calculator|Logging before InitGoogle"
    rb"|All log messages before absl::InitializeLog"
)

_lock = threading.Lock()


@contextlib.contextmanager
def quiet(remarks: re.Pattern[bytes] = REMARKS) -> Iterator[None]:
    """Leave out lines that match `remarks` from what the process writes to its error stream inside the block."""
    if not _lock.acquire(blocking=False):  # somebody else is at it already
        yield
        return
    try:
        with tempfile.TemporaryFile() as aside:
            try:
                sys.stderr.flush()
                kept = os.dup(2)
            except (OSError, AttributeError, ValueError):  # no error stream at all, as in a windowed program
                yield
                return
            os.dup2(aside.fileno(), 2)
            try:
                yield
            finally:
                with contextlib.suppress(OSError, AttributeError, ValueError):
                    sys.stderr.flush()
                os.dup2(kept, 2)
                os.close(kept)
                aside.seek(0)
                rest = b"".join(line for line in aside if line.strip() and not remarks.search(line))
                if rest:
                    with contextlib.suppress(OSError):
                        os.write(2, rest)
    finally:
        _lock.release()
