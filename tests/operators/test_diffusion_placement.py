"""How parts of diffusion.stream are kept: the same picture from fewer bytes on the device, what is chosen before, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import numpy as np  # noqa: E402
from diffusion_adapters import home, ip_adapter, lora_file  # noqa: E402
from diffusion_checkpoints import checkpoints, same, skeleton, stream, unet  # noqa: E402

from engine.errors import DeviceError, MissingError, UsageError  # noqa: E402
from engine.payload import Image, Latent, Prompt  # noqa: E402
from operators.diffusion.weights.stored import store8, store_on_host  # noqa: E402
from operators.models import quantise as quantising  # noqa: E402
from operators.models.quantise import bytes_of, held_bytes, installed, quantise  # noqa: E402
from operators.models.sizes import KEPT, count  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def frame(bench: Any) -> Any:
    return bench(skeleton(), carry=Latent(torch.ones(1, 4, 8, 8)))


def error(found: Any, wanted: Any) -> float:
    """Relative error of a latent."""
    a, b = found.latent.data.float(), wanted.latent.data.float()
    return float((a - b).norm() / b.norm())


def body(dtype: Any) -> tuple[Any, tuple[Any, ...]]:
    """A UNet and what it is called with."""
    made = torch.nn.Module.to(unet(0), dtype).eval().requires_grad_(False)
    torch.manual_seed(1)
    text = torch.randn(1, 77, made.config.cross_attention_dim, dtype=dtype)
    return made, (torch.randn(1, 4, 8, 8, dtype=dtype), torch.tensor(500), text)


# ---------------------------------------------------------------- layers kept otherwise


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_eight_bit_floats_are_diffusers_layerwise_casting(dtype: Any) -> None:
    """Bit for bit, where both leave the same layers alone; its way rounds biases too, so these are made such that nothing is lost."""
    from diffusers.hooks import apply_layerwise_casting

    made, call = body(dtype)
    for name, parameter in made.named_parameters():
        if name.endswith("bias"):
            parameter.data = parameter.data.to(torch.float8_e4m3fn).to(dtype)
    ours, theirs = made, copy.deepcopy(made)
    plain = made(*call)[0]
    store8(ours)
    apply_layerwise_casting(theirs, torch.float8_e4m3fn, dtype, skip_modules_pattern=("norm", "time_embedding", "conv_in", "conv_out"))
    found = ours(*call)[0]
    assert torch.equal(found, theirs(*call)[0])
    assert not torch.equal(found, plain)
    assert float((found - plain).norm() / plain.norm()) < 0.1


def test_eight_bit_floats_are_half_the_bytes_and_stay_so() -> None:
    made, call = body(torch.bfloat16)
    before = held_bytes(made)
    store8(made)
    kept = {name for name, p in made.named_parameters() if p.dtype is torch.bfloat16}
    assert all("norm" in name or name.endswith("bias") or "time_embedding" in name or "conv_in" in name or "conv_out" in name for name in kept)
    addresses = [p.data_ptr() for p in made.parameters()]
    after = held_bytes(made)
    made(*call)
    assert held_bytes(made) == after
    assert [p.data_ptr() for p in made.parameters()] == addresses  # a recorded pass finds them where they were
    assert after < 0.62 * before  # of a tiny model, whose biases and norms weigh more than a real one's


def test_from_the_host_is_the_same_to_the_bit() -> None:
    made, call = body(torch.float32)
    plain = made(*call)[0]
    store_on_host(made, torch.device("cpu"))
    assert torch.equal(made(*call)[0], plain)
    rest = {name for name, p in made.named_parameters() if not KEPT.search(name) and name.endswith("weight") and p.ndim > 1}
    assert rest  # and these are the ones that are fetched
    assert all(type(made.get_submodule(name.removesuffix(".weight"))).__module__.endswith("stored") for name in rest)


def test_a_weight_on_another_device_comes_to_what_it_is_applied_to() -> None:
    """On the meta device nothing is computed, but where results lie shows: weights on the host, inputs there."""
    made, call = body(torch.float32)
    store_on_host(made, torch.device("meta"))
    away = {n for n, p in made.named_parameters() if p.device.type == "cpu"}
    assert away == {n for n, p in made.named_parameters() if n.endswith("weight") and p.ndim > 1 and not KEPT.search(n)}
    assert len(away) > 10
    assert made(*(x.to("meta") for x in call))[0].device.type == "meta"


# ---------------------------------------------------------------- a whole node


@pytest.fixture(scope="module")
def plain() -> Any:
    with stream() as bench:
        return frame(bench)


@pytest.mark.parametrize(
    "placement",
    [
        {"unet": "group"}, {"controlnets": "group"}, {"unet": "group", "controlnets": "offload", "text": "offload", "vae": "offload"},
        {"text": "staged"}, {"unet": "resident", "text": "auto"},
    ],
)  # fmt: skip
def test_moving_weights_changes_nothing(placement: dict[str, str], plain: Any) -> None:
    with stream(placement=placement) as bench:
        assert same(frame(bench), plain)
        bench.operator.relieve()
        assert same(frame(bench), plain)
        bench.operator.restore()
        assert same(frame(bench), plain)


@pytest.mark.parametrize("more", [("", ""), ("+group", "+offload"), ("", "+group")])
def test_eight_bit_floats_paint_nearly_the_same(more: tuple[str, str], plain: Any) -> None:
    with stream(placement={"unet": "fp8", "controlnets": "fp8"}) as bench:
        eight = frame(bench)
    with stream(placement={"unet": f"fp8{more[0]}", "controlnets": f"fp8{more[1]}"}) as bench:
        found = frame(bench)
        models = bench.operator.models
        assert {p.dtype for p in models.unet.parameters()} == {torch.float32, torch.float8_e4m3fn}
        assert {p.dtype for p in models.nets[0].module.parameters()} == {torch.float32, torch.float8_e4m3fn}
        assert ("placed", f"fp8{more[0]}") in [(what, facts.get("unet")) for what, facts in bench.events]
        assert (id(models.unet) in models.streamed) == (more[0] == "+group")
        assert (id(models.nets[0].module) in models.resting) == (more[1] == "+offload")
    assert 0 < error(found, plain) < 0.1
    assert same(found, eight)


def test_a_staged_text_encoder_is_there_only_while_it_works(plain: Any) -> None:
    with stream(placement={"text": "staged"}) as bench:
        module = bench.operator.models.towers[0].module
        assert all(p.is_meta for p in module.parameters())
        seen: list[bool] = []
        module.register_forward_pre_hook(lambda *a: seen.append(any(p.is_meta for p in module.parameters())))
        assert same(frame(bench), plain)
        assert all(p.is_meta for p in module.parameters())
        bench(skeleton(), prompt=Prompt("other words"))
    assert seen == [False] * len(seen)
    assert len(seen) >= 2


def test_the_half_of_the_autoencoder_that_nobody_uses_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes when a picture is encoded for the first time, and stays."""
    with stream(control=0, vae=None) as bench:
        models = bench.operator.models
        moved: list[str] = []
        plain_to = torch.nn.Module.to

        def to(self: Any, *args: Any, **kwargs: Any) -> Any:
            for name, module in (("encoder", models.coder.module.encoder), ("decoder", models.coder.module.decoder)):
                if self is module:
                    moved.append(name)
            return plain_to(self, *args, **kwargs)

        assert set(models.asleep) == {id(module) for module in models.coder.encoding}
        both = {id(p) for module in (*models.coder.encoding, *models.coder.decoding) for p in module.parameters()}
        assert both == {id(p) for p in models.coder.module.parameters()}
        monkeypatch.setattr(torch.nn.Module, "to", to)
        bench(prompt=Prompt("a"))
        assert moved == []
        picture = Image(np.zeros((64, 64, 3), np.uint8))
        bench(image=picture)
        bench(image=picture)
        assert moved == ["encoder"]
        assert not models.asleep


def test_the_memory_plan_decides_where_the_graph_says_nothing(plain: Any) -> None:
    with stream(site_placed={"unet": "fp8", "text": "offload", "activations": "tiling"}) as bench:
        assert 0 < error(frame(bench), plain) < 0.1
        assert bench.operator.models.coder.module.use_tiling
    with stream(site_placed={"unet": "fp8", "activations": "tiling"}, placement={"unet": "resident"}, vae_tiling=False) as bench:
        assert same(frame(bench), plain)
        assert not bench.operator.models.coder.module.use_tiling


def test_memory_that_runs_out_on_the_way_back_is_no_end(monkeypatch: pytest.MonkeyPatch, plain: Any) -> None:
    """The frame that brings weights back fails; relieved once more it succeeds, and later there is room."""
    with stream() as bench:
        models = bench.operator.models
        bench.operator.relieve()
        frame(bench)
        plain_to = torch.nn.Module.to
        full = [True]

        def to(self: Any, *args: Any, **kwargs: Any) -> Any:
            if self is models.coder.module.decoder and full[0]:
                raise torch.OutOfMemoryError("none left")
            return plain_to(self, *args, **kwargs)

        monkeypatch.setattr(torch.nn.Module, "to", to)
        bench.operator.restore()
        with pytest.raises(torch.OutOfMemoryError):
            frame(bench)
        full[0] = False
        assert bench.operator.relieve()  # there was something to give up: its return
        assert same(frame(bench), plain)
        assert models.relieved
        bench.operator.restore()
        assert same(frame(bench), plain)
        assert not models.relieved


# ---------------------------------------------------------------- adapters


@pytest.fixture(scope="module")
def adapters() -> dict[str, str]:
    made = unet(3)
    folder = home() / "placement"
    folder.mkdir(exist_ok=True)
    lora = lora_file(folder / "lora.safetensors", made, {}, style="peft")
    ip = ip_adapter(folder / "ip.safetensors", made, "base")
    return {"lora": str(lora), "ip": str(ip)}


@pytest.mark.parametrize("how", ["fp8", "int8"])
def test_loras_that_move_need_full_weights(how: str, adapters: dict[str, str]) -> None:
    loras = [{"model": adapters["lora"], "weight": 1.0}]
    more = {"placement": {"unet": "fp8"}} if how == "fp8" else {"quantise": {"parts": ["unet"]}}
    with pytest.raises(UsageError, match="fuse_loras = true") as caught, stream(loras=loras, **more):
        pass
    assert how in str(caught.value)


def test_fused_loras_are_merged_before_anything_is_rounded(adapters: dict[str, str]) -> None:
    loras = [{"model": adapters["lora"], "weight": 1.0}]
    with stream(loras=loras, fuse_loras=True) as bench:
        full = frame(bench)
    with stream() as bench:
        without = frame(bench)
    with stream(loras=loras, fuse_loras=True, placement={"unet": "fp8"}) as bench:
        rounded = frame(bench)
        assert bench.operator._loras.fused
    assert error(rounded, full) < 0.1
    assert error(rounded, full) < 0.5 * error(without, full)  # the LoRA is seen


def test_files_do_not_have_what_adapters_changed(adapters: dict[str, str]) -> None:
    with (
        pytest.raises(UsageError, match='take "offload"'),
        stream(loras=[{"model": adapters["lora"]}], fuse_loras=True, placement={"text": "staged"}),
    ):
        pass


@pytest.mark.parametrize("placement", [{"unet": "fp8"}, {"unet": "group"}])
def test_an_ip_adapter_is_at_home_in_every_unet(placement: dict[str, str], adapters: dict[str, str]) -> None:
    from operators.diffusion.adapters.ipadapter import find
    from operators.diffusion.reference import Reference, fingerprint

    adapter = find(adapters["ip"], None)
    torch.manual_seed(0)
    tokens = torch.randn(1, 4, adapter.wide)
    reference = [Reference(tokens, torch.zeros_like(tokens), fingerprint(adapter.projection))]
    results = []
    for more in ({}, {"placement": placement}):
        with stream(ip_adapters=[{"model": adapters["ip"]}], **more) as bench:
            results.append(bench(skeleton(), carry=Latent(torch.ones(1, 4, 8, 8)), reference=reference))
            blind = frame(bench)
    assert error(results[1], results[0]) < 0.1
    assert error(blind, results[0]) > 2 * error(results[1], results[0])


# ---------------------------------------------------------------- quantised


BACKENDS = [pytest.param(name, marks=pytest.mark.skipif(name not in installed(device="cpu"), reason=f"{name} is not installed"))
            for name in ("torchao", "quanto")]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_quantised_unet_paints_nearly_the_same(backend: str, plain: Any) -> None:
    with stream(quantise={"backend": backend, "parts": ["unet", "controlnets"]}) as bench:
        found = frame(bench)
        assert ("placed", f"int8 by {backend}") in [(what, facts.get("unet")) for what, facts in bench.events]
        assert held_bytes(bench.operator.models.unet) < {"torchao": 0.85, "quanto": 0.65}[backend] * held_bytes(unet(0))
    assert 0 < error(found, plain) < 0.1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_predicted_is_what_is_held(backend: str) -> None:
    """On a module of a real one's proportions: wide layers, so that scales and norms weigh as little as they do there."""
    wide = torch.nn.Sequential(torch.nn.Linear(512, 1024), torch.nn.Linear(1024, 512), torch.nn.Conv2d(64, 128, 3)).to(torch.bfloat16)
    linear, conv = 2 * 512 * 1024, 64 * 128 * 9
    rest = sum(p.numel() for p in wide.parameters()) - linear - conv
    quantise(wide, backend, 8, lambda name: False)
    assert held_bytes(wide) == pytest.approx(bytes_of(backend, 8, linear=linear, conv=conv, rest=rest), rel=0.02)


def test_a_library_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantising, "installed", lambda bits=8, device="cuda": [])
    for backend, package in (("auto", "torchao"), ("torchao", "torchao"), ("quanto", "optimum-quanto")):
        with pytest.raises(MissingError, match=f"pip install {package}"), stream(quantise={"backend": backend}):
            pass
    with pytest.raises(DeviceError, match="needs a CUDA device"), stream(quantise={"backend": "bitsandbytes"}):
        pass
    with pytest.raises(MissingError, match="bitsandbytes"), stream(quantise={"bits": 4}):
        pass
    with pytest.raises(UsageError, match="to 8 bits here"), stream(quantise={"backend": "torchao", "bits": 4}):
        pass


def test_one_way_a_part() -> None:
    with pytest.raises(UsageError, match="one of the two"), stream(quantise={"parts": ["unet"]}, placement={"unet": "fp8"}):
        pass


def test_headers_say_what_a_module_holds() -> None:
    found = count(Path(checkpoints().model) / "unet")
    made, _ = body(torch.float32)
    assert found.total == sum(p.numel() for p in made.parameters())
    stored = [layer for name, layer in made.named_modules() if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d) and not KEPT.search(name)]
    assert found.linear == sum(layer.weight.numel() for layer in stored if isinstance(layer, torch.nn.Linear))
    assert found.conv == sum(layer.weight.numel() for layer in stored if isinstance(layer, torch.nn.Conv2d))


# ---------------------------------------------------------------- the image encoder


def test_an_image_encoder_may_be_away_or_read_each_time(adapters: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same tokens; and between two pictures it is where it was said to be."""
    from diffusion_adapters import image_encoder

    from engine.testing import Bench

    picture = [Image(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))]
    other = [Image(np.random.default_rng(1).integers(0, 256, (40, 40, 3), np.uint8))]
    tokens: dict[str, Any] = {}
    plain_to = torch.nn.Module.to
    for how in ("resident", "offload", "staged"):
        moves: list[str] = []
        with Bench("diffusion.reference", adapter=adapters["ip"], encoder=str(image_encoder()), placement=how) as bench:
            network = bench.operator._network
            assert (network is None) == (how == "staged")

            def to(self: Any, *args: Any, _network: Any = network, _moves: list[str] = moves, **kwargs: Any) -> Any:
                if self is _network and args:
                    _moves.append(str(args[0]))
                return plain_to(self, *args, **kwargs)

            monkeypatch.setattr(torch.nn.Module, "to", to)
            bench.operator.device = torch.device("cpu", 0)
            tokens[how] = bench(picture).tokens
            bench(picture)  # the same: nothing runs, nothing moves
            assert moves == {"resident": ["cpu:0"], "offload": ["cpu:0", "cpu"], "staged": []}[how]
            assert bench.operator.relieve() == (how == "resident")
            assert not bench.operator.relieve()
            bench.operator.restore()
            bench(other)
            assert (moves[-1:] == ["cpu:0"]) == (how == "resident")
            monkeypatch.undo()
    assert torch.equal(tokens["resident"], tokens["offload"])
    assert torch.equal(tokens["resident"], tokens["staged"])


def test_the_plan_moves_the_image_encoder(adapters: dict[str, str]) -> None:
    from diffusion_adapters import image_encoder

    from engine.testing import Bench

    with Bench("diffusion.reference", adapter=adapters["ip"], encoder=str(image_encoder()), site_placed={"image encoder": "offload"}) as bench:
        assert not bench.operator.relieve()  # away already
