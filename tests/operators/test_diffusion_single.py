"""Checkpoints in one file: the same picture as from the folder they were made of, to the bit; what is in them is told by their headers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusion_adapters import controlnet_file, home, plain, sdxl, single_file  # noqa: E402
from diffusion_checkpoints import checkpoints, picture, skeleton, stream  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from engine.errors import MissingError, UsageError  # noqa: E402
from engine.payload import Image  # noqa: E402
from operators.diffusion.weights import layouts, single  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def file(kind: str) -> Path:
    folder = (sdxl() if kind == "sdxl" else plain()).model
    path = home() / f"single-{kind}.safetensors"
    return path if path.is_file() else single_file(path, folder, text=kind)


@pytest.mark.parametrize("kind", ["clip", "sdxl"])
def test_a_file_paints_what_its_folder_paints(kind: str) -> None:
    made = sdxl() if kind == "sdxl" else plain()
    common: dict[str, Any] = {"vae": None, "control": 1, "controlnets": [{"model": made.control}]}
    with stream(**{**common, "model": made.model}) as a, stream(**{**common, "model": str(file(kind)), "base": made.model}) as b:
        one, two = (bench(skeleton(), image=Image(picture(3))) for bench in (a, b))
    assert torch.equal(one.latent.data, two.latent.data)
    assert (one.image.data == two.image.data).all()


def test_open_clip_text_encoders() -> None:
    """The text encoder of 2.x has other names and its three projections in one."""
    made = plain()
    with stream(control=0, model=made.model) as a, stream(control=0, model=str(file("open")), base=made.model) as b:
        assert torch.equal(a().latent.data, b().latent.data)


def test_a_controlnet_in_one_file() -> None:
    made = checkpoints()
    path = controlnet_file(home() / "control.safetensors", made.control)
    with stream() as a, stream(controlnets=[{"model": str(path)}]) as b:
        assert torch.equal(a(skeleton()).latent.data, b(skeleton()).latent.data)
    with pytest.raises(UsageError, match="does not fit"), stream(model=sdxl().model, controlnets=[{"model": str(path)}]):
        pass
    with pytest.raises(UsageError, match="expected a ControlNet"), stream(controlnets=[{"model": str(file("clip"))}]):
        pass


@pytest.mark.parametrize("layout", ["published", "diffusers", "whole"])
def test_an_autoencoder_in_one_file(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    folder = Path(plain().model) / "vae"
    settings = json.loads((folder / "config.json").read_text())
    monkeypatch.setitem(layouts.VAE, "sd15", settings)
    if layout == "diffusers":
        path = next(folder.glob("*.safetensors"))
    elif layout == "whole":
        path = file("clip")
    else:
        state = {k.removeprefix("first_stage_model."): v for k, v in load_file(file("clip")).items() if k.startswith("first_stage_model.")}
        save_file(state, path := tmp_path / "vae.safetensors")
    with stream(model=plain().model, vae=None) as a, stream(model=plain().model, vae=str(path)) as b:
        assert (a(skeleton()).image.data == b(skeleton()).image.data).all()


# ---------------------------------------------------------------- what is not


def test_files_that_are_no_model(tmp_path: Path) -> None:
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(1)}, tmp_path / "lora.safetensors")
    with pytest.raises(UsageError, match=r"whole model.*found a LoRA"), stream(model=str(tmp_path / "lora.safetensors")):
        pass
    state = load_file(file("clip"))
    state["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(8, 9, 3, 3)
    save_file(state, tmp_path / "inpaint.safetensors")
    with pytest.raises(UsageError, match="4 input channels, found 9"), stream(model=str(tmp_path / "inpaint.safetensors"), base=plain().model):
        pass
    del state["model.diffusion_model.input_blocks.0.0.weight"]
    state["conditioner.embedders.0.model.x"] = torch.zeros(1)
    save_file(state, tmp_path / "refiner.safetensors")
    with pytest.raises(UsageError, match="refiner"), stream(model=str(tmp_path / "refiner.safetensors")):
        pass


def test_a_file_of_another_shape_says_what_to_do() -> None:
    with pytest.raises(UsageError, match=r"shape|tensors") as caught:
        single.Single(file("clip"), "tiny").unet(torch.float32)
    assert "base" in str(caught.value)


def test_a_tokenizer_has_to_be_somewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AFTERIMAGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(MissingError, match="engine models pull openai/clip-vit-large-patch14"):
        single.clip_tokenizer("dreams.safetensors")
    shutil.copytree(Path(plain().model) / "tokenizer", tmp_path / "home" / "models" / "openai--clip-vit-large-patch14")
    assert single.clip_tokenizer("dreams.safetensors").bos_token_id == 512


def test_a_file_that_is_cut_short(tmp_path: Path) -> None:
    from engine.errors import MediaError

    (tmp_path / "cut.safetensors").write_bytes(file("clip").read_bytes()[:5000])
    with pytest.raises(MediaError, match=r"cut short|should have"), stream(model=str(tmp_path / "cut.safetensors")):
        pass


# ---------------------------------------------------------------- the public architectures


@pytest.mark.parametrize(("name", "params"), [("sd15", 859_520_964), ("sd21", 865_910_724), ("sdxl", 2_567_463_684)])
def test_the_public_unets(name: str, params: int) -> None:
    """Their configurations give modules of exactly the published size, counted without a weight."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(layouts.UNET[name])
    assert sum(p.numel() for p in unet.parameters()) == params


@pytest.mark.parametrize(("name", "params"), [("sd15", [123_060_480]), ("sd21", [340_387_840]), ("sdxl", [123_060_480, 694_659_840])])
def test_the_public_text_encoders(name: str, params: list[int]) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    found = []
    for n, (settings, _) in enumerate(layouts.TEXT[name]):
        with torch.device("meta"):
            found.append((CLIPTextModelWithProjection if n else CLIPTextModel)(CLIPTextConfig(**settings)))
    assert [sum(p.numel() for p in module.parameters()) for module in found] == params


def test_what_a_header_tells(tmp_path: Path) -> None:
    assert single.Single(file("clip"), "a").architecture == "sd15"
    assert single.Single(file("sdxl"), "a").architecture == "sdxl"
    two = single.Single(file("open"), "a")
    assert two.architecture == "sd21"
    assert two.scheduler_config()["prediction_type"] == "v_prediction"  # by its name it is no base model
    (tmp_path / "2-1-base.safetensors").write_bytes(file("open").read_bytes())
    assert single.Single(tmp_path / "2-1-base.safetensors", "a").scheduler_config()["prediction_type"] == "epsilon"
    state = load_file(file("sdxl")) | {"v_pred": torch.zeros(1), "ztsnr": torch.zeros(1)}
    save_file(state, tmp_path / "noob.safetensors")
    told = single.Single(tmp_path / "noob.safetensors", "a").scheduler_config()
    assert (told["prediction_type"], told["rescale_betas_zero_snr"]) == ("v_prediction", True)
