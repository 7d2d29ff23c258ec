"""One frame painted by diffusion.stream and by the diffusers pipeline for the same case, with the same noise.

What diffusers draws at random is replaced by the noise that our frame used, in order; everything else is its own code, unchanged.
"""

from __future__ import annotations

import copy
import functools
import importlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import PIL.Image
import pytest
import torch
from diffusion_checkpoints import SIZE, picture

from engine.payload import Image
from engine.testing import Bench
from operators.diffusion.steps.noise import Noise

SCHEDULERS = {
    "ddim": diffusers.DDIMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "euler_a": diffusers.EulerAncestralDiscreteScheduler,
    "dpm++": diffusers.DPMSolverMultistepScheduler,
    "lcm": diffusers.LCMScheduler,
}
DRAWS = [
    "pipelines.stable_diffusion.pipeline_stable_diffusion_img2img", "pipelines.controlnet.pipeline_controlnet_img2img",
    "pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_img2img", "pipelines.controlnet.pipeline_controlnet_sd_xl_img2img",
    "schedulers.scheduling_euler_ancestral_discrete", "schedulers.scheduling_lcm",
]  # fmt: skip
KINDS = {  # (ControlNet, image)
    False: {
        (False, False): "StableDiffusionPipeline", (False, True): "StableDiffusionImg2ImgPipeline",
        (True, False): "StableDiffusionControlNetPipeline", (True, True): "StableDiffusionControlNetImg2ImgPipeline",
    },
    True: {
        (False, False): "StableDiffusionXLPipeline", (False, True): "StableDiffusionXLImg2ImgPipeline",
        (True, False): "StableDiffusionXLControlNetPipeline", (True, True): "StableDiffusionXLControlNetImg2ImgPipeline",
    },
}  # fmt: skip


@dataclass
class Case:
    """What is painted. `loras`: (path, weight); `references`: (adapter file, scale, seeds of its pictures)."""

    made: Any
    scheduler: str = "euler"
    xl: bool = False
    control: int = 0
    image: bool = False
    scale: float = 1.0
    steps: int = 4
    strength: float = 0.7
    prompt: str = "a dancer in a red coat"
    negative: str = ""
    clip_skip: int = 0
    scheduler_changes: dict[str, Any] = field(default_factory=dict)
    loras: Sequence[tuple[Path, float]] = ()
    references: Sequence[tuple[Path, float, Sequence[int]]] = ()
    embeddings: Sequence[tuple[Path, str]] = ()
    encoder: Path | None = None
    ours: dict[str, Any] = field(default_factory=dict)

    @property
    def noisy(self) -> bool:
        return self.scheduler in ("euler_a", "lcm")


@contextmanager
def supplied() -> Iterator[list[Any]]:
    """The queue that diffusers takes its noise from."""
    queue: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        for place in DRAWS:
            patch.setattr(importlib.import_module(f"diffusers.{place}"), "randn_tensor", lambda *a, **k: queue.pop(0))
        yield queue
    assert not queue, "diffusers drew less noise than we did"


def ours(case: Case) -> tuple[Any, Any]:
    """Our latent, and the noise it was made of."""
    nets = [{"model": name, "scale": 0.9 - 0.3 * n} for n, name in enumerate((case.made.control, case.made.control_b)[: case.control])]
    parameters: dict[str, Any] = {
        "model": case.made.model, "controlnets": nets, "scheduler": case.scheduler, "steps": case.steps, "size": SIZE,
        "strength": case.strength,
        "dtype": "fp32", "guidance": "cfg" if case.scale > 1 else "none", "guidance_scale": case.scale, "prompt": case.prompt,
        "negative": case.negative, "clip_skip": case.clip_skip, "loras": [{"model": str(p), "weight": w} for p, w in case.loras],
        "ip_adapters": [{"model": str(path), "scale": scale} for path, scale, _ in case.references],
        "embeddings": [{"model": str(path), "token": token} for path, token in case.embeddings],
    }  # fmt: skip
    parameters.update(case.ours)
    with Bench("diffusion.stream", **parameters) as bench:
        shape = (1 + (case.steps if case.noisy else 0), 4, SIZE // 8, SIZE // 8)
        noise = Noise(torch.device("cpu")).draw(bench.site.key(-1), shape)
        looks = [looked(path, case.encoder, seeds) for path, _, seeds in case.references]
        painted = bench(
            control=[Image(picture(n)) for n in range(case.control)], image=Image(picture(9)) if case.image else None, reference=looks
        )
    return painted.latent.data, noise


def looked(adapter: Path, encoder: Path | None, seeds: Sequence[int]) -> Any:
    """A reference of pictures with these seeds."""
    with Bench("diffusion.reference", adapter=str(adapter), encoder=str(encoder), dtype="fp32") as bench:
        return bench([Image(picture(seed)) for seed in seeds])


@functools.cache
def components(model: str, xl: bool) -> dict[str, Any]:
    """What the plain pipeline of a folder is made of."""
    kind = getattr(diffusers, KINDS[xl][False, False])
    return dict(kind.from_pretrained(model, use_safetensors=True, local_files_only=True).components)


@functools.cache
def controlnet(folder: str) -> Any:
    return diffusers.ControlNetModel.from_pretrained(folder, local_files_only=True)


@functools.cache
def vision(folder: Path | None) -> Any:
    from transformers import CLIPVisionModelWithProjection

    return CLIPVisionModelWithProjection.from_pretrained(folder)


def theirs(case: Case, noise: Any) -> Any:
    """The latent that diffusers paints."""
    kind = getattr(diffusers, KINDS[case.xl][case.control > 0, case.image])
    parts = copy.deepcopy(components(case.made.model, case.xl))  # adapters change them
    # What a configuration leaves at its default, from_config sets to the default of the other class; not so what is changed here.
    settings = {**parts["scheduler"].config, **case.scheduler_changes}
    settings["_use_default_values"] = [key for key in settings.get("_use_default_values", ()) if key not in case.scheduler_changes]
    parts["scheduler"] = SCHEDULERS[case.scheduler].from_config(settings)
    arguments: dict[str, Any] = {
        "prompt": case.prompt, "negative_prompt": case.negative or None, "num_inference_steps": case.steps, "guidance_scale": case.scale,
        "output_type": "latent", "clip_skip": case.clip_skip or None,
    }  # fmt: skip
    if case.control:
        nets = [controlnet(name) for name in (case.made.control, case.made.control_b)[: case.control]]
        pictures = [PIL.Image.fromarray(picture(n)) for n in range(case.control)]
        one = case.control == 1
        parts["controlnet"] = nets[0] if one else nets
        arguments["controlnet_conditioning_scale"] = 0.9 if one else [0.9, 0.6]
        arguments["control_image" if case.image else "image"] = pictures[0] if one else pictures
    if case.references:
        parts["image_encoder"] = vision(case.encoder)
    if case.clip_skip and not case.xl:  # diffusers 0.42 looks for the text model where transformers no longer has it
        object.__setattr__(parts["text_encoder"], "text_model", parts["text_encoder"])
    pipe = kind(**parts)
    pipe.set_progress_bar_config(disable=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of the second adapter
        for n, (path, _) in enumerate(case.loras):
            pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=f"lora{n}", local_files_only=True)
    if case.loras:
        pipe.set_adapters([f"lora{n}" for n in range(len(case.loras))], [weight for _, weight in case.loras])
    for path, token in case.embeddings:
        load_embedding(pipe, path, token, case.xl)
    if case.references:
        files = [path for path, _, _ in case.references]
        pipe.load_ip_adapter(
            [str(p.parent) for p in files], subfolder=[""] * len(files), weight_name=[p.name for p in files], image_encoder_folder=None,
            local_files_only=True,
        )  # fmt: skip
        pipe.set_ip_adapter_scale([scale for _, scale, _ in case.references])
        arguments["ip_adapter_image"] = [[PIL.Image.fromarray(picture(s)) for s in seeds] for _, _, seeds in case.references]
    if case.image:
        arguments.update(image=PIL.Image.fromarray(picture(9)), strength=case.strength)
    else:
        arguments.update(latents=noise[0:1].clone(), height=SIZE, width=SIZE)
    begin = case.steps - min(int(case.steps * case.strength), case.steps) if case.image else 0
    with supplied() as queue:
        queue.extend([noise[0:1]] if case.image else [])
        queue.extend(noise[1 + i : 2 + i] for i in range(begin, case.steps - (case.scheduler == "lcm")) if case.noisy)
        return pipe(**arguments).images


def load_embedding(pipe: Any, path: Path, token: str, xl: bool) -> None:
    if not xl:
        pipe.load_textual_inversion(str(path), token=token, local_files_only=True)
        return
    from safetensors.torch import load_file

    state = load_file(path)
    pipe.load_textual_inversion(state["clip_l"], token=token, text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer)
    pipe.load_textual_inversion(state["clip_g"], token=token, text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2)


def close(a: Any, b: Any) -> None:
    """Within 1e-5 of their scale."""
    scale = float(b.abs().max())
    assert scale > 0.1
    assert float((a - b).abs().max()) <= 1e-5 * max(1.0, scale)


def agree(case: Case) -> Any:
    """Both paint the same; returns our latent."""
    mine, noise = ours(case)
    close(mine, theirs(case, noise))
    return mine


def differ(a: Any, b: Any) -> None:
    """An effect is seen: far beyond what rounding does."""
    assert float((a - b).abs().max()) > 2e-3 * float(b.abs().max())
