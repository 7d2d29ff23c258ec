"""What it costs to publish pictures of 512 x 512 to another process, and how old a frame is that a slow subscriber gets.

Ours is a whole offline graph, a source with pooled buffers and a lossless `sink.zmq`: engine, header and leases included. Baselines in the same
run, each a bare pyzmq loop (XPUB, multipart with a MessagePack header, waiting for its subscriber): without copying, one array again and
again; the same from a ring of HWM + 2 arrays, as a program must whose pictures differ, or it writes over what has not been sent; with copies;
and `send_pyobj`. All arrays are made and written to before the clock starts: memory that never was written is one page of zeros to the kernel.
Frames a second are counted by the receiving process, from its first frame to its last; CPU time is the sending process's, ZeroMQ's threads
included. The `floor` is what no publisher in this engine can go below: the bare loop, and a graph of the same source with a sink that does
nothing. Ratios are medians over the rounds, each of ours to theirs within a round.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import msgpack
import numpy as np
import zmq

from bench.common import arguments, cpu_seconds, median, report, rounds
from engine.graph import GraphBuilder
from engine.operator import HOST_RGB, Operator, Stamped, operator
from engine.payload import Image
from engine.planning.compile import compile
from engine.session import Session

ROOT = Path(__file__).resolve().parent.parent
SHAPE = (512, 512, 3)
HWM = 64
LEVEL = 7  # of every byte of the pictures
PERIOD_MS = 1000 / 30
SLEEP_S = 0.1

RECEIVE = """
import json, pickle, sys, time, zmq
context = zmq.Context()
for line in sys.stdin:
    order = json.loads(line)
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.RCVHWM, 64)
    socket.setsockopt(zmq.SUBSCRIBE, b"")
    socket.connect(order["url"])
    seen, cpu = 0, time.process_time()
    while seen < order["frames"]:
        if order["pickled"]:
            socket.recv_pyobj()
        elif len(socket.recv_multipart(copy=False)) < 3:
            continue
        seen += 1
        if seen == 1:
            begun = time.perf_counter()
    seconds = time.perf_counter() - begun
    print(json.dumps({"fps": (seen - 1) / seconds, "rx_cpu_ms": (time.process_time() - cpu) / seen * 1e3}), flush=True)
    socket.close(0)
"""

SLOW = """
import json, sys, time
from bindings.python import Subscriber
ages = []
with Subscriber(sys.argv[1]) as frames:
    for frame in frames:
        ages.append(frame.age_now_ms())
        if len(ages) == int(sys.argv[2]):
            break
        time.sleep(float(sys.argv[3]))
print(json.dumps(ages[3:]))
"""

NAIVE = """
import json, sys, time, msgpack, zmq
socket = zmq.Context().socket(zmq.SUB)
socket.setsockopt(zmq.RCVHWM, 2)
socket.setsockopt(zmq.SUBSCRIBE, b"live/")
socket.connect(sys.argv[1])
ages = []
while len(ages) < int(sys.argv[2]):
    parts = socket.recv_multipart()
    if len(parts) == 3:
        ages.append((time.time_ns() - msgpack.unpackb(parts[1])["born"]) / 1e6)
        time.sleep(float(sys.argv[3]))
print(json.dumps(ages[3:]))
"""


@operator("bench.pictures")
class Pictures(Operator):
    """`frames` pictures in pooled buffers, not written to: what is measured is what carries them. `period_ms` apart, 0: as fast as taken."""

    def __init__(self, *, frames: int, period_ms: float = 0.0) -> None:
        self.frames, self.period = frames, round(period_ms * 1e6)

    def __call__(self) -> Iterator[Annotated[Image, HOST_RGB]]:
        start = self.site.clock.now()
        for i in range(self.frames):
            if self.period and not self.site.sleep_until(start + i * self.period):
                return
            yield Stamped(Image(self.site.empty(SHAPE)), pts=i * max(self.period, 1000))  # type: ignore[misc]


@operator("bench.nowhere")
def nowhere(frame: Image) -> None:
    """Does nothing with a picture."""


def graph(url: str, frames: int, *, period_ms: float = 0.0, encoding: str = "raw") -> Any:
    """The source and the sink; without a `url` the sink that does nothing."""
    g = GraphBuilder("publish", clock="live" if period_ms else "offline")
    g.node("in", "bench.pictures", frames=frames, period_ms=period_ms)
    if url:
        g.node("out", "sink.zmq", url=url, frame="in", hwm=8 if period_ms else HWM, lossless=not period_ms, encoding=encoding)
    else:
        g.node("out", "bench.nowhere", frame="in")
    return compile(g.build())


class Receiver:
    """The other process. It stays for the whole bench, so that its start does not count."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", RECEIVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def measure(self, url: str, frames: int, send: Callable[[], object], *, pickled: bool = False) -> dict[str, float]:
        """fps, and CPU milliseconds a frame on both sides."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"url": url, "frames": frames, "pickled": pickled}) + "\n")
        self.process.stdin.flush()
        cpu = time.process_time()
        send()
        found = json.loads(self.process.stdout.readline())
        return {**found, "tx_cpu_ms": (time.process_time() - cpu) / frames * 1e3}

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def pictures(count: int) -> list[Any]:
    return [np.full(SHAPE, LEVEL, np.uint8) for _ in range(count)]


def ready(url: str, frames: int) -> Session:
    """A session whose buffers are there and have been written to."""
    session = Session(graph(url, frames))
    leases = [session.pools.take(SHAPE, "uint8") for _ in range(HWM + 32)]
    for lease in leases:
        lease.array[:] = LEVEL
        lease.release()
    return session


def bare(url: str, frames: int, arrays: list[Any], *, copy: bool = False, pickled: bool = False) -> None:
    """The smallest loop that loses nothing."""
    context = zmq.Context()
    socket = context.socket(zmq.XPUB)
    socket.setsockopt(zmq.SNDHWM, HWM)
    socket.setsockopt(zmq.XPUB_NODROP, 1)
    socket.bind(url)
    socket.recv()
    for n in range(frames):
        picture = arrays[n % len(arrays)]
        if pickled:
            socket.send_pyobj(picture)
        else:
            head = msgpack.packb({"v": 1, "stream": "live", "n": n, "dtype": "uint8", "shape": SHAPE, "sent": time.time_ns()})
            socket.send_multipart([b"live/", head, picture], copy=copy)
    socket.close()
    context.term()


def slow_reader(script: str, frames: int = 30) -> list[float]:
    """Ages in ms of the frames that a subscriber gets who sleeps 100 ms after each, while a live graph publishes 30 a second."""
    url = free_port()
    session = Session(graph(url, 10**9, period_ms=PERIOD_MS))
    thread = threading.Thread(target=session.run)
    thread.start()
    try:
        args = [sys.executable, "-c", script, url, str(frames), str(SLEEP_S)]
        ages: list[float] = json.loads(subprocess.run(args, capture_output=True, text=True, check=True, cwd=ROOT).stdout)
        return ages
    finally:
        session.stop()
        thread.join()


def free_port() -> str:
    with zmq.Context() as context, context.socket(zmq.PUB) as socket:
        return f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}"


WAYS = {
    "ours": "an offline graph with sink.zmq",
    "bare": "bare zero-copy, one array",
    "ring": "bare zero-copy, ring",
    "copy": "bare, copies",
    "send_pyobj": "send_pyobj",
}


def main() -> None:
    args = arguments(__doc__ or "", frames=1000)
    n, receiver = args.frames, Receiver()
    folder = tempfile.TemporaryDirectory()
    count = iter(range(10**6))

    def address(kind: str) -> str:
        return free_port() if kind == "tcp" else f"ipc://{folder.name}/{next(count)}"

    def variant(kind: str, how: str) -> Callable[[], dict[str, float]]:
        def measure() -> dict[str, float]:
            url = address(kind)
            if how == "ours":
                return receiver.measure(url, n, ready(url, n).run)
            pickled, arrays = how == "send_pyobj", pictures(HWM + 2 if how == "ring" else 1)
            return receiver.measure(url, n, lambda: bare(url, n, arrays, copy=how == "copy", pickled=pickled), pickled=pickled)

        return measure

    def engine() -> dict[str, float]:
        cpu, wall = cpu_seconds(ready("", n).run)
        return {"fps": n / wall, "tx_cpu_ms": cpu / n * 1e3, "rx_cpu_ms": 0.0}

    kinds = ["tcp", "ipc"] if zmq.has("ipc") else ["tcp"]
    variant("tcp", "ours")()  # imports and first buffers
    runs = rounds({**{f"{kind}: {how}": variant(kind, how) for kind in kinds for how in WAYS}, "engine alone": engine}, args.rounds)
    table = {
        name: {key: round(median([run[key] for run in found]), 3) for key in ("fps", "tx_cpu_ms", "rx_cpu_ms")} for name, found in runs.items()
    }

    def ratio(kind: str, other: str, key: str) -> float:
        """Median over the rounds of ours to theirs, each within its round: the machine's load meets both."""
        pairs = zip(runs[f"{kind}: ours"], runs[f"{kind}: {other}"], strict=True)
        return round(median([mine[key] / theirs[key] for mine, theirs in pairs]), 3)

    def floor(kind: str) -> float:
        pairs = zip(runs["engine alone"], runs[f"{kind}: bare"], strict=True)
        return round(median([1 + mine["tx_cpu_ms"] / theirs["tx_cpu_ms"] for mine, theirs in pairs]), 3)

    ratios = {
        kind: {
            **{f"{key} to {how}": ratio(kind, how, key) for key in ("fps", "tx_cpu_ms") for how in ("bare", "ring", "send_pyobj")},
            "tx_cpu_ms to bare, floor": floor(kind),
        }
        for kind in kinds
    }  # fmt: skip
    ages = {}
    for name, script in (("our client", SLOW), ("plain SUB, RCVHWM 2", NAIVE)):
        found = sorted(slow_reader(script))
        ages[name] = {"p50": round(median(found), 1), "max": round(found[-1], 1)}
    receiver.close()
    folder.cleanup()
    limit = PERIOD_MS + 25
    targets = {
        **{f"{kind}: fps >= 0.90x bare zero-copy": ratios[kind]["fps to bare"] >= 0.9 for kind in kinds},
        **{f"{kind}: fps >= 4x send_pyobj": ratios[kind]["fps to send_pyobj"] >= 4 for kind in kinds},
        **{f"{kind}: tx CPU <= 1.3x bare zero-copy": ratios[kind]["tx_cpu_ms to bare"] <= 1.3 for kind in kinds},
        "slow subscriber's frames <= one period + 25 ms old": ages["our client"]["p50"] <= limit,
    }
    report(args, "cpu_publish", {
        "plan": graph("tcp://127.0.0.1:5555", n).hash, "bytes": int(np.prod(SHAPE)), "frames": n, "ways": WAYS, "variants": table,
        "slow_subscriber_age_ms": {"period": round(PERIOD_MS, 1), "sleep": SLEEP_S * 1e3, **ages}, "ratios": ratios, "targets": targets,
    })  # fmt: skip
    show(table, ratios, targets)


def show(table: dict[str, dict[str, float]], ratios: dict[str, dict[str, float]], targets: dict[str, bool]) -> None:
    """The result once more, for reading."""
    print(f"\n{'':22}{'frames/s':>10}{'sender ms':>12}{'receiver ms':>13}")
    for name, row in table.items():
        print(f"{name:22}{row['fps']:>10.0f}{row['tx_cpu_ms']:>12.3f}{row['rx_cpu_ms']:>13.3f}")
    for name in next(iter(ratios.values())):
        print(f"{name:38}" + "".join(f"{kind:>6} {found[name]:>6.2f}" for kind, found in ratios.items()))
    for name, met in targets.items():
        print(f"{name:58}{'met' if met else 'missed'}")


if __name__ == "__main__":
    main()
