"""LoRAs, IP-Adapters and textual inversion against diffusers on the same tiny files (1e-5, float32), and what is theirs alone: live changes.

Every adapter is random and loud, and every test asserts that its effect is seen, so that none passes because nothing happened.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
peft = pytest.mark.skipif(not __import__("importlib").util.find_spec("peft"), reason="diffusers reads LoRAs through peft, which is not here")

from diffusion_adapters import home, image_encoder, ip_adapter, lora_file, plain, sdxl  # noqa: E402
from diffusion_checkpoints import picture, same, skeleton, stream  # noqa: E402
from diffusion_pairs import Case, agree, close, differ, looked, ours  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from engine.errors import UsageError  # noqa: E402
from engine.payload import Image  # noqa: E402
from engine.testing import Bench, conform  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def unet(xl: bool = False) -> Any:
    return diffusers.UNet2DConditionModel.from_pretrained(Path((sdxl() if xl else plain()).model) / "unet")


def texts(xl: bool = False) -> dict[str, Any]:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    root = Path((sdxl() if xl else plain()).model)
    one = CLIPTextModel.from_pretrained(root / "text_encoder")
    return {"te1": one, "te2": CLIPTextModelWithProjection.from_pretrained(root / "text_encoder_2")} if xl else {"te": one}


def lora(style: str, *, xl: bool = False, text: bool = True, seed: int = 0, **more: Any) -> Path:
    path = home() / f"lora-{style}-{xl}-{text}-{seed}-{more.get('alpha', '')}.safetensors"
    return path if path.is_file() else lora_file(path, unet(xl), texts(xl) if text else {}, style=style, seed=seed, **more)


def adapter(kind: str, *, xl: bool = False, seed: int = 7) -> Path:
    path = home() / f"ip-{kind}-{xl}-{seed}.safetensors"
    return path if path.is_file() else ip_adapter(path, unet(xl), kind, seed)


# ---------------------------------------------------------------- LoRA


@peft
@pytest.mark.parametrize("style", ["kohya", "diffusers", "old"])
def test_lora(style: str) -> None:
    """The text encoder's part in the newer names only: diffusers 0.42 drops kohya's of it where transformers is of version 5."""
    case = Case(plain(), loras=[(lora(style, text=style == "diffusers"), 0.8)])
    differ(agree(case), ours(replace(case, loras=()))[0])


@pytest.mark.parametrize("xl", [False, True])
def test_names_do_not_matter(xl: bool) -> None:
    """kohya's names, those of the first SDXL code and peft's lead to the same layers, text encoders too."""
    made = [lora(style, xl=xl, alpha=3.0) for style in ("diffusers", "kohya", *(("sgm",) if xl else ()))]
    found = [ours(Case(sdxl() if xl else plain(), xl=xl, loras=[(path, 0.8)]))[0] for path in made]
    assert all(torch.equal(found[0], other) for other in found[1:])
    differ(found[0], ours(Case(sdxl() if xl else plain(), xl=xl, loras=[(lora("diffusers", xl=xl, text=False), 0.8)]))[0])


@peft
@pytest.mark.parametrize("style", ["kohya", "sgm", "diffusers"])
def test_lora_of_sdxl(style: str) -> None:
    case = Case(sdxl(), xl=True, loras=[(lora(style, xl=True, text=style == "diffusers"), 0.8)])
    differ(agree(case), ours(replace(case, loras=()))[0])


@peft
@pytest.mark.parametrize("image", [False, True])
def test_several_loras_with_everything_else(image: bool) -> None:
    pair = [(lora("kohya", text=False), 0.7), (lora("diffusers", seed=3), -0.4)]
    case = Case(plain(), "lcm", image=image, control=1, scale=4.0, loras=pair, ours={"guidance": "cfg"})
    mine = agree(case)
    differ(mine, ours(replace(case, loras=pair[:1]))[0])
    differ(mine, ours(replace(case, loras=pair[1:]))[0])


def test_lora_weights_live_and_come_back_to_the_bit() -> None:
    wishes = [{"model": str(lora("kohya")), "weight": 0.8}, {"model": str(lora("diffusers", seed=3)), "weight": 0.0}]
    with stream(model=plain().model, control=0, loras=wishes) as bench:
        first = bench().latent.data
        pointers = [layer.module.weight.data_ptr() for layer in bench.operator._loras.layers]
        bench.set(lora_weights=[0.2, 0.5])
        moved = bench().latent.data
        bench.set(lora_weights=[0.0, 0.0])
        without = bench().latent.data
        bench.set(lora_weights=None)
        assert torch.equal(bench().latent.data, first)
        assert pointers == [layer.module.weight.data_ptr() for layer in bench.operator._loras.layers]
    differ(moved, first)
    with stream(model=plain().model, control=0) as bench:
        assert torch.equal(bench().latent.data, without)
    wishes = [{**wish, "weight": weight} for wish, weight in zip(wishes, (0.2, 0.5), strict=True)]
    with stream(model=plain().model, control=0, loras=wishes) as bench:
        assert torch.equal(bench().latent.data, moved)


def test_the_text_encoder_is_asked_again_when_its_lora_moves() -> None:
    from operators.diffusion.adapters import lora as module

    with stream(model=plain().model, control=0, loras=[{"model": str(lora("kohya"))}]) as bench:
        bench()
        texts_only = [layer for layer in bench.operator._loras.layers if layer.text]
        assert len(texts_only) == 9
        before = bench.operator._conditioning.value.text
        bench()
        assert bench.operator._conditioning.value.text is before
        bench.set(lora_weights=[0.1])
        bench()
        differ(bench.operator._conditioning.value.text, before)
    assert module.Loras([], []).set([]) is False


def test_fused_loras_stay() -> None:
    wish = [{"model": str(lora("kohya")), "weight": 0.8}]
    with stream(model=plain().model, control=0, loras=wish) as bench:
        live = bench().latent.data
    with stream(model=plain().model, control=0, loras=wish, fuse_loras=True) as bench:
        assert torch.equal(bench().latent.data, live)
        assert all(layer.loaded is None for layer in bench.operator._loras.layers)
        bench.set(lora_weights=[0.1])
        assert torch.equal(bench().latent.data, live)
        assert [what for what, _ in bench.events].count("loras_fused") == 1


def test_a_lora_for_another_model_is_refused() -> None:
    with pytest.raises(UsageError, match="made for this family"), stream(loras=[{"model": str(lora("kohya", xl=True, text=False))}]):
        pass
    nothing = home() / "nothing.safetensors"
    save_file({"lora_unet_elsewhere.lora_down.weight": torch.zeros(1, 1), "lora_unet_elsewhere.lora_up.weight": torch.zeros(1, 1)}, nothing)
    with pytest.raises(UsageError, match=r"none of its 1 layers.*elsewhere"), stream(loras=[{"model": str(nothing)}]):
        pass


def test_layers_that_are_not_in_the_model_are_told() -> None:
    state = load_file(lora("kohya"))
    state |= {"lora_unet_elsewhere.lora_down.weight": torch.zeros(1, 1), "lora_unet_elsewhere.lora_up.weight": torch.zeros(1, 1)}
    save_file(state, home() / "more.safetensors")
    with stream(model=plain().model, control=0, loras=[{"model": str(home() / "more.safetensors")}]) as bench:
        (facts,) = [facts for what, facts in bench.events if what == "lora_rest"]
    assert facts["unknown"] == 1
    assert facts["such_as"] == "unet.elsewhere"


@pytest.mark.parametrize(("key", "kind"), [("hada_w1_a", "LoHa"), ("lokr_w1", "LoKr"), ("dora_scale", "DoRA")])
def test_other_adapters_are_named(key: str, kind: str, tmp_path: Path) -> None:
    save_file({f"lora_unet_x.{key}": torch.zeros(1, 1)}, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match=f"found {kind}"), stream(loras=[{"model": str(tmp_path / "other.safetensors")}]):
        pass


@pytest.mark.parametrize(("name", "sampler"), [("lcm-lora-sdv1-5", "lcm"), ("Hyper-SD15-4steps-lora", "ddim"), ("my-style", "dpm++")])
def test_a_lora_may_change_the_schedule(name: str, sampler: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.safetensors"
    path.write_bytes(lora("kohya").read_bytes())
    with stream(model=plain().model, loras=[{"model": str(path)}], scheduler="auto", guidance="auto", steps=None) as bench:
        (facts,) = [facts for what, facts in bench.events if what == "model"]
    assert facts["sampler"] == sampler
    assert (facts["guidance"], facts["steps"]) == (("cfg", 15) if sampler == "dpm++" else ("none", 4))


def test_loras_that_want_two_schedules_or_another_model_are_refused(tmp_path: Path) -> None:
    for name in ("lcm", "hyper-sd", "lightning"):
        (tmp_path / f"{name}.safetensors").write_bytes(lora("kohya").read_bytes())
    two = [{"model": str(tmp_path / "lcm.safetensors")}, {"model": str(tmp_path / "hyper-sd.safetensors")}]
    with pytest.raises(UsageError, match="schedule of their own"), stream(model=plain().model, loras=two):
        pass
    with pytest.raises(UsageError, match=r"lightning LoRA is made for sdxl.*found.*sd15"):
        stream(model=plain().model, loras=[{"model": str(tmp_path / "lightning.safetensors")}]).__enter__()
    with stream(model=plain().model, loras=[{"model": str(tmp_path / "lightning.safetensors"), "kind": "style"}]):
        pass


def test_peft_metadata_says_alpha(tmp_path: Path) -> None:
    import json

    state = load_file(lora("diffusers", text=False))
    path = tmp_path / "meta.safetensors"
    save_file(state, path, metadata={"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 6, "unet.r": 3})})
    wish = [{"model": str(lora("diffusers", text=False)), "weight": 1.0}]
    half = [{"model": str(path), "weight": 0.5}]
    with stream(model=plain().model, control=0, loras=half) as a, stream(model=plain().model, control=0, loras=wish) as b:
        close(a().latent.data, b().latent.data)


# ---------------------------------------------------------------- IP-Adapter


@pytest.mark.parametrize(("kind", "scale"), [("base", 1.0), ("base", 4.0), ("plus", 4.0), ("full", 4.0)])
def test_ip_adapter(kind: str, scale: float) -> None:
    case = Case(plain(), scale=scale, references=[(adapter(kind), 0.7, [20])], encoder=image_encoder())
    differ(agree(case), ours(replace(case, references=()))[0])


@pytest.mark.parametrize("kind", ["base", "plus"])
def test_ip_adapter_of_sdxl(kind: str) -> None:
    case = Case(sdxl(), xl=True, scale=4.0, references=[(adapter(kind, xl=True), 0.7, [20])], encoder=image_encoder())
    differ(agree(case), ours(replace(case, references=()))[0])


def test_several_pictures_and_several_adapters() -> None:
    pair = [(adapter("base"), 0.7, [20, 21]), (adapter("plus"), 0.4, [22])]
    case = Case(plain(), scale=4.0, references=pair, encoder=image_encoder())
    mine = agree(case)
    differ(mine, ours(replace(case, references=[(pair[0][0], 0.7, [20]), pair[1]]))[0])
    differ(mine, ours(replace(case, references=pair[:1]))[0])


@peft
@pytest.mark.parametrize(("xl", "image"), [(False, True), (True, False)])
def test_the_whole_recipe(xl: bool, image: bool) -> None:
    """ControlNet, IP-Adapter and an LCM LoRA together, as live graphs use them."""
    case = Case(
        sdxl() if xl else plain(), "lcm", xl=xl, control=1, image=image, references=[(adapter("plus", xl=xl), 0.6, [20])],
        loras=[(lora("kohya", xl=xl, text=False), 1.0)], encoder=image_encoder(),
    )  # fmt: skip
    mine = agree(case)
    for without in ({"control": 0}, {"references": ()}, {"loras": ()}):
        differ(mine, ours(replace(case, **without))[0])


def referring(**more: Any) -> Any:
    return stream(model=plain().model, control=0, ip_adapters=[{"model": str(adapter("base")), "scale": 0.7}], **more)


def test_the_scale_of_a_reference_lives() -> None:
    look = looked(adapter("base"), image_encoder(), [20])
    with referring() as bench:
        full = bench(reference=[look]).latent.data
        bench.set(reference_scales=[0.2])
        less = bench(reference=[look]).latent.data
        bench.set(reference_scale=0.0)
        none = bench(reference=[look]).latent.data
        assert torch.equal(bench().latent.data, none)
        bench.set(reference_scale=1.0, reference_scales=None)
        assert torch.equal(bench(reference=[look]).latent.data, full)
    differ(full, less)
    with stream(model=plain().model, control=0) as bench:
        close(bench().latent.data, none)


def test_keys_and_values_are_computed_once_a_reference() -> None:
    a, b = (looked(adapter("base"), image_encoder(), [seed]) for seed in (20, 21))
    with referring() as bench:
        calls: list[int] = []
        for layer in bench.operator._looks.layers:
            plain_look = layer.look
            layer.look = lambda n, rows, plain_look=plain_look: (calls.append(n), plain_look(n, rows))[1]
        layers = len(bench.operator._looks.layers)
        bench(reference=[a])
        first = bench.operator._looks.layers[0].keys[0]
        bench(reference=[a])
        assert len(calls) == layers
        bench(reference=[b])
        assert len(calls) == 2 * layers
        assert bench.operator._looks.layers[0].keys[0] is first  # the same buffer


def test_a_reference_is_computed_once_a_picture() -> None:
    with Bench("diffusion.reference", adapter=str(adapter("plus")), encoder=str(image_encoder())) as bench:
        calls: list[int] = []
        bench.operator._network.register_forward_hook(lambda *a: calls.append(1))
        first = bench([Image(picture(20))])
        assert bench([Image(picture(20))]) is first
        assert len(calls) == 2  # the picture and nothing
        other = bench([Image(picture(21))])
        assert other is not first
        assert tuple(other.tokens.shape) == (1, 5, 32)


def test_a_reference_of_another_adapter_is_refused() -> None:
    look = looked(adapter("plus"), image_encoder(), [20])
    with referring() as bench, pytest.raises(UsageError, match="same adapter"):
        bench(reference=[look])


def test_an_adapter_for_another_model_is_refused() -> None:
    with pytest.raises(UsageError, match="does not fit"), stream(ip_adapters=[{"model": str(adapter("base", xl=True))}]):
        pass


def test_face_id_is_named(tmp_path: Path) -> None:
    state = load_file(adapter("base"))
    state = {k: v for k, v in state.items() if not k.startswith("image_proj.proj")}
    state |= {"image_proj.proj.0.weight": torch.zeros(8, 4), "image_proj.proj.2.weight": torch.zeros(8, 8)}
    save_file(state, tmp_path / "face.safetensors")
    with pytest.raises(UsageError, match="FaceID"), stream(ip_adapters=[{"model": str(tmp_path / "face.safetensors")}]):
        pass


def test_the_wrong_image_encoder_is_refused(tmp_path: Path) -> None:
    state = load_file(adapter("base"))
    state["image_proj.proj.weight"] = torch.zeros(128, 40)
    save_file(state, tmp_path / "ip.safetensors")
    with pytest.raises(UsageError, match="width 40, found 32"):
        Bench("diffusion.reference", adapter=str(tmp_path / "ip.safetensors"), encoder=str(image_encoder())).__enter__()


def test_reference_holds_to_its_contract() -> None:
    conform("diffusion.reference", adapter=str(adapter("base")), encoder=str(image_encoder()))


def test_relieved_the_image_encoder_still_answers() -> None:
    with Bench("diffusion.reference", adapter=str(adapter("base")), encoder=str(image_encoder())) as bench:
        first = bench([Image(picture(20))])
        assert bench.operator.relieve()
        assert not bench.operator.relieve()
        bench([Image(picture(21))])
        assert torch.equal(bench([Image(picture(20))]).tokens, first.tokens)
        bench.operator.restore()


def test_references_do_not_disturb_reuse() -> None:
    look = looked(adapter("base"), image_encoder(), [20])
    with referring(reuse={"every": 1, "cut": 1}, steps=3) as bench:
        every = bench(reference=[look])
    with referring(steps=3) as bench:
        assert torch.allclose(bench(reference=[look]).latent.data, every.latent.data, atol=1e-5)


# ---------------------------------------------------------------- textual inversion


def embedding(xl: bool, vectors: int) -> Path:
    path = home() / f"word-{xl}-{vectors}.safetensors"
    dice = torch.Generator().manual_seed(9)
    if xl:
        save_file({name: torch.randn(vectors, 32, generator=dice) for name in ("clip_l", "clip_g")}, path)
    else:
        found = torch.randn(vectors, 32, generator=dice)
        save_file({"emb_params": found[0].clone() if vectors == 1 else found}, path)
    return path


@pytest.mark.parametrize("xl", [False, True])
@pytest.mark.parametrize("vectors", [1, 3])
def test_textual_inversion(xl: bool, vectors: int) -> None:
    case = Case(
        sdxl() if xl else plain(), xl=xl, prompt="a <thing> in red", embeddings=[(embedding(xl, vectors), "<thing>")],
    )  # fmt: skip
    differ(agree(case), ours(replace(case, embeddings=()))[0])


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"token": "two words"}, "one word"), ({"token": "<|endoftext|>"}, "meaning already"),
        ({"token": "<x>", "xl": True}, "expected one tensor"),
    ],
)  # fmt: skip
def test_embeddings_that_cannot_be_used(wish: dict[str, Any], message: str) -> None:
    path = embedding(bool(wish.pop("xl", False)), 1)
    with pytest.raises(UsageError, match=message), stream(embeddings=[{"model": str(path), **wish}]):
        pass


# ---------------------------------------------------------------- with the embedded model


def test_adapters_rest_with_the_embedded_model() -> None:
    with stream(site_embedded=True, loras=[{"model": "someone/style"}], ip_adapters=[{"model": "someone/ip"}]) as bench:
        with Bench("diffusion.reference", adapter="someone/ip", encoder="someone/eyes", site_embedded=True) as eyes:
            look = eyes([Image(picture(20))])
        assert same(bench(skeleton(), reference=[look]), bench(skeleton()))
        (facts,) = [facts for what, facts in bench.events if what == "not_embedded"]
    assert facts["unused"] == "ip_adapters, loras"
