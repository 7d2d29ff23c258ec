"""diffusion.stream frame by frame on a tiny random checkpoint: what each input and parameter does, and what is left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusion_checkpoints import SIZE, checkpoints, picture, same, skeleton, stream  # noqa: E402

from engine.errors import UsageError  # noqa: E402
from engine.payload import Image, Latent, Prompt  # noqa: E402
from engine.testing import Bench  # noqa: E402
from operators.diffusion.steps.noise import Noise  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


# ---------------------------------------------------------------- what comes out


def test_a_picture_and_its_latent() -> None:
    with stream() as bench:
        out = bench(skeleton())
    assert out.image.data.shape == (SIZE, SIZE, 3)
    assert out.image.data.dtype == np.uint8
    assert out.image.data.std() > 1
    assert tuple(out.latent.data.shape) == (1, 4, SIZE // 8, SIZE // 8)
    assert torch.isfinite(out.latent.data).all()


def test_the_picture_is_its_latent_decoded() -> None:
    from diffusers import AutoencoderTiny

    vae = AutoencoderTiny.from_pretrained(checkpoints().taesd, local_files_only=True)
    with stream() as bench:
        out = bench(skeleton())
    with torch.no_grad():
        pixels = vae.decode(out.latent.data).sample[0].permute(1, 2, 0)
    expected = (pixels * 127.5 + 127.5).clamp(0, 255).round().numpy()
    assert np.abs(out.image.data - expected).max() <= 1


def test_repeats_itself_under_a_seed() -> None:
    def run(seed: int) -> list[Any]:
        outs: list[Any] = []
        with stream(site_seed=seed, fresh_noise=0.5) as bench:
            for n in range(3):
                outs.append(bench(skeleton(n), carry=outs[-1].latent if outs else None))
        return outs

    first, again, other = run(1), run(1), run(2)
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert not same(first[0], other[0])


def test_emitted_payloads_stay_as_they_are() -> None:
    with stream() as bench:
        first = bench(skeleton(0))
        latent, image = first.latent.data.clone(), first.image.data.copy()
        for n in range(1, 4):
            bench(skeleton(n), carry=first.latent)
        assert torch.equal(first.latent.data, latent)
        assert np.array_equal(first.image.data, image)
        assert not first.latent.data.is_inference()


# ---------------------------------------------------------------- inputs


def test_control_has_an_effect_and_scale_zero_has_none() -> None:
    with stream() as bench:
        a, b = bench(skeleton(0)), bench(skeleton(1))
        bench.set(control_scale=0.0)
        assert same(bench(skeleton(0)), bench(skeleton(1)))
        without = bench(skeleton(0))
    assert not same(a, b)
    with stream(control=0) as bench:
        assert same(bench(None, None, None, Prompt("a dancer")), without)


def test_scale_of_each_control_lives() -> None:
    with stream(control=2) as bench:
        pictures = [Image(picture(0)), Image(picture(1))]
        both = bench(pictures)
        bench.set(control_scales=[1.0, 0.0])
        first = bench(pictures)
        bench.set(control_scales=None)
        assert same(bench(pictures), both)
    with stream(control=1) as bench:
        assert torch.allclose(bench(pictures[:1]).latent.data, first.latent.data, atol=1e-5)
    assert not same(both, first)


def test_carry_has_an_effect_and_is_reproducible() -> None:
    with stream() as bench:
        start = bench(skeleton(0))
        carried = bench(skeleton(1), carry=start.latent)
        again = bench(skeleton(1), carry=start.latent)
        alone = bench(skeleton(1))
        other = bench(skeleton(1), carry=Latent(start.latent.data + 1))
    assert same(carried, again)
    assert not same(carried, alone)
    assert not same(carried, other)


def test_less_strength_keeps_more_of_the_carry() -> None:
    with stream(steps=20) as bench:
        carry = bench(skeleton(0)).latent
        moved = []
        for strength in (0.1, 0.4, 0.8):
            bench.set(strength=strength)
            moved.append(float((bench(skeleton(1), carry=carry).latent.data - carry.data).norm()))
        bench.set(strength=0.0)
        assert torch.equal(bench(skeleton(1), carry=carry).latent.data, carry.data)
    assert moved == sorted(moved)


def test_full_strength_starts_from_noise_alone() -> None:
    with stream(strength=1.0) as bench:
        alone = bench(skeleton(0))
        assert same(bench(skeleton(0), carry=Latent(torch.ones(1, 4, 8, 8))), alone)


def test_carry_mix_joins_carried_and_encoded() -> None:
    carry, start = Latent(torch.full((1, 4, 8, 8), 0.3)), Image(picture(5))
    with stream(strength=0.0) as bench:
        bench.set(carry_mix=0.0)
        encoded = bench(skeleton(), image=start, carry=carry).latent.data
        bench.set(carry_mix=1.0)
        assert torch.equal(bench(skeleton(), image=start, carry=carry).latent.data, carry.data)
        bench.set(carry_mix=0.25)
        mixed = bench(skeleton(), image=start, carry=carry).latent.data
        assert torch.equal(bench(skeleton(), image=start).latent.data, encoded)
    assert torch.allclose(mixed, 0.75 * encoded + 0.25 * carry.data, atol=1e-6)


def test_a_carry_of_another_size_is_fitted() -> None:
    with stream() as bench:
        out = bench(skeleton(), carry=Latent(torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(0))))
    assert tuple(out.latent.data.shape) == (1, 4, 8, 8)


def test_each_control_needs_its_picture() -> None:
    with stream(control=2) as bench, pytest.raises(UsageError, match=r"expected 2 pictures.*found 1"):
        bench(skeleton())
    with stream(control=0) as bench, pytest.raises(UsageError, match="expected 0 pictures"):
        bench(skeleton())


# ---------------------------------------------------------------- steps


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """(timestep, batch) of every UNet pass."""
    from diffusers import UNet2DConditionModel

    seen: list[tuple[float, int]] = []
    plain = UNet2DConditionModel.forward

    def forward(self: Any, sample: Any, timestep: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append((float(timestep[0]), len(sample)))
        return plain(self, sample, timestep, *args, **kwargs)

    monkeypatch.setattr(UNet2DConditionModel, "forward", forward)
    return seen


@pytest.mark.parametrize(("strength", "runs"), [(1.0, 10), (0.75, 7), (0.3, 3), (0.01, 1), (0.0, 0)])
def test_strength_says_how_many_steps_run(strength: float, runs: int, passes: list[tuple[float, int]]) -> None:
    with stream(steps=10, strength=strength) as bench:
        bench(skeleton(), carry=Latent(torch.zeros(1, 4, 8, 8)))
    assert [t for t, _ in passes] == [901.0 - 100 * n for n in range(10)][10 - runs :]


def test_a_first_frame_runs_every_step(passes: list[tuple[float, int]]) -> None:
    with stream(steps=5, strength=0.2) as bench:
        bench(skeleton())
    assert len(passes) == 5


def test_live_changes_take_effect_at_the_next_frame(passes: list[tuple[float, int]]) -> None:
    with stream() as bench:
        bench(skeleton())
        bench.set(steps=7)
        bench(skeleton())
        bench.set(steps=2)
        bench(skeleton())
    assert len(passes) == 4 + 7 + 2


def test_guidance_takes_two_passes_in_one_batch(passes: list[tuple[float, int]]) -> None:
    with stream(guidance="cfg", steps=3) as bench:
        guided = bench(skeleton())
        bench.set(guidance_scale=3.0)
        other = bench(skeleton())
        bench.set(guidance_scale=1.0)
        bench(skeleton())
    assert [n for _, n in passes] == [2] * 6 + [1] * 3
    assert not same(guided, other)


def test_the_negative_prompt_matters_only_under_guidance() -> None:
    for guidance, matters in (("cfg", True), ("none", False)):
        with stream(guidance=guidance) as bench:
            plain = bench(skeleton())
            bench.set(negative="blue")
            assert same(bench(skeleton()), plain) is not matters


def test_residual_guidance_takes_one_pass_and_moves_away_from_the_source(passes: list[tuple[float, int]]) -> None:
    carry = Latent(torch.full((1, 4, 8, 8), 0.5))
    found = {}
    for scale in (1.0, 1.4):
        with stream(guidance="rcfg-self", guidance_scale=scale, steps=2, strength=0.5) as bench:
            found[scale] = bench(skeleton(), carry=carry).latent.data
    assert [n for _, n in passes] == [1, 1]
    with stream(guidance="none", steps=2, strength=0.5) as bench:
        assert torch.equal(bench(skeleton(), carry=carry).latent.data, found[1.0])
    assert float((found[1.4] - carry.data).norm()) > float((found[1.0] - carry.data).norm())


# ---------------------------------------------------------------- noise


def test_a_dropped_frame_does_not_change_the_noise_of_others() -> None:
    with stream(fresh_noise=1.0) as bench:
        whole = [bench(skeleton(), seq=n) for n in range(4)]
    with stream(fresh_noise=1.0) as bench:
        part = [bench(skeleton(), seq=n) for n in (0, 3)]
    assert same(whole[0], part[0])
    assert same(whole[3], part[1])
    assert not same(whole[0], whole[3])


def test_fixed_noise_holds_within_an_epoch() -> None:
    with stream(fresh_noise=0.0) as bench:
        first, second = bench(skeleton()), bench(skeleton())
        bench.new_epoch()
        third = bench(skeleton())
    assert same(first, second)
    assert not same(first, third)


def test_noise_between_fixed_and_fresh_keeps_its_length() -> None:
    noise = Noise(torch.device("cpu"))
    shape = (2, 4, 16, 16)
    fixed, fresh = noise.draw(1, shape), noise.draw(2, shape)
    for share in (0.2, 0.5, 0.9):
        mixed = noise(2, 1, share, shape)
        assert 0.97 < float(mixed.std()) < 1.03
        assert float((mixed - fresh).norm()) == pytest.approx(float((fixed - fresh).norm()) * (1 - share), rel=0.25)
    assert torch.equal(noise(2, 1, 0.0, shape), fixed)
    assert torch.equal(noise(2, 1, 1.0, shape), fresh)


# ---------------------------------------------------------------- prompts


def test_a_changed_prompt_is_blended_in() -> None:
    def cond(bench: Bench) -> Any:
        return bench.operator._conditioning.value.text.clone()

    with stream() as bench:
        bench(skeleton(), prompt=Prompt("red"))
        start = cond(bench)
        ways = []
        for _ in range(6):
            bench(skeleton(), prompt=Prompt("blue", blend=4))
            ways.append(cond(bench))
    with stream() as bench:
        bench(skeleton(), prompt=Prompt("blue"))
        end = cond(bench)
    gaps = [float((way - end).norm()) for way in ways]
    whole = float((start - end).norm())
    assert gaps[:4] == sorted(gaps[:4], reverse=True)
    assert gaps[0] < 0.95 * whole
    assert gaps[1] == pytest.approx(whole / 2, rel=0.2)
    assert gaps[3:] == [0.0, 0.0, 0.0]


def test_a_prompt_that_changes_on_its_way_leaves_from_where_it_is() -> None:
    with stream() as bench:
        bench(skeleton(), prompt=Prompt("red"))
        for _ in range(3):
            bench(skeleton(), prompt=Prompt("blue", blend=4))
        before = bench.operator._conditioning.value.text.clone()
        bench(skeleton(), prompt=Prompt("green", blend=100))
        assert float((bench.operator._conditioning.value.text - before).norm()) < 0.05 * float(before.norm())
        bench.new_epoch()
        bench(skeleton(), prompt=Prompt("green", blend=100))
        assert torch.equal(bench.operator._conditioning.value.text, bench.operator._conditioning.target.text)


def test_text_is_encoded_once_a_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import CLIPTextModel

    calls: list[int] = []
    plain = CLIPTextModel.forward
    monkeypatch.setattr(CLIPTextModel, "forward", lambda self, *a, **k: (calls.append(1), plain(self, *a, **k))[1])
    with stream() as bench:
        for text in ("a", "a", "b", "a", "b"):
            bench(skeleton(), prompt=Prompt(text))
    assert len(calls) == 2


def test_the_parameter_is_used_where_no_prompt_is_connected() -> None:
    with stream(prompt="blue") as bench:
        own = bench(skeleton())
        assert same(bench(skeleton(), prompt=Prompt("blue")), own)
        assert not same(bench(skeleton(), prompt=Prompt("red")), own)


def test_words_that_do_not_fit_are_reported() -> None:
    with stream(prompt="z" * 100, chunks=1) as bench:
        bench(skeleton())
    (facts,) = [facts for what, facts in bench.events if what == "prompt_cut"]
    assert facts["limit"] == 77
    assert "z" in facts["lost"]
