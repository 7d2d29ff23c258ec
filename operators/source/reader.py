"""One open container, decoded: frames with their times, and the facts of the stream. Everything that PyAV raises leaves as a typed error.

Invariant: a damaged packet costs its frames and is counted, never the rest of the file; times are nanoseconds since the container's
start. It reconnects nothing, paces nothing and converts no pixel.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import DeviceError, MediaError
from operators.media.faults import explain
from operators.media.urls import Address
from operators.media.versions import lenient

if TYPE_CHECKING:
    from fractions import Fraction

    import av
    from av.container import InputContainer

MAX_PIXELS = 8192 * 4320
SECOND = 1_000_000_000

LOW_DELAY = {"fflags": "nobuffer", "flags": "low_delay", "analyzeduration": "100000", "probesize": "65536"}
"""What a live stream opens with: no buffering, and a probe that ends after 0.1 s instead of 5."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How to open: seconds of patience, decoded pixels at most, which hardware, and options passed through to FFmpeg."""

    open_timeout: float = 5.0
    read_timeout: float = 5.0
    max_pixels: int = MAX_PIXELS
    hwaccel: str = "none"
    low_delay: bool = False
    extra: tuple[tuple[str, str], ...] = ()


class Reader:
    """An opened address. Use and close it on one thread."""

    def __init__(self, address: Address, options: ReadOptions) -> None:
        self.address, self.options = address, options
        self.damaged = 0  # packets that could not be decoded, and frames that had to be patched up
        self.last_ns = -1
        self.container: InputContainer = self._open()
        try:
            self.stream = self._pick()
        except BaseException:
            self.container.close()
            raise
        self.origin = self.container.start_time or 0  # µs

    # ---- facts

    @property
    def fps(self) -> float | None:
        rate = self.stream.average_rate or self.stream.guessed_rate
        return float(rate) if rate and 0 < rate < 1000 else None

    @property
    def frames(self) -> int | None:
        if self.stream.frames:
            return int(self.stream.frames)
        return round(self.seconds * self.fps) if self.seconds and self.fps else None

    @property
    def seconds(self) -> float | None:
        """How long the picture runs, where the container says so."""
        if self.stream.duration and self.stream.time_base:
            return float(self.stream.duration * self.stream.time_base)
        return self.container.duration / 1e6 if self.container.duration else None

    @property
    def audio(self) -> bool:
        return bool(self.container.streams.audio)

    # ---- frames

    def decoded(self, start_ns: int = 0) -> Iterator[tuple[av.VideoFrame, int]]:
        """(frame, ns since the container's start) from `start_ns` to the end of the stream, in order of presentation.

        Returns at the end of the stream, which for a network stream may also be a lost peer. Raises MediaError where reading fails.
        """
        import av

        if start_ns > 0:
            self._seek(start_ns)
        trouble: Exception | None = None
        packets = self.container.demux(self.stream)
        while trouble is None:
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, OSError) as error:
                trouble, packet = error, None
            for frame in self._decode(packet):
                when = self._time(frame)
                if when >= start_ns:
                    self.last_ns = when
                    yield frame, when
            if packet is None:
                break
        if trouble is not None and not isinstance(trouble, av.error.EOFError):
            raise explain(trouble, self.address.url, doing="read", device=self.address.kind in ("camera", "screen")) from trouble

    def _decode(self, packet: Any) -> list[av.VideoFrame]:
        """The frames of a packet; at the end (None) those that the decoder still holds. What is damaged is counted."""
        import av

        try:
            frames = packet.decode() if packet is not None else self.stream.codec_context.decode(None)
        except av.error.EOFError:
            return []  # emptied before
        except (av.error.FFmpegError, ValueError):
            self.damaged += 1
            return []
        self.damaged += (packet is not None and packet.is_corrupt) + sum(frame.is_corrupt for frame in frames)
        return frames

    def close(self) -> None:
        self.container.close()

    # ---- inside

    def _seek(self, ns: int) -> None:
        """Go to a key frame at or before `ns`. Formats without an index (mpegts) land on any packet, so look, and step further back."""
        import av

        back = 0
        try:
            while back <= ns:
                to = self.origin + (ns - back) // 1000
                self.container.seek(to, backward=True)
                first = next(iter(self.container.demux(self.stream)), None)
                if first is not None and first.is_keyframe and first.pts is not None and self._ns(first.pts, first.time_base) <= ns:
                    self.container.seek(to, backward=True)
                    return
                back = max(2 * SECOND, 2 * back)
        except av.error.FFmpegError:
            pass
        # Not seekable, or no key frame found: from the very start; the frames before `ns` are decoded and left out.
        self.container.close()
        self.container = self._open()
        self.stream = self._pick()

    def _ns(self, stamp: int, base: Fraction) -> int:
        return (2 * stamp * base.numerator * SECOND + base.denominator) // (2 * base.denominator) - self.origin * 1000

    def _time(self, frame: av.VideoFrame) -> int:
        base = frame.time_base or self.stream.time_base
        stamp = frame.pts if frame.pts is not None else frame.dts
        if stamp is None or base is None:
            return self.last_ns + round(SECOND / (self.fps or 25.0)) if self.last_ns >= 0 else 0
        return self._ns(stamp, base)

    def _open(self) -> InputContainer:
        import av

        address, options = self.address, self.options
        table = {"rtsp_transport": "tcp"} if address.url.startswith("rtsp") else {}
        if options.low_delay and address.kind == "network":
            table |= LOW_DELAY
        # What the caller adds comes before the limits, which it cannot lift.
        table |= dict(options.extra) | address.options | {"max_pixels": str(options.max_pixels)}
        began = time.monotonic()
        try:
            return av.open(
                address.target, format=address.format, options=table, timeout=(options.open_timeout, options.read_timeout),
                hwaccel=hardware(options.hwaccel), **lenient(),
            )  # fmt: skip
        except (av.error.FFmpegError, OSError, ValueError) as error:
            silent = address.kind == "network" and time.monotonic() - began >= options.open_timeout
            # FFmpeg reports an interrupted handshake in many ways.
            said = TimeoutError("no answer") if silent else error
            raise explain(said, address.url, device=address.kind in ("camera", "screen")) from error

    def _pick(self) -> Any:
        videos = [s for s in self.container.streams.video if not s.disposition & 0x400]  # 0x400: a cover picture
        name = self.address.url
        if not videos:
            kinds = sorted({s.type for s in self.container.streams})
            raise MediaError(f"{name} has no video stream (it has {', '.join(kinds) or 'no streams at all'})", fix="give a file with a picture")
        stream = videos[0]
        context = stream.codec_context
        if context is None:
            raise MediaError(f"{name}: there is no decoder for its video", fix="convert it to H.264 first")
        if context.width * context.height > self.options.max_pixels:
            raise MediaError(
                f"{name} is {context.width}x{context.height}, more than max_pixels = {self.options.max_pixels}",
                fix="raise max_pixels if you trust it",
            )
        # av.open's max_pixels guards the probe only; the decoder has its own.
        context.options = {**context.options, "max_pixels": str(self.options.max_pixels)}
        # Frame threads cost a quarter more CPU and a frame of delay each: only for pictures that one core cannot keep up with.
        large = context.width * context.height > 1920 * 1088 and not self.options.low_delay
        stream.thread_type = "AUTO" if large else "SLICE"
        return stream


def hardware(wanted: str) -> Any:
    """The hardware decoder asked for, probed: "none", "cuda", or "auto" (cuda where it works)."""
    if wanted == "none":
        return None
    from operators.media.codecs import working_hwaccel

    if working_hwaccel("cuda"):
        import av

        return av.codec.hwaccel.HWAccel(device_type="cuda", allow_software_fallback=True)
    if wanted == "auto":
        return None
    raise DeviceError("hwaccel = cuda: no CUDA decoder works here", fix='use hwaccel = "auto", which falls back to software')
