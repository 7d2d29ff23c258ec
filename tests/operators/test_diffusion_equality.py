"""The loop against diffusers' own pipelines on the same weights, prompts, pictures and noise: latents within 1e-5 of their scale (float32)."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import PIL.Image  # noqa: E402
from diffusion_checkpoints import SIZE, build, checkpoints, picture  # noqa: E402
from diffusion_pairs import SCHEDULERS  # noqa: E402

from engine.payload import Image  # noqa: E402
from engine.testing import Bench  # noqa: E402
from operators.diffusion.steps.noise import Noise  # noqa: E402

PROMPT, NEGATIVE = "a dancer in a red coat", "blurry"


@functools.cache
def parts() -> dict[str, Any]:
    return diffusers.StableDiffusionPipeline.from_pretrained(checkpoints().model, use_safetensors=True, local_files_only=True).components


@functools.cache
def nets() -> tuple[Any, Any]:
    load = functools.partial(diffusers.ControlNetModel.from_pretrained, local_files_only=True)
    return load(checkpoints().control), load(checkpoints().control_b)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def supply(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Noise that diffusers draws, in order, instead of random numbers."""
    import importlib

    queue: list[Any] = []
    places = ["pipelines.stable_diffusion.pipeline_stable_diffusion_img2img", "pipelines.controlnet.pipeline_controlnet_img2img"]
    places += [f"schedulers.scheduling_{n}" for n in ("euler_ancestral_discrete", "lcm")]
    for place in places:
        monkeypatch.setattr(importlib.import_module(f"diffusers.{place}"), "randn_tensor", lambda *a, **k: queue.pop(0))
    return queue


def bank(bench: Bench, draws: int) -> Any:
    """The noise that our next frame will use: (1 + draws, C, h, w)."""
    size = SIZE // 8
    return Noise(torch.device("cpu")).draw(bench.site.key(-1), (1 + draws, 4, size, size))


def close(ours: Any, theirs: Any) -> None:
    scale = float(theirs.abs().max())
    assert scale > 0.1
    assert float((ours - theirs).abs().max()) <= 1e-5 * max(1.0, scale)


def paint(scheduler: str, control: int, image: bool, scale: float, supply: list[Any], *, steps: int = 6, strength: float = 0.7, **extra: Any):
    """One frame by both; returns (ours, theirs) as clean latents."""
    check = checkpoints()
    used = [check.control, check.control_b][:control]
    wish = [{"model": name, "scale": 0.9 - 0.3 * n, **extra} for n, name in enumerate(used)]
    parameters: dict[str, Any] = {
        "model": check.model, "controlnets": wish, "scheduler": scheduler, "steps": steps, "size": SIZE, "strength": strength, "dtype": "fp32",
        "guidance": "cfg" if scale > 1 else "none", "guidance_scale": scale, "prompt": PROMPT, "negative": NEGATIVE,
    }  # fmt: skip
    pictures = [picture(n) for n in range(control)]
    start = picture(9)
    with Bench("diffusion.stream", **parameters) as bench:
        noisy = scheduler in ("euler_a", "lcm")
        noise = bank(bench, steps if noisy else 0)
        ours = bench(control=[Image(p) for p in pictures], image=Image(start) if image else None).latent.data
    arguments: dict[str, Any] = {
        "prompt": PROMPT, "negative_prompt": NEGATIVE, "num_inference_steps": steps, "guidance_scale": scale, "output_type": "latent",
    }  # fmt: skip
    begin = steps - min(int(steps * strength), steps) if image else 0
    supply.extend([noise[0:1]] if image else [])
    supply.extend(noise[1 + i : 2 + i] for i in range(begin, steps - (scheduler == "lcm")) if noisy)
    conditions = [PIL.Image.fromarray(p) for p in pictures]
    components = {k: v for k, v in parts().items() if k != "scheduler"}
    components["scheduler"] = SCHEDULERS[scheduler].from_config(parts()["scheduler"].config)
    kind = {
        (False, False): "StableDiffusionPipeline", (False, True): "StableDiffusionImg2ImgPipeline",
        (True, False): "StableDiffusionControlNetPipeline", (True, True): "StableDiffusionControlNetImg2ImgPipeline",
    }[control > 0, image]  # fmt: skip
    if control:
        components["controlnet"] = nets()[0] if control == 1 else list(nets())
        scales = [0.9 - 0.3 * n for n in range(control)]
        arguments["controlnet_conditioning_scale"] = scales[0] if control == 1 else scales
        for ours_name, theirs_name in (("start", "control_guidance_start"), ("end", "control_guidance_end")):
            if ours_name in extra:
                arguments[theirs_name] = extra[ours_name] if control == 1 else [extra[ours_name]] * control
        conditions_argument: Any = conditions[0] if control == 1 else conditions
        arguments["control_image" if image else "image"] = conditions_argument
    if image:
        arguments.update(image=PIL.Image.fromarray(start), strength=strength)
    else:
        arguments.update(latents=noise[0:1].clone(), height=SIZE, width=SIZE)
    pipe = getattr(diffusers, kind)(**components)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(**arguments).images
    assert not supply
    return ours, theirs


@pytest.mark.parametrize(("scheduler", "scale"), [*((name, 5.0) for name in SCHEDULERS), ("ddim", 1.0), ("euler", 1.0)])
@pytest.mark.parametrize("image", [False, True])
def test_prompt_alone_and_image(scheduler: str, scale: float, image: bool, supply: list[Any]) -> None:
    close(*paint(scheduler, 0, image, scale, supply))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("image", [False, True])
def test_controlnet(scheduler: str, image: bool, supply: list[Any]) -> None:
    close(*paint(scheduler, 1, image, 5.0, supply))


@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_two_controlnets(image: bool, scale: float, supply: list[Any]) -> None:
    close(*paint("dpm++", 2, image, scale, supply))


def test_part_of_the_steps(supply: list[Any]) -> None:
    close(*paint("ddim", 1, False, 1.0, supply, start=0.2, end=0.7))


@pytest.mark.parametrize("steps", [1, 15, 22])
def test_step_counts(steps: int, supply: list[Any]) -> None:
    close(*paint("dpm++", 0, False, 1.0, supply, steps=steps))


@pytest.mark.parametrize("strength", [0.2, 0.99])
def test_strengths(strength: float, supply: list[Any]) -> None:
    close(*paint("dpm++", 0, True, 1.0, supply, steps=10, strength=strength))


def test_the_layout_of_the_embedded_model(supply: list[Any], tmp_path: Path) -> None:
    """v-prediction from zero signal, pooled text added to the time embedding, a tiny autoencoder."""
    scheduler = {
        "_class_name": "LCMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
        "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
    }  # fmt: skip
    made = build(tmp_path, scheduler=scheduler, addition_embed_type="text", addition_embed_type_num_heads=4)
    parameters: dict[str, Any] = {
        "model": made.model, "controlnets": [{"model": made.control}], "vae": made.taesd, "steps": 3, "size": SIZE, "strength": 0.7,
        "dtype": "fp32", "guidance": "none", "prompt": PROMPT,
    }  # fmt: skip
    with Bench("diffusion.stream", **parameters) as bench:
        noise = bank(bench, 3)
        painted = bench(control=[Image(picture(1))], image=Image(picture(9)))
    pipe = diffusers.StableDiffusionControlNetImg2ImgPipeline.from_pretrained(
        made.model, controlnet=diffusers.ControlNetModel.from_pretrained(made.control, local_files_only=True),
        vae=diffusers.AutoencoderTiny.from_pretrained(made.taesd, local_files_only=True), local_files_only=True, use_safetensors=True,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    supply.extend([noise[0:1], noise[2:3]])
    arguments: dict[str, Any] = {
        "prompt": PROMPT, "num_inference_steps": 3, "strength": 0.7, "guidance_scale": 1.0, "controlnet_conditioning_scale": 1.0,
        "image": PIL.Image.fromarray(picture(9)), "control_image": PIL.Image.fromarray(picture(1)),
    }  # fmt: skip
    theirs = np.asarray(pipe(**arguments).images[0])
    assert not supply
    assert np.abs(theirs.astype(int) - painted.image.data).max() <= 1
    assert theirs.std() > 5


def test_distilled_models_take_the_guidance_scale(supply: list[Any], tmp_path: Path) -> None:
    """Latent consistency models: the scale is an input of the UNet, and there is one pass a step whatever `guidance` says."""
    made = build(tmp_path, time_cond_proj_dim=32)
    parameters: dict[str, Any] = {
        "model": made.model, "scheduler": "lcm", "steps": 4, "size": SIZE, "dtype": "fp32", "guidance": "cfg", "prompt": PROMPT,
    }  # fmt: skip
    with Bench("diffusion.stream", **parameters) as bench:
        noise = bank(bench, 4)
        ours = bench().latent.data
        bench.set(guidance_scale=3.0)
        other = bench().latent.data
    assert not torch.equal(ours, other)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(made.model, local_files_only=True, use_safetensors=True)
    pipe.scheduler = diffusers.LCMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    for scale, found in ((8.5, ours), (3.0, other)):
        supply.extend(noise[n : n + 1] for n in (1, 2, 3))
        arguments: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": scale, "height": SIZE, "width": SIZE, "output_type": "latent"}
        close(found, pipe(PROMPT, latents=noise[0:1].clone(), **arguments).images)
