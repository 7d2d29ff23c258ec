"""`source.video`: pictures from a file, a network stream, a camera, a screen or a test pattern.

Invariant: every frame leaves upright, with square pixels, as RGB in a pooled buffer, with a pts that rises. It knows nothing of the graph
behind it; what was opened and why a stream ended is said through the site.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from engine.errors import EngineError, MediaError, UsageError, scrub
from engine.operator import HOST_RGB, Operator, Range, Stamped, StreamInfo, operator
from engine.payload import Image
from engine.site import Site
from operators.media.geometry import parse_size
from operators.media.urls import Address, classify, port_of, with_span
from operators.source.live import Live
from operators.source.reader import MAX_PIXELS, Reader, ReadOptions
from operators.source.timeline import SECOND, Timeline
from operators.source.upright import Upright

Timed = tuple[Any, int, int | None, bool]
"""A decoded frame, its pts, its capture time (None: now) and whether a cut comes before it."""


@operator("source.video")
class Video(Operator):
    """Frames of a video, a stream or a camera as RGB pictures, (H, W, 3) uint8.

    `url`: a file, "0" or "camera:NAME", "screen:", rtsp://, rtmp://, http(s)://, udp://, or "lavfi:testsrc2=size=640x360:rate=30".
    `start`, `end`: seconds of a file to play, from its beginning; `loop`: play it again and again, each round after a cut.
    `fps`: at most so many frames a second are delivered (0: all); times are kept, so the rate of what is left is not made even.
    `size`: "WIDTHxHEIGHT" to scale to while decoding, with `fit` as in image.resize; "fit" never enlarges.
    `pace`: play a file in real time ("always"), as fast as it goes ("never"), or in real time under the live clock only ("auto").
    `hwaccel`: "cuda" decodes on the GPU, "auto" does so where it works; the default leaves video memory to the models.
    `open_timeout`, `read_timeout`: seconds to wait for a peer. `max_pixels`: larger pictures are refused before they cost memory.
    `max_reconnects`: failed attempts in a row after which a live stream is given up; -1: never, for outputs that are `always_on`.
    `allow_private`: whether addresses of the local network may be read.
    `options`: handed to FFmpeg, such as { video_size = "1280x720", framerate = "30" } for a camera.

    A live stream is emptied by a thread of its own: under the live clock a slow graph gets the newest frame. When the peer goes away or
    freezes it is connected again, and the next frame comes behind a cut with a pts that still rises.
    Wide-gamut and HDR video (BT.2020, PQ, HLG) is brought to 8-bit sRGB by a plain tone curve. Variable frame rates keep their times.
    Raises MissingError, MediaError, DeviceError or UsageError in open; a file damaged in the middle gives what decodes and an event.
    """

    def __init__(
        self, *, url: str, fps: Annotated[float, Range(0, 1000)] = 0.0, start: Annotated[float, Range(0)] = 0.0,
        end: Annotated[float | None, Range(0)] = None, loop: bool = False, pace: Literal["auto", "always", "never"] = "auto",
        size: str = "", fit: Literal["fit", "fill", "stretch", "letterbox"] = "fit",
        hwaccel: Literal["none", "auto", "cuda"] = "none", open_timeout: Annotated[float, Range(0.1, 120)] = 5.0,
        read_timeout: Annotated[float, Range(0.1, 120)] = 3.0, max_reconnects: Annotated[int, Range(-1)] = 20,
        max_pixels: Annotated[int, Range(1)] = MAX_PIXELS, allow_private: bool = True, options: dict[str, str] = {},  # noqa: B006
    ) -> None:  # fmt: skip
        self.url, self.fps, self.start, self.end, self.loop, self.pace = url, fps, start, end, loop, pace
        self.size, self.fit, self.hwaccel = size, fit, hwaccel
        self.open_timeout, self.read_timeout, self.max_reconnects = open_timeout, read_timeout, max_reconnects
        self.max_pixels, self.allow_private = max_pixels, allow_private
        self.options = dict(options)
        self.reader: Reader | None = None
        self.live: Live | None = None

    @classmethod
    def exclusive(cls, params: Mapping[str, Any]) -> str | None:
        """A camera; the port that a datagram stream is received at."""
        url = params["url"]
        if url.startswith(("udp://", "rtp://")):
            return port_of(url)
        which = url.removeprefix("/dev/video")
        return f"camera {which}" if which.isdecimal() or url.startswith(("camera:", "/dev/video")) else None

    def open(self, site: Site) -> None:
        super().open(site)
        self.address: Address = classify(self.url, allow_private=self.allow_private)
        self.named = self.url if self.address.kind == "file" else scrub(self.url)  # for all that people and logs get to see
        if self.end is not None and self.end <= self.start:
            raise UsageError(f"end = {self.end:g} is not after start = {self.start:g}")
        self.upright = Upright(parse_size(self.size), self.fit)
        self.read_options = ReadOptions(
            open_timeout=self.open_timeout, read_timeout=self.read_timeout, max_pixels=self.max_pixels, hwaccel=self.hwaccel,
            low_delay=self.address.endless and site.live, extra=tuple(self.options.items()),
        )  # fmt: skip
        self.reader = reader = self._connect()
        # A network address with a length is a recording: it is read like a file.
        self.endless = self.address.endless and not (self.address.kind == "network" and reader.seconds)
        if self.endless and (self.start or self.end is not None or self.loop):
            raise UsageError(f"start, end and loop are for recordings; {self.url} is live", fix="leave them out")
        site.describe(self._info(reader))
        if self.endless:
            # Emptied from now on: models elsewhere in the graph may take a minute to load, and the peer does not wait.
            patience = self.read_timeout + self.open_timeout + 1
            self.live = Live(site, self.named, reader, self._connect, patience=patience, max_reconnects=self.max_reconnects)
            self.reader = None  # it is the drain's now

    def _connect(self) -> Reader:
        return Reader(self.address, self.read_options)

    def _info(self, reader: Reader) -> StreamInfo:
        fps, frames, rate = reader.fps, reader.frames, 1.0
        if self.fps and fps and self.fps < fps:
            rate, fps = self.fps / fps, self.fps
        if self.endless or self.loop or self.address.kind == "test":
            frames = None
        elif frames is not None:
            whole = reader.seconds or 0.0
            span = max(0.0, min(self.end or whole, whole) - self.start)
            frames = round(frames * rate * (span / whole if whole else 1.0))
        plain = self.address.kind == "file" and not self.loop
        width, height = self.upright.expected(reader.stream)
        return StreamInfo(
            url=with_span(self.url, self.start, self.end) if plain else self.named, fps=fps, frames=frames, size=(height, width),
            audio=plain and reader.audio,
        )  # fmt: skip

    def __call__(self) -> Iterator[Annotated[Image, HOST_RGB]]:
        frames = self.live.frames() if self.live is not None else self._paced(self._recorded())
        for frame, pts, born, cut in self._thinned(frames):
            if self.site.stopping:
                return
            with self.site.span("picture"):
                picture = self.upright(frame, self.site)
            self._announce(picture)
            yield Stamped(picture, pts=pts, born=born, cut=cut)

    def _announce(self, picture: Image) -> None:
        """Correct what was said of the size: where only the frames knew that they are to be turned, or where a stream changed it."""
        info = self.site.stream
        if info is not None and info.size != (picture.height, picture.width):
            self.site.describe(replace(info, size=(picture.height, picture.width)))

    # ---- recorded

    def _recorded(self) -> Iterator[Timed]:
        """The frames of the file, once or for ever."""
        assert self.reader is not None
        start, end = round(self.start * SECOND), None if self.end is None else round(self.end * SECOND)
        timeline = Timeline(round(SECOND / (self.reader.fps or 25.0)), start)
        first = True
        while True:
            count = 0
            try:
                for frame, when in self.reader.decoded(start):
                    if end is not None and when >= end:
                        break
                    placed = timeline.place(when)
                    if placed is not None:
                        count += 1
                        yield frame, placed[0], None, placed[1]
            except EngineError as error:
                if not count:
                    raise
                self.site.event("corrupt", url=self.named, error=error.message, after_s=round(timeline.last / SECOND, 3))
            if first:
                self._report(count, whole=end is None)
            if not self.loop or not count:
                return
            self.reader.close()
            self.reader, first = self._connect(), False
            timeline.restart()

    def _report(self, count: int, *, whole: bool) -> None:
        """Say what was wrong with the file: an error where nothing came out of it, an event where something did."""
        reader = self.reader
        assert reader is not None
        if not count:
            if self.start and reader.seconds and self.start >= reader.seconds:
                raise MediaError(f"{self.url} ends at {reader.seconds:.2f} s, before start = {self.start:g}", fix="choose an earlier start")
            damage = f" ({reader.damaged} are damaged)" if reader.damaged else ""
            raise MediaError(f"{self.url} holds no frame that can be decoded{damage}", fix="does it play in a video player?")
        facts: dict[str, Any] = {"damaged": reader.damaged} if reader.damaged else {}
        if whole and reader.seconds and self.address.kind == "file" and reader.seconds - reader.last_ns / SECOND > 1.0:
            facts |= {"ends_at_s": round(reader.last_ns / SECOND, 3), "expected_s": round(reader.seconds, 3)}
        if facts:
            self.site.event("corrupt", url=self.named, **facts)

    def _paced(self, frames: Iterator[Timed]) -> Iterator[Timed]:
        """Hold each frame back until its time, where a recording is to run in real time."""
        if self.pace == "never" or (self.pace == "auto" and not self.site.live):
            yield from frames
            return
        zero: int | None = None
        for timed in frames:
            now, pts = self.site.clock.now(), timed[1]
            if zero is None or now - (zero + pts) > SECOND:
                zero = now - pts  # the start, or more than a second behind: go on from here instead of rushing after
            if not self.site.sleep_until(zero + pts):
                return
            yield timed

    def _thinned(self, frames: Iterator[Timed]) -> Iterator[Timed]:
        """At most `fps` frames a second, by their times."""
        if not self.fps:
            yield from frames
            return
        step = SECOND / self.fps
        slot, owed = -1, False
        for frame, pts, born, cut in frames:
            owed |= cut
            # The tolerance keeps a 30 fps stream whole under fps = 30 although its times are rounded.
            here = int((pts + step * 0.02) // step)
            if here > slot or owed:
                slot = here
                yield frame, pts, born, owed
                owed = False

    def close(self) -> None:
        if self.live is not None:
            self.live.close()
            self.live = None
        if self.reader is not None:
            self.reader.close()
            self.reader = None
