"""Frame buffers: pools with leases, so that a running graph allocates nothing.

A `Lease` is one buffer with a count of its users; the buffer returns to its pool when the last user lets go. Poison mode fills a returned
buffer with a pattern, so that a reader that held on too long sees nonsense at once instead of another frame now and then.
The pool knows arrays of a shape and dtype; it knows neither packets nor nodes.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from engine.errors import RunError

if TYPE_CHECKING:
    import numpy as np

POISON = 0xA5


class Lease:
    """One buffer on loan. `retain` before handing it on, `release` when done; releasing once too often is a bug and raises."""

    __slots__ = ("_pool", "array", "users")

    def __init__(self, pool: FramePool, array: np.ndarray[Any, Any]) -> None:
        self._pool, self.array, self.users = pool, array, 1

    def retain(self) -> None:
        with self._pool.lock:
            if self.users <= 0:
                raise RunError("a frame buffer was used after it had been returned to its pool")
            self.users += 1

    def release(self) -> None:
        with self._pool.lock:
            self.users -= 1
            if self.users == 0:
                self._pool.take_back(self)
            elif self.users < 0:
                raise RunError("a frame buffer was returned to its pool twice")


class FramePool:
    """Buffers of one shape and dtype. Grows while warming up; `allocated` counts, and must stand still in steady state."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, *, poison: bool = False, pinned: bool = False) -> None:
        self.shape, self.dtype, self.poison, self.pinned = shape, dtype, poison, pinned
        self.lock = threading.Lock()
        self.free: list[Lease] = []
        self.allocated = 0
        self.loaned = 0

    def take(self) -> Lease:
        """A buffer with undefined content and one user."""
        import numpy as np

        with self.lock:
            self.loaned += 1
            # Poisoned buffers rest for as long as possible: whoever kept one then reads the pattern, not by luck the next frame.
            if len(self.free) > self.poison:
                lease = self.free.pop(0 if self.poison else -1)
                lease.users = 1
                return lease
            self.allocated += 1
        return Lease(self, _pinned(self.shape, self.dtype) if self.pinned else np.empty(self.shape, self.dtype))

    def take_back(self, lease: Lease) -> None:
        """Called by the lease, under the lock."""
        if self.poison:
            lease.array.view("uint8").fill(POISON)
        self.loaned -= 1
        self.free.append(lease)


def _pinned(shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """Memory that a GPU copies to while the host does something else; plain memory where there is no GPU."""
    import torch

    kind = getattr(torch, str(dtype))
    return torch.empty(shape, dtype=kind, pin_memory=torch.cuda.is_available()).numpy()


class Pools:
    """Every pool of one session, by shape and dtype; pinned ones by their node too, for nobody else may write where its copies still land."""

    def __init__(self, *, poison: bool = False) -> None:
        self.poison = poison
        self._pools: dict[tuple[tuple[int, ...], str, str], FramePool] = {}
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...], dtype: Any, pinned: str = "") -> Lease:
        """A buffer; `pinned`: the node that a GPU copies it for."""
        where = (shape, str(dtype), pinned)
        pool = self._pools.get(where)
        if pool is None:
            with self._lock:
                pool = self._pools.setdefault(where, FramePool(shape, dtype, poison=self.poison, pinned=bool(pinned)))
        return pool.take()

    @property
    def allocated(self) -> int:
        return sum(p.allocated for p in self._pools.values())

    @property
    def loaned(self) -> int:
        return sum(p.loaned for p in self._pools.values())
