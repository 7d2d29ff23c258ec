"""Scenes to learn from: rendered as training goes, kept for a while in a pool so that drawing never holds the training up."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from operators.figure.look import Look, describe, draw_look, fill_gaps
from operators.figure.motion import Skeleton, angles, pose_body
from operators.figure.paint import PART, paint
from operators.figure.sequence import Scene, draw_scene
from operators.figure.skeleton import draw_skeleton

# How much an error counts, by part: the head is one pixel in fifty and most of what one looks at.
WEIGHTS = np.ones(10, np.float32)
_COUNTS = {"top": 2, "bottom": 5, "skin": 2.5, "hair": 12, "face": 6, "detail": 6, "hat": 6, "hand": 4, "shoe": 3}
for _name, _weight in _COUNTS.items():
    WEIGHTS[PART[_name]] = _weight


@dataclass
class Sample:
    """One rendered scene with the words that go with it."""

    image: np.ndarray  # uint8 (h, w, 3)
    parts: np.ndarray  # uint8 (h, w)
    pose: np.ndarray  # float32 (18, 3)
    look: Look
    caption: str
    scene: Scene


def worn_pose(pose: np.ndarray, rng: np.random.Generator, *, wear: float = 1.0) -> np.ndarray:
    """`pose` as a detector might give it: shaken, with hidden points shown, or some joints missing."""
    out = pose.copy()
    kind = rng.random()
    if kind < 0.5 * wear:
        out[:, :2] += rng.normal(0, 0.0025, (18, 2)).astype(np.float32)
    inside = (out[:, :2] >= 0).all(1) & (out[:, :2] < 1).all(1)
    if rng.random() < 0.5:  # some detectors guess what they cannot see
        out[:, 2] = inside
    if rng.random() < 0.10 * wear:
        lost = rng.choice(18, size=int(rng.integers(1, 4)), replace=False)
        out[lost, 2] = 0
    if rng.random() < 0.04 * wear:  # a face not found
        out[14:, 2] = 0
    return out


def sample(rng: np.random.Generator, size: int, *, drop: float = 0.08, empty: float = 0.04) -> Sample:
    """A scene with a caption. Most captions say everything: what is left open cannot be learned, only averaged, and is noise to the
    rest. `drop`: chance for each attribute to be left out in some of the others; a tenth leave out half. `empty`: captions that are."""
    scene = draw_scene(rng)
    caption, look = "", scene.look
    if rng.random() >= empty:
        share = rng.random()
        chance = 0.0 if share < 0.72 else drop if share < 0.9 else 0.5
        told = describe(look, rng, drop=chance, shuffle=True, noise=0.12)
        look = fill_gaps(look, told.fixed, rng)
        caption = told.text
    else:
        look = fill_gaps(look, frozenset(), rng)
    scene = replace(scene, look=look)
    t = float(rng.random() * 6)
    skeleton = skeleton_of(scene, t)
    image, parts = paint(skeleton, look, size, size)
    return Sample(image, parts, skeleton.keypoints, look, caption, replace(scene, start=scene.start + t))


def skeleton_of(scene: Scene, t: float) -> Skeleton:
    """The posed skeleton of `scene` at `t` seconds."""
    return pose_body(angles(scene.motion, scene.start + t, scene.traits), scene.body, scene.camera)


def render_again(item: Sample, rng: np.random.Generator, size: int) -> np.ndarray:
    """The same figure a moment earlier, or in quite another pose: what a carried latent would show. uint8 (size, size, 3)."""
    scene = item.scene
    t = -float(rng.uniform(0.02, 0.25)) if rng.random() < 0.7 else float(rng.uniform(0.3, 4))
    return paint(skeleton_of(scene, t), item.look, size, size)[0]


class Pool:
    """`count` samples; `refresh(k)` replaces the k oldest, `pick(n)` draws n of them."""

    def __init__(self, count: int, size: int, rng: np.random.Generator, **options: float):
        self.size, self.rng, self.options = size, rng, options
        self.items = [sample(rng, size, **options) for _ in range(count)]
        self._oldest = 0

    def refresh(self, k: int) -> None:
        """Render `k` new samples in place of the oldest ones."""
        for _ in range(k):
            self.items[self._oldest] = sample(self.rng, self.size, **self.options)
            self._oldest = (self._oldest + 1) % len(self.items)

    def pick(self, n: int) -> list[Sample]:
        """`n` samples, with replacement."""
        return [self.items[int(i)] for i in self.rng.integers(len(self.items), size=n)]


def control_picture(pose: np.ndarray, size: int) -> np.ndarray:
    """The skeleton picture of one pose, uint8 (size, size, 3)."""
    return draw_skeleton(pose[None], size, size)


__all__ = ["WEIGHTS", "Look", "Pool", "Sample", "control_picture", "draw_look", "render_again", "sample", "worn_pose"]
