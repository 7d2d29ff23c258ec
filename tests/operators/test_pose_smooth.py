"""The 1-euro filter, who is who, and holding on to those who are lost."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pose_people import standing

from engine.payload import Pose
from engine.testing import Bench
from operators.pose.euro import OneEuro, share
from operators.pose.people import People, match

SIZE = (400, 400)


def one(person: np.ndarray) -> Pose:
    return Pose(person[None], SIZE)


def nobody() -> Pose:
    return Pose(np.zeros((0, 18, 3), np.float32), SIZE)


# ---------------------------------------------------------------- the filter


def test_the_filter_is_the_papers() -> None:
    """Worked by hand from Casiez et al., algorithm 1, for one coordinate: rate 10 Hz, mincutoff 1, beta 0.5, dcutoff 1."""
    euro = OneEuro(slope_cutoff=1.0)
    got = [float(euro(np.array([[x, 0.0]]), 0.1, min_cutoff=1.0, beta=0.5)[0, 0]) for x in (0.0, 1.0, 1.0, 4.0)]

    def alpha(cutoff: float) -> float:
        return 1 / (1 + (1 / (2 * math.pi * cutoff)) / 0.1)

    x_hat, dx_hat, want = 0.0, 0.0, [0.0]
    for x in (1.0, 1.0, 4.0):
        dx_hat = alpha(1.0) * (x - x_hat) * 10 + (1 - alpha(1.0)) * dx_hat
        a = alpha(1.0 + 0.5 * abs(dx_hat))
        x_hat = a * x + (1 - a) * x_hat
        want.append(x_hat)
    assert got == pytest.approx(want)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.01, 60), st.floats(0.01, 60), st.floats(1e-4, 1))
def test_a_higher_cutoff_takes_more_of_the_new(one: float, other: float, dt: float) -> None:
    assert 0 < share(one, dt) < 1
    assert (one < other) <= (share(one, dt) <= share(other, dt))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=2, max_size=30), st.floats(0.05, 10), st.floats(0, 10), st.floats(0.001, 0.5))
def test_a_filtered_coordinate_lies_between_its_last_value_and_the_new_one(xs: list[float], cutoff: float, beta: float, dt: float) -> None:
    euro, last = OneEuro(), None
    for x in xs:
        now = float(euro(np.array([[x, 0.0]]), dt, min_cutoff=cutoff, beta=beta)[0, 0])
        if last is not None:
            assert min(last, x) - 1e-9 <= now <= max(last, x) + 1e-9
        last = now


@settings(max_examples=30, deadline=None)
@given(st.floats(0.1, 5), st.floats(0.0, 5), st.floats(0.1, 5))
def test_more_beta_never_lags_more_behind_a_steady_ramp(cutoff: float, beta: float, more: float) -> None:
    def lag(b: float) -> float:
        euro, out = OneEuro(), 0.0
        for step in range(60):
            out = float(euro(np.array([[step / 30, 0.0]]), 1 / 30, min_cutoff=cutoff, beta=b)[0, 0])
        return 59 / 30 - out

    assert lag(beta + more) <= lag(beta) + 1e-9


def test_trembling_is_calmed_and_a_leap_is_followed() -> None:
    rng = np.random.default_rng(0)
    still, leap = standing(0.3), standing(0.6)
    frames = [still] * 40 + [leap] * 40
    shaken = [f + np.concatenate([rng.normal(0, 0.003, (18, 2)), np.zeros((18, 1))], 1).astype(np.float32) for f in frames]
    with Bench("pose.smooth", min_cutoff=1.0, beta=3.0) as bench:
        out = np.array([bench(one(f)).people[0] for f in shaken])
    before, after = np.diff(np.array(shaken)[10:40, :, :2], axis=0), np.diff(out[10:40, :, :2], axis=0)
    assert np.abs(after).mean() < 0.4 * np.abs(before).mean()
    assert np.abs(out[39, :, :2] - still[:, :2]).max() < 0.006
    # A leap of 1.5 torsos is the same person still, and caught up with in a fifth of a second.
    assert np.abs(out[45, :, 0] - leap[:, 0]).max() < 0.03


def test_a_joint_that_comes_back_does_not_slide_there() -> None:
    here, gone, back = standing(), standing(), standing()
    gone[4, 2] = 0.0
    back[4, :2] = (0.9, 0.1)
    with Bench("pose.smooth", min_cutoff=0.1, beta=0.0) as bench:
        for person in (here, here, gone, gone):
            bench(one(person))
        out = bench(one(back)).people[0]
    assert out[4, :2] == pytest.approx((0.9, 0.1))
    assert out[3, :2] == pytest.approx(here[3, :2])


def test_what_smooths_does_not_depend_on_how_far_away_somebody_is() -> None:
    steps = np.random.default_rng(1).normal(0, 0.05, 20).cumsum()
    ways = []
    for torso in (0.2, 0.05):
        with Bench("pose.smooth") as bench:
            ways.append([bench(one(standing(0.5 + torso * s, 0.3, torso))).people[0, 1, 0] / torso for s in steps])
    assert np.diff(ways[0]) == pytest.approx(np.diff(ways[1]), abs=1e-4)


# ---------------------------------------------------------------- who is who


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_people_keep_their_places_however_the_detector_lists_them(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    people = People(limit=10)
    xs = (np.arange(count) + 0.5) / count
    first = None
    for frame in range(6):
        crowd = np.stack([standing(x + 0.01 * np.sin(frame), 0.4, 0.08) for x in xs])
        out = people(crowd[rng.permutation(count)], frame * 33_000_000, aspect=1.0, min_cutoff=None, beta=0)
        first = out[:, 1, 0] if first is None else first
        assert out[:, 1, 0] == pytest.approx(first, abs=0.03)
        assert len(out) == count


def test_two_far_apart_are_never_the_same() -> None:
    assert match([standing(0.1, torso=0.1)], [standing(0.9, torso=0.1)], 1.0) == []
    assert sorted(match([standing(0.1), standing(0.9)], [standing(0.88), standing(0.12)], 1.0)) == [(0, 1), (1, 0)]


def test_the_nearest_are_paired_first_whatever_the_order() -> None:
    """One stands still, another one comes from far: the newcomer does not take the place of the one who is nearer."""
    left, right = standing(0.40, torso=0.1), standing(0.50, torso=0.1)
    still = standing(0.51, torso=0.1)
    assert match([left, right], [still], 1.0) == [(1, 0)]
    assert match([right, left], [still], 1.0) == [(0, 0)]


def test_the_picture_s_shape_counts() -> None:
    """0.2 of the width of a wide picture is farther than 0.2 of its height."""
    before, after = standing(0.3, 0.5, 0.1, aspect=3.0), standing(0.38, 0.5, 0.1, aspect=3.0)
    assert match([before], [after], 1.0)
    assert not match([before], [after], 3.0)


# ---------------------------------------------------------------- hold and fade


def test_somebody_lost_is_held_then_fades_then_is_gone() -> None:
    with Bench("pose.smooth", hold_ms=100.0, fade_ms=100.0) as bench:
        person = standing()
        bench(one(person), pts=0)
        seen = [bench(nobody(), pts=ms * 1_000_000).people for ms in (50, 100, 150, 190, 201)]
    assert [len(s) for s in seen] == [1, 1, 1, 1, 0]
    assert [float(s[0, 0, 2]) for s in seen[:4]] == pytest.approx([1, 1, 0.5, 0.1], abs=1e-5)
    for s in seen[:4]:
        assert s[0, :, :2] == pytest.approx(person[:, :2], abs=1e-6)


def test_without_a_hold_nobody_stays() -> None:
    with Bench("pose.smooth") as bench:
        bench(one(standing()))
        assert bench(nobody()).people.shape == (0, 18, 3)


def test_who_comes_back_in_time_is_the_same_and_no_ghost_stays() -> None:
    people = People(limit=1)
    options = {"aspect": 1.0, "min_cutoff": None, "beta": 0.0, "hold": 1.0, "fade": 1.0}
    people(standing(0.5)[None], 0, **options)
    people(np.zeros((0, 18, 3), np.float32), 40_000_000, **options)
    back = people(standing(0.52)[None], 80_000_000, **options)
    assert people.keys == [0]
    assert len(back) == 1
    elsewhere = people(standing(0.05, torso=0.05)[None], 120_000_000, **options)
    assert people.keys == [1]  # somebody else, and the one on hold makes room
    assert elsewhere[0, 1, 0] == pytest.approx(0.05)


def test_reset_forgets_everybody() -> None:
    with Bench("pose.smooth", hold_ms=1000.0, min_cutoff=0.05, beta=0.0) as bench:
        bench(one(standing(0.2)))
        bench.new_epoch()
        out = bench(one(standing(0.8))).people
    assert len(out) == 1
    assert out[0] == pytest.approx(standing(0.8))


def test_what_comes_in_is_not_written_to() -> None:
    person = standing()
    person.flags.writeable = False
    with Bench("pose.smooth", hold_ms=1000.0) as bench:
        outs = [bench(one(person)).people, bench(nobody()).people]
    assert all(not np.shares_memory(out, person) for out in outs)
