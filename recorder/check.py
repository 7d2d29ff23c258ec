"""Compares what reaches the sinks of a replay with what reached them when it was recorded.

Invariant: a frame counts as identical only where every input of the sink has the recorded digest. It runs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.live.record import Tap
from recorder.payloads import deviation, digest, unpacked
from recorder.plain import taken

if TYPE_CHECKING:
    from engine.packet import Packet
    from engine.run.node import NodeRun
    from engine.run.side import Side
    from recorder.tape import Tape


@dataclass
class Seen:
    """How the frames of one sink compare. `largest` and `mean`: of the deviations, each the worst over `measured` frames that differ."""

    identical: int = 0
    different: int = 0
    missing: int = 0
    extra: int = 0
    unchecked: int = 0
    first: int | None = None  # seq of the first frame that differs, is missing or too many
    why: str = ""
    measured: int = 0
    largest: float = 0.0
    mean: float = 0.0
    incomparable: int = 0  # frames that differ in shape or text, which no number says
    seqs: set[int] = field(default_factory=set, repr=False)

    @property
    def same(self) -> bool:
        return not (self.different or self.missing or self.extra)

    def to_dict(self) -> dict[str, Any]:
        plain = {name: value for name, value in vars(self).items() if name not in ("seqs",)}
        return plain | {"same": self.same, "largest": round(self.largest, 6), "mean": round(self.mean, 6)}

    def differs(self, seq: int, why: str) -> None:
        if self.first is None or seq < self.first:
            self.first, self.why = seq, why


class Check(Tap):
    """Listens to the sinks of a replay of `tape`."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.sinks: dict[str, Seen] = {}

    def sunk(self, node: NodeRun, head: Packet, given: list[tuple[Side, Any]]) -> None:
        seen = self.sinks.setdefault(node.name, Seen())
        seen.seqs.add(head.seq)
        known = self.tape.sunk.get(node.name, {}).get(head.seq)
        if known is None:
            if self.tape.whole:
                seen.extra += 1
                seen.differs(head.seq, "the recording has no such frame here")
            return
        if known.get("unchecked"):
            seen.unchecked += 1
            return
        inputs, _, _ = taken(node, head, given)
        wrong = [port for port, value in inputs.items() if known["inputs"].get(port, {}).get("hash") != digest(value)]
        wrong += [port for port in known["inputs"] if port not in inputs]
        if known["epoch"] != head.epoch:
            wrong.append("epoch")
        if not wrong:
            seen.identical += 1
            return
        seen.different += 1
        seen.differs(head.seq, f"another {', '.join(wrong)}")
        for port in wrong:
            self._measure(seen, node.name, port, known, inputs.get(port), head.seq)

    def _measure(self, seen: Seen, node: str, port: str, known: dict[str, Any], value: Any, seq: int) -> None:
        """By how much an input differs, where the recording has kept it."""
        facts, topic = known["inputs"].get(port, {}), f"/sink/{node}/{port}"
        if "value" in facts:
            recorded = unpacked(facts["value"])
        elif self.tape.has(topic, seq):
            recorded = self.tape.payload(topic, seq)
        else:
            return
        found = deviation(recorded, value)
        if found is None:
            seen.incomparable += 1
            return
        seen.measured += 1
        seen.largest, seen.mean = max(seen.largest, found[0]), max(seen.mean, found[1])

    def finish(self, begin: int, until: int | None) -> None:
        """Count the recorded frames, from `begin` to `until`, that did not come."""
        for name, frames in self.tape.sunk.items():
            seen = self.sinks.setdefault(name, Seen())
            gone = [seq for seq in frames if seq >= begin and (until is None or seq <= until) and seq not in seen.seqs]
            seen.missing += len(gone)
            if gone:
                seen.differs(min(gone), "the frame did not come")

