"""Checkpoints that cannot be used: each gets one typed error that says what was expected, what was found and what to do."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusion_checkpoints import build, checkpoints, same, skeleton, stream, unet  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from engine.errors import EngineError, MissingError, UsageError  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the model folder to break."""
    return Path(shutil.copytree(checkpoints().model, tmp_path / "model"))


WEIGHTS = "diffusion_pytorch_model.safetensors"


def refused(kind: type[EngineError], *words: str, **parameters: Any) -> None:
    with pytest.raises(kind) as caught, stream(**parameters):
        pass
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFTERIMAGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.usefixtures("empty_home")
def test_a_model_that_is_not_here() -> None:
    refused(MissingError, "someone/dreams", "engine models pull someone/dreams", "--embedded", model="someone/dreams")
    refused(MissingError, "someone/poses", "engine models pull someone/poses", controlnets=[{"model": "someone/poses"}])
    refused(MissingError, "someone/small", "engine models pull someone/small", vae="someone/small")
    refused(MissingError, "no/such/folder", model="no/such/folder")


@pytest.mark.usefixtures("empty_home")
def test_a_model_that_was_pulled_is_found_by_its_name(tmp_path: Path) -> None:
    shutil.copytree(checkpoints().model, tmp_path / "home" / "models" / "someone--dreams")
    with stream(model="someone/dreams") as bench:
        assert bench(skeleton()).image is not None


def test_an_absent_part(copied: Path) -> None:
    shutil.rmtree(copied / "text_encoder")
    refused(MissingError, "text_encoder", "engine models pull", model=str(copied))


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.bin"])
def test_a_pickled_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x80\x02}q\x00.")
    refused(UsageError, "pickled", name, "safetensors", model=str(tmp_path / name))


def test_a_folder_with_pickled_weights_is_refused(copied: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(copied / "ran"),))

    (copied / "unet" / WEIGHTS).unlink()
    torch.save(Bomb(), copied / "unet" / "diffusion_pytorch_model.bin")
    refused(UsageError, "unet", "pickled", "safetensors", model=str(copied))
    assert not (copied / "ran").exists()


def test_a_single_file_is_no_folder(copied: Path) -> None:
    refused(UsageError, "folder", "file", model=str(copied / "unet" / WEIGHTS))


def test_weights_of_another_shape(copied: Path) -> None:
    path = copied / "unet" / WEIGHTS
    weights = load_file(path)
    weights["conv_in.weight"] = torch.zeros(8, 9, 3, 3)
    save_file(weights, path)
    refused(UsageError, "conv_in.weight", "(8, 4, 3, 3)", "(8, 9, 3, 3)", model=str(copied))


def test_weights_that_are_absent(copied: Path) -> None:
    path = copied / "unet" / WEIGHTS
    weights = load_file(path)
    del weights["conv_in.weight"]
    save_file(weights, path)
    refused(UsageError, "unet", "conv_in.weight", model=str(copied))


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_a_damaged_file(copied: Path, part: str) -> None:
    (path,) = (copied / part).glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    refused(UsageError, part, "fetch the model again", model=str(copied))


def test_settings_that_are_no_json(copied: Path) -> None:
    (copied / "unet" / "config.json").write_text("{")
    refused(UsageError, "unet/config.json", "JSON", model=str(copied))


def test_a_controlnet_of_another_family(tmp_path: Path) -> None:
    from diffusers import ControlNetModel

    net = ControlNetModel.from_unet(unet(0, cross_attention_dim=48), conditioning_embedding_out_channels=(4, 8, 8, 8))
    net.save_pretrained(tmp_path / "net")
    refused(UsageError, "cross_attention_dim", "expected 32", "found 48", controlnets=[{"model": str(tmp_path / "net")}])


def test_an_autoencoder_with_other_channels(tmp_path: Path) -> None:
    from diffusers import AutoencoderTiny

    AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4, num_encoder_blocks=(1,) * 4, num_decoder_blocks=(1,) * 4,
        latent_channels=8,
    ).save_pretrained(tmp_path / "vae")  # fmt: skip
    refused(UsageError, "4 channels", "found 8", vae=str(tmp_path / "vae"))
    refused(UsageError, "AutoencoderKL", "UNet2DConditionModel", vae=str(Path(checkpoints().model) / "unet"))


def test_an_unknown_noise_process(copied: Path) -> None:
    path = copied / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "beta_schedule": "squaredcos_cap_v2"}))
    refused(UsageError, "beta_schedule", "squaredcos_cap_v2", model=str(copied))


def test_half_precision_files_alone_are_read(copied: Path) -> None:
    for part in ("unet", "vae"):
        (copied / part / WEIGHTS).rename(copied / part / WEIGHTS.replace("model.", "model.fp16."))
    with stream() as plain, stream(model=str(copied)) as variant:
        assert same(plain(skeleton()), variant(skeleton()))


def test_precision_is_what_was_asked_for() -> None:
    with stream(dtype="bf16") as half, stream() as full:
        a, b = half(skeleton()).latent.data, full(skeleton()).latent.data
        assert half.operator.models.unet.dtype is torch.bfloat16
    assert a.dtype is torch.float32
    assert 0 < float((a - b).norm() / b.norm()) < 0.1


# ---------------------------------------------------------------- the embedded model


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set in the layout of the embedded model: v-prediction from zero signal, one ControlNet, a tiny autoencoder."""
    zero = {
        "_class_name": "LCMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "timestep_spacing": "trailing", "prediction_type": "v_prediction", "rescale_betas_zero_snr": True,
    }  # fmt: skip
    made = build(tmp_path_factory.mktemp("embedded"), scheduler=zero, addition_embed_type="text", addition_embed_type_num_heads=4)
    root = Path(made.model)
    shutil.rmtree(root / "vae")
    shutil.copytree(made.taesd, root / "vae")
    shutil.copytree(made.control, root / "controlnet")
    return root


@pytest.fixture
def embedded(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("operators.embedded.root", lambda: small)


@pytest.mark.usefixtures("embedded", "empty_home")
def test_embedded_stands_in_for_every_model() -> None:
    names = {"model": "someone/dreams", "controlnets": [{"model": "someone/poses"}, {"model": "someone/edges"}], "vae": "someone/small"}
    with stream(control=0, site_embedded=True, **names) as bench:
        a = bench(skeleton(0) + skeleton(1))
        b = bench(skeleton(1) + skeleton(0))
        assert not same(a, bench(skeleton(2) + skeleton(1)))
        first, second = bench.operator.models.nets
        assert first.module is second.module
    assert torch.allclose(a.latent.data, b.latent.data, atol=1e-4)  # one network twice: the order of the pictures is all one


@pytest.mark.usefixtures("embedded")
def test_embedded_is_sampled_as_it_was_trained() -> None:
    seen: list[tuple[float, int]] = []
    with stream(site_embedded=True, steps=22, guidance="cfg", reuse={"every": 3, "cut": 1}, scheduler="dpm++", size=128) as bench:
        bench.operator.models.unet.register_forward_hook(lambda m, args, out: seen.append((float(args[1]), len(args[0]))))
        out = bench(skeleton())
        assert out.image.data.shape == (128, 128, 3)
        assert tuple(out.latent.data.shape) == (1, 4, 8, 8)  # native: 64 pixels
    assert [n for _, n in seen] == [1, 1]  # two steps, one pass each
    assert seen[0][0] == 999.0


def test_embedded_weights_that_are_not_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("operators.embedded.root", lambda: tmp_path / "weights")
    refused(MissingError, "embedded", "install the package again", site_embedded=True)
