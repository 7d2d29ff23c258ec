"""A small RTSP server for tests, run as a process of its own so that it can be killed and frozen.

    python rtsp_server.py PORT

Serves numbered pictures (160 x 90, H.264, a key frame every five) in real time at 25 fps, interleaved over TCP (RFC 2326, 10.12), to any
number of clients. Prints "ready" when it listens.
"""

from __future__ import annotations

import asyncio
import base64
import io
import sys
import threading
import time
from fractions import Fraction

import av
from media_clips import numbered

FPS = 25


class Packets(io.RawIOBase):
    """What the RTP muxer writes to: each write is one packet."""

    def __init__(self, send) -> None:
        self.send = send

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        packet = bytes(data)
        if not 200 <= packet[1] <= 206:  # RTCP stays here
            self.send(packet)
        return len(packet)


def parameter_sets(packet: bytes) -> str:
    """The SPS and PPS of an Annex B packet, for the session description."""
    parts = [p.rstrip(b"\0") for p in packet.split(b"\0\0\1")]
    return ",".join(base64.b64encode(p).decode() for p in parts if p and p[0] & 31 in (7, 8))


class Server:
    def __init__(self) -> None:
        self.clients: set[asyncio.StreamWriter] = set()
        self.sets = ""
        self.known = threading.Event()

    def encode(self, loop: asyncio.AbstractEventLoop) -> None:
        codec = av.CodecContext.create("libx264", "w")
        codec.width, codec.height, codec.pix_fmt, codec.time_base, codec.framerate = 160, 90, "yuv420p", Fraction(1, FPS), Fraction(FPS)
        codec.gop_size, codec.max_b_frames = 5, 0
        codec.options = {"preset": "ultrafast", "tune": "zerolatency"}
        out = av.open(
            Packets(lambda p: loop.call_soon_threadsafe(self.send, p)), "w", format="rtp", options={"packetsize": "1400", "payload_type": "96"}
        )
        stream = out.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 160, 90, "yuv420p"
        start = time.monotonic()
        for index in range(1 << 16):
            time.sleep(max(0.0, start + index / FPS - time.monotonic()))
            frame = av.VideoFrame.from_ndarray(numbered(index, 90, 160), "rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            for packet in codec.encode(frame):
                if not self.sets:
                    self.sets = parameter_sets(bytes(packet))
                    self.known.set()
                packet.stream = stream
                out.mux(packet)

    def send(self, packet: bytes) -> None:
        for writer in list(self.clients):
            if writer.is_closing():
                self.clients.discard(writer)
            elif writer.transport.get_write_buffer_size() < 1_000_000:
                writer.write(b"$\0" + len(packet).to_bytes(2, "big") + packet)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                if line[:1] == b"$":  # receiver reports of the client
                    continue
                method, url = line.decode("latin1").split()[:2]
                heads = {}
                while (head := (await reader.readline()).decode("latin1").strip()):
                    key, _, value = head.partition(":")
                    heads[key.lower()] = value.strip()
                body, more = "", ""
                if method == "DESCRIBE":
                    await asyncio.to_thread(self.known.wait)
                    body = (
                        "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
                        f"a=fmtp:96 packetization-mode=1;sprop-parameter-sets={self.sets}\r\na=control:track0\r\n"
                    )
                    more = f"Content-Base: {url}/\r\nContent-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
                elif method == "SETUP":
                    more = f"Transport: {heads['transport']}\r\n"
                elif method == "OPTIONS":
                    more = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
                writer.write(f"RTSP/1.0 200 OK\r\nCSeq: {heads.get('cseq', 0)}\r\nSession: 1\r\n{more}\r\n{body}".encode())
                if method == "PLAY":
                    self.clients.add(writer)
                if method == "TEARDOWN":
                    break
        except (ConnectionError, UnicodeError, ValueError):
            pass
        finally:
            self.clients.discard(writer)
            writer.close()

    async def run(self, port: int) -> None:
        server = await asyncio.start_server(self.talk, "127.0.0.1", port)
        threading.Thread(target=self.encode, args=(asyncio.get_running_loop(),), daemon=True).start()
        print("ready", flush=True)
        async with server:
            await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(Server().run(int(sys.argv[1])))
