"""`source.figure`: a synthetic dancer with everything about it known: picture, pose, caption and mask.

Invariant: frame n is a pure function of the parameters and n, so two runs agree to the byte. The drawing is operators.figure's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple

from engine.errors import UsageError
from engine.operator import HOST_RGB, Operator, Range, Stamped, StreamInfo, operator
from engine.payload import Image, Mask, Pose, Prompt
from engine.site import Site

SECOND = 1_000_000_000
Colour = Literal["", "red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "brown", "black", "white", "gray"]


class Figured(NamedTuple):
    """What `source.figure` yields: the picture, its true pose, a caption of it, and the figure's mask."""

    image: Annotated[Image, HOST_RGB]
    pose: Pose
    caption: Prompt
    mask: Mask


@operator("source.figure")
class Figure(Operator):
    """A seeded figure that moves: frames (size, size, 3) uint8 RGB, ground-truth pose, caption and mask (size, size).

    `motion`: "any" lets the seed choose. The attributes (`top`, `top_colour`, `place` …) fix what the seed would pick; "" leaves it to
    the seed. `wander`: cameras as in training (off-centre, small, from all sides) instead of a whole figure in the middle. `width`: px,
    0 for a square. `frames`: 0 runs without end. Under the live clock frames come in real time.
    Raises UsageError for a size that is no multiple of 8.
    """

    def __init__(
        self, *, size: Annotated[int, Range(32, 4096)] = 256, width: Annotated[int, Range(0, 8192)] = 0,
        fps: Annotated[float, Range(0.001, 1000)] = 24.0, frames: Annotated[int, Range(0)] = 0, seed: Annotated[int, Range(0)] = 0,
        motion: Literal["any", "walk", "run", "wave", "dance", "jack", "idle", "clap", "juggle", "random"] = "dance",
        kind: Literal["", "person", "robot"] = "person", top: Literal["", "shirt", "jacket"] = "", top_colour: Colour = "",
        bottom: Literal["", "trousers", "shorts", "skirt"] = "", bottom_colour: Colour = "", hair: Literal["", "short", "long"] = "",
        hair_colour: Literal["", "black", "brown", "blond", "ginger", "silver", "blue", "pink", "green", "purple"] = "",
        hat: Literal["", "none", "cap", "top hat"] = "", hat_colour: Colour = "", skin: Literal["", "light", "tan", "dark"] = "",
        style: Literal["", "soft", "flat", "comic"] = "",
        place: Literal["", "plain", "stage", "studio", "sunset", "night", "meadow", "beach", "city", "snow", "forest"] = "",
        place_colour: Colour = "", wander: bool = False,
    ) -> None:  # fmt: skip
        self.size, self.width, self.fps, self.frames, self.seed, self.wander = size, width or size, fps, frames, seed, wander
        self.motion = None if motion == "any" else motion
        named = {
            "kind": kind, "top": top, "top_colour": top_colour, "bottom": bottom, "bottom_colour": bottom_colour, "hair": hair,
            "hair_colour": hair_colour, "hat": hat, "hat_colour": hat_colour, "skin": skin, "style": style, "place": place,
            "place_colour": place_colour,
        }  # fmt: skip
        self.choices = {name: value for name, value in named.items() if value}

    def open(self, site: Site) -> None:
        super().open(site)
        from operators.figure.sequence import draw_scene

        if self.size % 8 or self.width % 8:
            raise UsageError(f"size {self.width}x{self.size} is no multiple of 8", fix="latents are an eighth of it: use 256, 384, 512")
        self.scene = draw_scene(self.seed, motion=self.motion, aspect=self.width / self.size, steady=not self.wander, **self.choices)
        site.describe(StreamInfo(f"figure:{self.seed}", self.fps, self.frames or None, (self.size, self.width)))

    def __call__(self) -> Iterator[Figured]:
        import numpy as np

        from operators.figure.sequence import render

        caption, zero, count = self.scene.caption, self.site.clock.now(), 0
        while not self.site.stopping and (self.frames == 0 or count < self.frames):
            pts = round(count * SECOND / self.fps)
            if self.site.live and not self.site.sleep_until(zero + pts):
                return
            drawn = render(self.scene, count / self.fps, self.size, self.width)
            picture = self.site.empty((self.size, self.width, 3))
            np.copyto(picture, drawn.image)
            pose = Pose(drawn.pose[None], (self.size, self.width))
            yield Stamped(Figured(Image(picture), pose, Prompt(caption), Mask(drawn.mask)), pts=pts)  # type: ignore[misc]
            count += 1
