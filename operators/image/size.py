"""Sizes of pictures as operators: resize, letterbox, crop, flip. Pure, deterministic functions; geometry only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from engine.errors import UsageError
from engine.operator import HOST_RGB, Range, operator
from engine.payload import Image
from engine.site import Site
from operators.media.geometry import fitting, middle

if TYPE_CHECKING:
    from typing import Any

    import numpy as np

    Array = np.ndarray[Any, Any]

Side = Annotated[int, Range(1, 16384)]
Edge = Annotated[int, Range(0, 16384)]


@operator("image.resize")
def resize(
    image: Annotated[Image, HOST_RGB], *, width: Side, height: Side, mode: Literal["fit", "fill", "stretch", "letterbox"] = "fill",
    interpolation: Literal["auto", "nearest", "linear", "cubic", "area", "lanczos"] = "auto", site: Site,
) -> Annotated[Image, HOST_RGB]:  # fmt: skip
    """`image` (H, W, 3) brought to `width` x `height` pixels.

    `mode`: "fill" covers the size and cuts what hangs over, "letterbox" keeps the whole picture between black bars, "stretch" changes its
    shape, "fit" keeps its shape and may give a smaller picture. `interpolation`: "auto" is area when shrinking, cubic when enlarging.
    """
    have, plan = (image.width, image.height), fitting((image.width, image.height), (width, height), mode)
    if have == plan.scaled == plan.size:
        return image
    out = site.empty((plan.size[1], plan.size[0], 3))
    if plan.scaled == plan.size:
        _scale(image.data, out, interpolation)
    elif mode == "letterbox":
        out.fill(0)
        _scale(image.data, out[middle(plan.scaled, plan.size)], interpolation)
    else:
        # Only the part that stays is scaled.
        kept = (round(width * have[0] / plan.scaled[0]), round(height * have[1] / plan.scaled[1]))
        _scale(image.data[middle(kept, have)], out, interpolation)
    return Image(out)


@operator("image.crop")
def crop(image: Annotated[Image, HOST_RGB], *, x: Edge, y: Edge, width: Side, height: Side, site: Site) -> Annotated[Image, HOST_RGB]:
    """The part of `image` whose top left corner is at (`x`, `y`) pixels; UsageError where it reaches outside."""
    import numpy as np

    if x + width > image.width or y + height > image.height:
        raise UsageError(
            f"the crop {width}x{height} at ({x}, {y}) reaches outside of a picture of {image.width}x{image.height}", fix="make it smaller"
        )
    out = site.empty((height, width, 3))
    np.copyto(out, image.data[y : y + height, x : x + width])
    return Image(out)


@operator("image.copy")
def copy(image: Annotated[Image, HOST_RGB], *, site: Site) -> Annotated[Image, HOST_RGB]:
    """The same picture in a buffer of its own, uint8 RGB (H, W, 3): goes before an operator that writes to its input."""
    out = site.empty(image.data.shape)
    out[...] = image.data
    return Image(out)


@operator("image.flip")
def flip(
    image: Annotated[Image, HOST_RGB], *, axis: Literal["horizontal", "vertical", "both"] = "horizontal", site: Site
) -> Annotated[Image, HOST_RGB]:
    """`image` mirrored: "horizontal" swaps left and right, as a mirror does."""
    import cv2

    out = site.empty((image.height, image.width, 3))
    cv2.flip(image.data, {"horizontal": 1, "vertical": 0, "both": -1}[axis], dst=out)
    return Image(out)


def _scale(picture: Array, out: Array, interpolation: str) -> None:
    import cv2

    (h, w), (oh, ow) = picture.shape[:2], out.shape[:2]
    if interpolation == "auto":
        # Up to a factor of two, bilinear's four taps still see every pixel, at an eighth of the cost of area.
        shrink = max(h / oh, w / ow)
        interpolation = "cubic" if shrink < 1 else "linear" if shrink <= 2 else "area"
    codes = {
        "nearest": cv2.INTER_NEAREST_EXACT, "linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC, "area": cv2.INTER_AREA,
        "lanczos": cv2.INTER_LANCZOS4,
    }  # fmt: skip
    cv2.resize(picture, (ow, oh), dst=out, interpolation=codes[interpolation])
