"""Pictures put together: overlay, side by side, text. Pure and deterministic; what is drawn over is scaled to fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from engine.errors import UsageError
from engine.operator import HOST_RGB, Live, Range, operator
from engine.payload import Image, Mask
from engine.site import Site

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


@operator("image.overlay", inplace="base")
def overlay(
    base: Annotated[Image, HOST_RGB], top: Annotated[Image, HOST_RGB], mask: Mask | None = None, *,
    opacity: Annotated[float, Live(0, 1)] = 1.0, site: Site,
) -> Annotated[Image, HOST_RGB]:  # fmt: skip
    """`top` laid over `base` where `mask` (H, W; everywhere without one) is white, `opacity` deep. Writes into `base`.

    `top` and `mask` are scaled to the size of `base`. Blending is in the codes (not in linear light), as compositors do by default.
    """
    import cv2
    import numpy as np

    over = _sized(top.data, base.data)
    target = base.data if base.data.flags.writeable else _copy(base.data, site)
    if mask is None:
        cv2.addWeighted(over, opacity, target, 1 - opacity, 0, dst=target)
        return Image(target)
    alpha = _sized(mask.data, base.data).astype(np.float32) * np.float32(opacity / 255)
    cv2.blendLinear(over, target, alpha, 1 - alpha, dst=target)
    return Image(target)


@operator("image.side_by_side")
def side_by_side(
    images: Annotated[list[Image], HOST_RGB], *, direction: Literal["horizontal", "vertical"] = "horizontal",
    gap: Annotated[int, Range(0, 1000)] = 0, site: Site,
) -> Annotated[Image, HOST_RGB]:  # fmt: skip
    """`images` beside each other (or below each other), each scaled to the first one's height (width), `gap` black pixels between."""
    import cv2

    if not images:
        raise UsageError("image.side_by_side needs at least one picture", fix='connect in.images = ["a", "b"]')
    across = direction == "horizontal"
    side = images[0].height if across else images[0].width
    sizes = [
        (max(1, round(i.width * side / i.height)), side) if across else (side, max(1, round(i.height * side / i.width))) for i in images
    ]
    length = sum(size[0 if across else 1] for size in sizes) + gap * (len(images) - 1)
    out = site.empty((side, length, 3) if across else (length, side, 3))
    out.fill(0)
    at = 0
    for image, (w, h) in zip(images, sizes, strict=True):
        place = out[:, at : at + w] if across else out[at : at + h]
        shrinks = w < image.width
        cv2.resize(image.data, (w, h), dst=place, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
        at += (w if across else h) + gap
    return Image(out)


@operator("image.text", inplace="image")
def text(
    image: Annotated[Image, HOST_RGB], *, text: Annotated[str, Live()] = "",
    corner: Literal["top-left", "top-right", "bottom-left", "bottom-right"] = "bottom-left",
    height: Annotated[float, Live(0.01, 0.5)] = 0.05, site: Site,
) -> Annotated[Image, HOST_RGB]:  # fmt: skip
    """A line of `text` in a corner of `image`: white with a dark edge, `height` of a letter as a fraction of the picture's.

    Writes into `image`. The font is OpenCV's own; line breaks become spaces.
    """
    import cv2
    import numpy as np

    words = " ".join(text.split())
    if not words:
        return image
    target = image.data if image.data.flags.writeable else _copy(image.data, site)
    tall = max(6, round(height * image.height))
    edge, margin, font = max(1, tall // 12), max(2, tall // 2), cv2.FONT_HERSHEY_SIMPLEX
    scale, thick = tall / 22, max(1, round(tall / 11))  # at scale 1 a capital is 22 pixels tall
    (w, h), below = cv2.getTextSize(words, font, scale, thick)
    letters = np.zeros((h + below + 2 * edge, w + 2 * edge), np.uint8)
    cv2.putText(letters, words, (edge, h + edge), font, scale, 255, thick, cv2.LINE_AA)
    x = margin - edge if corner.endswith("left") else image.width - margin - w - edge
    y = margin - edge if corner.startswith("top") else image.height - margin - h - below - edge
    _stamp(target, letters, edge, x, y)
    return Image(target)


def _stamp(target: Array, letters: Array, edge: int, x: int, y: int) -> None:
    """White `letters` (coverage, 0..255) with a dark edge around them, onto `target` at (x, y), cut at its borders."""
    import cv2
    import numpy as np

    dark = cv2.dilate(letters, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * edge + 1, 2 * edge + 1)))
    left, top = max(0, -x), max(0, -y)
    right, bottom = min(letters.shape[1], target.shape[1] - x), min(letters.shape[0], target.shape[0] - y)
    if right <= left or bottom <= top:
        return
    area = target[y + top : y + bottom, x + left : x + right]
    cover = letters[top:bottom, left:right, None].astype(np.uint16)
    shade = dark[top:bottom, left:right, None].astype(np.uint16)
    area[:] = np.maximum(area * (255 - shade) // 255, 0) + (255 - area * (255 - shade) // 255) * cover // 255


def _sized(picture: Array, like: Array) -> Array:
    import cv2

    if picture.shape[:2] == like.shape[:2]:
        return picture
    shrinks = picture.shape[1] > like.shape[1]
    return cv2.resize(picture, (like.shape[1], like.shape[0]), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _copy(picture: Array, site: Site) -> Array:
    """A writable twin of a picture that the runtime does not own (a reference image, a constant)."""
    import numpy as np

    out = site.empty(picture.shape)
    np.copyto(out, picture)
    return out
