"""What moved since a cell of the latent was last painted, seen on the host pictures that arrive, before anything is uploaded.

Every cell is compared with the picture that it was painted from, not with the frame before: what creeps is noticed when it has crept far
enough. Invariant: `look` changes nothing that a second try of the same frame would see; `settle` does, once the frame is done.
It knows pictures and cells, not latents. Deterministic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

LOOK = 4  # samples along the side of a cell: a line that moves within its cell is seen


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """`moved` (h, w) float32: 1 where something moved within reach, 0 where all stood still, between on the rim; None: all of it did, or there
    is nothing to compare with. `share` of the cells that count as moved. `most`: the greatest change of any sample, 0..1."""

    moved: Array | None
    share: float
    most: float


EVERYTHING = Seen(None, 1.0, 1.0)


class Motion:
    """`still`, `reach`: see operators.diffusion.options.Motion."""

    def __init__(self, still: float = 0.06, reach: float = 0.0625) -> None:
        self.still, self.reach = still, reach
        self.base: list[Array] | None = None  # per picture, what each cell was painted from, LOOK samples a cell's side
        self.now: list[Array] | None = None
        self.seen = EVERYTHING

    def look(self, pictures: Sequence[Array], cells: tuple[int, int]) -> Seen:
        """Compare `pictures`, uint8 (H, W, 3) in the proportions of the latent of `cells` (height, width), with what they were."""
        import cv2
        import numpy as np

        height, width = cells
        shape = (width * LOOK, height * LOOK)
        self.now = [p if p.shape[1::-1] == shape else cv2.resize(p, shape, interpolation=_way(p, shape)) for p in pictures]
        self.seen = EVERYTHING
        if not pictures or self.base is None or [b.shape for b in self.base] != [n.shape for n in self.now]:
            return self.seen
        change = np.zeros(cells, np.uint8)
        for base, now in zip(self.base, self.now, strict=True):
            each = cv2.absdiff(base, now).max(-1)
            np.maximum(change, each.reshape(height, LOOK, width, LOOK).max((1, 3)), out=change)
        moved = (change > 255 * self.still).astype(np.float32)
        if moved.any():
            far = round(self.reach * min(cells))
            if far:
                moved = cv2.dilate(moved, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * far + 1, 2 * far + 1)))
            moved = np.maximum(moved, cv2.GaussianBlur(moved, (3, 3), 0))  # a soft rim, outwards: what moved is painted in full
        self.seen = Seen(moved, float((moved >= 1).mean()), float(change.max()) / 255)
        return self.seen

    def settle(self, held: bool) -> None:
        """The frame is painted: cells that moved, or all where none were `held`, are now of these pictures."""
        import numpy as np

        now, moved, self.now = self.now, self.seen.moved, None
        if now is None:
            return
        if self.base is None or moved is None or not held:
            self.base = [np.array(each) for each in now]
            return
        painted = np.repeat(np.repeat(moved > 0, LOOK, 0), LOOK, 1)
        for base, each in zip(self.base, now, strict=True):
            np.copyto(base, each, where=painted[..., None])

    def forget(self) -> None:
        self.base = self.now = None
        self.seen = EVERYTHING


def _way(picture: Array, shape: tuple[int, int]) -> int:
    import cv2

    return int(cv2.INTER_AREA if picture.shape[1] >= shape[0] else cv2.INTER_LINEAR)
