"""Sizes of pictures: how one size is brought to another, and turned upright. Pure arithmetic and one copy; no codecs, no files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from engine.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_SIZE = re.compile(r"^\s*(\d{1,5})\s*[x×]\s*(\d{1,5})\s*$", re.IGNORECASE)


def parse_size(text: str, what: str = "size") -> tuple[int, int] | None:
    """`"640x360"` as (width, height); None for an empty text. Raises UsageError for anything else."""
    if not text:
        return None
    match = _SIZE.match(text)
    if not match or min(int(match[1]), int(match[2])) < 1:
        raise UsageError(f'{what} = "{text}" is no size', fix='write WIDTHxHEIGHT, such as "512x512"')
    return int(match[1]), int(match[2])


@dataclass(frozen=True, slots=True)
class Fitting:
    """How a picture is brought to a size: scaled to `scaled` (w, h), then its middle cut or set into the middle of `size`."""

    scaled: tuple[int, int]
    size: tuple[int, int]


def fitting(have: tuple[int, int], want: tuple[int, int], mode: str, *, enlarge: bool = True) -> Fitting:
    """The fitting of a (w, h) picture to `want`.

    fit: the largest size of the same shape inside `want` (the result may be smaller) · fill: covers `want`, the overhang is cut ·
    letterbox: like fit, with bars up to `want` · stretch: exactly `want`, the shape changes. `enlarge=False` keeps fit from growing.
    """
    (w, h), (ww, wh) = have, want
    if mode == "stretch":
        return Fitting(want, want)
    ratio = max(Fraction(ww, w), Fraction(wh, h)) if mode == "fill" else min(Fraction(ww, w), Fraction(wh, h))
    if not enlarge and mode == "fit":
        ratio = min(ratio, Fraction(1))
    scaled = (max(1, round(w * ratio)), max(1, round(h * ratio)))
    if mode == "fill":
        scaled = (max(scaled[0], ww), max(scaled[1], wh))
    return Fitting(scaled, scaled if mode == "fit" else want)


def middle(inner: tuple[int, int], outer: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the middle `inner` (w, h) of an `outer` (w, h) picture."""
    x, y = (outer[0] - inner[0]) // 2, (outer[1] - inner[1]) // 2
    return slice(y, y + inner[1]), slice(x, x + inner[0])


def place(scaled: Array, out: Array) -> None:
    """Copy `scaled` into the middle of `out`: cut where it is larger, black bars where it is smaller."""
    (sh, sw), (oh, ow) = scaled.shape[:2], out.shape[:2]
    inner = (min(sw, ow), min(sh, oh))
    if inner != (ow, oh):
        out.fill(0)
    out[middle(inner, (ow, oh))] = scaled[middle(inner, (sw, sh))]


def turn(picture: Array, degrees: int, out: Array) -> None:
    """`picture` turned counter-clockwise by a multiple of 90 degrees into `out`."""
    import cv2

    codes = {90: cv2.ROTATE_90_COUNTERCLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_CLOCKWISE}
    cv2.rotate(picture, codes[degrees % 360], dst=out)
