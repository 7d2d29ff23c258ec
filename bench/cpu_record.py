"""What recording costs the run that is recorded: the same graph with and without, in turn, in one process.

A film of 512 x 512 pictures goes through a blur and a resize to a sink, live at 24 fps and offline, as fast as it goes. "store" keeps every
picture without loss, "hash" its digest; what reaches the sink is digested either way. What the graph itself pays is the time of the recorder's
hooks on lanes and gates ("on lanes", CPU time of those threads); what the machine pays is the CPU time of the whole process a frame. Rates and
ages are there too, but on a machine without a core to spare they say how busy it was. Rounds alternate.

    python bench/cpu_record.py [--rounds 5] [--frames 96] [--json bench/results/cpu_record.json]

Target: at most 0.2 ms a frame on lanes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import Operator, Stamped, operator
from engine.payload import Image

SIDE, FPS = 512, 24
VARIANTS = ("without", "hash", "store")


@operator("recordbench.film")
class Film(Operator):
    """Pictures of a dancer, drawn beforehand: a source that costs a copy."""

    drawn: list[Any] = []

    def __init__(self, *, frames: int, paced: bool) -> None:
        self.frames, self.paced = frames, paced

    def __call__(self) -> Iterator[Image]:
        start = self.site.clock.now()
        for n in range(self.frames):
            pts = n * 1_000_000_000 // FPS
            if self.paced and not self.site.sleep_until(start + pts):
                return
            data = self.site.empty((SIDE, SIDE, 3))
            data[...] = Film.drawn[n % len(Film.drawn)]
            yield Stamped(Image(data), pts=pts)  # type: ignore[misc]


def one(clock: str, variant: str, frames: int, folder: Path) -> dict[str, float]:
    from engine.graph import GraphBuilder
    from engine.planning.compile import compile
    from engine.session import Session
    from recorder.recorder import Recorder

    g = GraphBuilder("record", clock=clock)
    g.node("film", "recordbench.film", frames=frames, paced=clock == "live")
    g.node("soft", "image.blur", image="film")
    g.node("small", "image.resize", image="soft", width=448, height=448)
    g.node("sink", "sink.null", image="small")
    session = Session(compile(g.build()))
    recorder = None
    spent: list[int] = []
    if variant != "without":
        recorder = timed(Recorder, spent)(folder / f"{clock}-{variant}.mcap", frames=variant)
        recorder.path.unlink(missing_ok=True)
        recorder.attach(session)
    began = time.process_time()
    with session:
        found = session.run()
    size = 0
    if recorder is not None:
        recorder.close()
        size = recorder.path.stat().st_size
    out = max(1, int(found.frames["out"]))
    return {
        "fps": found.fps, "age_p50": found.age_ms["p50"], "lost": frames - found.frames["out"], "bytes": size / out,
        "lanes_ms": sum(spent) / 1e6 / out, "cpu_ms": (time.process_time() - began) * 1e3 / out,
    }  # fmt: skip


def timed(kind: Any, spent: list[int]) -> Any:
    """`kind` with the CPU time of every hook noted."""

    def clocked(name: str) -> Any:
        hook = getattr(kind, name)

        def call(self: Any, *args: Any) -> None:
            began = time.thread_time_ns()
            hook(self, *args)
            spent.append(time.thread_time_ns() - began)

        return call

    hooks = ("note", "event", "entered", "refused", "made", "sunk", "crossed", "read")
    return type("Timed", (kind,), {name: clocked(name) for name in hooks})


def main() -> int:
    from bench.common import machine

    options = argparse.ArgumentParser()
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--frames", type=int, default=96)
    options.add_argument("--json", type=Path)
    asked = options.parse_args()
    import cv2

    from operators.figure.sequence import draw_scene, render

    cv2.setNumThreads(1)
    scene = draw_scene(0, motion="dance", aspect=1.0, steady=True)
    Film.drawn = [render(scene, n / FPS, SIDE).image.copy() for n in range(8)]
    seen: dict[str, dict[str, list[dict[str, float]]]] = {clock: {v: [] for v in VARIANTS} for clock in ("live", "offline")}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(asked.rounds):
            for clock, variants in seen.items():
                for variant in VARIANTS:
                    variants[variant].append(one(clock, variant, asked.frames, Path(folder)))
    result: dict[str, Any] = {"machine": machine(), "side": SIDE, "frames": asked.frames, "rounds": asked.rounds}
    for clock, variants in seen.items():
        middle = {v: {k: statistics.median(r[k] for r in rows) for k in rows[0]} for v, rows in variants.items()}
        result[clock] = middle
        for variant, row in middle.items():
            print(f"{clock:8s}{variant:8s} on lanes {row['lanes_ms']:6.3f} ms a frame   CPU {row['cpu_ms']:6.2f} ms a frame"
                  f"   {row['fps']:6.1f} fps   age {row['age_p50']:6.1f} ms   lost {row['lost']:.0f}"
                  f"   {row['bytes'] / 1000:.0f} kB a frame")  # fmt: skip
        base = middle["without"]["cpu_ms"]
        # With a core to spare for the recorder's thread, the graph pays what its own threads do.
        result[f"{clock}_graph_ratio"] = {v: round(base / (base + middle[v]["lanes_ms"]), 4) for v in VARIANTS[1:]}
        print(f"{clock}: of its rate the graph keeps {result[f'{clock}_graph_ratio']}")
    if asked.json:
        asked.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
