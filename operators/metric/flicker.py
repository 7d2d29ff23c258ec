"""`metric.flicker`: how much a picture changes where nothing should."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from engine.operator import Live, Operator, operator
from engine.payload import Image, Mask, Scalar

if TYPE_CHECKING:
    import numpy as np


@operator("metric.flicker")
class Flicker(Operator):
    """Mean absolute difference to the frame before, 0..255, over the pixels that stand still.

    `reference`: the picture before painting; pixels of it that change by more than `still` (0..255) between the two frames do not count.
    `mask`: only inside counts. Without either, everything does. 0 for the first frame of an epoch, and where no pixel counts.
    Pictures and reference may differ in size.
    """

    def __init__(self, *, still: Annotated[float, Live(0, 255)] = 4.0) -> None:
        self.still = still
        self._last: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None] | None = None

    def __call__(self, image: Image, reference: Image | None = None, mask: Mask | None = None) -> Scalar:
        import cv2
        import numpy as np

        now = np.asarray(image.data).astype(np.int16)
        before = None if reference is None else fitted(reference.data, now.shape[:2]).astype(np.int16)
        last, self._last = self._last, (now, before)
        if last is None or last[0].shape != now.shape:
            return Scalar(0.0)
        counts = np.ones(now.shape[:2], bool)
        if before is not None and last[1] is not None:
            counts &= np.abs(before - last[1]).max(-1) <= self.still
        if mask is not None:
            counts &= cv2.resize(np.asarray(mask.data), now.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 127
        return Scalar(float(np.abs(now - last[0])[counts].mean()) if counts.any() else 0.0)

    def reset(self) -> None:
        self._last = None


def fitted(picture: Any, size: tuple[int, int]) -> Any:
    """`picture` at (height, width)."""
    import cv2
    import numpy as np

    data = np.asarray(picture)
    return data if data.shape[:2] == size else cv2.resize(data, size[::-1], interpolation=cv2.INTER_AREA)
