"""Does it grow? A robust slope with a confidence interval, and a verdict.

Theil-Sen: the median of the slopes between all pairs of samples, with the rank-based interval of Sen (1968) from Kendall's S. It shrugs at
outliers and saw teeth, which a least-squares line through resident memory would not. It knows numbers only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Z = 1.96  # 95 %
MOST = 400  # samples that are looked at; more are thinned out


@dataclass(frozen=True)
class Slope:
    """Growth a minute: the estimate and the ends of its 95 % interval; `first` and `last` are medians over the first and last tenth."""

    per_minute: float
    low: float
    high: float
    first: float
    last: float
    samples: int

    def grows(self, tolerance: float) -> bool:
        """Whether it surely grows by more than `tolerance` a minute."""
        return self.low > tolerance


def slope(times: Sequence[float], values: Sequence[float]) -> Slope:
    """The slope of `values` over `times` (seconds). Raises ValueError for fewer than 8 samples."""
    if len(times) != len(values) or len(times) < 8:
        raise ValueError(f"a slope needs at least 8 samples, found {len(times)}")
    step = max(1, len(times) // MOST)
    xs, ys = list(times)[::step], list(values)[::step]
    n = len(xs)
    pairs = sorted((ys[j] - ys[i]) / (xs[j] - xs[i]) for i in range(n) for j in range(i + 1, n) if xs[j] > xs[i])
    spread = Z * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)  # of Kendall's S without a trend
    low = max(0, round((len(pairs) - spread) / 2))
    high = min(len(pairs) - 1, round((len(pairs) + spread) / 2))
    tenth = max(1, len(values) // 10)
    return Slope(
        60 * median(pairs), 60 * pairs[low], 60 * pairs[high], median(list(values)[:tenth]), median(list(values)[-tenth:]), len(values)
    )


def median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
