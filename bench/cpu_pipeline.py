"""How much of the ideal a pipeline reaches: stages that sleep, each on its own lane, against 1 / the longest stage.

Baselines in the same run: the same stages one after another, and a chain of threads with queue.Queue. Then the live question: with a source
twice as fast as the slowest stage, how old is a frame when it is shown, and is anything lost without a cause.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import bench.toys  # noqa: F401
from bench.common import arguments, median, report, rounds
from engine.graph import GraphBuilder
from engine.plan import Plan
from engine.planning.compile import compile
from engine.session import Session

CASES = {"5-10-5": [5, 10, 5], "4-4-30-6-4": [4, 4, 30, 6, 4], "2-2-8-2-2": [2, 2, 8, 2, 2]}


def plan(stages: list[int], frames: int, *, live: bool = False) -> Plan:
    settings: dict[str, Any] = {"clock": "live", "in_flight": 2} if live else {"in_flight": len(stages) + 2}
    g = GraphBuilder("pipeline", **settings)
    last = g.node("in", "bench.count", frames=frames, period_ms=max(stages) / 2 if live else 0.0)
    for i, ms in enumerate(stages):
        last = g.node(f"s{i}", "bench.stage", value=last, ms=float(ms), lane=f"lane{i}")
    g.node("end", "bench.end", value=last, lane=f"lane{len(stages) - 1}")
    return compile(g.build())


def ours(stages: list[int], frames: int) -> float:
    """Frames a second."""
    session = Session(plan(stages, frames))
    summary = session.run()
    session.check()
    return summary.fps


def thread_chain(stages: list[int], frames: int) -> float:
    """A thread per stage with a queue.Queue(2) before each."""
    queues: list[queue.Queue[int | None]] = [queue.Queue(2) for _ in range(len(stages) + 1)]
    seen: list[float] = []

    def work(i: int) -> None:
        while (item := queues[i].get()) is not None:
            time.sleep(stages[i] / 1e3)
            queues[i + 1].put(item)
        queues[i + 1].put(None)

    def take() -> None:
        while queues[-1].get() is not None:
            seen.append(time.perf_counter())

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(stages))] + [threading.Thread(target=take)]
    for thread in threads:
        thread.start()
    for i in range(frames):
        queues[0].put(i)
    queues[0].put(None)
    for thread in threads:
        thread.join()
    return (len(seen) - 1) / (seen[-1] - seen[0])


def sequential(stages: list[int], frames: int) -> float:
    begun = time.perf_counter()
    for _ in range(frames):
        for ms in stages:
            time.sleep(ms / 1e3)
    return frames / (time.perf_counter() - begun)


def live(stages: list[int], frames: int) -> dict[str, Any]:
    session = Session(plan(stages, frames, live=True))
    summary = session.run()
    session.check()
    shortest = sum(stages)
    return {
        "age_p95_ms": summary.age_ms["p95"], "sum_of_stages_ms": shortest, "waited_p95_ms": round(summary.age_ms["p95"] - shortest, 2),
        "longest_stage_ms": max(stages), "frames": summary.frames,
    }  # fmt: skip


def main() -> None:
    args = arguments(__doc__ or "", frames=150)
    result: dict[str, Any] = {"plan": plan(CASES["5-10-5"], args.frames).hash, "cases": {}}
    for name, stages in CASES.items():
        ideal = 1e3 / max(stages)
        fps = rounds(
            {
                "ours": lambda s=stages: ours(s, args.frames), "thread chain": lambda s=stages: thread_chain(s, args.frames),
                "sequential": lambda s=stages: sequential(s, args.frames // 3),
            },
            args.rounds,
        )  # fmt: skip
        mid = {variant: median(values) for variant, values in fps.items()}
        result["cases"][name] = {
            "ideal_fps": round(ideal, 2), "fps": {k: round(v, 2) for k, v in mid.items()},
            "of_ideal": {k: round(v / ideal, 4) for k, v in mid.items()}, "ours_over_thread_chain": round(mid["ours"] / mid["thread chain"], 4),
            "live": live(stages, args.frames),
        }  # fmt: skip
    shares = [case["of_ideal"]["ours"] for case in result["cases"].values()]
    waits = [(case["live"]["waited_p95_ms"], case["live"]["longest_stage_ms"]) for case in result["cases"].values()]
    result["targets"] = {
        "of ideal >= 0.97": min(shares) >= 0.97,
        "shown frame waited <= one stage": all(waited <= 1.2 * longest for waited, longest in waits),
    }
    report(args, "cpu_pipeline", result)


if __name__ == "__main__":
    main()
