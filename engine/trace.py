"""What happened when: one ring of tuples per lane, cheap enough to be always on, exported for Perfetto.

A record is (start ns, stop ns, kind, name, seq, epoch). Each ring has one writer, its lane, so there are no locks and no strings are built
while frames fly. `chrome_trace` writes the JSON that ui.perfetto.dev and chrome://tracing open: lanes as tracks, a frame followed across them
by a flow, knobs and frames in flight as counters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.errors import writing


class Ring:
    """The last `size` records of one lane."""

    __slots__ = ("_at", "_items", "size")

    def __init__(self, size: int = 65536) -> None:
        self.size = size
        self._items: list[tuple[int, int, str, str, int, int]] = []
        self._at = 0

    def add(self, start: int, stop: int, kind: str, name: str, seq: int, epoch: int) -> None:
        if len(self._items) < self.size:
            self._items.append((start, stop, kind, name, seq, epoch))
        else:
            self._items[self._at] = (start, stop, kind, name, seq, epoch)
            self._at = (self._at + 1) % self.size

    def recent(self, most: int) -> Iterator[tuple[int, int, str, str, int, int]]:
        """Up to `most` records, newest first; for any thread: what is written meanwhile may be missing or come twice."""
        items, at = self._items, self._at
        for back in range(1, min(most, len(items)) + 1):
            yield items[at - back]

    def records(self) -> list[tuple[int, int, str, str, int, int]]:
        """Oldest first."""
        return self._items[self._at :] + self._items[: self._at]


def joined(rings: Iterable[tuple[str, Ring]]) -> dict[str, Ring]:
    """One ring a name, oldest record first: a lane whose nodes were all made anew goes on where the one before it ended."""
    found: dict[str, list[Ring]] = {}
    for name, ring in rings:
        found.setdefault(name, []).append(ring)
    made = {name: Ring(sum(len(ring.records()) for ring in several) or 1) for name, several in found.items()}
    for name, ring in made.items():
        for record in sorted(record for one in found[name] for record in one.records()):
            ring.add(*record)
    return made


def chrome_trace(
    rings: Mapping[str, Ring], events: Iterable[Mapping[str, Any]] = (), *, about: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The Chrome trace format (times in us): complete events per lane, flow arrows per frame, instants for everything said in the log."""
    records = {lane: ring.records() for lane, ring in rings.items()}
    events = list(events)
    start = min([r[0] for rs in records.values() for r in rs] + [e["at"] for e in events], default=0)
    out: list[dict[str, Any]] = [{"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "afterimage"}}]
    hops: dict[tuple[int, int], list[tuple[int, int]]] = {}  # frame -> (time, track)
    tracks = {lane: i + 1 for i, lane in enumerate(records)}
    for lane, track in tracks.items():
        out.append({"ph": "M", "pid": 1, "tid": track, "name": "thread_name", "args": {"name": lane}})
        for begun, ended, kind, name, seq, epoch in records[lane]:
            out.append({
                "ph": "X", "pid": 1, "tid": track, "name": name, "cat": kind, "ts": (begun - start) / 1e3,
                "dur": (ended - begun) / 1e3, "args": {"seq": seq, "epoch": epoch},
            })  # fmt: skip
            if kind != "part" and seq >= 0:  # a part lies inside a call, which stands for the frame; opening is no frame's
                hops.setdefault((epoch, seq), []).append((begun, track))
    for (epoch, seq), stops in hops.items():
        stops.sort()
        for i, (when, track) in enumerate(stops if len(stops) > 1 else ()):
            phase = "s" if i == 0 else "f" if i == len(stops) - 1 else "t"
            flow = {"ph": phase, "pid": 1, "tid": track, "name": "frame", "cat": "frame", "id": f"{epoch}.{seq}", "ts": (when - start) / 1e3}
            out.append({**flow, "bp": "e"} if phase == "f" else flow)
    for event in events:
        facts = {k: v for k, v in event.items() if k not in ("at", "what")}
        when = (event["at"] - start) / 1e3
        out.append({"ph": "i", "s": "g", "pid": 1, "tid": 0, "name": event["what"], "cat": "event", "ts": when, "args": facts})
        for knob, value in event.get("settings", {}).items() if event["what"] == "govern" else ():
            if isinstance(value, (int, float)):
                out.append({"ph": "C", "pid": 1, "name": knob, "ts": when, "args": {"value": value}})
    return {"traceEvents": out, "displayTimeUnit": "ms", "otherData": dict(about or {})}


def write_trace(path: str | Path, trace: Mapping[str, Any]) -> None:
    """Write a trace as JSON. Raises MediaError where the file cannot be written."""
    with writing(f"the trace {path}"):
        Path(path).write_text(json.dumps(trace, separators=(",", ":"), default=str), encoding="utf-8")
