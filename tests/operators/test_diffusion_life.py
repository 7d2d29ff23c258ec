"""diffusion.stream over time: sizes, drift and cuts, values that are not finite, memory given back, nothing waited for, nothing leaked."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusion_checkpoints import picture, same, skeleton, stream  # noqa: E402

from engine.errors import RunError  # noqa: E402
from engine.payload import Image, Latent, Prompt  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


# ---------------------------------------------------------------- sizes


def test_size_moves_the_work_and_not_the_output() -> None:
    with stream(size=128, width=192, height=128) as bench:
        out = bench([Image(picture(0, 160, 320))])
        assert out.image.data.shape == (128, 192, 3)
        assert tuple(out.latent.data.shape) == (1, 4, 16, 24)
        bench.set(size=64)
        out = bench([Image(picture(0, 160, 320))], carry=out.latent)
        assert out.image.data.shape == (128, 192, 3)
        assert tuple(out.latent.data.shape) == (1, 4, 8, 12)


@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_inputs_are_fitted(fit: str) -> None:
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, 32:96] = 255
    with stream(fit=fit) as bench:
        bench([Image(wide)])
        seen = bench.operator._controls.intakes[0].tensor[0, 0]
    assert float(seen[:, 0].mean()) == pytest.approx(1.0 if fit == "crop" else 0.0, abs=0.02)
    assert float(seen[:, 32].mean()) == pytest.approx(1.0, abs=0.02)


def test_fused_and_plain_output_agree() -> None:
    from operators.diffusion.pictures.pixels import Outlet

    torch.manual_seed(0)
    pixels = (torch.rand(1, 3, 40, 56) * 2.6 - 1.3).to(memory_format=torch.channels_last)
    found = np.empty((40, 56, 3), np.uint8)
    Outlet.fused(pixels, found)
    plain = Outlet.plain(pixels).numpy()
    assert np.abs(found.astype(int) - plain).max() <= 1  # values in the middle between two bytes may go either way
    assert (found != plain).mean() < 1e-3
    assert {found.min(), found.max()} == {0, 255}


# ---------------------------------------------------------------- drift, cuts, trouble


def test_reset_every_asks_for_a_new_epoch() -> None:
    with stream(reset_every=3) as bench:
        for n in range(3):
            assert bench.resets == []
            bench(skeleton(n))
        assert bench.resets == ["drift"]
        bench(skeleton(3))
        assert bench.resets == ["drift"]  # asked once; frames under way go on until it comes
        bench.new_epoch()
        for n in range(3):
            assert len(bench.resets) == 1
            bench(skeleton(n))
        assert bench.resets == ["drift", "drift"]


def test_a_scene_cut_drops_the_carry_and_asks_for_a_new_epoch() -> None:
    carry = Latent(torch.full((1, 4, 8, 8), 0.5))
    near = picture(0).copy()
    near[:8, :8] += 3
    with stream(scene_cut=0.1) as bench:
        bench(skeleton(0), carry=carry)
        bench([Image(near)], carry=carry)
        assert bench.resets == []
        cut = bench(skeleton(1), carry=carry)
        assert bench.resets == ["scene cut"]
    with stream() as bench:
        assert same(bench(skeleton(1)), cut)


def test_reset_leaves_nothing_of_the_epoch() -> None:
    with stream(fresh_noise=0.5, scene_cut=0.01) as bench:
        bench(skeleton(0), prompt=Prompt("red"))
        bench(skeleton(1), prompt=Prompt("blue", blend=9))
        bench.new_epoch()
        after = bench(skeleton(2), prompt=Prompt("blue"), seq=10)
        assert len(bench.resets) == 1
    with stream(fresh_noise=0.5) as bench:
        bench.new_epoch()
        assert same(bench(skeleton(2), prompt=Prompt("blue"), seq=10), after)


def test_a_carry_that_is_not_finite_is_left_once() -> None:
    with stream() as bench:
        good = bench(skeleton())
        bad = Latent(torch.full((1, 4, 8, 8), float("nan")))
        assert same(bench(skeleton(), carry=bad), good)
        assert [what for what, _ in bench.events].count("not_finite") == 1
        assert same(bench(skeleton()), good)


def test_a_model_that_is_not_finite_ends_in_a_typed_error() -> None:
    with stream() as bench:
        with torch.no_grad():
            bench.operator.models.unet.conv_out.bias.fill_(float("inf"))
        with pytest.raises(RunError, match="not finite"):
            bench(skeleton(), carry=Latent(torch.zeros(1, 4, 8, 8)))


def test_out_of_memory_passes_through_and_relief_changes_nothing_but_place() -> None:
    with stream() as bench:
        plain = bench(skeleton(), carry=Latent(torch.ones(1, 4, 8, 8)))
        unet = bench.operator.models.unet
        kept = unet.forward

        def full(*args: Any, **kwargs: Any) -> Any:
            raise torch.OutOfMemoryError("none left")

        unet.forward = full
        with pytest.raises(torch.OutOfMemoryError):
            bench(skeleton())
        unet.forward = kept
        assert bench.operator.relieve()
        assert bench.operator.models.relieved
        assert not bench.operator.relieve()
        assert same(bench(skeleton(), carry=Latent(torch.ones(1, 4, 8, 8))), plain)
        bench.operator.restore()
        assert bench.operator.models.relieved  # nothing moves during a frame: the next one brings it back
        assert same(bench(skeleton(), carry=Latent(torch.ones(1, 4, 8, 8))), plain)
        assert not bench.operator.models.relieved


def test_a_frame_tried_again_is_the_frame_it_would_have_been() -> None:
    """Memory runs out at each place in turn; the second try must not see traces of the first."""
    carry, words = Latent(torch.full((1, 4, 8, 8), 0.5)), Prompt("blue", blend=5)

    def prepare(bench: Any) -> None:
        bench(skeleton(0), prompt=Prompt("red"), seq=0)
        bench(skeleton(1), prompt=words, seq=1)

    with stream(scene_cut=0.01, fresh_noise=0.5) as bench:
        prepare(bench)
        expected = bench(skeleton(2), carry=carry, prompt=words, seq=2)
    for place in ("embedding", "unet", "vae"):
        with stream(scene_cut=0.01, fresh_noise=0.5) as bench:
            prepare(bench)
            models = bench.operator.models
            module = {"embedding": models.nets[0].embedding, "unet": models.unet, "vae": models.coder.module.decoder}[place]

            def full(*args: Any) -> None:
                raise torch.OutOfMemoryError("none left")

            hook = module.register_forward_pre_hook(full)
            with pytest.raises(torch.OutOfMemoryError):
                bench(skeleton(2), carry=carry, prompt=words, seq=2)
            hook.remove()
            assert same(bench(skeleton(2), carry=carry, prompt=words, seq=2), expected), place
            assert bench.resets == ["scene cut", "scene cut"]


def test_relieved_modules_are_away_between_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    """On one device nothing moves, so moves are written down: in before, out after, and the UNet never."""
    with stream() as bench:
        models = bench.operator.models
        names = {id(models.unet): "unet", id(models.coder.module.decoder): "vae", id(models.towers[0].module): "text"}
        names[id(models.nets[0].module)] = "control"
        moves: list[tuple[str, str]] = []
        plain = torch.nn.Module.to

        def to(self: Any, *args: Any, **kwargs: Any) -> Any:
            if id(self) in names:
                moves.append((names[id(self)], str(args[0])))
            return plain(self, *args, **kwargs)

        monkeypatch.setattr(torch.nn.Module, "to", to)
        models.device = torch.device("cpu", 0)  # told apart from "cpu", where modules rest
        bench.operator.relieve()
        assert {name for name, _ in moves} == {"vae", "text", "control"}
        moves.clear()
        bench(skeleton(1), prompt=Prompt("new words"))
        assert moves == [(name, place) for name in ("text", "control", "vae") for place in ("cpu:0", "cpu")]


def test_what_the_memory_plan_keeps_away_stays_away() -> None:
    """The plan names the text encoder and the ControlNet; running out of memory takes the rest, and relief gives back no more than that."""
    with stream() as bench:
        plain = bench(skeleton(), carry=Latent(torch.ones(1, 4, 8, 8)))
    with stream(site_placed={"text": "offload", "controlnet 1": "offload"}) as bench:
        models = bench.operator.models
        planned = {id(models.towers[0].module), id(models.nets[0].module), id(models.nets[0].embedding)}
        assert set(models.resting) == planned
        assert same(bench(skeleton(), carry=Latent(torch.ones(1, 4, 8, 8))), plain)
        assert bench.operator.relieve()
        assert set(models.resting) == planned | {id(models.coder.module.decoder), id(models.coder.module.encoder)}
        bench.operator.restore()
        bench(skeleton())
        assert set(models.resting) == planned


def test_a_frame_says_what_was_executed() -> None:
    said: list[dict[str, float]] = []
    with stream(steps=4, strength=0.5) as bench:
        bench.site._measure = lambda node, seq, numbers: said.append(numbers)
        bench(skeleton())
        bench(skeleton(), carry=Latent(torch.ones(1, 4, 8, 8)))
    assert [(row["executed"], row["strength"]) for row in said] == [(4, 0.5), (2, 0.5)]


# ---------------------------------------------------------------- steady state


class Watch(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts operations that make the host wait for a device, or ask it."""

    WAITS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "item")

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        if function.overloadpacket.__name__ in self.WAITS:
            self.waits.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("scheduler", ["ddim", "euler_a", "dpm++", "lcm"])
def test_no_host_sync_in_a_steady_frame(scheduler: str) -> None:
    with stream(scheduler=scheduler, guidance="cfg", fresh_noise=0.3, reuse={"every": 2, "cut": 1}) as bench:
        carry = bench(skeleton(0), image=Image(picture(7))).latent
        carry = bench(skeleton(1), image=Image(picture(8)), carry=carry).latent
        with Watch() as watch:
            bench(skeleton(2), image=Image(picture(9)), carry=carry, prompt=Prompt("a dancer"))
        assert watch.count > 100
        assert watch.waits == []


def test_memory_does_not_grow() -> None:
    def tensors() -> int:
        gc.collect()
        return sum(1 for each in gc.get_objects() if type(each) is torch.Tensor)

    with stream(control=0, steps=1, fresh_noise=0.5, guidance="none") as bench:
        carry = None
        counts, buffers = [], []
        for n in range(200):
            out = bench(None, Image(picture(n % 5)), carry, Prompt(f"dancer {n % 3}", blend=2))
            carry = out.latent
            bench.let_go()
            bench.set(strength=0.3 + 0.05 * (n % 10))
            if n in (40, 199):
                counts.append(tensors())
                buffers.append(bench.site.pools.allocated)
    assert buffers[0] == buffers[1]
    assert counts[1] <= counts[0] + 2


def test_an_unchanged_condition_is_embedded_once() -> None:
    with stream() as bench:
        calls: list[int] = []
        embedding = bench.operator.models.nets[0].embedding
        embedding.register_forward_hook(lambda *a: calls.append(1))
        for seed in (0, 0, 1, 1, 1, 0):
            bench(skeleton(seed))
    assert len(calls) == 3
