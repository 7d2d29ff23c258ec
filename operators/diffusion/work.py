"""What a frame of `diffusion.stream` costs, counted before it runs: passes, floating-point operations, weights, activations.

Operations follow from layer shapes alone, so they are exact: a constant part, one that grows with the picture's area and one that grows
with its square (self-attention), each counted on torch's meta device by `bench/meta_work.py`, which fails when this table differs from what
it counts. 1 multiply-add = 2 FLOP. It knows shapes, and neither files (but for the sizes in their headers) nor devices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.outlook import Asked, Outlook
from operators.diffusion.placement import is_tiny, spares, weigh, widening
from operators.diffusion.schedule import executed
from operators.diffusion.sizes import width_of


@dataclass(frozen=True, slots=True)
class Cost:
    """GFLOP of one pass at batch 1: `base` + `area` A + `square` A^2, with A = height x width / 512^2."""

    base: float
    area: float
    square: float

    def at(self, area: float) -> float:
        """GFLOP at `area`."""
        return self.base + self.area * area + self.square * area * area


@dataclass(frozen=True, slots=True)
class Family:
    """One class of models. `cuts`: passes of the shallow layers alone, by cut. `live`: MB of activations at the peak of a pass, times A."""

    unet: Cost
    control: Cost
    cuts: tuple[Cost, ...]
    live: float


HINT = Cost(0.0, 14.722, 0.0)  # the ControlNet's embedding of its condition: once a frame, not once a step
SD1 = Family(
    Cost(3.0078, 677.771, 122.4946), Cost(1.3912, 232.8904, 49.0104),
    (Cost(0.0806, 41.6966, 21.4748), Cost(0.2336, 115.4849, 64.4245), Cost(0.3867, 197.6618, 107.3742)),
    68.8,
)  # fmt: skip
SD2 = Family(
    Cost(3.9918, 677.771, 122.4946), Cost(1.8453, 232.8904, 49.0104),
    (Cost(0.1058, 41.6966, 21.4748), Cost(0.3093, 115.4849, 64.4245), Cost(0.5128, 197.6618, 107.3742)),
    69.0,
)  # fmt: skip
SDXL = Family(
    Cost(52.531, 1489.2715, 46.9762), Cost(25.8695, 665.4132, 20.8037), (), 42.7,
)  # fmt: skip
WIDTHS = {768: SD1, 1024: SD2, 2048: SDXL}  # of the text that the UNet attends to

# Autoencoders: encoder, decoder, MB of activations times A in half precision.
KL = (Cost(0.0, 1082.2987, 34.3597), Cost(0.0, 2480.1592, 34.3597), 402.7)
TINY = (Cost(0.0, 122.3248, 0.0), Cost(0.0, 141.3501, 0.0), 103.8)


def family_of(model: str) -> tuple[Family, bool]:
    """The family of `model`, and whether that was read from its files (else it is guessed from its name)."""
    from engine.errors import EngineError
    from operators.diffusion import checkpoint

    try:
        path = checkpoint.locate(model)
        width = width_of(path) if path.is_file() else checkpoint.config(path / "unet", model).get("cross_attention_dim")
        if width in WIDTHS:
            return WIDTHS[width], True
    except EngineError:
        pass
    name = model.lower()
    if "xl" in name:
        return SDXL, False
    return (SD2 if any(part in name for part in ("2-1", "2.1", "-2-", "sd-turbo")) else SD1), False


def passes(params: dict[str, Any], strength: float) -> tuple[int, int]:
    """Full passes and passes of the shallow layers that one frame executes."""
    run = executed(int(params["steps"]), strength)
    reuse = params.get("reuse")
    full = -(-run // _get(reuse, "every")) if reuse else run
    return full, run - full


def settle(params: dict[str, Any], model: str, family: Family) -> None:
    """Fill in the steps and guidance that the graph leaves to the family: from the model's files where they are here, else its name."""
    from engine.errors import EngineError
    from operators.diffusion import checkpoint
    from operators.diffusion.families import settled

    try:
        path = checkpoint.locate(model)
        unet, scheduler = checkpoint.config(path / "unet", model), checkpoint.config(path / "scheduler", model, "scheduler_config.json")
    except EngineError:
        unet = {"addition_embed_type": "text_time"} if family is SDXL else {"cross_attention_dim": 1024 if family is SD2 else 768}
        scheduler = {"_class_name": "LCMScheduler"} if "lcm" in model.lower() else {}
    try:
        params["steps"], params["guidance"] = settled(params, unet, scheduler)
    except EngineError:  # what does not fit together is told when it is opened
        params["steps"], params["guidance"] = params.get("steps") or 15, "none" if params.get("guidance") == "none" else "cfg"


def outlook(asked: Asked) -> Outlook | None:
    """See engine.outlook. The least strength and the least steps give the least; nothing is said of the embedded model, which is tiny."""
    if asked.embedded:
        return None
    params: dict[str, Any] = dict(asked.params)
    model, nets = str(params["model"]), params.get("controlnets") or []
    family, known = family_of(model)
    settle(params, model, family)
    side = int(params["size"])
    height, width = int(params.get("height") or side), int(params.get("width") or side)
    side = min(side, height, width)
    area = side * side * max(height, width) / min(height, width) / 512**2
    tiny = is_tiny(params.get("vae"))
    encoder, decoder, coder_live = TINY if tiny else KL
    rows = 2 if params["guidance"] == "cfg" else 1
    reuse, notes = params.get("reuse"), [] if known else [f"{model} is not on this machine: its family is taken from its name"]
    cut = family.cuts[min(_get(reuse, "cut"), len(family.cuts) - 1)] if reuse and family.cuts else None
    if reuse and cut is None:
        notes.append("passes of the shallow layers of this family are not counted: they are taken as full ones")
    whole = rows * (family.unet.at(area) + sum(family.control.at(area) - HINT.at(area) for _ in nets))
    strengths = asked.range("strength")
    # With nothing to start from, a frame starts from noise and runs every step.
    starts = bool({"carry", "image"} & asked.inputs)
    tflop, evaluations = [], []
    for strength in strengths if starts else (1.0, 1.0):
        full, short = passes(params, float(strength))
        once = 1 if params["guidance"] == "rcfg-onetime" and full else 0  # the negative prompt, in the first step alone
        work = (full + once) * whole + short * (rows * cut.at(area) if cut else whole)
        evaluations.append(work / whole if whole else 0.0)
        work += decoder.at(area) + len(nets) * HINT.at(area) + (encoder.at(area) if "image" in asked.inputs else 0)
        tflop.append(work / 1000)
    most, _ = passes(params, float(max(strengths)) if starts else 1.0)
    weights, more = weigh(asked, params, next(width for width, each in WIDTHS.items() if each is family), float(most), tiny)
    wide = 1 if tiny else widening(str(params.get("vae") or model), "" if params.get("vae") else "vae")
    unet_live, coder_live = rows * family.live * area * 1e6, wide * coder_live * 1e6
    few = spares(tiny, area, round(unet_live), coder_live, decoder.at(area))
    live = max(unet_live, coder_live * area)
    return Outlook(
        tuple(weights), round(live), (min(tflop), max(tflop)), (min(evaluations), max(evaluations)), (*notes, *more),
        () if params.get("vae_tiling") is not None else few,
    )  # fmt: skip


def _get(table: Any, key: str) -> Any:
    return table[key] if isinstance(table, dict) else getattr(table, key)
