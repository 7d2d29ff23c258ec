"""`pose.mediapipe` on a real clip and on the landmarker itself; skipped where the model or the clip is not there."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import MediaError, MissingError, ReplayError
from engine.payload import Image
from engine.testing import Bench
from operators.models import find
from operators.pose.joints import FROM_COCO, FROM_MEDIAPIPE, to_openpose
from operators.pose.quiet import quiet

CLIP = Path(__file__).resolve().parents[2].parent / "shared" / "clips" / "juggle.mp4"
NOSE, NECK, R_SHOULDER, R_WRIST, L_SHOULDER, L_WRIST, R_HIP, R_ANKLE, L_HIP, L_ANKLE = 0, 1, 2, 4, 5, 7, 8, 10, 11, 13


@pytest.fixture
def model() -> None:
    pytest.importorskip("mediapipe", reason="pose.mediapipe needs mediapipe")
    try:
        find("pose")
    except MissingError as error:
        pytest.skip(f"the pose model is not here: {error.fix}")


@cache
def frames() -> list[tuple[np.ndarray[Any, Any], int]]:
    """The first 16 frames of the clip, half size, with their times (ns)."""
    if not CLIP.is_file():
        pytest.skip("the clip of a real person is not here")
    import av

    out = []
    with av.open(str(CLIP)) as container:
        for frame in container.decode(video=0):
            picture = frame.reformat(width=frame.width // 2, height=frame.height // 2, format="rgb24").to_ndarray()
            picture.flags.writeable = False
            out.append((picture, round(frame.time * 1e9)))
            if len(out) == 16:
                return out
    return out


def run(bench: Bench, clip: list[tuple[np.ndarray[Any, Any], int]], shift: int = 0) -> list[Any]:
    return [bench(Image(picture), pts=when + shift) for picture, when in clip]


@pytest.mark.usefixtures("model")
def test_a_real_person_is_found_upright_and_the_right_way_round(capfd: pytest.CaptureFixture[str]) -> None:
    clip = frames()
    with Bench("pose.mediapipe") as bench:
        results = run(bench, clip)
    people = np.array([r.pose.people for r in results])
    assert people.shape == (len(clip), 1, 18, 3)
    assert people.dtype == np.float32
    x, y, seen = (people[:, 0, :, i] for i in range(3))
    assert (y[:, NOSE] < y[:, NECK]).all()
    assert (y[:, NECK] < y[:, R_HIP]).all()
    assert (y[:, R_HIP] < y[:, R_ANKLE]).all()
    # He faces the camera: his right is on the left of the picture.
    for right, left in ((R_SHOULDER, L_SHOULDER), (R_HIP, L_HIP), (R_ANKLE, L_ANKLE)):
        assert (x[:, right] < x[:, left]).all()
    assert seen[:, [NECK, R_SHOULDER, L_SHOULDER, R_HIP, L_HIP]].min() > 0.9
    assert results[0].pose.size == clip[0][0].shape[:2]
    scores = [r.stability.value for r in results]
    assert scores[0] == 0
    assert 0.4 < scores[-1] < 1
    assert results[-1].pose.stability == scores[-1]
    noise = capfd.readouterr().err
    assert "XNNPACK" not in noise
    assert "W0000" not in noise


@pytest.mark.usefixtures("model")
def test_the_same_clip_gives_the_same_poses_also_after_a_reset_and_on_a_clock_that_starts_anew() -> None:
    clip = frames()[:6]
    with Bench("pose.mediapipe") as bench:
        first = run(bench, clip)
        bench.new_epoch()
        again = run(bench, clip)
        bench.new_epoch()
        later = run(bench, clip, shift=3_600_000_000_000)
        bench.new_epoch()
        earlier = run(bench, clip, shift=-10_000_000_000)
    for other in (again, later, earlier):
        for a, b in zip(first, other, strict=True):
            assert a.pose.people[..., :2] == pytest.approx(b.pose.people[..., :2], abs=1e-5)
            # The landmarker averages visibility over some ten frames, and nothing but a new landmarker forgets that.
            assert a.pose.people[..., 2] == pytest.approx(b.pose.people[..., 2], abs=0.03)
            assert a.stability.value == pytest.approx(b.stability.value, abs=0.02)


@pytest.mark.usefixtures("model")
def test_times_that_stand_still_or_run_back_do_no_harm() -> None:
    picture = frames()[0][0]
    with Bench("pose.mediapipe") as bench:
        for ms in (100, 100, 50, 0, 100.4, 100.6):
            assert len(bench(Image(picture), pts=round(ms * 1e6)).pose.people) == 1


@pytest.mark.usefixtures("model")
def test_somebody_who_leaves_is_held_then_fades_then_is_gone() -> None:
    clip = frames()[:8]
    empty = Image(np.zeros_like(clip[0][0]))
    end = clip[-1][1]
    with Bench("pose.mediapipe", hold_ms=100.0, fade_ms=200.0) as bench:
        last = run(bench, clip)[-1]
        after = [bench(empty, pts=end + ms * 1_000_000) for ms in (40, 100, 200, 280, 320)]
    assert [len(r.pose.people) for r in after] == [1, 1, 1, 1, 0]
    for r in after[:4]:
        assert r.pose.people[..., :2] == pytest.approx(last.pose.people[..., :2])
    share = [float(r.pose.people[0, NECK, 2] / last.pose.people[0, NECK, 2]) for r in after[:4]]
    assert share == pytest.approx([1, 1, 0.5, 0.1], abs=1e-3)
    scores = [last.stability.value, *(r.stability.value for r in after)]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.usefixtures("model")
def test_two_people_keep_their_places() -> None:
    """The clip beside itself: two of him."""
    clip = frames()[:6]
    twice = []
    for picture, when in clip:
        third = picture.shape[1] // 3  # he stands in the middle third
        him = picture[:, third : 2 * third]
        twice.append((np.concatenate([him, him], 1), when))
    with Bench("pose.mediapipe", num_people=2) as bench:
        results = run(bench, twice)
    both = [r.pose.people for r in results if len(r.pose.people) == 2]
    assert len(both) >= 4
    order = [p[0, NECK, 0] < p[1, NECK, 0] for p in both]
    assert len(set(order)) == 1
    gap = np.array([np.abs(p[0, :, 0] - p[1, :, 0])[[R_SHOULDER, L_SHOULDER, R_HIP, L_HIP]] for p in both])
    assert gap == pytest.approx(0.5, abs=0.04)


@pytest.mark.usefixtures("model")
def test_a_drawn_dancer_is_found_where_she_was_drawn() -> None:
    """A rendered figure has a known pose: most joints must lie within a few hundredths of the picture."""
    from operators.figure.sequence import draw_scene, render

    off = []
    with Bench("pose.mediapipe", smoothing=0.0) as bench:
        for seed in (1, 3, 5, 9):
            frame = render(draw_scene(seed, steady=True, kind="person", style="soft"), 0.2, 256)
            bench.new_epoch()
            for person in bench(Image(frame.image)).pose.people:
                off.append(float(np.median(np.hypot(*(person[:, :2] - frame.pose[:, :2]).T))))
    assert len(off) >= 3
    assert np.median(off) < 0.03


@pytest.mark.usefixtures("model")
def test_smoothing_is_live_and_calms() -> None:
    clip = frames()[:10]
    with Bench("pose.mediapipe", smoothing=0.0) as raw, Bench("pose.mediapipe", smoothing=0.9) as calm:
        shake = [np.abs(np.diff([r.pose.people[0, :, :2] for r in run(b, clip)], 2, axis=0)).mean() for b in (raw, calm)]
        raw.set(smoothing=0.9)
        assert raw.operator.smoothing == 0.9
    assert shake[1] < 0.7 * shake[0]


@pytest.mark.usefixtures("model")
def test_odd_sizes_work_and_a_broken_model_says_so(tmp_path: Path) -> None:
    with Bench("pose.mediapipe") as bench:
        for shape in ((1, 1, 3), (7, 501, 3), (481, 33, 3)):
            assert bench(Image(np.zeros(shape, np.uint8))).pose.size == shape[:2]
    (tmp_path / "broken.task").write_bytes(b"nothing")
    with pytest.raises(MediaError, match="no pose landmarker"), Bench("pose.mediapipe", model=str(tmp_path / "broken.task")):
        pass


def test_a_missing_model_names_the_paths_and_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFTERIMAGE_HOME", str(tmp_path))
    for variant, command in (("full", "engine models pull pose"), ("heavy", "engine models pull pose-heavy")):
        with pytest.raises(MissingError, match=command) as caught, Bench("pose.mediapipe", model=variant):
            pass
        assert str(tmp_path) in str(caught.value)
        assert caught.value.exit_code == 3


# ---------------------------------------------------------------- quiet


def test_remarks_are_left_out_and_errors_are_not(capfd: pytest.CaptureFixture[str]) -> None:
    """Written below Python, as a native library writes."""
    with quiet():
        os.write(2, b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n\nE0000 something is really wrong\n")
        with quiet():  # in another lane, say
            os.write(2, b"inside\n")
    os.write(2, b"Created TensorFlow Lite XNNPACK delegate afterwards\n")
    assert capfd.readouterr().err.splitlines() == [
        "E0000 something is really wrong", "inside", "Created TensorFlow Lite XNNPACK delegate afterwards",
    ]  # fmt: skip


def test_an_error_inside_does_not_lose_the_stream(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), quiet():
        raise ZeroDivisionError(os.write(2, b"before\n"))
    os.write(2, b"after\n")
    assert capfd.readouterr().err.splitlines() == ["before", "after"]


# ---------------------------------------------------------------- joints


def test_right_stays_right() -> None:
    """MediaPipe's own numbers: 11 left shoulder, 12 right; 15/16 wrists; 23/24 hips; 27/28 ankles; 2/5 eyes; 7/8 ears."""
    points = np.zeros((1, 33, 3), np.float32)
    points[0, :, 0] = np.arange(33)
    points[0, :, 2] = 1
    points[0, 12, 2] = 0.25
    out = to_openpose(points, FROM_MEDIAPIPE)[0]
    assert out[:, 0].tolist() == [0, 11.5, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7]
    assert out[NECK, 2] == 0.25


def test_coco_s_numbers() -> None:
    points = np.zeros((2, 17, 3), np.float32)
    points[:, :, 0] = np.arange(17)
    assert to_openpose(points, FROM_COCO)[1, :, 0].tolist() == [0, 5.5, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3]


@settings(deadline=None, max_examples=6)
@given(st.integers(0, 5))
def test_any_number_of_people(n: int) -> None:
    assert to_openpose(np.zeros((n, 33, 3)), FROM_MEDIAPIPE).shape == (n, 18, 3)


@pytest.mark.usefixtures("model")
def test_a_replay_that_would_begin_in_its_middle_is_refused_with_the_node_and_the_reason(tmp_path: Path) -> None:
    from engine.graph import GraphBuilder
    from engine.planning.compile import compile
    from engine.session import Session
    from recorder.recorder import Recorder
    from recorder.replay import Wish, replay
    from recorder.tape import read

    g = GraphBuilder("posed")
    g.node("figure", "source.figure", frames=6, size=64)
    g.node("skeleton", "pose.mediapipe", image="figure.image")
    g.node("draw", "pose.draw", pose="skeleton.pose")
    g.node("sink", "sink.null", image="draw")
    session = Session(compile(g.build()))
    recorder = Recorder(tmp_path / "a.mcap", snapshot_every=2)
    recorder.attach(session)
    session.run()
    recorder.close()
    with pytest.raises(ReplayError, match=r"at frame 4: skeleton: pose\.mediapipe: whom MediaPipe follows.*hands nothing out"):
        replay(read(tmp_path / "a.mcap"), Wish(begin=4))
