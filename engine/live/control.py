"""Feeds the governor with measurements and carries out what it decides.

Every few frames: busy time per frame of the busiest lane, ages, free device memory and the operators' signals become a Window; the decision's
settings go through `Session.set` like anybody else's change, and its causes into the log. A knob that somebody else sets is held: the governor
leaves it where it was put, and moves the others, until it is released. The ladders of nodes that ran out of memory are climbed here when it
has been quiet.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from engine.govern import Follow, Rules, State, Window, govern
from engine.live.summary import percentile
from engine.operator import Operator
from engine.run.ladder import Ladder, Rung

if TYPE_CHECKING:
    from engine.live.receipt import Receipt
    from engine.run.node import NodeRun
    from engine.session import Session

OWN = ("governor", "ladder")  # whose changes hold no knob
EVERY = 4  # frames out between two decisions
WINDOW = 64  # frames looked at, at most
QUIET_S = 20.0  # without an out-of-memory error before a rung is given back


class Governing:
    """The governor of one session; `tick` is called from the executor's own thread, often. `held`: knobs that it leaves alone."""

    def __init__(self, session: Session, *, enabled: bool, held: Collection[str] = ()) -> None:
        self.session = session
        orders = session.plan.govern
        self.held = frozenset(held) & {rule.set for rule in orders.knobs}
        self.rules, self._free = rules_of(session), rules_of(session, self.held)  # all knobs, for the ladders; those it may move
        self.wanted = enabled  # whatever the orders say
        self.enabled = enabled and orders.enabled and session.plan.live and bool(orders.knobs)
        self.state = State.start(self._free)
        self._causes: deque[str] = deque()
        self._governed = {rule.set.partition(".")[0] for rule in orders.knobs}
        self.period_ms = 1000 / orders.target_fps if orders.target_fps else None
        self._out = 0
        self._mark: dict[str, int] = {}
        self._dropped = 0

    def tick(self) -> None:
        """Decide when enough frames have come out since the last time."""
        session = self.session
        if session.frames_out - self._out < EVERY:
            return
        self._out = session.frames_out
        self._climb()
        while self._causes:
            session.event("govern", "", -1, cause=self._causes.popleft(), settings={})
        if not self.enabled:
            return
        window = self._window()
        if window is None:
            return
        with session.changing.lock:  # nobody takes a knob into his own hands between the decision and its landing
            decision = govern(window, self.state, self._free)
            self.state = decision.state
            if decision.settings:
                session.set(decision.settings, by="governor")
        for cause in decision.causes:
            session.event("govern", "", -1, cause=cause, settings=dict(decision.settings))
        if decision.moved:
            self._forget()

    def hold(self, receipt: Receipt) -> None:
        """A change was accepted: knobs that somebody else set by it are left alone from now on. Under the lock of the changes."""
        if self.enabled and receipt.what in ("set", "ramp") and receipt.by not in OWN:
            self._hold(self.held | ({rule.set for rule in self.session.plan.govern.knobs} & receipt.changes.keys()), "held where it was set")

    def release(self, receipt: Receipt) -> None:
        """The governor may move the knobs of `receipt` again, from where they are. Under the lock of the changes."""
        self._hold(self.held - set(receipt.changes["paths"]), "given back to the governor")

    def _hold(self, held: frozenset[str], what: str) -> None:
        if held == self.held:
            return
        self._causes.extend(f"{path} is {what}" for path in sorted(held ^ self.held))
        before = dict(zip((scale.set for scale in self._free.scales), self.state.slopes, strict=True))
        self.held, self._free = held, rules_of(self.session, held)
        self.state = State.start(self._free)
        slopes = tuple(before.get(scale.set, scale.slope) for scale in self._free.scales)  # what was learnt stays
        self.state = replace(self.state, slopes=slopes)
        self._forget()

    def _window(self) -> Window | None:
        session = self.session
        per_frame: list[tuple[float, float]] = []
        frames = 0
        for lane in session.lanes.values():
            if lane.nodes[0].spec.source or lane.nodes[0].plan.lane == "slow":
                continue  # a source waits for its stream, and a slow branch is allowed to be slow
            p50 = p95 = 0.0
            for node in lane.nodes:
                fresh = min(node.count - self._mark.get(node.name, 0), WINDOW)
                if fresh <= 0 and node.name in self._governed:
                    return None  # no frame has run with the last settings yet
                if fresh <= 0:
                    continue
                recent = list(node.times)[-fresh:]
                p50 += percentile(recent, 50) / 1e6
                p95 += percentile(recent, 95) / 1e6
                frames = max(frames, len(recent))
            per_frame.append((p50, p95))
        if not per_frame or not frames:
            return None
        busiest = max(per_frame)
        ages = [age / 1e6 for age in list(session.ages)[-min(frames, WINDOW) :]]
        dropped = sum(gate.drops["gate"] for gate in session.gates.values())
        self._dropped, dropped = dropped, dropped - self._dropped
        caps: dict[str, Any] = {}
        for node in session.nodes.values():
            caps.update(node.ladder.caps if node.ladder is not None else {})
        return Window(
            now=session.clock.now(), frames=frames, period_ms=self.period_ms, busy_p50_ms=busiest[0], busy_p95_ms=busiest[1],
            age_p95_ms=percentile(ages, 95), budget_ms=session.plan.budget_ms, vram_free_mb=_vram_free_mb(), dropped=dropped,
            signals=dict(session.signals), caps=caps,
        )  # fmt: skip

    def _forget(self) -> None:
        """What was measured before a move says nothing about what comes after it; nor do the frames that were already under way."""
        self._mark = {node.name: node.count + self.session.plan.in_flight for node in self.session.nodes.values()}

    def rest(self) -> None:
        """A pause ends: what was measured before it, and the drops in it, say nothing about what comes."""
        self._dropped = sum(gate.drops["gate"] for gate in self.session.gates.values())
        self._forget()

    def step_down(self, node: NodeRun, rung: Rung) -> None:
        """A node ran out of memory and takes a rung of its ladder: the settings hold at once, for the frame in hand."""
        session = self.session
        if rung.settings:
            node.update(dict(rung.settings))
            session.changing.overrule(node.name, rung.settings)
        session.event("memory", node.name, node.site.seq, rung=rung.name, settings=dict(rung.settings), cause=rung.cause)

    def _climb(self) -> None:
        session = self.session
        for node in session.nodes.values():
            if node.ladder is None or not node.ladder.taken:
                continue
            rung = node.ladder.climb(session.clock.now(), QUIET_S)
            if rung is not None:
                settings = {f"{node.name}.{k}": v for k, v in rung.settings.items()}
                back = {path: v for path, v in settings.items() if not self.enabled or path in self.held}
                if back:
                    session.set(back, by="ladder")
                session.event("memory", node.name, -1, rung=f"back from {rung.name}", settings=dict(rung.settings), cause=rung.cause)


def rules_of(session: Session, held: Collection[str] = ()) -> Rules:
    """The governor's rules for a plan without the knobs that are held, with the signals that the others follow."""
    knobs = tuple(rule for rule in session.plan.govern.knobs if rule.set not in held)
    initial = {rule.set: _value(session, rule.set) for rule in knobs}
    follows = []
    for rule in knobs:
        if rule.follow is not None:
            best, worst = (rule.range[1], rule.range[0]) if rule.range else (rule.choices[0], rule.choices[-1])
            follows.append(Follow(rule.set, rule.follow, (best, worst)))  # steady (1) needs less than erratic (0)
    return Rules.of(replace(session.plan.govern, knobs=knobs), initial, follows)


def make_ladder(node: NodeRun) -> Ladder | None:
    """The ladder of a node that can give something up, else None."""
    session = node.session
    rules = session.governing.rules
    mine = any(scale.set.partition(".")[0] == node.name for scale in rules.scales)
    own = node.operator if isinstance(node.operator, Operator) else None
    frees = own is not None and type(own).relieve is not Operator.relieve

    def others() -> dict[str, Operator]:
        beside = {n.name: n.operator for n in list(session.nodes.values()) if n is not node and n.site.device == node.site.device}
        return {name: op for name, op in beside.items() if isinstance(op, Operator) and op.gives_way and not getattr(own, "gives_way", False)}

    return Ladder(rules, node.name, own, others) if mine or frees or node.spec.gpu else None


def _value(session: Session, path: str) -> Any:
    name, _, param = path.partition(".")
    wanted = session.changing.wanted.get(name, {})  # with what was accepted and has not landed
    return wanted.get(param, session.nodes[name].params.get(param)) if name in session.nodes else None


def _vram_free_mb() -> float | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    free, _ = torch.cuda.mem_get_info()
    # What the allocator holds but does not use can be had without asking the driver.
    cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return float(free + cached) / 2**20
