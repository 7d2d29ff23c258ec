"""Flow and memory: what goes along with the motion, and what self-attention keeps of earlier frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("cv2")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusion_carries import CARRY  # noqa: E402
from diffusion_checkpoints import picture, skeleton, stream  # noqa: E402

from engine.payload import Image, Latent, Prompt  # noqa: E402
from operators.diffusion.carry import warp  # noqa: E402
from operators.diffusion.carry.flow import Flow  # noqa: E402
from operators.diffusion.carry.memory import Memory  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


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
        memory.enter(7, (1, 4, 1, 5))
        attention(before)
        memory.leave()
        memory.settle()
        memory.begin(0.3, (1, 4, 1, 5))
        memory.enter(7, (1, 4, 1, 5))
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
        with torch.inference_mode():
            memory.enter(1, (1, 4, 8, 8))
            assert memory.found(0) == []
            memory.enter(2, (1, 4, 8, 8))
            assert len(memory.found(0)) == 1
            memory.enter(2, (1, 4, 8, 8), "short 0")  # other layers run: they left nothing
            assert memory.found(0) == []


def test_the_anchor_is_the_first_frame_until_the_prompt_changes() -> None:
    with stream(remember={"anchor": True}, steps=1, strength=1.0) as bench:
        memory = bench.operator._tools.memory

        def anchor() -> Any:
            return memory.steps[0].first[-2].clone()  # keys of the last layer: what those before it heard of prompt and condition

        bench(skeleton(0), prompt=Prompt("red"))
        first = anchor()
        for n in (1, 2):
            bench(skeleton(n), prompt=Prompt("red"))
        assert torch.equal(anchor(), first)
        with torch.inference_mode():
            memory.enter(0, (1, 4, 8, 8))
        last, begun = memory.found(list(memory.stages[memory.mode.key].at)[-1])
        assert torch.equal(begun[0], first)
        assert not torch.equal(last[0], first)
        bench(skeleton(3), prompt=Prompt("blue"))
        assert not torch.equal(anchor(), first)


def alive(memory: Any) -> int:
    """Bytes of what a memory keeps, without its few biases."""
    lists = [some for stage in memory.stages.values() for some in (stage.now, stage.first)]
    lists += [some for kept in memory.steps.values() for some in (*kept.banks, kept.first)]
    return sum(each.untyped_storage().nbytes() for some in lists for each in some)


def test_memory_is_bounded() -> None:
    with stream(remember={"megabytes": 1, "cells": 4096, "anchor": True}, size=384, width=384, height=384, steps=2) as bench:
        bench(skeleton())
        bench(skeleton(1))
        memory = bench.operator._tools.memory
        assert 0 < alive(memory) == memory.held <= 1 << 20
        assert [what for what, _ in bench.events].count("memory_full") == 1
    with stream(remember={"cells": 8}) as bench:
        bench(skeleton())
        assert bench.operator._tools.memory.held == alive(bench.operator._tools.memory) == 0  # 16 places are too many


def test_where_there_is_no_room_for_all_steps_the_same_ones_are_remembered_in_every_frame() -> None:
    """With room for a frame and a half, a step that every second frame finds would flicker."""
    with stream(remember={"megabytes": 1}, steps=12, strength=1.0) as bench:
        memory, seen = bench.operator._tools.memory, []
        memory.limit = 70_000
        for n in range(4):
            bench(skeleton(n))
            seen.append(set(memory.left[1 - memory.now]))
            assert alive(memory) == memory.held <= memory.limit
        assert seen[0] == seen[1] == seen[2] == seen[3] != set()
        assert len(seen[0]) < 12


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
