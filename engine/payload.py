"""What travels on edges: a small closed set of typed values.

A payload is immutable once emitted: fields cannot be reassigned, and arrays must not be written to, because other nodes read the same
memory. Arrays are NumPy arrays on the host or torch tensors on a device; this module imports neither at start, so that graphs load and
compile without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import torch

    Array: TypeAlias = np.ndarray[Any, Any] | torch.Tensor
else:
    Array = Any


class Payload:
    """Base of every payload; third parties add their own kinds by subclassing it with a frozen dataclass."""

    __slots__ = ()
    kind: ClassVar[str] = "payload"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.kind = cls.__name__


@dataclass(frozen=True, slots=True, eq=False)
class Image(Payload):
    """A picture.

    `data`: uint8 (0..255) or float (0..1); `layout` says the axes: "hwc" (H, W, 3) or "chw" (3, H, W) or (1, 3, H, W).
    The lingua franca is uint8 "hwc" RGB on the host, full range, sRGB transfer; a port that wants something else says so with `Format`,
    and the compiler plans the conversion.
    """

    data: Array
    layout: str = "hwc"
    color: str = "rgb"

    @property
    def height(self) -> int:
        return int(self.data.shape[0 if self.layout == "hwc" else -2])

    @property
    def width(self) -> int:
        return int(self.data.shape[1 if self.layout == "hwc" else -1])

    def __repr__(self) -> str:
        return f"Image({self.width}x{self.height} {self.data.dtype} {self.layout} {self.color})"


@dataclass(frozen=True, slots=True, eq=False)
class Mask(Payload):
    """A matte: (H, W) uint8, 0 = outside, 255 = inside."""

    data: Array

    def __repr__(self) -> str:
        return f"Mask({tuple(self.data.shape)} {self.data.dtype})"


@dataclass(frozen=True, slots=True, eq=False)
class Pose(Payload):
    """Body key points in OpenPose-18 order (Cao et al. 2017).

    `people`: (n, 18, 3) float32: x and y as fractions of width and height (0..1, outside when off-frame), visibility 0..1. n may be 0.
    `size`: (height, width) in pixels of the picture they were found in.
    `stability`: 0 (erratic or lost) .. 1 (steady), where a tracker measured it, else None.
    """

    people: Array
    size: tuple[int, int] = (0, 0)
    stability: float | None = None

    def __repr__(self) -> str:
        return f"Pose({self.people.shape[0]} people in {self.size[1]}x{self.size[0]})"


@dataclass(frozen=True, slots=True, eq=False)
class Latent(Payload):
    """A diffusion latent: (1, C, h, w), in the scale the UNet sees (VAE scaling factor applied)."""

    data: Array

    def __repr__(self) -> str:
        return f"Latent({tuple(self.data.shape)} {self.data.dtype})"


@dataclass(frozen=True, slots=True)
class Prompt(Payload):
    """What to paint: text, what to avoid, and the frames over which a change should be blended in."""

    text: str
    negative: str = ""
    blend: int = 0

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Scalar(Payload):
    """A number, such as a stability score or a strength."""

    value: float

    def __float__(self) -> float:
        return self.value


@dataclass(frozen=True, slots=True)
class Text(Payload):
    """A piece of text, such as a caption."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, eq=False)
class Mesh(Payload):
    """A triangle mesh: vertices (V, 3) float32 in metres, faces (F, 3) int32, optional uv (V, 2) and texture."""

    vertices: Array
    faces: Array
    uv: Array | None = None
    texture: Image | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Data(Payload):
    """Named values without a type of their own, such as metrics: a read-only mapping of plain Python values."""

    values: Mapping[str, Any] = field(default_factory=dict)


PAYLOADS: dict[str, type[Payload]] = {
    cls.__name__: cls for cls in (Image, Mask, Pose, Latent, Prompt, Scalar, Text, Mesh, Data)
}


def from_plain(kind: type[Payload], value: Any) -> Payload:
    """A payload from how a graph file writes one: text for Prompt and Text, a number for Scalar, a table for Prompt and Data.

    Raises ValueError where a value of this kind cannot be written down.
    """
    if isinstance(value, kind):
        return value
    if kind is Prompt and isinstance(value, str):
        return Prompt(value)
    if kind is Prompt and isinstance(value, Mapping) and set(value) <= {"text", "negative", "blend"} and "text" in value:
        made = Prompt(**value)
        if not (isinstance(made.text, str) and isinstance(made.negative, str)):
            raise ValueError("text and negative of a prompt are text")
        if not isinstance(made.blend, int) or isinstance(made.blend, bool) or made.blend < 0:
            raise ValueError(f"blend of a prompt is a number of frames, found {made.blend!r}")
        return made
    if kind is Text and isinstance(value, str):
        return Text(value)
    if kind is Scalar and isinstance(value, (int, float)) and not isinstance(value, bool):
        return Scalar(float(value))
    if kind is Data and isinstance(value, Mapping):
        return Data(value)
    raise ValueError(f"{value!r} is no {kind.__name__} that can be written in a graph")


WRITTEN: frozenset[type[Payload]] = frozenset({Prompt, Text, Scalar, Data})
"""The kinds that `from_plain` knows."""


def to_plain(payload: Any) -> Any:
    """What `from_plain` makes the same payload of; other values as they are."""
    match payload:
        case Prompt():
            return {"text": payload.text, "negative": payload.negative, "blend": payload.blend}
        case Text():
            return payload.text
        case Scalar():
            return payload.value
        case Data():
            return dict(payload.values)
    return payload
