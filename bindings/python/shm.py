"""Frames in shared memory on one host: a ring that one publisher writes and any number of readers look into (docs/wire.md, "Shared memory").

Invariant: a reader never takes a frame for whole that was overwritten while it read: every slot carries a mark that is looked at before and
after. A lease asks the publisher to leave a slot alone for a moment; it runs out by itself, so that a reader that froze or died holds
nothing up. The one who made a ring removes it; the rings of publishers that were killed are removed by the next one. Knows bytes and
places, no sockets and no frames' meaning.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import struct
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from .wire import Shm, WireError

MAGIC: Final = b"AFTRRING"
VERSION: Final = 1
HEAD: Final = struct.Struct("<8sIIIIQQQ")
"""Magic, version, slots, lease rows, 0, offset of the first slot, stride from slot to slot, bytes a slot can hold. Padded to 64 bytes."""
ROW: Final = struct.Struct("<QQQQ")
"""A reader's token (0: the row is free), its slot + 1 (0: none), until when (CLOCK_REALTIME ns), 0."""

ROWS: Final = 16
MARK: Final = 64
"""Bytes before a slot's data; its first eight are the mark."""
FIRST: Final = 64 + ROWS * ROW.size
WRITING: Final = (1 << 64) - 1
LEASE_S: Final = 1.0
"""How long a lease holds at most."""
PREFIX: Final = "afterimage-"
_DEV_SHM: Final = Path("/dev/shm")


class Overwritten(Exception):
    """The publisher has put a newer frame where this one was."""


def stride_of(slot_bytes: int) -> int:
    return MARK + -(-slot_bytes // 64) * 64


def offset_of(slot: int, slot_bytes: int) -> int:
    """Where the data of a slot begins; its mark is MARK bytes before."""
    return FIRST + slot * stride_of(slot_bytes) + MARK


def head_of(slots: int, slot_bytes: int) -> bytes:
    return HEAD.pack(MAGIC, VERSION, slots, ROWS, 0, FIRST, stride_of(slot_bytes), slot_bytes).ljust(64, b"\0")


def image_of(frames: Sequence[tuple[int, bytes]], slot_bytes: int) -> bytes:
    """The content of a ring as it lies in memory, one frame (mark, data) a slot: for tests of readers."""
    image = head_of(len(frames), slot_bytes) + bytes(ROWS * ROW.size)
    for mark, data in frames:
        image += struct.pack("<Q", mark).ljust(MARK, b"\0") + data.ljust(stride_of(slot_bytes) - MARK, b"\0")
    return image


_order = threading.Lock()


def _fence() -> None:
    """Keep what was stored or read before apart from what comes after. Two rounds: a release followed by an acquire is what orders both on
    processors that reorder (ARM); x86 would not need it."""
    for _ in range(2):
        _order.acquire()
        _order.release()


# ---------------------------------------------------------------- the publisher's side


class Ring:
    """A ring that this process writes. Used by one thread; `close` removes it, and readers that hold it keep what they have mapped."""

    def __init__(self, slot_bytes: int, slots: int = 8, name: str = "") -> None:
        from multiprocessing.shared_memory import SharedMemory

        sweep()
        self.slots, self.slot_bytes = slots, slot_bytes
        self.name = name or f"{PREFIX}{os.getpid()}-{secrets.token_hex(6)}"
        # Tracked on purpose: Python's resource tracker outlives a process that is killed, and removes the ring then.
        self._memory: Any = SharedMemory(self.name, create=True, size=FIRST + slots * stride_of(slot_bytes))
        self._lock = _hold(self.name)
        words: Any = np.frombuffer(self._memory.buf, "<u8")
        self._marks = words[FIRST // 8 :: stride_of(slot_bytes) // 8][:slots]
        self._rows = words[64 // 8 : FIRST // 8].reshape(ROWS, 4)
        self._bytes: Any = np.frombuffer(self._memory.buf, np.uint8)
        self._marks[:] = WRITING
        _fence()
        self._memory.buf[:64] = head_of(slots, slot_bytes)
        self._next = 0

    def begin(self) -> tuple[int, Any] | None:
        """The next slot that nobody has leased, marked as being written, with its bytes (a uint8 array); None while all are leased."""
        leased = self._leased()
        for step in range(self.slots):
            slot = (self._next + step) % self.slots
            if slot not in leased:
                self._next = (slot + 1) % self.slots
                self._marks[slot] = WRITING
                _fence()
                start = offset_of(slot, self.slot_bytes)
                return slot, self._bytes[start : start + self.slot_bytes]
        return None

    def commit(self, slot: int, mark: int, size: int) -> Shm:
        """Declare the slot whole; returns where it is, for the header."""
        _fence()
        self._marks[slot] = mark
        return Shm(self.name, slot, offset_of(slot, self.slot_bytes), size, mark)

    def write(self, mark: int, data: Any) -> Shm | None:
        """Copy an array into the next slot; None where every slot is leased."""
        found = self.begin()
        if found is None:
            return None
        slot, into = found
        np.copyto(into[: data.nbytes].view(data.dtype).reshape(data.shape), data)
        return self.commit(slot, mark, data.nbytes)

    def _leased(self) -> set[int]:
        rows = self._rows
        if not rows[:, 0].any():
            return set()
        now = time.time_ns()
        held = (rows[:, 0] != 0) & (rows[:, 1] != 0) & (rows[:, 2] > now) & (rows[:, 2] < now + round(2e9 * LEASE_S))
        return {int(slot) - 1 for slot in rows[held, 1]}

    def close(self) -> None:
        """Remove the ring. Its memory is given back when the last reader lets go."""
        if self._memory is None:
            return
        memory, self._memory = self._memory, None
        del self._marks, self._rows, self._bytes
        memory.unlink()
        with contextlib.suppress(BufferError):  # somebody in this process still looks at a slot
            memory.close()
        if self._lock is not None:
            os.close(self._lock)


def _hold(name: str) -> int | None:
    """A lock on the ring's file that the system lets go of when this process ends, however it ends; None where there is no such thing."""
    try:
        import fcntl

        fd = os.open(_DEV_SHM / name, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
    except (ImportError, OSError):
        return None
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def sweep() -> int:
    """Remove the rings of publishers that are gone without having cleaned up; returns how many. Linux only: elsewhere the system or
    Python's resource tracker does it."""
    try:
        import fcntl
    except ImportError:
        return 0
    count = 0
    for path in _DEV_SHM.glob(PREFIX + "*") if _DEV_SHM.is_dir() else ():
        try:
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # another user's, or gone already
        try:
            if time.time() - os.fstat(fd).st_mtime > 5:  # one that is being made has not been locked yet
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                count += 1
        except OSError:
            pass  # its publisher lives
        finally:
            os.close(fd)
    return count


# ---------------------------------------------------------------- the reader's side


class Rings:
    """The rings that a reader has mapped, by name. Used by one thread at a time; at most `most` stay mapped, the oldest go first."""

    def __init__(self, most: int = 4) -> None:
        self.most = most
        self._open: dict[str, _Mapped] = {}

    def copy(self, place: Shm, dtype: str, shape: tuple[int, ...], out: Any = None) -> Any:
        """A copy of the frame, into `out` where given. Raises Overwritten, WireError (the place is none) or FileNotFoundError (no ring)."""
        ring = self._ring(place)
        ring.check(place)
        out = np.empty(shape, dtype) if out is None else out
        np.copyto(out, ring.array(place, dtype, shape))
        ring.check(place)
        return out

    @contextlib.contextmanager
    def lease(self, place: Shm, dtype: str, shape: tuple[int, ...]) -> Iterator[Any]:
        """The frame where it lies, read-only, kept from being overwritten for LEASE_S seconds. Raises Overwritten on entering where it is gone
        already, and on leaving where it went while it was used (after a lease ran out): what was made of it is then to be thrown away."""
        ring = self._ring(place)
        row = ring.claim(place.slot)
        try:
            ring.check(place)
            array = ring.array(place, dtype, shape)
            array.flags.writeable = False
            yield array
            ring.check(place)
        finally:
            ring.leave(row)

    def _ring(self, place: Shm) -> _Mapped:
        ring = self._open.get(place.name)
        if ring is None:
            ring = _Mapped(place.name)
            while len(self._open) >= self.most:
                self._open.pop(next(iter(self._open))).close()
            self._open[place.name] = ring
        ring.holds(place)
        return ring

    def close(self) -> None:
        for ring in self._open.values():
            ring.close()
        self._open.clear()


class _Mapped:
    """One ring of somebody else."""

    def __init__(self, name: str) -> None:
        self._close, self.buffer = _attach(name)
        size = len(self.buffer)
        self.token = secrets.randbits(63) | 1
        self.row: int | None = None
        try:
            if size < FIRST:
                raise WireError("shm.name", f"{name} is no ring of frames")
            magic, version, self.slots, rows, _, first, self.stride, self.slot_bytes = HEAD.unpack_from(self.buffer)
            if magic != MAGIC or version != VERSION or rows != ROWS or first != FIRST:
                raise WireError("shm.name", f"{name} is no ring of frames of version {VERSION}")
            if self.stride != stride_of(self.slot_bytes) or FIRST + self.slots * self.stride > size:
                raise WireError("shm.name", f"{name} is shorter than it says")
        except BaseException:
            self._close()
            raise
        self.words: Any = np.frombuffer(self.buffer, "<u8", count=size // 8)

    def holds(self, place: Shm) -> None:
        if place.slot >= self.slots or place.offset != offset_of(place.slot, self.slot_bytes) or place.bytes > self.slot_bytes:
            raise WireError("shm", f"there is no slot {place.slot} of {place.bytes} bytes at {place.offset}")

    def check(self, place: Shm) -> None:
        _fence()
        if int(self.words[(place.offset - MARK) // 8]) != place.mark:
            raise Overwritten(f"frame {place.mark} is no longer in slot {place.slot}")

    def array(self, place: Shm, dtype: str, shape: tuple[int, ...]) -> Any:
        return np.frombuffer(self.buffer, dtype, count=place.bytes // np.dtype(dtype).itemsize, offset=place.offset).reshape(shape)

    def claim(self, slot: int) -> int | None:
        """A row of the lease table with this slot in it; None where all rows are taken: the mark alone protects then."""
        rows = self.words[64 // 8 : FIRST // 8].reshape(ROWS, 4)
        if not rows.flags.writeable:
            return None
        now = time.time_ns()
        mine = [] if self.row is None else [self.row]
        for row in [*mine, *range(ROWS)]:
            if rows[row, 0] in (0, self.token) or int(rows[row, 2]) + round(4e9 * LEASE_S) < now:  # free, ours, or of somebody long gone
                rows[row] = (self.token, slot + 1, now + round(1e9 * LEASE_S), 0)
                _fence()
                if rows[row, 0] == self.token:
                    self.row = row
                    return row
        return None

    def leave(self, row: int | None) -> None:
        if row is not None and self.words[8 + row * 4] == self.token:
            self.words[8 + row * 4 + 1] = 0

    def close(self) -> None:
        if self.row is not None and self.words[8 + self.row * 4] == self.token:
            self.words[8 + self.row * 4 : 8 + self.row * 4 + 4] = 0
        del self.words, self.buffer
        self._close()


def _attach(name: str) -> tuple[Any, Any]:
    """(how to let go, the memory) of a ring that exists. Never makes it ours to remove. Raises FileNotFoundError."""
    path = _DEV_SHM / name
    if sys.platform == "linux" and _DEV_SHM.is_dir():
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            memory = mmap.mmap(fd, os.fstat(fd).st_size)
        finally:
            os.close(fd)
        return _letting_go(memory), memory
    from multiprocessing.shared_memory import SharedMemory

    if sys.version_info >= (3, 13):
        block: Any = SharedMemory(name, track=False)
    else:  # before 3.13 the reader's resource tracker would remove the ring when the reader ends
        block = SharedMemory(name)
        if os.name == "posix":
            from multiprocessing import resource_tracker

            resource_tracker.unregister(block._name, "shared_memory")
    return _letting_go(block), block.buf


def _letting_go(memory: Any) -> Any:
    def close() -> None:
        with contextlib.suppress(BufferError):  # an array still looks into it: it goes when that goes
            memory.close()

    return close


def names() -> Iterable[str]:
    """The rings that exist on this host, where the system lists them."""
    return sorted(path.name for path in _DEV_SHM.glob(PREFIX + "*")) if _DEV_SHM.is_dir() else []
