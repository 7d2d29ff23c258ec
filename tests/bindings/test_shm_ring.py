"""The ring in shared memory: whole frames or none, leases, and what is left when either side dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from zmq_peers import ROOT, until

from bindings.python import shm
from bindings.python.shm import Overwritten, Ring, Rings
from bindings.python.wire import Shm, WireError

SHAPE = (64, 64, 3)
LISTS = Path("/dev/shm").is_dir()
linux = pytest.mark.skipif(not LISTS, reason="this system does not list shared memory")


def flat(number: int) -> Any:
    return np.full(SHAPE, number, np.uint8)


@pytest.fixture
def ring() -> Any:
    ring = Ring(flat(0).nbytes, slots=3)
    yield ring
    ring.close()


@pytest.fixture
def rings() -> Any:
    rings = Rings()
    yield rings
    rings.close()


def test_frames_come_back(ring: Ring, rings: Rings) -> None:
    for mark in range(7):
        place = ring.write(mark, flat(mark))
        assert place is not None
        assert place.mark == mark
        assert (rings.copy(place, "uint8", SHAPE) == mark).all()


def test_other_arrays_than_bytes(rings: Rings) -> None:
    latent = np.arange(4 * 6 * 8, dtype=np.float16).reshape(1, 4, 6, 8)
    ring = Ring(latent.nbytes)
    place = ring.write(0, latent)
    assert place is not None
    assert (rings.copy(place, "float16", latent.shape) == latent).all()
    ring.close()


def test_a_frame_that_is_gone(ring: Ring, rings: Rings) -> None:
    places = [ring.write(mark, flat(mark)) for mark in range(4)]  # three slots
    with pytest.raises(Overwritten):
        rings.copy(places[0], "uint8", SHAPE)  # type: ignore[arg-type]
    assert (rings.copy(places[1], "uint8", SHAPE) == 1).all()  # type: ignore[arg-type]


def test_a_frame_that_is_being_written(ring: Ring, rings: Rings) -> None:
    place = ring.write(5, flat(5))
    assert place is not None
    for _ in range(2):
        ring.write(6, flat(6))
    ring.begin()
    with pytest.raises(Overwritten):
        rings.copy(place, "uint8", SHAPE)


def test_a_frame_overwritten_while_it_is_read(ring: Ring, rings: Rings) -> None:
    """Also under a lease: one that has run out protects nothing, and the reader learns of it."""
    place = ring.write(0, flat(0))
    assert place is not None
    lease = rings.lease(place, "uint8", SHAPE)
    lease.__enter__()
    ring._rows[:, 2] = time.time_ns() - 1  # a second later
    for mark in range(1, 4):
        ring.write(mark, flat(mark))
    with pytest.raises(Overwritten):
        lease.__exit__(None, None, None)


def test_a_lease_keeps_the_frame(ring: Ring, rings: Rings) -> None:
    place = ring.write(0, flat(0))
    assert place is not None
    with rings.lease(place, "uint8", SHAPE) as array:
        slots = [ring.write(mark, flat(mark)).slot for mark in range(1, 9)]  # type: ignore[union-attr]
        assert place.slot not in slots
        assert (array == 0).all()
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 1
    assert place.slot in [ring.write(mark, flat(mark)).slot for mark in range(9, 13)]  # type: ignore[union-attr]


def test_when_everything_is_leased_nothing_is_written(ring: Ring) -> None:
    readers = [Rings() for _ in range(3)]
    leases = []
    for mark, reader in enumerate(readers):
        place = ring.write(mark, flat(mark))
        leases.append(reader.lease(place, "uint8", SHAPE))  # type: ignore[arg-type]
        leases[-1].__enter__()
    assert ring.write(3, flat(3)) is None
    leases[1].__exit__(None, None, None)
    assert ring.write(3, flat(3)) is not None
    for lease in (leases[0], leases[2]):
        lease.__exit__(None, None, None)
    for reader in readers:
        reader.close()


def test_a_lease_of_the_far_future_is_none(ring: Ring, rings: Rings) -> None:
    """Nobody can hold a slot for ever by writing a large number."""
    place = ring.write(0, flat(0))
    assert place is not None
    lease = rings.lease(place, "uint8", SHAPE)
    lease.__enter__()
    ring._rows[:, 2] = 2**63 - 1
    for mark in range(1, 4):
        assert ring.write(mark, flat(mark)) is not None
    with pytest.raises(Overwritten):
        lease.__exit__(None, None, None)


def test_never_half_a_frame(ring: Ring, rings: Rings) -> None:
    """A writer that never rests, a reader that never looks twice: every frame that is taken is one frame."""
    places: list[Shm] = []
    stop = threading.Event()

    def write() -> None:
        mark = 0
        while not stop.is_set():
            places.append(ring.write(mark, flat(mark % 251)))  # type: ignore[arg-type]
            mark += 1

    writer = threading.Thread(target=write)
    writer.start()
    whole = gone = 0
    try:
        until(lambda: places)
        for _ in range(3000):
            place = places[-1]
            try:
                found = rings.copy(place, "uint8", SHAPE)
            except Overwritten:
                gone += 1
                continue
            whole += 1
            assert (found == place.mark % 251).all()
    finally:
        stop.set()
        writer.join()
    assert whole


@pytest.mark.parametrize(
    "change",
    [{"slot": 3}, {"offset": shm.FIRST}, {"offset": shm.FIRST + 64 + 8}, {"bytes": 10**9}, {"slot": 1}],
    ids=["slot", "mark", "between", "bytes", "other slot"],
)
def test_places_outside_the_ring(ring: Ring, rings: Rings, change: dict[str, int]) -> None:
    place = ring.write(0, flat(0))
    assert place is not None
    fields = {"name": place.name, "slot": 0, "offset": place.offset, "bytes": place.bytes, "mark": 0, **change}
    with pytest.raises(WireError):
        rings.copy(Shm(**fields), "uint8", SHAPE)


@linux
def test_memory_that_is_no_ring(rings: Rings) -> None:
    for name, data in (("afterimage-test-short", b"x"), ("afterimage-test-other", bytes(10_000))):
        path = Path("/dev/shm") / name
        path.write_bytes(data)
        try:
            with pytest.raises(WireError, match="no ring"):
                rings.copy(Shm(name, 0, shm.FIRST + 64, 100, 0), "uint8", (10, 10))
        finally:
            path.unlink()


def test_a_ring_that_is_not_there(rings: Rings) -> None:
    with pytest.raises(FileNotFoundError):
        rings.copy(Shm("afterimage-nobody", 0, shm.FIRST + 64, 100, 0), "uint8", (10, 10))


@linux
def test_closing_removes_it_and_leaves_what_is_mapped(rings: Rings) -> None:
    ring = Ring(100)
    place = ring.write(0, np.full(100, 7, np.uint8))
    assert place is not None
    assert (rings.copy(place, "uint8", (100,)) == 7).all()
    assert ring.name in shm.names()
    ring.close()
    ring.close()
    assert ring.name not in shm.names()
    assert (rings.copy(place, "uint8", (100,)) == 7).all()


READ = """
import sys
from bindings.python.shm import Rings
from bindings.python.wire import Shm
place = Shm(sys.argv[1], 0, int(sys.argv[2]), int(sys.argv[3]), 0)
rings = Rings()
print(int(rings.copy(place, "uint8", (place.bytes,)).max()), flush=True)
with rings.lease(place, "uint8", (place.bytes,)):
    if len(sys.argv) > 4:
        sys.stdin.read()
"""


def reader(place: Shm, *more: str) -> subprocess.Popen[str]:
    args = [sys.executable, "-c", READ, place.name, str(place.offset), str(place.bytes), *more]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


@linux
def test_a_reader_that_ends_leaves_the_ring_to_its_owner(ring: Ring) -> None:
    """Before Python 3.13 the reader's resource tracker would remove it."""
    place = ring.write(0, flat(9))
    assert place is not None
    with reader(place) as peer:
        out, errors = peer.communicate(timeout=30)
    assert (out.strip(), errors) == ("9", "")
    assert ring.name in shm.names()


@linux
def test_a_reader_that_is_killed_holds_nothing_up(ring: Ring) -> None:
    place = ring.write(0, flat(9))
    assert place is not None
    with reader(place, "wait") as peer:
        assert peer.stdout is not None
        assert peer.stdout.readline().strip() == "9"
        until(lambda: ring._leased() == {0})
        peer.kill()
    assert 0 in ring._leased()  # it could not say that it is done
    until(lambda: not ring._leased(), 5)  # but nobody has to ask it
    assert {ring.write(mark, flat(1)).slot for mark in range(1, 4)} == {0, 1, 2}  # type: ignore[union-attr]


WRITE = """
import os, signal, sys
import numpy as np
from bindings.python.shm import Ring
ring = Ring(1000)
print(ring.name, flush=True)
sys.stdin.read()
"""


@linux
@pytest.mark.parametrize("everyone", [False, True], ids=["it alone", "with its resource tracker"])
def test_a_publisher_that_is_killed_leaves_no_ring(everyone: bool) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", WRITE], **pipes, text=True, env=env, start_new_session=True) as peer:
        assert peer.stdout is not None
        name = peer.stdout.readline().strip()
        assert name in shm.names()
        if everyone:
            os.killpg(peer.pid, signal.SIGKILL)
        else:
            peer.kill()
    if everyone:  # nobody is left who could tidy up: the next publisher does
        assert name in shm.names()
        old = time.time() - 60
        os.utime(Path("/dev/shm") / name, (old, old))
        Ring(100).close()
        assert name not in shm.names()
    else:
        until(lambda: name not in shm.names())


@linux
def test_the_rings_of_the_living_are_left_alone() -> None:
    ring = Ring(100)
    old = time.time() - 60
    os.utime(Path("/dev/shm") / ring.name, (old, old))
    assert shm.sweep() == 0
    assert ring.name in shm.names()
    ring.close()
