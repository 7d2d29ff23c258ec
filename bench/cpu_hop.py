"""What it costs to get a packet from one operator to the next: CPU time on one lane, latency across two.

Baselines in the same run: a bare call chain, the smallest possible ready-queue executor, queue.Queue between threads, asyncio.Queue.
The cost of a hop is a slope: (chain of 22 nodes - chain of 2) / 20, so that sources, gates and sinks do not count.
"""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
import time
from collections import deque
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import bench.toys  # noqa: F401
from bench.common import arguments, cpu_seconds, median, report, rounds
from engine.graph import GraphBuilder
from engine.live.summary import percentile
from engine.plan import Plan
from engine.planning.compile import compile
from engine.session import Session

LONG, SHORT = 22, 2
LANES = "abcdef"


def chain(nodes: int, frames: int) -> Plan:
    g = GraphBuilder("hop", in_flight=4)
    last = g.node("in", "bench.count", frames=frames)
    for i in range(nodes):
        last = g.node(f"n{i}", "bench.relay", value=last)
    g.node("end", "bench.end", value=last, lane="main")
    return compile(g.build())


def ours(frames: int) -> float:
    """us of CPU per hop on one lane."""
    cost = [cpu_seconds(Session(chain(n, frames)).run)[0] for n in (LONG, SHORT)]
    return (cost[0] - cost[1]) / frames / (LONG - SHORT) * 1e6


def bare_calls(frames: int) -> float:
    def relay(value: float) -> float:
        return value

    def work() -> None:
        for _ in range(frames * LONG):
            relay(0.0)

    return cpu_seconds(work)[0] / frames / LONG * 1e6


def bare_deque(frames: int) -> float:
    """A ready queue of (function, value) pairs and nothing else."""

    def relay(value: float) -> float:
        return value

    def work() -> None:
        ready: deque[tuple[object, float]] = deque()
        for _ in range(frames * LONG):
            ready.append((relay, 0.0))
            function, value = ready.popleft()
            function(value)  # type: ignore[operator]

    return cpu_seconds(work)[0] / frames / LONG * 1e6


def queue_threads(frames: int) -> float:
    """queue.Queue(4) between two threads, streaming."""
    q: queue.Queue[int] = queue.Queue(4)

    def work() -> None:
        thread = threading.Thread(target=lambda: [q.get() for _ in range(frames * 4)])
        thread.start()
        for i in range(frames * 4):
            q.put(i)
        thread.join()

    return cpu_seconds(work)[0] / frames / 4 * 1e6


def asyncio_queue(frames: int) -> float:
    async def main() -> None:
        q: asyncio.Queue[int] = asyncio.Queue(4)

        async def take() -> None:
            for _ in range(frames * 4):
                await q.get()

        task = asyncio.create_task(take())
        for i in range(frames * 4):
            await q.put(i)
        await task

    return cpu_seconds(lambda: asyncio.run(main()))[0] / frames / 4 * 1e6


def cross_lane(frames: int, *, first: bool = False) -> list[float]:
    """us from the end of a call on one lane to the start of the next on another, one frame in flight in a chain of six lanes.

    `first`: the first hop only. While it happens, the source's own thread makes the next frame and wants the interpreter too; without, the
    other four, where the two lanes are the only ones with something to do.
    """
    g = GraphBuilder("cross", in_flight=1)
    last = g.node("in", "bench.count", frames=frames)
    for lane in LANES:
        last = g.node(lane, "bench.relay", value=last, lane=lane)
    g.node("end", "bench.end", value=last, lane=LANES[-1])
    session = Session(compile(g.build()))
    session.run()
    seen = {
        lane: {seq: (start, stop) for start, stop, _, name, seq, _ in session.lanes[lane].trace.records() if name == lane} for lane in LANES
    }
    hops = list(pairwise(LANES))
    return [
        (seen[there][seq][0] - seen[here][seq][1]) / 1e3
        for here, there in (hops[:1] if first else hops[1:])
        for seq in seen[there]
        if seq > frames // 10 and seq in seen[here]
    ]


def ping_pong(frames: int, kind: type) -> list[float]:
    """us one way between two threads over two queues, for comparison with `cross_lane`."""
    there, back = kind(), kind()

    def echo() -> None:
        while (item := there.get()) is not None:
            back.put((item, time.perf_counter_ns()))

    thread = threading.Thread(target=echo)
    thread.start()
    found = []
    for _ in range(frames):
        sent = time.perf_counter_ns()
        there.put(sent)
        _, arrived = back.get()
        found.append((arrived - sent) / 1e3)
    there.put(None)
    thread.join()
    return found[frames // 10 :]


def busy(work: object) -> list[float]:
    """`work` beside a Python thread that never lets go of the GIL on its own."""
    stop = threading.Event()

    def burn() -> None:
        x = 0
        while not stop.is_set():
            x += 1

    thread = threading.Thread(target=burn)
    thread.start()
    try:
        return work()  # type: ignore[operator, no-any-return]
    finally:
        stop.set()
        thread.join()


def main() -> None:
    args = arguments(__doc__ or "", frames=2000)
    n = args.frames
    cpu = rounds(
        {
            "ours, same lane": lambda: ours(n), "bare calls": lambda: bare_calls(n), "bare ready queue": lambda: bare_deque(n),
            "queue.Queue threads": lambda: queue_threads(n), "asyncio.Queue": lambda: asyncio_queue(n),
        },
        args.rounds,
    )  # fmt: skip
    latency = rounds(
        {
            "ours, across lanes": lambda: cross_lane(n), "ours, beside the source's next frame": lambda: cross_lane(n, first=True),
            "SimpleQueue ping-pong": lambda: ping_pong(n, queue.SimpleQueue),
            "queue.Queue ping-pong": lambda: ping_pong(n, queue.Queue),
            "ours, with a GIL-busy thread": lambda: busy(lambda: cross_lane(n // 4)),
        },
        args.rounds,
    )  # fmt: skip
    best = {name: round(min(values), 3) for name, values in cpu.items()}
    spread = {
        name: {q: round(median([percentile(run, p) for run in runs]), 1) for q, p in (("p50", 50), ("p99", 99))}
        for name, runs in latency.items()
    }
    report(args, "cpu_hop", {
        "plan": chain(LONG, n).hash,
        "cpu_us_per_hop": {"best": best, "median": {name: round(median(values), 3) for name, values in cpu.items()}},
        "latency_us": spread,
        "targets": {"same lane <= 3 us": best["ours, same lane"] <= 3, "across lanes p50 <= 20 us": spread["ours, across lanes"]["p50"] <= 20},
    })  # fmt: skip


if __name__ == "__main__":
    main()
