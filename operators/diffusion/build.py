"""From the parameters of diffusion.stream to its modules: loading, precision, adapters, and what is said about it all at open.

It knows parameters and modules, not frames.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from operators.diffusion.adapters import ipadapter, lora
from operators.diffusion.weights.families import oddities
from operators.diffusion.weights.models import Models, load, load_embedded
from operators.diffusion.weights.placement import ALTERED, chosen
from operators.diffusion.weights.tune import precision
from operators.diffusion.words import inversion
from operators.models.loading import library

if TYPE_CHECKING:
    import torch

    from operators.diffusion.stream import Stream


def dtypes() -> dict[str, torch.dtype]:
    import torch

    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def load_for(stream: Stream, device: torch.device) -> Models:
    """The modules that `stream` asks for, in the precision it asks for. Raises MissingError or UsageError."""
    library("transformers")
    library("diffusers")
    kinds = dtypes()
    dtype = kinds.get(stream.dtype, kinds["fp32" if device.type == "cpu" else "fp16"])
    if stream.site.embedded:
        models = load_embedded(stream.controlnets, device=device, dtype=dtype)
    else:
        models = load(
            stream.model, stream.controlnets, stream.vae, device=device, dtype=dtype, base=stream.base, family=stream.family,
            loras=stream.loras, prediction=stream.prediction,
        )  # fmt: skip
        if stream.karras_sigmas is not None:
            models.noise = replace(models.noise, karras=stream.karras_sigmas)
        planned = stream.site.placed.get("activations")
        models.coder.spare(
            tiling=planned == "tiling" if stream.vae_tiling is None else stream.vae_tiling,
            slicing=bool(stream.vae_slicing),
        )
        inversion.add(stream.embeddings, models.towers)
    if stream.dtype == "auto" and device.type == "cpu" and len(models.towers) == 1:
        height, width = stream._working(models)
        shape = (1, models.channels, height // models.fold, width // models.fold)
        unet, tower = models.unet, models.towers[0]
        models.cast(kinds[stream.site.decide("precision", lambda: precision(unet, shape, models.text_width, tower.limit))])
    return models


def adapted(stream: Stream, models: Models) -> tuple[lora.Loras | None, Any]:
    """The LoRAs, matched but not merged, and what the cross-attentions look at; each None where there is none."""
    if stream.site.embedded:
        return None, None
    loras = looks = None
    if stream.loras:
        loras = lora.load(stream.loras, models.unet, [tower.module for tower in models.towers], stream.site.event)
    if stream.ip_adapters:
        found = [ipadapter.find(wish["model"], wish.get("file")) for wish in stream.ip_adapters]
        scales = [float(wish.get("scale", 1.0)) for wish in stream.ip_adapters]
        looks = ipadapter.attach(models.unet, found, scales, models.device, models.dtype)
    return loras, looks


def placed(stream: Stream, models: Models) -> None:
    """Every part where and as it is kept: as the graph says, else as the memory plan decided. Raises UsageError, MissingError, DeviceError."""
    site = stream.site
    if site.embedded:
        models.place({})
        return
    params = {
        "placement": stream.placement, "quantise": stream.quantise, "loras": stream.loras, "fuse_loras": stream.fuse_loras,
        "embeddings": stream.embeddings,
    }  # fmt: skip
    kept, backend = chosen(params, list(models.parts()), site.placed, models.device.type)
    if stream._loras is not None and stream.fuse_loras and any(each in ALTERED for how in kept.values() for each in how.split("+")):
        said = stream.lora_weights  # merged in full precision, before anything is rounded
        stream._loras.set([said[n] if said and n < len(said) else float(wish.get("weight", 1.0)) for n, wish in enumerate(stream.loras)])
        stream._loras.fuse()
    models.place(kept, backend=backend, bits=4 if "int4" in kept.values() else 8)
    if kept:
        site.event("placed", **{part.replace(" ", "_"): f"{how} by {backend}" if how.startswith("int") else how for part, how in kept.items()})


def prepared(stream: Stream, models: Models) -> None:
    """The last of `open`: LoRAs at their first weights, and one event that says what came of the parameters."""
    site, recipe = stream.site, models.recipe
    if stream._loras is not None:
        stream._blend_loras()
        if stream.fuse_loras:
            stream._loras.fuse()
    if site.embedded:
        unused = [name for name in ("ip_adapters", "loras", "embeddings") if getattr(stream, name)]
        if unused:
            site.event("not_embedded", unused=", ".join(unused), why="the embedded model takes no adapters but its ControlNet")
    else:
        odd = oddities(
            models.family, recipe, scheduler=stream.scheduler, guidance=stream.guidance, steps=stream.steps,
            distilled=bool(stream._guide.width), pairs=recipe is not models.family.recipe,
        )  # fmt: skip
        if odd:
            site.event("unlikely", model=stream.model, why="; ".join(odd))
    name = "embedded" if site.embedded else stream.model
    dtype = str(models.dtype).removeprefix("torch.")
    site.event(
        "model", name=name, family=models.family.name, sampler=stream._sampler, dtype=dtype, steps=stream.steps or recipe.steps,
        guidance="none" if site.embedded else stream._guide.guidance, predicts=models.noise.prediction,
    )  # fmt: skip
