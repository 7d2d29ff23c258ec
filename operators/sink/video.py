"""`sink.video`: pictures into a video file, with the source's sound.

Invariant: whatever ends the run, the file that is left plays up to the last picture written. It knows the site and the rules for paths;
encoding is the writer's.
"""

from __future__ import annotations

from typing import Annotated, Literal

from engine.operator import HOST_RGB, Operator, Range, operator
from engine.payload import Image
from engine.site import Site
from operators.sink.place import check_output
from operators.sink.writer import CONTAINERS, Target, Writer


@operator("sink.video")
class Video(Operator):
    """Write pictures to a video file.

    `url`: where to, by suffix .mp4, .mov, .mkv or .webm; a relative path is relative to the working directory, its last folder is made where
    it is missing. `codec`: "auto" is h264 (webm: vp9). `encoder`: "auto" takes the first that really opens of nvenc, qsv, amf, x264.
    `quality`: 0 .. 100. Times are kept exactly (variable rates too); the first picture decides the size, later ones are brought to it.
    """

    def __init__(
        self, *, url: str, codec: Literal["auto", "h264", "hevc", "av1", "vp9"] = "auto", encoder: str = "auto",
        quality: Annotated[int, Range(0, 100)] = 75, overwrite: bool = True,
    ) -> None:  # fmt: skip
        self.url, self.codec, self.encoder, self.quality, self.overwrite = url, codec, encoder, quality, overwrite
        self.writer: Writer | None = None
        self.zero = 0

    def open(self, site: Site) -> None:
        super().open(site)
        self.path = check_output(self.url, tuple(CONTAINERS), self.overwrite, site)
        self.container = CONTAINERS[self.path.suffix.lower()]
        if self.codec == "auto":
            self.codec = "vp9" if self.container == "webm" else "h264"

    def __call__(self, image: Annotated[Image, HOST_RGB]) -> None:
        if self.writer is None:
            self._begin(image)
        assert self.writer is not None
        self.writer.write(image.data, self.site.pts - self.zero)

    def _begin(self, image: Image) -> None:
        target = Target(
            str(self.path), self.container, self.codec, self.encoder, self.quality, self.site.live, self.site.origin.fps or 25.0
        )
        self.writer = Writer(target, image.height, image.width)
        self.zero = self.site.pts
        self.site.output(self.path)

    def close(self) -> None:
        if self.writer is not None:
            writer, self.writer = self.writer, None
            writer.close()
