"""`metric.identity`: whether somebody still looks like they did: face, hair and clothes, by colour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from engine.operator import Live, Operator, operator
from engine.payload import Data, Image, Pose, Scalar
from operators.metric.lab import delta_e, to_lab
from operators.metric.regions import REGIONS, regions

if TYPE_CHECKING:
    import numpy as np


class Identity(NamedTuple):
    """`worst`: the greatest difference over the regions that are seen. `parts`: CIEDE2000 by region; a region that is not seen is left out."""

    worst: Scalar
    parts: Data


@operator("metric.identity")
class IdentityMeter(Operator):
    """Median colour of face, hair, upper and lower clothes of the first person, against its mean over the first `anchor` frames in which
    the region is seen, as CIEDE2000. Regions follow from the skeleton (`operators.metric.regions`). 0 until a region's anchor is complete.
    """

    def __init__(self, *, anchor: Annotated[int, Live(1, 1000)] = 8) -> None:
        self.anchor = anchor
        self.reset()

    def __call__(self, image: Image, pose: Pose) -> Identity:
        import numpy as np

        picture, people = np.asarray(image.data), np.asarray(pose.people)
        parts: dict[str, float] = {}
        masks = regions(people[0], *picture.shape[:2]) if len(people) else {}
        for name in REGIONS:
            if name not in masks:
                continue
            colour = np.median(to_lab(picture[masks[name]]), axis=0)
            count, mean = self._anchors.get(name, (0, np.zeros(3)))
            if count < self.anchor:
                self._anchors[name] = (count + 1, mean + (colour - mean) / (count + 1))
                parts[name] = 0.0
            else:
                parts[name] = float(delta_e(mean, colour))
        return Identity(Scalar(max(parts.values(), default=0.0)), Data(parts))

    def reset(self) -> None:
        self._anchors: dict[str, tuple[int, np.ndarray[Any, Any]]] = {}
