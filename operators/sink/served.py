"""What sinks have in common that viewers come to: a child process that listens, and pictures for it only while somebody watches.

Invariant: without viewers nothing is taken from the graph; whatever viewers do stays in the child. It knows no protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from engine.clock import RealClock
from engine.operator import HOST_RGB, Operator
from engine.payload import Image
from engine.site import Site
from operators.media.urls import port_of
from operators.sink.canvas import Canvas
from operators.sink.outlet import Outlet, Patience
from operators.sink.pacing import AlwaysOn, check_slate
from operators.sink.writer import Target, choose_encoder

if TYPE_CHECKING:
    from operators.sink.child import Output, Tell

STILL = 1_000_000_000  # ns: how often a stream that nobody watches keeps its last picture, where one is to be shown to whoever comes


class Served(Operator):
    """Base: a constructor sets the parameters below, `open` calls `serve`."""

    url: str
    encoder: str
    quality: int
    bitrate: int
    key_every: float
    always_on: bool
    slate: str
    slate_after: float
    fps: float
    outlet: Outlet | None = None
    canvas: Canvas | None = None
    kept = -STILL

    @classmethod
    def exclusive(cls, params: Mapping[str, Any]) -> str | None:
        return port_of(params["url"])

    def serve(self, site: Site, make: Callable[[Any, Tell], Output], settings: Any) -> int:
        """Start the child; the port it listens on."""
        if self.always_on:
            check_slate(self.slate)
        site.event("encoder", chosen=choose_encoder("h264", self.encoder))
        lossy = site.live and isinstance(site.clock, RealClock)
        self.outlet = Outlet(site, make, settings, name=self.url, lossy=lossy, patience=Patience(10.0, 20))
        return int(self.outlet.ready()["port"])

    def wanted(self) -> bool:
        """Whether somebody watches, or the picture is to be kept for whoever comes."""
        if self.outlet is None or self.outlet.error is not None:
            return True  # the call raises
        if self.outlet.facts.get("viewers"):
            return True
        return self.always_on and self.site.live and self.site.clock.now() - self.kept >= STILL

    def __call__(self, image: Annotated[Image, HOST_RGB]) -> None:
        site, outlet = self.site, self.outlet
        assert outlet is not None
        if self.canvas is None:
            self.canvas = Canvas(site, (image.height, image.width))
            fps = self.fps or site.origin.fps or 25.0
            target = Target(
                "", "", "h264", self.encoder, self.quality, live=True, speed="fast", fps=fps, bitrate=self.bitrate, gop_s=self.key_every
            )
            outlet.begin(target, AlwaysOn(fps, self.slate, self.slate_after) if self.always_on and site.live else None)
        self.kept = site.clock.now()
        picture: Any = image.data
        outlet.offer(self.canvas(picture), site.pts)

    def tally(self) -> dict[str, int]:
        if self.outlet is None:
            return {}
        return {**self.outlet.counts, "viewers": self.outlet.facts.get("served", 0)}

    def close(self) -> None:
        if self.outlet is not None:
            self.outlet.close()


def joined(host: str, port: int) -> str:
    """`host:port`, brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
