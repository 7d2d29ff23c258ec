"""Where on a picture somebody's face, hair, upper and lower clothes are, from the skeleton alone.

Rough on purpose: each region is the inner part of what it names, so that its median colour is that of the thing, not of its surroundings.
Pure array work on OpenPose-18 joints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

REGIONS = ("face", "hair", "top", "legs")
SEEN = 0.3
NOSE, NECK, SHOULDERS, HIPS, KNEES = 0, 1, (2, 5), (8, 11), (9, 12)


def regions(person: Array, height: int, width: int) -> dict[str, Array]:
    """Masks (height, width) bool of the regions of one person (18, 3) that can be seen; others are left out."""
    import cv2
    import numpy as np

    points = person[:, :2] * np.array([width, height], np.float32)
    seen = person[:, 2] >= SEEN
    found: dict[str, Array] = {}

    def add(name: str, draw: Any) -> None:
        canvas = np.zeros((height, width), np.uint8)
        draw(canvas)
        if canvas.any():
            found[name] = canvas > 0

    def at(point: Array) -> tuple[int, int]:
        return round(float(point[0])), round(float(point[1]))

    if seen[NOSE] and seen[NECK]:
        up = points[NOSE] - points[NECK]
        length = float(np.hypot(*up))
        face = max(1, round(0.35 * length))
        add("face", lambda c: cv2.circle(c, at(points[NOSE]), face, 255, -1))
        # The hair is over the face, on the side away from the neck.
        add("hair", lambda c: cv2.circle(c, at(points[NOSE] + 0.9 * up), max(1, round(0.3 * length)), 255, -1))
    if seen[list(SHOULDERS)].all() and seen[list(HIPS)].all():
        box = points[[SHOULDERS[0], SHOULDERS[1], HIPS[1], HIPS[0]]]
        inner = box.mean(0) + 0.7 * (box - box.mean(0))
        add("top", lambda c: cv2.fillConvexPoly(c, np.round(inner).astype(np.int32), 255))
    thick = max(1, round(0.06 * height * _size(points, seen)))

    def legs(canvas: Array) -> None:
        for hip, knee in zip(HIPS, KNEES, strict=True):
            if seen[hip] and seen[knee]:
                way = points[knee] - points[hip]
                cv2.line(canvas, at(points[hip] + 0.25 * way), at(points[hip] + 0.8 * way), 255, thick)

    add("legs", legs)
    return found


def _size(points: Array, seen: Array) -> float:
    """The extent of what is seen, as a share of a picture whose figure stands from edge to edge."""
    import numpy as np

    if seen.sum() < 2:
        return 0.5
    spread = np.ptp(points[seen], axis=0).max()
    return float(np.clip(spread / max(1.0, float(np.abs(points[seen]).max())), 0.2, 1.0))
