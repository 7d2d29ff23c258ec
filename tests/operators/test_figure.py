"""The figure renderer and `source.figure`: deterministic, and true to what it says of itself."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from engine.errors import UsageError
from engine.testing import Bench
from operators.figure.look import CHOICES, COLOURS, HAIR, SKIN, WORDS, Look, describe, draw_look, fill_gaps
from operators.figure.motion import MOTIONS
from operators.figure.paint import PART
from operators.figure.sequence import draw_scene, render
from operators.figure.skeleton import COLOURS as JOINT_COLOURS
from operators.figure.skeleton import INDEX, JOINTS, LIMBS, draw_skeleton


def test_importing_the_renderer_loads_neither_torch_nor_opencv() -> None:
    code = "import sys, operators.figure.paint, operators.figure.sequence; print([m for m in ('torch', 'cv2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------- the skeleton picture


def person(**joints: tuple[float, float]) -> np.ndarray:
    out = np.zeros((1, 18, 3), np.float32)
    for name, (x, y) in joints.items():
        out[0, INDEX[name]] = (x, y, 1)
    return out


def test_joints_are_full_and_limbs_dimmed_in_the_colours_of_openpose() -> None:
    drawn = draw_skeleton(person(right_shoulder=(0.25, 0.5), right_elbow=(0.75, 0.5)), 512, 512)
    assert tuple(drawn[256, 128]) == (255, 170, 0)
    assert tuple(drawn[256, 384]) == (255, 255, 0)
    assert tuple(drawn[256, 256]) == (153, 102, 0)  # the third limb: the third colour at 0.6
    assert not drawn[256 - 5, 256].any(), "half width is 4 px at 512"
    assert drawn[256 - 3, 256].any()


def test_strokes_scale_with_the_picture_and_the_canvas_is_black() -> None:
    big = draw_skeleton(person(nose=(0.5, 0.5)), 1024, 1024)
    small = draw_skeleton(person(nose=(0.5, 0.5)), 256, 256)
    assert (big.any(-1).sum(), small.any(-1).sum()) == (197, 13)  # discs of radius 8 and 2
    assert not draw_skeleton(np.zeros((0, 18, 3), np.float32), 64, 96).any()


def test_joints_not_seen_or_not_finite_take_their_limbs_with_them() -> None:
    people = person(neck=(0.5, 0.3), right_hip=(0.4, 0.6), right_knee=(0.4, 0.8))
    whole = draw_skeleton(people, 128, 128)
    people[0, INDEX["right_hip"], 2] = 0.2
    assert (draw_skeleton(people, 128, 128).any(-1).sum()) == 2 * 5
    people[0, INDEX["right_hip"]] = (np.nan, 0.5, 1)
    assert (draw_skeleton(people, 128, 128).any(-1).sum()) == 2 * 5
    assert whole.any(-1).sum() > 60


def test_out_is_reused_and_checked() -> None:
    canvas = np.full((64, 64, 3), 9, np.uint8)
    assert draw_skeleton(person(nose=(0.5, 0.5)), 64, 64, out=canvas) is canvas
    assert canvas[0, 0].sum() == 0
    with pytest.raises(ValueError, match="out must be"):
        draw_skeleton(person(), 64, 64, out=np.zeros((32, 64, 3), np.uint8))
    with pytest.raises(ValueError, match=r"\(n, 18, 3\)"):
        draw_skeleton(np.zeros((17, 3)), 64, 64)


def test_every_joint_and_limb_has_its_own_colour() -> None:
    assert len(JOINTS) == len(set(JOINT_COLOURS)) == 18
    assert len(set(LIMBS)) == 17


# ---------------------------------------------------------------- figures


@pytest.mark.parametrize("motion", MOTIONS)
def test_equal_seeds_give_equal_frames_and_time_moves_them(motion: str) -> None:
    one, two = draw_scene(5, motion=motion, steady=True), draw_scene(5, motion=motion, steady=True)
    a, b = render(one, 0.4, 96), render(two, 0.4, 96)
    assert np.array_equal(a.image, b.image)
    assert np.array_equal(a.pose, b.pose)
    assert not np.array_equal(a.image, render(one, 0.9, 96).image)
    assert not np.array_equal(a.image, render(draw_scene(6, motion=motion, steady=True), 0.4, 96).image)


def test_the_pose_lies_on_the_figure() -> None:
    on = total = 0
    for seed in range(30):
        frame = render(draw_scene(seed), 0.3, 128)
        for joint in range(18):
            x, y, seen = frame.pose[joint]
            if seen and joint < 14:  # eyes and ears may stand on the silhouette
                total += 1
                on += bool(frame.mask[int(y * 128), int(x * 128)])
    assert total > 250
    assert on / total > 0.98


def test_the_mask_is_what_differs_from_the_empty_place() -> None:
    from operators.figure.place import backdrop

    scene = draw_scene(3, steady=True, place="studio", style="flat", top_colour="red", bottom_colour="blue")
    frame = render(scene, 0.0, 128)
    outside = np.abs(frame.image.astype(int) - backdrop("studio", scene.look.place_colour, 128, 128)).max(-1)[:90][frame.mask[:90] == 0]
    assert (outside > 40).mean() < 0.02  # nothing but the antialiased edge
    assert (frame.mask > 0).mean() > 0.05


def nearest(colour: np.ndarray, palette: dict[str, tuple[int, int, int]]) -> str:
    return min(palette, key=lambda name: float(np.abs(np.array(palette[name]) - colour).sum()))


@pytest.mark.parametrize("style", CHOICES["style"])
def test_the_words_of_the_caption_are_the_colours_of_the_picture(style: str) -> None:
    for n, colour in enumerate(COLOURS):
        other = tuple(COLOURS)[(n + 5) % len(COLOURS)]
        hair = tuple(HAIR)[n % len(HAIR)]
        look = Look(top_colour=colour, bottom_colour=other, hair_colour=hair, style=style, place="studio", skin="tan")
        scene = draw_scene(n, motion="idle", look=look, steady=True)
        frame = render(scene, 0.0, 192)
        assert f"{colour} shirt" in frame.caption
        assert f"{other} trousers" in frame.caption
        assert f"{hair} hair" in frame.caption
        assert nearest(np.median(frame.image[frame.parts == PART["top"]], axis=0), COLOURS) == colour
        assert nearest(np.median(frame.image[frame.parts == PART["bottom"]], axis=0), COLOURS) == other
        assert nearest(np.median(frame.image[frame.parts == PART["hair"]], axis=0), HAIR) == hair
        assert nearest(np.median(frame.image[frame.parts == PART["face"]], axis=0), SKIN) == "tan"


def test_attributes_can_be_fixed_and_wrong_ones_are_refused() -> None:
    assert draw_scene(1, top_colour="teal", place="beach").look.top_colour == "teal"
    with pytest.raises(ValueError, match="no attribute 'shirt'"):
        draw_scene(1, shirt="red")
    with pytest.raises(ValueError, match="one of red"):
        draw_scene(1, top_colour="mauve")
    with pytest.raises(ValueError, match="motion must be one of"):
        draw_scene(1, motion="fly")


# ---------------------------------------------------------------- captions


def test_a_caption_says_what_it_fixes_and_no_more() -> None:
    rng = np.random.default_rng(0)
    silent = 0
    for _ in range(300):
        look = draw_look(rng)
        said = describe(look, rng, drop=0.5, shuffle=True)
        words = said.text.replace(",", " ").split()
        for name, slot in (("top_colour", "top"), ("bottom_colour", "bottom"), ("hair_colour", "hair")):
            told = name in said.fixed
            silent += not told
            assert told == (slot in {s for _, s in said.nouns})
            if told:
                assert set(words) & set(WORDS.get(getattr(look, name), (getattr(look, name),)))
        assert all(noun in words for noun, _ in said.nouns)
    assert silent > 200


def test_gaps_are_filled_without_touching_what_was_said() -> None:
    rng = np.random.default_rng(1)
    look = Look(hair_colour="green", bottom_colour="pink", place="night", skin="dark")
    filled = [fill_gaps(look, frozenset({"hair_colour", "place"}), rng) for _ in range(40)]
    assert {f.hair_colour for f in filled} == {"green"}
    assert {f.place for f in filled} == {"night"}
    assert {f.bottom_colour for f in filled} == {"pink", "black"}


# ---------------------------------------------------------------- the operator


def test_the_source_yields_picture_pose_caption_and_mask() -> None:
    with Bench("source.figure", size=64, frames=5, seed=3, top_colour="red") as bench:
        stamped = list(bench())
        frames = [s.value for s in stamped]
        assert [s.pts for s in stamped] == [round(n * 1e9 / 24) for n in range(5)]
        assert bench.site.stream is not None
        assert (bench.site.stream.frames, bench.site.stream.size) == (5, (64, 64))
    scene = draw_scene(3, motion="dance", steady=True, kind="person", top_colour="red")
    truth = render(scene, 2 / 24, 64)
    assert np.array_equal(frames[2].pose.people[0], truth.pose)
    assert np.array_equal(frames[2].mask.data, truth.mask)
    assert "red shirt" in frames[0].caption.text or "red jacket" in frames[0].caption.text
    assert frames[2].image.data.shape == (64, 64, 3)


def test_the_source_is_wide_when_asked_and_refuses_odd_sizes() -> None:
    with Bench("source.figure", size=64, width=112, frames=1) as bench:
        frame = next(iter(bench())).value
        assert frame.image.data.shape == (64, 112, 3)
        x, y, _ = frame.pose.people[0, INDEX["neck"]]
        assert frame.mask.data[int(y * 64), int(x * 112)] == 255
    with pytest.raises(UsageError, match="multiple of 8"), Bench("source.figure", size=66):
        pass
