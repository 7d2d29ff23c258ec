"""Where each cell of the latent was in the frame before, by dense optical flow between the host pictures of both.

Flow is DIS (Kroeger et al. 2016, as in OpenCV) at low resolution, trusted where going there and back ends near the start (Sundaram et al.
2010) and the picture found there looks alike. Invariant: as in motion.py, `look` may be repeated and `settle` ends the frame. It knows
pictures and cells, not latents. Deterministic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

FINE = 4  # samples along the side of a cell that flow is searched at
ALIKE = 24  # 0..255: how far the picture may differ from the one it is said to have come from


class Flow:
    """Flow from frame to frame, and where cells were when the epoch began."""

    def __init__(self) -> None:
        import cv2

        self.search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self.last: Array | None = None  # grey, FINE samples a cell's side
        self.origin: Array | None = None  # (h, w, 2): where each cell was at the start, for the noise
        self.now: Array | None = None
        self.came: Array | None = None

    def look(self, picture: Array, cells: tuple[int, int]) -> tuple[Array, Array] | None:
        """For every cell (h, w, 2) float32: x and y, in cells, of where it was, and (h, w) float32: how far that is to be trusted, 0..1.

        `picture`: uint8 (H, W, 3) in the proportions of `cells`. None where there is no frame before, of this size.
        """
        import cv2
        import numpy as np

        size = (cells[1] * FINE, cells[0] * FINE)
        self.now = cv2.resize(cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
        self.came = None
        if self.last is None or self.last.shape != self.now.shape:
            return None
        back, forth = self.search.calc(self.now, self.last, None), self.search.calc(self.last, self.now, None)
        grid = _grid(size[::-1])
        was = grid + back
        x, y = was[..., 0], was[..., 1]
        returned = back + cv2.remap(forth, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        found = cv2.remap(self.last, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        inside = (was >= 0).all(-1) & (x <= size[0] - 1) & (y <= size[1] - 1)
        length = (back**2).sum(-1) + (forth**2).sum(-1)
        sure = inside & ((returned**2).sum(-1) <= 0.01 * length + 0.5) & (cv2.absdiff(self.now, found) <= ALIKE)
        weight = sure.astype(np.float32)
        trust = cv2.resize(weight, cells[::-1], interpolation=cv2.INTER_AREA)
        # Of a cell that holds an edge, the part that moves tells the way.
        weight *= 0.05 + np.abs(back).max(-1)
        total = cv2.resize(weight, cells[::-1], interpolation=cv2.INTER_AREA)
        mean = cv2.resize(back * weight[..., None], cells[::-1], interpolation=cv2.INTER_AREA) / np.maximum(total, 1e-6)[..., None]
        self.came = _grid(cells) + mean / FINE
        self.trust = trust
        return self.came, trust

    def since(self) -> Array | None:
        """Where each cell of this frame was when the epoch began, (h, w, 2) in cells; None: where it is. Where the way is not known, a cell
        counts as new, at its own place."""
        import cv2

        if self.came is None:
            return None
        here = _grid(self.came.shape[:2])
        before = here if self.origin is None or self.origin.shape != here.shape else self.origin
        went = cv2.remap(before, self.came[..., 0], self.came[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        went[self.trust < 0.5] = here[self.trust < 0.5]
        return went

    def settle(self) -> None:
        """The frame is painted."""
        if self.now is not None:
            self.origin = self.since()
            self.last, self.now, self.came = self.now, None, None

    def forget(self) -> None:
        self.last = self.origin = self.now = self.came = None


def _grid(cells: tuple[int, ...]) -> Array:
    import numpy as np

    return np.stack(np.meshgrid(np.arange(cells[1], dtype=np.float32), np.arange(cells[0], dtype=np.float32)), -1)
