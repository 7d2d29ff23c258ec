"""How long a change takes: from the call in another process until it is accepted, and until the receipt says that it has landed.

A graph of small operators runs live at 60 frames a second in a process of its own; the client sends changes one at a time, then 1,000 at
once. A change lands on the next frame that is admitted, so half a frame period (8.3 ms) of `applied` is waiting for that frame; `accepted`
does not wait.

    python bench/control_latency.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.common import arguments, report, rounds
from engine.live.summary import percentile

GRAPH = """
[graph]
name = "latency"
clock = "live"
[node.dancer]
op = "source.figure"
size = 64
fps = 60
[node.skeleton]
op = "pose.draw"
in.pose = "dancer.pose"
width = 64
height = 64
[node.color]
op = "image.color"
in.image = "skeleton"
[node.sink]
op = "sink.null"
in.image = "color"
"""
STORM = 1000


def one_by_one(client: Any, count: int) -> dict[str, list[float]]:
    """Milliseconds until accepted, and until applied, of changes sent one after the other."""
    accepted, applied = [], []
    for n in range(count):
        begun = time.perf_counter()
        receipt = client.set({"color.brightness": n % 10 / 10})
        accepted.append((time.perf_counter() - begun) * 1e3)
        receipt.wait_applied(20)
        applied.append((time.perf_counter() - begun) * 1e3)
        time.sleep(0.003 * (n % 7))  # so that frames and changes do not fall into step
    return {"accepted": accepted, "applied": applied}


def storm(client: Any) -> dict[str, Any]:
    """STORM changes from four threads at once."""
    receipts: list[Any] = []
    begun = time.perf_counter()

    def send(which: int) -> None:
        receipts.extend(client.set({"color.brightness": n % 10 / 10, "color.gamma": 1.0}) for n in range(which, STORM, 4))

    threads = [threading.Thread(target=send, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sent = time.perf_counter() - begun
    for receipt in receipts:
        receipt.wait_applied(30)
    return {"sent": sent, "landed": time.perf_counter() - begun}


def spread(values: list[float]) -> dict[str, float]:
    return {f"p{q}": round(percentile(values, q), 2) for q in (50, 95, 99)}


def main() -> None:
    from bindings.python.control import Control

    args = arguments(__doc__ or "", changes=100)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "latency.toml"
        path.write_text(GRAPH, encoding="utf-8")
        command = [sys.executable, "-m", "engine", "run", str(path), "--control", "tcp://127.0.0.1:*", "--quiet"]
        child = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        assert child.stderr is not None
        endpoint = next(line for line in child.stderr if line.startswith("control: ")).split()[1].rstrip(",")
        with Control(endpoint, timeout=30.0) as client:
            client.set({"color.brightness": 0.0}).wait_applied(60)
            found = rounds({"single": lambda: one_by_one(client, args.changes), "storm": lambda: storm(client)}, args.rounds)
            fps = client.stats()["fps"]
            client.stop().wait_applied(20)
        child.communicate(timeout=30)
    singles, storms = found["single"], found["storm"]
    report(args, "control_latency", {
        "changes": args.changes * args.rounds, "fps": round(fps, 1),
        "accepted_ms": spread([v for one in singles for v in one["accepted"]]),
        "applied_ms": spread([v for one in singles for v in one["applied"]]),
        "storm": {"transactions": STORM, "sent_per_s": round(STORM / percentile([s["sent"] for s in storms], 50)),
                  "landed_per_s": round(STORM / percentile([s["landed"] for s in storms], 50))},
    })  # fmt: skip


if __name__ == "__main__":
    main()
