"""A live graph for minutes, with everything that people do to one: subscribers come and go, parameters change, resets, pauses, reloads.

The graph runs in a process of its own, which is measured from outside: resident memory, descriptors, threads. After a warm-up each is fitted
with a robust slope; the verdict is "grows" where even the low end of the 95 % interval is above what is tolerated. Exit code 1 then, or where
the run failed, or did not add up.

    python bench/soak.py --minutes 5
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.common import report
from bench.slopes import Slope, slope

GRAPH = """
[graph]
name = "soak"
clock = "live"
seed = 7

[node.dancer]
op = "source.figure"
size = 128
fps = 30

[node.skeleton]
op = "pose.draw"
in.pose = "dancer.pose"
width = 128
height = 128

[node.color]
op = "image.color"
in.image = "skeleton"
{extra}
[node.wire]
op = "sink.zmq"
url = "{url}"
stream = "soak"
in.frame = "{last}"

[node.packed]
op = "sink.zmq"
url = "{url}"
stream = "packed"
encoding = "jpeg"
in.frame = "color"
"""
EXTRA = """
[node.soft]
op = "image.blur"
radius = 2.0
in.image = "color"
"""
# A run keeps books of bounded length: 65,536 calls of every lane for the trace, a recording, parameter versions, 100,000 ages, 20,000 events.
# It grows until they are full, which takes the better part of an hour. Here they are short, so that what still grows after the warm-up is
# a leak.
SHORT = """
import collections, sys
import engine.live.changes, engine.run.node, engine.live.record, engine.session, engine.trace
class Short(collections.deque):
    def __init__(self, items=(), maxlen=None):
        super().__init__(items, None if maxlen is None else min(maxlen, 256))
engine.run.node.deque = engine.session.deque = Short
engine.trace.Ring.__init__.__defaults__ = (256,)
engine.live.record.LIMIT, engine.live.changes.KEPT = 256, 64
from engine.cli import main
sys.exit(main())
"""
WARM = 0.25  # of the run, in which caches and pools fill
TOLERATED = {"rss_mb": 1.0, "descriptors": 0.5, "threads": 0.5}  # a minute
STEPS = ("set", "set", "set", "ramp", "reset", "pause", "reload", "subscribe", "subscribe", "subscribe", "leave", "leave", "watch", "bad")


class Driver:
    """Does to a run what people do, one thing after the other."""

    def __init__(self, endpoint: str, url: str, seed: int) -> None:
        from bindings.python.control import Control

        self.control = Control(endpoint, timeout=20.0)
        self.url, self.random = url, random.Random(seed)
        self.subscribers: list[Any] = []
        self.done: Counter[str] = Counter()
        self.frames = 0
        self.longer = False

    def step(self) -> None:
        """One thing."""
        from bindings.python.control import Refused

        what = self.random.choice(STEPS)
        self.done[what] += 1
        match what:
            case "set":
                self.control.set({"color.brightness": self.random.uniform(-1, 1), "color.gamma": 1.0}).wait_applied(20)
            case "ramp":
                self.control.ramp({"color.contrast": self.random.uniform(0, 4)}, frames=12).wait_done(20)
            case "reset":
                self.control.reset("soak").wait_applied(20)
            case "pause":
                self.control.pause().wait_applied(20)
                self.control.resume().wait_applied(20)
            case "reload":
                self.longer = not self.longer
                self.control.reload(text=text(self.url, self.longer)).wait_applied(60)
            case "subscribe":
                self._subscribe()
            case "leave":
                self._leave()
            case "watch":
                with self.control.watch("stats", "events", every=0.05) as watch:
                    watch.next(20)
            case "bad":
                try:
                    self.control.set({"color.brightness": 77, "nobody.x": 1})
                except Refused:
                    pass
        for subscriber in self.subscribers:
            if (frame := subscriber.latest()) is not None:
                self.frames += frame.array is not None

    def _subscribe(self) -> None:
        from bindings.python.subscriber import Subscriber

        if len(self.subscribers) >= 6:
            self._leave()
        self.subscribers.append(Subscriber(self.url, stream=self.random.choice(("soak", "packed"))))

    def _leave(self) -> None:
        if self.subscribers:
            self.subscribers.pop(self.random.randrange(len(self.subscribers))).close()

    def end(self) -> None:
        while self.subscribers:
            self._leave()
        self.control.stop()
        self.control.close()


def text(url: str, longer: bool) -> str:
    """The graph, with a node more where it is `longer`."""
    return GRAPH.format(url=url, extra=EXTRA if longer else "", last="soft" if longer else "color")


def measured(process: Any) -> dict[str, float]:
    """Resident megabytes, descriptors (handles on Windows) and threads."""
    with process.oneshot():
        files = process.num_fds() if hasattr(process, "num_fds") else process.num_handles()
        return {"rss_mb": process.memory_info().rss / 1e6, "descriptors": files, "threads": process.num_threads()}


def soak(minutes: float, seed: int, every: float, rate: float) -> dict[str, Any]:
    """Run it; the result as plain values, with `ok`."""
    import psutil

    from bindings.python.control import ControlError

    with tempfile.TemporaryDirectory() as folder:
        url = f"tcp://127.0.0.1:{_free()}"
        path = Path(folder) / "soak.toml"
        path.write_text(text(url, False), encoding="utf-8")
        command = [sys.executable, "-c", SHORT, "run", str(path), "--control", "tcp://127.0.0.1:*", "--json", "--quiet"]
        child = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        said: list[str] = []
        assert child.stderr is not None
        for line in child.stderr:
            said.append(line)
            if line.startswith("control: "):
                break
        threading.Thread(target=lambda: said.extend(child.stderr or ()), daemon=True).start()
        driver, fault, samples = Driver(said[-1].split()[1].rstrip(","), url, seed), "", list[tuple[float, dict[str, float]]]()
        begun, process, next_sample = time.monotonic(), psutil.Process(child.pid), 0.0
        try:
            while (now := time.monotonic() - begun) < minutes * 60 and child.poll() is None:
                if now >= next_sample:
                    samples.append((now, measured(process)))
                    next_sample = now + every
                driver.step()
                time.sleep(max(0.0, driver.random.expovariate(rate)))
        except (ControlError, psutil.Error) as error:
            fault = f"{type(error).__name__}: {error}"
        driver.end()
        try:
            out, _ = child.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            child.kill()
            out, _ = child.communicate()
            fault = fault or "it did not end when it was asked to"
    fault = fault or ("" if child.returncode == 0 else "".join(said[-5:]))
    return judged(samples, json.loads(out) if out.strip() else {}, driver, fault, minutes)


def judged(samples: list[tuple[float, dict[str, float]]], summary: dict[str, Any], driver: Any, fault: str, minutes: float) -> dict[str, Any]:
    """The slopes and the verdict."""
    kept = [(at, values) for at, values in samples if at >= WARM * minutes * 60]
    slopes: dict[str, Slope] = {name: slope([at for at, _ in kept], [v[name] for _, v in kept]) for name in TOLERATED} if len(kept) >= 8 else {}
    grows = [name for name, found in slopes.items() if found.grows(TOLERATED[name])]
    frames = summary.get("frames", {})
    whole = bool(frames) and frames["in"] == frames["out"] + frames["in_flight"] + sum(frames["drops"].values())
    return {
        "minutes": minutes, "done": dict(driver.done), "frames": frames, "frames_looked_at": driver.frames, "fault": fault, "adds_up": whole,
        "slopes": {
            name: {
                "per_minute": round(s.per_minute, 3), "interval": [round(s.low, 3), round(s.high, 3)], "first": round(s.first, 1),
                "last": round(s.last, 1), "tolerated": TOLERATED[name], "verdict": "grows" if name in grows else "steady",
            }
            for name, s in slopes.items()
        },
        "ok": bool(slopes) and not grows and not fault and whole,
    }  # fmt: skip


def _free() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--every", type=float, default=0.5, help="seconds between two measurements")
    parser.add_argument("--rate", type=float, default=5.0, help="things done a second; each is an event, of which a run keeps the last 20,000")
    parser.add_argument("--json", type=Path, help="write the result here")
    args = parser.parse_args()
    result = soak(args.minutes, args.seed, args.every, args.rate)
    report(args, "soak", result)
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
