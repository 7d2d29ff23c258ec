"""The score that a graph steers by: its formula, its bounds, and what it does when somebody is lost."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pose_people import standing

from engine.payload import Pose
from engine.testing import Bench

FPS = 25.0


def run(*people: np.ndarray, aspect: float = 1.0, **params: float) -> list[float]:
    with Bench("pose.stability", fps=FPS, **params) as bench:
        return [bench(Pose(p if p.ndim == 3 else p[None], (400, round(400 * aspect)))).value for p in people]


def test_one_step_is_the_formula() -> None:
    """A torso is 0.2; everything moves by 0.02 of the height in 1/25 s: 2.5 torsos a second, and everything is seen at 0.8."""
    score = run(standing(0.5, visible=0.8), standing(0.52, visible=0.8), half_life_ms=250.0, half_speed=1.5)
    r = 2 ** (-2.5 / 1.5) * 0.8
    assert score == pytest.approx([0.0, (1 - 2 ** (-0.04 / 0.25)) * r], abs=1e-6)


def test_half_way_after_a_half_life() -> None:
    score = run(*[standing()] * 26, half_life_ms=500.0)
    assert score[0] == 0
    assert score[-1] == pytest.approx(1 - 2 ** (-1.0 / 0.5), abs=1e-6)
    assert run(standing(), standing(), half_life_ms=0.0)[1] == pytest.approx(1.0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 4), st.floats(0, 2000), st.floats(0.01, 100))
def test_it_stays_within_its_bounds_whatever_comes(seed: int, most: int, half_life: float, half_speed: float) -> None:
    rng = np.random.default_rng(seed)
    frames = [rng.normal(0.5, 1.0, (int(rng.integers(0, most + 1)), 18, 3)).astype(np.float32) for _ in range(12)]
    for score in run(*frames, half_life_ms=half_life, half_speed=half_speed):
        assert 0 <= score <= 1
        assert math.isfinite(score)


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 0.03), st.floats(0.001, 0.03))
def test_quicker_is_never_steadier(speed: float, more: float) -> None:
    slow, quick = (run(*[standing(0.2 + v * i) for i in range(12)])[-1] for v in (speed, speed + more))
    assert quick <= slow + 1e-9


def test_the_score_is_about_time_not_frames() -> None:
    """The same second of the same movement, at 25 and at 50 frames."""
    ends = []
    for fps in (25, 50):
        with Bench("pose.stability", fps=fps) as bench:
            ends.append([bench(Pose(standing(0.3 + 0.2 * i / fps)[None], (400, 400))).value for i in range(fps + 1)][-1])
    assert ends[0] == pytest.approx(ends[1], abs=1e-4)


def test_size_and_shape_of_the_picture_do_not_matter() -> None:
    near = run(*[standing(0.3 + 0.02 * i, torso=0.2) for i in range(10)])
    far = run(*[standing(0.3 + 0.005 * i, torso=0.05) for i in range(10)])
    wide = run(*[standing(0.3 + 0.01 * i, torso=0.2, aspect=2.0) for i in range(10)], aspect=2.0)
    assert near == pytest.approx(far, abs=1e-4)
    assert near == pytest.approx(wide, abs=1e-4)


def test_being_lost_costs_and_a_new_face_starts_at_nothing() -> None:
    none = np.zeros((0, 18, 3), np.float32)
    score = run(*[standing()] * 30, none, none, *[standing(0.1)] * 3)
    assert score[29] > 0.9
    assert score[31] == pytest.approx(score[29] * 2 ** (-0.08 / 0.25))
    assert score[32] < score[31]  # somebody new is no steadiness yet
    assert score[34] > score[33]


def test_legs_outside_the_picture_cost_nothing() -> None:
    portrait = standing()
    portrait[8:14, 2] = 0.0
    half = standing()
    half[8:14, 2] = 0.2  # seen, but badly
    assert run(*[portrait] * 60)[-1] == pytest.approx(1, abs=0.01)
    assert run(*[half] * 60)[-1] < 0.75


def test_people_may_swap_places_in_the_list() -> None:
    pair = np.stack([standing(0.25, torso=0.1), standing(0.75, torso=0.1)])
    assert run(*[pair, pair[::-1]] * 10)[-1] == pytest.approx(run(*[pair] * 20)[-1])


def test_reset_starts_again_and_equal_input_gives_equal_scores() -> None:
    with Bench("pose.stability") as bench:
        runs = []
        for _ in range(2):
            runs.append([bench(Pose(standing(0.4 + 0.01 * i)[None], (400, 400))).value for i in range(10)])
            bench.new_epoch()
    assert runs[0] == runs[1]
    assert runs[0][0] == 0 < runs[0][-1]


def test_a_frame_that_is_not_later_changes_nothing() -> None:
    with Bench("pose.stability") as bench:
        pose = Pose(standing()[None], (400, 400))
        scores = [bench(pose, pts=t).value for t in (0, 40_000_000, 40_000_000, 20_000_000)]
    assert scores[1] == scores[2] == scores[3] > 0
