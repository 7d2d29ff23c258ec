"""What a phase measures with: a device, a deadline, clocks, and a file that has every number as soon as it is known.

Invariant: nothing measured is lost by what comes after it. A phase that runs out of time, fails or is killed leaves what it had. It knows
nothing of networks.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


class Late(BaseException):
    """The phase has used up its time. What it measured so far stands. No Exception, because libraries swallow those."""


class Skipped(Exception):
    """Something cannot be measured here; the text says why."""


class Lab:
    """`device`: "cuda:0" or "cpu". `tiny`: small networks and few repeats, to try the script itself. `path`: the file of results."""

    def __init__(self, device: str, tiny: bool, path: Path, facts: dict[str, Any]) -> None:
        self.device, self.tiny, self.path = device, tiny, path
        self.cuda = device.startswith("cuda")
        self.results: dict[str, Any] = {"phases": {}}
        if path.is_file():  # an earlier call of some of the phases
            self.results = json.loads(path.read_text(encoding="utf-8"))
        self.results.update(facts)
        self.until = time.monotonic() + 1e9
        self.now: dict[str, Any] = {}
        self.kept: dict[str, Any] = {}  # networks and the like, from one phase to the next

    # ---- results

    def begin(self, name: str, seconds: float) -> None:
        self.until = time.monotonic() + seconds
        self.now = self.results["phases"][name] = {"allowed_s": round(seconds, 1)}

    def note(self, key: str, value: Any) -> None:
        """Keep `value` under a dotted key of the present phase, in the file at once."""
        place, *rest = key.split(".")
        target = self.now
        for name in rest:
            target, place = target.setdefault(place, {}), name
        target[place] = value
        self.write()
        print(f"    {key}: {json.dumps(value)[:200]}", flush=True)

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(self.path.name + ".part")
        part.write_text(json.dumps(self.results, indent=1) + "\n", encoding="utf-8")
        os.replace(part, self.path)

    def read(self, phase: str, key: str) -> Any:
        """A number of an earlier phase, of this call or an earlier one; None where it is not there."""
        found: Any = self.results["phases"].get(phase, {})
        for name in key.split("."):
            found = found.get(name) if isinstance(found, dict) else None
        return found

    def attempt(self, key: str, work: Callable[[], Any], *, cycles: bool = True) -> Any:
        """Note what `work` gives. What cannot be had, or fails, is noted with its reason, and the phase goes on; a deadline ends it.

        `cycles`: what it made may hang together in cycles, so memory is looked for in all of them afterwards, which takes a while.
        """
        if self.left < 0:
            raise Late(key)
        try:
            found = work()
        except Late:
            raise
        except Skipped as why:
            self.note(key, {"skipped": str(why)})
        except Exception as error:  # a bench says what failed and measures the rest
            missing = type(error).__name__ == "MissingError"  # a package or model that is not here
            self.note(key, {"skipped" if missing else "failed": f"{type(error).__name__}: {error}"[:400]})
        else:
            if found is not None:
                self.note(key, found)
            return found
        finally:
            self.tidy(cycles)
        return None

    # ---- time

    @property
    def left(self) -> float:
        """Seconds that the phase still has."""
        return self.until - time.monotonic()

    def sync(self, whole: bool = True) -> None:
        """Wait for the device, or for the current stream alone."""
        if self.cuda:
            import torch

            if whole:
                torch.cuda.synchronize()
            else:
                torch.cuda.current_stream().synchronize()

    def tidy(self, cycles: bool = True) -> None:
        """Give unused memory of the device back."""
        import gc

        if cycles:
            gc.collect()
        if self.cuda:
            import torch

            torch.cuda.empty_cache()

    def ms(self, call: Callable[[], Any], *, seconds: float = 1.0, most: int = 200) -> float:
        """Milliseconds of one call, submitted one after another: the median over batches of calls between two events of the device."""
        call()
        self.sync()
        begun = time.perf_counter()
        call()
        self.sync()
        once = max(time.perf_counter() - begun, 1e-6)
        if self.tiny:
            seconds, most = 0.02, 3
        batch = max(1, min(10, int(0.02 / once)))
        batches = max(3, min(most // batch, int(min(seconds, max(self.left, 0.1)) / (batch * once))))
        found = []
        for _ in range(batches):
            found.append(self._batch(call, batch))
            if self.left < 0:
                break
        return round(statistics.median(found), 4)

    def _batch(self, call: Callable[[], Any], count: int) -> float:
        if self.cuda:
            import torch

            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            first.record()
            for _ in range(count):
                call()
            last.record()
            last.synchronize()
            return float(first.elapsed_time(last)) / count
        begun = time.perf_counter()
        for _ in range(count):
            call()
        return (time.perf_counter() - begun) * 1e3 / count

    def frames(
        self, frame: Callable[[int], Any], *, seconds: float = 4.0, most: int = 240, warm: int = 3, whole: bool = True
    ) -> dict[str, float]:  # fmt: skip
        """Frames one after another, each with its picture on the host before the next begins: fps, and latency in ms.

        `whole`: nothing else is on the device, so a frame is over when the device is still; else when its own stream is.
        """
        if self.tiny:
            seconds, most, warm = 0.2, 3, 1
        for n in range(warm):
            frame(n)
        self.sync()
        times: list[float] = []
        begun = time.perf_counter()
        while len(times) < most and (len(times) < 3 or time.perf_counter() - begun < seconds):
            if self.left < 0:
                break
            at = time.perf_counter()
            frame(warm + len(times))
            self.sync(whole)
            times.append(time.perf_counter() - at)
        return rates(times)


def rates(times: Sequence[float]) -> dict[str, float]:
    """fps and latencies (ms) of frames that took `times` seconds each, one after another."""
    if not times:
        raise Late("no frame in time")
    ordered = sorted(times)
    at = [ordered[min(len(ordered) - 1, int(q * len(ordered)))] * 1e3 for q in (0.5, 0.95, 0.99)]
    return {
        "fps": round(len(times) / sum(times), 3), "p50_ms": round(at[0], 3), "p95_ms": round(at[1], 3), "p99_ms": round(at[2], 3),
        "frames": len(times),
    }  # fmt: skip


def graphed(lab: Lab, call: Callable[[], Any]) -> Callable[[], Any]:
    """`call` as a CUDA graph of what it submits on static tensors: the replay. On the host there is none, and the call stands for it."""
    if not lab.cuda:
        return call
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = call()

    def replay() -> Any:
        graph.replay()
        return made

    return replay
