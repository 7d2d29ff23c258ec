"""A running plan: its nodes, queues and gates, and the one place where changes from outside come in.

    with Session(plan) as session:
        summary = session.run()

A session owns every thread, buffer and operator it makes, and lets go of all of them when it ends, however it ends. Changes of live
parameters and resets are validated, queued, and stamped onto the next frame admitted: that frame is the first to see them, on every node.
It knows nothing of what operators do.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self

from engine.clock import Clock, RealClock, StepClock
from engine.errors import EngineError, UsageError
from engine.live.changes import Changes
from engine.live.control import Governing
from engine.live.describe import describe, values
from engine.live.health import Health, look, signs_of
from engine.live.receipt import Receipt
from engine.live.record import Recording, Replay, Tap
from engine.live.summary import Summary, summarise
from engine.packet import Frame, Packet
from engine.plan import Plan
from engine.planning.compile import altered
from engine.planning.diff import check_same_run
from engine.planning.memory import MemoryPlan
from engine.pool import Pools
from engine.run.build import build
from engine.run.channel import Channel
from engine.run.gate import Gate
from engine.run.lane import Lane
from engine.run.node import NodeRun
from engine.run.past import Past, check
from engine.run.side import Side

if TYPE_CHECKING:
    from engine.run.inline import Inline
    from engine.run.threads import Threads

LOOK_NS = 100_000_000  # between two looks at the state
MEASURED = 20_000  # frames of which a node's numbers are kept


class Session:
    """One run of a plan. `executor`: "threaded" is real, "inline" is one thread on a step clock.

    `device`: "cpu", "cuda:0", …; None takes a GPU where there is one and a node could use it. `poison` fills returned buffers with a
    pattern. `costs` (inline): node to ns of virtual time per call. `replay` runs a Recording again. `govern` turns the governor off.
    `frames`: every source ends after so many.
    """

    def __init__(
        self, plan: Plan, *, executor: str = "threaded", device: str | None = None, clock: Clock | None = None, poison: bool = False,
        costs: Mapping[str, int] | None = None, replay: Recording | Replay | None = None, govern: bool = True, hang_s: float = 300.0,
        frames: int | None = None,
    ) -> None:  # fmt: skip
        self.plan, self.executor, self.costs, self.hang_s, self.limit = plan, executor, dict(costs or {}), hang_s, frames
        self.clock: Clock = clock or (RealClock() if executor == "threaded" else StepClock())
        self.pools = Pools(poison=poison)
        self.replay = Replay(replay) if isinstance(replay, Recording) else replay
        self.recording = Recording(plan=plan.hash, on=replay is None)
        self.draining, self.aborting = threading.Event(), threading.Event()
        self.errors: list[EngineError] = []
        self.events: deque[dict[str, Any]] = deque(maxlen=20_000)
        self.outputs: list[str] = []
        self.ages: deque[int] = deque(maxlen=100_000)
        self.signals: dict[str, float] = {}
        # node to (seq, numbers) of its latest frames, see Site.measure
        self.series: defaultdict[str, deque[tuple[int, dict[str, float]]]] = defaultdict(lambda: deque(maxlen=MEASURED))
        self.epoch = 0
        self.oldest = 0  # packets of epochs before this one are dropped at the next edge; offline runs lose nothing and keep theirs
        self.frames_out = self.last_out = self.started = self.stopped = 0
        self.aborted = False
        self.first_out: int | None = None
        self._counting = threading.Lock()
        self._lock = threading.Lock()
        self.changing = Changes(self, [change for _, change in self.replay.recording.changes] if self.replay is not None else ())
        self.paused = False
        self.nudge = threading.Event()  # something happened that the inline executor should look at
        self._stamped: dict[int, tuple[int, int]] = {}
        self.wanted_device = device
        self.segment = 0  # where the numbers of edges and sources of the plan in force begin
        self.together = threading.RLock()  # the gates of an offline graph keep in step under it
        self.closing: dict[int, int] | None = None  # during a reload: gate to the first seq that has to wait
        self.ends = threading.Lock()  # whether a node ends before a reload or after it is decided under it
        self.quiet = threading.Event()  # during a reload: something ended
        self.reloads: deque[tuple[Plan, Receipt]] = deque()
        self.past = Past()
        self.runner: Inline | Threads | None = None
        self.opened = self.over = False
        self.lost: dict[str, str] = {}  # sources that have said that their stream is gone, to why
        self.health = Health()
        self._looked = 0
        self.device = "cpu"
        self.memory: MemoryPlan | None = None
        self.tap: Tap | None = None
        self.stand_in: Callable[[NodeRun], Any] | None = None  # makes the operator of a node in place of the plan, or says None
        self.nodes: dict[str, NodeRun] = {}
        self.lanes: dict[str, Lane] = {}
        self.channels: list[Channel] = []
        self.gates: dict[str, Gate] = {}
        build(self)
        self.governing = Governing(self, enabled=govern and self.replay is None)

    # ---- running

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop(drain=False)

    def run(self, tick: Callable[[Session], None] | None = None, *, tick_s: float = 0.1) -> Summary:
        """Run until the sources end, `stop` is called or something fails; `tick` is called every `tick_s` seconds meanwhile.

        Raises the first error, with the others attached as notes, after every operator was closed. The summary is kept in `summary()`.
        """
        from engine.run.inline import Inline
        from engine.run.threads import Threads

        self.runner = runner = Inline(self) if self.executor == "inline" else Threads(self)
        self.started = self.clock.now()
        try:
            runner.run(tick, tick_s)
        finally:
            self.stopped, self.over = self.clock.now(), True
            self.aborted = self.aborting.is_set()  # leaving the session stops what is over already
            for gate in self.gates.values():
                gate.close()
            self.look()
            reason = "the run ended before a frame came that it could land on"
            for _, receipt in self.reloads:
                self.changing.post(receipt, "failed", reason=reason)
            self.changing.end(reason)
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
        self.paused = False  # the frame that waits offline is finished like the others
        for gate in self.gates.values():
            gate.source.site.stop.set()
            with gate.lock:
                gate.emptied.notify_all()
        self.pump()
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
        """Change live parameters (`node.param` to value) and written inputs (`node.port`, or `node.in.port`) together, on one frame.

        Raises ParamError, and then nothing is changed.
        """
        return self.changing.set(changes, by=by)

    def ramp(
        self, changes: Mapping[str, Any], *, frames: int | None = None, seconds: float | None = None, curve: str = "linear", by: str = ""
    ) -> Receipt:  # fmt: skip
        """Move numbers to the targets in `changes`, a step with every frame, over `frames` or `seconds`; curve: "linear" or "ease".
        With curve "blend" they are of any kind, and all there at the first frame: for a prompt, over to which operators go by themselves.

        The receipt is applied at the first step and done at the last. A later change of the same path takes over. Raises ParamError where
        something is no number, UsageError where the ramp itself is none; then nothing is changed.
        """
        return self.changing.ramp(changes, frames=frames, seconds=seconds, curve=curve, by=by)

    def reset(self, reason: str = "reset") -> Receipt:
        """Start a new epoch at the next frame admitted: carries, holds and operators forget what came before."""
        return self.changing.reset(reason)

    def release(self, paths: Iterable[str] = (), *, by: str = "") -> Receipt:
        """Let the governor move knobs again that somebody has set (of `paths`; none named: all of them). Raises ParamError."""
        return self.changing.release(paths, by)

    def pause(self, *, by: str = "") -> Receipt:
        """Admit no frame from here on; what is under way is finished. Applied at once: `applied_at` is the first frame that does not go in.

        Live, the source is read on and its frames are dropped as `paused`; offline it waits, and nothing is lost.
        """
        receipt = Receipt("pause", by=by)
        self.paused = True
        self.pump()
        with self.changing.lock:
            at = max((gate.turn[0] for gate in self.gates.values()), default=0)
            self.changing.post(receipt, "applied", applied_at=at, done_at=at, epoch=self.epoch, params=self.version)
        self.event("pause", "", at, by=by)
        return receipt

    def resume(self, *, by: str = "") -> Receipt:
        """Admit frames again; applied with the first one."""
        receipt = Receipt("resume", by=by)
        self.changing.rest()
        self.governing.rest()
        self.changing.add(receipt)
        self.paused = False
        self.event("resume", "", -1, by=by)
        self.pump()
        return receipt

    def reload(self, plan: Plan, *, by: str = "") -> Receipt:
        """Go on with another plan while frames fly: what is the same stays, warm; what is new is opened beside it and swapped in at one frame.

        The receipt has the `diff` when the reload begins, is applied with the first frame of the new wiring, and failed, with nothing
        changed, where a new node does not open. Reloads are carried out one after another. Raises UsageError where the clock or the seed is
        another, and in a replay.
        """
        check_same_run(self.plan, plan)
        if self.replay is not None:
            raise UsageError("a replay repeats its own reloads and takes no others")
        receipt = Receipt("reload", {"graph": plan.name, "file": plan.file, "plan": plan.hash}, by)
        self.reloads.append((plan, receipt))
        self.nudge.set()
        if self.runner is not None:
            self.runner.look()
        return receipt

    def rebuild(self, changes: Mapping[str, Any], *, by: str = "") -> Receipt:
        """Change parameters that are fixed at open (`node.param` to value): their nodes are made anew beside the old ones, then swapped in.

        Raises GraphError where the graph does not compile with the new values, UsageError where the plan's graph is not known.
        """
        return self.reload(altered(self.plan, changes), by=by)

    def next_reload(self) -> tuple[Plan, Receipt] | None:
        """The next reload to carry out; the executor's business."""
        return self.reloads.popleft() if self.reloads else None

    @property
    def ending(self) -> bool:
        """Whether the run is coming to its end: no reload begins any more."""
        return self.draining.is_set() or self.aborting.is_set() or bool(self.errors) or all(g.source.finished for g in self.gates.values())

    def pump(self) -> None:
        """Let every gate look whether it may admit a frame."""
        if self.executor == "inline":
            self.nudge.set()  # its own thread does it
            return
        for gate in list(self.gates.values()):
            gate.pump()

    @property
    def resetting(self) -> bool:
        """Whether the next frame admitted starts a new epoch."""
        return self.changing.resetting

    def stamp(self, gate: int, seq: int, cut: bool, pts: int) -> tuple[int, int]:
        """The parameter version and epoch of the frame `seq` that `gate` is admitting: everything pending lands on it."""
        if self.replay is not None:
            version, self.epoch = self.replay.stamp_at(gate, seq)
            self._stamped[-1] = max(self._stamped.get(-1, (0, 0)), (version, self.epoch))
            return version, self.epoch
        changing = self.changing
        if changing.pending or changing.ramps or cut:
            if cut:
                changing.rest()
            changing.stamp(gate, seq, self.clock.now() if self.plan.live else pts, ["cut"] if cut else [])
        found = changing.version, self.epoch
        if self._stamped.get(gate, (0, 0)) != found:
            self._stamped[gate] = found
            self.recording.note("stamps", (gate, seq, *found))
        return found

    @property
    def version(self) -> int:
        """How often parameters have changed so far."""
        return self.changing.version if self.replay is None else self._stamped.get(-1, (0, 0))[0]

    def changes(self, since: int, until: int, node: str) -> list[dict[str, Any]]:
        """What changed for `node` between two parameter versions."""
        return self.changing.between(since, until, node)

    # ---- what nodes and gates report

    def event(self, what: str, node: str, seq: int, **facts: Any) -> None:
        """Put an event into the log."""
        event = {"at": self.clock.now(), "what": what, "node": node, "seq": seq, **facts}
        if what == "lost":
            self.lost[node] = str(facts.get("why", "it said so"))
        elif what == "reconnected":
            self.lost.pop(node, None)
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
        known = self.replay.decisions.get((node, what), []) if self.replay is not None else []
        if known:
            return known.pop(0) if len(known) > 1 else known[0]  # a node that a reload makes anew decides anew
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

    def outcome(self) -> str:
        """How the run is ending, as far as is known: "error", "stopped" on request, or "eof"."""
        return "error" if self.errors else "stopped" if self.draining.is_set() else "eof"

    def _site_output(self, path: str) -> None:
        with self._lock:
            if path not in self.outputs:
                self.outputs.append(path)

    # ---- what whoever looks on reads; from any thread

    @property
    def state(self) -> str:
        """loading, online, degraded_input, degraded_inference, error or stopped; `health.reasons` says why."""
        return self.health.state

    def describe(self) -> dict[str, Any]:
        """The graph as plain values: nodes with their parameters (JSON Schema, value, live, knob, fed), inputs, outputs; edges, knobs."""
        return describe(self)

    def values(self, paths: Iterable[str] | None = None) -> dict[str, Any]:
        """Path to the value in force, of all parameters and settable inputs or of `paths`. Raises ParamError for paths that do not exist."""
        return values(self, paths)

    def beat(self) -> None:
        """Called often by the executor, from one thread: the governor decides, and the state follows what can be seen."""
        self.governing.tick()
        if self.clock.now() - self._looked >= LOOK_NS:
            self.look()

    def look(self) -> None:
        """Bring `health` up to date; every change of the state is an event."""
        self._looked = self.clock.now()
        before, self.health = self.health, look(self.health, signs_of(self))
        if before.state != self.health.state:
            self.event("state", "", -1, state=self.health.state, before=before.state, reasons=list(self.health.reasons))

    def knobs(self) -> dict[str, Any]:
        """The present value of every governed parameter."""
        return {
            rule.set: self.nodes[rule.set.partition(".")[0]].params.get(rule.set.partition(".")[2])
            for rule in self.plan.govern.knobs if rule.set.partition(".")[0] in self.nodes
        }  # fmt: skip

    def check(self) -> None:
        """Raise RunError where packets were lost without a cause: in = out + in flight + drops, for every edge and every source."""
        check(self)


def run(plan: Plan, **options: Any) -> Summary:
    """Run `plan` to its end and return the summary; options as for Session."""
    with Session(plan, **options) as session:
        return session.run()
