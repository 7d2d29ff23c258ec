"""Peers for the tests of the wire: a hand-driven publisher, subscribers in processes of their own, and what is left of threads and sockets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from bindings.python import wire

ROOT = Path(__file__).resolve().parent.parent
SRGB = {"space": "srgb", "order": "rgb"}
PATIENCE = 40.0


def until(check: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """The first true value of `check`, polled; fails the test where it stays false."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)
    return found


class Publisher:
    """A publisher as another program would write it, driven by hand: every header field can be wrong."""

    def __init__(self, stream: str = "live", url: str = "tcp://127.0.0.1:*", run: str = "0123456789abcdef") -> None:
        self.stream, self.run, self.n = stream, run, 0
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.XPUB)
        self.socket.setsockopt(zmq.XPUB_VERBOSER, 1)
        self.socket.setsockopt(zmq.SNDHWM, 1000)
        self.socket.bind(url)
        self.url = self.socket.getsockopt(zmq.LAST_ENDPOINT).decode()

    def joined(self, count: int = 1) -> None:
        """Wait for so many subscriptions; those who leave do not count."""
        while count:
            assert self.socket.poll(PATIENCE * 1000), "nobody subscribed"
            count -= self.socket.recv()[:1] == b"\1"

    def header(self, value: Any, **more: Any) -> wire.Frame:
        now = time.time_ns()
        fields: dict[str, Any] = {
            "stream": self.stream, "run": self.run, "n": self.n, "sent": now, "seq": self.n, "epoch": 0, "pts": self.n * 1_000_000, "born": now,
            "type": "Image", "enc": "raw", "dtype": str(value.dtype), "shape": value.shape, "layout": "hwc", "color": SRGB,
            "size": (value.nbytes,),
        }  # fmt: skip
        return wire.Frame(**{**fields, **more})

    def frame(self, value: Any, payload: Any = None, **more: Any) -> wire.Frame:
        header = self.header(value, **more)
        parts = [value.tobytes()] if payload is None else payload
        self.send(wire.encode(header), *parts)
        self.n = header.n + 1
        return header

    def beat(self, state: str = "online") -> None:
        self.send(wire.encode(wire.Beat(stream=self.stream, run=self.run, n=self.n, sent=time.time_ns(), fps=1.0, state=state)))

    def end(self, reason: str = "eof") -> None:
        self.send(wire.encode(wire.End(stream=self.stream, run=self.run, n=self.n, sent=time.time_ns(), reason=reason)))

    def send(self, *parts: bytes) -> None:
        self.socket.send_multipart([self.stream.encode() + b"/", *parts])

    def close(self) -> None:
        self.context.destroy(linger=500)

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def flat(number: int, size: tuple[int, int] = (8, 12)) -> Any:
    """A picture whose every byte is `number` % 251."""
    return np.full((*size, 3), number % 251, np.uint8)


WATCH = """
import json, sys, time
from bindings.python import Subscriber
options = json.loads(sys.argv[1])
sleep, limit = options.pop("sleep", 0), options.pop("limit", 10**9)
with Subscriber(**options) as frames:
    print(json.dumps({"ready": True}), flush=True)
    for count, frame in enumerate(frames):
        value = frame.array
        print(json.dumps({
            "n": frame.n, "seq": frame.seq, "epoch": frame.epoch, "gap": frame.gap, "restarted": frame.restarted, "at": time.time_ns(),
            "born": frame.header.born, "low": int(value.min()), "high": int(value.max()),
        }), flush=True)
        if count + 1 >= limit:
            break
        time.sleep(sleep)
    print(json.dumps({"end": frames.end.reason if frames.end else "", "counts": frames.stats()}), flush=True)
"""


class Watcher:
    """A subscriber in a process of its own. `lines` grows with what it tells: one map a frame."""

    def __init__(self, url: str, **options: Any) -> None:
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", WATCH, json.dumps({"url": url, **options})], stdout=subprocess.PIPE, text=True, env=env, cwd=ROOT
        )
        self.lines: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._read, name="watcher", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(json.loads(line))

    @property
    def frames(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if "n" in line]

    def ready(self) -> Watcher:
        until(lambda: self.lines)
        return self

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        self._thread.join(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def ours() -> list[str]:
    """Names of the threads that publishers, subscribers and lanes have running."""
    names = [thread.name for thread in threading.enumerate()]
    return sorted(name for name in names if name.startswith(("publish", "subscribe", "lane", "zap", "Authent")))


def descriptors() -> list[str]:
    """What this process has open, where the system tells."""
    found = []
    here = Path("/proc/self/fd")
    for link in os.listdir(here) if here.is_dir() else ():
        with suppress(OSError):
            found.append(f"{link} {os.readlink(here / link)}")
    return found


@contextmanager
def nothing_left() -> Iterator[None]:
    """No thread and no descriptor more after the block than before it."""
    with zmq.Context() as context, context.socket(zmq.PAIR) as one, context.socket(zmq.PAIR) as two:
        one.bind("inproc://warm")  # pyzmq's own helpers for sending without copying live as long as the process
        two.connect("inproc://warm")
        tracker = one.send(bytes(zmq.COPY_THRESHOLD + 1), copy=False, track=True)
        two.recv()
        tracker.wait(PATIENCE)
    threads, files = ours(), descriptors()
    yield
    until(lambda: ours() == threads)
    try:
        until(lambda: len(descriptors()) <= len(files))
    except AssertionError:
        raise AssertionError(f"left open: {sorted(set(descriptors()) - set(files))}") from None
