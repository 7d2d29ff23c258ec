"""Encodes pictures into a container file: one video stream with exact times, and sound where a track is given.

Plain data in (`Target`, arrays, nanoseconds), a file out, so that the same class can run in a child process. Invariant: after `close`, and
after a kill at any moment, the file holds every picture up to the last whole fragment and plays. It knows neither sites nor graphs.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from engine.errors import DeviceError, MediaError, UsageError
from operators.media.codecs import ENCODERS, HARDWARE, QUIET, best_encoder, encoder_works
from operators.media.color import ToYuv
from operators.media.faults import explain
from operators.sink.repair import trim_fragments

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
TIME_BASE = Fraction(1, 120_000)
"""Ticks of the video stream: 24, 25, 30, 50, 60 and their NTSC cousins (x 1000/1001) all fall on whole ticks."""
SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Target:
    """What to write. `quality`: 0 (worst) .. 100 (best). `fps` is a hint for rate control; times come with the pictures."""

    path: str
    container: str
    codec: str = "h264"
    encoder: str = "auto"
    quality: int = 75
    live: bool = False  # no delay, a key frame every second
    speed: str = "balanced"
    fps: float = 25.0
    options: dict[str, str] = field(default_factory=dict)
    network: bool = False  # `path` is an address, and what happens there is a matter of time
    bitrate: int = 0  # kbit/s, held to strictly; 0: by quality
    gop_s: float = 0.0  # s between key frames; 0: one live, else two


class Sound(Protocol):
    """A sound track to lay beside the picture: packets on the picture's clock. `trouble` says what ended it early."""

    trouble: str

    def attach(self, container: Any) -> None: ...
    def until(self, ns: int) -> Iterator[Any]: ...
    def close(self) -> None: ...


def choose_encoder(codec: str, encoder: str) -> str:
    """The FFmpeg encoder for `codec`: the named one where it works, else the best that does."""
    if codec not in ENCODERS:
        raise UsageError(f'codec = "{codec}" is not known', fix="there is " + ", ".join(ENCODERS))
    if encoder in ("auto", ""):
        found = best_encoder(codec)
        if found is None:
            raise MediaError(f"no encoder for {codec} works here", fix="choose another codec: " + ", ".join(ENCODERS))
        return found
    names = {"x264": "libx264", "x265": "libx265", **{h: f"{codec}_{h}" for h in HARDWARE}}
    name = names.get(encoder, encoder)
    if not encoder_works(name):
        raise DeviceError(f"the encoder {name} does not work on this machine", fix='use encoder = "auto", which takes the best one that does')
    return name


def encoder_options(name: str, target: Target) -> dict[str, str]:
    """Options of the encoder `name` for the target's quality and delay."""
    if target.bitrate:
        return rated_options(name, target)
    # x264's scale: 51 worst .. 0 lossless; 23 is its default, 18 is taken for visually lossless.
    crf = str(round(38 - 0.26 * target.quality))
    if name in ("libx264", "libx265"):
        table = {"crf": crf, "preset": {"fast": "ultrafast", "balanced": "veryfast", "small": "medium"}[target.speed]}
        if target.live or target.speed == "fast":
            table["tune"] = "zerolatency"
        if name == "libx265":
            table |= QUIET[name]
        return table
    if name.endswith("_nvenc"):
        preset = {"fast": "p1", "balanced": "p4", "small": "p6"}[target.speed]
        return {"rc": "vbr", "cq": crf, "preset": preset} | ({"tune": "ull", "zerolatency": "1"} if target.live else {})
    if name.endswith("_qsv"):
        return {"global_quality": crf, "preset": {"fast": "veryfast", "balanced": "fast", "small": "slow"}[target.speed]}
    if name.endswith("_amf"):
        return {"rc": "cqp", "qp_i": crf, "qp_p": crf, "quality": {"fast": "speed", "balanced": "balanced", "small": "quality"}[target.speed]}
    if name == "libvpx-vp9":
        pace = {"deadline": "realtime", "cpu-used": {"fast": "8", "balanced": "6", "small": "4"}[target.speed], "row-mt": "1"}
        return {"crf": str(round(55 - 0.4 * target.quality)), "b": "0"} | pace
    if name == "libsvtav1":
        return {"crf": str(round(60 - 0.45 * target.quality)), "preset": {"fast": "12", "balanced": "9", "small": "6"}[target.speed]}
    return {}


def rated_options(name: str, target: Target) -> dict[str, str]:
    """Options of the encoder `name` that hold it to the target's bit rate, within a second's worth of buffer (half of one live)."""
    speed, rate = target.speed, target.bitrate
    table = {"b": f"{rate}k", "maxrate": f"{rate}k", "bufsize": f"{rate // 2 if target.live else rate}k"}
    if name in ("libx264", "libx265"):
        table["preset"] = {"fast": "ultrafast", "balanced": "veryfast", "small": "medium"}[speed]
        table |= {"tune": "zerolatency"} if target.live or speed == "fast" else {}
        return table | QUIET.get(name, {})
    if name.endswith("_nvenc"):
        return table | {"rc": "cbr", "preset": {"fast": "p1", "balanced": "p4", "small": "p6"}[speed]} | (
            {"tune": "ull", "zerolatency": "1"} if target.live else {}
        )
    if name == "libvpx-vp9":
        return table | {"deadline": "realtime", "cpu-used": {"fast": "8", "balanced": "6", "small": "4"}[speed], "row-mt": "1"}
    if name == "libsvtav1":
        return {"b": f"{rate}k", "preset": {"fast": "12", "balanced": "9", "small": "6"}[speed]}
    return table


def padded(rgb: Array, even: tuple[int, int]) -> Array:
    """`rgb` with its last row and column repeated where it is odd, so that its size is `even`."""
    if rgb.shape[:2] == even:
        return rgb
    import cv2

    return cv2.copyMakeBorder(rgb, 0, even[0] - rgb.shape[0], 0, even[1] - rgb.shape[1], cv2.BORDER_REPLICATE)


class WholeFile(io.FileIO):
    """A file whose `write` writes everything or raises."""

    def write(self, data: Any) -> int:
        left = memoryview(data)
        while left:
            left = left[super().write(left) :]
        return len(data)


def open_whole(url: str, flags: int, options: Any) -> WholeFile:
    """How a muxer that writes several files opens each of them."""
    return WholeFile(url.removeprefix("file:"), "wb")


class Writer:
    """An output file of one picture size. Use it on one thread: write*, close."""

    def __init__(self, target: Target, height: int, width: int, sound: Sound | None = None) -> None:
        self.target, self.sound = target, sound
        self.height, self.width = height, width
        # 4:2:0 needs even sizes: an odd edge is repeated, which players do not notice and a lost line of picture they would.
        self.even = (height + height % 2, width + width % 2)
        self.encoder = choose_encoder(target.codec, target.encoder)
        self.to_yuv = ToYuv(*self.even)
        self.last = -1
        self.count = 0
        self.filled = False  # whether a packet of the picture has reached the container
        self.trouble = ""  # what was wrong with the sound, if anything
        # Matroska and FLV count in milliseconds: two pictures must not fall on the same one.
        self.quantum = TIME_BASE.denominator // 1000 if target.container in ("matroska", "webm", "flv") else 1
        self.container: Any = None
        self.doing = "send to" if target.network else "write"
        self._open()

    def _open(self) -> None:
        import av

        target = self.target
        options = dict(target.options)
        if target.container in ("mp4", "mov"):
            # Fragments while it is written, so that a crash leaves a playable file; an ordinary index once it is closed.
            options = {"movflags": "+hybrid_fragmented+frag_keyframe+default_base_moof", "frag_duration": "1000000"} | options
        elif target.container in ("matroska", "webm"):
            options = {"cluster_time_limit": "1000", "reserve_index_space": "65536"} | options
        options = {"flush_packets": "1"} | options
        try:
            self._start(options)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            refused = isinstance(error, (av.error.InvalidDataError, av.error.ArgumentError, ValueError))
            if self.sound is None or (target.network and not refused):  # a receiver that is not there is no fault of the sound
                raise explain(error, target.path, doing=self.doing) from error
            self._drop_sound(f"the container does not take it: {error}")
            self._open()

    def _start(self, options: dict[str, str]) -> None:
        import av

        where = self.target.path if self.target.network else f"file:{self.target.path}"
        # FFmpeg's HLS muxer goes on after a failed write as if nothing had happened; through Python it is an error.
        through: dict[str, Any] = {"io_open": open_whole} if self.target.container == "hls" else {}
        container = av.open(where, "w", format=self.target.container, options=options, **through)
        try:
            self.stream = self._add_video(container)
            if self.sound is not None:
                self.sound.attach(container)
            container.start_encoding()
        except BaseException:
            container.close()
            raise
        self.container = container

    def _add_video(self, container: Any) -> Any:
        target = self.target
        rate = Fraction(target.fps).limit_denominator(1001) or Fraction(25)
        stream = container.add_stream(self.encoder, rate=rate, options=encoder_options(self.encoder, target))
        context = stream.codec_context
        context.height, context.width = self.even
        context.pix_fmt = "yuv420p"
        context.time_base = stream.time_base = TIME_BASE
        context.framerate = rate
        context.gop_size = max(1, round(rate * (target.gop_s or (1 if target.live else 2))))
        context.max_b_frames = 0
        context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
        context.color_range = 1  # limited
        return stream

    def write(self, rgb: Array, ns: int) -> None:
        """Append a picture (H, W, 3) uint8 of the file's size, shown from `ns` on. Times must rise; one that does not is moved by a tick."""
        import av

        step = self.quantum
        tick = max(round(ns * TIME_BASE.denominator / SECOND / step) * step, self.last + step if self.count else 0)
        frame = self.to_yuv(padded(rgb, self.even))
        frame.pts, frame.time_base = tick, TIME_BASE
        self.last, self.count = tick, self.count + 1
        try:
            self._mux_sound(ns)
            self._mux(self.container, self.stream.encode(frame))
        except (av.error.FFmpegError, OSError) as error:
            raise explain(error, self.target.path, doing=self.doing) from error

    def _mux(self, container: Any, packets: list[Any]) -> None:
        container.mux(packets)
        self.filled = self.filled or bool(packets)

    def _mux_sound(self, ns: int, container: Any = None) -> None:
        """Lay the sound beside the picture up to time `ns`. A packet the container refuses ends the sound, not the file."""
        import av

        if self.sound is None:
            return
        for packet in self.sound.until(ns):
            try:
                (container or self.container).mux(packet)
            except (av.error.InvalidDataError, av.error.ArgumentError) as error:
                self._drop_sound(f"a packet was refused: {error}")
                return
        if self.sound.trouble:
            self._drop_sound(self.sound.trouble)

    def _drop_sound(self, why: str = "") -> None:
        if self.sound is not None:
            self.sound.close()
            self.sound, self.trouble = None, why or self.trouble

    def close(self) -> None:
        """Finish the file. Safe after a failed write: what can be finished is. A file that got no picture is not left behind."""
        import av

        if self.container is None:
            return
        container, self.container = self.container, None
        trouble: BaseException | None = None
        try:
            if self.count:
                self._mux(container, self.stream.encode(None))
                # Sound goes on for as long as the last picture stands.
                self._mux_sound(round(self.last * SECOND / TIME_BASE.denominator + SECOND / self.target.fps), container)
        except (av.error.FFmpegError, OSError) as error:
            trouble = error
        empty = not self.filled and not self.target.network and self.target.container in CONTAINERS.values()
        if empty:
            with suppress(av.error.FFmpegError, OSError):
                self._mux_nothing(container)
        try:
            container.close()
        except (av.error.FFmpegError, OSError) as error:
            trouble = trouble or error
        self._drop_sound()
        if empty:
            Path(self.target.path).unlink(missing_ok=True)
        if trouble is not None:
            if not empty and self.target.container in ("mp4", "mov"):
                trim_fragments(Path(self.target.path))
            raise explain(trouble, self.target.path, doing="finish") from trouble

    def _mux_nothing(self, container: Any) -> None:
        """Give the container a packet that nobody will see: closed without any, FFmpeg's `hybrid_fragmented` mp4 muxer ends the process."""
        import av

        packet = av.Packet(b"\0")
        packet.stream, packet.time_base, packet.is_keyframe = self.stream, TIME_BASE, True
        packet.pts = packet.dts = 0
        container.mux(packet)
