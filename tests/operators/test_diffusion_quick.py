"""What may make modules quick is tried first and taken only where it is right: attention, accumulation, compiled blocks."""

from __future__ import annotations

import shutil
import sys
import types
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusion_checkpoints import same, skeleton, stream  # noqa: E402
from diffusion_tape import events  # noqa: E402

from operators.diffusion.steps import accumulate, attend, compiled, quick  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


# ---------------------------------------------------------------- accumulation


class Switch:
    """Stands in for torch's flag; `error` is what turning it on does to a product."""

    def __init__(self, error: float) -> None:
        self.allow_fp16_accumulation = False
        self.error = error


@pytest.fixture
def geforce(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make the host look like a card that gains, with products that are off by `error` in half precision."""

    def put(error: float) -> Switch:
        switch = Switch(error)
        monkeypatch.setattr(accumulate, "switch", lambda: switch)
        monkeypatch.setattr(accumulate, "gains", lambda models: True)
        monkeypatch.setattr(accumulate, "able", lambda models: None)
        return switch

    return put


@pytest.mark.parametrize(("error", "taken"), [(1e-4, "fp16"), (0.009, "fp16"), (0.02, "fp32"), (float("nan"), "fp32"), (float("inf"), "fp32")])
def test_half_precision_sums_are_taken_only_where_the_output_stays(error: float, taken: str, geforce: Any) -> None:
    switch = geforce(error)
    with stream() as bench:
        models, told = bench.operator.models, []
        models.unet.conv_out.register_forward_hook(lambda m, a, out: out * (1 + switch.error) if switch.allow_fp16_accumulation else out)
        with torch.inference_mode():
            assert accumulate.choose("auto", models, lambda what, **facts: told.append((what, facts))) == taken
    assert switch.allow_fp16_accumulation is (taken == "fp16")
    (what, facts), = told
    if taken == "fp16":
        assert what == "accumulation"
        assert facts["error"] == pytest.approx(error, rel=0.05)
    else:
        assert what == "accumulation_stays"
        assert "off by" in facts["why"]


def test_half_precision_sums_are_not_asked_of_what_cannot() -> None:
    with stream(accumulation="fp16") as bench:
        assert [facts["why"] for facts in events(bench, "accumulation_stays")] == ["the model computes in float32"]
    with stream() as bench:
        assert not events(bench, "accumulation_stays")  # nobody asked
        assert not events(bench, "quick")


def test_the_flag_of_this_torch_is_found() -> None:
    switch = accumulate.switch()
    assert switch is not None
    assert switch.allow_fp16_accumulation is False


# ---------------------------------------------------------------- attention


def xformers(monkeypatch: pytest.MonkeyPatch, attention: Any) -> None:
    package, ops = types.ModuleType("xformers"), types.ModuleType("xformers.ops")
    ops.memory_efficient_attention = attention  # type: ignore[attr-defined]
    package.ops = ops  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "xformers", package)
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)


def right(query: Any, key: Any, value: Any) -> Any:
    """(rows, places, heads, width), as xformers lays them."""
    called.append(query.shape)
    parts = (x.transpose(1, 2) for x in (query, key, value))
    return torch.nn.functional.scaled_dot_product_attention(*parts).transpose(1, 2)


called: list[Any] = []


def test_xformers_that_agrees_is_used_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    xformers(monkeypatch, right)
    with stream() as plain, stream(attention="xformers") as other:
        assert events(other, "quick")[0]["attention"] == "xformers"
        kinds = {type(p) for p in other.operator.models.unet.attn_processors.values()}
        assert kinds == {attend.Processor}
        called.clear()
        found, expected = other(skeleton()), plain(skeleton())
        assert called
        assert torch.allclose(found.latent.data, expected.latent.data, atol=1e-5)


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (lambda q, k, v: right(q, k, v) * 1.05, "differs from torch by 0.05"),
        (lambda q, k, v: right(q, k, v) * float("nan"), "differs from torch by inf"),
        (lambda q, k, v: (_ for _ in ()).throw(NotImplementedError("no kernel for sm75")), "no kernel for sm75"),
    ],
)
def test_xformers_that_does_not_is_left_alone(broken: Any, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    xformers(monkeypatch, broken)
    with stream() as plain, stream(attention="xformers") as other:
        assert why in events(other, "attention_stays")[0]["why"]
        assert same(plain(skeleton()), other(skeleton()))


def test_xformers_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xformers", None)
    with stream(attention="xformers") as bench:
        assert "cannot be imported" in events(bench, "attention_stays")[0]["why"]


# ---------------------------------------------------------------- compiled blocks


def test_blocks_are_put_in_and_taken_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a compiler that changes what it compiles, everything is as before."""
    monkeypatch.setattr(compiled, "self_test", lambda device: None)
    monkeypatch.setattr(torch, "compile", lambda forward, **k: lambda *a, **kw: forward(*a, **kw) * 1.1)
    with stream() as plain, stream(compile="blocks") as other:
        assert "off by" in events(other, "compile_stays")[0]["why"]
        assert same(plain(skeleton()), other(skeleton()))


def test_blocks_of_unet_and_controlnet_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(compiled, "self_test", lambda device: None)
    monkeypatch.setattr(torch, "compile", lambda forward, **k: seen.append((type(forward.__self__).__name__, k)) or forward)
    with stream(compile="blocks") as bench:
        assert events(bench, "compiled")[0]["blocks"] == len(seen)
        models = bench.operator.models
        blocks = [m for body in (models.unet, models.nets[0].module) for m in body.modules() if type(m).__name__ in compiled.KINDS]
        assert len(seen) == len(blocks) > 8
    assert {name for name, _ in seen} == set(compiled.KINDS)
    assert all(settings == {"mode": None, "dynamic": False} for _, settings in seen)  # no tuning where there are no tensor cores


def test_a_compiler_that_fails_its_test_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(function: Any, **k: Any) -> Any:
        return lambda *a: function(*a) + 1

    monkeypatch.setattr(torch, "compile", wrong)
    with stream(compile="blocks") as bench:
        assert events(bench, "compile_stays")[0]["why"] == "the compiler's result is wrong"

    def broken(function: Any, **k: Any) -> Any:
        raise RuntimeError("Cannot find a working triton installation")

    monkeypatch.setattr(torch, "compile", broken)
    with stream(compile="blocks") as bench:
        assert "triton" in events(bench, "compile_stays")[0]["why"]


def test_attention_that_remembers_stays_out_of_compiled_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(compiled, "self_test", lambda device: None)
    monkeypatch.setattr(torch, "compile", lambda forward, **k: seen.append(type(forward.__self__).__name__) or forward)
    with stream(compile="blocks", control=0, remember={}):
        assert set(seen) == {"ResnetBlock2D"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_torch_really_compiles_blocks_here() -> None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("no C++ compiler: torch cannot compile for the host")
    with stream(control=0) as plain, stream(control=0, compile="blocks") as other:
        assert events(other, "compile_stays") == []
        found, expected = other(skeleton()[:0]), plain(skeleton()[:0])
        assert torch.allclose(found.latent.data, expected.latent.data, atol=1e-4)


def test_a_sample_fits_every_kind_of_unet() -> None:
    from diffusion_adapters import sdxl

    from engine.testing import Bench

    with Bench("diffusion.stream", model=sdxl().model, dtype="fp32", size=64) as bench, torch.inference_mode():
        models = bench.operator.models
        assert quick.answer(models).shape[1] == 4
        assert torch.equal(quick.answer(models), quick.answer(models))
