"""Deep features kept for some steps: exact where every step is full, near where they are not, and cheaper."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusion_checkpoints import same, skeleton, stream, unet  # noqa: E402

from engine.errors import UsageError  # noqa: E402
from engine.payload import Latent  # noqa: E402
from operators.diffusion.reuse import Reuse  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
