"""From a session that has ended to the numbers that a report shows. Reads what the runtime kept anyway; draws nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.session import Session

MS = 1e6
# What the parts of a frame's time are called, in the order in which a frame meets them. A call has parts of its own, by their last name.
KINDS = ("decode", "pose", "conditioning", "UNet", "decoder", "encode", "other", "wait")
PARTS = {"conditioning": "conditioning", "denoise": "UNet", "decode": "decoder", "picture": "decode"}
FAMILIES = {"source": "decode", "pose": "pose", "sink": "encode"}


@dataclass
class Facts:
    """`frames`: seq to seconds since the start at which it left, for frames that reached a sink. `times`: node (or node.part) to {seq: ms}.
    `total`: {seq: ms} from the end of the source's work to the end of the last sink's. `series`: "node.number" to [(seconds, value)]."""

    start: int = 0
    left: dict[int, float] = field(default_factory=dict)
    times: dict[str, dict[int, float]] = field(default_factory=dict)
    total: dict[int, float] = field(default_factory=dict)
    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    slow: frozenset[str] = frozenset()  # nodes that no frame waits for
    ops: dict[str, str] = field(default_factory=dict)  # node to its operator

    def seconds(self, at: int) -> float:
        """Seconds since the start."""
        return (at - self.start) / 1e9

    def stages(self) -> tuple[list[int], dict[str, list[float]]]:
        """Frames that left, and by stage the milliseconds each of them spent there, `wait` for what no stage explains."""
        seqs = sorted(seq for seq in self.left if seq in self.total)
        names = [name for name in self.times if name not in self.slow and not self._has_parts(name)]
        parts = {name: [self.times[name].get(seq, 0.0) for seq in seqs] for name in names}
        for name in [n for n in self.times if n not in self.slow and self._has_parts(n)]:
            inner = [part for part in self.times if part.startswith(f"{name}.")]
            parts[f"{name} (rest)"] = [
                max(0.0, self.times[name].get(seq, 0.0) - sum(self.times[part].get(seq, 0.0) for part in inner)) for seq in seqs
            ]
        # What the source took was over before the frame's time begins.
        after = [column for name, column in parts.items() if not self._op(name).startswith("source.")]
        spent = [sum(column) for column in zip(*after, strict=True)] if after else [0.0] * len(seqs)
        parts["wait"] = [max(0.0, self.total[seq] - used) for seq, used in zip(seqs, spent, strict=True)]
        return seqs, {name: values for name, values in parts.items() if any(values)}

    def kinds(self) -> tuple[list[int], dict[str, list[float]]]:
        """The same, by what the time was spent on: see KINDS. The source's own work stands beside the rest of a frame's time, before it."""
        seqs, parts = self.stages()
        found: dict[str, list[float]] = {}
        for name, column in parts.items():
            kind = self._kind(name)
            found[kind] = [a + b for a, b in zip(found[kind], column, strict=True)] if kind in found else list(column)
        return seqs, {kind: found[kind] for kind in KINDS if kind in found}

    def _kind(self, stage: str) -> str:
        if stage == "wait":
            return stage
        return PARTS.get(stage.partition(".")[2]) or FAMILIES.get(self._op(stage).partition(".")[0], "other")

    def _op(self, stage: str) -> str:
        """The operator of a stage's node."""
        return self.ops.get(stage.removesuffix(" (rest)").partition(".")[0], "")

    def _has_parts(self, name: str) -> bool:
        return any(part.startswith(f"{name}.") for part in self.times)


def gather(session: Session, on_device: Mapping[str, Mapping[int, float]] | None = None) -> Facts:
    """Everything that the rings, the events and the measurements of `session` hold; long runs have lost their beginning.

    `on_device`: what parts took on a GPU ("node.part" to {seq: ms}), in place of what the host took to submit them.
    """
    sinks = {name for name, node in session.nodes.items() if node.spec.sink}
    sources = {name for name, node in session.nodes.items() if node.spec.source}
    watchers = {name for name, node in session.nodes.items() if node.lane.name in ("slow", "report", "preview")}
    ops = {name: node.plan.op for name, node in session.nodes.items()}
    facts = Facts(start=session.started, slow=frozenset(watchers), ops=ops)
    times: dict[str, dict[int, float]] = defaultdict(dict)
    made: dict[int, int] = {}
    done: dict[int, int] = {}
    for lane in session.lanes.values():
        inner: list[tuple[int, str, int]] = []  # parts of a source's work, whose frame has its number only afterwards
        for begun, ended, kind, name, seq, _ in lane.trace.records():
            if kind == "part" and seq < 0:
                inner.append((begun, name, ended - begun))
            elif kind == "source" and inner:
                for at, part, took in inner:
                    if at >= begun:
                        times[part][seq] = times[part].get(seq, 0.0) + took / MS
                inner.clear()
            if kind not in ("call", "source", "part", "convert") or seq < 0:
                continue
            times[name][seq] = times[name].get(seq, 0.0) + (ended - begun) / MS
            if name in sources:
                made[seq] = max(made.get(seq, 0), ended)
                times[name].pop(seq) if session.plan.live else None  # a live source mostly waits for its camera
            elif name in sinks and name not in watchers:
                done[seq] = max(done.get(seq, 0), ended)
    for name, found in (on_device or {}).items():
        times[name].update({seq: ms for seq, ms in found.items() if seq in times[name]})
    facts.times = {name: found for name, found in times.items() if found}
    facts.left = {seq: facts.seconds(at) for seq, at in sorted(done.items())}
    facts.total = {seq: (at - made[seq]) / MS for seq, at in done.items() if seq in made}
    for node, rows in session.series.items():
        for seq, numbers in rows:
            for name, value in numbers.items():
                facts.series.setdefault(f"{node}.{name}", []).append((facts.left.get(seq, -1.0), float(value)))
    facts.series = {name: [p for p in points if p[0] >= 0] for name, points in facts.series.items()}
    facts.events = [dict(event) for event in session.events]
    return facts
