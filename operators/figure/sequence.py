"""Seeded sequences of a moving figure: picture, ground-truth pose, caption, and the masks that make everything measurable.

Invariant: a frame is a pure function of its scene, its time and its size, so frames can be asked for in any order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from operators.figure.look import CHOICES, Look, describe, draw_look
from operators.figure.motion import MOTIONS, Body, Camera, Skeleton, angles, draw_body, draw_camera, draw_traits, pose_body


@dataclass(frozen=True)
class Scene:
    """A performer, a look, a motion and a camera."""

    look: Look
    motion: str
    traits: np.ndarray
    body: Body
    camera: Camera
    start: float = 0.0  # seconds into the motion at frame time 0

    @property
    def caption(self) -> str:
        """The plain full sentence of the look."""
        return describe(self.look).text


class Frame(NamedTuple):
    """image: uint8 RGB (h, w, 3). pose: float32 (18, 3), x and y as shares of width and height, visibility 0 or 1.
    mask: uint8 (h, w), 255 on the figure. parts: uint8 (h, w) ids, see operators.figure.paint.PARTS."""

    image: np.ndarray
    pose: np.ndarray
    caption: str
    mask: np.ndarray
    parts: np.ndarray


def draw_scene(
    seed: int | np.random.Generator,
    *,
    motion: str | None = None,
    look: Look | None = None,
    aspect: float = 1.0,
    steady: bool = False,
    **choices: str,
) -> Scene:
    """A scene from a seed. `motion`, `look` or single attributes (`top_colour="red"`) fix what chance would pick; `steady`
    asks for a whole figure in the middle that faces the viewer, as a demo wants it."""
    rng = np.random.default_rng(seed)
    for name, value in choices.items():
        if name not in CHOICES:
            raise ValueError(f"no attribute {name!r}; there are {', '.join(CHOICES)}")
        if value not in CHOICES[name]:
            raise ValueError(f"{name} must be one of {', '.join(CHOICES[name])}, not {value!r}")
    drawn, picked = draw_look(rng), MOTIONS[int(rng.integers(len(MOTIONS)))]
    traits, body, camera, start = draw_traits(rng), draw_body(rng), draw_camera(rng, aspect), float(rng.random() * 20)
    if steady:
        camera = Camera(0.5, 0.54, 0.8, float(rng.normal(0, 0.15)), 0.04, aspect)
    chosen = replace(look or drawn, **choices)
    if motion is not None and motion not in MOTIONS:
        raise ValueError(f"motion must be one of {', '.join(MOTIONS)}, not {motion!r}")
    return Scene(chosen, motion or picked, traits, body, camera, start)


def skeleton_at(scene: Scene, t: float) -> Skeleton:
    """The scene's posed skeleton at `t` seconds."""
    return pose_body(angles(scene.motion, scene.start + t, scene.traits), scene.body, scene.camera)


def render(scene: Scene, t: float = 0.0, height: int = 256, width: int | None = None) -> Frame:
    """The scene at `t` seconds, `height` px high; the width follows from the camera's aspect unless given."""
    from operators.figure.paint import paint

    width = width or round(height * scene.camera.aspect)
    skeleton = skeleton_at(scene, t)
    image, parts = paint(skeleton, scene.look, height, width)
    return Frame(image, skeleton.keypoints, scene.caption, np.where(parts > 0, np.uint8(255), np.uint8(0)), parts)
