"""`sink.palette`: histograms of the regions of a person, worked out by hand, and samples spread over a run."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from engine.payload import Image, Pose
from engine.testing import Bench
from operators.metric.regions import regions
from operators.sink.palette import histogram

RED, BLUE, GREY = (200, 30, 30), (30, 40, 200), (128, 128, 128)


def person() -> Pose:
    people = np.zeros((1, 18, 3), np.float32)
    for joint, (x, y) in {0: (0.5, 0.15), 1: (0.5, 0.28), 2: (0.38, 0.3), 5: (0.62, 0.3), 8: (0.42, 0.6), 11: (0.58, 0.6), 9: (0.42, 0.8),
                          12: (0.58, 0.8)}.items():  # fmt: skip
        people[0, joint] = (x, y, 1.0)
    return Pose(people, (128, 128))


def dressed(colour: tuple[int, int, int], half: tuple[int, int, int] | None = None) -> Image:
    """A grey picture whose person wears `colour` above, or `half` of it something else."""
    data = np.full((128, 128, 3), GREY, np.uint8)
    mask = regions(person().people[0], 128, 128)["top"]
    data[mask] = colour
    if half is not None:
        ys, xs = np.nonzero(mask)
        data[ys[: len(ys) // 2], xs[: len(xs) // 2]] = half
    return Image(data)


def test_a_histogram_of_two_colours() -> None:
    shares, colours = histogram(np.array([RED] * 6 + [BLUE] * 2, np.uint8))
    assert shares.sum() == pytest.approx(1)
    assert sorted(shares[shares > 0]) == pytest.approx([0.25, 0.75])
    assert colours == [(RED, 0.75), (BLUE, 0.25)]


def test_how_far_the_colours_went() -> None:
    """Half of the clothes another colour: the distance is sqrt(1 - sqrt(1/2)); all of them: 1. What stays grey stays at 0."""
    told: list[dict[str, float]] = []
    with Bench("sink.palette", anchor=2) as bench:
        bench.site._measure = lambda node, seq, numbers: told.append(numbers)
        for image in (dressed(RED), dressed(RED), dressed(RED), dressed(RED, BLUE), dressed(BLUE)):
            bench(image, person())
        kept = bench.operator.kept
    assert [numbers["top"] for numbers in told[:3]] == [0, 0, 0]
    assert told[3]["top"] == pytest.approx((1 - 0.5**0.5) ** 0.5, abs=0.02)
    assert told[4]["top"] == pytest.approx(1.0)
    assert all(numbers["face"] == pytest.approx(0.0, abs=1e-6) for numbers in told)
    assert [sample["top"][0][0] for _, _, sample in (kept[0], kept[-1])] == [RED, BLUE]


def test_an_epoch_is_compared_with_its_own_beginning() -> None:
    told: list[dict[str, float]] = []
    with Bench("sink.palette", anchor=1) as bench:
        bench.site._measure = lambda node, seq, numbers: told.append(numbers)
        bench(dressed(RED), person())
        bench.new_epoch()
        bench(dressed(BLUE), person())
        bench(dressed(BLUE), person())
    assert [numbers["top"] for numbers in told] == [0, 0, 0]


def test_nobody_is_no_sample() -> None:
    with Bench("sink.palette") as bench:
        bench(dressed(RED), Pose(np.zeros((0, 18, 3), np.float32)))
        assert bench.operator.kept == []


def test_samples_are_spread_over_a_run() -> None:
    with Bench("sink.palette", count=8) as bench:
        for seq in range(100):
            bench(dressed(RED), person(), seq=seq)
        seqs = [seq for seq, _, _ in bench.operator.kept]
    assert 4 <= len(seqs) <= 8
    assert len({b - a for a, b in pairwise(seqs)}) == 1
    assert seqs[-1] > 80
