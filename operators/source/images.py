"""`source.images`: a folder, a pattern or a list of pictures as a stream.

Invariant: pictures come in the order a person would count them in, upright, at one rate, and none is decoded before its size is known to
be harmless. It paces nothing and keeps no picture.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from engine.errors import MediaError, MissingError, UsageError
from engine.operator import HOST_RGB, Operator, Range, Stamped, StreamInfo, operator
from engine.payload import Image
from engine.site import Site
from operators.media.geometry import fitting, parse_size, place
from operators.media.pictures import MAX_PICTURE_PIXELS, picture_size, read_picture
from operators.media.urls import IMAGE_SUFFIXES, local_path, nearest_name

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

SECOND = 1_000_000_000
_NUMBER = re.compile(r"%0?(\d*)d")


@operator("source.images")
class Images(Operator):
    """Pictures (PNG, JPEG, WebP, BMP, TIFF) as frames, (H, W, 3) uint8 RGB.

    `url`: a folder, a glob such as "shots/*.png", or a numbered pattern such as "shot_%04d.png"; or `files`, a list. Names are sorted as
    a person counts: shot_2 before shot_10. `fps` gives the times. `start`, `end`: the first frame's place in that order, and the one after
    the last. Pictures are turned as their EXIF says; transparency is laid on black.
    `size`: "WIDTHxHEIGHT" to bring every picture to, by `fit` as in image.resize. Without it all must be of one size; `on_mixed` says what
    happens to the others: "error", or a `fit` to the size of the first. `loop`: again and again, each round after a cut. Under the live
    clock pictures come in real time.
    Raises MissingError, UsageError, or MediaError naming the picture.
    """

    def __init__(
        self, *, url: str = "", files: list[str] | None = None, fps: Annotated[float, Range(0.001, 1000)] = 25.0,
        start: Annotated[int, Range(0)] = 0, end: Annotated[int | None, Range(0)] = None, loop: bool = False, size: str = "",
        fit: Literal["fit", "fill", "stretch", "letterbox"] = "fill", on_mixed: Literal["error", "fill", "stretch", "letterbox"] = "error",
        max_pixels: Annotated[int, Range(1)] = MAX_PICTURE_PIXELS,
    ) -> None:  # fmt: skip
        self.url, self.files, self.fps, self.start, self.end, self.loop = url, files, fps, start, end, loop
        self.size, self.fit, self.on_mixed, self.max_pixels = size, fit, on_mixed, max_pixels

    def open(self, site: Site) -> None:
        super().open(site)
        if bool(self.url) == bool(self.files):
            raise UsageError("source.images takes either url or files", fix='such as url = "shots/*.png"')
        every = find_pictures(self.url) if self.url else [Path(name) for name in self.files or []]
        self.paths = every[self.start : self.end]
        if not self.paths:
            raise UsageError(f"start = {self.start}, end = {self.end} leaves none of {len(every)} pictures", fix="widen the range")
        want, first = parse_size(self.size), picture_size(self.paths[0], self.max_pixels)
        if want is None:
            self.want, self.mode = first, self.on_mixed
        else:
            self.mode = self.fit
            self.want = fitting(first, want, "fit").size if self.fit == "fit" else want
        if self.fit == "fit" and want is not None:
            self.mode = "letterbox"  # all frames get the first one's size
        site.describe(StreamInfo(self.url, self.fps, None if self.loop else len(self.paths), (self.want[1], self.want[0])))

    def __call__(self) -> Iterator[Annotated[Image, HOST_RGB]]:
        count, zero = 0, self.site.clock.now()
        while True:
            for at, path in enumerate(self.paths):
                if self.site.stopping:
                    return
                pts = round(count * SECOND / self.fps)
                picture = read_picture(path, self.max_pixels)
                if self.site.live and not self.site.sleep_until(zero + pts):
                    return
                yield Stamped(Image(self._fitted(picture, path)), pts=pts, cut=at == 0 and count > 0)
                count += 1
            if not self.loop:
                return

    def _fitted(self, picture: Array, path: Path) -> Array:
        import cv2
        import numpy as np

        have = (picture.shape[1], picture.shape[0])
        out = self.site.empty((self.want[1], self.want[0], 3))
        if have == self.want:
            np.copyto(out, picture)
            return out
        if self.mode == "error":
            raise MediaError(
                f"{path} is {have[0]}x{have[1]}, the first picture {self.want[0]}x{self.want[1]}",
                fix='set size = "WIDTHxHEIGHT", or on_mixed = "fill" or "letterbox"',
            )
        scaled = fitting(have, self.want, self.mode).scaled
        shrinks = scaled[0] < have[0]
        place(cv2.resize(picture, scaled, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC), out)
        return out


def find_pictures(url: str) -> list[Path]:
    """The pictures that a folder, a glob or a %04d pattern names, in counting order. Raises MissingError where there is none."""
    where = local_path(url)
    if where.is_dir():
        found = [p for p in where.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]
        if not found:
            raise MissingError(f"the folder {url} holds no pictures", fix="pictures end in " + ", ".join(sorted(IMAGE_SUFFIXES)))
    elif _NUMBER.search(where.name):
        found = _numbered(where)
        if not found:
            raise MissingError(f"no file fits the pattern {url}", fix=nearest_name(where))
    elif glob.has_magic(url):
        found = [p for p in map(Path, glob.glob(str(where), recursive=True)) if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]
        if not found:
            raise MissingError(f"no picture fits {url}", fix="" if where.parent.is_dir() else f"the folder {where.parent} does not exist")
    elif where.is_file():
        found = [where]
    else:
        raise MissingError(f"{url} does not exist", fix=nearest_name(where))
    return sorted(found, key=lambda p: counting_order(str(p)))


def _numbered(where: Path) -> list[Path]:
    head, digits, tail = _NUMBER.split(where.name, maxsplit=1)
    width = rf"\d{{{int(digits)},}}" if digits else r"\d+"
    pattern = re.compile(re.escape(head) + width + re.escape(tail))
    if not where.parent.is_dir():
        return []
    return [Path(entry.path) for entry in os.scandir(where.parent) if pattern.fullmatch(entry.name)]


def counting_order(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which shot_2 comes before shot_10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part.lower()) for part in re.split(r"(\d+)", name) if part]
