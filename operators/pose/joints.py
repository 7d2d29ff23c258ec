"""Body joints: the orders that pose networks use, and their way to OpenPose-18.

Invariant: right stays right and left stays left, as seen from the person. Pure array work; it knows no network and no operator.
Sources: MediaPipe pose landmarks (33), COCO key points (17) and COCO-WholeBody (133, whose first 17 are COCO's), OpenPose (18).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

NECK, RIGHT_SHOULDER, LEFT_SHOULDER, RIGHT_HIP, LEFT_HIP = 1, 2, 5, 8, 11

# Joint number in the other order for each OpenPose joint; None is the neck, which both orders lack: half way between the shoulders.
FROM_MEDIAPIPE: tuple[int | None, ...] = (0, None, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7)
FROM_COCO: tuple[int | None, ...] = (0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)


def to_openpose(points: np.ndarray[Any, Any], table: tuple[int | None, ...]) -> np.ndarray[Any, Any]:
    """(n, k, 3) points of x, y, visibility in another order -> (n, 18, 3) float32 in OpenPose order.

    The neck is the middle of the shoulders and as visible as the less visible of them.
    """
    import numpy as np

    points = np.asarray(points, np.float32)
    out = np.empty((len(points), len(table), 3), np.float32)
    for joint, source in enumerate(table):
        if source is not None:
            out[:, joint] = points[:, source]
    right, left = out[:, RIGHT_SHOULDER], out[:, LEFT_SHOULDER]
    out[:, NECK, :2] = (right[:, :2] + left[:, :2]) / 2
    out[:, NECK, 2] = np.minimum(right[:, 2], left[:, 2])
    return out


def torso(person: np.ndarray[Any, Any], aspect: float, *, seen: float = 0.3) -> tuple[float, float, float]:
    """Where a person (18, 3) is and how big: centre x, centre y, torso length, all in picture heights.

    `aspect`: width / height of the picture. The torso reaches from the neck to between the hips. Where the hips are not seen it is taken as
    1.4 shoulder widths, and where the shoulders are not seen either as a third of the extent of what is seen; never less than 0.02.
    """
    import numpy as np

    x, y, visible = person[:, 0] * aspect, person[:, 1], person[:, 2] >= seen
    shoulders = visible[RIGHT_SHOULDER] and visible[LEFT_SHOULDER]
    hips = visible[RIGHT_HIP] and visible[LEFT_HIP]
    if shoulders and hips:
        hip_x, hip_y = (x[RIGHT_HIP] + x[LEFT_HIP]) / 2, (y[RIGHT_HIP] + y[LEFT_HIP]) / 2
        length = float(np.hypot(x[NECK] - hip_x, y[NECK] - hip_y))
        return float(x[NECK] + hip_x) / 2, float(y[NECK] + hip_y) / 2, max(length, 0.02)
    if shoulders:
        width = float(np.hypot(x[RIGHT_SHOULDER] - x[LEFT_SHOULDER], y[RIGHT_SHOULDER] - y[LEFT_SHOULDER]))
        return float(x[NECK]), float(y[NECK]), max(1.4 * width, 0.02)
    some = visible if visible.any() else np.ones_like(visible)
    extent = max(float(np.ptp(x[some])), float(np.ptp(y[some])))
    return float(x[some].mean()), float(y[some].mean()), max(extent / 3, 0.02)
