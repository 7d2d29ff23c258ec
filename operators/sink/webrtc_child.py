"""WHEP with its encoder, as the child of `sink.webrtc` serves it: one H.264 encode for all viewers.

Invariant: nothing is encoded while nobody watches; a viewer that cannot keep up skips to a key frame.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from operators.sink.child import Tell
from operators.sink.encoder import Unit
from operators.sink.on_demand import OnDemand
from operators.webrtc.endpoint import Denied, Endpoint, Where
from operators.webrtc.peers import Peers, need_aiortc

WAITING = 8  # access units that may wait for one viewer


@dataclass(frozen=True, slots=True)
class Whep:
    """Where to listen and for whom, plain data."""

    where: Where
    stun: str = ""
    max_viewers: int = 8


class WhepOutput(OnDemand):
    """The endpoint, its peers and their pictures."""

    def __init__(self, settings: Whep, tell: Tell) -> None:
        need_aiortc()
        super().__init__(tell)
        self.served = 0
        self.tracks: set[Any] = set()
        self.peers = Peers(settings.stun, settings.max_viewers, self._changed)
        self.endpoint = Endpoint(settings.where, self._post, self.peers.leave)
        self.serve("webrtc", self.endpoint.listen(), settings.where.host, settings.where.port)

    async def _post(self, offer: str) -> tuple[str, str]:
        track = make_track()
        made: list[Any] = []

        def prepare(pc: Any) -> None:
            from aiortc.rtcrtpsender import RTCRtpSender

            made.append(pc.addTransceiver(track, direction="sendonly"))
            made[0].setCodecPreferences([c for c in RTCRtpSender.getCapabilities("video").codecs if c.mimeType == "video/H264"])

        def ready(pc: Any) -> None:
            if made[0].mid is None:
                raise Denied(422, "the offer asks for no video")

        answer, name = await self.peers.answer(offer, prepare, ready)
        pc = self.peers.by_name.get(name)
        if pc is not None:
            self.tracks.add(track)
            track.pc = pc
            self.served += 1
            self._key.set()
            self._changed()
        return answer, name

    def _changed(self) -> None:
        alive = set(self.peers.by_name.values())
        self.tracks = {track for track in self.tracks if getattr(track, "pc", None) in alive}
        connected = sum(pc.connectionState == "connected" for pc in alive)
        if connected:
            self._key.set()
        if (len(alive), self.served) != (self.wanted, self.facts["served"]):
            self.wanted, self.facts["served"] = len(alive), self.served
            self.tell("beat", {"viewers": self.wanted, "served": self.served})

    def publish(self, unit: Unit) -> None:
        for track in self.tracks:
            track.give(unit)

    def close(self) -> None:
        async def end() -> None:
            self.endpoint.close()
            await self.peers.close()

        self.end(end())


def make_track() -> Any:
    """A video track of finished access units, for one viewer. Make it on the loop."""
    import av
    from aiortc.mediastreams import MediaStreamTrack

    class Units(MediaStreamTrack):
        kind = "video"

        def __init__(self) -> None:
            super().__init__()
            self.waiting: asyncio.Queue[Unit] = asyncio.Queue()
            self.needs_key = True
            self.pc: Any = None

        def give(self, unit: Unit) -> None:
            if self.pc is None or self.pc.connectionState != "connected":
                return
            if self.waiting.qsize() >= WAITING:
                self.needs_key = True
                while not self.waiting.empty():
                    self.waiting.get_nowait()
            if unit.key:
                self.needs_key = False
            if not self.needs_key:
                self.waiting.put_nowait(unit)

        async def recv(self) -> Any:
            unit = await self.waiting.get()
            packet = av.Packet(unit.data)
            packet.pts, packet.time_base = round(unit.ns * 9 / 100_000), Fraction(1, 90_000)
            return packet

    return Units()
