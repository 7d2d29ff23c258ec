"""A WebRTC peer for tests, run as a process of its own.

    python webrtc_peer.py watch URL TOKEN     WHEP: prints the number and the time in ms of every picture
    python webrtc_peer.py send URL TOKEN      WHIP: sends numbered pictures, 320 x 180 at 25 fps; prints "connected"

Prints "refused STATUS" where the offer is not taken.
"""

from __future__ import annotations

import asyncio
import sys
import urllib.error
import urllib.request
from fractions import Fraction

import av
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from media_clips import number_of, numbered


def post(url: str, token: str, offer: str) -> str:
    headers = {"Content-Type": "application/sdp", "Authorization": f"Bearer {token}"}
    with urllib.request.urlopen(urllib.request.Request(url, offer.encode(), headers, method="POST"), timeout=30) as answer:
        assert answer.status == 201
        assert answer.headers["Location"].startswith("/live/")
        return answer.read().decode()


class Numbers(MediaStreamTrack):
    kind = "video"
    count = 0

    async def recv(self) -> av.VideoFrame:
        await asyncio.sleep(0.04)
        frame = av.VideoFrame.from_ndarray(numbered(self.count, 180, 320), "rgb24")
        frame.pts, frame.time_base = self.count * 3600, Fraction(1, 90_000)
        self.count += 1
        return frame


async def main(what: str, url: str, token: str) -> None:
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    tracks: list[MediaStreamTrack] = []
    pc.on("track", tracks.append)
    pc.on("connectionstatechange", lambda: print(pc.connectionState, flush=True) if what == "send" else None)
    if what == "send":
        pc.addTrack(Numbers())
    else:
        pc.addTransceiver("video", direction="recvonly")
    await pc.setLocalDescription(await pc.createOffer())
    try:
        answer = await asyncio.to_thread(post, url, token, pc.localDescription.sdp)
    except urllib.error.HTTPError as error:
        print("refused", error.code, flush=True)
        await pc.close()
        return
    await pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    try:
        while what == "watch":
            frame = await tracks[0].recv()
            print(number_of(frame.to_ndarray(format="rgb24")), round(frame.pts * frame.time_base * 1000), flush=True)
        await asyncio.Event().wait()
    except MediaStreamError:
        print("end", flush=True)
    await pc.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
