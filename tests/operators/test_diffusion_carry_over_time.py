"""Guidance, the gate, and all carry tools together over time: counted, forgotten, recalled, tried again."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("cv2")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusion_carries import CARRY, changed  # noqa: E402
from diffusion_checkpoints import picture, same, skeleton, stream  # noqa: E402

from engine.payload import Image, Latent, Prompt  # noqa: E402


def _weights() -> bool:
    from operators import embedded

    return (embedded.root() / "unet" / "diffusion_pytorch_model.safetensors").is_file()


pytestmark = pytest.mark.usefixtures("one_thread")


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
