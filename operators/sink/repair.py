"""The end of a fragmented mp4 that could not be finished: cut back to its last whole fragment.

Invariant: nothing but the broken tail is removed. It reads box headers (ISO/IEC 14496-12, 4.2), no samples.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path


def trim_fragments(path: Path) -> int:
    """Cut an incomplete last box off, and the `moof` it belongs to; returns how many bytes were removed."""
    total = os.path.getsize(path)
    at, moof = 0, None
    with path.open("r+b") as file:
        while at < total:
            file.seek(at)
            head = file.read(16)
            size, kind = struct.unpack(">I4s", head[:8]) if len(head) >= 8 else (0, b"")
            if size == 1 and len(head) == 16:
                (size,) = struct.unpack(">Q", head[8:])
            if size < 8 or at + size > total:
                keep = moof if kind == b"mdat" and moof is not None else at
                if keep > 0:
                    file.truncate(keep)
                    return total - keep
                return 0
            moof = at if kind == b"moof" else None
            at += size
    return 0
