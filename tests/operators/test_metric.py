"""The meters, each against a case worked out by hand, and against what it must not see."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from engine.errors import UsageError
from engine.payload import Data, Image, Latent, Mask, Pose, Scalar, Text
from engine.testing import Bench, conform
from operators.metric.flow import Flow
from operators.metric.lab import delta_e, to_lab
from operators.metric.regions import regions

RNG = np.random.default_rng(5)


def texture(height: int = 96, width: int = 128, seed: int = 3) -> np.ndarray:
    """Soft noise that a motion search can hold on to."""
    import cv2

    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)


# ---------------------------------------------------------------- colour

# Sharma, Wu and Dalal (2005), table 1: pairs of L*a*b* and their difference.
PAIRS = [
    ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
    ((50.0, -1.3802, -84.2814), (50.0, 0.0, -82.7485), 1.0000),
    ((50.0, 0.0, 0.0), (50.0, -1.0, 2.0), 2.3669),
    ((50.0, 2.4900, -0.0010), (50.0, -2.4900, 0.0009), 7.1792),
    ((50.0, 2.4900, -0.0010), (50.0, -2.4900, 0.0011), 7.2195),
    ((50.0, -0.0010, 2.4900), (50.0, 0.0011, -2.4900), 4.7461),
    ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
    ((50.0, 2.5, 0.0), (50.0, 3.2592, 0.3350), 1.0000),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
    ((90.8027, -2.0831, 1.4410), (91.1528, -1.6435, 0.0447), 1.4441),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
]


@pytest.mark.parametrize(("one", "two", "difference"), PAIRS)
def test_the_published_colour_differences(one: tuple[float, ...], two: tuple[float, ...], difference: float) -> None:
    assert float(delta_e(np.array(one), np.array(two))) == pytest.approx(difference, abs=1e-4)
    assert float(delta_e(np.array(two), np.array(one))) == pytest.approx(difference, abs=1e-4)


def test_known_colours_in_lab() -> None:
    found = to_lab(np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8))
    assert found == pytest.approx(np.array([[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86]]), abs=0.05)


# ---------------------------------------------------------------- flicker


def flicker(*frames: np.ndarray, references: list[np.ndarray] | None = None, masks: list[np.ndarray] | None = None) -> list[float]:
    with Bench("metric.flicker") as bench:
        return [
            bench(Image(f), Image(references[i]) if references else None, Mask(masks[i]) if masks else None).value for i, f in enumerate(frames)
        ]


def test_flicker_is_the_mean_change() -> None:
    grey = np.full((8, 8, 3), 100, np.uint8)
    half = grey.copy()
    half[:4] += 10
    assert flicker(grey, grey, half, grey) == [0.0, 0.0, 5.0, 5.0]
    dark = np.full((8, 8, 3), 250, np.uint8)
    assert flicker(dark, np.full((8, 8, 3), 5, np.uint8))[1] == 245  # no wrapping round


def test_flicker_leaves_out_what_moves() -> None:
    """The upper half changes, and so does the picture it was painted from: only the lower half counts."""
    grey = np.full((8, 8, 3), 100, np.uint8)
    changed, source = grey.copy(), grey.copy()
    changed[:4] += 50
    changed[4:] += 3
    source[:4] += 50
    assert flicker(grey, changed, references=[grey, source])[1] == 3.0
    assert flicker(grey, changed, references=[grey, grey])[1] == 26.5
    mask = np.zeros((16, 16), np.uint8)
    mask[:8] = 255
    assert flicker(grey, changed, masks=[mask, mask])[1] == 50.0
    assert flicker(grey, changed, masks=[mask, np.zeros((16, 16), np.uint8)])[1] == 0.0


def test_an_epoch_starts_afresh() -> None:
    grey, white = np.full((8, 8, 3), 100, np.uint8), np.full((8, 8, 3), 255, np.uint8)
    with Bench("metric.flicker") as bench:
        bench(Image(grey))
        bench.operator.reset()
        assert bench(Image(white)).value == 0.0


# ---------------------------------------------------------------- motion


def test_flow_finds_where_pixels_were() -> None:
    old = texture()
    new = np.roll(old, (2, 5), (0, 1))
    was, trusted = Flow()(old, new)
    inner = np.s_[16:-16, 16:-16]
    there = np.stack(np.meshgrid(np.arange(128), np.arange(96)), -1)
    away = (there - was)[inner][trusted[inner]]
    assert np.median(away, axis=0) == pytest.approx([5, 2], abs=0.3)
    assert trusted[inner].mean() > 0.8


def warp_error(*frames: np.ndarray, references: list[np.ndarray] | None = None) -> list[float]:
    with Bench("metric.warp_error") as bench:
        return [bench(Image(f), Image(references[i]) if references else None).error.value for i, f in enumerate(frames)]


def test_what_only_moves_is_no_error_and_what_flickers_is() -> None:
    """The same movement twice: once pure, once with every second frame brighter by 40 of 255."""
    moving = [np.roll(texture(), 3 * i, 1) for i in range(6)]
    lit = [np.clip(f.astype(int) + 40 * (i % 2), 0, 255).astype(np.uint8) for i, f in enumerate(moving)]
    pure, flickering = warp_error(*moving)[1:], warp_error(*lit, references=moving)[1:]
    still = float(((moving[1].astype(float) - moving[0]) ** 2).mean() / 255**2)
    assert max(pure) < 0.1 * still  # without following the motion it would be this
    assert np.mean(flickering) == pytest.approx((40 / 255) ** 2, rel=0.2)


def test_the_share_that_was_seen_is_told() -> None:
    with Bench("metric.warp_error") as bench:
        assert bench(Image(texture())).seen.value == 0.0
        assert bench(Image(texture())).seen.value > 0.95
        assert bench(Image(texture(seed=99))).seen.value < 0.6  # another picture altogether


# ---------------------------------------------------------------- drift


def test_drift_is_nothing_while_nothing_changes() -> None:
    picture = texture()
    with Bench("metric.drift", anchor=3) as bench:
        rows = [bench(Image(picture)) for _ in range(6)]
    assert [r.color.value for r in rows[:3]] == [0, 0, 0]
    assert rows[-1].color.value == pytest.approx(0, abs=1e-3)
    assert (rows[-1].contrast.value, rows[-1].detail.value) == pytest.approx((1, 1), abs=1e-4)


def test_drift_names_what_went() -> None:
    import cv2

    picture = texture()
    red = np.clip(picture.astype(int) + np.array([40, 0, 0]), 0, 255).astype(np.uint8)
    soft = cv2.GaussianBlur(picture, (0, 0), 3)
    flat = (128 + 0.5 * (picture.astype(float) - 128)).astype(np.uint8)
    with Bench("metric.drift", anchor=1) as bench:
        bench(Image(picture))
        to_red, softer, flatter = (bench(Image(p)) for p in (red, soft, flat))
    assert to_red.color.value > 8 > 3 > softer.color.value
    assert softer.detail.value < 0.5
    assert flatter.contrast.value == pytest.approx(0.5, abs=0.1)


# ---------------------------------------------------------------- identity


def figure() -> tuple[np.ndarray, np.ndarray]:
    """A picture of the synthetic figure with its pose."""
    from operators.figure.sequence import draw_scene, render

    scene = draw_scene(71_000, motion="idle", steady=True, kind="person", place="plain", place_colour="gray", top_colour="red", hat="none")
    frame = render(scene, 0.0, 256)
    return frame.image, frame.pose


def test_regions_lie_on_what_they_name() -> None:
    """On a rendered figure whose parts are known: most of each region's pixels are of its part."""
    from operators.figure.paint import PART
    from operators.figure.sequence import draw_scene, render

    hits: dict[str, list[float]] = {"face": [], "hair": [], "top": [], "legs": []}
    wanted = {"face": ("face", "skin", "detail"), "hair": ("hair",), "top": ("top", "detail"), "legs": ("bottom", "skin")}
    for seed in range(71_000, 71_012):
        scene = draw_scene(seed, motion="idle", steady=True, kind="person", hat="none")
        frame = render(scene, 0.0, 256)
        for name, mask in regions(frame.pose, 256, 256).items():
            hits[name].append(float(np.isin(frame.parts[mask], [PART[p] for p in wanted[name]]).mean()))
    assert {name: np.median(share) > 0.5 for name, share in hits.items()} == dict.fromkeys(hits, True), hits


def test_identity_sees_the_change_and_where_it_is() -> None:
    picture, pose = figure()
    masks = regions(pose, 256, 256)
    green = picture.copy()
    green[masks["top"]] = (20, 160, 60)
    with Bench("metric.identity", anchor=2) as bench:
        same = [bench(Image(picture), Pose(pose[None], (256, 256))) for _ in range(4)][-1]
        other = bench(Image(green), Pose(pose[None], (256, 256)))
        nobody = bench(Image(green), Pose(np.zeros((0, 18, 3), np.float32), (256, 256)))
    assert same.worst.value == pytest.approx(0, abs=1e-3)
    assert other.parts.values["top"] > 40
    assert other.parts.values["legs"] < 1
    assert other.worst.value == other.parts.values["top"]
    assert (nobody.worst.value, nobody.parts.values) == (0.0, {})


# ---------------------------------------------------------------- the table


def test_a_table_of_numbers(tmp_path: Path) -> None:
    path = tmp_path / "numbers.csv"
    with Bench("sink.table", fps=10.0, url=str(path), columns=["score", "who", "all"]) as bench:
        bench([Scalar(0.5), Text("a, b"), Data({"x": 1, "y": "q", "list": [1]})])
        bench([Scalar(1.5), Text("c"), Data({"y": "r", "late": 3})])
        assert bench.outputs == [str(path)]
    rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    assert rows[0] == ["seq", "pts_s", "epoch", "score", "who", "all.x", "all.y"]
    assert rows[1] == ["0", "0.000000", "0", "0.5", "a, b", "1", "q"]
    assert rows[2] == ["1", "0.100000", "0", "1.5", "c", "", "r"]


def test_a_table_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    with Bench("sink.table", url=str(tmp_path / "a.csv"), columns=["one"]) as bench:
        with pytest.raises(UsageError, match="1 columns for 2 values"):
            bench([Scalar(1), Scalar(2)])
        with pytest.raises(UsageError, match="found Latent"):
            bench([Latent(np.zeros((1, 4, 2, 2)))])
    with pytest.raises(UsageError, match="txt"), Bench("sink.table", url=str(tmp_path / "a.txt"), columns=["one"]):
        pass


def test_the_table_is_a_proper_operator(tmp_path: Path) -> None:
    count = iter(range(1000))
    conform("sink.table", ports={"values": [Scalar(1.0)]}, url=lambda: str(tmp_path / f"out{next(count)}.csv"), columns=["a"])
