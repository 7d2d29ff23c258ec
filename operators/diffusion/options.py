"""The tables that parameters of the diffusion operators take in a graph file: data only."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Le, Len  # what pydantic reads bounds from, without pydantic
from typing_extensions import TypedDict

from operators.diffusion.weights.families import LoraKind

Size = Annotated[list[int], Len(2, 2)]


class _Named(TypedDict):
    model: str


class ControlNet(_Named, total=False):
    """One ControlNet: a folder, hub id or safetensors file, its scale, and the part of the executed steps it works in (0 to 1)."""

    scale: Annotated[float, Ge(0), Le(4)]
    start: Annotated[float, Ge(0), Le(1)]
    end: Annotated[float, Ge(0), Le(1)]


class Lora(_Named, total=False):
    """One LoRA: a safetensors file, or a folder or hub id with `file` in it. `kind` "lcm", "hyper" or "lightning" changes the schedule that
    `auto` takes; "auto" goes by the name."""

    file: str
    weight: Annotated[float, Ge(-4), Le(4)]
    kind: LoraKind


class IPAdapter(_Named, total=False):
    """One IP-Adapter: a safetensors file, or a folder or hub id with `file` in it, and its scale."""

    file: str
    scale: Annotated[float, Ge(0), Le(4)]


class _Token(_Named):
    token: str


class Embedding(_Token, total=False):
    """A textual-inversion embedding (safetensors) and the word in a prompt that stands for it."""

    file: str


class _Steps(TypedDict):
    every: Annotated[int, Ge(1)]
    cut: Annotated[int, Ge(0)]


class ReuseSteps(_Steps, total=False):
    """Deep features are computed on every `every`-th step, in the first `end` (0 to 1) of the executed steps; `cut` layers stay shallow on the
    others. Up to `frames` frames live on the features of one, until a picture has moved by more than `motion` (0 to 1, default 0.1)."""

    frames: Annotated[int, Ge(1)]
    motion: Annotated[float, Ge(0), Le(1)]
    end: Annotated[float, Ge(0), Le(1)]


class Batching(TypedDict, total=False):
    """How a node with `batch` = N paints several frames with one pass. Without `stream` N frames are gathered, painted together and leave
    together. With it each pass has a row for every executed step, of as many frames, up to N: a picture comes executed - 1 frames later.
    `carry`: a frame starts from what is left in the node, since a carry edge cannot close a loop around a batch: from the last frame of the
    batch before; in a stream batch from what the first step of the frame before estimated."""

    stream: bool
    carry: bool


class _Text(TypedDict):
    text: str


class Cue(_Text, total=False):
    """One entry of a schedule: from `frame` (ordinal of the source) or `time` (seconds) on, paint `text`; it arrives over `blend` frames."""

    frame: Annotated[int, Ge(0)]
    time: Annotated[float, Ge(0)]
    negative: str
    blend: Annotated[int, Ge(0), Le(1000)]


class Motion(TypedDict, total=False):
    """What counts as motion in `control` and `image`. `still`: a cell of the latent has moved where a pixel of it changed by more than this
    (0..1). `reach`: as far around it (share of the short side) everything counts as moved too: what is painted is wider than the bones of a
    skeleton. `lively`: share of moved cells at which `strength` holds in full; see `calm`."""

    still: Annotated[float, Ge(0), Le(1)]
    reach: Annotated[float, Ge(0), Le(0.5)]
    lively: Annotated[float, Ge(0.001), Le(1)]


class Flow(TypedDict, total=False):
    """What moves along with the motion in pictures: the carried latent (`carry`, on unless false), the fixed noise (`noise`, off unless
    true). `on`: where the motion is looked for, "image" or the first "control"; "auto": `image` where it is connected."""

    on: Literal["auto", "image", "control"]
    carry: bool
    noise: bool


class Remember(TypedDict, total=False):
    """Self-attention that sees earlier frames: the last one, and with `anchor` the first of the epoch too. `cells`: layers of at most so many
    places take part (default 1024). `megabytes`: what may be kept in all (default 512); steps and layers that do not fit do without."""

    anchor: bool
    cells: Annotated[int, Ge(1)]
    megabytes: Annotated[int, Ge(1)]


class Micro(TypedDict, total=False):
    """SDXL's size conditioning, [height, width] each: the size a training picture had, where it was cut, and the size aimed at."""

    original: Size
    crop: Size
    target: Size


class Placement(TypedDict, total=False):
    """How parts are kept. "auto": as the memory plan decides; "resident": on the device; "offload": there only while it works; "staged": loaded
    from its files while it works; "fp8": in 8-bit floats, computed in the node's precision; "group": on the host, moved in layer by layer; with
    "+" both."""

    unet: Literal["auto", "resident", "fp8", "group", "fp8+group"]
    text: Literal["auto", "resident", "offload", "staged", "fp8"]
    controlnets: Literal["auto", "resident", "offload", "fp8", "group", "fp8+offload", "fp8+group"]
    vae: Literal["auto", "resident", "offload"]


class Quantise(TypedDict, total=False):
    """Which library quantises ("auto": the first that is installed), to how many bits, and which parts: by default UNet and ControlNets."""

    backend: Literal["auto", "torchao", "quanto", "bitsandbytes"]
    bits: Literal[8, 4]
    parts: list[Literal["unet", "text", "controlnets"]]


Scheduler = Literal["auto", "ddim", "euler", "euler_a", "dpm++", "lcm"]
Guidance = Literal["auto", "none", "cfg", "rcfg-self", "rcfg-onetime"]
Precision = Literal["auto", "fp32", "fp16", "bf16"]
