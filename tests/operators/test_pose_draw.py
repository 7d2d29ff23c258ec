"""The skeleton picture, against the table that pose ControlNets were trained with."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import UsageError
from engine.payload import Pose
from engine.testing import Bench

COLOURS = (
    "ff0000", "ff5500", "ffaa00", "ffff00", "aaff00", "55ff00", "00ff00", "00ff55", "00ffaa",
    "00ffff", "00aaff", "0055ff", "0000ff", "5500ff", "aa00ff", "ff00ff", "ff00aa", "ff0055",
)  # fmt: skip
LIMBS = "2-3 2-6 3-4 4-5 6-7 7-8 2-9 9-10 10-11 2-12 12-13 13-14 2-1 1-15 15-17 1-16 16-18"  # the i-th has the i-th colour
PAIRS = [tuple(int(n) - 1 for n in pair.split("-")) for pair in LIMBS.split()]


def rgb(code: str) -> tuple[int, int, int]:
    return int(code[:2], 16), int(code[2:4], 16), int(code[4:], 16)


def pose(*joints: tuple[int, float, float], size: int = 512, visible: float = 1.0) -> Pose:
    """One person with only these joints: (number, x px, y px)."""
    people = np.zeros((1, 18, 3), np.float32)
    for number, x, y in joints:
        people[0, number] = (x / size, y / size, visible)
    return Pose(people, (size, size))


@pytest.mark.parametrize("limb", range(17))
def test_every_limb_has_its_colour_at_six_tenths_and_its_joints_theirs(limb: int) -> None:
    a, b = PAIRS[limb]
    with Bench("pose.draw") as bench:
        picture = bench(pose((a, 100, 200), (b, 300, 200))).data
    assert tuple(picture[200, 200]) == tuple(int(0.6 * c) for c in rgb(COLOURS[limb]))
    assert tuple(picture[200, 100]) == rgb(COLOURS[a])
    assert tuple(picture[200, 300]) == rgb(COLOURS[b])
    assert picture.dtype == np.uint8
    assert picture.shape == (512, 512, 3)


def test_a_limb_is_an_ellipse_of_half_width_four_and_a_joint_a_disc_of_radius_four() -> None:
    with Bench("pose.draw") as bench:
        picture = bench(pose((1, 100, 200), (2, 300, 200))).data.any(-1)
    drawn = [np.flatnonzero(picture[:, x]) for x in (200, 110, 100)]
    assert (drawn[0].min(), drawn[0].max()) == (196, 204)  # the middle: full width
    assert drawn[1].max() - drawn[1].min() < 8  # near the end: thinner
    assert (drawn[2].min(), drawn[2].max()) == (196, 204)  # the joint
    row = np.flatnonzero(picture[200])
    assert (row.min(), row.max()) == (96, 304)


def test_joints_lie_over_limbs_and_later_limbs_over_earlier_ones() -> None:
    with Bench("pose.draw") as bench:
        picture = bench(pose((1, 100, 100), (2, 300, 300), (5, 300, 300), (0, 200, 200))).data
    assert tuple(picture[200, 200]) == rgb(COLOURS[0])  # the nose lies on both shoulders' limbs
    assert tuple(picture[300, 300]) == rgb(COLOURS[5])
    assert tuple(picture[250, 250]) == tuple(int(0.6 * c) for c in rgb(COLOURS[1]))


@pytest.mark.parametrize(("size", "half"), [(128, 1), (256, 2), (512, 4), (1024, 8)])
def test_lines_grow_with_the_picture(size: int, half: int) -> None:
    with Bench("pose.draw", width=size, height=size) as bench:
        picture = bench(pose((1, 100, 256), (2, 400, 256))).data.any(-1)
    column = np.flatnonzero(picture[:, size // 2])
    assert (column.max() - column.min()) / 2 == half


def test_size_and_place_come_from_the_pose_unless_given() -> None:
    person = pose((3, 256, 128))
    person = Pose(person.people, (480, 640))
    with Bench("pose.draw") as own, Bench("pose.draw", width=64, height=128, fit="stretch") as given:
        here, there = own(person).data, given(person).data
    assert here.shape == (480, 640, 3)
    assert there.shape == (128, 64, 3)
    for picture in (here, there):
        y, x = np.argwhere(picture.any(-1)).mean(0)
        assert (y / picture.shape[0], x / picture.shape[1]) == pytest.approx((0.25, 0.5), abs=0.01)


@pytest.mark.parametrize(("fit", "centre", "apart"), [("cover", (0.5, 0.25), 80.0), ("contain", (0.5, 0.375), 40.0)])
def test_people_keep_their_proportions_in_a_picture_of_another_shape(fit: str, centre: tuple[float, float], apart: float) -> None:
    """From 400 x 200 into 200 x 200: two joints 40 px to either side of the middle, a quarter from the top."""
    people = np.zeros((1, 18, 3), np.float32)
    people[0, 3], people[0, 6] = (0.4, 0.25, 1), (0.6, 0.25, 1)
    with Bench("pose.draw", width=200, height=200, fit=fit) as bench:
        picture = bench(Pose(people, (200, 400))).data
    left, right = (np.argwhere((picture == rgb(COLOURS[n])).all(-1)).mean(0) for n in (3, 6))
    assert ((left + right) / 2 / 200)[::-1] == pytest.approx(centre, abs=0.01)
    assert (right - left)[1] == pytest.approx(apart, abs=1.0)
    assert people[0, 3, 0] == np.float32(0.4)  # what came in is not written to


def test_what_is_hardly_seen_is_left_out_with_its_limbs() -> None:
    people = pose((1, 100, 100), (2, 300, 100)).people
    people[0, 2, 2] = 0.29
    with Bench("pose.draw") as bench:
        picture = bench(Pose(people, (512, 512))).data
        assert tuple(picture[100, 100]) == rgb(COLOURS[1])
        assert not picture[:, 120:].any()
        bench.set(min_visibility=0.2)
        assert bench(Pose(people, (512, 512))).data[100, 300].any()


def test_several_people_nobody_and_the_background() -> None:
    one, other = pose((3, 100, 100)).people, pose((3, 400, 400)).people
    with Bench("pose.draw", background=[10, 20, 30]) as bench:
        two = bench(Pose(np.concatenate([one, other]), (512, 512))).data.copy()
        none = bench(Pose(np.zeros((0, 18, 3), np.float32), (512, 512))).data
    assert tuple(two[100, 100]) == tuple(two[400, 400]) == rgb(COLOURS[3])
    assert tuple(two[0, 0]) == (10, 20, 30)
    assert np.unique(none.reshape(-1, 3), axis=0).tolist() == [[10, 20, 30]]


def test_joints_far_outside_or_undefined_do_no_harm() -> None:
    people = np.full((1, 18, 3), np.nan, np.float32)
    people[0, 1] = (-0.2, 0.5, 1)
    people[0, 2] = (1.2, 0.5, 1)
    people[0, 5] = (1e9, -1e9, 1)
    with Bench("pose.draw") as bench:
        picture = bench(Pose(people, (64, 64))).data
    assert picture[32].any(-1).all()  # the limb crosses the picture
    assert picture[:28].sum() == 0


def test_a_pose_without_a_size_needs_one() -> None:
    with Bench("pose.draw") as bench, pytest.raises(UsageError, match="width and height"):
        bench(Pose(np.zeros((0, 18, 3), np.float32)))
    with pytest.raises(ValueError, match="background"):
        Bench("pose.draw", background=[0, 0, 256])


def test_training_pictures_and_running_pictures_are_drawn_alike() -> None:
    from operators.figure.skeleton import draw_skeleton

    people = np.random.default_rng(0).uniform(0, 1, (2, 18, 3)).astype(np.float32)
    with Bench("pose.draw") as bench:
        assert np.array_equal(bench(Pose(people, (200, 300))).data, draw_skeleton(people, 200, 300))


def test_the_line_width_follows_its_parameter_between_frames() -> None:
    person = pose((1, 100, 200), (2, 300, 200))
    with Bench("pose.draw") as bench:
        usual = bench(person).data.copy()
        bench.set(line=2.0)
        wide = bench(person).data
    heights = [int(np.count_nonzero(p[:, 200].any(-1))) for p in (usual, wide)]
    assert heights[0] in (8, 9)
    assert heights[1] in (16, 17)
