"""`image.pick`: dark and empty pictures are passed over, the sharpest of the good ones is taken, once, and another when somebody asks."""

from __future__ import annotations

import numpy as np
import pytest

from engine.payload import Image, Pose
from engine.testing import Bench

DICE = np.random.default_rng(3)
SHARP = Image(DICE.integers(0, 2, (96, 128, 3), np.uint8).repeat(2, 0).repeat(2, 1)[:96, :128] * 200)


def blurred(radius: float) -> Image:
    import cv2

    grey = cv2.GaussianBlur(np.asarray(SHARP.data), (0, 0), radius).astype(np.float32)
    grey = (grey - grey.mean()) / max(grey.std(), 1e-6) * 60 + 128  # as much contrast as before, and less detail
    return Image(grey.clip(0, 255).astype(np.uint8))


DARK = Image(np.full((96, 128, 3), 3, np.uint8))


def someone(joints: int) -> Pose:
    people = np.zeros((1, 18, 3), np.float32)
    people[0, :joints, 2] = 1
    return Pose(people, (96, 128))


def test_what_shows_nothing_is_passed_over_and_the_sharpest_is_taken() -> None:
    with Bench("image.pick", among=3) as bench:
        assert [bench(p) for p in (DARK, blurred(4), DARK, SHARP)] == [None] * 4
        found = bench(blurred(2))
        assert np.array_equal(found.data, SHARP.data)
        assert bench(SHARP) is None
        assert [what for what, _ in bench.events] == ["picked"]


def test_another_is_picked_when_asked() -> None:
    with Bench("image.pick", among=1) as bench:
        assert bench(SHARP) is not None
        assert bench(SHARP) is None
        bench.set(take=1)
        other = blurred(2)
        assert np.array_equal(bench(other).data, other.data)
        assert bench(SHARP) is None
        bench.new_epoch()  # a cut is no reason to look at somebody else
        assert bench(SHARP) is None


def test_light_counts_for_nothing() -> None:
    """The same picture in half the light is as sharp, so the first of both is kept."""
    dim = Image((np.asarray(SHARP.data) // 2).astype(np.uint8))
    with Bench("image.pick", among=2) as bench:
        bench(dim)
        assert np.array_equal(bench(blurred(1)).data, dim.data)


def test_somebody_has_to_be_there_where_asked() -> None:
    with Bench("image.pick", among=1, person=True) as bench:
        assert bench(SHARP) is None
        assert bench(SHARP, Pose(np.zeros((0, 18, 3), np.float32))) is None
        assert bench(SHARP, someone(8)) is None
        assert bench(SHARP, someone(9)) is not None


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_it_goes_on_from_a_snapshot(stop: int) -> None:
    fed = [blurred(3), SHARP, blurred(1), blurred(2)]
    with Bench("image.pick", among=4) as whole, Bench("image.pick", among=4) as first, Bench("image.pick", among=4) as second:
        expected = [whole(p) for p in fed][-1]
        for p in fed[:stop]:
            first(p)
        second.operator.recall(first.operator.snapshot())
        found = [second(p) for p in fed[stop:]][-1]
        assert np.array_equal(found.data, expected.data)
