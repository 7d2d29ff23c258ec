"""What a run did that its plan does not fix: drops, reads of kept values, changes, resets. Enough to do the same again.

A `Recording` is made by every session in memory: a few numbers per event, up to a limit, after which it ends and says so. `Replay` feeds one
back: queues then lose exactly what is written here, side inputs read exactly the values that were read, and changes land on the same frames.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

from engine.errors import ReplayError

LIMIT = 1_000_000  # events: some 100 MB, half a day of a live graph at 24 fps


@dataclass
class Recording:
    """The log of one run. Edges are named by their id in the plan; gates by -1 - order of their source."""

    plan: str = ""
    drops: list[tuple[int, int, str]] = field(default_factory=list)  # edge, seq, cause
    reads: list[tuple[int, int, int]] = field(default_factory=list)  # edge, seq of the trigger, seq of the value (-1: none)
    changes: list[tuple[int, dict[str, Any]]] = field(default_factory=list)  # seq, {node.param: value}: one parameter version each
    stamps: list[tuple[int, int, int, int]] = field(default_factory=list)  # gate, seq, version, epoch from this frame of the gate on
    resets: list[tuple[int, str]] = field(default_factory=list)  # seq, reason
    on: bool = True
    complete: bool = True

    def drop(self, edge: int, seq: int, cause: str) -> None:
        if self.on:
            self.drops.append((edge, seq, cause))
            self._bound()

    def read(self, edge: int, seq: int, value: int) -> None:
        if self.on:
            self.reads.append((edge, seq, value))
            self._bound()

    def _bound(self) -> None:
        # A session that runs for weeks must not fill the memory with what nobody may ever replay.
        if len(self.drops) + len(self.reads) >= LIMIT:
            self.on = self.complete = False


class Replay:
    """A Recording arranged for look-up."""

    def __init__(self, recording: Recording) -> None:
        if not recording.complete:
            raise ReplayError(f"the recording stopped after {LIMIT} events: it does not cover the whole run")
        self.recording = recording
        self._drops = {(edge, seq): cause for edge, seq, cause in recording.drops}
        self._reads = {(edge, seq): value for edge, seq, value in recording.reads}
        self._stamps: dict[int, list[tuple[int, int, int]]] = {}
        for gate, seq, version, epoch in recording.stamps:
            self._stamps.setdefault(gate, []).append((seq, version, epoch))

    def stamp_at(self, gate: int, seq: int) -> tuple[int, int]:
        """The parameter version and the epoch of a gate's frame."""
        stamps = self._stamps.get(gate, [])
        at = bisect_right(stamps, seq, key=lambda stamp: stamp[0]) - 1
        return stamps[at][1:] if at >= 0 else (0, 0)

    def drop_at(self, edge: int, seq: int) -> str | None:
        return self._drops.get((edge, seq))

    def read_at(self, edge: int, seq: int) -> int | None:
        """The seq of the value that was read when frame `seq` fired the node; None where the value had not changed."""
        return self._reads.get((edge, seq))
