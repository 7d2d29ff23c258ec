"""`source.webrtc`: a browser or OBS sends pictures by WHIP.

Invariant: under the live clock what comes next is the newest picture; a publisher that goes away ends nothing, the next one comes behind a cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from engine.errors import MediaError
from engine.operator import HOST_RGB, Operator, Range, Stamped, StreamInfo, operator
from engine.payload import Image
from engine.site import Site
from operators.media.geometry import parse_size
from operators.media.urls import port_of
from operators.source.timeline import SECOND, Timeline
from operators.source.upright import Upright

if TYPE_CHECKING:
    from operators.webrtc.ingest import Ingest

TICK = 0.1  # s between looks at the session's stop


@operator("source.webrtc")
class Webrtc(Operator):
    """Frames that a WebRTC publisher sends, (H, W, 3) uint8 RGB: WHIP, as OBS 30 and browsers speak it.

    Needs the extra `webrtc` (aiortc). `url`: where to listen, http://HOST:PORT/PATH?token=TOKEN; publishers POST their offer there with the
    bearer token. Without a token one is made and told in the event `listening`. Port 0 takes a free one. Beyond this machine a token, or
    `insecure` = true, has to be given. One publisher at a time: a new one takes the place of the one before. `stun`: as in sink.webrtc.
    `size`, `fit`: as in source.video. `patience`: s without a picture after which the run ends with an error; 0: never. No sound.
    A stream's size may change while it runs, because browsers adapt it to the network: give `size`.
    Decoding is aiortc's, in this process; `process = true` on the node puts it into a child.
    Raises MissingError (aiortc), UsageError or MediaError (the port is taken, patience is over).
    """

    def __init__(
        self, *, url: str = "http://127.0.0.1:8890/live", stun: str = "", insecure: bool = False, size: str = "",
        fit: Literal["fit", "fill", "stretch", "letterbox"] = "fit", patience: Annotated[float, Range(0)] = 0.0,
    ) -> None:  # fmt: skip
        self.url, self.stun, self.insecure, self.size, self.fit, self.patience = url, stun, insecure, size, fit, patience
        self.ingest: Ingest | None = None

    @classmethod
    def exclusive(cls, params: Mapping[str, Any]) -> str | None:
        return port_of(params["url"])

    def open(self, site: Site) -> None:
        super().open(site)
        from operators.webrtc.endpoint import parse_where
        from operators.webrtc.ingest import Ingest
        from operators.webrtc.peers import need_aiortc

        need_aiortc()
        where = parse_where(self.url, insecure=self.insecure)
        self.upright = Upright(parse_size(self.size), self.fit)
        self.ingest = Ingest(where, self.stun, keep=1 if site.live else 64)
        host = f"[{where.host}]" if ":" in where.host else where.host
        self.address, self.token = f"http://{host}:{self.ingest.port}{where.path}", where.token
        made = {} if "token=" in self.url else {"token": where.token}
        site.event("listening", url=self.address, **made)
        site.describe(StreamInfo(self.address, fps=None, frames=None))

    def __call__(self) -> Iterator[Annotated[Image, HOST_RGB]]:
        site, ingest = self.site, self.ingest
        assert ingest is not None
        timeline = Timeline(round(SECOND / 30), origin=None)
        publisher, last, idle = 0, 0, 0.0
        while not site.stopping:
            came = ingest.take(TICK)
            if came is None:
                idle += TICK
                if publisher and not ingest.connected:
                    site.event("lost", url=self.address, why="the publisher went")
                    publisher = 0
                if self.patience and idle >= self.patience:
                    raise MediaError(f"nobody sent a picture to {self.address} for {idle:.0f} s", fix="`patience` sets the limit")
                continue
            idle = 0.0
            if came.publisher != publisher:
                publisher = came.publisher
                timeline.restart(came.at - last if last else None)
                site.event("publisher", url=self.address, count=publisher)
            placed = timeline.place(came.when, came.at - last if last else None)
            last = came.at
            if placed is None:
                continue
            picture = self.upright(came.frame, site)
            info = site.stream
            if info is not None and info.size != (picture.height, picture.width):
                site.describe(replace(info, size=(picture.height, picture.width)))
            yield Stamped(picture, pts=placed[0], born=came.at, cut=placed[1])  # type: ignore[misc]

    def tally(self) -> dict[str, int]:
        return {"publishers": self.ingest.publishers, "skipped": self.ingest.skipped} if self.ingest is not None else {}

    def close(self) -> None:
        if self.ingest is not None:
            self.ingest.close()
