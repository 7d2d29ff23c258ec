"""When to start a stream again after it ended: a pure state machine of times and chances.

Failures in a row wait longer and longer; too many of them open a circuit breaker, after whose rest there is one try. Invariant: between two
starts lies at least three quarters of `first_s`, and no `breaker` failures within `window_s` go without a rest. It knows no processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from remote.serve.streams import Restart

HOPELESS = (2, 3)  # exit codes that another try does not change: the graph or the command line is wrong, a part is missing
JITTER = 0.25
LONGEST_REST = 12  # times rest_s


@dataclass(frozen=True)
class History:
    """What happened to a stream so far. `failures`: when, those within the window. `row`: failures since it was last steady."""

    failures: tuple[float, ...] = ()
    row: int = 0
    rests: int = 0


@dataclass(frozen=True)
class Verdict:
    """What to do: start `after` so many seconds (None: never by itself), and why. `state`: ended, broken, waiting or resting."""

    state: str
    after: float | None
    why: str
    history: History


def ended(rules: Restart, history: History, code: int | None, why: str, now: float, chance: Callable[[], float]) -> Verdict:
    """What follows on an end at `now` (s) with exit code `code`; `why` is set where the supervisor itself ended it. `chance` gives 0..1."""
    failed = bool(why) or code != 0
    reason = why or (f"exit code {code}" if code is None or code >= 0 else f"killed by signal {-code}")
    if not failed and rules.when != "always":
        return Verdict("ended", None, "done", history)
    if rules.when == "never":
        return Verdict("ended", None, reason, history)
    if failed and not why and code in HOPELESS:
        return Verdict("broken", None, f"{reason}: another try would not help; it starts again when its graph changes", history)
    if not failed:
        return Verdict("waiting", rules.first_s, "done, and to be started always", history)
    failures = (*(at for at in history.failures if now - at < rules.window_s), now)
    row = history.row + 1
    if len(failures) >= rules.breaker or history.rests:
        rests = history.rests + 1
        rest = _jittered(rules.rest_s * min(2 ** (rests - 1), LONGEST_REST), chance)
        return Verdict("resting", rest, f"{reason}; {row} failures in a row", History((), row, rests))
    pause = _jittered(min(rules.first_s * 2 ** min(row - 1, 30), rules.most_s), chance)
    return Verdict("waiting", pause, reason, History(failures, row, 0))


def steady(rules: Restart, history: History, seconds: float) -> History:
    """What is remembered after `seconds` of frames: nothing bad, once they are enough."""
    return replace(history, failures=(), row=0, rests=0) if seconds >= rules.steady_s else history


def _jittered(seconds: float, chance: Callable[[], float]) -> float:
    return seconds * (1 + JITTER * (2 * chance() - 1))
