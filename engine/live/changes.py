"""What comes in from outside while a session runs: sets, ramps and resets, from being asked to being in force.

A change is validated when it is asked for, queued, and stamped onto the next frame that a gate admits: that frame is the first to see it, on
every node. Invariants: all of one transaction lands on one frame, or nothing of it; receipts move in the order in which their changes landed;
what landed is in the recording, value by value, so that a replay repeats it without knowing what a ramp is.

What can be set, and to what, is for `engine.live.settable` to say. It knows nothing of queues and lanes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from engine import registry
from engine.errors import ParamError
from engine.live import ramp as ramps
from engine.live.ramp import Ramp
from engine.live.receipt import Receipt
from engine.live.settable import Path, checked, no_ramp, plain, present
from engine.payload import from_plain, to_plain

if TYPE_CHECKING:
    from engine.session import Session

KEPT = 65536  # parameter versions that are kept one by one; a frame that is older than so many sees what came after it too

Move = tuple[Receipt, str, dict[str, Any]]  # what moves, to which state, with what is known by then


class Changes:
    """The changes of one session. `stamp` is called by the gates, under their locks; everything else from any thread."""

    def __init__(self, session: Session, versions: Iterable[Mapping[str, Any]] = ()) -> None:
        self.session = session
        self.lock = threading.RLock()
        self.pending: list[tuple[Receipt, Mapping[Path, Any], Ramp | None]] = []  # with its values, or the targets of its ramp
        self.ramps: list[Ramp] = []
        self.wanted: dict[str, dict[str, Any]] = {}  # what every node will have when all that was accepted has landed
        self.landed: dict[str, dict[str, Any]] = {}
        self._versions: list[dict[str, dict[str, Any]]] = [by_node(change) for change in versions]
        self._seen = 0
        self._ended = ""
        self._folded = 0  # versions that were folded into one
        self._before: dict[str, dict[str, Any]] = {}
        self._outbox: deque[Move] = deque()
        self._delivering = threading.Lock()

    def know(self, node: str, params: Mapping[str, Any]) -> None:
        """A node begins, with these parameters."""
        self.wanted[node], self.landed[node] = dict(params), dict(params)

    def landed_on(self, node: str) -> dict[str, Any]:
        """The values that a node has as of the newest frame, changed inputs (`in.` and the port) among them."""
        with self.lock:
            self._catch_up()
            return dict(self.landed.get(node, {}))

    def _catch_up(self) -> None:
        """In a replay, note as landed what its recording has up to now: nothing lands there by itself."""
        if self.session.replay is not None:
            for version in self._versions[self._seen : self.session.version]:
                for name, change in version.items():
                    self.landed.setdefault(name, {}).update(change)
            self._seen = self.session.version

    def reload(self, receipt: Receipt, values: Mapping[Path, Any], fresh: Mapping[str, Mapping[str, Any]], cut: bool) -> None:
        """The nodes have changed: `fresh` ones begin with their parameters; `values` and the receipt land with the next frame admitted, in a
        new epoch where a `cut` says so. What was accepted before and does not fit any more fails."""
        with self.lock:
            nodes = self.session.nodes
            self._catch_up()  # what landed on a node that goes is nothing to one that takes its name later
            for table in (self.wanted, self.landed):
                for name in [name for name in table if name not in nodes]:
                    del table[name]
            waiting, self.pending = self.pending, []
            for name, params in fresh.items():
                self.know(name, params)
            for other, asked, ramp in waiting:
                lost = [path for path, value in asked.items() if not self._fits(path, value)]
                if other.what == "reload":  # it has been carried out; what it brought for nodes that stay still lands
                    self._accept(other, {path: value for path, value in asked.items() if path not in lost})
                elif lost:
                    reason = f"{'.'.join(lost[0])} is not there any more: a reload changed it"
                    self._outbox.append((other, "failed", {"reason": reason}))
                else:
                    self._accept(other, asked, ramp)
            under_way = [item for one in self.ramps for item in one.targets.items()]
            lost = [path for path, target in under_way if path[0] in fresh or not self._fits(path, target)]
            self._outbox += self._leave(lost, "a reload changed its node")
            self._accept(receipt, values)
            if cut:
                self.pending.append((Receipt("reset", {"reason": "reload"}), {}, None))
        self.deliver()

    def _fits(self, path: Path, value: Any) -> bool:
        """Whether an accepted change still makes sense for the graph as it is now."""
        try:
            return path in checked(self.session.nodes, self.wanted, {".".join(path): to_plain(value)})
        except ParamError:
            return False

    def overrule(self, node: str, settings: Mapping[str, Any]) -> None:
        """Settings that hold already, found by the runtime itself."""
        with self.lock:
            self.wanted[node].update(settings)
            self.landed[node].update(settings)

    # ---- asking

    def set(self, changes: Mapping[str, Any], *, by: str = "") -> Receipt:
        """Accept a transaction. Raises ParamError, and then nothing is changed."""
        with self.lock:
            values = checked(self.session.nodes, self.wanted, changes)
            receipt = Receipt("set", plain(values), by)
            self._accept(receipt, values)
        return receipt

    def ramp(
        self, changes: Mapping[str, Any], *, frames: int | None = None, seconds: float | None = None, curve: str = "linear", by: str = ""
    ) -> Receipt:  # fmt: skip
        """Accept a ramp. Raises ParamError and UsageError, and then nothing is changed."""
        ramps.check(frames, seconds, curve)
        with self.lock:
            nodes = self.session.nodes
            values = checked(nodes, self.wanted, changes)
            problems = {f"{n}.{key}": why for (n, key), value in values.items() if (why := no_ramp(nodes[n], self.wanted, key, value))}
            if problems and curve != "blend":
                raise ParamError(problems)
            targets = {path: to_plain(value) for path, value in values.items()}
            receipt = Receipt("ramp", plain(values), by)
            self._accept(receipt, targets, Ramp(receipt, targets, frames, seconds, curve))
        return receipt

    def reset(self, reason: str) -> Receipt:
        receipt = Receipt("reset", {"reason": reason})
        self.add(receipt)
        return receipt

    def release(self, paths: Iterable[str], by: str) -> Receipt:
        """Give knobs back to the governor. Raises ParamError for what is no knob of the graph."""
        knobs = [rule.set for rule in self.session.plan.govern.knobs]
        asked = list(paths) or knobs
        problems = {path: registry.unknown("is no knob of the governor", path, knobs) for path in asked if path not in knobs}
        if problems:
            raise ParamError(problems)
        receipt = Receipt("release", {"paths": asked}, by)
        with self.lock:
            self.session.governing.release(receipt)
            self._accept(receipt, {})
        return receipt

    def add(self, receipt: Receipt) -> None:
        """Let `receipt` be applied with the next frame admitted."""
        with self.lock:
            self._accept(receipt, {})

    def _accept(self, receipt: Receipt, values: Mapping[Path, Any], ramp: Ramp | None = None) -> None:
        self.session.governing.hold(receipt)
        for (name, key), value in values.items():
            self.wanted.setdefault(name, {})[key] = value
        if self._ended:
            self._outbox.append((receipt, "failed", {"reason": self._ended}))
            self.deliver()
        else:
            self.pending.append((receipt, values, ramp))

    @property
    def resetting(self) -> bool:
        """Whether the next frame admitted starts a new epoch."""
        return any(receipt.what == "reset" for receipt, _, _ in self.pending)

    # ---- landing

    def stamp(self, gate: int, seq: int, now: int, resets: list[str]) -> None:
        """Let all that is pending, and the next step of every ramp, land on frame `seq`; with any of `resets`, a new epoch begins there."""
        session = self.session
        with self.lock:
            pending, self.pending = self.pending, []
            changes: dict[Path, Any] = {}
            moves: list[Move] = []
            for receipt, values, ramp in pending:
                if receipt.what == "reset":
                    resets.append(str(receipt.changes["reason"]))
                moves += self._leave(values.keys(), f"a later change took over at frame {seq}", done_at=seq)
                if ramp is None:
                    changes.update(values)
                else:
                    ramp.begin(gate, {path: self._value(path, changes) for path in values})
                    self.ramps.append(ramp)
                moves.append((receipt, "applied", {"applied_at": seq}))
            changes |= self._step(gate, seq, now, moves)
            if changes:
                self._land(seq, changes)
            if resets:
                session.epoch += 1
                session.oldest = session.epoch if session.plan.live else 0
                session.recording.note("resets", (seq, resets[-1]))
            for _, state, facts in moves:
                facts.update({"epoch": session.epoch, "params": self.version} if state == "applied" else {})
            self._outbox.extend(moves)
        self.deliver()
        if resets:
            session.event("epoch", "", seq, epoch=session.epoch, reason=resets[-1])

    def _step(self, gate: int, seq: int, now: int, moves: list[Move]) -> dict[Path, Any]:
        changes: dict[Path, Any] = {}
        running = {gate.source.gate_id for gate in self.session.gates.values() if not gate.source.finished}
        for one in self.ramps[:]:
            ended = one.gate != gate and one.gate not in running  # its clock has stopped: the next frame of any source is its last
            if one.gate != gate and not ended:
                continue
            values, done = one.step(now)
            if ended:
                values, done = dict(one.targets), True
            changes |= {path: self._payload(path, value) for path, value in values.items()}
            if done:
                self.ramps.remove(one)
                moves.append((one.receipt, "done", {"done_at": seq}))
        return changes

    def _leave(self, paths: Collection[Path], why: str, **facts: Any) -> list[Move]:
        """Take `paths` out of the ramps under way; one that has none left has failed."""
        moves: list[Move] = []
        for one in self.ramps[:]:
            for path in [path for path in paths if path in one.targets]:
                del one.targets[path]
                one.receipt.problems[".".join(path)] = why
            if not one.targets:
                self.ramps.remove(one)
                moves.append((one.receipt, "failed", {**facts, "reason": why}))
        return moves

    def _value(self, path: Path, changes: Mapping[Path, Any]) -> Any:
        return to_plain(changes[path]) if path in changes else present(self.session.nodes[path[0]], self.landed, path[1])

    def _payload(self, path: Path, value: Any) -> Any:
        port = self.session.nodes[path[0]].spec.port(path[1].removeprefix("in.")) if path[1].startswith("in.") else None
        return value if port is None else from_plain(port.type, value)

    def _land(self, seq: int, changes: Mapping[Path, Any]) -> None:
        version: dict[str, dict[str, Any]] = {}
        for (name, key), value in changes.items():
            version.setdefault(name, {})[key] = value
            self.landed.setdefault(name, {})[key] = value
        self._versions.append(version)
        self.session.recording.note("changes", (seq, plain(changes)))
        if len(self._versions) > 2 * KEPT:
            self._fold(KEPT)

    def _fold(self, count: int) -> None:
        for version in self._versions[:count]:
            for name, change in version.items():
                self._before.setdefault(name, {}).update(change)
        self._versions, self._folded = self._versions[count:], self._folded + count

    def deliver(self) -> None:
        """Move receipts, in order, by one thread at a time and under no lock of this object."""
        while self._outbox and self._delivering.acquire(blocking=False):
            try:
                while self._outbox:
                    receipt, state, facts = self._outbox.popleft()
                    self.tell(receipt, state, facts)
            finally:
                self._delivering.release()

    def post(self, receipt: Receipt, state: str, **facts: Any) -> None:
        """Move one receipt after those that moved before it."""
        self._outbox.append((receipt, state, facts))
        self.deliver()

    def tell(self, receipt: Receipt, state: str, facts: dict[str, Any]) -> None:
        for failure in receipt.move(state, **facts):
            self.session.event("callback failed", "", -1, message=f"{type(failure).__name__}: {failure}")
        if receipt.what in ("set", "ramp") and state == "applied":
            self.session.event(receipt.what, "", receipt.applied_at or 0, by=receipt.by or receipt.what, changes=dict(receipt.changes))

    def end(self, reason: str) -> None:
        """Nothing will land any more."""
        with self.lock:
            left = [receipt for receipt, _, _ in self.pending] + [one.receipt for one in self.ramps]
            self.pending, self.ramps, self._ended = [], [], reason
            self._outbox.extend((receipt, "failed", {"reason": reason}) for receipt in left)
        self.deliver()

    def rest(self) -> None:
        """A pause ends: the time that it took is no time for ramps."""
        with self.lock:
            for one in self.ramps:
                one.rest()

    # ---- versions

    @property
    def version(self) -> int:
        """How often parameters have changed so far."""
        return self._folded + len(self._versions)

    def between(self, since: int, until: int, node: str) -> list[dict[str, Any]]:
        """What changed for `node` between two parameter versions."""
        with self.lock:
            first = [self._before[node]] if since < self._folded and node in self._before else []
            start, stop = max(0, since - self._folded), max(0, until - self._folded)
            return first + [change[node] for change in self._versions[start:stop] if node in change]


def by_node(change: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """`node.param` to value, as node to param to value."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in change.items():
        name, _, param = key.partition(".")
        found.setdefault(name, {})[param] = value
    return found
