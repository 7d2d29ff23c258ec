"""`sink.rtsp`: a small RTSP server of the graph's own.

Invariant: without viewers nothing is taken from the graph; whatever viewers do stays in the child process that serves them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated
from urllib.parse import unquote, urlsplit

from engine.errors import UsageError
from engine.operator import Range, operator
from engine.site import Site
from operators.media.listen import check_listen
from operators.sink.served import Served, joined

if TYPE_CHECKING:
    from operators.sink.rtsp_child import Serving


@operator("sink.rtsp")
class Rtsp(Served):
    """Serve pictures (H, W, 3) as an H.264 stream that players open: rtsp://127.0.0.1:8554/live.

    `url`: where to listen, rtsp://HOST:PORT/PATH; port 0 takes a free one, told in the event `listening`. With a user and a password before
    HOST, as usual in addresses, viewers have to log in (Digest). Beyond this machine (0.0.0.0) one of the two is needed: a password, or
    `insecure` = true.
    RTSP is not encrypted. `encoder`, `quality`, `bitrate` (kbit/s): as in sink.video; a key frame comes every `key_every` seconds, and with
    every viewer that joins. `max_viewers`; `timeout`: s after which a viewer that says or reads nothing is left.
    `always_on`, `slate`, `slate_after`, `fps`: as in sink.video.

    Viewers get RTP over the RTSP connection (TCP); one that cannot keep up skips to the next key frame. When nobody watches frames are dropped
    as `unwatched`: nothing is converted, downloaded or encoded. Everything runs in a child process, which is started again when it fails.
    Raises UsageError, MediaError (the port is taken) or DeviceError (the named encoder does not work).
    """

    def __init__(
        self, *, url: str = "rtsp://127.0.0.1:8554/live", encoder: str = "auto", quality: Annotated[int, Range(0, 100)] = 65,
        bitrate: Annotated[int, Range(0, 1_000_000)] = 0, key_every: Annotated[float, Range(0.1, 60)] = 1.0, insecure: bool = False,
        max_viewers: Annotated[int, Range(1, 256)] = 16, timeout: Annotated[float, Range(1, 600)] = 60.0,
        always_on: bool = False, slate: str = "last", slate_after: Annotated[float, Range(0)] = 2.0,
        fps: Annotated[float, Range(0, 1000)] = 0.0,
    ) -> None:  # fmt: skip
        self.url, self.encoder, self.quality, self.bitrate, self.key_every = url, encoder, quality, bitrate, key_every
        self.insecure, self.max_viewers, self.timeout, self.fps = insecure, max_viewers, timeout, fps
        self.always_on, self.slate, self.slate_after = always_on, slate, slate_after

    def open(self, site: Site) -> None:
        super().open(site)
        from operators.sink.rtsp_child import RtspOutput

        serving = self._serving()
        port = self.serve(site, RtspOutput, serving)
        assert self.outlet is not None
        self.outlet.settings = replace(serving, port=port)  # a child that is started again listens where viewers know it
        self.address = f"rtsp://{joined(serving.host, port)}{serving.path}"
        site.event("listening", url=self.address)
        site.output(self.address)

    def _serving(self) -> Serving:
        from operators.sink.rtsp_child import Serving

        try:
            parts = urlsplit(self.url)
            port = parts.port
        except ValueError as error:
            raise UsageError(f"the address {self.url} is not well formed: {error}") from error
        path = parts.path.rstrip("/")
        if parts.scheme != "rtsp" or not parts.hostname or port is None or not path:
            raise UsageError(f"{self.url} is no address to serve at", fix='such as "rtsp://127.0.0.1:8554/live"')
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        if bool(user) != bool(password):
            raise UsageError(f"{self.url} has a user or a password, not both", fix="rtsp://USER:PASSWORD@HOST:PORT/PATH")
        how = "set rtsp://${ENV:USER}:${ENV:PASSWORD}@…"
        check_listen(parts.hostname, guarded=bool(password), insecure=self.insecure, how=how)
        return Serving(parts.hostname, port, unquote(path), user, password, self.max_viewers, self.timeout)
