"""`pose.onnx` on tiny networks in the real formats, whose answers are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="pose.onnx needs onnxruntime")
pytest.importorskip("onnx", reason="the test networks are built with onnx")
import pose_networks as nets

from engine.errors import MediaError, MissingError, UsageError
from engine.payload import Image
from engine.testing import Bench
from operators.pose import simcc
from operators.pose.joints import FROM_COCO

HEIGHT, WIDTH = 240, 320
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


def blobs(*places: tuple[float, float], background: int = 60, size: int = 14) -> Image:
    """Grey, with a red, a green and a blue cone of light of that radius at `places` (x, y px)."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    picture = np.full((HEIGHT, WIDTH, 3), background, np.float32)
    for colour, (at_x, at_y) in zip(COLOURS, places, strict=False):
        share = np.clip(1 - np.hypot(x - at_x, y - at_y) / size, 0, 1)[..., None]
        picture = share * np.array(colour) + (1 - share) * picture
    return Image(picture.astype(np.uint8))


def expected(places: list[tuple[float, float]], scale: float) -> np.ndarray[Any, Any]:
    """Where the network puts the OpenPose joints: its colour's place plus its shift, in px; the neck between the shoulders."""
    coco = [np.array(places[nets.COLOUR_OF[k]]) + nets.SHIFT_OF[k] * scale for k in range(17)]
    coco.append((coco[5] + coco[6]) / 2)
    return np.array([coco[17 if source is None else source] for source in FROM_COCO])


def pixels(pose: Any) -> np.ndarray[Any, Any]:
    return pose.people[..., :2] * [pose.size[1], pose.size[0]]


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("joints", [17, 133])
def test_joints_land_where_the_network_sees_them(tmp_path: Path, joints: int, dynamic: bool) -> None:
    path = nets.simcc_network(tmp_path / "pose.onnx", joints=joints, dynamic=dynamic)
    places = [(120.0, 80.0), (200.0, 100.0), (160.0, 180.0)]
    with Bench("pose.onnx", model=str(path), width=48, height=64, smoothing=0.0, min_presence=0.01) as bench:
        pose = bench(blobs(*places)).pose
    window = simcc.windows(np.array([[0, 0, WIDTH, HEIGHT]]), 48, 64)[0]
    scale = window[2] / 48
    assert pose.people.shape == (1, 18, 3)
    assert np.abs(pixels(pose)[0] - expected(places, scale)).max() <= 1.5 * scale
    assert 0 < pose.people[..., 2].min() <= pose.people[..., 2].max() <= 1


def test_outputs_may_come_in_either_order(tmp_path: Path) -> None:
    places = [(120.0, 80.0), (200.0, 100.0), (160.0, 180.0)]
    found = []
    for names in (("simcc_x", "simcc_y"), ("a_x", "a_y")):
        path = nets.simcc_network(tmp_path / f"{names[0]}.onnx", names=names)
        with Bench("pose.onnx", model=str(path), width=48, height=64, smoothing=0.0, min_presence=0.01) as bench:
            found.append(bench(blobs(*places)).pose.people)
    assert np.array_equal(*found)


def test_without_a_detector_the_window_closes_in_and_follows(tmp_path: Path) -> None:
    """The first frame looks at everything; the next ones where the person was, so that the joints get finer."""
    path = nets.simcc_network(tmp_path / "pose.onnx")
    anchors = [k for k in range(17) if nets.SHIFT_OF[k] == 0]  # these do not depend on how large the window is
    where = [FROM_COCO.index(k) for k in anchors if k in FROM_COCO]
    with Bench("pose.onnx", model=str(path), width=48, height=64, smoothing=0.0) as bench:
        off = []
        for step in range(10):
            places = [(100.0 + 4 * step, 90.0), (130.0 + 4 * step, 100.0), (112.0 + 4 * step, 130.0)]
            pose = bench(blobs(*places, size=10)).pose
            assert len(pose.people) == 1
            truth = np.array([places[nets.COLOUR_OF[FROM_COCO[j] or 0]] for j in where])
            off.append(float(np.abs(pixels(pose)[0, where] - truth).max()))
    assert max(off[3:]) < 0.75 * off[0]
    assert max(off[3:]) < 6


def test_a_detector_finds_two_people(tmp_path: Path) -> None:
    pose_path = nets.simcc_network(tmp_path / "pose.onnx")
    scale = 64 / WIDTH  # letterbox of the 64 px detector
    boxes = np.array([[40, 60, 120, 200], [200, 40, 280, 180], [205, 42, 282, 183]]) * scale
    found = np.concatenate([boxes, [[0.9], [0.8], [0.7]]], 1)[None]
    detector = nets.fixed_detector(tmp_path / "yolox.onnx", found, np.array([[0, 0, 0]]))
    picture = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    places = [[(60, 100), (100, 110), (80, 160)], [(220, 80), (260, 90), (240, 150)]]
    for person in places:
        for colour, (x, y) in zip(COLOURS, person, strict=True):
            picture[y - 5 : y + 5, x - 5 : x + 5] = colour
    with Bench(
        "pose.onnx", model=str(pose_path), detector=str(detector), num_people=5, width=48, height=64, smoothing=0.0, min_presence=0.01
    ) as bench:
        pose = bench(Image(picture)).pose
    assert len(pose.people) == 2
    for person, where in zip(pixels(pose), places, strict=True):
        window = 1.25 * 140 / 64
        assert np.abs(person - expected(where, window)).max() <= 2 * window


def test_what_is_no_person_or_unsure_is_left_out(tmp_path: Path) -> None:
    pose_path = nets.simcc_network(tmp_path / "pose.onnx")
    found = np.array([[[5, 5, 20, 40, 0.9], [30, 5, 50, 40, 0.2]]])
    detector = nets.fixed_detector(tmp_path / "yolox.onnx", found, np.array([[3, 0]]))
    with Bench("pose.onnx", model=str(pose_path), detector=str(detector), width=48, height=64) as bench:
        assert bench(blobs((50, 50), (60, 60), (70, 70))).pose.people.shape == (0, 18, 3)


def test_raw_yolox_output_is_decoded_and_reads_bgr(tmp_path: Path) -> None:
    """A network that sees blue in its first channel: grid, strides, exponent and letterbox must all fit for the box to surround the square."""
    from operators.pose.networks import Detector

    path = nets.looking_detector(tmp_path / "yolox.onnx", channel=0)
    picture = np.full((128, 256, 3), 0, np.uint8)
    picture[64:96, 128:160] = (0, 0, 255)  # blue fills exactly one cell of stride 8 at scale 1/4
    boxes = Detector(path, "cpu", 1).find(picture, sure=0.5, limit=5)
    assert boxes.shape == (1, 4)
    assert np.allclose(boxes[0], [144 - 48, 80 - 48, 144 + 48, 80 + 48], atol=0.1)


def test_crop_and_place_undo_each_other() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        box = np.sort(rng.uniform(0, 200, (2, 2)), 0).reshape(1, 4)
        window = simcc.windows(box, 192, 256)
        assert window[0, 2] / window[0, 3] == pytest.approx(192 / 256)
        inside = rng.uniform(0, 1, (1, 5, 2)) * window[0, 2:] + window[0, :2] - window[0, 2:] / 2
        crop = (inside - window[0, :2] + window[0, 2:] / 2) / window[0, 2:] * [192, 256]
        back = simcc.place(np.concatenate([crop, np.ones((1, 5, 1))], -1), window, 192, 256)
        assert np.allclose(back[..., :2], inside, atol=1e-3)


def test_a_crop_holds_what_its_window_holds() -> None:
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[40:60, 30:50] = (255, 128, 0)
    out = simcc.crop(picture, np.array([40, 50, 40, 40]), 80, 80)
    # ImageNet's means and deviations, in RGB order, as RTMPose was trained with.
    colour = out[:, 40, 40] * [58.395, 57.12, 57.375] + [123.675, 116.28, 103.53]
    assert np.allclose(colour, (255, 128, 0), atol=0.5)
    bright = out[0] > 0
    assert np.abs(np.argwhere(bright).mean(0) - 39.5).max() < 1.0
    assert 38**2 <= bright.sum() <= 42**2


def test_a_joint_is_as_sure_as_its_less_sure_peak() -> None:
    x, y = np.zeros((1, 2, 96), np.float32), np.zeros((1, 2, 128), np.float32)
    x[0, 0, 21], y[0, 0, 50] = 0.9, 0.4
    x[0, 1], y[0, 1] = -1, -1
    joints = simcc.decode(x, y, 48, 64)
    assert joints[0, 0].tolist() == pytest.approx([10.5, 25.0, 0.4])
    assert joints[0, 1, 2] == 0


def test_a_raw_box_is_as_sure_as_object_and_class_together() -> None:
    raw = np.zeros((8 * 8 + 4 * 4 + 2 * 2, 7), np.float32)
    raw[0, 4:] = 0.5, 0.6, 0.9
    boxes, scores = simcc.decode_grid(raw, 64, 64)
    assert scores[0] == pytest.approx(0.3)
    assert boxes[0].tolist() == [-4, -4, 4, 4]
    assert boxes[-1].tolist() == [32 - 16, 32 - 16, 32 + 16, 32 + 16]


def test_an_empty_picture_holds_nobody(tmp_path: Path) -> None:
    with Bench("pose.onnx", model=str(nets.simcc_network(tmp_path / "pose.onnx")), width=48, height=64) as bench:
        result = bench(Image(np.full((HEIGHT, WIDTH, 3), 90, np.uint8)))
    assert result.pose.people.shape == (0, 18, 3)
    assert result.stability.value == 0


def test_suppression_keeps_the_best_of_a_heap() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30], [0, 0, 10, 4]], np.float32)
    assert simcc.suppress(boxes, np.array([0.5, 0.9, 0.7, 0.6])).tolist() == [1, 2, 3]


def test_reset_forgets_where_people_were(tmp_path: Path) -> None:
    path = nets.simcc_network(tmp_path / "pose.onnx")
    places = ((120.0, 80.0), (200.0, 100.0), (160.0, 180.0))
    with Bench("pose.onnx", model=str(path), width=48, height=64, min_presence=0.01) as bench:
        first = bench(blobs(*places)).pose.people
        second = bench(blobs(*places)).pose.people
        bench.new_epoch()
        again = bench(blobs(*places)).pose.people
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)


def test_wrong_files_are_refused_by_name(tmp_path: Path) -> None:
    detector = nets.fixed_detector(tmp_path / "yolox.onnx", np.zeros((1, 1, 5)))
    with pytest.raises(UsageError, match="no SimCC pose network"), Bench("pose.onnx", model=str(detector)):
        pass
    other = nets.simcc_network(tmp_path / "hand.onnx", joints=21)
    with Bench("pose.onnx", model=str(other), width=48, height=64) as bench, pytest.raises(UsageError, match="21 joints"):
        bench(blobs((10, 10)))
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with pytest.raises(MediaError, match="no ONNX network"), Bench("pose.onnx", model=str(tmp_path / "broken.onnx")):
        pass
    with pytest.raises(MissingError, match="nowhere"), Bench("pose.onnx", model=str(tmp_path / "nowhere.onnx")):
        pass


def test_auto_takes_the_network_where_mediapipe_has_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFTERIMAGE_HOME", str(tmp_path / "empty"))
    path = nets.simcc_network(tmp_path / "pose.onnx", dynamic=False)
    with Bench("pose.detect", onnx=str(path)) as bench:
        assert bench(blobs((120, 80), (200, 100), (160, 180))).pose.size == (HEIGHT, WIDTH)
        bench.set(smoothing=0.0)
    assert [facts["backend"] for what, facts in bench.events if what == "pose_backend"] == ["onnx"]
    with pytest.raises(MissingError, match="engine models pull pose"), Bench("pose.detect"):
        pass
