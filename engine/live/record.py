"""What a run did that its plan does not fix: drops, reads of kept values, changes, resets. Enough to do the same again.

A `Recording` is made by every session in memory: a few numbers per event, up to a limit, after which it ends and says so. `Replay` feeds one
back: queues then lose exactly what is written here, side inputs read exactly the values that were read, and changes land on the same frames.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.errors import ReplayError

if TYPE_CHECKING:
    from engine.packet import Packet
    from engine.plan import Plan
    from engine.run.gate import Gate, Offer
    from engine.run.node import NodeRun
    from engine.run.side import Side

LIMIT = 1_000_000  # events: some 100 MB, half a day of a live graph at 24 fps


class Tap:
    """Who is told of a run while it runs, such as a recorder of files. `Session.tap` holds it, from before `run`.

    Called on lanes and under the locks of gates: an implementation only notes what it is told. Payloads may be kept as they are for as long
    as their leases are retained.
    """

    def note(self, kind: str, entry: tuple[Any, ...]) -> None:
        """An entry of the Recording, in the order in which they came; `kind` is the name of its list."""

    def event(self, event: dict[str, Any]) -> None:
        """An event of the session's log."""

    def joined(self, node: NodeRun) -> None:
        """A node is about to be opened, on its lane: the time to set its `mark` and `emit.tapped`."""

    def entered(self, gate: Gate, offer: Offer, version: int, epoch: int) -> None:
        """A source frame was admitted; its messages are not on their way yet."""

    def refused(self, gate: Gate, offer: Offer, cause: str) -> None:
        """A source frame was dropped at the gate."""

    def made(self, node: NodeRun, head: Packet, values: list[tuple[str, Any]]) -> None:
        """What a node with `emit.tapped` made of a frame; a last result (of `flush`) has no frame."""

    def sunk(self, node: NodeRun, head: Packet, given: list[tuple[Side, Any]]) -> None:
        """A sink is done with a frame."""

    def crossed(self, node: NodeRun, head: Packet) -> None:
        """A node has read the inputs for the first frame at or after its `mark`, and is about to be called."""

    def read(self, side: Side, head: Packet) -> None:
        """An input that waits for nobody gives another value than for the frame before."""

    def decided(self, node: str, what: str, value: Any) -> None:
        """An operator chose something that another machine or moment might choose otherwise."""


class Reloaded(NamedTuple):
    """A plan that came by a reload. `ends`: gate of the plan before to the first seq that it did not admit any more; `ended`: the nodes of the
    plan before that had ended by then; `starts`: gate of the new plan to its first seq. Edges and gates that came with the n-th plan (the
    first is 0) are numbered from n * 2**20 on; those that stayed keep their numbers."""

    ends: dict[int, int]
    ended: tuple[str, ...]
    starts: dict[int, int]
    plan: Plan


@dataclass
class Recording:
    """The log of one run. Edges are named by their id in the plan; gates by -1 - order of their source.

    With a `tap` every entry goes there instead of being kept, and there is no limit.
    """

    plan: str = ""
    drops: list[tuple[int, int, str]] = field(default_factory=list)  # edge or gate, seq, cause; a pause is the frames it drops
    reads: list[tuple[int, int, int]] = field(default_factory=list)  # edge, seq of the trigger, seq of the value (-1: none)
    changes: list[tuple[int, dict[str, Any]]] = field(default_factory=list)  # seq, {node.param or node.in.port: plain value}: a version each
    stamps: list[tuple[int, int, int, int]] = field(default_factory=list)  # gate, seq, version, epoch from this frame of the gate on
    resets: list[tuple[int, str]] = field(default_factory=list)  # seq, reason
    plans: list[Reloaded] = field(default_factory=list)
    on: bool = True
    complete: bool = True
    tap: Tap | None = field(default=None, repr=False, compare=False)

    def drop(self, edge: int, seq: int, cause: str) -> None:
        self.note("drops", (edge, seq, cause))

    def note(self, kind: str, entry: tuple[Any, ...]) -> None:
        """Add `entry` to the list called `kind`."""
        if self.tap is not None:
            self.tap.note(kind, entry)
        elif self.on:
            getattr(self, kind).append(entry)
            # A session that runs for weeks must not fill the memory with what nobody may ever replay.
            if len(self.drops) + len(self.reads) + len(self.changes) + len(self.stamps) + len(self.resets) >= LIMIT:
                self.on = self.complete = False


class Replay:
    """A Recording arranged for look-up. `strict`: a side input that cannot read what was read is an error; else the newest before counts."""

    def __init__(self, recording: Recording, *, strict: bool = True) -> None:
        if not recording.complete:
            raise ReplayError(f"the recording stopped after {LIMIT} events: it does not cover the whole run")
        self.recording, self.strict = recording, strict
        self.decisions: dict[tuple[str, str], list[Any]] = {}  # node, what: values
        self._drops = {(edge, seq): cause for edge, seq, cause in recording.drops}
        self._reads = {(edge, seq): value for edge, seq, value in recording.reads}
        self._stamps: dict[int, list[tuple[int, int, int]]] = {}
        for gate, seq, version, epoch in recording.stamps:
            self._stamps.setdefault(gate, []).append((seq, version, epoch))

    def starts_of(self, segment: int) -> dict[int, int]:
        """Gate to the first seq of the plan that was the `segment`-th to come by a reload."""
        return self.recording.plans[segment - 1].starts if segment <= len(self.recording.plans) else {}

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
