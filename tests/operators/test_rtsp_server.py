"""The RTSP server's parts: packets that put together again are the picture, answers by the book, and no harm from what is no request."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_clips import numbered

from operators.rtsp import message, rtp
from operators.rtsp.auth import REALM, Guard
from operators.rtsp.message import Refused
from operators.rtsp.server import BEHIND, Rules, Server
from operators.sink.encoder import Encoder
from operators.sink.writer import Target


def units(count: int, size: tuple[int, int] = (90, 160), **target: Any) -> list[tuple[bytes, int, bool]]:
    encoder = Encoder(Target("", "rtsp", live=True, speed="fast", encoder="libx264", **target), *size)
    return [tuple(u) for i in range(count) for u in encoder(numbered(i, *size), i * 40_000_000)]  # type: ignore[misc]


UNITS = units(12)

# ---------------------------------------------------------------- packets


def assembled(parts: list[bytes]) -> list[bytes]:
    """NAL units of RTP payloads, after RFC 6184."""
    found: list[bytes] = []
    for part in parts:
        if part[0] & 31 != 28:
            found.append(part)
        elif part[1] & 0x80:
            found.append(bytes([part[0] & 0xE0 | part[1] & 31]) + part[2:])
        else:
            found[-1] += part[2:]
    return found


UNIT = st.binary(min_size=1, max_size=200).map(lambda b: b"\x65" + b.replace(b"\0", b"\1"))


@given(st.integers(3, 40), st.lists(UNIT, min_size=1, max_size=5))
@settings(deadline=None)
def test_what_is_packed_is_what_was_there(room: int, nals: list[bytes]) -> None:
    stream = b"".join(b"\0\0\0\1" + nal for nal in nals)
    parts = rtp.payloads(stream, room)
    assert assembled(parts) == nals
    assert all(len(part) <= room for part in parts)


def test_packets_count_on_and_mark_the_end() -> None:
    made = rtp.packets([b"a", b"b", b"c"], 65534, 1 << 33 | 5, 77)
    heads = [struct.unpack(">BBHII", p[:12]) for p in made]
    assert [h[2] for h in heads] == [65534, 65535, 0]
    assert [h[1] >> 7 for h in heads] == [0, 0, 1]
    assert {h[3:] for h in heads} == {(5, 77)}


def test_every_unit_comes_at_once_and_key_frames_carry_their_parameter_sets() -> None:
    assert len(UNITS) == 12
    assert UNITS[0][2]
    assert all(rtp.parameter_sets(data) for data, _, key in UNITS if key)
    forced = Encoder(Target("", "rtsp", live=True, speed="fast", encoder="libx264", gop_s=60.0), 90, 160)
    made = [forced(numbered(i, 90, 160), i * 40_000_000, key=i == 5)[0] for i in range(8)]
    assert [u.key for u in made] == [True, False, False, False, False, True, False, False]
    assert {u[0] & 31 for u in rtp.nal_units(made[5].data)} >= {5, 7, 8}, "an IDR picture, with which a viewer can start"


# ---------------------------------------------------------------- requests


@given(st.binary(max_size=400))
@settings(deadline=None, max_examples=300)
def test_garbage_is_refused_or_waited_for(data: bytes) -> None:
    async def feed() -> None:
        reader = asyncio.StreamReader(limit=message.MAX_HEAD)
        reader.feed_data(data)
        reader.feed_eof()
        try:
            while await message.read(reader) is not None:
                pass
        except (Refused, asyncio.IncompleteReadError):
            pass

    asyncio.run(feed())


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=80),
    st.dictionaries(st.text("abcdef-", min_size=1), st.text("xyz 1=;/")),
)
@settings(deadline=None)
def test_requests_are_what_they_say_or_refused(line: str, headers: dict[str, str]) -> None:
    head = f"{line}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "CSeq: 1\r\n\r\n"
    try:
        request = message.parse(head.encode())
    except Refused:
        return
    assert line == f"{request.method} {request.url} RTSP/1.{line[-1]}"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400), (b"OPTIONS * RTSP/2.0\r\nCSeq: 1\r\n\r\n", 505), (b"OPTIONS * RTSP/1.0\r\n\r\n", 400),
        (b"OPTIONS * RTSP/1.0\r\nCSeq: x\r\n\r\n", 400), (b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\nContent-Length: 9999\r\n\r\n", 413),
        (b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\nContent-Length: -1\r\n\r\n", 400), (b"A" * 9000 + b"\r\n\r\n", 413),
        (b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n" + b"a: b\r\n" * 100 + b"\r\n", 400),
        ("OPTIONS \ud800 RTSP/1.0\r\n\r\n".encode("utf-8", "surrogatepass"), 400),
    ],
)  # fmt: skip
def test_limits(head: bytes, status: int) -> None:
    async def feed() -> int:
        reader = asyncio.StreamReader(limit=message.MAX_HEAD)
        reader.feed_data(head)
        reader.feed_eof()
        with pytest.raises(Refused) as caught:
            await message.read(reader)
        return caught.value.status

    assert asyncio.run(feed()) == status


def test_transports() -> None:
    assert message.interleaved("RTP/AVP;unicast;client_port=1-2,RTP/AVP/TCP;unicast;interleaved=4-5") == (4, 5)
    assert message.interleaved("RTP/AVP/TCP") == (0, 1)
    for wrong in ("RTP/AVP;unicast;client_port=8000-8001", "", "RTP/AVP/TCP;interleaved=255-256", "RTP/AVP/TCP;interleaved=999"):
        assert message.interleaved(wrong) is None


def digest(user: str, password: str, method: str, uri: str, nonce: str) -> str:
    def md5(text: str) -> str:
        return hashlib.md5(text.encode()).hexdigest()

    answer = md5(f"{md5(f'{user}:{REALM}:{password}')}:{nonce}:{md5(f'{method}:{uri}')}")
    return f'Digest username="{user}", realm="{REALM}", nonce="{nonce}", uri="{uri}", response="{answer}"'


def test_log_ins() -> None:
    guard = Guard("me", "s3cret")
    nonce = guard.nonce()
    assert guard.admits(digest("me", "s3cret", "PLAY", "rtsp://x/", nonce), "PLAY", nonce)
    assert guard.admits("Basic " + base64.b64encode(b"me:s3cret").decode(), "PLAY", nonce)
    wrong = [
        digest("me", "secret", "PLAY", "/", nonce), digest("you", "s3cret", "PLAY", "/", nonce), digest("me", "s3cret", "SETUP", "/", nonce),
        digest("me", "s3cret", "PLAY", "/", guard.nonce()), "Basic " + base64.b64encode(b"me:no").decode(), "Basic ?", "Digest", "", "Bearer x",
    ]  # fmt: skip
    assert not any(guard.admits(header, "PLAY", nonce) for header in wrong)


# ---------------------------------------------------------------- conversations


class Talk:
    """A client by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        self.reader, self.writer, self.base, self.count = reader, writer, f"rtsp://127.0.0.1:{port}/live", 0

    async def ask(self, method: str, url: str = "", **headers: str) -> tuple[int, dict[str, str], str]:
        self.count += 1
        fields = "".join(f"{k}: {v}\r\n" for k, v in headers.items())
        self.writer.write(f"{method} {url or self.base} RTSP/1.0\r\nCSeq: {self.count}\r\n{fields}\r\n".encode())
        return await self.answer()

    async def answer(self) -> tuple[int, dict[str, str], str]:
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)).decode()
        lines = head.split("\r\n")
        found = dict(line.split(": ", 1) for line in lines[1:] if line)
        body = (await self.reader.readexactly(int(found.get("Content-Length", 0)))).decode()
        return int(lines[0].split()[1]), found, body

    async def packet(self) -> tuple[int, bytes]:
        head = await asyncio.wait_for(self.reader.readexactly(4), 10)
        assert head[0] == 0x24
        return head[1], await self.reader.readexactly(int.from_bytes(head[2:], "big"))

    async def play(self) -> None:
        await self.ask("SETUP", f"{self.base}/track0", Transport="RTP/AVP/TCP;interleaved=0-1")
        assert (await self.ask("PLAY"))[0] == 200


def conversation(talk: Callable[..., Awaitable[None]], rules: Rules = Rules()) -> None:
    """Run `talk(server, connect, demands)` against a listening server."""
    demands: list[tuple[int, bool]] = []

    async def run() -> None:
        server = Server(rules, lambda viewers, key: demands.append((viewers, key)))
        port = await server.listen("127.0.0.1", 0)

        made: list[Talk] = []

        async def connect() -> Talk:
            made.append(Talk(*await asyncio.open_connection("127.0.0.1", port), port))
            return made[-1]

        try:
            await talk(server, connect, demands)
        finally:
            await server.close()
            for client in made:
                client.writer.transport.abort()
            await asyncio.sleep(0)

    asyncio.run(run())


def test_a_whole_conversation() -> None:
    async def talk(server: Server, connect: Any, demands: list[tuple[int, bool]]) -> None:
        c = await connect()
        status, headers, _ = await c.ask("OPTIONS", "*")
        assert status == 200
        assert "GET_PARAMETER" in headers["Public"]
        asking = asyncio.create_task(c.ask("DESCRIBE", Accept="application/sdp"))
        while not demands:
            await asyncio.sleep(0)
        assert demands[0] == (1, True), "who asks for the description gets a first picture made"
        server.publish(*UNITS[0])
        status, headers, body = await asking
        assert status == 200
        assert re.search(r"a=fmtp:96 packetization-mode=1;profile-level-id=[0-9A-F]{6};sprop-parameter-sets=\S+,\S+", body)
        assert (await c.ask("SETUP", f"{c.base}/track0", Transport="RTP/AVP;unicast;client_port=5000-5001"))[0] == 461
        assert (await c.ask("PLAY"))[0] == 454
        status, headers, _ = await c.ask("SETUP", f"{c.base}/track0", Transport="RTP/AVP/TCP;unicast;interleaved=2-3")
        session = headers["Session"].split(";")[0]
        assert "interleaved=2-3" in headers["Transport"]
        assert (await c.ask("PLAY", Session="wrong"))[0] == 454
        status, headers, _ = await c.ask("PLAY", Session=session)
        assert status == 200
        assert demands[-1] == (1, True), "and a key frame when it joins"
        server.publish(*UNITS[1])  # no key frame: not for one that has just come
        server.publish(*UNITS[0])
        channel, packet = await c.packet()
        assert channel == 2
        assert packet[12] & 31 == rtp.SPS, "a viewer starts with a key frame and its parameter sets"
        info = re.search(r"seq=(\d+);rtptime=(\d+)", headers["RTP-Info"])
        assert info is not None
        assert int(info[1]) == struct.unpack(">H", packet[2:4])[0]
        c.writer.write(b"$\x03\x00\x04abcd")  # a receiver report
        while not (packet[1] & 0x80):
            _, packet = await c.packet()
        assert (await c.ask("GET_PARAMETER", Session=session))[0] == 200
        assert (await c.ask("RECORD", Session=session))[0] == 405
        assert (await c.ask("FLY", Session=session))[0] == 501
        assert (await c.ask("DESCRIBE", "rtsp://127.0.0.1/other"))[0] == 404
        assert (await c.ask("DESCRIBE", Require="magic"))[0] == 551
        assert (await c.ask("PAUSE", Session=session))[0] == 200
        assert demands[-1][0] == 0
        assert (await c.ask("TEARDOWN", Session=session))[0] == 200
        assert await c.reader.read() == b""

    conversation(talk)


def test_without_a_picture_there_is_no_description() -> None:
    async def talk(server: Server, connect: Any, demands: list[tuple[int, bool]]) -> None:
        assert (await (await connect()).ask("DESCRIBE"))[0] == 503

    conversation(talk, Rules(patience=0.2))


def test_who_must_log_in() -> None:
    async def talk(server: Server, connect: Any, demands: list[tuple[int, bool]]) -> None:
        server.publish(*UNITS[0])
        c = await connect()
        assert (await c.ask("OPTIONS"))[0] == 200
        status, headers, _ = await c.ask("DESCRIBE")
        assert status == 401
        nonce = re.search(r'nonce="(\w+)"', headers["WWW-Authenticate"])
        assert nonce is not None
        assert (await c.ask("DESCRIBE", Authorization=digest("me", "wrong", "DESCRIBE", c.base, nonce[1])))[0] == 401
        assert (await c.ask("DESCRIBE", Authorization=digest("me", "s3cret", "DESCRIBE", c.base, nonce[1])))[0] == 200
        assert (await c.ask("SETUP", Transport="RTP/AVP/TCP"))[0] == 401, "every request, not the first"

    conversation(talk, Rules(guard=Guard("me", "s3cret")))


def test_too_many_viewers() -> None:
    async def talk(server: Server, connect: Any, demands: list[tuple[int, bool]]) -> None:
        first, second = await connect(), await connect()
        await first.play()
        assert (await second.ask("SETUP", Transport="RTP/AVP/TCP"))[0] == 453

    conversation(talk, Rules(max_viewers=1))


def test_a_silent_connection_is_closed() -> None:
    async def talk(server: Server, connect: Any, demands: list[tuple[int, bool]]) -> None:
        silent, half = await connect(), await connect()
        half.writer.write(b"OPTIONS * RTS")
        assert await asyncio.wait_for(silent.reader.read(), 10) == b""
        assert await asyncio.wait_for(half.reader.read(), 10) == b""
        assert not server.viewers

    conversation(talk, Rules(patience=0.2))


def test_a_viewer_that_does_not_read_skips_to_a_key_frame_and_bothers_nobody() -> None:
    rng = np.random.default_rng(0)
    big = b"\0\0\0\1\x41" + rng.integers(1, 255, 300_000, np.uint8).tobytes()
    key = UNITS[0][0] + b"\0\0\0\1\x65" + rng.integers(1, 255, 1000, np.uint8).tobytes()

    async def talk(server: Server, connect: Any, demands: list[tuple[int, bool]]) -> None:
        lazy, keen = await connect(), await connect()
        await lazy.play()
        await keen.play()
        (slow,) = (v for v in server.viewers if v.writer.get_extra_info("peername") == lazy.writer.get_extra_info("sockname"))
        ends = 0

        async def read() -> None:
            nonlocal ends
            while True:
                _, packet = await keen.packet()
                ends += packet[1] >> 7

        reading = asyncio.create_task(read())
        for index in range(60):
            server.publish(key if index % 20 == 0 else big, index * 40_000_000, index % 20 == 0)
            limit = asyncio.get_running_loop().time() + 10
            while ends <= index:
                assert asyncio.get_running_loop().time() < limit
                await asyncio.sleep(0)
            assert slow.writer.transport.get_write_buffer_size() < BEHIND + len(big) * 1.1
        assert slow.skipped > 20
        assert slow.waiting
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)

    conversation(talk)
