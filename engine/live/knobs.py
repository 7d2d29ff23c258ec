"""Knobs as the governor sees them: levels from best to worst, what each costs beside the others, and the signals that limit them.

Immutable data, resolved once from a graph's [govern]. A level is a value as it is written or counted out from a range; integers stay integers.
Knows nothing of measurements or of time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import UsageError
from engine.graph import Govern, KnobRule


@dataclass(frozen=True, slots=True)
class Scale:
    """A knob: its levels, best first, and where each stands on the cost axis (log cost at slope 1; falls from best to worst)."""

    set: str
    levels: tuple[Any, ...]
    costs: tuple[float, ...]
    slope: float = 1.0
    coarse: bool = False  # a list of choices: memory is freed one choice at a time; a range goes to its end at once

    @classmethod
    def of(cls, rule: KnobRule, initial: Any) -> Scale:
        """The levels of a knob. A range goes from worst to best, in steps of `step`, else of 1 for integers, else of a tenth of it."""
        if initial is None or (rule.range is None and not rule.choices):
            what = "has no value to start from" if initial is None else "has neither a range nor choices"
            raise UsageError(f"knob {rule.set} {what}", fix="write `range = [worst, best]` or `choices = [best, …]`, and set the parameter")
        if rule.range is None:
            values, slope = tuple(rule.choices), 2.0  # numbers among choices are mostly sizes, and cost goes by the area
        else:
            worst, best = rule.range
            step = rule.step or (1 if isinstance(initial, int) else abs(best - worst) / 10) or 1
            grid = [best + math.copysign(step * i, worst - best) for i in range(math.floor(abs(best - worst) / step + 1e-9) + 1)]
            grid += [worst] if abs(grid[-1] - worst) > 1e-9 * step else []
            values, slope = tuple(dict.fromkeys(round(v) if isinstance(initial, int) else round(v, 9) for v in grid)), 1.0
        if all(_number(v) and v > 0 for v in values):
            sign = 1.0 if values[0] >= values[-1] else -1.0  # where less is better (every = 24), less costs more
            costs = tuple(sign * math.log(v) for v in values)
        else:
            costs, slope = tuple(-0.2 * i for i in range(len(values))), 1.0
        return cls(rule.set, values, costs, slope, rule.range is None)

    @property
    def floor(self) -> int:
        return len(self.levels) - 1

    def nearest(self, value: Any) -> int:
        """The position of `value`, or of the level nearest to it; 0 for a value that is no level at all."""
        if value in self.levels:
            return self.levels.index(value)
        if not _number(value) or not _number(self.levels[0]):
            return 0
        return min(range(len(self.levels)), key=lambda i: abs(self.levels[i] - value))

    def at_most(self, value: Any) -> int:
        """The best position that is no better than `value`; used for caps."""
        if not _number(value) or not _number(self.levels[0]):
            return self.nearest(value)
        rising = self.levels[0] >= self.levels[-1]
        fits = (i for i, level in enumerate(self.levels) if (level <= value if rising else level >= value))
        return next(fits, self.floor)


@dataclass(frozen=True, slots=True)
class Follow:
    """A parameter that follows a signal: `ends` are its values at signal 0 and 1, as in an edge's `map`.

    Of a governed knob the signal only limits the quality; any other parameter is set outright. The signal is smoothed over `smooth_s`
    and cut into `bins` with hysteresis, so that a trembling signal moves nothing.
    """

    set: str
    signal: str
    ends: tuple[float, float]
    smooth_s: float = 1.0
    bins: int = 10

    def value(self, bin: int) -> float | int:
        low, high = self.ends
        value = low + (high - low) * bin / self.bins
        return round(value) if isinstance(low, int) and isinstance(high, int) else round(value, 6)


@dataclass(frozen=True, slots=True)
class Rules:
    """The governor's orders, resolved against the graph: knobs in the order they give way, and the constants of the controller."""

    scales: tuple[Scale, ...] = ()
    initial: tuple[Any, ...] = ()
    follows: tuple[Follow, ...] = ()
    dwell_ns: int = 2_000_000_000
    aim: float = 0.9  # a move down aims here
    climb: float = 0.88  # a move up must be predicted to end below this; between it and 1 lies the dead band
    gross: float = 1.2  # from here on three frames are proof enough
    vram_reserve_mb: float = 256.0

    @classmethod
    def of(cls, govern: Govern, initial: Mapping[str, Any], follows: Sequence[Follow] = (), **constants: Any) -> Rules:
        """Rules from a graph's [govern]. `initial`: value of every governed parameter at the start, `node.param` to value.

        Raises UsageError where a knob has neither range nor choices, or no initial value.
        """
        scales = tuple(Scale.of(knob, initial.get(knob.set)) for knob in govern.knobs)
        return cls(scales, tuple(initial[s.set] for s in scales), tuple(follows), round(govern.dwell_s * 1e9), **constants)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
