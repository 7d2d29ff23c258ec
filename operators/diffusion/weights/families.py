"""The families of models that are painted with, and what each wants where a graph does not say: data, and the few lines that choose a row.

Invariant: a row holds defaults only; whatever a graph writes wins, and what cannot work together is told in one sentence before a weight is
read. Values are those of the model cards (quoted from memory where docs/models.md says so). It knows no files, no torch, no frames.

`architecture`: what weights fit together: "sd15" (one text encoder, 768 wide), "sd21" (one, 1024 wide), "sdxl" (two encoders, pooled text
and sizes added to the time). Distilled models and distilling LoRAs ("few steps") want no guidance, a schedule of their own and few steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from engine.errors import UsageError

Architecture = Literal["sd15", "sd21", "sdxl"]
FamilyName = Literal["auto", "sd15", "sd21", "sd-turbo", "sdxl", "sdxl-turbo", "lcm"]
LoraKind = Literal["auto", "style", "lcm", "hyper", "lightning"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to sample. `sampler`, `spacing` and `prediction` None: as the checkpoint's own scheduler says. `most`: steps beyond which the
    model was not trained (0: no such limit)."""

    sampler: str | None
    guidance: Literal["none", "cfg"]
    guidance_scale: float
    steps: int
    spacing: str | None = None
    prediction: str | None = None
    clip_skip: int = 0
    most: int = 0


@dataclass(frozen=True, slots=True)
class Family:
    """One family: the architectures it comes in, the short side it was trained at, and its recipe."""

    name: str
    architectures: tuple[Architecture, ...]
    size: int
    recipe: Recipe


PLAIN = Recipe(None, "cfg", 7.5, 15)
FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("sd15", ("sd15",), 512, PLAIN),
        Family("sd21", ("sd21",), 768, PLAIN),
        # Adversarially distilled (arXiv 2311.17042): one to four steps from the end of the schedule, trained without guidance.
        Family("sd-turbo", ("sd15", "sd21"), 512, Recipe("euler", "none", 1.0, 2, spacing="trailing", most=4)),
        Family("sdxl", ("sdxl",), 1024, Recipe(None, "cfg", 5.0, 20)),
        Family("sdxl-turbo", ("sdxl",), 512, Recipe("euler_a", "none", 1.0, 2, spacing="trailing", most=4)),
        # Latent consistency (2310.04378): the guidance scale is an input of the UNet, so one pass has guidance in it.
        Family("lcm", ("sd15", "sdxl"), 512, Recipe("lcm", "none", 8.5, 4, most=8)),
    )
}

# LoRAs that turn a model of these architectures into one of few steps; the recipe replaces the family's.
DISTILLING: dict[str, tuple[tuple[Architecture, ...], Recipe]] = {
    "lcm": (("sd15", "sdxl"), Recipe("lcm", "none", 1.0, 4, most=8)),  # 2311.05556
    "hyper": (("sd15", "sdxl"), Recipe("ddim", "none", 1.0, 4, spacing="trailing", most=8)),  # 2404.13686
    "lightning": (("sdxl",), Recipe("euler", "none", 1.0, 4, spacing="trailing", most=8)),  # 2402.13929
}
MARKS: dict[str, tuple[str, ...]] = {"lcm": ("lcm",), "hyper": ("hyper-sd", "hyper_sd", "hypersd"), "lightning": ("lightning",)}


def architecture(unet: Mapping[str, Any]) -> Architecture:
    """The architecture of a UNet by its configuration."""
    if unet.get("addition_embed_type") == "text_time":
        return "sdxl"
    return "sd21" if unet.get("cross_attention_dim") == 1024 else "sd15"


def family_of(name: str, unet: Mapping[str, Any], scheduler: Mapping[str, Any], wanted: str = "auto") -> Family:
    """The family of the model called `name`, from its configurations and, where these do not tell, its name.

    Raises UsageError where `wanted` is a family that these weights cannot be of.
    """
    kind = architecture(unet)
    if wanted != "auto":
        family = FAMILIES[wanted]
        if kind not in family.architectures:
            expected = " or ".join(family.architectures)
            raise UsageError(
                f"model {name}: family {wanted!r} is of the {expected} architecture, found weights of the {kind} architecture",
                fix='leave out `family`, or take family = "auto"',
            )
        return family
    if unet.get("time_cond_proj_dim") or scheduler.get("_class_name") == "LCMScheduler":
        return FAMILIES["lcm"] if kind != "sd21" else FAMILIES["sd21"]
    euler = str(scheduler.get("_class_name")).startswith("Euler") and scheduler.get("timestep_spacing") == "trailing"
    if euler or "turbo" in name.rpartition("/")[2].lower():
        return FAMILIES["sdxl-turbo" if kind == "sdxl" else "sd-turbo"]
    return FAMILIES[kind]


def settled(params: Mapping[str, Any], unet: Mapping[str, Any], scheduler: Mapping[str, Any]) -> tuple[int, str]:
    """Steps and guidance that a graph's parameters come to, for those who count before anything is loaded."""
    loras, wanted = params.get("loras") or (), str(params.get("family", "auto"))
    family = family_of(str(params["model"]), unet, scheduler, wanted)
    recipe = recipe_of(family, architecture(unet), loras)
    steps, guidance = params.get("steps") or recipe.steps, str(params.get("guidance") or "auto")
    return int(steps), recipe.guidance if guidance == "auto" else guidance


def kind_of(lora: Mapping[str, Any]) -> str:
    """What a LoRA does to the schedule: its `kind`, else what its name says, else "style" (nothing)."""
    said = str(lora.get("kind", "auto"))
    if said != "auto":
        return said
    word = f"{lora.get('model', '')}/{lora.get('file', '')}".lower()
    return next((kind for kind, marks in MARKS.items() if any(mark in word for mark in marks)), "style")


def recipe_of(family: Family, kind: Architecture, loras: Sequence[Mapping[str, Any]]) -> Recipe:
    """The recipe of a model with its LoRAs. Raises UsageError for a distilling LoRA that is not made for the architecture, and for two."""
    found = [(str(lora["model"]), kind_of(lora)) for lora in loras]
    distilling = [(model, which) for model, which in found if which in DISTILLING]
    for model, which in distilling:
        fits, _ = DISTILLING[which]
        if kind not in fits:
            raise UsageError(
                f"lora {model}: a {which} LoRA is made for {' or '.join(fits)} models, found one of the {kind} architecture",
                fix='take one for this model, or say kind = "style" if it is no such LoRA',
            )
    if len({which for _, which in distilling}) > 1:
        names, kinds = zip(*distilling, strict=True)
        raise UsageError(f"loras: {' and '.join(names)} each want a schedule of their own ({', '.join(kinds)})", fix="keep one of them")
    return DISTILLING[distilling[0][1]][1] if distilling else family.recipe


def oddities(
    family: Family, recipe: Recipe, *, scheduler: str, guidance: str, steps: int | None, distilled: bool, pairs: bool
) -> list[str]:
    """What a graph asks for that this model was not made for, one sentence each: it runs, and is unlikely to look good.

    `scheduler`, `guidance` ("auto": not said) and `steps` (None) are the graph's; `pairs`: a LoRA changed the recipe.
    """
    said = []
    name = "its LoRA" if pairs else f"the {family.name} family"
    few = recipe.most > 0
    if few and guidance == "cfg" and not distilled:
        said.append(f'{name} was trained without guidance: guidance = "cfg" costs a second pass a step and burns the picture')
    if few and steps is not None and steps > recipe.most:
        said.append(f"{name} was trained for at most {recipe.most} steps, found steps = {steps}")
    if not few and steps is not None and steps < 5:
        said.append(f"{name} wants ten steps or more, found steps = {steps}: a few-step model or an LCM LoRA paints in that many")
    if scheduler == "lcm" and recipe.sampler != "lcm":
        said.append(f'scheduler = "lcm" belongs to latent consistency models and LCM LoRAs, and {name} is none')
    if recipe.sampler == "lcm" and scheduler not in ("auto", "lcm"):
        said.append(f'{name} was trained for scheduler = "lcm", found {scheduler!r}')
    return said
