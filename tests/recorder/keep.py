"""Makes the live session that is kept as a regression test: `python tests/recorder/keep.py`, from a checkout.

A dancer is followed, smoothed and drawn under the live clock on real threads, while somebody moves parameters, ramps one, pauses and
resets. Only operators whose results are the same on every machine take part, and no model: what is kept must not depend on weights.
Run it again only when recordings change their format, or these operators their results on purpose.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.planning.compile import compile
from engine.session import Session
from engine.text.load import loads
from recorder.recorder import Recorder

KEPT = Path(__file__).with_name("kept.mcap")

GRAPH = """
[graph]
name  = "kept"
clock = "live"
seed  = 5
in_flight = 2

[node.dancer]
op     = "source.figure"
size   = 64
fps    = 48
frames = 72
motion = "jack"

[node.calm]
op      = "pose.smooth"
in.pose = "dancer.pose"

[node.steady]
op      = "pose.stability"
in.pose = "calm"
lane    = "slow"

[node.skeleton]
op      = "pose.draw"
in.pose = "calm"
width   = 64
height  = 64

[node.tone]
op            = "image.color"
in.image      = "dancer.image"
in.saturation = { from = "steady", hold = 1.0, map = [0.2, 1.0] }
lane          = "tone"

[node.pair]
op        = "image.side_by_side"
in.images = ["tone", "skeleton"]
lane      = "out"

[node.first]
op       = "sink.null"
in.image = "pair"

[node.second]
op       = "sink.null"
in.image = { from = "skeleton", policy = "latest" }
lane     = "watch"
"""


def meddle() -> Any:
    """A tick that does what people do, once each, as frames go by."""
    todo: list[tuple[int, Any]] = [
        (8, lambda s: s.set({"calm.min_cutoff": 0.4, "tone.brightness": 0.2})),
        (16, lambda s: s.ramp({"tone.contrast": 1.6}, frames=10)),
        (28, lambda s: s.reset("a new scene")),
        (36, lambda s: s.pause()),
        (44, lambda s: s.resume()),
        (56, lambda s: s.set({"steady.half_life_ms": 50.0})),
    ]

    def tick(session: Session) -> None:
        came = sum(gate.entered for gate in session.gates.values())
        while todo and came >= todo[0][0]:
            todo.pop(0)[1](session)

    return tick


def keep(path: Path) -> None:
    session = Session(compile(loads(GRAPH, "kept.toml")))
    recorder = Recorder(path, frames="store", snapshot_every=20, preview_fps=0, graph="kept.toml", files={"kept.toml": GRAPH})
    recorder.attach(session)
    try:
        with session:
            session.run(meddle(), tick_s=0.005)
    finally:
        recorder.close()
    session.check()


if __name__ == "__main__":
    KEPT.unlink(missing_ok=True)
    keep(KEPT)
    print(f"{KEPT.name}: {KEPT.stat().st_size} bytes")
