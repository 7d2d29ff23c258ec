"""Deep features kept for some steps: exact where every step is full, near where they are not, and cheaper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusion_checkpoints import picture, same, skeleton, stream, unet  # noqa: E402

from engine.errors import UsageError  # noqa: E402
from engine.payload import Image, Latent, Prompt  # noqa: E402
from operators.diffusion.steps.reuse import Reuse  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def real_shape() -> Any:
    """Four levels of two layers, as in Stable Diffusion, thin."""
    return unet(
        3, block_out_channels=(8, 12, 16, 16), layers_per_block=2, down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    )  # fmt: skip


@pytest.mark.parametrize("cut", [0, 1])
@pytest.mark.parametrize("guidance", ["none", "cfg"])
def test_every_step_full_is_the_plain_loop(cut: int, guidance: str) -> None:
    with stream(guidance=guidance) as plain, stream(guidance=guidance, reuse={"every": 1, "cut": cut}) as kept:
        assert same(plain(skeleton()), kept(skeleton()))


@pytest.mark.parametrize("cut", [0, 1, 2])
@pytest.mark.parametrize("control", [False, True])
def test_a_short_pass_on_unchanged_input_is_the_full_pass(cut: int, control: bool) -> None:
    """With the same input the kept deep feature is the right one, so whatever a cut leaves out must not matter: every skip, residual and
    embedding has to be in its place."""
    body = real_shape()
    reuse = Reuse(body, 2, cut)
    torch.manual_seed(0)
    given, t, cond = torch.randn(2, 4, 16, 16), torch.tensor([301.0]), torch.randn(2, 77, 32)
    channels = [8, 8, 8, 8, 12, 12, 12, 16, 16, 16, 16, 16]
    sides = [16, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2]
    down = [torch.randn(2, c, s, s) for c, s in zip(channels, sides, strict=True)] if control else None
    middle = torch.randn(2, 16, 2, 2) if control else None
    with torch.no_grad():
        plain = body(given, t, cond, down_block_additional_residuals=down, mid_block_additional_residual=middle, return_dict=False)[0]
        full = reuse.full(given, t, cond, None, down, middle)
        short = reuse.shallow(given, t, cond, None)
        moved = reuse.shallow(given + 0.1, t, cond, None)
    assert torch.equal(full, plain)
    assert torch.allclose(short, full, atol=1e-5)
    assert not torch.allclose(moved, full, atol=1e-3)


def test_pooled_text_reaches_short_passes() -> None:
    body = unet(5, addition_embed_type="text", addition_embed_type_num_heads=4)
    reuse = Reuse(body, 2, 1)
    torch.manual_seed(0)
    given, t, cond = torch.randn(1, 4, 8, 8), torch.tensor([301.0]), torch.randn(1, 77, 32)
    with torch.no_grad():
        full = reuse.full(given, t, cond, None, None, None)
        assert torch.allclose(reuse.shallow(given, t, cond, None), full, atol=1e-5)
        assert not torch.allclose(reuse.shallow(given, t, cond + 1, None), full, atol=1e-4)


def test_deeper_cuts_come_nearer_to_the_full_result() -> None:
    """Neighbouring timesteps, the input moved as a step moves it: each layer more that is computed anew leaves less error."""
    body = real_shape()
    torch.manual_seed(0)
    given, cond = torch.randn(1, 4, 16, 16), torch.randn(1, 77, 32)
    after = given + 0.02 * torch.randn_like(given)
    errors = []
    with torch.no_grad():
        exact = body(after, torch.tensor([281.0]), cond, return_dict=False)[0]
        for cut in (0, 1, 2):
            reuse = Reuse(body, 2, cut)
            before = reuse.full(given, torch.tensor([301.0]), cond, None, None, None)
            errors.append(float((reuse.shallow(after, torch.tensor([281.0]), cond, None) - exact).norm() / exact.norm()))
        still = float((before - exact).norm() / exact.norm())
    assert errors[2] < errors[0] < still
    assert errors[2] < 0.5 * still


def test_controls_and_deep_layers_rest_on_short_steps() -> None:
    deep: list[int] = []
    nets: list[int] = []
    with stream(steps=7, reuse={"every": 3, "cut": 1}) as bench:
        models = bench.operator.models
        models.unet.mid_block.register_forward_hook(lambda *a: deep.append(1))
        models.nets[0].module.register_forward_hook(lambda *a: nets.append(1))
        bench(skeleton())
    assert len(deep) == len(nets) == 3  # steps 0, 3 and 6


def test_nothing_kept_outlives_its_frame() -> None:
    with stream(steps=6, reuse={"every": 3, "cut": 1}) as bench:
        bench(skeleton(1), carry=Latent(torch.ones(1, 4, 8, 8)))
        second = bench(skeleton(0))
    with stream(steps=6, reuse={"every": 3, "cut": 1}) as bench:
        assert same(bench(skeleton(0)), second)


def test_a_cut_the_model_does_not_have() -> None:
    with pytest.raises(UsageError, match="cuts 0 to 1, found 2"), stream(reuse={"every": 3, "cut": 2}):
        pass


@pytest.mark.parametrize("reuse", [{"every": 0, "cut": 1}, {"every": 2, "cut": -1}, {"every": 2}, {"every": 2, "cut": 1, "depth": 3}])
def test_settings_out_of_range_are_refused(reuse: dict[str, int]) -> None:
    with pytest.raises(Exception, match="reuse"):
        stream(reuse=reuse)


def test_reuse_saves_the_share_of_work_it_should() -> None:
    """Floating point operations of a Stable Diffusion 1.5 UNet on a step, counted without a weight: the table of the paper's cuts."""
    from diffusers import UNet2DConditionModel
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        body = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        given, t, cond = torch.empty(1, 4, 64, 64), torch.empty(1), torch.empty(1, 77, 768)
    work = {}
    with torch.no_grad():
        for cut in (0, 1, 2):
            reuse = Reuse(body, 2, cut)
            with FlopCounterMode(display=False) as full:
                reuse.full(given, t, cond, None, None, None)
            with FlopCounterMode(display=False) as short:
                reuse.shallow(given, t, cond, None)
            work[cut] = short.get_total_flops() / full.get_total_flops()
    assert work[0] == pytest.approx(0.079, abs=0.005)
    assert work[1] == pytest.approx(0.22, abs=0.01)
    assert work[2] == pytest.approx(0.38, abs=0.01)


# ---------------------------------------------------------------- against a partial computation made by hand


def xl_shape() -> Any:
    """Three levels of two layers, no attention in the outermost, pooled text and sizes in the time: as in Stable Diffusion XL, thin."""
    return unet(
        5, block_out_channels=(8, 16, 16), layers_per_block=2, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=[1, 1, 2],
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=16 + 48,
    )  # fmt: skip


@pytest.mark.parametrize("cut", [0, 1, 2])
@pytest.mark.parametrize("make", [real_shape, xl_shape])
@pytest.mark.parametrize("control", [False, True])
def test_a_short_pass_is_the_full_one_with_an_older_deep_feature(make: Callable[[], Any], cut: int, control: bool) -> None:
    """The whole UNet on the new input, but for what enters the last layers, which a hook replaces by what entered them before."""
    body = make()
    with torch.no_grad():
        for parameter in body.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    reuse = Reuse(body, 2, cut)
    torch.manual_seed(1)
    more = {"text_embeds": torch.randn(2, 16), "time_ids": torch.randn(2, 6)} if make is xl_shape else None
    before, now = torch.randn(2, 4, 16, 16), torch.randn(2, 4, 16, 16)
    cond = torch.randn(2, 77, 32)
    shapes: list[tuple[int, ...]] = []
    hooks = [m.register_forward_pre_hook(lambda m, args: shapes.append(tuple(args[0].shape))) for m in (body.mid_block,)]
    layer = body.up_blocks[-1].resnets[2 - cut]
    entered: list[Any] = []
    seen = layer.register_forward_pre_hook(lambda m, args: entered.append(args[0].clone()))
    down = middle = None
    if control:
        blocks = list(body.down_blocks)
        with torch.no_grad():
            skips: list[Any] = []
            hooks += [body.conv_in.register_forward_hook(lambda m, a, out: skips.append(out))]
            hooks += [b.register_forward_hook(lambda m, a, out: skips.extend(out[1])) for b in blocks]
            centre: list[Any] = []
            hooks += [body.mid_block.register_forward_hook(lambda m, a, out: centre.append(out))]
            body(before, torch.tensor([301.0]), cond, added_cond_kwargs=more)
            down, middle = [0.5 * torch.randn_like(skip) for skip in skips], 0.5 * torch.randn_like(centre[0])
        for hook in hooks:
            hook.remove()
    entered.clear()
    with torch.no_grad():
        reuse.full(before, torch.tensor([301.0]), cond, None, down, middle, more)
        old = entered[0]
        seen.remove()
        short = reuse.shallow(now, torch.tensor([261.0]), cond, None, more)

        def replace(m: Any, args: Any) -> Any:
            return (torch.cat([old[:, :-8], args[0][:, -8:]], dim=1), *args[1:])

        hook = layer.register_forward_pre_hook(replace, prepend=True)
        by_hand = body(
            now, torch.tensor([261.0]), cond, added_cond_kwargs=more, down_block_additional_residuals=down, mid_block_additional_residual=middle
        ).sample
        hook.remove()
        exact = body(
            now, torch.tensor([261.0]), cond, added_cond_kwargs=more, down_block_additional_residuals=down, mid_block_additional_residual=middle
        ).sample
    assert torch.allclose(short, by_hand, atol=1e-5)
    assert not torch.allclose(short, exact, atol=1e-3)  # the older feature shows


# ---------------------------------------------------------------- across frames


FOUR = {"every": 1, "cut": 1, "frames": 4, "motion": 0.1}


class Counted:
    """A bench whose full passes are counted: one entry a frame. `kept`: the latent of the frame before."""

    def __init__(self, bench: Any, **first: Any) -> None:
        self.bench, self.deep, self.carry = bench, 0, first.pop("carry", None)
        bench.operator.models.unet.mid_block.register_forward_hook(self._ran)

    def _ran(self, *a: Any) -> None:
        self.deep += 1

    def __call__(self, seed: int = 0, **more: Any) -> int:
        before = self.deep
        self.out = self.bench(skeleton(seed), carry=self.carry, **more)
        self.carry = self.out.latent
        return self.deep - before


def test_a_calm_picture_has_one_key_frame_in_so_many() -> None:
    with stream(steps=6, strength=0.5, reuse=FOUR) as bench:
        run = Counted(bench, carry=Latent(torch.zeros(1, 4, 8, 8)))
        assert [run() for _ in range(9)] == [3, 0, 0, 0, 3, 0, 0, 0, 3]
    with stream(steps=6, strength=0.5, reuse={**FOUR, "every": 2}) as bench:
        run = Counted(bench, carry=Latent(torch.zeros(1, 4, 8, 8)))
        assert [run() for _ in range(6)] == [2, 0, 0, 0, 2, 0]


def test_full_steps_end_where_they_are_said_to() -> None:
    with stream(steps=6, reuse={"every": 2, "cut": 0, "end": 0.5}) as bench:
        run = Counted(bench)
        assert run() == 2  # steps 0 and 2; 4 is past the half
    with stream(steps=6, reuse={"every": 1, "cut": 0, "end": 0.0}) as bench:
        assert Counted(bench)() == 1  # the first is always full


def test_measured_full_passes_are_those_that_ran() -> None:
    with stream(steps=6, strength=0.5, reuse=FOUR) as bench:
        said: list[float] = []
        bench.site._measure = lambda node, seq, numbers: said.append(numbers["full"])
        run = Counted(bench, carry=Latent(torch.zeros(1, 4, 8, 8)))
        ran = [run() for _ in range(5)]
    assert said == ran == [3, 0, 0, 0, 3]


def test_one_frame_is_reuse_within_a_frame() -> None:
    with stream(steps=6, reuse={"every": 2, "cut": 1}) as a, stream(steps=6, reuse={"every": 2, "cut": 1, "frames": 1}) as b:
        for n in range(3):
            assert same(a(skeleton(n)), b(skeleton(n)))


def test_a_frame_on_older_features_is_what_it_is_by_hand() -> None:
    """The plain loop, with what enters the last layers and what the ControlNet adds replaced, step by step, by those of the key frame."""
    carry = Latent(torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3)))
    with stream(steps=6, strength=0.5, reuse={**FOUR, "motion": 1.0}) as bench:
        key = bench(skeleton(0), carry=carry)
        live = bench(skeleton(1), carry=key.latent)
    with stream(steps=6, strength=0.5) as bench:
        models, deep, nets = bench.operator.models, [], []
        layer = models.unet.up_blocks[-1].resnets[0]
        hook = layer.register_forward_pre_hook(lambda m, a: deep.append(a[0][:, :-8].clone()))
        record = models.nets[0].module.register_forward_hook(lambda m, a, out: nets.append(([x.clone() for x in out[0]], out[1].clone())))
        again = bench(skeleton(0), carry=carry)
        assert same(key, again)
        hook.remove()
        record.remove()
        assert len(deep) == len(nets) == 3
        layer.register_forward_pre_hook(lambda m, a: (torch.cat([deep.pop(0), a[0][:, -8:]], 1), *a[1:]))
        models.nets[0].module.register_forward_hook(lambda m, a, out: nets.pop(0))
        by_hand = bench(skeleton(1), carry=key.latent)
    with stream(steps=6, strength=0.5) as bench:
        bench(skeleton(0), carry=carry)
        full = bench(skeleton(1), carry=key.latent)
    assert torch.allclose(live.latent.data, by_hand.latent.data, atol=1e-5)
    assert not torch.allclose(live.latent.data, full.latent.data, atol=1e-3)


def test_motion_makes_a_key_frame() -> None:
    with stream(steps=6, strength=0.5, reuse=FOUR) as bench:
        run = Counted(bench, carry=Latent(torch.zeros(1, 4, 8, 8)))
        assert [run(0), run(0), run(1), run(1), run(0)] == [3, 0, 3, 0, 3]
    with stream(steps=6, strength=0.5, reuse={**FOUR, "motion": 1.0}) as bench:
        run = Counted(bench, carry=Latent(torch.zeros(1, 4, 8, 8)))
        assert [run(0), run(0), run(1), run(1), run(0)] == [3, 0, 0, 0, 3]


def test_slow_motion_adds_up() -> None:
    """Each frame differs from the one before by less than `motion`; what counts is the key frame."""
    import numpy as np

    base = picture(0).astype(np.float32)
    with stream(steps=6, strength=0.5, reuse={**FOUR, "frames": 50}) as bench:
        run = Counted(bench, carry=Latent(torch.zeros(1, 4, 8, 8)))
        ran = []
        for n in range(8):
            seen = Image((base * (1 - 0.03 * n)).astype(np.uint8))
            before = run.deep
            run.carry = bench([seen], carry=run.carry).latent
            ran.append(run.deep - before)
    assert ran == [3, 0, 0, 0, 3, 0, 0, 3]


def test_the_input_picture_counts_as_motion_too() -> None:
    with stream(steps=6, strength=0.5, reuse=FOUR) as bench:
        run = Counted(bench, carry=Latent(torch.zeros(1, 4, 8, 8)))
        assert [run(image=Image(picture(n))) for n in (3, 3, 4, 4)] == [3, 0, 3, 0]


CHANGES: dict[str, dict[str, Any]] = {
    "prompt": {"prompt": "a horse"}, "scale of a net": {"control_scale": 0.5}, "part of a net": {"control_ends": [0.5]},
    "guidance": {"guidance_scale": 3.0}, "steps": {"steps": 8}, "size": {"size": 64}, "noise": {"fresh_noise": 0.5}, "mix": {"carry_mix": 0.1},
    "more strength": {"strength": 0.9}, "cut": {"reuse": {**FOUR, "cut": 0}}, "step distance": {"reuse": {**FOUR, "every": 2}},
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_deep_layers_depend_on_makes_a_key_frame(change: str) -> None:
    with stream(steps=6, strength=0.5, guidance="cfg", size=80, reuse=FOUR) as bench:
        run = Counted(bench, carry=Latent(torch.zeros(1, 4, 8, 8)))
        assert [run(), run()] == [3, 0]
        bench.set(**CHANGES[change])
        assert run() > 0
        assert run() == 0


def test_less_strength_goes_on_with_the_features_of_its_levels() -> None:
    with stream(steps=6, strength=0.9, reuse=FOUR) as bench:
        run = Counted(bench, carry=Latent(torch.zeros(1, 4, 8, 8)))
        assert run() == 5
        bench.set(strength=0.5)
        assert run() == 0


def test_a_blend_has_key_frames_until_it_has_arrived() -> None:
    with stream(steps=6, strength=0.5, reuse={**FOUR, "frames": 50}) as bench:
        run = Counted(bench, carry=Latent(torch.zeros(1, 4, 8, 8)))
        blended = Prompt("a horse", blend=3)
        assert [run(), run(), run(prompt=blended), run(prompt=blended), run(prompt=blended), run(prompt=blended)] == [3, 0, 3, 3, 3, 0]


def test_an_epoch_and_a_start_from_noise_make_key_frames() -> None:
    with stream(steps=6, strength=0.5, reuse=FOUR) as bench:
        run = Counted(bench, carry=Latent(torch.zeros(1, 4, 8, 8)))
        assert [run(), run()] == [3, 0]
        bench.new_epoch()
        assert [run(), run()] == [3, 0]
        run.carry = None
        assert run() == 6


def test_a_frame_tried_again_is_the_frame() -> None:
    """Memory runs out in the middle of the second full step of a key frame, and in a short one: what comes out is as if it had not."""

    def play(fail: tuple[int, ...]) -> list[Any]:
        with stream(steps=6, strength=0.5, reuse=FOUR) as bench:
            calls = [0]

            def ran(*a: Any) -> None:
                calls[0] += 1
                if calls[0] in fail:
                    raise torch.OutOfMemoryError("planted")

            bench.operator.models.unet.conv_out.register_forward_hook(ran)
            found, carry = [], Latent(torch.ones(1, 4, 8, 8))
            for seq in range(6):
                try:
                    out = bench(skeleton(0), carry=carry, seq=seq)
                except torch.OutOfMemoryError:
                    out = bench(skeleton(0), carry=carry, seq=seq)
                carry = out.latent
                found.append(out)
        return found

    assert all(same(a, b) for a, b in zip(play(()), play((2, 10)), strict=True))


def test_a_replay_from_the_middle_is_the_run() -> None:
    with stream(steps=6, strength=0.5, reuse={**FOUR, "every": 2}) as bench:
        run = Counted(bench, carry=Latent(torch.ones(1, 4, 8, 8)))
        assert [run(), run()] == [2, 0]
        state, carry = bench.operator.snapshot(), run.carry
        want = [(run(), run.out) for _ in range(4)]
    assert [ran for ran, _ in want] == [0, 0, 2, 0]
    with stream(steps=6, strength=0.5, reuse={**FOUR, "every": 2}) as bench:
        bench.seq = 2
        bench.operator.recall(state)
        run = Counted(bench, carry=carry)
        for ran, out in want:
            assert run() == ran
            assert same(run.out, out)


def test_settings_are_live_and_a_cut_that_is_not_there_changes_nothing() -> None:
    with stream(steps=6, strength=0.5) as bench:
        run = Counted(bench, carry=Latent(torch.zeros(1, 4, 8, 8)))
        assert run() == 3
        bench.set(reuse={"every": 3, "cut": 1})
        assert run() == 1
        bench.set(reuse={"every": 1, "cut": 2})
        assert run() == 1
        assert [what for what, _ in bench.events if what == "reuse_stays"] == ["reuse_stays"]
        bench.set(reuse=None)
        assert run() == 3


@pytest.mark.parametrize("reuse", [{"frames": 0}, {"motion": 1.5}, {"end": -0.1}])
def test_settings_across_frames_out_of_range_are_refused(reuse: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="reuse"):
        stream(reuse={"every": 1, "cut": 1, **reuse})


def test_a_negative_heard_once_has_features_of_its_own_shape() -> None:
    """Its first pass has a row more: the second step is full, so that later ones find features of their rows; across frames both are kept."""
    with stream(steps=6, strength=0.9, guidance="rcfg-onetime", negative="rain", reuse={**FOUR, "every": 4}) as bench:
        run = Counted(bench, carry=Latent(torch.zeros(1, 4, 8, 8)))
        assert [run() for _ in range(5)] == [3, 0, 0, 0, 3]  # steps 0, 1 and 4 of five
