"""A running plan: its nodes, queues and gates, and the one place where changes from outside come in.

    with Session(plan) as session:
        summary = session.run()

A session owns every thread, buffer and operator it makes, and lets go of all of them when it ends, however it ends. Changes of live
parameters and resets are validated, queued, and stamped onto the next frame admitted: that frame is the first to see them, on every node.
It knows nothing of what operators do.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from engine import device, registry
from engine.channel import Channel
from engine.clock import Clock, RealClock, StepClock
from engine.control import Governing
from engine.errors import EngineError, ParamError, RunError
from engine.gate import Gate
from engine.ladder import Rung
from engine.lane import Lane
from engine.node import NodeRun
from engine.packet import Frame, Packet
from engine.plan import Plan
from engine.pool import Pools
from engine.record import Recording, Replay, Tap
from engine.side import Side
from engine.site import Site
from engine.summary import Summary, summarise


@dataclass(eq=False)
class Receipt:
    """The answer to a live change: accepted when you hold it; `applied_at` is the first frame that has it."""

    what: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    applied_at: int | None = None
    _applied: threading.Event = field(default_factory=threading.Event)

    def wait(self, timeout: float | None = None) -> int | None:
        """Block until it is applied; the frame's seq, or None when `timeout` seconds passed first."""
        self._applied.wait(timeout)
        return self.applied_at

    def stamp(self, seq: int) -> None:
        self.applied_at = seq
        self._applied.set()


class Session:
    """One run of a plan. `executor`: "threaded" is real, "inline" is one thread on a step clock.

    `device`: "cpu", "cuda:0", …; None takes a GPU where there is one and a node could use it. `poison` fills returned buffers with a
    pattern. `costs` (inline): node to ns of virtual time per call. `replay` runs a Recording again. `govern` turns the governor off.
    `frames`: every source ends after so many.
    """

    def __init__(
        self, plan: Plan, *, executor: str = "threaded", device: str | None = None, clock: Clock | None = None, poison: bool = False,
        costs: Mapping[str, int] | None = None, replay: Recording | None = None, govern: bool = True, hang_s: float = 300.0,
        frames: int | None = None,
    ) -> None:  # fmt: skip
        self.plan, self.executor, self.costs, self.hang_s, self.limit = plan, executor, dict(costs or {}), hang_s, frames
        self.clock: Clock = clock or (RealClock() if executor == "threaded" else StepClock())
        self.pools = Pools(poison=poison)
        self.replay = Replay(replay) if replay is not None else None
        self.recording = Recording(plan=plan.hash, on=replay is None)
        self.draining, self.aborting = threading.Event(), threading.Event()
        self.errors: list[EngineError] = []
        self.events: deque[dict[str, Any]] = deque(maxlen=20_000)
        self.outputs: list[str] = []
        self.ages: deque[int] = deque(maxlen=100_000)
        self.signals: dict[str, float] = {}
        self.epoch = 0
        self.oldest = 0  # packets of epochs before this one are dropped at the next edge; offline runs lose nothing and keep theirs
        self.frames_out = self.last_out = self.started = self.stopped = 0
        self.first_out: int | None = None
        self._counting = threading.Lock()
        self._lock = threading.Lock()
        self._pending: list[tuple[Receipt, dict[str, dict[str, Any]]]] = []
        self._versions: list[dict[str, dict[str, Any]]] = [] if replay is None else [by_node(change) for _, change in replay.changes]
        self._stamped: dict[int, tuple[int, int]] = {}
        self._wanted: dict[str, dict[str, Any]] = {}
        self._device = device
        self.tap: Tap | None = None
        self.stand_ins: dict[str, Callable[[NodeRun], Any]] = {}  # node to what makes its operator instead, before `run`
        self.first = 0  # the seq of every source's first frame; a replay may begin later
        self.nodes: dict[str, NodeRun] = {}
        self.lanes: dict[str, Lane] = {}
        self.channels: list[Channel] = []
        self.gates: dict[str, Gate] = {}
        self._build()
        self.governing = Governing(self, enabled=govern and self.replay is None)

    # ---- building

    def _build(self) -> None:
        specs = {node.name: registry.find(node.op) for node in self.plan.nodes}
        name = self._device or (device.pick(None) if any(spec.gpu for spec in specs.values()) else "cpu")
        for planned in self.plan.lanes:
            alone = planned.source or self.executor == "inline"  # one thread and one stream: nothing crosses, so nothing has to be waited for
            here = self._device if self._device and self.executor == "inline" and not planned.source else "cpu"
            where = device.Host(here) if alone else device.lane_device(name, planned.priority)
            self.lanes[planned.name] = Lane(planned.name, where, direct=self.executor != "inline")
        for node in self.plan.nodes:
            lane, spec = self.lanes[node.lane], specs[node.name]
            site = Site(
                node=node.name, seed=self.plan.seed, live=self.plan.live, embedded=self.plan.embedded, device=lane.device.name,
                budget_ms=self.plan.budget_ms, clock=self.clock, pools=self.pools,
                stop=self.draining if spec.source else self.aborting,
                _event=self.event, _reset=self._site_reset, _output=self._site_output, _decide=self.decide,
            )  # fmt: skip
            run = self.nodes[node.name] = NodeRun(node, spec, site, self)
            run.lane = lane
            lane.nodes.append(run)
            lane.open_nodes += 1
            self._wanted[node.name] = dict(node.params)
            if spec.source:
                lossy = self.plan.live and self.replay is None  # a replayed gate drops what was dropped, and waits otherwise
                run.gate = self.gates[node.name] = Gate(run, self, credits=self.plan.in_flight, lossy=lossy)
        if not self.plan.live and len(self.gates) > 1:
            together = threading.RLock()
            for gate in self.gates.values():
                gate.take_turns([other for other in self.gates.values() if other is not gate], together)
        for edge in self.plan.edges:
            consumer = self.nodes[edge.node]
            channel = None
            if edge.role != "constant":
                channel = Channel(edge, consumer, self)
                channel.producer = self.nodes[edge.source]
                channel.producer.emit.add(edge.output, channel)
                self.channels.append(channel)
            consumer.add_input(edge, channel)
        for channel in self.channels:
            channel.settle()

    # ---- running

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop(drain=False)

    def run(self, tick: Callable[[Session], None] | None = None, *, tick_s: float = 0.1) -> Summary:
        """Run until the sources end, `stop` is called or something fails; `tick` is called every `tick_s` seconds meanwhile.

        Raises the first error, with the others attached as notes, after every operator was closed. The summary is kept in `summary()`.
        """
        from engine.inline import Inline
        from engine.threads import Threads

        runner: Inline | Threads = Inline(self) if self.executor == "inline" else Threads(self)
        self.started = self.clock.now()
        try:
            runner.run(tick, tick_s)
        finally:
            self.stopped = self.clock.now()
            for gate in self.gates.values():
                gate.close()
        if self.errors:
            first = self.errors[0]
            for other in self.errors[1:]:
                first.add_note(f"also: {other}")
            raise first
        return self.summary()

    def summary(self) -> Summary:
        return summarise(self)

    def stop(self, *, drain: bool = True) -> None:
        """Stop the sources and let what is under way finish (`drain`), or give up what is under way."""
        self.draining.set()
        if not drain:
            self.aborting.set()
        for gate in self.gates.values():
            with gate.lock:
                gate.emptied.notify_all()
        for lane in self.lanes.values():
            if lane.nodes:
                lane.post(lane.nodes[0])

    def fail(self, error: EngineError) -> None:
        """Note an error and let the rest of the graph finish what it has. A replay goes on to where the recorded sources ended."""
        with self._lock:
            self.errors.append(error)
        if self.replay is None:
            self.stop(drain=True)

    # ---- changes from outside

    def set(self, changes: Mapping[str, Any], *, by: str = "") -> Receipt:
        """Change live parameters (`node.param` to value) together, on one frame. Raises ParamError, and then nothing is changed."""
        from pydantic import ValidationError

        problems: dict[str, str] = {}
        wanted: dict[str, dict[str, Any]] = {}
        for key, value in changes.items():
            name, _, param = key.partition(".")
            run = self.nodes.get(name)
            known = run.spec.param(param) if run else None
            if run is None:
                problems[key] = f"there is no node {name!r}; " + registry.suggest(name, list(self.nodes))
            elif known is None:
                problems[key] = f"{run.plan.op} has no parameter {param!r}; " + registry.suggest(param, [p.name for p in run.spec.params])
            elif not known.live:
                problems[key] = "is fixed at open"
            else:
                wanted.setdefault(name, {})[param] = value
        with self._lock:
            for name, change in wanted.items():
                try:
                    model = self.nodes[name].spec.model()(**{**self.nodes[name].params, **self._wanted[name], **change})
                except ValidationError as error:
                    for item in error.errors():
                        problems[f"{name}.{item['loc'][0]}"] = f"{item['msg']} (found {item.get('input')!r})"
                else:
                    wanted[name] = {param: getattr(model, param) for param in change}
            if problems:
                raise ParamError(problems)
            receipt = Receipt(by or "set", dict(changes))
            for name, change in wanted.items():
                self._wanted[name].update(change)
            self._pending.append((receipt, wanted))
        return receipt

    def reset(self, reason: str = "reset") -> Receipt:
        """Start a new epoch at the next frame admitted: carries, holds and operators forget what came before."""
        receipt = Receipt("reset", {"reason": reason})
        with self._lock:
            self._pending.append((receipt, {}))
        return receipt

    @property
    def resetting(self) -> bool:
        """Whether the next frame admitted starts a new epoch."""
        return any(receipt.what == "reset" for receipt, _ in self._pending)

    def stamp(self, gate: int, seq: int, cut: bool) -> tuple[int, int]:
        """The parameter version and epoch of the frame `seq` that `gate` is admitting: everything pending lands on it."""
        if self.replay is not None:
            version, self.epoch = self.replay.stamp_at(gate, seq)
            self._stamped[-1] = max(self._stamped.get(-1, (0, 0)), (version, self.epoch))
            return version, self.epoch
        if self._pending or cut:
            self._land(seq, cut)
        found = len(self._versions), self.epoch
        if self._stamped.get(gate, (0, 0)) != found:
            self._stamped[gate] = found
            self.recording.note("stamps", (gate, seq, *found))
        return found

    def _land(self, seq: int, cut: bool) -> None:
        with self._lock:
            pending, self._pending = self._pending, []
            resets = ["cut"] if cut else []
            changes: dict[str, dict[str, Any]] = {}
            for receipt, wanted in pending:
                if receipt.what == "reset":
                    resets.append(str(receipt.changes["reason"]))
                for name, change in wanted.items():
                    changes.setdefault(name, {}).update(change)
            if changes:
                self._versions.append(changes)
                self.recording.note("changes", (seq, {f"{n}.{p}": value for n, change in changes.items() for p, value in change.items()}))
            if resets:
                self.epoch += 1
                self.oldest = self.epoch if self.plan.live else 0
                self.recording.note("resets", (seq, resets[-1]))
        for receipt, _ in pending:
            receipt.stamp(seq)
            if receipt.what != "reset":
                self.event("set", "", seq, by=receipt.what, changes=dict(receipt.changes))
        if resets:
            self.event("epoch", "", seq, epoch=self.epoch, reason=resets[-1])

    @property
    def version(self) -> int:
        """How often parameters have changed so far."""
        return len(self._versions) if self.replay is None else self._stamped.get(-1, (0, 0))[0]

    def changes(self, since: int, until: int, node: str) -> list[dict[str, Any]]:
        """What changed for `node` between two parameter versions."""
        return [change[node] for change in self._versions[since:until] if node in change]

    def rung(self, node: NodeRun, rung: Rung, cause: str) -> None:
        """A step on the out-of-memory ladder: the settings hold at once, for the frame in hand."""
        if rung.settings:
            node.update(dict(rung.settings))
            with self._lock:
                self._wanted[node.name].update(rung.settings)
        self.event("memory", node.name, node.site.seq, rung=rung.name, settings=dict(rung.settings), cause=rung.cause or cause)

    # ---- what nodes and gates report

    def event(self, what: str, node: str, seq: int, **facts: Any) -> None:
        """Put an event into the log."""
        event = {"at": self.clock.now(), "what": what, "node": node, "seq": seq, **facts}
        self.events.append(event)
        if self.tap is not None:
            self.tap.event(event)

    def sunk(self, node: NodeRun, packet: Packet, now: int, given: list[tuple[Side, Any]]) -> None:
        """A sink is done with a frame."""
        self.ages.append(now - packet.born)
        if self.tap is not None:
            self.tap.sunk(node, packet, given)

    def listen(self, tap: Tap) -> None:
        """Tell `tap` of everything from now on, in place of keeping a recording; before `run`."""
        self.tap = self.recording.tap = tap

    def decide(self, node: str, what: str, make: Callable[[], Any]) -> Any:
        """A choice that a replay must not make anew."""
        if self.replay is not None and (node, what) in self.replay.decisions:
            return self.replay.decisions[node, what]
        value = make()
        if self.tap is not None:
            self.tap.decided(node, what, value)
        return value

    def frame_ended(self, frame: Frame) -> None:
        """A frame's fate is decided; called by its gate."""
        if frame.sunk is not None:
            with self._counting:  # several gates may end frames at the same time
                self.frames_out += 1
                self.first_out = frame.sunk if self.first_out is None else min(self.first_out, frame.sunk)
                self.last_out = max(self.last_out, frame.sunk)

    def _site_reset(self, node: str, reason: str) -> None:
        self.reset(f"{node}: {reason}")

    def _site_output(self, path: str) -> None:
        with self._lock:
            if path not in self.outputs:
                self.outputs.append(path)

    # ---- what the live view reads

    def knobs(self) -> dict[str, Any]:
        """The present value of every governed parameter."""
        return {
            rule.set: self.nodes[rule.set.partition(".")[0]].params.get(rule.set.partition(".")[2])
            for rule in self.plan.govern.knobs if rule.set.partition(".")[0] in self.nodes
        }  # fmt: skip

    def check(self) -> None:
        """Raise RunError where packets were lost without a cause: in = out + in flight + drops, for every edge and every source."""
        for channel in self.channels:
            if channel.balance:
                raise RunError(f"edge {channel.edge}: {channel.balance} packets unaccounted for")
        for gate in self.gates.values():
            missing = gate.entered - gate.out - gate.in_flight - sum(gate.drops.values())
            if missing:
                raise RunError(f"source {gate.source.name}: {missing} frames unaccounted for")


def by_node(change: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """`node.param` to value, as node to param to value."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in change.items():
        name, _, param = key.partition(".")
        found.setdefault(name, {})[param] = value
    return found


def run(plan: Plan, **options: Any) -> Summary:
    """Run `plan` to its end and return the summary; options as for Session."""
    with Session(plan, **options) as session:
        return session.run()
