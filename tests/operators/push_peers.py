"""Peers of a sink that sends, in processes of their own, and a way to feed it in real time; used by the tests of pushing."""

from __future__ import annotations

import multiprocessing
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media_clips import numbered
from ports import free_port as free_port

from engine.clock import RealClock
from engine.payload import Image
from engine.testing import Bench

HERE = Path(__file__).parent
MS = 1_000_000
posix = pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="signals of POSIX only")


class Program:
    """A program of this folder, its lines read by a thread."""

    def __init__(self, name: str, *words: str) -> None:
        self.process = subprocess.Popen([sys.executable, str(HERE / name), *words], stdout=subprocess.PIPE, text=True)
        self.lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line.strip())

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.thread.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Receiver(Program):
    """tests/operators/receiver.py."""

    def __init__(self, url: str, format: str = "", *options: str) -> None:
        self.seen: list[tuple[int, int, int]] = []
        self.sound = 0
        super().__init__("receiver.py", url, format, *options)
        assert self.lines.get(timeout=30) == "ready"

    def _read(self) -> None:
        super()._read()
        self.lines.put("end")

    def until(self, count: int, seconds: float = 20.0) -> list[tuple[int, int, int]]:
        """All pictures seen so far, at least `count`; fewer where the sender ends first."""
        limit = time.monotonic() + seconds
        while len(self.seen) < count:
            line = self.lines.get(timeout=max(0.01, limit - time.monotonic()))
            if line == "end":
                break
            if line.startswith("sound"):
                self.sound = int(line.split()[1])
                continue
            number, ms, light = map(int, line.split())
            self.seen.append((number, ms, light))
        return self.seen

    def rest(self) -> list[tuple[int, int, int]]:
        return self.until(1 << 30)


@pytest.fixture
def receive() -> Iterator[Callable[..., Receiver]]:
    made: list[Receiver] = []

    def start(*args: str) -> Receiver:
        made.append(Receiver(*args))
        return made[-1]

    yield start
    for receiver in made:
        receiver.kill()


def listener(kind: str, port: int) -> tuple[str, tuple[str, ...]]:
    """Where a sink sends to, and how a receiver listens there."""
    here = f"127.0.0.1:{port}"
    return {
        "tcp": (f"tcp://{here}", (f"tcp://{here}?listen=1", "nut")),
        "udp": (f"udp://{here}", (f"udp://{here}?overrun_nonfatal=1&fifo_size=50000&timeout=2000000", "mpegts")),
        "rtmp": (f"rtmp://{here}/live/key", (f"rtmp://{here}/live/key", "flv", "listen=1")),
        "rtsp": (f"rtsp://{here}/live", (f"rtsp://{here}/live", "rtsp", "rtsp_flags=listen", "listen_timeout=10")),
    }[kind]


def sending(url: str, **params: Any) -> Bench:
    rate = params.pop("fps", 0.0)
    bench = Bench("sink.video", url=url, **{"site_live": True, "site_clock": RealClock(), "timeout": 2.0, **params})
    bench.params["fps"] = rate  # `fps` is the bench's own word
    return bench


class Feed:
    """Offers numbered pictures in real time, 25 a second, until a condition holds; notes the longest a call took."""

    def __init__(self, bench: Bench, picture: Callable[[int], np.ndarray] = lambda i: numbered(i, 90, 160)) -> None:
        self.bench, self.picture, self.count, self.slowest = bench, picture, 0, 0.0

    def until(self, done: Callable[[], bool], seconds: float = 30.0) -> None:
        limit, pause = time.monotonic() + seconds, threading.Event()
        while not done():
            assert time.monotonic() < limit, f"it did not happen in time: {self.bench.events}"
            self.one()
            pause.wait(0.04)

    def forever(self) -> None:
        """Until something raises."""
        self.until(lambda: False)

    def one(self) -> None:
        start = time.monotonic()
        self.bench(Image(self.picture(self.count)), pts=self.count * 40 * MS)
        self.bench.let_go()
        self.slowest, self.count = max(self.slowest, time.monotonic() - start), self.count + 1


class Watched(Feed):
    """Feeds as the runtime does: only when somebody wants the picture."""

    unwatched = 0

    def one(self) -> None:
        if self.bench.operator.wanted():
            super().one()
        else:
            self.count += 1
            self.unwatched += 1


def said(bench: Bench) -> list[str]:
    return [what for what, _ in bench.events]


def balanced(bench: Bench) -> dict[str, int]:
    counts: dict[str, int] = bench.operator.tally()
    assert counts["offered"] == counts["sent"] + counts.get("replaced", 0) + counts.get("lost", 0), counts
    return counts


def listens(port: int) -> None:
    """Wait until somebody listens, without connecting: a listening RTSP peer takes one caller only."""
    limit = time.monotonic() + 20
    while time.monotonic() < limit:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else it is this look that keeps the peer from listening
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return
        threading.Event().wait(0.02)
    raise AssertionError("nobody listens")


def nothing_left() -> None:
    assert multiprocessing.active_children() == []
    assert [t.name for t in threading.enumerate() if t.name.startswith("outlet")] == []
