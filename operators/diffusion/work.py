"""What a frame of `diffusion.stream` costs, counted before it runs: passes, floating-point operations, weights, activations.

Operations follow from layer shapes alone, so they are exact: a constant part, one that grows with the picture's area and one that grows
with its square (self-attention), each counted on torch's meta device by `bench/meta_work.py`, which fails when this table differs from what
it counts. 1 multiply-add = 2 FLOP. It knows shapes, and neither files (but for the sizes in their headers) nor devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from engine.planning.outlook import Asked, Outlook
from operators.diffusion.carry.remembered import PUBLISHED, remembered
from operators.diffusion.steps.schedule import executed
from operators.diffusion.weights.placement import HALF, is_tiny, spares, weigh, widening
from operators.diffusion.weights.sizes import width_of


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
    steered: float  # more of these while a UNet runs with what a ControlNet answered


HINT = Cost(0.0, 14.722, 0.0)  # the ControlNet's embedding of its condition: once a frame, not once a step
SD1 = Family(
    Cost(3.0078, 677.771, 122.4946), Cost(1.3912, 232.8904, 49.0104),
    (Cost(0.0806, 41.6966, 21.4748), Cost(0.2336, 115.4849, 64.4245), Cost(0.3867, 197.6618, 107.3742)),
    68.8, 18.9,
)  # fmt: skip
SD2 = Family(
    Cost(3.9918, 677.771, 122.4946), Cost(1.8453, 232.8904, 49.0104),
    (Cost(0.1058, 41.6966, 21.4748), Cost(0.3093, 115.4849, 64.4245), Cost(0.5128, 197.6618, 107.3742)),
    69.0, 18.9,
)  # fmt: skip
SDXL = Family(
    Cost(52.531, 1489.2715, 46.9762), Cost(25.8695, 665.4132, 20.8037),
    (Cost(0.0154, 24.5157, 0.0), Cost(0.017, 63.9422, 0.0), Cost(0.0187, 111.7572, 0.0)), 42.7, 15.1,
)  # fmt: skip
WIDTHS = {768: SD1, 1024: SD2, 2048: SDXL}  # of the text that the UNet attends to

# Autoencoders: encoder, decoder, MB of activations times A in half precision.
KL = (Cost(0.0, 1082.2987, 34.3597), Cost(0.0, 2480.1592, 34.3597), 402.7)
TINY = (Cost(0.0, 122.3248, 0.0), Cost(0.0, 141.3501, 0.0), 103.8)


def family_of(model: str) -> tuple[Family, bool]:
    """The family of `model`, and whether that was read from its files (else it is guessed from its name)."""
    from engine.errors import EngineError
    from operators.diffusion.weights import checkpoint

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


SLOT = 320 * 64 * 64 * HALF / 1e6  # MB of one kept feature of 320 channels, times A


@dataclass(frozen=True, slots=True)
class Spent:
    """What one frame executes: steps, full passes of the UNet (one more where a negative prompt is heard once), passes of each ControlNet,
    passes of the shallow layers. Fractions where frames take turns."""

    run: int
    full: float
    nets: tuple[float, ...]
    short: float

    @property
    def once(self) -> float:
        """Passes beyond one a step."""
        return max(0.0, self.full + self.short - self.run)


def key_steps(run: int, every: int, end: float, once: bool = False) -> list[int]:
    """The executed steps of a key frame that are full: pace.py says the same of a frame under way."""
    return [k for k in range(run) if k == 0 or (once and k == 1) or (k % every == 0 and (end >= 1 or k < end * run))]


def spent(params: Mapping[str, Any], strength: float, *, still: bool = False, batch: int = 1) -> Spent:
    """What a frame executes at `strength`. `still`: where nothing moves, so that frames live on the features of others; it is the mean."""
    run = executed(int(params["steps"]), strength)
    reuse = dict(params.get("reuse") or {"every": 1, "cut": 0})
    frames, once = int(reuse.get("frames", 1)), params["guidance"] == "rcfg-onetime" and run > 0
    rows = bool((params.get("batching") or {}).get("stream")) and 1 < run <= batch
    keys = range(run) if rows else key_steps(run, int(reuse["every"]), float(reuse.get("end", 1.0)), once and reuse["every"] > 1)
    share = 1 / frames if still else 1.0
    nets = []
    for net in params.get("controlnets") or []:
        start, end = float(_get(net, "start", 0.0)), float(_get(net, "end", 1.0))
        works = [k for k in keys if not (k / run < start or (k + 1) / run > end)]
        nets.append(share * (run if rows and works else len(works)))
    return Spent(run, share * len(keys) + (share if once else 0), tuple(nets), run - share * len(keys))


def settle(params: dict[str, Any], model: str, family: Family) -> None:
    """Fill in the steps and guidance that the graph leaves to the family: from the model's files where they are here, else its name."""
    from engine.errors import EngineError
    from operators.diffusion.weights import checkpoint
    from operators.diffusion.weights.families import settled

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
    """See engine.planning.outlook. The least strength and the least steps give the least; nothing is said of the tiny embedded model."""
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
    rows, batch = 2 if params["guidance"] == "cfg" else 1, asked.batch
    reuse, notes = params.get("reuse"), [] if known else [f"{model} is not on this machine: its family is taken from its name"]
    cut = family.cuts[min(int(reuse["cut"]), len(family.cuts) - 1)].at(area) if reuse else 0.0
    unet, control = rows * family.unet.at(area), rows * (family.control.at(area) - HINT.at(area))
    calm_strength = params.get("calm")
    strengths = (*asked.range("strength"), *([] if calm_strength is None else [calm_strength]))
    # With nothing to start from, a frame starts from noise and runs every step.
    inner = bool((params.get("batching") or {}).get("carry"))
    starts = inner or bool({"carry", "image"} & asked.inputs)
    least, most = (min(strengths), max(strengths)) if starts else (1.0, 1.0)
    calm, wild = (spent(params, float(s), still=still, batch=batch) for s, still in ((least, True), (most, False)))
    tflop, evaluations = [], []
    for frame in (calm, wild):
        work = frame.full * unet + sum(frame.nets) * control + frame.short * rows * cut
        evaluations.append(work / (unet + len(nets) * control))
        work += decoder.at(area) + len(nets) * HINT.at(area) + (encoder.at(area) if "image" in asked.inputs else 0)
        tflop.append(work / 1000)
    weights, more = weigh(asked, params, next(width for width, each in WIDTHS.items() if each is family), float(wild.full), tiny)
    wide = 1 if tiny else widening(str(params.get("vae") or model), "" if params.get("vae") else "vae")
    slides = bool((params.get("batching") or {}).get("stream"))
    width = (wild.run if 1 < wild.run <= batch else 1) if slides else batch
    unet_live, coder_live = rows * width * (family.live + (family.steered if nets else 0)) * area * 1e6, wide * coder_live * 1e6
    kept = rows * width * area * _kept(params, wild, slides) * 1e6
    few = spares(tiny, area, round(unet_live), coder_live, decoder.at(area), round(kept))
    live = max(unet_live, coder_live * area) + kept
    # What captures allocate comes from one pool of their own, as large as the largest needs; decoders of a batch are not captured.
    pool = 0 if params.get("graphs") == "off" else round(unet_live if slides or batch > 1 else live - kept)
    few = tuple(replace(way, pool=min(pool, way.live - round(kept))) for way in few)
    memory = 0 if params.get("remember") is None else _remembered(params, model, family, asked, (calm.run, wild.run))
    lasting = {"remembered attention": memory} if memory else {}
    behind = (max(0, calm.run - 1), max(0, wild.run - 1)) if slides and wild.run <= batch else (0, 0) if slides else (batch - 1, batch - 1)
    counts = {
        "nominal steps": (params["steps"], params["steps"]), "executed": (calm.run, wild.run), "full passes": (calm.full, wild.full),
        **({f"passes of the shallow layers (cut {reuse['cut']})": (calm.short, wild.short)} if reuse else {}),
        **({"passes of ControlNets": (sum(calm.nets), sum(wild.nets))} if nets else {}),
    }  # fmt: skip
    if reuse and reuse.get("frames", 1) > 1:
        notes.append(f"the least is the mean over {reuse['frames']} frames in which nothing moves, the most a frame in which something does")
    if params.get("skip"):
        notes.append(f"up to {params['skip']} frames in a row in which nothing changes are not painted at all")
    if slides and wild.run > batch:
        notes.append(f"{wild.run} steps are executed and batch = {batch}: such frames are painted alone, one step after another")
    return Outlook(
        tuple(weights), round(live), (min(tflop), max(tflop)), (min(evaluations), max(evaluations)), (*notes, *more),
        () if params.get("vae_tiling") is not None else few, counts, behind, 1 if slides else batch, pool, lasting,
    )  # fmt: skip


def _remembered(params: Mapping[str, Any], model: str, family: Family, asked: Asked, runs: tuple[int, int]) -> int:
    """Bytes that self-attention keeps of earlier frames; see remembered.py. Frames of a batch remember nothing."""
    from engine.errors import EngineError
    from operators.diffusion.weights import checkpoint

    if asked.batch > 1:
        return 0
    try:
        unet = checkpoint.config(checkpoint.locate(model) / "unet", model)
    except EngineError:
        unet = PUBLISHED[next(width for width, each in WIDTHS.items() if each is family)]
    side, grain = int(params["size"]), 2 ** (len(unet["block_out_channels"]) - 1)
    output = (int(params.get("height") or side), int(params.get("width") or side))
    short = min(output)
    cells = tuple(max(1, round(edge * min(side, short) / short / (8 * grain))) * grain for edge in output)  # as the painter rounds
    least, most = runs
    first = () if "image" in asked.inputs else (int(params["steps"]),)  # a first frame with no picture starts from noise
    number = 4 if params.get("dtype") == "fp32" else HALF
    return remembered(params, unet, (cells[0], cells[1]), range(max(1, least), most + 1), first, number)


def _kept(params: Mapping[str, Any], frame: Spent, slides: bool) -> float:
    """MB times A that deep-feature reuse keeps for one row: where passes find it and, across frames, a slot for each full step."""
    reuse = params.get("reuse")
    if not reuse or (reuse["every"] == 1 and reuse.get("frames", 1) == 1):
        return 0.0
    feature = 2 if reuse["cut"] >= 2 else 1
    skips = reuse["cut"] + 1 if params.get("controlnets") else 0
    slots = 0 if reuse.get("frames", 1) == 1 else 1 if slides else frame.full
    return (1 + slots) * (feature + skips) * SLOT


def _get(table: Any, key: str, default: Any = None) -> Any:
    return table.get(key, default) if isinstance(table, dict) else getattr(table, key, default)
