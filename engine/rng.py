"""Random numbers keyed by (graph seed, node, epoch, seq).

A key depends on nothing but its four parts, so a dropped frame never shifts the noise of the next one, and a replay draws the same numbers.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def key(seed: int, node: str, epoch: int, seq: int) -> int:
    """A 63-bit key (BLAKE2b of the four parts): fits torch's and NumPy's seeds."""
    text = f"{seed}\x1f{node}\x1f{epoch}\x1f{seq}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def generator(seed: int, node: str, epoch: int, seq: int) -> np.random.Generator:
    """A NumPy generator (PCG64) for one node and frame."""
    import numpy as np

    return np.random.Generator(np.random.PCG64(key(seed, node, epoch, seq)))
