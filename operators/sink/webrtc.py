"""`sink.webrtc`: browsers watch by WHEP.

Invariant: without viewers nothing is taken from the graph; whatever viewers do stays in the child process that serves them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from engine.operator import Range, operator
from engine.site import Site
from operators.sink.served import Served, joined


@operator("sink.webrtc")
class Webrtc(Served):
    """Serve pictures (H, W, 3) to WebRTC players by WHEP: POST an SDP offer to http://127.0.0.1:8889/live with the bearer token.

    Needs the extra `webrtc` (aiortc). `url`: where to listen, http://HOST:PORT/PATH?token=TOKEN; without a token one is made and told in the
    event `listening`. Port 0 takes a free one. Beyond this machine a token, or `insecure` = true, has to be given; HTTP is not encrypted, the
    pictures are (DTLS-SRTP). `stun`: a server to ask for the address seen from outside, such as "stun:stun.example.org"; none by default.
    `encoder`, `quality`, `bitrate`, `key_every`, `max_viewers`, `always_on`, `slate`, `slate_after`, `fps`: as in sink.rtsp. One H.264 encode
    serves all; a viewer that lost packets recovers with the next key frame. No sound.
    Raises MissingError (aiortc), UsageError, MediaError (the port is taken) or DeviceError.
    """

    def __init__(
        self, *, url: str = "http://127.0.0.1:8889/live", stun: str = "", encoder: str = "auto", quality: Annotated[int, Range(0, 100)] = 65,
        bitrate: Annotated[int, Range(0, 1_000_000)] = 0, key_every: Annotated[float, Range(0.1, 60)] = 1.0, insecure: bool = False,
        max_viewers: Annotated[int, Range(1, 64)] = 8, always_on: bool = False, slate: str = "last",
        slate_after: Annotated[float, Range(0)] = 2.0, fps: Annotated[float, Range(0, 1000)] = 0.0,
    ) -> None:  # fmt: skip
        self.url, self.stun, self.encoder, self.quality, self.bitrate, self.key_every = url, stun, encoder, quality, bitrate, key_every
        self.insecure, self.max_viewers, self.fps = insecure, max_viewers, fps
        self.always_on, self.slate, self.slate_after = always_on, slate, slate_after

    def open(self, site: Site) -> None:
        super().open(site)
        from operators.sink.webrtc_child import Whep, WhepOutput
        from operators.webrtc.endpoint import parse_where
        from operators.webrtc.peers import need_aiortc

        need_aiortc()
        where = parse_where(self.url, insecure=self.insecure)
        whep = Whep(where, self.stun, self.max_viewers)
        port = self.serve(site, WhepOutput, whep)
        assert self.outlet is not None
        self.outlet.settings = replace(whep, where=replace(where, port=port))  # a child that is started again listens where viewers know it
        self.address, self.token = f"http://{joined(where.host, port)}{where.path}", where.token
        made = {} if "token=" in self.url else {"token": where.token}
        site.event("listening", url=self.address, **made)
        site.output(self.address)
