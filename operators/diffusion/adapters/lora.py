"""LoRAs put into the weights of a model, in place, so that a step costs what it cost without them (Hu et al. 2021, arXiv 2106.09685).

A layer's weight is W + sum of w_i (alpha_i / rank_i) up_i down_i, computed in float32 from the weight that was loaded whenever one of the w_i
changes, and written where the old one was: nothing is rebuilt, and whoever holds a pointer to it keeps it. What was loaded is kept on the
host, for the layers that a LoRA touches; `fuse` lets go of it, after which weights stay as they are.

Invariant: weights that are set to what they were give the same bits. It knows layers, not prompts or frames.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import UsageError
from operators.diffusion.adapters import lora_names
from operators.diffusion.weights import checkpoint

if TYPE_CHECKING:
    import torch


@dataclass(slots=True, eq=False)
class Delta:
    """What one LoRA adds to one layer: `down` (rank, in…), `up` (out, rank…), and what their product is multiplied by."""

    lora: int
    down: torch.Tensor
    up: torch.Tensor
    scale: float


@dataclass(slots=True, eq=False)
class Layer:
    """One layer that LoRAs touch. `loaded`: its weight before any, on the host; None until first needed, and when fused."""

    module: Any
    text: bool
    deltas: list[Delta] = field(default_factory=list)
    loaded: torch.Tensor | None = None


class Loras:
    """The LoRAs of one model. `names`: as the graph writes them."""

    def __init__(self, names: Sequence[str], layers: list[Layer]) -> None:
        self.names, self.layers = list(names), layers
        self.weights: tuple[float, ...] | None = None
        self.fused = False

    def set(self, weights: Sequence[float]) -> bool | None:
        """Merge with these weights, one a LoRA. None where nothing changed; else whether a text encoder did.

        Once fused, weights stay: asking for others raises nothing and changes nothing; `fused` tells.
        """
        wanted = tuple(float(w) for w in weights)
        if wanted == self.weights or self.fused:
            return None
        before = self.weights or (0.0,) * len(wanted)
        moved = {n for n, (a, b) in enumerate(zip(before, wanted, strict=True)) if a != b}
        self.weights = None  # should memory run out in the middle, all of it is done again
        text = False
        for layer in self.layers:
            if any(delta.lora in moved for delta in layer.deltas):
                self._merge(layer, wanted)
                text = text or layer.text
        self.weights = wanted
        return text

    def fuse(self) -> None:
        """Let go of the weights that were loaded: the memory is free, and the LoRAs can no longer be moved."""
        for layer in self.layers:
            layer.loaded = None
            layer.deltas.clear()
        self.fused = True

    @staticmethod
    def _merge(layer: Layer, weights: tuple[float, ...]) -> None:
        import torch

        weight = layer.module.weight
        with torch.no_grad():
            if layer.loaded is None:
                layer.loaded = weight.detach().to("cpu", copy=True)
            total = layer.loaded.to(weight.device, torch.float32, copy=True)
            for delta in layer.deltas:
                if weights[delta.lora]:
                    total += (weights[delta.lora] * delta.scale) * _product(delta, total)
            if (written := getattr(layer.module, "written", None)) is not None:
                written()  # a copy of it may be on its way to the device
            weight.copy_(total)


def _product(delta: Delta, like: torch.Tensor) -> torch.Tensor:
    """up down, in the shape of the layer's weight: for a convolution, `up` looks at one pixel of what `down` found."""
    down, up = delta.down.to(like.device, like.dtype), delta.up.to(like.device, like.dtype)
    return (up.flatten(1) @ down.flatten(1)).view_as(like)


def load(wishes: Sequence[Mapping[str, Any]], unet: Any, towers: Sequence[Any], warn: Any) -> Loras:
    """Read the LoRAs that `wishes` name and match them with the layers they change. Nothing is merged yet.

    `warn(what, **facts)` is told of tensors that belong to nothing here. Raises MissingError or UsageError.
    """
    parts = {"unet": unet, **dict(zip(("text", "text_2"), towers, strict=False))}
    known = {part: lora_names.modules_of(part, module) for part, module in parts.items()}
    layers: dict[int, Layer] = {}
    names = []
    for n, wish in enumerate(wishes):
        name = str(wish["model"])
        names.append(name)
        path = checkpoint.weights_file(name, wish.get("file"), "lora")
        found, scales = _read(path, name)
        strange = []
        for (part, module_name), roles in found.items():
            module = known.get(part, {}).get(module_name)
            if module is None:
                strange.append(f"{part}.{module_name}")
                continue
            if "down" not in roles or "up" not in roles:
                raise UsageError(f"lora {name}: {module_name}: expected two factors, found {', '.join(roles)}", fix="fetch the file again")
            down, up = roles["down"], roles["up"]
            _fits(name, module_name, module, down, up)
            rank = int(down.shape[0])
            alpha = float(roles["alpha"]) if "alpha" in roles else scales.get(f"{part}.{module_name}", scales.get(part, float(rank)))
            layer = layers.setdefault(id(module), Layer(module, part != "unet"))
            layer.deltas.append(Delta(n, down, up, alpha / rank))
        if not found or len(strange) == len(found):
            raise UsageError(
                f"lora {name}: none of its {len(found)} layers is in this model{f', such as {strange[0]}' if strange else ''}",
                fix="take a LoRA made for this family of models",
            )
        if strange:
            warn("lora_rest", lora=name, layers=len(found), unknown=len(strange), such_as=strange[0])
    return Loras(names, list(layers.values()))


def _read(path: Path, name: str) -> tuple[dict[tuple[str, str], dict[str, torch.Tensor]], dict[str, float]]:
    """Factors by part and layer, and the alphas that a peft configuration in the file's metadata states."""
    from safetensors import SafetensorError, safe_open

    found: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            keys = list(file.keys())
            kind = lora_names.foreign(keys)
            if kind:
                raise UsageError(f"lora {name}: expected a LoRA, found {kind}", fix="convert it to a LoRA, or merge it into the checkpoint")
            for key in keys:
                place = lora_names.read(key)
                if place is not None:
                    found.setdefault(place[:2], {})[place[2]] = file.get_tensor(key)
            return found, _alphas(file.metadata() or {})
    except SafetensorError as error:
        raise UsageError(f"lora {name}: {path.name} cannot be read: {error}", fix="fetch the file again") from error


def _alphas(metadata: Mapping[str, str]) -> dict[str, float]:
    """alpha of every part ("unet", "text", …) and, where peft has a pattern, of single layers."""
    try:
        settings = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except ValueError:
        return {}
    names = {"unet": "unet", "text_encoder": "text", "text_encoder_2": "text_2"}
    alphas: dict[str, float] = {}
    for key, value in settings.items() if isinstance(settings, dict) else ():
        part, _, what = str(key).partition(".")
        if part not in names:
            continue
        if what == "lora_alpha" and isinstance(value, int | float):
            alphas[names[part]] = float(value)
        elif what == "alpha_pattern" and isinstance(value, dict):
            for layer, alpha in value.items():
                alphas[f"{names[part]}.{str(layer).replace('.', '_').removeprefix('text_model_')}"] = float(alpha)
    return alphas


def _fits(name: str, layer: str, module: Any, down: torch.Tensor, up: torch.Tensor) -> None:
    weight = module.weight
    fine = down.shape[0] == up.shape[1] and up.shape[0] == weight.shape[0] and down[0].numel() == weight[0].numel()
    if not fine or up[0].numel() != up.shape[1]:
        raise UsageError(
            f"lora {name}: {layer}: expected factors of a {tuple(weight.shape)} weight, found {tuple(up.shape)} and {tuple(down.shape)}",
            fix="take a LoRA made for this family of models",
        )
