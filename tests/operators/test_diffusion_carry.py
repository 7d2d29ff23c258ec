"""What moves and what is held: the carry tools of diffusion.stream that look at pictures, on a tiny random checkpoint."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("cv2")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusion_carries import CARRY, NEAR, changed  # noqa: E402
from diffusion_checkpoints import picture, same, skeleton, stream  # noqa: E402

from engine.payload import Image, Prompt  # noqa: E402
from operators.diffusion.carry.hold import Held  # noqa: E402
from operators.diffusion.carry.motion import LOOK, Motion  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


# ---------------------------------------------------------------- motion


def test_a_cell_moves_when_a_line_in_it_does() -> None:
    a, b = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)
    a[20:24, 41], b[20:24, 43] = 255, 255  # within one cell: its mean is the same
    motion = Motion(reach=0.0)
    assert motion.look([a], (8, 8)).moved is None
    motion.settle(False)
    moved = motion.look([b], (8, 8)).moved
    assert moved is not None
    assert moved[2, 5] == 1
    assert moved[6, 1] == 0


def test_reach_is_a_share_of_the_picture() -> None:
    a = np.zeros((256, 256, 3), np.uint8)
    b = a.copy()
    b[128:136, 128:136] = 255
    for cells in ((32, 32), (64, 64)):
        motion = Motion(reach=0.125)
        motion.look([a], cells)
        motion.settle(False)
        seen = motion.look([b], cells)
        assert seen.moved is not None
        wide = (seen.moved[cells[0] // 2] >= 1).mean()
        assert wide == pytest.approx(0.28, abs=0.04)  # an eighth to both sides
        assert seen.share == pytest.approx(float((seen.moved >= 1).mean()))


def test_what_creeps_is_noticed() -> None:
    """Held cells are compared with what they were painted from, so a change far below the threshold a frame adds up."""
    motion, frame = Motion(still=0.1, reach=0.0), np.full((64, 64, 3), 100, np.uint8)
    noticed = []
    for n in range(12):
        shown = frame + np.uint8(6 * n)
        seen = motion.look([shown], (8, 8))
        noticed.append(seen.moved is None or seen.moved.max() >= 1)
        motion.settle(True)
    assert noticed[0]
    assert noticed[1:5] == [False] * 4
    assert noticed[5]
    assert not noticed[6]


def test_a_look_may_be_repeated_and_other_pictures_are_all_new() -> None:
    motion, a, b = Motion(), picture(0), picture(1)
    motion.look([a], (8, 8))
    motion.settle(False)
    first, second = motion.look([b], (8, 8)), motion.look([b], (8, 8))
    assert first.moved is not None
    assert np.array_equal(first.moved, second.moved)  # type: ignore[arg-type]
    assert motion.look([a, b], (8, 8)).moved is None
    assert motion.look([a], (4, 4)).moved is None
    assert LOOK > 1


def test_without_tools_nothing_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("looked")

    monkeypatch.setattr(Motion, "look", never)
    with stream() as bench:
        bench(skeleton(), carry=CARRY)


# ---------------------------------------------------------------- hold


def test_held_cells_keep_the_carry_and_the_others_do_not() -> None:
    with stream(hold=1.0, motion=NEAR) as bench:
        bench(skeleton())
        out = bench(changed((0, 0)), carry=CARRY).latent.data
    assert torch.equal(out[..., 3:, 3:], CARRY.data[..., 3:, 3:])
    assert float((out[..., :1, :1] - 0.5).abs().min()) > 1e-3
    with stream() as bench:
        bench(skeleton())
        free = bench(changed((0, 0)), carry=CARRY).latent.data
    assert float((free[..., 3:, 3:] - 0.5).abs().min()) > 1e-6  # without, nothing stays


def test_what_moves_is_painted_in_full_from_noise_while_the_rest_is_held() -> None:
    """Strength 1 knows no carry, hold does."""
    given: list[Any] = []
    with stream(hold=1.0, strength=1.0, motion=NEAR, steps=2) as bench:
        bench(skeleton())
        bench.operator.models.unet.register_forward_pre_hook(lambda module, args: given.append(args[0].clone()))
        out = bench(changed((0, 0)), carry=CARRY).latent.data
        noise = bench.operator._noise.fixed
    assert len(given) == 2
    assert torch.equal(out[..., 3:, 3:], CARRY.data[..., 3:, 3:])
    assert torch.equal(given[0][..., :1, :1], noise[:1, ..., :1, :1])
    assert not torch.allclose(given[0][..., 3:, 3:], noise[:1, ..., 3:, 3:], atol=1e-3)


def test_hold_between_moves_part_of_the_way() -> None:
    found = {}
    for hold in (0.0, 0.5, 1.0):
        with stream(hold=hold, motion=NEAR, steps=1) as bench:
            bench(skeleton())
            found[hold] = bench(changed((0, 0)), carry=CARRY).latent.data[..., 4:, 4:]
    assert torch.allclose(found[0.5], (found[0.0] + found[1.0]) / 2, atol=1e-5)


def test_held_cells_are_as_noisy_as_the_others_on_the_way() -> None:
    """At every step a held cell is what it would be at that level of noise, so that what is painted beside it fits."""
    seen: list[Any] = []
    with stream(hold=1.0, motion=NEAR, steps=4, strength=0.75) as bench:
        bench(skeleton())
        bench.operator.models.unet.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
        bench(changed((0, 0)), carry=CARRY)
        rows, noise = bench.operator._guide.rows(4, None)[0], bench.operator._noise.fixed
        want = [CARRY.data * keep + noise[:1] * add for keep, add in rows.start[1:]]
    assert len(seen) == 3
    for given, wanted in zip(seen, want, strict=True):
        assert torch.allclose(given[..., 4:, 4:], wanted[..., 4:, 4:], atol=1e-5)


@pytest.mark.parametrize("scheduler", ["ddim", "euler_a", "dpm++", "lcm"])
def test_every_sampler_leaves_held_cells_exactly(scheduler: str) -> None:
    with stream(hold=1.0, motion=NEAR, scheduler=scheduler, guidance="cfg") as bench:
        bench(skeleton())
        out = bench(changed((0, 0)), carry=CARRY).latent.data
    assert torch.equal(out[..., 4:, 4:], CARRY.data[..., 4:, 4:])


def test_another_prompt_is_painted_everywhere() -> None:
    with stream(hold=1.0) as bench:
        bench(skeleton(), prompt=Prompt("red"))
        held = bench(skeleton(), carry=CARRY, prompt=Prompt("red")).latent.data
        other = bench(skeleton(), carry=CARRY, prompt=Prompt("blue")).latent.data
    with stream() as bench:
        bench(skeleton(), prompt=Prompt("red"))
        free = bench(skeleton(), carry=CARRY, prompt=Prompt("blue")).latent.data
    assert torch.equal(held, CARRY.data)
    assert torch.equal(other, free)


def test_a_prompt_on_its_way_holds_nothing() -> None:
    with stream(hold=1.0) as bench:
        bench(skeleton(), prompt=Prompt("red"))
        kept = [torch.equal(bench(skeleton(), carry=CARRY, prompt=Prompt("blue", blend=3)).latent.data, CARRY.data) for _ in range(6)]
    assert kept == [False, False, False, True, True, True]


@pytest.mark.parametrize("change", [{"control_scale": 0.5}, {"size": 128}, {"guidance_scale": 3.0}])
def test_other_settings_are_painted_everywhere(change: dict[str, Any]) -> None:
    with stream(hold=1.0, width=128, height=128) as bench:
        bench(skeleton())
        assert torch.equal(bench(skeleton(), carry=CARRY).latent.data, CARRY.data)
        bench.set(**change)
        assert not torch.equal(bench(skeleton(), carry=CARRY).latent.data[..., :8, :8], CARRY.data)


def test_a_cut_and_a_new_epoch_hold_nothing() -> None:
    with stream(hold=1.0, scene_cut=0.02) as bench:
        bench(skeleton())
        cut = bench([Image(np.maximum(picture(0), picture(1)))], carry=CARRY)
        assert bench.resets == ["scene cut"]
    with stream() as bench:
        assert same(bench([Image(np.maximum(picture(0), picture(1)))]), cut)
    with stream(hold=1.0) as bench:
        bench(skeleton())
        bench.new_epoch()
        assert not torch.equal(bench(skeleton(), carry=CARRY).latent.data, CARRY.data)


def test_pinning_is_exact_where_firm() -> None:
    keep = torch.zeros(1, 1, 2, 2)
    keep[..., 0] = 1
    held, latent = Held(keep, torch.full((1, 4, 2, 2), 2.0)), torch.ones(1, 4, 2, 2)
    held.pin(latent, torch.full((1, 4, 2, 2), 3.0), 0.5, 0.1)
    assert torch.allclose(latent[..., 0], torch.full((1, 4, 2), 1.3))
    assert torch.equal(latent[..., 1], torch.ones(1, 4, 2))


# ---------------------------------------------------------------- calm


def test_a_calm_frame_is_painted_with_less_strength() -> None:
    said: list[float] = []
    with stream(strength=0.8, calm=0.2, steps=20, motion={"reach": 0.0, "lively": 0.5}) as bench:
        bench.site._measure = lambda node, seq, numbers: said.append(numbers["strength"])
        bench(skeleton(), carry=CARRY)
        bench(skeleton(), carry=CARRY)  # nothing moved
        half = picture(0).copy()
        half[:16] = 255 - half[:16]  # a quarter of the cells
        bench([Image(half)], carry=CARRY)
        bench(skeleton(5), carry=CARRY)  # all of it
    assert said[0] == said[3] == pytest.approx(0.8)
    assert said[1] == pytest.approx(0.2)
    assert said[2] == pytest.approx(0.5, abs=0.05)
