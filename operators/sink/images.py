"""`sink.images`: every picture a file of its own, numbered. A file appears under its name whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from engine.errors import UsageError
from engine.operator import HOST_RGB, Operator, Range, operator
from engine.payload import Image
from engine.site import Site
from operators.media.pictures import write_picture
from operators.media.urls import local_path
from operators.sink.place import ensure_folder, no_scheme

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_NUMBER = re.compile(r"%0?\d*d")


@operator("sink.images")
class Images(Operator):
    """Write pictures (H, W, 3) as numbered files.

    `url`: a pattern such as "out/frame_%05d.png", with the suffix .png, .jpg or .webp; a folder stands for "FOLDER/%06d.png". `number`:
    "count" numbers what arrives without gaps, "seq" by the source's frame, so that a dropped frame leaves its gap. `every`: one in so many.
    `quality`: of jpg and webp, 0 .. 100. Files of the same name are replaced.
    """

    def __init__(
        self, *, url: str, number: Literal["count", "seq"] = "count", start: Annotated[int, Range(0)] = 0, every: Annotated[int, Range(1)] = 1,
        quality: Annotated[int, Range(0, 100)] = 90,
    ) -> None:  # fmt: skip
        self.url, self.number, self.start, self.every, self.quality = url, number, start, every, quality
        self.came = 0

    def open(self, site: Site) -> None:
        super().open(site)
        no_scheme(self.url, "sink.images")
        if not self.url.strip():
            raise UsageError("the url is empty", fix='such as url = "out/%06d.png"')
        pattern = local_path(self.url)
        if pattern.is_dir() or (not pattern.suffix and not _NUMBER.search(pattern.name)):
            pattern = pattern / "%06d.png"
        if pattern.suffix.lower() not in SUFFIXES:
            raise UsageError(f'{self.url}: no picture is written for the suffix "{pattern.suffix}"', fix="use " + ", ".join(SUFFIXES))
        if len(_NUMBER.findall(pattern.name)) != 1 or pattern.name.count("%") != 1:
            stem = re.sub(r"%\w?", "", pattern.stem).strip("_") or "picture"
            raise UsageError(f"{self.url} needs one place for the number", fix=f'such as "{stem}_%05d{pattern.suffix}"')
        ensure_folder(pattern.parent, site)
        self.pattern = pattern

    @classmethod
    def redirected(cls, params: Mapping[str, Any], folder: Path, node: str) -> dict[str, Any]:
        pattern = local_path(params["url"])
        name = pattern.name if _NUMBER.search(pattern.name) else "%06d.png"
        return {**params, "url": str(folder / node / name)}

    def __call__(self, image: Annotated[Image, HOST_RGB]) -> None:
        came, self.came = self.came, self.came + 1
        if came % self.every:
            return
        if came == 0:
            self.site.output(self.pattern)
        number = self.start + (self.site.seq if self.number == "seq" else came // self.every)
        path = self.pattern.with_name(self.pattern.name % number)
        write_picture(path, image.data, quality=self.quality)
