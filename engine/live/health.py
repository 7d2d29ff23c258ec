"""How a session is: one word, with reasons, from a pure function of what can be counted.

    loading              operators are opening, or no frame has come through yet
    online               frames come and go as they should
    degraded_input       a source is lost, frozen or far too slow; what the graph makes is still good
    degraded_inference   frames come, but something was given up for them: a rung of the memory ladder, errors tolerated, deadlines missed
    error                the run has failed and is ending, or has ended so
    stopped              the run has ended in order

Worse shows at once, since every sign has a time of its own; better shows only after `CALM_S` without the sign, so that the state does not
flicker. A pause is no trouble: nothing is expected to come then. `look` knows no session; `signs_of` reads one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from engine.session import Session

STATES: Final = ("loading", "online", "degraded_inference", "degraded_input", "error", "stopped")  # by weight
CALM_S: Final = 3.0  # without a sign before things count as better
FROZEN_S: Final = 2.0  # without a frame before a source counts as frozen, and at least so many of its periods
FROZEN_PERIODS: Final = 10
SLOW: Final = 0.5  # of the rate that a source announced, below which it is too slow
SLOW_S: Final = 5.0  # over which that is measured
ERRORS_S: Final = 10.0  # that a tolerated error counts
MISSED: Final = 0.5  # of the last frames too old for the budget, from which on deadlines count as missed
RECENT: Final = 64  # frames that this is taken over
SECOND: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Source:
    """What can be seen of a source: frames so far, the rate it announced, whether it said that it lost its stream, whether it is held up."""

    count: int
    fps: float | None = None
    lost: str = ""
    held: bool = False  # its end has come, or it waits for the graph


@dataclass(frozen=True, slots=True)
class Signs:
    """What can be seen of a session at one moment; times in ns."""

    now: int
    opened: bool = False
    paused: bool = False
    ended: bool = False
    failure: str = ""
    out: int = 0  # frames that came through, also to sinks that nobody watches
    sources: Mapping[str, Source] = field(default_factory=dict)
    rungs: Mapping[str, str] = field(default_factory=dict)  # node to the lowest rung taken
    errors: Mapping[str, int] = field(default_factory=dict)  # node to errors so far
    missed: float = 0.0  # share of the last frames that were older than the budget


@dataclass(frozen=True, slots=True)
class Arrival:
    """What is remembered of a source: frames so far, when the last one came, and a count to measure the rate from."""

    count: int
    at: int
    mark: tuple[int, int]  # count and time
    slow: bool = False


@dataclass(frozen=True, slots=True)
class Health:
    """The state and what led to it; the rest is memory for the next look."""

    state: str = "loading"
    reasons: tuple[str, ...] = ()
    since: int = 0
    better_since: int | None = None
    arrivals: Mapping[str, Arrival] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)  # node to when it last tolerated an error


def look(before: Health, signs: Signs) -> Health:
    """The health after a look at `signs`."""
    arrivals = {name: _arrival(before.arrivals.get(name), source, signs) for name, source in signs.sources.items()}
    failed = {node: at for node, at in before.failed.items() if signs.now - at < ERRORS_S * SECOND}
    failed |= {node: signs.now for node, count in signs.errors.items() if count > before.errors.get(node, 0)}
    after = replace(before, arrivals=arrivals, errors=dict(signs.errors), failed=failed)
    state, reasons = _raw(after, signs)
    if state == before.state:
        return replace(after, reasons=reasons, better_since=None)
    if before.state.startswith("degraded") and STATES.index(state) < STATES.index(before.state):
        better = signs.now if before.better_since is None else before.better_since
        if signs.now - better < CALM_S * SECOND:
            return replace(after, better_since=better)
    return replace(after, state=state, reasons=reasons, since=signs.now, better_since=None)


def _raw(health: Health, signs: Signs) -> tuple[str, tuple[str, ...]]:
    """What the signs say by themselves."""
    if signs.failure:
        return "error", (signs.failure,)
    if signs.ended:
        return "stopped", ()
    if not signs.opened:
        return "loading", ("operators are opening",)
    inputs = [] if signs.paused else [why for name, source in signs.sources.items() if (why := _trouble(name, source, health, signs))]
    inference = [f"{node} runs on rung {rung!r} for lack of memory" for node, rung in signs.rungs.items()]
    inference += [f"{node} failed on frames within the last {ERRORS_S:g} s" for node in health.failed]
    worn = health.state == "degraded_inference" and signs.missed >= MISSED / 2  # once missed, deadlines have to be kept clearly
    inference += [f"{signs.missed:.0%} of the last frames are older than the budget"] if signs.missed >= MISSED or worn else []
    if inputs:
        return "degraded_input", (*inputs, *inference)
    if inference:
        return "degraded_inference", tuple(inference)
    if not signs.out:
        return "loading", ("paused" if signs.paused else "no frame has come through yet",)
    return "online", ("paused",) if signs.paused else ()


def _arrival(before: Arrival | None, source: Source, signs: Signs) -> Arrival:
    now = signs.now
    if before is None or signs.paused or source.held or not signs.opened:  # nothing can be expected: begin anew
        return Arrival(source.count, now, (source.count, now))
    at = now if source.count > before.count else before.at
    mark, slow = before.mark, before.slow
    if now - mark[1] >= SLOW_S * SECOND:
        slow = bool(source.fps) and (source.count - mark[0]) / ((now - mark[1]) / SECOND) < SLOW * (source.fps or 0)
        mark = (source.count, now)
    return Arrival(source.count, at, mark, slow)


def _trouble(name: str, source: Source, health: Health, signs: Signs) -> str:
    """What is wrong with a source, "" where nothing is."""
    if source.held:
        return ""
    if source.lost:
        return f"{name} has lost its stream: {source.lost}"
    arrival = health.arrivals[name]
    silent = (signs.now - arrival.at) / SECOND
    if silent >= max(FROZEN_S, FROZEN_PERIODS / source.fps if source.fps else 0.0):
        return f"{name} has brought no frame for {silent:.0f} s" if source.count else f"{name} has brought no frame yet"
    return f"{name} brings less than half of the {source.fps:g} frames a second that it announced" if arrival.slow else ""


def signs_of(session: Session) -> Signs:
    """What can be seen of a session now; cheap, and without waiting for a lane."""
    live, budget = session.plan.live, session.plan.budget_ms
    sources = {}
    for name, gate in list(session.gates.items()):
        stream = gate.source.site.stream
        held = not live or gate.source.finished or gate.finished  # offline a source waits for the graph, not the graph for the source
        sources[name] = Source(gate.entered, stream.fps if stream else None, session.lost.get(name, ""), held)
    nodes = list(session.nodes.values())
    ages = list(islice(reversed(session.ages), RECENT)) if budget else []
    late = sum(age > budget * 1e6 for age in ages) if budget else 0
    through = session.frames_out + sum(gate.drops["unwatched"] for gate in list(session.gates.values()))
    return Signs(
        now=session.clock.now(), opened=session.opened, paused=session.paused, ended=session.over,
        failure=str(session.errors[0]).splitlines()[0] if session.errors else "", out=through, sources=sources,
        rungs={n.name: n.ladder.taken[-1].name for n in nodes if n.ladder is not None and n.ladder.taken},
        errors={n.name: n.errors for n in nodes if n.errors}, missed=late / len(ages) if len(ages) >= RECENT // 4 else 0.0,
    )  # fmt: skip
