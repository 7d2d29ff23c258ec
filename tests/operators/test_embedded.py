"""The shipped weights: stock classes load them, they are small, they follow pose and prompt; and the training that makes them runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from operators import embedded
from operators.figure.look import COLOURS
from operators.figure.motion import Camera
from operators.figure.paint import PART
from operators.figure.place import backdrop
from operators.figure.sequence import draw_scene, render
from operators.figure.skeleton import draw_skeleton

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
ROOT = embedded.root()
shipped = pytest.mark.skipif(not (ROOT / "model_index.json").is_file(), reason="the weights are not in this tree")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pipe() -> Any:
    from diffusers import StableDiffusionControlNetPipeline

    pipe = StableDiffusionControlNetPipeline.from_pretrained(ROOT)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def paint(pipe: Any, prompt: str, pose: np.ndarray, size: int = 256, seed: int = 0, steps: int = 1) -> np.ndarray:
    from PIL import Image

    control = Image.fromarray(draw_skeleton(pose[None], size, size))
    made = pipe(
        prompt, image=control, width=size, height=size, num_inference_steps=steps, guidance_scale=1.0, output_type="np",
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    return np.round(made.images[0] * 255).astype(np.uint8)


@shipped
def test_the_weights_are_small_safe_and_whole() -> None:
    files = [f for f in ROOT.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 16_000_000
    assert {f.suffix for f in files} <= {".safetensors", ".json", ".txt"}
    for part in ("unet", "controlnet", "vae", "text_encoder", "captioner"):
        config = json.loads((ROOT / part / "config.json").read_text())
        assert config
        assert not any(str(v).startswith("/") for v in config.values()), "a path of the training machine"


@shipped
def test_one_step_follows_the_skeleton_and_the_prompt(pipe: Any) -> None:
    overlaps, shirts = [], []
    wanted = (("red", "blue"), ("yellow", "purple"), ("green", "pink"), ("blue", "orange"))
    for n, (shirt, wall) in enumerate(wanted):
        scene = draw_scene(
            70_000 + n, motion=("dance", "walk", "wave", "jack")[n], steady=True, kind="person", top="shirt", top_colour=shirt,
            bottom="trousers", bottom_colour="black", hat="none", place="plain", place_colour=wall, style="soft",
        )  # fmt: skip
        truth = render(scene, 0.2, 256)
        image = paint(pipe, scene.caption, truth.pose)
        empty = backdrop("plain", wall, 256, 256)
        drawn = np.abs(image.astype(int) - empty).max(-1) > 40
        mask = truth.mask > 0
        rows = np.arange(256) < np.flatnonzero(mask.any(1)).max() - 14  # above the shadow
        overlaps.append((mask & drawn)[rows].sum() / (mask | drawn)[rows].sum())
        colour = np.median(image[truth.parts == PART["top"]], axis=0)
        shirts.append(min(COLOURS, key=lambda name, c=colour: float(np.abs(np.array(COLOURS[name]) - c).sum())))  # type: ignore[misc]
    assert min(overlaps) > 0.6
    assert float(np.mean(overlaps)) > 0.72
    assert shirts == [shirt for shirt, _ in wanted]


@shipped
def test_free_prompts_and_unknown_words_do_no_harm(pipe: Any) -> None:
    pose = render(draw_scene(1, motion="idle", steady=True), 0.0, 256)
    for prompt in ("a dancer in a red coat, studio light", "zürich 日本 qwxyz, a dancer in a red coat"):
        image = paint(pipe, prompt, pose.pose)
        red = image[pose.parts == PART["top"]].astype(int)
        assert np.median(red[:, 0] - red[:, 1:].max(-1)) > 60


@shipped
def test_pictures_need_not_be_square_and_the_figure_may_stand_aside(pipe: Any) -> None:
    from dataclasses import replace

    from PIL import Image

    scene = draw_scene(70_010, motion="idle", aspect=1.75, steady=True, kind="person", top_colour="red", hat="none", place="studio")
    scene = replace(scene, camera=Camera(0.3, 0.55, 0.6, 0.0, 0.04, 1.75))
    truth = render(scene, 0.0, 256)
    control = Image.fromarray(draw_skeleton(truth.pose[None], 256, 448))
    made = pipe(scene.caption, image=control, width=448, height=256, num_inference_steps=1, guidance_scale=1.0, output_type="np")
    image = np.round(made.images[0] * 255).astype(int)
    top = truth.parts == PART["top"]
    assert np.median(image[top][:, 0] - image[top][:, 1:].max(-1)) > 60
    away = image[:200, 300:]
    assert np.median(away.max(-1) - away.min(-1)) < 25, "nobody stands on the right"


@shipped
def test_the_captioner_names_what_it_sees() -> None:
    right = persons = 0
    for n, colour in enumerate(("red", "green", "blue", "yellow", "white", "purple")):
        look = {"top_colour": colour, "bottom_colour": "black", "kind": "person", "place": "plain", "place_colour": "orange"}
        image = render(draw_scene(71_000 + n, motion="idle", steady=True, **look), 0.0, 256).image
        right += f"{colour} " in embedded.caption(image).split(" and ")[0]
        assert "orange background" in embedded.caption(image)
        persons += embedded.attributes(image).get("kind") == "person"
    assert right >= 5
    assert persons >= 4


def test_the_captioner_refuses_what_is_no_picture() -> None:
    with pytest.raises(ValueError, match="uint8 RGB"):
        embedded.likelihoods(np.zeros((3, 64, 64), np.float32))


# ---------------------------------------------------------------- training


def test_every_stage_runs_resumes_and_leaves_a_pipeline(tmp_path: Path) -> None:
    from diffusers import StableDiffusionControlNetPipeline

    from operators.train.embedded import STAGES, main

    for stage in STAGES:
        command = ["--out", str(tmp_path), "--stage", stage, "--tiny", "--workers", "1"]
        assert main([*command, "--minutes", "0"]) == 0  # stops after its first step
        if stage not in ("tokenizer", "export"):
            first = torch.load(tmp_path / f"{stage}.pt", weights_only=True)
            assert first["step"] == 1
            assert main([*command, "--resume"]) == 0
            last = torch.load(tmp_path / f"{stage}.pt", weights_only=True)
            assert last["step"] == 4
            assert not torch.equal(first["flat"]["master"], last["flat"]["master"])
    pipe = StableDiffusionControlNetPipeline.from_pretrained(tmp_path / "model")
    assert pipe.unet.config.in_channels == pipe.vae.config.latent_channels == 8
    assert (tmp_path / "model" / "captioner" / "model.safetensors").is_file()


def test_going_on_learns_from_other_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage that was stopped must not see the pictures of its beginning once more."""
    from operators.train import embedded as train
    from operators.train.embedded.settings import TINY

    assert train.main(["--out", str(tmp_path), "--stage", "tokenizer", "--stage", "captioner", "--tiny", "--minutes", "0"]) == 0
    seeds: list[int] = []
    make = train._stage
    monkeypatch.setattr(train, "_stage", lambda name, settings, *rest: (seeds.append(settings.seed), make(name, settings, *rest))[1])
    train.train_stage("captioner", TINY, tmp_path, minutes=0.0, resume=True)
    train.train_stage("captioner", TINY, tmp_path, minutes=0.0, resume=True)
    assert seeds == [TINY.seed + 1, TINY.seed + 2]


def test_the_tokenizer_keeps_every_word_whole_and_survives_strange_ones(tmp_path: Path) -> None:
    from operators.train.embedded.settings import FULL
    from operators.train.embedded.tokens import encode, train_tokenizer, words

    tokenizer = train_tokenizer(FULL, tmp_path)
    assert all(len(tokenizer(word)["input_ids"]) == 3 for word in words())
    assert len({tuple(tokenizer(word)["input_ids"]) for word in words()}) == len(words())
    ids = encode(tokenizer, ["a dancer in a red coat, studio light", "", "日本 " * 60], FULL.tokens)
    assert ids.shape == (3, FULL.tokens)
    assert (ids[1, 1:] == tokenizer.eos_token_id).all()


def test_training_is_reproducible_from_its_seed(tmp_path: Path) -> None:
    from operators.train.embedded import main

    states = []
    for name in ("one", "two"):
        folder = tmp_path / name
        main(["--out", str(folder), "--stage", "tokenizer", "--stage", "text", "--tiny", "--workers", "1"])
        states.append(torch.load(folder / "text.pt", weights_only=True)["flat"]["master"])
    assert torch.equal(*states)


def test_carried_starts_are_led_to_the_present_picture() -> None:
    """v for a latent that began elsewhere: one step from it has to land on the clean one."""
    from operators.train.embedded.networks import alphas

    a = alphas()[600]
    clean, other, noise = torch.randn(3, 4, 8, 8).unbind()
    noisy = a.sqrt() * other + (1 - a).sqrt() * noise
    v = (a.sqrt() * noisy - clean) / (1 - a).sqrt()
    assert torch.allclose(a.sqrt() * noisy - (1 - a).sqrt() * v, clean, atol=1e-5)
    assert float(alphas()[999]) < 1e-8  # pure noise: one step is x0 = -v
