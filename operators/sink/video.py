"""`sink.video`: pictures into a video file, with the source's sound.

Invariant: whatever ends the run, the file that is left plays up to the last picture written. It knows the site and the rules for paths;
encoding is the writer's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from engine.errors import EngineError
from engine.operator import HOST_RGB, Operator, Range, operator
from engine.payload import Image
from engine.site import Site
from operators.media.urls import split_span
from operators.sink.place import check_output, refuse_input
from operators.sink.sound import FileSound
from operators.sink.writer import CONTAINERS, Target, Writer, choose_encoder

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


@operator("sink.video")
class Video(Operator):
    """Write pictures (H, W, 3) to a video file.

    `url`: where to, by suffix .mp4, .mov, .mkv or .webm, relative to the working directory; its last folder is made where it is missing.
    A file of that name is replaced unless `overwrite` is false; the video that is being read never is.
    `codec`: "auto" is h264 (vp9 in .webm). `encoder`: "auto" takes the first that really opens of nvenc, qsv, amf and x264.
    `quality`: 0 (worst) .. 100; 75 is hard to tell from the original.
    `speed`: what the encoder's time may buy; "auto" is "fast" under the live clock, else "balanced".
    `audio`: "auto" copies the sound of the source where that is a file, a path takes another file's, "none" none. Odd sound costs the
    sound and gives an event, never the picture.

    Times are kept, variable rates too: to 1/120000 s in mp4 and mov, to 1 ms in mkv and webm (a limit of the format). The first picture
    decides the size; later ones of another size are set into it between bars. mp4 and mov are written in fragments, so that a crash
    leaves a playable file, and get an ordinary index when they are closed. Colours are BT.709, limited range, tagged so.
    Raises UsageError, MediaError (folder missing or read-only, disk full) or DeviceError (the named encoder does not work).
    """

    def __init__(
        self, *, url: str, codec: Literal["auto", "h264", "hevc", "av1", "vp9"] = "auto", encoder: str = "auto",
        quality: Annotated[int, Range(0, 100)] = 75, audio: str = "auto", overwrite: bool = True,
        speed: Literal["auto", "fast", "balanced", "small"] = "auto",
    ) -> None:  # fmt: skip
        self.url, self.codec, self.encoder, self.quality, self.audio, self.overwrite = url, codec, encoder, quality, audio, overwrite
        self.speed = speed
        self.writer: Writer | None = None
        self.zero = 0
        self.sizes: set[tuple[int, int]] = set()

    def open(self, site: Site) -> None:
        super().open(site)
        self.path = check_output(self.url, tuple(CONTAINERS), self.overwrite, site)
        self.container = CONTAINERS[self.path.suffix.lower()]
        if self.codec == "auto":
            self.codec = "vp9" if self.container == "webm" else "h264"
        chosen = choose_encoder(self.codec, self.encoder)
        site.event("encoder", chosen=chosen)

    def __call__(self, image: Annotated[Image, HOST_RGB]) -> None:
        writer = self.writer or self._begin(image)
        writer.write(self._fitted(image.data), self.site.pts - self.zero)
        self._tell()

    def _begin(self, image: Image) -> Writer:
        site = self.site
        refuse_input(self.path, split_span(site.origin.url)[0])
        speed = self.speed if self.speed != "auto" else "fast" if site.live else "balanced"
        target = Target(
            str(self.path), self.container, self.codec, self.encoder, self.quality, site.live, speed, site.origin.fps or 25.0
        )
        self.zero = site.pts
        self.writer = Writer(target, image.height, image.width, self._sound())
        site.output(self.path)
        return self.writer

    def _sound(self) -> FileSound | None:
        site = self.site
        if self.audio == "none" or (self.audio == "auto" and not site.origin.audio):
            return None
        try:
            # The source counts from the start of its span, another file from its own.
            return FileSound(site.origin.url, site.pts) if self.audio == "auto" else FileSound(self.audio)
        except EngineError as error:
            if self.audio != "auto":
                raise
            site.event("sound", left_out=error.message)
            return None

    def _fitted(self, picture: Array) -> Array:
        """`picture` at the size of the file, which the first one decided."""
        writer = self.writer
        assert writer is not None
        size = picture.shape[:2]
        if size == (writer.height, writer.width):
            return picture
        import cv2

        from operators.media.geometry import fitting, middle

        if size not in self.sizes:
            self.sizes.add(size)
            self.site.event("size", came=f"{size[1]}x{size[0]}", file=f"{writer.width}x{writer.height}", done="set between bars")
        want = (writer.width, writer.height)
        plan = fitting((size[1], size[0]), want, "letterbox")
        out = self.site.empty((writer.height, writer.width, 3))
        out.fill(0)
        out[middle(plan.scaled, want)] = cv2.resize(picture, plan.scaled, interpolation=cv2.INTER_AREA)
        return out

    def _tell(self) -> None:
        if self.writer is not None and self.writer.trouble:
            self.site.event("sound", left_out=self.writer.trouble)
            self.writer.trouble = ""

    def close(self) -> None:
        if self.writer is not None:
            try:
                self.writer.close()
                self._tell()
            finally:
                self.writer = None
