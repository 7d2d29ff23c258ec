"""The arithmetic around top-down pose networks: boxes, crops and the decoding of SimCC outputs, and of YOLOX person detections.

Sources: RTMPose (Jiang et al. 2023) and DWPose (Yang et al. 2023) for crops and normalisation; SimCC (Li et al. 2022) for the outputs;
YOLOX (Ge et al. 2021) for letterbox, grid and strides. Boxes are (n, 4) float32: left, top, right, bottom in px of the whole picture.
Invariant: `place` undoes `crop` exactly. No network is run here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

MEAN = (123.675, 116.28, 103.53)  # RGB, of ImageNet
STD = (58.395, 57.12, 57.375)
MARGIN = 1.25  # a crop is this much larger than its box
GREY = 114  # what YOLOX pads with
STRIDES = (8, 16, 32)


def windows(boxes: Array, width: int, height: int) -> Array:
    """Crop windows (n, 4) for `boxes`: centre x, centre y, width, height in px; boxes grown by MARGIN and to the network's aspect ratio."""
    import numpy as np

    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    size = np.maximum(boxes[:, 2:] - boxes[:, :2], 1.0) * MARGIN
    wide = np.maximum(size[:, 0], size[:, 1] * width / height)
    return np.concatenate([centre, np.stack([wide, wide * height / width], 1)], 1).astype(np.float32)


def crop(picture: Array, window: Array, width: int, height: int) -> Array:
    """The part of `picture` (H, W, 3) uint8 RGB in `window`, as the network reads it: (3, height, width) float32, black outside."""
    import cv2
    import numpy as np

    x, y, wide, high = (float(v) for v in window)
    scale_x, scale_y = width / wide, height / high
    affine = np.array([[scale_x, 0, width / 2 - x * scale_x], [0, scale_y, height / 2 - y * scale_y]], np.float32)
    small = cv2.warpAffine(picture, affine, (width, height), flags=cv2.INTER_LINEAR)
    normal = (small.astype(np.float32) - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1))


def decode(simcc_x: Array, simcc_y: Array, width: int, height: int) -> Array:
    """Joints (n, k, 3) from SimCC outputs (n, k, width * s) and (n, k, height * s): x and y in px of the crop, score 0..1.

    A joint sits at the two peaks and is as sure as the lower of them; without a positive peak its score is 0.
    """
    import numpy as np

    split_x, split_y = simcc_x.shape[-1] / width, simcc_y.shape[-1] / height
    score = np.minimum(simcc_x.max(-1), simcc_y.max(-1))
    return np.stack([simcc_x.argmax(-1) / split_x, simcc_y.argmax(-1) / split_y, np.clip(score, 0, 1)], -1).astype(np.float32)


def place(joints: Array, window: Array, width: int, height: int) -> Array:
    """Joints (n, k, 3) of the crops back in px of the whole picture; `window` is (n, 4)."""
    import numpy as np

    out = np.array(joints, np.float32)
    out[..., 0] = joints[..., 0] / width * window[:, None, 2] + window[:, None, 0] - window[:, None, 2] / 2
    out[..., 1] = joints[..., 1] / height * window[:, None, 3] + window[:, None, 1] - window[:, None, 3] / 2
    return out


def around(joints: Array, *, sure: float = 0.3) -> Array | None:
    """The box around a person's joints (k, 3) in px, a little grown; None where fewer than four are sure."""
    import numpy as np

    points = joints[joints[:, 2] >= sure, :2]
    if len(points) < 4:
        return None
    low, high = points.min(0), points.max(0)
    grow = 0.1 * (high - low) + 1
    return np.concatenate([low - grow, high + grow]).astype(np.float32)


# ---------------------------------------------------------------- detection


def letterbox(picture: Array, width: int, height: int) -> tuple[Array, float]:
    """`picture` as YOLOX reads it: (3, height, width) float32 BGR 0..255, shrunk into the upper left on grey; and the scale used."""
    import cv2
    import numpy as np

    rows, columns = picture.shape[:2]
    scale = min(height / rows, width / columns)
    small = cv2.resize(picture, (max(1, round(columns * scale)), max(1, round(rows * scale))), interpolation=cv2.INTER_LINEAR)
    page = np.full((height, width, 3), GREY, np.uint8)
    page[: small.shape[0], : small.shape[1]] = small[:height, :width]
    return np.ascontiguousarray(page[..., ::-1].transpose(2, 0, 1), np.float32), scale


def decode_grid(raw: Array, width: int, height: int) -> tuple[Array, Array]:
    """Boxes (n, 4) in px of the network's input and person scores (n,) from raw YOLOX output (n, 5 + classes), strides in rising order."""
    import numpy as np

    cells = []
    for stride in STRIDES:
        y, x = np.mgrid[0 : height // stride, 0 : width // stride]
        cells.append(np.stack([x.ravel(), y.ravel(), np.full(x.size, stride)], 1))
    grid = np.concatenate(cells).astype(np.float32)
    centre = (raw[:, :2] + grid[:, :2]) * grid[:, 2:]
    size = np.exp(raw[:, 2:4]) * grid[:, 2:]
    return np.concatenate([centre - size / 2, centre + size / 2], 1), raw[:, 4] * raw[:, 5]


def suppress(boxes: Array, scores: Array, *, overlap: float = 0.45) -> Array:
    """Indices of the boxes that stay, best first: of two that overlap by more than `overlap` (IoU) the less sure goes."""
    import numpy as np

    order, kept = np.argsort(-scores, kind="stable"), []
    area = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), 1)
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        both = np.minimum(boxes[best, 2:], boxes[rest, 2:]) - np.maximum(boxes[best, :2], boxes[rest, :2])
        shared = np.prod(np.maximum(both, 0), 1)
        order = rest[shared <= overlap * np.maximum(area[best] + area[rest] - shared, 1e-9)]
    return np.array(kept, int)
