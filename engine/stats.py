"""Order statistics of small samples, for reports, traces and the governor.

Percentiles interpolate linearly between order statistics (Hyndman and Fan 1996, type 7: NumPy's default), so that everything the engine
prints agrees with what a notebook makes of the same numbers. Knows nothing of frames or nodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """p50, p95, p99 and maximum of a sample; zeros for an empty one."""

    p50: float
    p95: float
    p99: float
    max: float


def spread(values: Iterable[float]) -> Spread:
    """The Spread of `values`, in their unit."""
    ordered = sorted(values)
    return Spread(*(quantile(ordered, q) for q in (0.5, 0.95, 0.99, 1.0)))


def quantile(ordered: Sequence[float], q: float) -> float:
    """The `q` quantile (0..1) of values in ascending order; 0 where there are none."""
    if not ordered:
        return 0.0
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
