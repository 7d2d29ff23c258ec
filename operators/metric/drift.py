"""`metric.drift`: how far pictures have gone from where their epoch began."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from engine.operator import Live, Operator, operator
from engine.payload import Image, Scalar
from operators.metric.lab import delta_e, to_lab

if TYPE_CHECKING:
    import numpy as np


class Drifted(NamedTuple):
    """`color`: mean CIEDE2000. `contrast`, `detail`: ratios to the start, 1 where nothing changed."""

    color: Scalar
    contrast: Scalar
    detail: Scalar


@operator("metric.drift")
class Drift(Operator):
    """Colour, contrast and detail against the mean of the first `anchor` frames of the epoch.

    color: the picture is averaged over `cells` x `cells` fields, and each field's colour compared with its own at the start (CIEDE2000, mean).
    contrast: spread of lightness, as a ratio. detail: spread of the Laplacian of lightness, as a ratio: a carried latent that is sharpened or
    smoothed again and again shows here first. Both are 1, and color 0, until the anchor is complete. `color` also counts what moves: compare
    runs over the same clip.
    """

    def __init__(self, *, anchor: Annotated[int, Live(1, 1000)] = 8, cells: Annotated[int, Live(1, 64)] = 6) -> None:
        self.anchor, self.cells = anchor, cells
        self.reset()

    def __call__(self, image: Image) -> Drifted:
        import cv2
        import numpy as np

        lab = to_lab(np.asarray(image.data))
        light = np.ascontiguousarray(lab[..., 0])
        fields = cv2.resize(lab, (self.cells, self.cells), interpolation=cv2.INTER_AREA)
        numbers = np.array([light.std(), cv2.Laplacian(light, cv2.CV_32F).std()])
        if self._fields is not None and self._fields.shape != fields.shape:
            self.reset()
        if self._count < self.anchor:
            self._count += 1
            share = 1 / self._count
            self._fields = fields if self._fields is None else self._fields + share * (fields - self._fields)
            self._numbers = numbers if self._numbers is None else self._numbers + share * (numbers - self._numbers)
            return Drifted(Scalar(0.0), Scalar(1.0), Scalar(1.0))
        assert self._fields is not None
        assert self._numbers is not None
        contrast, detail = (numbers + 1e-3) / (self._numbers + 1e-3)
        return Drifted(Scalar(float(delta_e(self._fields, fields).mean())), Scalar(float(contrast)), Scalar(float(detail)))

    def reset(self) -> None:
        self._count = 0
        self._fields: np.ndarray[Any, Any] | None = None
        self._numbers: np.ndarray[Any, Any] | None = None
