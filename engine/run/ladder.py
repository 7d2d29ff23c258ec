"""The out-of-memory ladder of one node: what to give up, in order, so that a frame that did not fit is tried again and nothing ends.

Rungs downwards: models beside it that nobody waits for leave the device (`Operator.gives_way`); knobs written as a range go to their worst
value, one by one; knobs written as choices go down a choice at a time; at last the operator moves weights off the device (`relieve`). Rungs
upwards are the same in reverse, one after each quiet spell; a rung that failed
again after it was given back waits twice as long the next time, so a card that is simply too small is not asked over and over.

The invariant: `descend` never returns the settings that just failed; when nothing is left it returns None, and the error is fatal.
The ladder knows neither threads nor frames nor clocks: whoever runs the operator calls it between two calls, with the time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.live.knobs import Rules, Scale
from engine.operator import Operator

_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "failed to allocate memory", "alloc_failed")
TRIAL = 8  # a rung given back is on trial for so many times the spell it waited


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether `error`, or what caused it, says that host or device memory ran out. torch is looked at only where somebody imported it."""
    torch = sys.modules.get("torch")
    kinds = tuple(k for k in (MemoryError, getattr(torch, "OutOfMemoryError", None)) if isinstance(k, type))
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        # CUDA, cuBLAS, MPS and the host allocator raise a plain RuntimeError; onnxruntime has exceptions of its own.
        native = isinstance(error, RuntimeError) or type(error).__module__.startswith("onnxruntime")
        if isinstance(error, kinds) or (native and any(word in str(error).lower() for word in _WORDS)):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


@dataclass(frozen=True, slots=True)
class Rung:
    """A step of the ladder. `settings`: live parameters to set on the operator before its next call (none for the offload).

    `depth`: rungs below the top after the step. `scale`, `before`, `position`: which knob went from which value to which level; without a
    `scale`, `freed` is the operator whose weights were moved.
    """

    name: str
    depth: int
    settings: Mapping[str, Any]
    cause: str
    scale: Scale | None = None
    before: Any = None
    position: int = 0
    freed: Operator | None = None


@dataclass(eq=False)
class Ladder:
    """The ladder of `node`, whose knobs stand in `rules`. `operator` is None for a function: then no weights can be moved. `others`: asked each
    time which operators, by the names of their nodes, give way to this one."""

    rules: Rules
    node: str
    operator: Operator | None = None
    others: Callable[[], Mapping[str, Operator]] = dict
    taken: list[Rung] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)  # by rung: times it failed again on trial
    _trials: dict[str, int] = field(default_factory=dict)  # by rung: ns until when its return is on trial
    _since: int = 0  # ns of the last step

    @property
    def caps(self) -> dict[str, Any]:
        """`node.param` to the best value allowed now: the governor's limits while the ladder is down."""
        return {rung.scale.set: rung.scale.levels[rung.position] for rung in self.taken if rung.scale is not None}

    def descend(self, now: int) -> Rung | None:
        """The next rung down after an out-of-memory error at `now` (ns); None when nothing is left to give up."""
        _empty_caches()
        rung = self._next()
        if rung is not None:
            failed = now <= self._trials.pop(rung.name, -1)
            self.failures[rung.name] = self.failures.get(rung.name, 0) + 1 if failed else 0
            self.taken.append(rung)
            self._since = now
        return rung

    def climb(self, now: int, quiet_s: float) -> Rung | None:
        """Give the last rung back after `quiet_s` without a step (doubled for each time it failed again); None while it is too early.

        Under a governor ignore the settings: `caps` no longer holds the knob, and the governor raises it slowly.
        """
        if not self.taken:
            return None
        rung = self.taken[-1]
        wait = round(quiet_s * 1e9) << min(self.failures[rung.name], 16)
        if now - self._since < wait:
            return None
        self._since = now
        if rung.freed is not None:
            try:
                rung.freed.restore()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                _empty_caches()
                rung.freed.relieve()
                self.failures[rung.name] += 1
                return None
        self.taken.pop()
        self._trials[rung.name] = now + TRIAL * wait
        settings = {} if rung.scale is None else {_param(rung.scale): rung.before}
        return Rung(rung.name, len(self.taken), settings, f"{self.node} has had memory for {wait / 1e9:g} s: back from {rung.name}")

    def _next(self) -> Rung | None:
        depth, cause = len(self.taken) + 1, f"{self.node} ran out of memory"
        away = [rung.freed for rung in self.taken]
        for name, other in self.others().items():
            if other not in away and other.relieve():
                _empty_caches()
                return Rung(f"{name} away", depth, {}, f"{cause}: {name} gave way", freed=other)
        for scale, initial in zip(self.rules.scales, self.rules.initial, strict=True):
            param = _param(scale)
            if scale.set != f"{self.node}.{param}":
                continue
            value = getattr(self.operator, param, initial)
            at = max([scale.nearest(value)] + [rung.position for rung in self.taken if rung.scale is scale])
            if at < scale.floor:
                to = at + 1 if scale.coarse else scale.floor
                name = f"{param} {scale.levels[to]}"
                return Rung(name, depth, {param: scale.levels[to]}, f"{cause}: down to {name}", scale, value, to)
        if self.operator is None or self.operator in away or not self.operator.relieve():
            return None
        return Rung("offload", depth, {}, f"{cause}: weights moved off the device", freed=self.operator)


def _param(scale: Scale) -> str:
    return scale.set.rpartition(".")[2]


def _empty_caches() -> None:
    """Hand cached blocks back to the device: a retry must not fail for fragmentation alone."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
