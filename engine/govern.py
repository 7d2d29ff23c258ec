"""The governor: from measurements to knob settings, as a pure function.

`govern(window, state, rules)` reads no clock, keeps nothing and knows neither sessions nor operators: the same three values give the same
decision, so a recording of decisions needs no governor to replay, and a simulation is the real thing. The invariants it keeps:

- a setting is always one of its knob's levels, within the written bounds;
- under more load the answer is never a better setting;
- down at once and as far as the cost model asks, up one notch after a spell with room, so a constant load is not chased up and down.

Load takes the knobs down in the order they are written and gives them back in reverse. Cost is modelled as value^slope, one slope a knob,
corrected after each move from what the move did. Three things besides load hold a knob down: a signal it follows, the rung of an
out-of-memory ladder, and low device memory.

Time is measured as busy time of the busiest lane, without waiting: a queue that fills would otherwise make its own case
(`Window.load` is what GStreamer's QoS events call the proportion).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from engine.live.knobs import Follow, Rules, Scale

__all__ = ["Decision", "Follow", "Rules", "Scale", "State", "Trial", "Window", "govern"]

FEW, FULL = 3, 8  # frames: enough to see a gross overload; enough for a percentile to mean something
SLOPES = (0.1, 8.0)


@dataclass(frozen=True, slots=True)
class Window:
    """What was measured over the last frames, all of them captured after the last settings took effect.

    `now`: monotonic ns. `frames`: how many are in it. `period_ms`: time between frames at the target rate, None without one.
    `busy_p50_ms`, `busy_p95_ms`: time the busiest lane worked on one frame, waiting left out. `age_p95_ms`: capture to output.
    `dropped`: frames refused at the gate meanwhile (for the log). `signals`: the operators' own, `node.signal` to 0..1.
    `caps`: knob to the best value that an out-of-memory ladder allows now. `out_of_memory`: nodes that ran out and have no ladder.
    """

    now: int
    frames: int
    period_ms: float | None = None
    busy_p50_ms: float = 0.0
    busy_p95_ms: float = 0.0
    age_p95_ms: float = 0.0
    budget_ms: float | None = None
    vram_free_mb: float | None = None
    dropped: int = 0
    signals: Mapping[str, float] = field(default_factory=dict)
    caps: Mapping[str, Any] = field(default_factory=dict)
    out_of_memory: tuple[str, ...] = ()

    @property
    def load(self) -> float:
        """Work over time allowed; above 1 the graph cannot keep up.

        Judged on the slow frames: p99 from p50 and p95 as if normal, but not far above p95, because in the moment when a load jumps
        the two percentiles belong to two different loads.
        """
        slow = min(self.busy_p50_ms + 1.41 * (self.busy_p95_ms - self.busy_p50_ms), 1.08 * self.busy_p95_ms)
        return max(slow, self.busy_p50_ms) / self.period_ms if self.period_ms else 0.0

    @property
    def lag(self) -> float:
        """Age over its budget."""
        return self.age_p95_ms / self.budget_ms if self.budget_ms else 0.0

    def __str__(self) -> str:
        busy = f"busy {self.busy_p50_ms:.1f} ms (p95 {self.busy_p95_ms:.1f}) of {self.period_ms:.1f}" if self.period_ms else ""
        age = f"age {self.age_p95_ms:.0f} ms of {self.budget_ms:.0f}" if self.budget_ms and (not busy or self.lag > 1) else ""
        dropped = f"{self.dropped} dropped at the gate" if self.dropped else ""
        return ", ".join(part for part in (busy, age, dropped) if part)


@dataclass(frozen=True, slots=True)
class Trial:
    """A move of one knob whose effect is not known yet."""

    knob: int
    change: float  # on the cost axis
    before_ms: float


@dataclass(frozen=True, slots=True)
class State:
    """What the governor remembers. `at`: position of each knob as load has it; `applied`: as last set, with every limit."""

    at: tuple[int, ...]
    applied: tuple[int, ...]
    slopes: tuple[float, ...]
    changed: int | None = None  # ns of the last move
    calm: int | None = None  # ns since when there has been room to climb
    climbed: bool = False  # the last move was a climb
    failures: int = 0  # climbs in a row that load undid
    ceiling: int = 0  # positions summed: no climb above it until `closed`
    closed: int = 0
    fence: tuple[int, ...] = ()  # the very positions that proved too much, at the load seen just below them
    fence_ms: float = 0.0
    fenced: int = 0
    before_ms: float = 0.0  # busy time before the last climb
    trial: Trial | None = None
    followed: tuple[tuple[float, int], ...] = ()  # smoothed signal, bin
    limits: tuple[int, ...] = ()  # what the signals leave
    seen: int | None = None
    spent: bool = False  # said that no knob is left

    @classmethod
    def start(cls, rules: Rules) -> State:
        """Where a session begins; an initial value that is no level of its knob is set to the nearest one by the first decision."""
        pairs = list(zip(rules.scales, rules.initial, strict=True))
        at = tuple(s.nearest(value) for s, value in pairs)
        applied = tuple(i if s.levels[i] == value else -1 for i, (s, value) in zip(at, pairs, strict=True))
        return cls(at, applied, tuple(s.slope for s in rules.scales), followed=((-1.0, -1),) * len(rules.follows), limits=(0,) * len(at))


@dataclass(frozen=True, slots=True)
class Decision:
    """`settings` to apply in one transaction (only what changes), the state to pass in next time, and why, one sentence a cause.

    `moved`: load or memory moved a knob, so what was measured before no longer counts: start the next window afresh.
    """

    settings: Mapping[str, Any]
    state: State
    causes: tuple[str, ...] = ()
    moved: bool = False


def govern(window: Window, state: State, rules: Rules) -> Decision:
    """Decide on the settings for the frames to come."""
    causes: list[str] = []
    if state.changed is None:
        state = replace(state, changed=window.now)
    slopes = _learn(window, state)
    settings, limits, followed = _follow(window, state, rules, causes)
    at = _memory(window, state, rules, causes)
    if at != state.at:  # memory comes first; the next window will tell what that did to the time
        after = replace(state, at=at, changed=window.now, calm=None, climbed=False, trial=None)
    elif _overloaded(window, rules):
        after = _down(window, state, rules, limits, causes)
    else:
        after = _up(window, state, rules, limits, causes)
    applied = tuple(max(a, b) for a, b in zip(after.at, limits, strict=True))
    for scale, old, new in zip(rules.scales, state.applied, applied, strict=True):
        if old != new:
            settings[scale.set] = scale.levels[new]
        if old < 0:
            causes.append(f"{scale.set} starts at {scale.levels[new]}, the nearest of its levels")
    trial = None if window.frames >= FULL or limits != state.limits else state.trial
    if after.at != state.at:
        trial = after.trial
    after = replace(after, applied=applied, slopes=slopes, trial=trial, followed=followed, limits=limits, seen=window.now)
    return Decision(settings, after, tuple(causes), after.at != state.at)


def _overloaded(window: Window, rules: Rules) -> bool:
    gross = window.period_ms is not None and window.busy_p50_ms > rules.gross * window.period_ms
    return (window.frames >= FEW and gross) or (window.frames >= FULL and max(window.load, window.lag) > 1)


def _down(window: Window, state: State, rules: Rules, limits: tuple[int, ...], causes: list[str]) -> State:
    """Take knobs down in their order until the model says that the load fits, at least one notch; or take the last climb back."""
    undo = state.climbed and state.trial is not None  # just climbed: one notch down is known to have been enough
    need = math.log(window.load / rules.aim) if window.load > 1 and not undo else 0.0
    held = [max(a, b) for a, b in zip(state.at, limits, strict=True)]
    at, moved = list(held), False
    if undo and state.trial is not None:
        at[state.trial.knob], moved = min(held[state.trial.knob] + 1, rules.scales[state.trial.knob].floor), True
    for k, scale in enumerate(rules.scales):
        while at[k] < scale.floor and (need > 0 or not moved):
            need -= state.slopes[k] * (scale.costs[at[k]] - scale.costs[at[k] + 1])
            at[k], moved = at[k] + 1, True
    if not moved:
        if not state.spent:
            causes.append(f"{window}; no knob is left to turn down")
        return replace(state, spent=True, calm=None)
    causes.append(f"{window}; {_moves(rules, held, at)}")
    after = replace(
        state, at=tuple(b if a != b else old for old, a, b in zip(state.at, held, at, strict=True)), changed=window.now, calm=None,
        climbed=False, failures=0, trial=_trial(window, rules, held, at), spent=False,
    )  # fmt: skip
    if not state.climbed or window.now - (state.changed or 0) >= 16 * rules.dwell_ns:
        return after
    # Load undid a climb. Stay below for a while, twice as long each time; and longer at the very settings that failed, unless load falls.
    n = state.failures + 1
    return replace(
        after, failures=n, ceiling=sum(after.at), closed=window.now + rules.dwell_ns * 2 ** min(n, 4),
        fence=state.at, fence_ms=state.before_ms, fenced=window.now + 8 * rules.dwell_ns * 2 ** min(n, 10),
    )  # fmt: skip


def _up(window: Window, state: State, rules: Rules, limits: tuple[int, ...], causes: list[str]) -> State:
    """Give one notch back to the knob that was taken last, when there has been room for it for the whole dwell time."""
    if window.frames < FULL or (window.period_ms is None and window.budget_ms is None):
        return state
    free = [k for k, scale in enumerate(rules.scales) if state.at[k] > max(limits[k], _cap(window, scale))]
    if not free or _short_of_memory(window, rules, 2.0):
        return replace(state, calm=None)
    k = free[-1]
    at = [*state.at[:k], state.at[k] - 1, *state.at[k + 1 :]]
    growth = math.exp(state.slopes[k] * (rules.scales[k].costs[at[k]] - rules.scales[k].costs[state.at[k]]))
    if max(window.load, window.lag) * growth > rules.climb:
        return replace(state, calm=None)
    calm = window.now if state.calm is None else state.calm
    early = window.now - max(calm, state.changed or 0) < rules.dwell_ns
    closed = window.now < state.closed and sum(at) < state.ceiling
    fenced = window.now < state.fenced and tuple(at) == state.fence and window.busy_p50_ms > 0.9 * state.fence_ms
    if early or closed or fenced:
        return replace(state, calm=calm, spent=False)
    causes.append(f"{window}, {max(window.load, window.lag) * growth:.0%} expected; {_moves(rules, state.at, at)}")
    return replace(
        state, at=tuple(at), changed=window.now, calm=None, climbed=True, before_ms=window.busy_p50_ms,
        trial=_trial(window, rules, state.at, at), spent=False,
    )  # fmt: skip


def _memory(window: Window, state: State, rules: Rules, causes: list[str]) -> tuple[int, ...]:
    """Positions after what memory asks for: caps of a ladder, else one rung down for a node that ran out or a card that is nearly full."""
    at = [max(a, _cap(window, scale)) for a, scale in zip(state.at, rules.scales, strict=True)]
    if at != list(state.at):
        causes.append(f"out of memory: {_moves(rules, state.at, at)}")
        return tuple(at)
    short = window.frames >= FEW and _short_of_memory(window, rules, 1.0)
    for k, scale in enumerate(rules.scales):
        ran_out = scale.set.rpartition(".")[0] in window.out_of_memory
        if (ran_out or short) and at[k] < scale.floor:
            at[k] = at[k] + 1 if scale.coarse else scale.floor
            why = "out of memory" if ran_out else f"{window.vram_free_mb:.0f} MB of device memory left"
            causes.append(f"{why}: {_moves(rules, state.at, at)}")
            break
    return tuple(at)


def _short_of_memory(window: Window, rules: Rules, times: float) -> bool:
    return window.vram_free_mb is not None and window.vram_free_mb < times * rules.vram_reserve_mb


def _follow(
    window: Window, state: State, rules: Rules, causes: list[str]
) -> tuple[dict[str, Any], tuple[int, ...], tuple[tuple[float, int], ...]]:
    """Settings that signals ask for, the limits they put on knobs, and the smoothed signals."""
    settings: dict[str, Any] = {}
    limits, followed = [0] * len(rules.scales), []
    elapsed = 0.0 if state.seen is None else (window.now - state.seen) / 1e9
    index = {scale.set: k for k, scale in enumerate(rules.scales)}
    for follow, (smooth, bin) in zip(rules.follows, state.followed, strict=True):
        signal = window.signals.get(follow.signal, math.nan)
        if not math.isnan(signal):
            signal = min(max(signal, 0.0), 1.0)
            smooth = signal if bin < 0 else smooth + (signal - smooth) * (1 - math.exp(-elapsed / max(follow.smooth_s, 1e-9)))
            if bin < 0 or abs(smooth * follow.bins - bin) > 0.75:
                bin = round(smooth * follow.bins)
                if follow.set not in index:
                    settings[follow.set] = follow.value(bin)
                causes.append(f"{follow.signal} at {smooth:.2f}: {follow.set} follows to {follow.value(bin)}")
        if bin >= 0 and follow.set in index:
            k = index[follow.set]
            limits[k] = max(limits[k], rules.scales[k].at_most(follow.value(bin)))
        followed.append((smooth, bin))
    return settings, tuple(limits), tuple(followed)


def _learn(window: Window, state: State) -> tuple[float, ...]:
    """Slopes after the effect of the last move. One sample moves a slope by half of what it says, by a half at most: load changes too."""
    trial = state.trial
    if trial is None or window.frames < FULL or min(window.busy_p50_ms, trial.before_ms) <= 0:
        return state.slopes
    slope = state.slopes[trial.knob]
    sample = math.log(window.busy_p50_ms / trial.before_ms) / trial.change
    slope = min(max((slope + sample) / 2, slope / 1.5, SLOPES[0]), slope * 1.5, SLOPES[1])
    return (*state.slopes[: trial.knob], slope, *state.slopes[trial.knob + 1 :])


def _trial(window: Window, rules: Rules, old: Sequence[int], new: Sequence[int]) -> Trial | None:
    """The move as an experiment; None where several knobs moved at once, or one that costs nothing."""
    moves = [k for k in range(len(old)) if old[k] != new[k]]
    if len(moves) != 1:
        return None
    change = rules.scales[moves[0]].costs[new[moves[0]]] - rules.scales[moves[0]].costs[old[moves[0]]]
    return Trial(moves[0], change, window.busy_p50_ms) if change else None


def _cap(window: Window, scale: Scale) -> int:
    return scale.at_most(window.caps[scale.set]) if scale.set in window.caps else 0


def _moves(rules: Rules, old: Sequence[int], new: Sequence[int]) -> str:
    moves = [(s, a, b) for s, a, b in zip(rules.scales, old, new, strict=True) if a != b]
    return ", ".join(f"{s.set} {s.levels[a]} -> {s.levels[b]}" for s, a, b in moves)
