"""Pooled memory that ZeroMQ reads.

Invariant: the leases behind a `Held` go back when the last reference to it goes, and not before: pyzmq keeps one from the moment it hands the
memory to ZeroMQ until ZeroMQ has let go of it. So nobody has to ask for every message whether it has been sent. Knows arrays and leases.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from engine.pool import Lease


class Held(np.ndarray[Any, Any]):
    """A view of an array with the leases of the memory that it shows. `hold` makes them; views of views hold nothing."""

    leases: tuple[Lease, ...] = ()
    among: set[int] | None = None

    def __del__(self) -> None:
        for lease in self.leases:
            lease.release()
        if self.among is not None:
            self.among.discard(id(self))


def hold(array: Any, leases: tuple[Lease, ...], among: set[int]) -> Held:
    """`array`, with `leases` that are given back when nobody needs it any more; until then it is `among` those that are in use."""
    held: Held = array.view(Held)
    held.leases, held.among = leases, among
    among.add(id(held))
    return held


def wait_for(among: set[int], seconds: float) -> bool:
    """Wait until all that were made `among` are gone; False where that takes too long. At the end only: pyzmq's own thread drops them."""
    deadline = time.monotonic() + seconds
    while among and time.monotonic() < deadline:
        time.sleep(0.001)
    return not among
