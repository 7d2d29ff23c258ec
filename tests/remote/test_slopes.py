"""The fit behind the soak's verdict: it finds what grows, and is not fooled by noise, steps or saw teeth."""

from __future__ import annotations

import random

import pytest

from bench.slopes import slope

TIMES = [0.5 * n for n in range(360)]  # three minutes


def noisy(values: list[float], seed: int = 1, size: float = 1.0) -> list[float]:
    chance = random.Random(seed)
    return [value + chance.gauss(0, size) for value in values]


@pytest.mark.parametrize("seed", range(5))
def test_a_leak_is_found_in_noise(seed):
    found = slope(TIMES, noisy([100 + 2.0 * t / 60 for t in TIMES], seed))
    assert found.low < 2.0 < found.high
    assert found.per_minute == pytest.approx(2.0, abs=0.3)
    assert found.grows(1.0)
    assert not found.grows(2.5)


@pytest.mark.parametrize("seed", range(5))
def test_noise_alone_is_steady(seed):
    found = slope(TIMES, noisy([100.0] * len(TIMES), seed))
    assert not found.grows(0.3)
    assert found.low < 0.3


def test_outliers_and_saw_teeth_are_steady():
    teeth = [100 + n % 20 for n in range(len(TIMES))]
    assert not slope(TIMES, teeth).grows(0.1)
    spikes = noisy([100.0] * len(TIMES))
    spikes[300:310] = [10_000.0] * 10  # a least-squares line would rise here
    assert not slope(TIMES, spikes).grows(0.3)


def test_counts_that_come_and_go_are_steady_and_one_a_minute_that_stays_is_not():
    chance = random.Random(3)
    comes_and_goes = [30.0 + chance.randrange(6) for _ in TIMES]
    assert not slope(TIMES, comes_and_goes).grows(0.5)
    long = [0.5 * n for n in range(1200)]
    stays = [30.0 + chance.randrange(6) + t // 60 for t in long]
    assert slope(long, stays).grows(0.5)


def test_the_line_of_least_noise_is_exact_and_too_few_samples_are_refused():
    found = slope(TIMES, [5 + t / 60 for t in TIMES])
    assert (round(found.per_minute, 9), round(found.low, 9), round(found.high, 9)) == (1.0, 1.0, 1.0)
    assert (found.first < found.last, found.samples) == (True, 360)
    with pytest.raises(ValueError, match="at least 8"):
        slope([1.0, 2.0], [1.0, 2.0])
