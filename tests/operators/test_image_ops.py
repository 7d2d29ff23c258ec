"""`image.*`: golden pictures for what is drawn, arithmetic for what is computed."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from media_clips import bars_rgb, numbered

from engine.errors import UsageError
from engine.payload import Image, Mask
from engine.testing import Bench


def run(name: str, *ports: object, **params: object) -> np.ndarray:
    with Bench(name, **params) as bench:
        return np.array(bench(*ports).data)


def noise(height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def digest(picture: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(picture).tobytes()).hexdigest()[:16]


# ---------------------------------------------------------------- size


@pytest.mark.parametrize(
    ("mode", "shape"), [("fit", (45, 80)), ("fill", (80, 80)), ("letterbox", (80, 80)), ("stretch", (80, 80))]
)
def test_resize_modes(mode: str, shape: tuple[int, int]) -> None:
    picture = np.full((90, 160, 3), 200, np.uint8)
    picture[:, :34] = 40  # what fill cuts off
    out = run("image.resize", Image(picture), width=80, height=80, mode=mode)
    assert out.shape == (*shape, 3)
    if mode == "letterbox":
        assert out[:17].max() == 0
        assert out[-17:].max() == 0
        assert out[40, 5].tolist() == [40] * 3
        assert out[40, 70].tolist() == [200] * 3
    if mode == "fill":
        assert out[:, 3:].min() == 200
    if mode in ("stretch", "fit"):
        assert out[20, 10].tolist() == [40] * 3
        assert out[20, 70].tolist() == [200] * 3


def test_resize_to_its_own_size_is_free() -> None:
    image = Image(noise())
    with Bench("image.resize", width=64, height=48) as bench:
        assert bench(image) is image


@pytest.mark.parametrize("interpolation", ["auto", "nearest", "linear", "cubic", "area", "lanczos"])
@pytest.mark.parametrize("size", [(31, 17), (64, 48), (200, 150)])
def test_resize_keeps_flat_colours_and_the_middle(interpolation: str, size: tuple[int, int]) -> None:
    picture = np.full((60, 80, 3), (190, 20, 70), np.uint8)
    out = run("image.resize", Image(picture), width=size[0], height=size[1], mode="stretch", interpolation=interpolation)
    assert (out == (190, 20, 70)).all()
    ramp = np.repeat(np.linspace(0, 255, 80).astype(np.uint8)[None, :, None], 60, axis=0).repeat(3, axis=2)
    out = run("image.resize", Image(ramp), width=size[0], height=size[1], mode="stretch", interpolation=interpolation)
    assert abs(int(out[:, size[0] // 2].mean()) - 127) <= 4, "no shift"


def test_shrinking_far_does_not_alias() -> None:
    """A fine checkerboard becomes grey, not a pattern."""
    checks = ((np.indices((256, 256)).sum(axis=0) % 2) * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    for size in (128, 96, 30):
        out = run("image.resize", Image(checks), width=size, height=size)
        assert np.abs(out.astype(int) - 127).max() <= (2 if size != 96 else 30)


def test_crop() -> None:
    picture = noise()
    out = run("image.crop", Image(picture), x=5, y=7, width=20, height=10)
    assert (out == picture[7:17, 5:25]).all()
    with pytest.raises(UsageError, match="outside"):
        run("image.crop", Image(picture), x=50, y=0, width=20, height=10)


@pytest.mark.parametrize(("axis", "step"), [("horizontal", np.s_[:, ::-1]), ("vertical", np.s_[::-1]), ("both", np.s_[::-1, ::-1])])
def test_flip(axis: str, step: object) -> None:
    picture = noise()
    assert (run("image.flip", Image(picture), axis=axis) == picture[step]).all()


# ---------------------------------------------------------------- colour


def test_colour_defaults_change_nothing() -> None:
    image = Image(noise())
    with Bench("image.color") as bench:
        assert bench(image) is image


def reference_color(picture: np.ndarray, brightness: float, contrast: float, saturation: float, gamma: float) -> np.ndarray:
    codes = np.clip((((picture / 255) ** (1 / gamma)) - 0.5) * contrast + 0.5 + brightness, 0, 1)
    luma = codes @ [0.2126, 0.7152, 0.0722]
    return np.clip(luma[..., None] + saturation * (codes - luma[..., None]), 0, 1) * 255


@pytest.mark.parametrize(
    ("brightness", "contrast", "saturation", "gamma"),
    [(0.2, 1, 1, 1), (0, 1.7, 1, 1), (0, 1, 0, 1), (0, 1, 2.5, 1), (0, 1, 1, 2.2), (-0.1, 0.8, 1.4, 0.7)],
)
def test_colour_is_its_formula(brightness: float, contrast: float, saturation: float, gamma: float) -> None:
    picture = noise()
    values = {"brightness": float(brightness), "contrast": float(contrast), "saturation": float(saturation), "gamma": float(gamma)}
    found = run("image.color", Image(picture), **values)
    assert np.abs(found - reference_color(picture, brightness, contrast, saturation, gamma)).max() <= 2


def test_colour_follows_live_changes() -> None:
    picture = noise()
    with Bench("image.color") as bench:
        same = np.array(bench(Image(picture)).data)
        bench.set(brightness=1.0)
        white = np.array(bench(Image(picture)).data)
    assert (same == picture).all()
    assert (white == 255).all()


def test_blur_spreads_a_point_as_a_gaussian() -> None:
    picture = np.zeros((41, 41, 3), np.uint8)
    picture[20, 20] = 255
    bright = np.zeros_like(picture)
    bright[20, :] = 255
    out = run("image.blur", Image(bright), radius=3.0).astype(float)[:, 20, 0]
    rows = np.arange(41) - 20
    want = 255 * np.exp(-(rows**2) / 18) / np.exp(-(rows**2) / 18).sum()
    assert np.abs(out - want).max() <= 1.5
    image = Image(picture)
    with Bench("image.blur", radius=0.0) as bench:
        assert bench(image) is image


def test_canny_finds_an_edge_where_it_is() -> None:
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[:, 20:] = 255
    out = run("image.canny", Image(picture))
    assert set(np.unique(out)) == {0, 255}
    assert set(np.nonzero(out[20, :, 0])[0]) <= {18, 19, 20}
    assert out[20].any()
    assert (out[..., 0] == out[..., 2]).all()
    assert not run("image.canny", Image(np.full((40, 40, 3), 90, np.uint8))).any()


# ---------------------------------------------------------------- together


def test_overlay_by_opacity_and_mask() -> None:
    base, top = np.full((20, 30, 3), 100, np.uint8), np.full((20, 30, 3), 200, np.uint8)
    assert (run("image.overlay", Image(base.copy()), Image(top)) == 200).all()
    assert (run("image.overlay", Image(base.copy()), Image(top), opacity=0.25) == 125).all()
    mask = np.zeros((20, 30), np.uint8)
    mask[:, :15] = 255
    out = run("image.overlay", Image(base.copy()), Image(top), Mask(mask), opacity=0.5)
    assert (out[:, :15] == 150).all()
    assert (out[:, 15:] == 100).all()


def test_overlay_scales_what_lies_on_top() -> None:
    base, top = np.full((20, 30, 3), 100, np.uint8), np.full((40, 60, 3), 200, np.uint8)
    mask = np.zeros((10, 15), np.uint8)
    mask[:5] = 255
    out = run("image.overlay", Image(base), Image(top), Mask(mask))
    assert (out[:8] == 200).all()
    assert (out[12:] == 100).all()


def test_overlay_works_in_place_and_never_on_what_is_locked() -> None:
    base = np.full((20, 30, 3), 100, np.uint8)
    with Bench("image.overlay") as bench:
        out = bench(Image(base), Image(np.full((20, 30, 3), 200, np.uint8)))
        assert out.data is base
        locked = np.full((20, 30, 3), 100, np.uint8)
        locked.flags.writeable = False
        out = bench(Image(locked), Image(np.full((20, 30, 3), 200, np.uint8)))
    assert (locked == 100).all()
    assert (out.data == 200).all()


@pytest.mark.parametrize(("direction", "shape"), [("horizontal", (40, 60 + 4 + 40 + 4 + 20, 3)), ("vertical", (40 + 4 + 60 + 4 + 120, 60, 3))])
def test_side_by_side(direction: str, shape: tuple[int, ...]) -> None:
    pictures = [Image(np.full(s, v, np.uint8)) for s, v in (((40, 60, 3), 50), ((20, 20, 3), 100), ((80, 40, 3), 150))]
    out = run("image.side_by_side", pictures, direction=direction, gap=4)
    assert out.shape == shape
    line = out[20, :, 0] if direction == "horizontal" else out[:, 20, 0]
    assert [int(v) for v in dict.fromkeys(line)] == [50, 0, 100, 150]


def test_text_is_where_it_should_be() -> None:
    for corner, rows, columns in (("top-left", np.s_[:50], np.s_[:160]), ("bottom-right", np.s_[-50:], np.s_[-160:])):
        out = run("image.text", Image(np.full((240, 320, 3), 120, np.uint8)), text="Ab 12", corner=corner, height=0.08)
        changed = (out != 120).any(axis=2)
        inside = np.zeros_like(changed)
        inside[rows, columns] = True
        assert changed.sum() > 200
        assert not (changed & ~inside).any(), corner
        assert out.max() >= 250
        assert out.min() < 30, "a dark edge, readable on white as well"


def test_text_that_is_empty_or_too_long() -> None:
    grey = np.full((120, 160, 3), 120, np.uint8)
    assert (run("image.text", Image(grey.copy()), text=" ") == 120).all()
    for corner in ("bottom-left", "top-right"):
        assert (run("image.text", Image(grey.copy()), text="much too long " * 9, corner=corner, height=0.3) != 120).any()


def test_text_grows_with_the_picture() -> None:
    def tall(height: int) -> int:
        out = run("image.text", Image(np.full((height, 2 * height, 3), 120, np.uint8)), text="H", height=0.1)
        rows = np.nonzero((out > 250).any(axis=(1, 2)))[0]
        return int(rows.max() - rows.min() + 1)

    assert tall(240) == pytest.approx(24, abs=4)
    assert tall(960) == pytest.approx(96, abs=12)


def test_the_same_call_gives_the_same_bytes() -> None:
    bars = bars_rgb(120)

    def all_of_them() -> dict[str, str]:
        return {
            "text": digest(run("image.text", Image(bars.copy()), text="Afterimage", height=0.2)),
            "canny": digest(run("image.canny", Image(numbered(77, 90, 160)))),
            "overlay": digest(run("image.overlay", Image(bars.copy()), Image(noise(120, 320)), opacity=0.5)),
            "side": digest(run("image.side_by_side", [Image(bars), Image(numbered(3, 90, 160))])),
            "blur": digest(run("image.blur", Image(bars), radius=2.5)),
            "resize": digest(run("image.resize", Image(bars), width=111, height=77)),
        }

    assert all_of_them() == all_of_them()


def test_golden_pictures() -> None:
    """Pictures that were looked at once and must not change. Only those whose arithmetic is whole numbers in every OpenCV."""
    bars = bars_rgb(120)
    assert digest(run("image.flip", Image(bars))) == digest(bars[:, ::-1])
    assert digest(run("image.canny", Image(bars))) == "11a9a84a4c74f89c"
    assert digest(run("image.resize", Image(bars), width=160, height=60, interpolation="nearest")) == "2c0eb3fc49e0024b"
    assert digest(run("image.side_by_side", [Image(bars), Image(numbered(3, 120, 160))], gap=4)) == "ebbf209d6c229a78"


def test_a_copy_is_equal_and_lies_elsewhere() -> None:
    bars = bars_rgb()
    with Bench("image.copy") as bench:
        out = bench(Image(bars)).data
        assert (out == bars).all()
        assert not np.shares_memory(out, bars)
