"""How each part of a painting node is kept: what may be chosen, what that weighs and costs, and what a graph may not ask for.

The parts are "unet", "text", "controlnet 1" …, "vae" (the half that makes pictures), "vae encoder" (present where a picture is encoded) and
"ip adapter 1" …. Before a run this module says of each in which ways it can be kept (`weigh`, for the engine's memory plan); when a node is
opened it joins what the plan chose with what the graph says outright (`chosen`), and refuses what does not go together.

Costs are estimates from the slowest card that graphs are made for; they order ways and are never shown as measured. It knows parameters,
sizes and names of ways; modules are handled in models.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import EngineError, UsageError
from engine.planning.memory import BUS
from engine.planning.outlook import Way, Weights
from operators.diffusion.weights import sizes
from operators.diffusion.weights.sizes import Sizes, sizes_of
from operators.models import quantise

if TYPE_CHECKING:
    from engine.planning.outlook import Asked

HALF = 2  # bytes of a number in half precision
DRAM = 336e9  # bytes a second of a card's memory (RTX 2060)
RATE = 15.5e12  # operations a second (the same, about)
LARGEST = HALF * 29_491_200  # the largest layer of any family here: a 3 x 3 convolution from 2560 to 1280 channels
TILED = 1.8  # what tiles that overlap by a quarter compute, times
ALTERED = ("fp8", "int8", "int4")
SAYS = {
    "offload": "moved in for each use", "staged": "loaded from its files for each use and let go again",
    "group": "kept on the host, moved in layer by layer", "fp8": "kept in 8-bit floats, computed in half precision",
    "int8": "quantised to 8 bits", "int4": "quantised to 4 bits", "tiling": "pictures decoded in overlapping tiles",
}  # fmt: skip
CHOICES = {
    "unet": ("fp8", "int8", "fp8+group", "group"), "text": ("offload",), "vae": ("offload",),
    "controlnets": ("fp8", "int8", "offload", "fp8+offload", "fp8+group", "group"),
}  # fmt: skip


def group_of(part: str) -> str:
    """The key of `placement` that speaks of a part."""
    name = part.partition(" ")[0]
    return "controlnets" if name == "controlnet" else name


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a node's parameters say of its placement. `moving`: LoRAs whose weights can be moved."""

    placement: Mapping[str, str]
    quantise: Mapping[str, Any] | str | None
    moving: bool
    loras: bool
    embeddings: bool

    @classmethod
    def read(cls, params: Mapping[str, Any]) -> Wishes:
        """From the parameters of diffusion.stream."""
        loras = bool(params.get("loras"))
        return cls(
            params.get("placement") or {}, params.get("quantise"), loras and not params.get("fuse_loras"), loras, bool(params.get("embeddings"))
        )

    @property
    def bits(self) -> int:
        return int(self.quantise.get("bits", 8)) if isinstance(self.quantise, Mapping) else 8

    @property
    def backend(self) -> str:
        return str(self.quantise.get("backend", "auto")) if isinstance(self.quantise, Mapping) else "auto"

    def said(self, part: str) -> str:
        """How the graph wants a part kept; "auto" where it leaves that to the memory plan. Raises UsageError."""
        group = group_of(part)
        placed = str(self.placement.get(group, "auto"))
        if not isinstance(self.quantise, Mapping) or group not in self.quantise.get("parts", ("unet", "controlnets")):
            return placed
        if placed not in ("auto", "resident"):
            raise UsageError(f"{group} is to be quantised and placed as {placed}: one of the two", fix=f"leave {group} out of placement")
        return f"int{self.bits}"

    def bars(self, part: str, how: str) -> str:
        """Why a part cannot be kept so, and what to do; empty where it can."""
        touched = group_of(part) in ("unet", "text")
        if self.moving and touched and any(each in ALTERED for each in how.split("+")):
            return "loras that can be moved live need full weights to be merged into: set fuse_loras = true, or keep it resident"
        if how == "staged" and (self.loras or self.embeddings):
            return 'its files do not have what loras and embeddings changed in it: take "offload"'
        return ""


def chosen(params: Mapping[str, Any], parts: Sequence[str], planned: Mapping[str, str], device: str) -> tuple[dict[str, str], str]:
    """Part to the way it is kept, resident ones left out: what the graph says, else what was planned. And the library that quantises, or "".

    Raises UsageError for what does not go together, MissingError or DeviceError for a library that is not there or cannot.
    """
    wishes = Wishes.read(params)
    found: dict[str, str] = {}
    for part in parts:
        said = wishes.said(part)
        how = planned.get(part, "resident") if said == "auto" else said
        if why := wishes.bars(part, how):
            raise UsageError(f"placement: {part} cannot be kept as {how}", fix=why)
        if how not in ("resident", "host"):
            found[part] = how
    packed = any(how in ("int8", "int4") for how in found.values())
    return found, quantise.choose(wishes.backend, wishes.bits, device) if packed else ""


# ---------------------------------------------------------------- before a run


def weigh(asked: Asked, params: Mapping[str, Any], width: int, passes: float, tiny: bool) -> tuple[list[Weights], list[str]]:
    """The weights of one node and the ways to keep them; notes. `width`: of the text, which names the family. `passes`: of the UNet a frame."""
    wishes, model, notes = Wishes.read(params), str(params["model"]), []
    nets, looks = params.get("controlnets") or [], params.get("ip_adapters") or []
    vae, inside = str(params.get("vae") or model), "" if params.get("vae") else "vae"
    wide = 1 if tiny else widening(vae, inside)
    found: list[tuple[str, Sizes, float, int]] = [
        ("unet", sizes_of(model, "unet", sizes.UNET[width]), passes, 1),
        ("text", sizes_of(model, "text_encoder", sizes.TEXT[width]), 0.0, 1),
    ]
    seen: set[str] = set()
    for n, net in enumerate(nets):
        name = str(_get(net, "model"))
        if name not in seen:  # one that is used twice is loaded once
            found.append((f"controlnet {n + 1}", sizes_of(name, "", sizes.CONTROL[width]), passes, 1))
        seen.add(name)
    found.append(("vae", sizes_of(vae, inside, sizes.DECODER[tiny], sizes.decodes), 1.0, wide))
    if "image" in asked.inputs:
        found.append(("vae encoder", sizes_of(vae, inside, sizes.ENCODER[tiny], sizes.encodes), 1.0, wide))
    weights = []
    for part, size, often, factor in found:
        try:
            weights.append(_weights(wishes, part, size, often, factor))
        except EngineError as error:  # what cannot work is refused when the node is opened; the plan says so already
            notes.append(f"{part}: {error}")
            weights.append(Weights(part, factor * HALF * size.total, size.exact, often))
    for n, adapter in enumerate(looks):
        size = adapter_sizes(str(_get(adapter, "model")), _maybe(adapter, "file"), sizes.LOOKS[width])
        stays = HALF * size.total
        weights.append(Weights(f"ip adapter {n + 1}", stays, size.exact, passes, ways=(Way("resident", stays=stays),)))
    if wishes.moving:
        notes.append("loras move live, so UNet and text encoders keep full weights: fuse_loras = true would let them be stored in 8 bits")
    if wishes.quantise == "auto" and not quantise.installed():
        notes.append("quantise is allowed and no library for it is installed: pip install torchao")
    return weights, notes


def _weights(wishes: Wishes, part: str, size: Sizes, often: float, factor: int) -> Weights:
    said = wishes.said(part)
    if said == "auto":
        allowed = [how for how in CHOICES[group_of(part)] if not wishes.bars(part, how)]
        if "int8" in allowed and (wishes.quantise != "auto" or not quantise.installed()):
            allowed.remove("int8")
        ways = ["resident", *allowed]
    else:
        if why := wishes.bars(part, said):
            raise UsageError(f"placement: {part} cannot be kept as {said}", fix=why)
        ways = [said]
    kept = tuple(way_of(how, size, often, factor, wishes.backend) for how in ways)
    return Weights(part, factor * HALF * size.total, size.exact, often, ways=kept)


def way_of(how: str, size: Sizes, often: float, factor: int = 1, backend: str = "auto") -> Way:
    """What keeping a part of `size` so takes and costs, when it is used `often` times a frame. `factor`: 2 where it computes in float32."""
    layers, whole = size.linear + size.conv, factor * HALF * size.total
    rest = whole - HALF * layers
    widen = 1e3 * often * 3 * layers / DRAM  # read one byte, write two, a pass: what reads them then would have read them anyway
    match how:
        case "resident":
            return Way(how, stays=whole)
        case "offload" | "staged":
            return Way(how, visits=whole, cost_ms=1e3 * min(1.0, often) * whole / BUS, says=SAYS[how])
        case "fp8":
            return Way(how, stays=rest + layers, cost_ms=widen, alters=True, says=SAYS[how])
        case "fp8+offload":
            moved = rest + layers
            moving = widen + 1e3 * min(1.0, often) * moved / BUS
            return Way(how, visits=moved, cost_ms=moving, alters=True, says=f"{SAYS['fp8']}, {SAYS['offload']}")
        case "group":
            return Way(how, stays=rest, visits=min(2 * LARGEST, HALF * layers), cost_ms=1e3 * often * HALF * layers / BUS, says=SAYS[how])
        case "fp8+group":
            moving = widen + 1e3 * often * layers / BUS
            says = f"{SAYS['group']}, in 8-bit floats"
            return Way(how, stays=rest, visits=min(2 * LARGEST, HALF * layers), cost_ms=moving, alters=True, says=says)  # two, one of them wide
    bits = int(how.removeprefix("int"))
    backend = backend if backend != "auto" else next(iter(quantise.installed(bits)), "torchao" if bits == 8 else "bitsandbytes")
    packed = quantise.bytes_of(backend, bits, linear=size.linear, conv=size.conv, rest=size.total - layers)
    return Way(how, stays=packed, cost_ms=widen, alters=True, says=f"{SAYS[how]} by {backend}")


def spares(tiny: bool, area: float, floor: int, coder_live: float, decoder_gflop: float, kept: int = 0) -> tuple[Way, ...]:
    """Ways to decode with fewer activations, where they help. `floor`: what the UNet takes at once; `kept`: what lies there besides.
    `coder_live`: bytes at 512 x 512. Pictures of a batch are decoded one by one as it is."""
    if area <= 1.2:
        return ()
    tile = round(coder_live + 2.2e6 * area * (1 if tiny else 2))  # one tile of 512 x 512, and rows of pictures on their way to one
    cost = 1e3 * (TILED - 1) * 1e9 * decoder_gflop / RATE
    return (Way("tiling", live=max(floor, tile) + kept, cost_ms=cost, says=SAYS["tiling"]),)


def is_tiny(vae: str | None) -> bool:
    """Whether a graph's own autoencoder is a tiny one: by its configuration where it is here, else by its name."""
    from operators.diffusion.weights import checkpoint

    if vae is None:
        return False
    try:
        path = checkpoint.locate(vae)
        return path.is_dir() and checkpoint.config(path, vae).get("_class_name") == "AutoencoderTiny"
    except (EngineError, OSError):
        return any(word in vae.lower() for word in ("tae", "tiny"))


def movable(name: str, model: str, part: str, table: Sizes, per_frame: float, factor: int = 1) -> Weights:
    """The weights of one part of `model`, which may be moved between uses. `factor`: 2 where it computes in float32."""
    size = sizes_of(model, part, table)
    return Weights(name, factor * HALF * size.total, size.exact, per_frame)


def widening(vae: str, part: str) -> int:
    """2 where a full autoencoder computes in float32 because half precision overflows in it, as its configuration says; else 1."""
    from operators.diffusion.weights import checkpoint

    try:
        path = checkpoint.locate(vae)
        settings = checkpoint.config(path / part if part and (path / part).is_dir() else path, vae)
    except (EngineError, OSError):
        return 2
    return 2 if settings.get("force_upcast", True) else 1


def adapter_sizes(model: str, file: str | None, table: Sizes, prefix: str = "ip_adapter.") -> Sizes:
    """What an IP-Adapter adds to the UNet (keys and values), or with another prefix to the image encoder, from its file where it is here."""
    from operators.diffusion.weights import checkpoint

    try:
        found = sizes.count(checkpoint.weights_file(model, file, "ip-adapter"), lambda key: key.startswith(prefix))
    except (EngineError, OSError, ValueError, KeyError, TypeError):
        return table
    return found if found.total else table


def _get(table: Any, key: str) -> Any:
    return table[key] if isinstance(table, Mapping) else getattr(table, key)


def _maybe(table: Any, key: str) -> Any:
    return table.get(key) if isinstance(table, Mapping) else getattr(table, key, None)
