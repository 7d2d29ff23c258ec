"""Runs a recording again, in one thread on a step clock, and says whether the same reaches the sinks.

Invariants: the plan, the frames, the drops, the values read, the changes and the resets are the recorded ones; nothing that was recorded is
written over; whatever differs from the machine that recorded is said. On the CPU and with the same versions the sinks get the same to the
bit; elsewhere the mean deviation of the pictures that the recording kept must stay within a tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import registry
from engine.errors import EngineError, MissingError, OperatorError, ReplayError, UsageError
from engine.live.record import Recording, Reloaded, Replay
from engine.session import Session
from recorder import snapshots, standins
from recorder.check import Check, Seen
from recorder.facts import machine, versions
from recorder.plans import changed, plan_of
from recorder.tape import Tape

if TYPE_CHECKING:
    from engine.plan import Plan
    from engine.run.node import NodeRun

TOLERANCE = 2.0  # mean deviation of a picture, in 8-bit steps, that another device or version may have
_DECIDES = ("engine", "numpy", "torch", "diffusers", "opencv-contrib-python", "mediapipe", "onnxruntime", "av")


@dataclass(frozen=True)
class Wish:
    """What to replay. `begin`, `until`: source frames; `wanted`: parameters as they were not (`node.param` to value); `rerun`: nodes of slow
    lanes to compute anew; `out`: where to write what the sinks write."""

    begin: int = 0
    until: int | None = None
    wanted: Mapping[str, Any] = field(default_factory=dict)
    rerun: Sequence[str] = ()
    out: Path | None = None
    device: str | None = None
    tolerance: float = TOLERANCE

    @property
    def asks(self) -> bool:
        """Whether something else than what happened is asked for."""
        return bool(self.wanted or self.rerun)


@dataclass
class Outcome:
    """How a replay went. `verdict`: "identical", "within tolerance", "different", or "as asked" where it was asked what would have happened."""

    verdict: str
    sinks: dict[str, Seen]
    frames: int
    began: int
    differs: dict[str, tuple[Any, Any]]
    notes: list[str]
    outputs: list[str]
    error: EngineError | None = None

    @property
    def exit_code(self) -> int:
        return 5 if self.verdict == "different" else 0

    def to_dict(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict, "exit_code": self.exit_code, "frames": self.frames, "from": self.began,
            "sinks": {name: seen.to_dict() for name, seen in self.sinks.items()},
            "differs": {name: list(pair) for name, pair in self.differs.items()}, "notes": self.notes, "outputs": self.outputs,
            "error": str(self.error) if self.error is not None else None,
        }  # fmt: skip


def differences(tape: Tape, device: str) -> dict[str, tuple[Any, Any]]:
    """What is not as it was when it was recorded, and may change results: name to (then, now)."""
    then, now = tape.facts["versions"], versions()
    found: dict[str, tuple[Any, Any]] = {name: (then.get(name), now.get(name)) for name in _DECIDES if then.get(name) != now.get(name)}
    for op, number in tape.facts["operators"].items():
        spec = registry.get(op)
        if spec is not None and spec.version != number:
            found[op] = (number, spec.version)
    if tape.facts["device"] != device:
        found["device"] = (tape.facts["device"], device)
    before, here = _machine(tape), machine()
    for name in ("arch", "cpu", "gpu"):
        if name in before and name in here and before[name] != here[name]:
            found[name] = (before[name], here[name])
    return found


def _machine(tape: Tape) -> dict[str, Any]:
    found: dict[str, Any] = dict(tape.facts["machine"])
    for source in tape.sources.values():
        found |= source.get("machine", {})
    return found


def replay(tape: Tape, wish: Wish = Wish()) -> Outcome:
    """Run `tape` again. Raises ReplayError, UsageError, ParamError, MissingError."""
    plan = _plan(tape, wish)
    device = _device(tape, wish)
    notes = _notes(tape, plan, wish)
    _threads(tape)
    again = Replay(_recording(tape, wish), strict=not wish.asks)
    again.decisions = {key: list(values) for key, values in tape.decided.items()}
    check = Check(tape)
    session = Session(plan, executor="inline", device=device, replay=again, govern=False)
    _check_wish(session, tape, wish)
    begin, states = _snapshot(tape, wish, session)
    todo = [lambda: _restore(session, tape, states, begin)] if begin else []
    session.stand_in = _StandIns(tape, wish, begin, lambda: todo.pop()() if todo else None)
    session.listen(check)
    differs = differences(tape, device)
    error = None
    try:
        with session:
            session.run()
    except EngineError as failure:
        error = failure
        if not session.errors or not all(_expected(each, tape) for each in session.errors):
            cause = failure.__cause__
            raise cause if isinstance(cause, (ReplayError, MissingError)) else failure from None
    session.check()
    check.finish(begin, wish.until)
    seen = dict(sorted(check.sinks.items()))
    frames = sum(1 for known in tape.frames.values() for seq in known if seq >= begin and (wish.until is None or seq <= wish.until))
    verdict = "as asked" if wish.asks else _verdict(seen, differs, wish.tolerance)
    return Outcome(verdict, seen, frames, begin, differs, notes, list(session.outputs), error)


def _verdict(sinks: Mapping[str, Seen], differs: Mapping[str, Any], tolerance: float) -> str:
    if all(seen.same for seen in sinks.values()):
        return "identical"
    counted = not any(seen.missing or seen.extra or seen.incomparable for seen in sinks.values())
    near = all(seen.same or (seen.measured and seen.mean <= tolerance) for seen in sinks.values())
    return "within tolerance" if differs and counted and near else "different"


# ---------------------------------------------------------------- before it runs


def _plan(tape: Tape, wish: Wish) -> Plan:
    plan = _own(plan_of(tape.facts["plan"]), tape.facts, tape)
    names = {node.name for node in plan.nodes}
    for name in wish.rerun:
        if name not in names:
            raise UsageError(f"--rerun {name}: the recording has no node {name!r}", fix=registry.suggest(name, sorted(names)))
    plan = changed(plan, wish.wanted)
    if wish.asks:  # a node may now leave out what it made then, and who waits for it must hear of that
        plan = replace(plan, edges=tuple(replace(edge, bounds=True) for edge in plan.edges))
    return plan


def _own(plan: Plan, facts: Mapping[str, Any], tape: Tape) -> Plan:
    """`plan`, where it says what was recorded. Raises ReplayError."""
    if plan.hash != facts["plan_hash"] and not _within(facts["plan"], plan.to_dict()):
        raise ReplayError(
            f"{tape.path}: this engine reads the recorded plan otherwise than the one that recorded it: {plan.hash[:12]} in place of "
            f"{facts['plan_hash'][:12]}", fix=f"replay it with engine {tape.facts['versions'].get('engine')}",
        )  # fmt: skip
    return plan


def _within(recorded: Any, now: Any) -> bool:
    """Whether all that was recorded is still so; a newer engine may know more."""
    if isinstance(recorded, dict) and isinstance(now, dict):
        return all(key in now and _within(value, now[key]) for key, value in recorded.items())
    if isinstance(recorded, list) and isinstance(now, list):
        return len(recorded) == len(now) and all(_within(a, b) for a, b in zip(recorded, now, strict=True))
    return bool(recorded == now)


def _expected(error: EngineError, tape: Tape) -> bool:
    """Whether the recorded run failed just so."""
    return isinstance(error, OperatorError) and error.seq in tape.failed.get(error.node, {})


def _device(tape: Tape, wish: Wish) -> str:
    wanted = wish.device or str(tape.facts["device"])
    if wanted.startswith("cuda"):
        import torch

        if not torch.cuda.is_available():
            return "cpu"
    return wanted


def _threads(tape: Tape) -> None:
    """Sums over several threads depend on how many there are."""
    count = _machine(tape).get("threads")
    if count:
        import torch

        if torch.get_num_threads() != count:
            torch.set_num_threads(int(count))


def _notes(tape: Tape, plan: Plan, wish: Wish) -> list[str]:
    fed = {f"{edge.node}.{edge.port}": edge for edge in plan.edges if edge.role != "constant"}
    late = {path: f"{fed[path].source}.{fed[path].output}" for path in wish.wanted if path in fed}
    notes = [f"{path} comes from {source}: the value counts only before that has come" for path, source in late.items()]
    if tape.cut_at is not None:
        notes.append(f"the file ends early, at byte {tape.cut_at}: only what it has is replayed and compared")
    elif not tape.whole:
        state = tape.end["state"] if tape.end else "cut short"
        notes.append(f"the recorded run was {state}: frames that were under way then are not compared")
    unchecked = sum(1 for frames in tape.sunk.values() for facts in frames.values() if facts.get("unchecked"))
    if unchecked:
        notes.append(f"{unchecked} frames at sinks have no digest: the disk was too slow for them")
    if not tape.frames:
        notes.append("no source frame was admitted")
    return notes


def _recording(tape: Tape, wish: Wish) -> Recording:
    """The recorded changes, less those of the parameters that are asked to be otherwise."""
    plans = [
        Reloaded(_seqs(facts["ends"]), tuple(facts["ended"]), _seqs(facts["starts"]), _own(plan_of(facts["plan"]), facts, tape))
        for facts in tape.plans
    ]
    recording = replace(tape.recording, plans=plans)
    if not wish.wanted:
        return recording
    changes = [(seq, {path: value for path, value in values.items() if path not in wish.wanted}) for seq, values in recording.changes]
    return replace(recording, changes=changes)


class _StandIns:
    """Makes what stands in for a node, whichever plan it belongs to."""

    def __init__(self, tape: Tape, wish: Wish, begin: int, before: Callable[[], None]) -> None:
        self.tape, self.wish, self.begin, self.before = tape, wish, begin, before
        self.repeating = {} if wish.asks else standins.repeating(tape)
        self.sink = standins.sink_maker(tape, wish.out)

    def __call__(self, node: NodeRun) -> Any:
        tape, wish = self.tape, self.wish
        if node.gate is not None:
            kind = standins.Source if _mode(tape, node) == "store" else standins.Again
            return kind(tape, node, self.begin, wish.until, self.before)
        if not node.spec.outputs:
            return self.sink(node)
        if standins.injects(node) and node.name not in wish.rerun:
            return standins.Slow(tape, node)
        repeater = self.repeating.get(node.name)
        return repeater(node) if repeater is not None else None


def _mode(tape: Tape, node: NodeRun) -> str:
    return str(tape.sources.get(node.gate_id, {}).get("mode", "store"))


def _seqs(named: Mapping[str, int]) -> dict[int, int]:
    return {int(gate): seq for gate, seq in named.items()}


def _check_wish(session: Session, tape: Tape, wish: Wish) -> None:
    """Refuse what the recording leaves no room for. Raises UsageError."""
    if wish.asks and tape.plans:
        raise UsageError("the graph was reloaded while this was recorded: --with and --rerun cannot say what would have happened",
                         fix="record without a reload")  # fmt: skip
    for path in wish.wanted:
        node = session.nodes[path.partition(".")[0]]
        if node.gate is not None and _mode(tape, node) == "store":
            raise UsageError(f"--with {path}: the frames of {node.name} come from the recording", fix="leave it out")
        if standins.injects(node) and node.name not in wish.rerun:
            raise UsageError(f"--with {path}: {node.name} is on a slow lane, and what it made comes from the recording",
                             fix=f"add --rerun {node.name}")  # fmt: skip
    for name in wish.rerun:
        if not standins.injects(session.nodes[name]):
            raise UsageError(f"--rerun {name}: it is computed anew in any case", fix="leave --rerun out")


# ---------------------------------------------------------------- beginning in the middle


def _snapshot(tape: Tape, wish: Wish, session: Session) -> tuple[int, dict[str, dict[str, Any]]]:
    """The frame to begin at, and the state of every node there: the newest snapshot that is not after `wish.begin`, else the first frame."""
    if wish.begin <= 0:
        return 0, {}
    if wish.begin > tape.last:
        raise UsageError(f"--from {wish.begin}: the last recorded frame is {tape.last}", fix=f"give at most {tape.last}")
    if tape.plans and wish.begin >= min(_seqs(tape.plans[0]["starts"]).values(), default=0):
        raise ReplayError("no replay can begin after a reload of the graph", fix="begin before it, or leave --from out")
    marks = sorted({facts["mark"] for facts in tape.snapshots if facts["mark"] <= wish.begin}, reverse=True)
    problem = ""
    for mark in marks:
        found, problem = _states(tape, session, mark, wish)
        if not problem:
            return mark, found
    if not problem:
        return 0, {}
    raise ReplayError(f"no replay can begin at frame {wish.begin}: {problem}", fix="leave --from out")


def _states(tape: Tape, session: Session, mark: int, wish: Wish) -> tuple[dict[str, dict[str, Any]], str]:
    found: dict[str, dict[str, Any]] = {}
    for facts in tape.snapshots:
        if facts["first"] >= mark and facts["first"] < found.get(facts["node"], {"first": 2**63})["first"]:
            found[facts["node"]] = facts
    for node in session.nodes.values():
        needed = node.spec.outputs and node.gate is None
        stands = standins.injects(node) and node.name not in wish.rerun
        if needed and node.name in found and found[node.name].get("cannot") and not stands:
            return {}, f"{node.name}: {found[node.name]['cannot']}"
    return found, ""


def _restore(session: Session, tape: Tape, states: Mapping[str, dict[str, Any]], begin: int) -> None:
    """Put every node into its state, and on the edges what was made before `begin` and read after it. All are open, and none has run."""
    for node in session.nodes.values():
        facts = states.get(node.name)
        if facts is None or "params" not in facts:
            snapshots.settle(node, begin, facts["counts"] if facts is not None else {})
        else:
            snapshots.restore(node, facts, begin, recall=not isinstance(node.operator, standins.Slow))
    channels = {channel.edge.id: channel for channel in session.channels}
    for facts in sorted(tape.late, key=lambda facts: (facts["edge"], facts["seq"])):
        if facts["seq"] < begin <= facts["read"]:
            channel = channels[facts["edge"]]
            channel.put(snapshots.packet_of(facts, channel.consumer.site.device))


__all__ = ["TOLERANCE", "Outcome", "Wish", "differences", "replay"]
