"""The OpenPose-18 skeleton: its joints, its limbs, and the picture that a pose ControlNet reads.

Invariant: the drawing depends on nothing but its arguments; equal arguments give equal bytes. This module knows nothing of
figures, videos or operators; OpenCV is imported on first use.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

JOINTS: tuple[str, ...] = (
    "nose", "neck",
    "right_shoulder", "right_elbow", "right_wrist",
    "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle",
    "left_hip", "left_knee", "left_ankle",
    "right_eye", "left_eye", "right_ear", "left_ear",
)  # fmt: skip
INDEX: dict[str, int] = {name: number for number, name in enumerate(JOINTS)}

COLOURS: tuple[tuple[int, int, int], ...] = tuple(
    (int(code[0:2], 16), int(code[2:4], 16), int(code[4:6], 16))
    for code in (
        "ff0000", "ff5500", "ffaa00", "ffff00", "aaff00", "55ff00", "00ff00", "00ff55", "00ffaa",
        "00ffff", "00aaff", "0055ff", "0000ff", "5500ff", "aa00ff", "ff00ff", "ff00aa", "ff0055",
    )
)  # fmt: skip

# Pairs of joint numbers; the i-th limb has the i-th colour. Shoulders hang from the neck, legs too.
LIMBS: tuple[tuple[int, int], ...] = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10),
    (1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip

LIMB_DIM = 0.6  # limbs are painted at this share of their colour, so that the joints stand out
HALF_WIDTH = 4  # px at REFERENCE: half the width of a limb, and the radius of a joint
REFERENCE = 512  # px, the short side that HALF_WIDTH is meant for


@cache
def _limb_colours() -> tuple[tuple[int, int, int], ...]:
    return tuple((int(r * LIMB_DIM), int(g * LIMB_DIM), int(b * LIMB_DIM)) for r, g, b in COLOURS[: len(LIMBS)])


def stroke(height: int, width: int) -> int:
    """Half width of a limb in px: 4 at 512, scaled with the short side, never less than 1."""
    return max(1, round(HALF_WIDTH * min(height, width) / REFERENCE))


def draw_skeleton(
    people: np.ndarray,
    height: int,
    width: int,
    *,
    min_visibility: float = 0.3,
    line: float = 1.0,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Draw `people` as ControlNet-OpenPose expects: limbs as filled ellipses at 0.6 of their colour, joints as full discs.

    people: (n, 18, 3) or (18, 3) float; x and y as shares of width and height, visibility 0..1. A joint under
    `min_visibility`, or not finite, is left out together with its limbs.
    line: times the usual line width; a ControlNet was trained on 1.
    out: an optional uint8 (height, width, 3) C-contiguous canvas to draw into; it is blacked first.
    Returns uint8 RGB (height, width, 3). Source: Cao et al., OpenPose (2018), the body drawing of its reference code.
    """
    import cv2

    people = np.asarray(people, dtype=np.float32)
    if people.ndim == 2:
        people = people[None]
    if people.ndim != 3 or people.shape[1:] != (len(JOINTS), 3):
        raise ValueError(f"people must be (n, 18, 3), not {people.shape}")
    if out is None:
        out = np.zeros((height, width, 3), dtype=np.uint8)
    elif out.shape != (height, width, 3) or out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise ValueError(f"out must be C-contiguous uint8 ({height}, {width}, 3), not {out.dtype} {out.shape}")
    else:
        out[:] = 0
    half = max(1, round(stroke(height, width) * line))
    reach = 4.0 * max(height, width)  # a joint farther out than this is an estimate gone wild
    for person in people:
        x, y = person[:, 0] * width, person[:, 1] * height
        with np.errstate(invalid="ignore"):
            seen = (person[:, 2] >= min_visibility) & (np.abs(x) < reach) & (np.abs(y) < reach)
        points = [(float(a), float(b)) if ok else None for a, b, ok in zip(x, y, seen, strict=True)]
        for (first, second), colour in zip(LIMBS, _limb_colours(), strict=True):
            a, b = points[first], points[second]
            if a is None or b is None:
                continue
            centre = (int((a[0] + b[0]) / 2), int((a[1] + b[1]) / 2))
            length = math.hypot(a[0] - b[0], a[1] - b[1])
            angle = int(math.degrees(math.atan2(a[1] - b[1], a[0] - b[0])))
            outline = cv2.ellipse2Poly(centre, (int(length / 2), half), angle, 0, 360, 1)
            cv2.fillConvexPoly(out, outline, colour)
        for point, colour in zip(points, COLOURS, strict=True):
            if point is not None:
                cv2.circle(out, (int(point[0]), int(point[1])), half, colour, thickness=-1)
    return out
