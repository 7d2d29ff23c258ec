"""What a running session says of itself, as plain values: the answers to describe, get and stats.

Everything is read from the plan and from counters that the runtime keeps anyway; no lane waits for a reader. Invariant: plain values only,
and no credential of a URL among them.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter, deque
from itertools import islice
from typing import TYPE_CHECKING, Any

from engine.live.describe import plain
from engine.live.summary import frames_of, percentile

if TYPE_CHECKING:
    from engine.session import Session

RECENT = 256  # frames that percentiles are taken over


def hello(session: Session, run: str, verbs: tuple[str, ...]) -> dict[str, Any]:
    """Who answers, what runs, and what may be asked."""
    import engine

    return {
        "server": "afterimage", "version": 1, "engine": engine.__version__, "graph": session.plan.name, "plan": session.plan.hash, "run": run,
        "state": state_of(session), "clock": session.plan.clock, "verbs": list(verbs),
    }  # fmt: skip


def state_of(session: Session) -> str:
    """loading, online, degraded_input, degraded_inference, error or stopped; `engine.live.health` says when which."""
    return session.state


# ---------------------------------------------------------------- describe


def describe(session: Session) -> dict[str, Any]:
    """The graph as a program needs it to build an interface: nodes with their parameters and inputs, edges, published streams, knobs, lanes."""
    found = session.describe()
    for node in found["nodes"].values():
        for port in node["inputs"].values():
            port["wired"] = bool(port["from"])
    return {**found, "lanes": [{"name": lane.name, "nodes": list(lane.nodes)} for lane in session.plan.lanes]}


# ---------------------------------------------------------------- stats


def stats(session: Session, rates: Rates | None = None) -> dict[str, Any]:
    """How it goes: counters since the start, and times and rates over the last frames."""
    rate, busy = rates.read(session) if rates is not None else (0.0, {})
    ages = [age / 1e6 for age in recent(session.ages)]
    nodes = {}
    for name, run in session.nodes.items():
        times = [t / 1e6 for t in recent(run.times)]
        nodes[name] = {
            "op": run.plan.op, "count": run.count, "errors": run.errors, "lane": run.plan.lane, "busy_s": round(run.busy_ns / 1e9, 6),
            "ms": {"p50": round(percentile(times, 50), 3), "p95": round(percentile(times, 95), 3)},
        }  # fmt: skip
    return {
        "state": state_of(session),
        "reasons": list(session.health.reasons),
        "paused": session.paused,
        "seconds": round(max(0, session.clock.now() - session.started) / 1e9, 3) if session.started else 0.0,
        "frames": frames_of(session),
        "fps": round(rate, 3),
        "age_ms": {f"p{q}": round(percentile(ages, q), 3) for q in (50, 95, 99)},
        "nodes": nodes,
        "edges": [
            {
                "from": f"{c.edge.source}.{c.edge.output}", "to": f"{c.edge.node}.{c.edge.port}", "queued": c.packets, "cap": c.cap,
                "in": c.entered, "drops": dict(sorted(c.drops.items())),
            }
            for c in list(session.channels)
        ],
        "lanes": {name: round(share, 4) for name, share in busy.items()},
        "knobs": plain(session.knobs()),
        "held": sorted(session.governing.held),
        "signals": {name: float(value) for name, value in dict(session.signals).items()},
        "rungs": rungs(session),
        "epoch": session.epoch,
        "params": session.version,
        "events": dict(Counter(e["what"] for e in list(session.events))),
        "memory": memory(session),
    }  # fmt: skip


def rungs(session: Session) -> dict[str, list[str]]:
    """Steps of the out-of-memory ladder that are taken at present, per node."""
    found = {}
    for name, run in session.nodes.items():
        if run.ladder is not None and run.ladder.taken:
            found[name] = [rung.name for rung in list(run.ladder.taken)]
    return found


def memory(session: Session) -> dict[str, Any]:
    """Resident bytes of this process, number of frame buffers, and bytes of a CUDA device: free, in all, reserved by this run."""
    found: dict[str, Any] = {"buffers": session.pools.allocated, "rss": resident()}
    device = next((lane.device.name for lane in session.lanes.values() if lane.device.asynchronous), None)
    torch = sys.modules.get("torch")
    if device is not None and torch is not None and torch.cuda.is_initialized():
        free, total = torch.cuda.mem_get_info(device)
        found["device"] = {"name": device, "free": free, "total": total, "reserved": torch.cuda.memory_reserved(device)}
    return found


def resident() -> int | None:
    """Resident bytes of this process, None where the system does not say without a library."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[1])
    except (OSError, ValueError, IndexError):
        psutil = sys.modules.get("psutil")
        return psutil.Process().memory_info().rss if psutil is not None else None
    import os

    return pages * os.sysconf("SC_PAGE_SIZE")


def recent(items: Any, count: int = RECENT) -> list[Any]:
    """The last values of a deque that others append to meanwhile."""
    for _ in range(8):
        try:
            return list(islice(reversed(items), count))
        except RuntimeError:  # it was appended to while it was read
            continue
    return []


class Rates:
    """Frames out a second, and the busy share of each lane, over the last seconds. May be read from several threads."""

    SPAN_S = 2.0
    STEP_S = 0.05

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._samples: deque[tuple[float, int, dict[str, int]]] = deque()

    def read(self, session: Session) -> tuple[float, dict[str, float]]:
        with self._lock:
            now = session.clock.now() / 1e9
            lanes = [lane for lane in list(session.lanes.values()) if lane.nodes and not lane.nodes[0].spec.source]
            busy = {lane.name: sum(node.busy_ns for node in lane.nodes) for lane in lanes}
            out = session.frames_out
            if not self._samples:
                self._samples.append((session.started / 1e9 if session.started else now, 0, {}))
            if now - self._samples[-1][0] >= self.STEP_S:
                self._samples.append((now, out, busy))
            while len(self._samples) > 2 and now - self._samples[1][0] >= self.SPAN_S:
                self._samples.popleft()
            then = self._samples[0]
        span = now - then[0]
        if span <= 0:
            return 0.0, {}
        return (out - then[1]) / span, {name: min(1.0, (ns - then[2].get(name, 0)) / 1e9 / span) for name, ns in busy.items()}
