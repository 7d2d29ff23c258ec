"""Video sent to a receiver: RTSP, RTMP, UDP and TCP addresses, and HLS into a folder. Address to muxer, and the writer as a child serves it.

Invariant: whatever FFmpeg does with a receiver (a connect that holds the interpreter lock, a write that never returns) happens in the child.
It knows no sites; what the graph sees of it is operators.sink.outlet.
"""

from __future__ import annotations

import difflib
import errno
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from engine.errors import EngineError, MediaError, UsageError, scrub
from operators.sink.sound import FileSound
from operators.sink.writer import Target, Writer

if TYPE_CHECKING:
    import numpy as np

    from operators.sink.child import Tell

    Array = np.ndarray[Any, Any]

MUXERS = {"rtsp": "rtsp", "rtsps": "rtsp", "rtmp": "flv", "rtmps": "flv", "udp": "mpegts", "tcp": "nut"}
"""Schemes that pictures can be sent to, each with its muxer."""
FORMATS = {"tcp": ("nut", "mpegts", "matroska"), "udp": ("mpegts",)}
CODECS = {"flv": ("h264", "hevc", "av1"), "rtsp": ("h264", "hevc", "vp9"), "mpegts": ("h264", "hevc"), "hls": ("h264", "hevc")}
ELSEWHERE = {
    "srt": "this build of FFmpeg has no SRT: send to rtmp:// or rtsp:// of a relay such as MediaMTX, which speaks SRT",
    "http": "for HLS write url = \"FOLDER/live.m3u8\" and serve that folder; for browsers there is sink.webrtc",
    "https": "for HLS write url = \"FOLDER/live.m3u8\" and serve that folder; for browsers there is sink.webrtc",
    "whip": "for WebRTC there is sink.webrtc",
    "rtp": "use udp:// (MPEG-TS), or rtsp://, which describes what it sends",
}  # fmt: skip


def scheme_of(url: str) -> str:
    """The scheme of an address, "hls" for a playlist, "" for a file."""
    head, mark, _ = url.partition("://")
    if mark and head.isascii() and head.replace("+", "").isalnum() and len(head) > 1:
        return head.lower()
    return "hls" if url.lower().endswith(".m3u8") else ""


def shown(url: str) -> str:
    """`url` as people and logs get to see it: without credentials, and without the key that RTMP services have at the end of the path."""
    if scheme_of(url) in ("rtmp", "rtmps"):
        head, mark, rest = url.partition("://")
        host, *path = rest.split("?")[0].split("/")
        if len(path) > 1:
            url = "/".join([f"{head}{mark}{host}", *path[:-1], "***"])
    return scrub(url)


def check_address(url: str, format: str, codec: str) -> str:
    """The muxer for `url`. Raises UsageError for what cannot be sent to, or not in this format or codec."""
    scheme = scheme_of(url)
    if scheme == "hls":
        muxer = "hls"
    elif scheme in MUXERS:
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise UsageError(f"the address {shown(url)} is not well formed: {error}") from error
        if not host:
            raise UsageError(f"the address {shown(url)} names no host", fix=f"such as {scheme}://127.0.0.1:PORT/live")
        if scheme in ("udp", "tcp") and parts.port is None:
            raise UsageError(f"the address {url} names no port", fix=f"such as {scheme}://{host}:5000")
        muxer = MUXERS[scheme]
    else:
        near = difflib.get_close_matches(scheme, MUXERS, n=1)
        known = "there is " + ", ".join(f"{s}://" for s in MUXERS) + ", FOLDER/live.m3u8 and files"
        hint = f'did you mean "{near[0]}://"?' if near and len(scheme) > 3 else known
        raise UsageError(f"sink.video does not send to {scheme}:// addresses: {url}", fix=ELSEWHERE.get(scheme, hint))
    if format != "auto" and format not in FORMATS.get(scheme, (muxer,)):
        known = ", ".join(FORMATS.get(scheme, (muxer,)))
        raise UsageError(f'format = "{format}" is not sent over {scheme}', fix=f"there is {known}")
    muxer = muxer if format == "auto" else format
    if codec != "auto" and codec not in CODECS.get(muxer, (codec,)):
        raise UsageError(f'codec = "{codec}" is not sent as {muxer}', fix="there is " + ", ".join(CODECS[muxer]))
    return muxer


def muxer_options(url: str, muxer: str, timeout: float, live: bool, segment: float) -> tuple[str, dict[str, str]]:
    """The address as FFmpeg gets it, and the muxer's options for little delay and bounded waits."""
    scheme, limit = scheme_of(url), str(round(timeout * 1e6))
    if muxer == "hls":
        stem = Path(url).stem
        table = {
            "hls_segment_type": "fmp4", "hls_time": f"{segment:g}", "hls_list_size": "6" if live else "0", "hls_allow_cache": "0",
            "hls_flags": "independent_segments+temp_file" + ("+delete_segments" if live else ""), "hls_fmp4_init_filename": f"{stem}_init.mp4",
            "hls_segment_filename": str(Path(url).with_name(f"{stem}_%06d.m4s")),
        }  # fmt: skip
        return f"file:{Path(url)}", table if live else table | {"hls_playlist_type": "event"}
    if muxer == "rtsp":
        return url, {"rtsp_transport": "tcp", "max_delay": "0", "timeout": limit}
    if muxer == "flv":
        return url, {"flvflags": "no_duration_filesize"}
    # PyAV 18 opens these without options: what the protocol is to know stands in the address.
    joint = "&" if "?" in url else "?"
    extra = "pkt_size=1316" if scheme == "udp" else f"timeout={limit}"
    return f"{url}{joint}{extra}", {"max_delay": "0"} if muxer == "mpegts" else {}


@dataclass(frozen=True, slots=True)
class Sending:
    """What a push needs to know, plain data. `sound`: a file whose sound goes along, from `sound_ns` of it at picture time 0 on."""

    url: str
    muxer: str
    target: Target
    timeout: float
    segment: float
    sound: str = ""
    sound_ns: int = 0
    must_sound: bool = False


class Push:
    """Encodes and sends, in the child. The first picture's time is zero of what is sent, also after a new start."""

    def __init__(self, settings: None, tell: Tell) -> None:
        import av  # noqa: F401  imported now, not when the first picture waits
        import cv2  # noqa: F401

        self.settings: Sending
        self.path = ""
        self.tell = tell
        self.facts: dict[str, Any] = {}
        self.writer: Writer | None = None

    def open(self, about: Sending, height: int, width: int, ns: int) -> None:
        self.settings = settings = about
        self.path, options = muxer_options(settings.url, settings.muxer, settings.timeout, settings.target.live, settings.segment)
        options |= settings.target.options
        target = replace(settings.target, path=self.path, container=settings.muxer, network=True, options=options)
        try:
            self.writer = Writer(target, height, width, self._sound(ns))
        except EngineError as error:
            raise self._judged(error) from error
        self._say()

    def _sound(self, ns: int) -> FileSound | None:
        settings = self.settings
        if not settings.sound:
            return None
        try:
            return FileSound(settings.sound, ns - settings.sound_ns)
        except EngineError as error:
            if settings.must_sound:
                raise
            self.tell("said", "sound", {"left_out": error.message})
            return None

    def write(self, rgb: Array, ns: int) -> None:
        assert self.writer is not None
        try:
            self.writer.write(rgb, ns)
        except EngineError as error:
            raise self._judged(error) from error
        self._say()

    def _say(self) -> None:
        if self.writer is not None and self.writer.trouble:
            self.tell("said", "sound", {"left_out": self.writer.trouble})
            self.writer.trouble = ""

    def close(self) -> None:
        if self.writer is None:
            return
        writer, self.writer = self.writer, None
        try:
            writer.close()
        except EngineError as error:
            if self.settings.muxer == "hls" or not self.settings.target.live:
                raise self._judged(error) from error
            # Every picture was sent; a receiver that is gone by now misses nothing.
            self.tell("said", "lost", {"why": self._judged(error).message, "at": "the end"})

    def _judged(self, error: EngineError) -> EngineError:
        """`error` under the address as people may see it, with whether trying again can help."""
        judged = _judged(error, self.settings.url)
        judged.message = judged.message.replace(scrub(self.path), shown(self.settings.url))
        return judged


def _judged(error: EngineError, url: str) -> EngineError:
    """`error` with `fatal` set where trying again cannot help."""
    import av

    cause = error.__cause__
    number = getattr(cause, "errno", None)
    missing = (av.error.ProtocolNotFoundError, av.error.MuxerNotFoundError, av.error.EncoderNotFoundError)
    refused = (*missing, av.error.HTTPUnauthorizedError, PermissionError)
    hopeless = isinstance(cause, refused) or isinstance(error, UsageError) or (scheme_of(url) == "hls" and number in HOPELESS)
    error.fatal = hopeless  # type: ignore[attr-defined]
    if isinstance(cause, av.error.HTTPUnauthorizedError):
        judged = MediaError(f"{shown(url)} wants a user name and a password", fix="put them into the URL through ${ENV:NAME}")
        judged.fatal = True  # type: ignore[attr-defined]
        return judged
    return error


HOPELESS = (errno.EROFS, errno.EACCES, errno.ENOENT, errno.ENOTDIR)
"""What does not get better by itself where a folder is written. A full disk may."""
