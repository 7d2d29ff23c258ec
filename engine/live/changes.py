"""What comes in from outside while a session runs: sets, ramps and resets, from being asked to being in force.

A change is validated when it is asked for, queued, and stamped onto the next frame that a gate admits: that frame is the first to see it, on
every node. Invariants: all of one transaction lands on one frame, or nothing of it; receipts move in the order in which their changes landed;
what landed is in the recording, value by value, so that a replay repeats it without knowing what a ramp is.

Paths: `node.param` is a live parameter; `node.port`, or `node.in.port` where a parameter has the same name, is an input with a written value
(a constant, a hold's default) or one that the graph leaves unconnected. It knows nothing of queues and lanes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from engine import registry
from engine.errors import ParamError
from engine.live import ramp as ramps
from engine.live.ramp import Ramp
from engine.live.receipt import Receipt
from engine.operator import Port
from engine.payload import Prompt, from_plain, to_plain

if TYPE_CHECKING:
    from engine.run.node import NodeRun
    from engine.session import Session

KEPT = 65536  # parameter versions that are kept one by one; a frame that is older than so many sees what came after it too

Path = tuple[str, str]  # node; parameter, or "in." and port


class Changes:
    """The changes of one session. `stamp` is called by the gates, under their locks; everything else from any thread."""

    def __init__(self, session: Session, versions: Iterable[Mapping[str, Any]] = ()) -> None:
        self.session = session
        self.lock = threading.RLock()
        self.pending: list[tuple[Receipt, dict[Path, Any] | Ramp]] = []
        self.ramps: list[Ramp] = []
        self.wanted: dict[str, dict[str, Any]] = {}  # what every node will have when all that was accepted has landed
        self.landed: dict[str, dict[str, Any]] = {}
        self._versions: list[dict[str, dict[str, Any]]] = [by_node(change) for change in versions]
        self._seen = 0
        self._ended = ""
        self._folded = 0  # versions that were folded into one
        self._before: dict[str, dict[str, Any]] = {}
        self._outbox: deque[tuple[Receipt, str, dict[str, Any]]] = deque()
        self._delivering = threading.Lock()

    def know(self, node: str, params: Mapping[str, Any]) -> None:
        """A node begins, with these parameters."""
        self.wanted[node], self.landed[node] = dict(params), dict(params)

    def landed_on(self, node: str) -> dict[str, Any]:
        """The values that a node has as of the newest frame, changed inputs (`in.` and the port) among them."""
        with self.lock:
            if self.session.replay is not None:  # changes come from the recording and are not landed here
                for version in self._versions[self._seen : self.session.version]:
                    for name, change in version.items():
                        self.landed.setdefault(name, {}).update(change)
                self._seen = self.session.version
            return dict(self.landed.get(node, {}))

    def reload(self, receipt: Receipt, values: Mapping[Path, Any], fresh: Mapping[str, Mapping[str, Any]], cut: bool) -> None:
        """The nodes have changed: `fresh` ones begin with their parameters; `values` and the receipt land with the next frame admitted, in a
        new epoch where a `cut` says so. What was accepted before and does not fit any more fails."""
        with self.lock:
            nodes = self.session.nodes
            for table in (self.wanted, self.landed):
                for name in [name for name in table if name not in nodes]:
                    del table[name]
            waiting, self.pending = self.pending, []
            for name, params in fresh.items():
                self.know(name, params)
            for other, what in waiting:
                paths = list(what.targets if isinstance(what, Ramp) else what)
                lost = [path for path in paths if not self._fits(path, what.targets[path] if isinstance(what, Ramp) else what[path])]
                if lost:
                    reason = f"{'.'.join(lost[0])} is not there any more: a reload changed it"
                    self._outbox.append((other, "failed", {"reason": reason}))
                else:
                    self._accept(other, what)
            for one in self.ramps[:]:
                for path in [path for path in one.targets if path[0] in fresh or not self._fits(path, one.targets[path])]:
                    one.overtaken(path)
                    one.receipt.problems[".".join(path)] = "a reload changed its node"
                if not one.targets:
                    self.ramps.remove(one)
                    self._outbox.append((one.receipt, "failed", {"reason": "a reload changed its node"}))
            self._accept(receipt, dict(values))
            if cut:
                self.pending.append((Receipt("reset", {"reason": "reload"}), {}))
        self.deliver()

    def _fits(self, path: Path, value: Any) -> bool:
        """Whether an accepted change still makes sense for the graph as it is now."""
        try:
            return path in self._checked({".".join(path): to_plain(value)})[0]
        except ParamError:
            return False

    def overrule(self, node: str, settings: Mapping[str, Any]) -> None:
        """Settings that hold already, found by the runtime itself."""
        with self.lock:
            self.wanted[node].update(settings)
            self.landed[node].update(settings)

    # ---- asking

    def set(self, changes: Mapping[str, Any], *, by: str = "", what: str = "set") -> Receipt:
        """Accept a transaction. Raises ParamError, and then nothing is changed."""
        with self.lock:
            wanted, plain = self._checked(changes)
            receipt = Receipt(what, plain, by)
            self._accept(receipt, wanted)
        return receipt

    def ramp(
        self, changes: Mapping[str, Any], *, frames: int | None = None, seconds: float | None = None, curve: str = "linear", by: str = ""
    ) -> Receipt:  # fmt: skip
        """Accept a ramp. Raises ParamError and UsageError, and then nothing is changed."""
        ramps.check(frames, seconds, curve)
        with self.lock:
            targets, plain = self._checked(changes)
            problems = {f"{n}.{key}": why for (n, key), value in targets.items() if (why := self._no_ramp(n, key, value))}
            if problems:
                raise ParamError(problems)
            targets = {path: to_plain(value) for path, value in targets.items()}
            receipt = Receipt("ramp", plain, by)
            self._accept(receipt, Ramp(receipt, targets, frames, seconds, curve))
        return receipt

    def reset(self, reason: str) -> Receipt:
        receipt = Receipt("reset", {"reason": reason})
        self.add(receipt)
        return receipt

    def release(self, paths: Iterable[str], by: str) -> Receipt:
        """Give knobs back to the governor. Raises ParamError for what is no knob of the graph."""
        knobs = [rule.set for rule in self.session.plan.govern.knobs]
        asked = list(paths) or knobs
        problems = {path: "is no knob of the governor; " + registry.suggest(path, knobs) for path in asked if path not in knobs}
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

    def _accept(self, receipt: Receipt, what: dict[Path, Any] | Ramp) -> None:
        self.session.governing.hold(receipt)
        for (name, key), value in (what.targets if isinstance(what, Ramp) else what).items():
            self.wanted.setdefault(name, {})[key] = value
        if self._ended:
            self._outbox.append((receipt, "failed", {"reason": self._ended}))
            self.deliver()
        else:
            self.pending.append((receipt, what))

    @property
    def resetting(self) -> bool:
        """Whether the next frame admitted starts a new epoch."""
        return any(receipt.what == "reset" for receipt, _ in self.pending)

    # ---- checking

    def _checked(self, changes: Mapping[str, Any]) -> tuple[dict[Path, Any], dict[str, Any]]:
        """The validated values by node and key, and the same as plain values by path."""
        from pydantic import ValidationError

        problems: dict[str, str] = {}
        params: dict[str, dict[str, Any]] = {}
        wanted: dict[Path, Any] = {}
        for path, value in changes.items():
            name, _, rest = path.partition(".")
            run = self.session.nodes.get(name)
            if run is None:
                problems[path] = f"there is no node {name!r}; " + registry.suggest(name, list(self.session.nodes))
                continue
            found = self._find(run, rest, value)
            if isinstance(found, str):
                problems[path] = found
            elif not found[0].startswith("in."):
                params.setdefault(name, {})[found[0]] = value
            else:
                try:
                    wanted[name, found[0]] = self._input(run, found[0], found[1], value)
                except ValueError as error:
                    problems[path] = str(error)
        for name, change in params.items():
            run = self.session.nodes[name]
            known = {key: value for key, value in {**run.params, **self.wanted[name]}.items() if not key.startswith("in.")}
            try:
                model = run.spec.model()(**{**known, **change})
            except ValidationError as error:
                for item in error.errors():
                    problems[f"{name}.{item['loc'][0]}"] = f"{item['msg']} (found {item.get('input')!r})"
            else:
                wanted |= {(name, key): getattr(model, key) for key in change}
        if problems:
            raise ParamError(problems)
        return wanted, {f"{name}.{key}": to_plain(value) for (name, key), value in wanted.items()}

    def _find(self, run: NodeRun, rest: str, value: Any) -> tuple[str, Port | None] | str:
        """The key that `rest` names on a node, with the port where it is an input; or why there is none."""
        port, inputs = rest.removeprefix("in."), run.inputs.settable()
        param = run.spec.param(rest)
        if port in inputs:
            wired, kind = inputs[port]
            free = not wired and param is not None and not isinstance(value, Mapping) and run.inputs.blank.get(port) is None
            if port != rest or not free:
                return f"in.{port}", kind
        elif port != rest or (param is None and run.spec.port(port) is not None):
            return self._unsettable(run, port)
        if param is None:
            return f"{run.plan.op} has no parameter {rest!r}; " + registry.suggest(rest, [p.name for p in run.spec.params] + list(inputs))
        if not param.live:
            return "is fixed at open"
        fed = any(edge.feeds == "param" for edge in run.inputs.edges(rest))
        return self._unsettable(run, rest) if fed else (rest, None)

    @staticmethod
    def _unsettable(run: NodeRun, port: str) -> str:
        edge = next(iter(run.inputs.edges(port)), None)
        if edge is None:
            return f"{run.plan.op} has no input {port!r} that could be set"
        source = f"{edge.source}.{edge.output}"
        if edge.feeds == "param":
            return f"is fed by {source} with every frame, which would overwrite it; take that edge out of the graph to set it"
        return f"comes from {source} with every frame; give it a hold in the graph to set it"

    def _input(self, run: NodeRun, key: str, port: Port | None, value: Any) -> Any:
        """The value of an input as its payload; of one that feeds a parameter, as that parameter takes it. Raises ValueError."""
        name = key.removeprefix("in.")
        if port is None:
            from pydantic import ValidationError

            known = {k: v for k, v in run.params.items() if run.spec.param(k) is not None}
            try:
                return getattr(run.spec.model()(**{**known, name: value}), name)
            except ValidationError as error:
                raise ValueError("; ".join(f"{item['msg']} (found {item.get('input')!r})" for item in error.errors())) from None
        if value is None and not run.inputs.settable()[name][0]:
            return None  # as the graph leaves it
        payload = from_plain(port.type, value)
        before = self.wanted[run.name].get(key, run.inputs.written(name))
        if isinstance(payload, Prompt) and isinstance(value, str) and isinstance(before, Prompt):
            return Prompt(value, before.negative, before.blend)  # other words; what to avoid and how to blend stay
        return payload

    def _no_ramp(self, name: str, key: str, target: Any) -> str:
        """Why a ramp cannot go to `target`, "" where it can."""
        run = self.session.nodes[name]
        param = run.spec.param(key)
        if param is not None and "Literal" in str(param.annotation):
            return "is a choice: there is nothing between two of its values; set it"
        target, start = to_plain(target), to_plain(self.wanted[name].get(key, run.inputs.written(key.removeprefix("in."))))
        if isinstance(target, (str, Mapping)) and key.startswith("in."):
            return "is no number: set it as a table with text and blend, the frames over which it is blended in"
        if not ramps.numeric(target):
            return f"a ramp goes between numbers (found {target!r}); set it"
        if not ramps.numeric(start) or isinstance(start, (list, tuple)) != isinstance(target, (list, tuple)):
            return f"a ramp has no number to start from (it is {start!r}); set it first"
        if isinstance(target, (list, tuple)) and len(target) != len(start):
            return f"has {len(start)} parts at present, {len(target)} were given"
        return ""

    # ---- landing

    def stamp(self, gate: int, seq: int, now: int, resets: list[str]) -> None:
        """Let all that is pending, and the next step of every ramp, land on frame `seq`; with any of `resets`, a new epoch begins there."""
        session = self.session
        with self.lock:
            pending, self.pending = self.pending, []
            changes: dict[Path, Any] = {}
            moves: list[tuple[Receipt, str, dict[str, Any]]] = []
            for receipt, what in pending:
                if receipt.what == "reset":
                    resets.append(str(receipt.changes["reason"]))
                if isinstance(what, Ramp):
                    self._overtake(what.targets, seq, moves)
                    what.begin(gate, {path: self._value(path, changes) for path in what.targets})
                    self.ramps.append(what)
                else:
                    self._overtake(what, seq, moves)
                    changes.update(what)
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

    def _step(self, gate: int, seq: int, now: int, moves: list[tuple[Receipt, str, dict[str, Any]]]) -> dict[Path, Any]:
        changes: dict[Path, Any] = {}
        for one in self.ramps[:]:
            ended = one.gate != gate and self.session.ended(one.gate)  # its clock has stopped: the next frame of any source is its last
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

    def _overtake(self, paths: Iterable[Path], seq: int, moves: list[tuple[Receipt, str, dict[str, Any]]]) -> None:
        for one in self.ramps[:]:
            for path in paths:
                if one.overtaken(path):
                    one.receipt.problems[".".join(path)] = f"a later change took over at frame {seq}"
            if not one.targets:
                self.ramps.remove(one)
                moves.append((one.receipt, "failed", {"done_at": seq, "reason": f"a later change took over at frame {seq}"}))

    def _value(self, path: Path, changes: Mapping[Path, Any]) -> Any:
        name, key = path
        run = self.session.nodes[name]
        return to_plain(changes.get(path, self.landed[name].get(key, run.inputs.written(key.removeprefix("in.")))))

    def _payload(self, path: Path, value: Any) -> Any:
        port = self.session.nodes[path[0]].spec.port(path[1].removeprefix("in.")) if path[1].startswith("in.") else None
        return value if port is None else from_plain(port.type, value)

    def _land(self, seq: int, changes: Mapping[Path, Any]) -> None:
        version: dict[str, dict[str, Any]] = {}
        for (name, key), value in changes.items():
            version.setdefault(name, {})[key] = value
            self.landed.setdefault(name, {})[key] = value
        self._versions.append(version)
        self.session.recording.note("changes", (seq, {f"{name}.{key}": to_plain(value) for (name, key), value in changes.items()}))
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
            left = [receipt for receipt, _ in self.pending] + [one.receipt for one in self.ramps]
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
