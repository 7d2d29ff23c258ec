"""`sink.video`: pictures into a video file, or sent to a receiver on the network, with the source's sound.

Invariants: whatever ends the run, the file that is left plays up to the last picture written; no receiver holds the graph up. It knows the
site and the rules for paths; encoding is the writer's, the network is a child's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from engine.clock import RealClock
from engine.errors import EngineError, UsageError
from engine.operator import HOST_RGB, Operator, Range, operator
from engine.payload import Image
from engine.site import Site
from operators.media.urls import local_path, split_span
from operators.sink.canvas import Canvas
from operators.sink.outlet import Outlet, Patience
from operators.sink.pacing import AlwaysOn, check_slate
from operators.sink.place import check_output, ensure_folder, refuse_input
from operators.sink.push import Push, Sending, check_address, scheme_of, shown
from operators.sink.sound import FileSound
from operators.sink.writer import CONTAINERS, Target, Writer, choose_encoder


@operator("sink.video")
class Video(Operator):
    """Write pictures (H, W, 3) to a video file, or send them to a receiver.

    `url`: where to. A file by suffix .mp4, .mov, .mkv or .webm, relative to the working directory; its last folder is made where it is missing.
    A file of that name is replaced unless `overwrite` is false; the video that is being read never is. Or an address: rtsp:// (ANNOUNCE),
    rtmp://, udp:// (MPEG-TS), tcp:// (NUT); or FOLDER/NAME.m3u8, which writes HLS: a playlist and segments of fragmented mp4.
    `codec`: "auto" is h264 (vp9 in .webm). `encoder`: "auto" takes the first that really opens of nvenc, qsv, amf and x264.
    `quality`: 0 (worst) .. 100; 75 is hard to tell from the original. `bitrate`: kbit/s, which many services ask for; it goes before `quality`.
    `speed`: what the encoder's time may buy; "auto" is "fast" under the live clock, else "balanced".
    `audio`: "auto" copies the sound of the source where that is a file, a path takes another file's, "none" none. Odd sound costs the
    sound and gives an event, never the picture.

    Times are kept, variable rates too: to 1/120000 s in mp4 and mov, to 1 ms in mkv and webm (a limit of the format). The first picture
    decides the size; later ones of another size are set into it between bars. mp4 and mov are written in fragments, so that a crash
    leaves a playable file, and get an ordinary index when they are closed. Colours are BT.709, limited range, tagged so.

    To addresses a child process encodes and sends. Under the live clock it gets the newest picture, and the graph never waits for it;
    offline it gets all. A receiver that goes away, or takes nothing for `timeout` seconds, is met again: events `lost`, `stalled` and
    `reconnected`. `max_reconnects`: failed attempts in a row after which the run ends with an error; -1: never. Without `always_on` a first
    connection that fails is an error at once. `format`: the container for tcp:// ("nut", "mpegts", "matroska"). `segment`: s of an HLS
    segment. `options`: handed to FFmpeg's muxer.
    `always_on` (live clock only): when no picture comes, the last one goes on at `fps` (0: the source's rate), and after `slate_after`
    seconds the `slate`: "last", "dim" (the last one, dark), "text:WORDS", or a picture file. Times then are those of sending, and no sound
    is sent.
    Raises UsageError, MediaError (folder missing or read-only, disk full, receiver lost) or DeviceError (the named encoder does not work).
    """

    def __init__(
        self, *, url: str, codec: Literal["auto", "h264", "hevc", "av1", "vp9"] = "auto", encoder: str = "auto",
        quality: Annotated[int, Range(0, 100)] = 75, bitrate: Annotated[int, Range(0, 1_000_000)] = 0, audio: str = "auto",
        overwrite: bool = True, speed: Literal["auto", "fast", "balanced", "small"] = "auto", format: str = "auto",
        timeout: Annotated[float, Range(0.2, 600)] = 5.0, max_reconnects: Annotated[int, Range(-1)] = 20,
        segment: Annotated[float, Range(0.2, 60)] = 1.0, options: dict[str, str] = {},  # noqa: B006
        always_on: bool = False, slate: str = "last", slate_after: Annotated[float, Range(0)] = 2.0,
        fps: Annotated[float, Range(0, 1000)] = 0.0,
    ) -> None:  # fmt: skip
        self.url, self.codec, self.encoder, self.quality, self.audio, self.overwrite = url, codec, encoder, quality, audio, overwrite
        self.bitrate, self.speed, self.format, self.timeout, self.max_reconnects = bitrate, speed, format, timeout, max_reconnects
        self.segment, self.options, self.fps = segment, dict(options), fps
        self.always_on, self.slate, self.slate_after = always_on, slate, slate_after
        self.writer: Writer | None = None
        self.outlet: Outlet | None = None
        self.canvas: Canvas | None = None
        self.zero = 0

    @classmethod
    def redirected(cls, params: Mapping[str, Any], folder: Path, node: str) -> dict[str, Any]:
        suffix = Path(params["url"]).suffix.lower() if scheme_of(params["url"]) in ("", "file") else ".mp4"
        return {**params, "url": str(folder / f"{node}{suffix if suffix in CONTAINERS else '.mp4'}"), "always_on": False, "overwrite": False}

    @classmethod
    def exclusive(cls, params: Mapping[str, Any]) -> str | None:
        """The receiver, which takes one sender. A plain file is begun with the first picture, when the node before has closed it."""
        url, scheme = params["url"], scheme_of(params["url"])
        return f"receiver {url}" if scheme not in ("", "file", "hls") or (scheme == "hls" and params["overwrite"]) else None

    def open(self, site: Site) -> None:
        super().open(site)
        self.muxer = ""
        if scheme_of(self.url) not in ("", "file"):
            self._open_address(site)
            return
        if self.always_on:
            raise UsageError("always_on is for receivers, not for files", fix="leave it out")
        self.path = check_output(self.url, tuple(CONTAINERS), self.overwrite, site)
        self.container = CONTAINERS[self.path.suffix.lower()]
        if self.codec == "auto":
            self.codec = "vp9" if self.container == "webm" else "h264"
        chosen = choose_encoder(self.codec, self.encoder)
        site.event("encoder", chosen=chosen)

    def _open_address(self, site: Site) -> None:
        self.muxer = check_address(self.url, self.format, self.codec)
        if self.muxer == "hls":
            path = local_path(self.url)
            ensure_folder(path.parent, site)
            if path.exists() and not self.overwrite:
                raise UsageError(f"{self.url} exists already", fix="set overwrite = true, or choose another name")
        if self.always_on:
            check_slate(self.slate)
        self.codec = "h264" if self.codec == "auto" else self.codec
        site.event("encoder", chosen=choose_encoder(self.codec, self.encoder))
        self.outlet = Outlet(
            site, Push, None, name=shown(self.url), lossy=site.live and isinstance(site.clock, RealClock),
            patience=Patience(self.timeout, self.max_reconnects, insist=self.always_on and site.live),
        )  # fmt: skip
        self.outlet.ready()

    def __call__(self, image: Annotated[Image, HOST_RGB]) -> None:
        if self.canvas is None:
            self.canvas = Canvas(self.site, (image.height, image.width))
            if self.outlet is not None:
                self._begin_sending(self.outlet)
        if self.outlet is not None:
            self.outlet.offer(self.canvas(image.data), self.site.pts)
            return
        writer = self.writer or self._begin(image)
        writer.write(self.canvas(image.data), self.site.pts - self.zero)
        if writer.count == 1:
            self.site.output(self.path)
        self._tell()

    def _target(self, path: str, container: str) -> Target:
        site = self.site
        speed = self.speed if self.speed != "auto" else "fast" if site.live else "balanced"
        return Target(
            path, container, self.codec, self.encoder, self.quality, site.live, speed, self.fps or site.origin.fps or 25.0,
            options=self.options, bitrate=self.bitrate, gop_s=self.segment if self.muxer == "hls" else 0.0,
        )  # fmt: skip

    def _begin(self, image: Image) -> Writer:
        site = self.site
        refuse_input(self.path, split_span(site.origin.url)[0])
        self.zero = site.pts
        self.writer = Writer(self._target(str(self.path), self.container), image.height, image.width, self._sound())
        return self.writer

    def _begin_sending(self, outlet: Outlet) -> None:
        """Tell the child what the first picture knows of its source."""
        site = self.site
        target = self._target("", self.muxer)
        named = self.audio not in ("auto", "none")
        sound = self.audio if named else site.origin.url if self.audio == "auto" and site.origin.audio else ""
        held = self.always_on and site.live
        if held and sound:
            site.event("sound", left_out="always_on sends pictures at the time they come, to which recorded sound would not fit")
            sound = ""
        sending = Sending(self.url, self.muxer, target, self.timeout, self.segment, sound, site.pts if named else 0, named)
        outlet.begin(sending, AlwaysOn(target.fps, self.slate, self.slate_after) if held else None)
        site.output(shown(self.url))

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

    def _tell(self) -> None:
        if self.writer is not None and self.writer.trouble:
            self.site.event("sound", left_out=self.writer.trouble)
            self.writer.trouble = ""

    def tally(self) -> dict[str, int]:
        return dict(self.outlet.counts) if self.outlet is not None else {}

    def close(self) -> None:
        if self.outlet is not None:
            self.outlet.close()
        if self.writer is not None:
            try:
                self.writer.close()
                self._tell()
            finally:
                self.writer = None
