"""Where pixels went from one picture to the next: dense optical flow, warping along it, and where it can be trusted.

Flow is DIS (Kroeger et al. 2016, as in OpenCV) on grey pictures at half size; a pixel is trusted where going there and back ends near its
start (Sundaram et al. 2010). Pure array work, deterministic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

SIDE = 256  # px of the short side that flow is searched at


class Flow:
    """Flow between pictures of one size."""

    def __init__(self) -> None:
        import cv2

        self._search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def __call__(self, old: Array, new: Array) -> tuple[Array, Array]:
        """For each pixel of `new` (H, W, 3): where it was in `old`, (H, W, 2) float32 x and y in pixels, and (H, W) bool: trusted."""
        import cv2
        import numpy as np

        height, width = new.shape[:2]
        scale = min(1.0, SIDE / min(height, width))
        size = (max(16, round(width * scale)), max(16, round(height * scale)))
        a, b = (cv2.resize(cv2.cvtColor(np.ascontiguousarray(p), cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA) for p in (old, new))
        back, forth = self._search.calc(b, a, None), self._search.calc(a, b, None)
        grid = np.stack(np.meshgrid(np.arange(size[0], dtype=np.float32), np.arange(size[1], dtype=np.float32)), -1)
        was = grid + back
        returned = back + cv2.remap(forth, was[..., 0], was[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        length = (back**2).sum(-1) + (forth**2).sum(-1)
        inside = (was >= 0).all(-1) & (was[..., 0] <= size[0] - 1) & (was[..., 1] <= size[1] - 1)
        trusted = inside & ((returned**2).sum(-1) <= 0.01 * length + 0.5)
        moved = cv2.resize(back, (width, height)) * np.array([width / size[0], height / size[1]], np.float32)
        full = np.stack(np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)), -1)
        return full + moved, cv2.resize(trusted.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0


def warp(picture: Array, was: Array) -> Array:
    """`picture` (H, W, 3) with every pixel taken from where it was."""
    import cv2

    return cv2.remap(picture, was[..., 0], was[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
