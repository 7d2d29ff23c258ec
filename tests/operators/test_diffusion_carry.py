"""The carry tools of diffusion.stream one by one, on a tiny random checkpoint: what each does, when it forgets, and that it can be recalled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("cv2")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusion_checkpoints import picture, same, skeleton, stream  # noqa: E402

from engine.payload import Image, Latent, Prompt  # noqa: E402
from operators.diffusion.carry import warp  # noqa: E402
from operators.diffusion.carry.attention import Memory  # noqa: E402
from operators.diffusion.carry.flow import Flow  # noqa: E402
from operators.diffusion.carry.hold import Held  # noqa: E402
from operators.diffusion.carry.motion import LOOK, Motion  # noqa: E402

CARRY = Latent(torch.full((1, 4, 8, 8), 0.5))
NEAR = {"still": 0.06, "reach": 0.0}  # of 8 cells, one is far


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _weights() -> bool:
    from operators import embedded

    return (embedded.root() / "unet" / "diffusion_pytorch_model.safetensors").is_file()


def changed(at: tuple[int, int] = (0, 0), by: int = 90) -> list[Image]:
    """The picture of `skeleton()`, other in one cell of 8 x 8 pixels."""
    data = picture(0).copy()
    y, x = at[0] * 8, at[1] * 8
    data[y : y + 8, x : x + 8] = (data[y : y + 8, x : x + 8].astype(int) + by) % 256
    return [Image(data)]


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


# ---------------------------------------------------------------- flow


def textured(shift: int, size: int = 256) -> Any:
    import cv2

    wide = np.random.default_rng(0).integers(0, 256, (size // 16, size // 16 + 4, 3), dtype=np.uint8)
    smooth = cv2.resize(wide, (size + 64, size), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(smooth[:, 32 - shift : 32 - shift + size])


def test_flow_finds_where_cells_were() -> None:
    flow = Flow()
    assert flow.look(textured(0), (32, 32)) is None
    flow.settle()
    found = flow.look(textured(16), (32, 32))
    assert found is not None
    came, trust = found
    inner = np.s_[4:-4, 6:-4]
    here = np.stack(np.meshgrid(np.arange(32), np.arange(32)), -1)
    assert np.median((came - here)[inner][..., 0]) == pytest.approx(-2.0, abs=0.1)  # 16 px to the right: two cells
    assert np.abs(np.median((came - here)[inner][..., 1])) < 0.1
    assert trust[inner].mean() > 0.9


def test_flow_is_not_trusted_where_the_picture_is_another() -> None:
    flow = Flow()
    flow.look(textured(0), (32, 32))
    flow.settle()
    other = textured(0)
    other[:128] = np.random.default_rng(9).integers(0, 256, (128, 256, 3), dtype=np.uint8)
    _, trust = flow.look(other, (32, 32))  # type: ignore[misc]
    assert trust[:15].mean() < 0.3
    assert trust[18:].mean() > 0.9


def test_flow_is_not_trusted_where_the_light_changed() -> None:
    """Going there and back ends at the start, and yet it is not the same thing."""
    flow = Flow()
    flow.look(textured(0) // 2, (32, 32))
    flow.settle()
    lit = textured(0) // 2
    lit[:, :120] += 80
    _, trust = flow.look(lit, (32, 32))  # type: ignore[misc]
    assert trust[4:-4, 3:12].mean() < 0.2
    assert trust[4:-4, 19:-3].mean() > 0.9


def test_a_latent_goes_along_and_unknown_cells_come_from_around() -> None:
    latent = torch.zeros(1, 4, 16, 16)
    latent[..., 8, 6] = 1.0
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    moved = warp.sample(latent, torch.stack([x - 2, y]))
    assert float(moved[0, 0, 8, 8]) == pytest.approx(1.0, abs=1e-5)
    assert float(moved.sum()) == pytest.approx(4.0, abs=1e-4)
    field, trust = torch.full((1, 4, 16, 16), 0.3), torch.ones(1, 1, 16, 16)
    field[..., 4:8, 4:8], trust[..., 4:8, 4:8] = 9.0, 0.0
    whole = warp.filled(field, trust)
    assert torch.allclose(whole, torch.full_like(whole, 0.3), atol=1e-5)
    assert torch.equal(warp.filled(field, torch.ones_like(trust)), field)


def test_warped_noise_keeps_its_variance_cell_by_cell() -> None:
    noise = torch.randn(4000, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="ij")
    came = torch.stack([x + 0.5, y - 0.3])
    assert warp.sample(noise, came).std(0).mean() < 0.8  # what it would be without
    assert torch.allclose(warp.noise(noise, came).std(0), torch.ones(1, 6, 6), atol=0.06)
    assert torch.allclose(warp.noise(noise, torch.stack([x, y])), noise, atol=1e-5)


def test_the_way_since_the_epoch_began_adds_up() -> None:
    flow = Flow()
    for n in range(5):
        flow.look(textured(4 * n), (32, 32))
        origin = flow.since()
        flow.settle()
    assert origin is not None
    here = np.stack(np.meshgrid(np.arange(32), np.arange(32)), -1)
    assert np.median((origin - here)[6:-6, 8:-6, 0]) == pytest.approx(-2.0, abs=0.3)


def test_cells_whose_way_is_not_known_are_new() -> None:
    flow = Flow()
    for shift in (0, 16, 32):
        flow.look(textured(shift), (32, 32))
        flow.settle()
    here = np.stack(np.meshgrid(np.arange(32), np.arange(32)), -1)
    assert flow.origin is not None
    assert np.median((flow.origin - here)[16, 8:-4, 0]) == pytest.approx(-4.0, abs=0.3)
    other = textured(32)
    other[:128] = np.random.default_rng(9).integers(0, 256, (128, 256, 3), dtype=np.uint8)
    flow.look(other, (32, 32))
    origin = flow.since()
    assert origin is not None
    assert np.median(np.abs(origin - here)[2:13]) == 0
    assert np.median((origin - here)[20:, 8:-4, 0]) == pytest.approx(-4.0, abs=0.3)


def test_the_carry_moves_with_the_picture() -> None:
    """A picture and a carry that go two cells to the right: with flow the source is the carry in its new place."""
    carry = torch.zeros(1, 4, 8, 8)
    carry[..., 3] = 1.0
    small = [np.ascontiguousarray(textured(s)[96:160, 96:160]) for s in (0, 16)]
    found = {}
    for name, flow in (("with", {"on": "image"}), ("without", None)):
        with stream(flow=flow, carry_mix=1.0, strength=0.0) as bench:
            bench(skeleton(), image=Image(small[0]))
            found[name] = bench(skeleton(), image=Image(small[1]), carry=Latent(carry)).latent.data[0, 0]
    assert int(found["without"][4].argmax()) == 3
    assert int(found["with"][4].argmax()) == 5


def test_noise_moves_with_the_picture_when_asked() -> None:
    pictures = [Image(np.ascontiguousarray(textured(s)[96:160, 96:160])) for s in (0, 8)]
    with stream(flow={"on": "image", "carry": False, "noise": True}, strength=1.0) as bench:
        bench(skeleton(), image=pictures[0])
        fixed = bench.operator._noise.fixed.clone()
        bench(skeleton(), image=pictures[1])
        since = bench.operator._tools.since
        moved = warp.noise(fixed, since)
        assert float((moved[..., 2:6, 3:6] - fixed[..., 2:6, 2:5]).abs().mean()) < 0.5 * float((moved - fixed).abs().mean())
        bench.new_epoch()
        bench(skeleton(), image=pictures[1])
        assert bench.operator._tools.since is None


# ---------------------------------------------------------------- remember


def test_memory_at_weight_zero_is_the_plain_layer_and_above_it_is_not() -> None:
    def run(weight: float | None, **more: Any) -> list[Any]:
        told = {} if weight is None else {"remember": {}, "remember_weight": weight}
        with stream(guidance="cfg", **told, **more) as bench:
            return [bench(skeleton(n)).latent.data for n in range(3)]

    plain, none, full, half = run(None), run(0.0), run(1.0), run(0.5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(plain, none, strict=True))
    assert torch.allclose(plain[0], full[0], atol=1e-5)  # a first frame remembers nothing
    gaps = [float((other[2] - plain[2]).norm()) for other in (half, full)]
    assert 1e-3 < gaps[0] < gaps[1]


def test_a_remembered_place_counts_as_its_weight_says() -> None:
    """Against attention written out: softmax over present and remembered places, the latter's exponentials times the weight."""
    from diffusers.models.attention_processor import Attention

    from operators.diffusion.carry.attention import _Layer

    torch.manual_seed(0)
    attention = Attention(16, heads=2, dim_head=8).eval()
    memory = Memory(lambda *a, **k: None)
    attention.set_processor(_Layer(memory, 0))
    before, now = torch.randn(1, 5, 16), torch.randn(1, 5, 16)
    with torch.inference_mode():
        memory.begin(0.3, (1, 4, 1, 5))
        memory.enter(7)
        attention(before)
        memory.settle()
        memory.begin(0.3, (1, 4, 1, 5))
        memory.enter(7)
        found = attention(now)
        query, keys, values = attention.to_q(now), attention.to_k(torch.cat([now, before], 1)), attention.to_v(torch.cat([now, before], 1))
        parts = []
        for head in range(2):
            q, k, v = (x[0, :, 8 * head : 8 * head + 8] for x in (query, keys, values))
            share = (q @ k.T / 8**0.5).exp() * torch.tensor([1.0] * 5 + [0.3] * 5)
            parts.append(share / share.sum(-1, keepdim=True) @ v)
        expected = attention.to_out[0](torch.cat(parts, -1))[None]
    assert torch.allclose(found, expected, atol=1e-5)


def test_another_step_is_not_looked_at() -> None:
    with stream(remember={}, steps=4, strength=0.5) as bench:
        bench(skeleton(0), carry=CARRY)  # only the last two steps
        memory = bench.operator._tools.memory
        assert memory.left[1 - memory.now] == {2, 3}
        memory.step = 1
        assert memory.found(0) == []
        memory.step = 2
        assert len(memory.found(0)) == 1


def test_the_anchor_is_the_first_frame_until_the_prompt_changes() -> None:
    with stream(remember={"anchor": True}, steps=1, strength=1.0) as bench:
        memory = bench.operator._tools.memory
        bench(skeleton(0), prompt=Prompt("red"))
        last = max(memory.first)  # what the layers before it heard of prompt and condition
        first = memory.first[last][0].clone()
        for n in (1, 2):
            bench(skeleton(n), prompt=Prompt("red"))
        assert torch.equal(memory.first[last][0], first)
        memory.step = 0
        assert len(memory.found(0)) == 2
        bench(skeleton(3), prompt=Prompt("blue"))
        assert not torch.equal(memory.first[last][0], first)


def test_memory_is_bounded() -> None:
    with stream(remember={"megabytes": 1, "cells": 4096, "anchor": True}, size=384, width=384, height=384, steps=2) as bench:
        bench(skeleton())
        bench(skeleton(1))
        memory = bench.operator._tools.memory
        assert memory.held <= 1 << 20
        assert sum(2 * k.numel() * k.element_size() for bank in (*memory.banks, memory.first) for k, _ in bank.values()) == memory.held
        assert [what for what, _ in bench.events].count("memory_full") == 1
    with stream(remember={"cells": 8}) as bench:
        bench(skeleton())
        assert bench.operator._tools.memory.held == 0  # 16 places are too many


def test_memory_goes_with_size_epoch_and_cut() -> None:
    def fresh(change: Any) -> bool:
        with stream(remember={"anchor": True}, scene_cut=0.02, width=128, height=128, size=64) as bench:
            bench(skeleton(0))
            change(bench)
            memory, found = bench.operator._tools.memory, []
            plain = memory.found
            memory.found = lambda layer: found.append(plain(layer)) or found[-1]
            bench(skeleton(0))
            return bool(found) and not any(found)

    assert not fresh(lambda bench: None)
    assert fresh(lambda bench: bench.set(size=128))
    assert fresh(lambda bench: bench.new_epoch())
    with stream(remember={"anchor": True}, scene_cut=0.02) as bench:
        bench(skeleton(0))
        cut = bench([Image(np.maximum(picture(0), picture(1)))])
    with stream() as bench:
        assert torch.allclose(bench([Image(np.maximum(picture(0), picture(1)))]).latent.data, cut.latent.data, atol=1e-5)


# ---------------------------------------------------------------- guidance


def test_onetime_guidance_hears_the_negative_once_a_frame() -> None:
    rows: list[int] = []
    with stream(guidance="rcfg-onetime", guidance_scale=2.0, steps=4, negative="blue") as bench:
        bench.operator.models.unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
        once = bench(skeleton()).latent.data
    assert sum(rows) == 5
    with stream(guidance="rcfg-onetime", guidance_scale=2.0, steps=4, negative="red") as bench:
        assert not torch.allclose(bench(skeleton()).latent.data, once, atol=1e-3)
    for steps, alike in ((1, True), (4, False)):
        found = []
        for guidance in ("rcfg-onetime", "cfg"):
            with stream(guidance=guidance, guidance_scale=2.0, steps=steps, negative="blue") as bench:
                found.append(bench(skeleton()).latent.data)
        assert torch.allclose(*found, atol=1e-5) is alike  # in one step they are the same


@pytest.mark.parametrize("more", [{"reuse": {"every": 2, "cut": 1}}, {"remember": {}}, {"hold": 1.0}])
def test_onetime_guidance_goes_with_the_other_tools(more: dict[str, Any]) -> None:
    with stream(guidance="rcfg-onetime", guidance_scale=2.0, **more) as bench:
        out = [bench(skeleton(n), carry=CARRY).latent.data for n in (0, 1, 1)]
        assert all(torch.isfinite(each).all() for each in out)


# ---------------------------------------------------------------- the gate


def test_still_frames_are_skipped_and_counted() -> None:
    passes: list[int] = []
    said: list[dict[str, float]] = []
    with stream(skip=2, control=1) as bench:
        bench.operator.models.unet.register_forward_pre_hook(lambda module, args: passes.append(1))
        bench.site._measure = lambda node, seq, numbers: said.append(numbers)
        outs = [bench(skeleton()) for _ in range(7)]
        assert len(passes) == 4 * 3  # painted: 0, 3 and 6
        assert [row.get("skipped", 0) for row in said] == [0, 1, 1, 0, 1, 1, 0]
        assert bench.operator.tally() == {"skipped": 4}
        assert same(outs[0], outs[1])
        assert outs[1].image.data is not outs[0].image.data
        bench.set(skip=0)
        bench(skeleton())
        assert len(passes) == 4 * 4


def test_the_gate_opens_by_the_greatest_change_since_the_last_painting() -> None:
    passes: list[int] = []
    with stream(skip=100, skip_change=0.1) as bench:
        bench.operator.models.unet.register_forward_pre_hook(lambda module, args: passes.append(1))
        counts = []
        for by in (0, 10, 20, 30, 40):  # one cell of 64 creeps; a mean over the picture would never see it
            bench(changed((3, 3), by))
            counts.append(len(passes) // 4)
    assert counts == [1, 1, 1, 2, 2]


def test_the_gate_uploads_nothing_and_asks_the_device_nothing() -> None:
    from test_diffusion_life import Watch

    with stream(skip=100, hold=1.0, remember={}) as bench:
        carry = bench(skeleton()).latent
        carry = bench(changed((1, 1)), carry=carry).latent
        with Watch() as watch:
            bench(changed((1, 1)), carry=carry)
        assert watch.count == 0


def test_other_words_open_the_gate_and_so_does_a_new_epoch() -> None:
    with stream(skip=100) as bench:
        red = bench(skeleton(), prompt=Prompt("red"))
        assert same(bench(skeleton(), prompt=Prompt("red")), red)
        assert not same(bench(skeleton(), prompt=Prompt("blue")), red)
        bench.new_epoch()
        bench(skeleton(), prompt=Prompt("blue"))
        assert bench.operator._tools.count == 0


def test_a_camera_in_sight_of_the_gate_counts() -> None:
    with stream(skip=100) as bench:
        bench(skeleton(), image=Image(picture(3)))
        bench(skeleton(), image=Image(picture(3)))
        assert bench.operator.tally() == {"skipped": 1}
        bench(skeleton(), image=Image(picture(4)))
        assert bench.operator.tally() == {"skipped": 1}


# ---------------------------------------------------------------- together, over time


TOGETHER: dict[str, Any] = {
    "hold": 0.7, "motion": {"reach": 0.1}, "calm": 0.3, "flow": {"on": "control", "noise": True}, "remember": {"anchor": True},
    "remember_weight": 0.5, "skip": 2, "fresh_noise": 0.3,
}  # fmt: skip


def play(bench: Any, frames: range, carry: Latent | None) -> list[Any]:
    outs = []
    for n in frames:
        m = n // 2  # every picture twice: the second is skipped
        shown = changed((m % 3, m % 4), 40) if m % 4 else skeleton()
        outs.append(bench([shown[0]], carry=carry, seq=n))
        carry = outs[-1].latent
    return outs


def test_no_host_sync_with_all_tools() -> None:
    from test_diffusion_life import Watch

    with stream(**TOGETHER) as bench:
        carry = play(bench, range(4), None)[-1].latent
        with Watch() as watch:
            play(bench, range(4, 7), carry)
        assert watch.count > 100
        assert watch.waits == []


def test_a_run_goes_on_from_a_snapshot_as_if_nothing_had_been() -> None:
    with stream(**TOGETHER) as bench:
        play(bench, range(5), None)
        carry = play(bench, range(5, 6), CARRY)[0].latent
        state = bench.operator.snapshot()
        whole = play(bench, range(6, 12), carry)
    with stream(**TOGETHER) as bench:
        bench.operator.recall(state)
        part = play(bench, range(6, 12), carry)
    assert all(same(a, b) for a, b in zip(whole, part, strict=True))
    with stream(**TOGETHER) as bench:
        assert not all(same(a, b) for a, b in zip(whole, play(bench, range(6, 12), carry), strict=True))


def test_a_new_epoch_is_a_new_run() -> None:
    with stream(**TOGETHER) as bench:
        play(bench, range(5), None)
        bench.new_epoch()
        after = play(bench, range(10, 15), None)
    with stream(**TOGETHER) as bench:
        bench.new_epoch()
        assert all(same(a, b) for a, b in zip(after, play(bench, range(10, 15), None), strict=True))


def test_a_frame_tried_again_is_the_frame_it_would_have_been() -> None:
    told = {**TOGETHER, "skip": 0}
    with stream(**told) as bench:
        carry = play(bench, range(3), None)[-1].latent
        expected = play(bench, range(3, 6), carry)
    for place in ("unet", "vae"):
        with stream(**told) as bench:
            carry = play(bench, range(3), None)[-1].latent
            models = bench.operator.models
            module = {"unet": models.unet.conv_out, "vae": models.coder.module.decoder}[place]

            def full(*args: Any) -> None:
                raise torch.OutOfMemoryError("none left")

            hook = module.register_forward_pre_hook(full)
            with pytest.raises(torch.OutOfMemoryError):
                play(bench, range(3, 4), carry)
            hook.remove()
            assert all(same(a, b) for a, b in zip(play(bench, range(3, 6), carry), expected, strict=True)), place


def test_without_tools_nothing_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("looked")

    monkeypatch.setattr(Motion, "look", never)
    with stream() as bench:
        bench(skeleton(), carry=CARRY)


def test_pinning_is_exact_where_firm() -> None:
    keep = torch.zeros(1, 1, 2, 2)
    keep[..., 0] = 1
    held, latent = Held(keep, torch.full((1, 4, 2, 2), 2.0)), torch.ones(1, 4, 2, 2)
    held.pin(latent, torch.full((1, 4, 2, 2), 3.0), 0.5, 0.1)
    assert torch.allclose(latent[..., 0], torch.full((1, 4, 2), 1.3))
    assert torch.equal(latent[..., 1], torch.ones(1, 4, 2))


# ---------------------------------------------------------------- what it is for


@pytest.mark.slow
@pytest.mark.skipif(not _weights(), reason="the embedded weights are not here")
def test_holding_takes_the_flicker_and_leaves_the_figure() -> None:
    """The aim of bench/carry_quality.py on one short clip: half the flicker of fresh noise, the figure as good, and nothing left behind."""
    from bench.carry_quality import VARIANTS, clips, painted, short

    (clip,) = clips(1, 8)
    fresh, held = (short([clip], lambda clip, n, name=name: painted(clip, VARIANTS[name], 40)) for name in ("fresh noise", "hold 0.9"))
    assert held["background"] <= 0.7 * fresh["background"]  # over four longer clips it is below one half
    assert held["flicker"] < 0.85 * fresh["flicker"]
    assert held["iou"] >= fresh["iou"] - 0.01
    assert held["mae"] <= fresh["mae"] + 0.1
