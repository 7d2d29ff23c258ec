"""The sound of a source file, laid beside the new picture: packets copied where the container takes them, else encoded again.

Invariant: sound never costs the picture. What is odd about it ends the track and is kept in `trouble` for the sink to tell.
It knows files and packets, no frames and no sites.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engine.errors import MediaError
from operators.media.faults import explain
from operators.media.urls import classify, split_span
from operators.media.versions import lenient

SECOND = 1_000_000_000
MP4_SOUND = frozenset({"aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"})
"""What players take in mp4; the muxer would write more."""


class FileSound:
    """The first sound track of `url` (a file, with a `#t=START,END` span where it has one), shifted so that picture time 0 is at `zero_ns`
    after the start of the span. Raises an EngineError where there is no track to read; later faults only end it."""

    def __init__(self, url: str, zero_ns: int = 0) -> None:
        import av

        self.url = url
        path, start, end = split_span(url)
        address = classify(path)
        if address.kind != "file":
            raise MediaError(f"sound is taken from files only, not from {path}")
        try:
            self.input: Any = av.open(address.target, options=dict(address.options), **lenient())
        except (av.error.FFmpegError, OSError) as error:
            raise explain(error, path) from error
        if not self.input.streams.audio:
            self.input.close()
            raise MediaError(f"{path} has no sound")
        self.source = self.input.streams.audio[0]
        self.shift = round(start * SECOND) + zero_ns + (self.input.start_time or 0) * 1000
        self.end = None if end is None else round((end - start) * SECOND) - zero_ns
        self.trouble = ""
        self.last = -1
        self.waiting: tuple[int, Any] | None = None
        self.stream: Any = None
        self.encoder: Any = None
        self.packets = self._packets()
        if start or zero_ns:
            try:
                self.input.seek(self.shift // 1000, backward=True)
            except av.error.FFmpegError:
                pass  # not seekable: packets before the start are read and left out

    def attach(self, output: Any) -> None:
        """Add the track to an output container, before it starts."""
        name = self.source.codec_context.codec.canonical_name
        if name in output.supported_codecs and (output.format.name != "mp4" or name in MP4_SOUND):
            self.stream = output.add_stream_from_template(self.source)
            return
        import av

        codec = "libopus" if output.format.name == "webm" else "aac"
        rate = 48000 if codec == "libopus" else self.source.codec_context.sample_rate
        self.stream = self.encoder = output.add_stream(codec, rate=rate, layout="stereo" if self.source.codec_context.channels > 1 else "mono")
        self.resampler = av.AudioResampler(format=self.encoder.codec_context.format, layout=self.encoder.codec_context.layout, rate=rate)
        self.packets = self._encoded()

    def until(self, ns: int) -> Iterator[Any]:
        """The packets that start at or before picture time `ns` and have not been given yet."""
        import av

        try:
            while self.stream is not None and not self.trouble:
                if self.waiting is None:
                    self.waiting = next(self.packets, None)
                    if self.waiting is None:
                        return
                if self.waiting[0] > ns:
                    return
                packet, self.waiting = self.waiting[1], None
                yield packet
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self.trouble = explain(error, self.url, doing="read the sound of").message

    def close(self) -> None:
        self.input.close()

    # ---- inside

    def _placed(self, stamp: int | None, base: Any) -> int | None:
        """Picture time of a source time stamp; None where it falls outside."""
        if stamp is None or base is None:
            return None
        ns = round(stamp * base * SECOND) - self.shift
        return ns if ns >= 0 and (self.end is None or ns < self.end) else None

    def _packets(self) -> Iterator[tuple[int, Any]]:
        for packet in self.input.demux(self.source):
            ns = self._placed(packet.pts, packet.time_base)
            if ns is None or packet.size == 0:
                continue
            stamp = max(round(ns / SECOND / packet.time_base), self.last + 1)
            self.last = packet.pts = packet.dts = stamp
            packet.stream = self.stream
            yield ns, packet

    def _encoded(self) -> Iterator[tuple[int, Any]]:
        import av

        for packet in self.input.demux(self.source):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                continue
            for frame in frames:
                ns = self._placed(frame.pts, frame.time_base)
                if ns is None:
                    continue
                frame.pts = round(ns / SECOND / frame.time_base)
                for part in self.resampler.resample(frame):
                    for made in self.encoder.encode(part):
                        if made.pts is not None and made.pts >= 0:  # the encoder's run-up would push the picture's times
                            yield round(made.pts * made.time_base * SECOND), made
        for made in self.encoder.encode(None):
            yield round((made.pts or 0) * made.time_base * SECOND), made
