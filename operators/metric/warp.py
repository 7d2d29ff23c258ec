"""`metric.warp_error`: how much a picture changes beyond what moved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from engine.operator import Operator, operator
from engine.payload import Image, Scalar
from operators.metric.flicker import fitted
from operators.metric.flow import Flow, warp

if TYPE_CHECKING:
    import numpy as np


class Warped(NamedTuple):
    """`error`: mean squared difference, values 0..1. `seen`: share of pixels whose way is known."""

    error: Scalar
    seen: Scalar


@operator("metric.warp_error")
class WarpError(Operator):
    """Squared difference to the frame before, moved along with the motion, over the pixels whose motion is known (Lai et al. 2018,
    "Learning blind video temporal consistency").

    Motion is found in `reference` (the picture before painting) where that is connected, else in the picture itself, whose own flicker then
    disturbs the search. Error 0 and seen 0 for the first frame of an epoch.
    """

    def __init__(self) -> None:
        self._last: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None = None
        self._flow: Flow | None = None

    def __call__(self, image: Image, reference: Image | None = None) -> Warped:
        import numpy as np

        now = np.array(image.data)
        guide = now if reference is None else np.array(fitted(reference.data, now.shape[:2]))
        last, self._last = self._last, (now, guide)
        if last is None or last[0].shape != now.shape:
            return Warped(Scalar(0.0), Scalar(0.0))
        self._flow = self._flow or Flow()
        was, trusted = self._flow(last[1], guide)
        if not trusted.any():
            return Warped(Scalar(0.0), Scalar(0.0))
        apart = (warp(last[0], was).astype(np.float32) - now.astype(np.float32)) / 255
        return Warped(Scalar(float((apart**2).mean(-1)[trusted].mean())), Scalar(float(trusted.mean())))

    def reset(self) -> None:
        self._last = None
