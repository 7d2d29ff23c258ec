"""Pictures brought to the one size that an output has: that of its first picture.

Invariant: a picture of that size passes untouched; another is scaled into it between black bars, and told once per size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from engine.site import Site

    Array = np.ndarray[Any, Any]


class Canvas:
    """`size`: (height, width) of the output, decided by the first picture."""

    def __init__(self, site: Site, size: tuple[int, int]) -> None:
        self.site, self.size = site, size
        self._met: set[tuple[int, int]] = set()

    def __call__(self, picture: Array) -> Array:
        """`picture` (H, W, 3) uint8 at the output's size; in a pooled buffer of this call where it had to be scaled."""
        size = picture.shape[:2]
        if size == self.size:
            return picture
        import cv2

        from operators.media.geometry import fitting, middle

        height, width = self.size
        if size not in self._met:
            self._met.add(size)
            self.site.event("size", came=f"{size[1]}x{size[0]}", file=f"{width}x{height}", done="set between bars")
        plan = fitting((size[1], size[0]), (width, height), "letterbox")
        out = self.site.empty((height, width, 3))
        out.fill(0)
        out[middle(plan.scaled, (width, height))] = cv2.resize(picture, plan.scaled, interpolation=cv2.INTER_AREA)
        return out
