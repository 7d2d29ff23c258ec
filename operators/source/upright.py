"""From a decoded frame to the picture a person would see: square pixels, upright, at the working size, in a pooled buffer.

It decodes nothing and knows no time. Invariant: what it returns is (H, W, 3) uint8 RGB of the size it announced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.payload import Image
from operators.media.color import ToRgb
from operators.media.geometry import Fitting, fitting, place, turn

if TYPE_CHECKING:
    from fractions import Fraction

    import av

    from engine.site import Site


class Upright:
    """Scales, turns and converts frames to `size` (w, h; None: their own) by `fit`."""

    def __init__(self, size: tuple[int, int] | None, fit: str) -> None:
        self.size, self.fit = size, fit
        self.aspect: Fraction | None = None  # of a stored pixel, width / height
        self.to_rgb = ToRgb()
        self._plans: dict[tuple[int, int, int], tuple[tuple[int, int], Fitting, int]] = {}

    def expected(self, stream: Any) -> tuple[int, int]:
        """(w, h) of what will come, before the first frame; a rotation that only frames tell of is not yet in it."""
        context = stream.codec_context
        self.aspect = stream.sample_aspect_ratio or None
        return self._plan(context.width or 1, context.height or 1, 0)[1].size

    def __call__(self, frame: av.VideoFrame, site: Site) -> Image:
        rotation = round(frame.rotation / 90) * 90 % 360
        raw, plan, turned = self._plan(frame.width, frame.height, rotation)
        width, height = plan.size
        out = site.empty((height, width, 3))
        direct = plan.scaled == plan.size
        if direct and not turned:
            self.to_rgb(frame, out)
            return Image(out)
        picture = site.empty((raw[1], raw[0], 3))
        self.to_rgb(frame, picture)
        if turned and direct:
            turn(picture, turned, out)
        elif turned:
            upright = site.empty((plan.scaled[1], plan.scaled[0], 3))
            turn(picture, turned, upright)
            place(upright, out)
        else:
            place(picture, out)
        return Image(out)

    def _plan(self, width: int, height: int, rotation: int) -> tuple[tuple[int, int], Fitting, int]:
        """(size to scale the frame to as it is stored, fitting of the upright picture, degrees to turn)."""
        key = (width, height, rotation)
        if key not in self._plans:
            square = max(1, round(width * self.aspect)) if self.aspect else width
            upright = (height, square) if rotation in (90, 270) else (square, height)
            plan = Fitting(upright, upright) if self.size is None else fitting(upright, self.size, self.fit, enlarge=False)
            w, h = plan.scaled
            self._plans[key] = ((h, w) if rotation in (90, 270) else (w, h), plan, rotation)
        return self._plans[key]
