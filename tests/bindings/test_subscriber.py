"""The Python client against a publisher driven by hand: what is newest, what was lost, what is refused, what ends."""

from __future__ import annotations

import asyncio
import threading
import time
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from zmq_peers import Publisher, flat, nothing_left, ours, until

from bindings.python import AsyncSubscriber, KeyProblem, MissingDecoder, Subscriber, WireError, decode, notebook, plain, wire
from bindings.python.control import Control
from bindings.python.shm import Overwritten, Ring


@pytest.fixture
def publisher() -> Any:
    with Publisher() as publisher:
        yield publisher


def subscribed(publisher: Publisher, **options: Any) -> Subscriber:
    frames = Subscriber(publisher.url, publisher.stream, **options)
    publisher.joined()
    return frames


# ---------------------------------------------------------------- order and freshness


def test_the_newest_frame(publisher: Publisher) -> None:
    with subscribed(publisher) as frames:
        for number in range(50):
            publisher.frame(flat(number))
        until(lambda: frames.counts.received == 50)
        frame = frames.read(5)
        assert frame is not None
        assert (frame.n, int(frame.array.max()), frame.gap) == (49, 49, 0)
        assert frames.counts.passed_over == 49
        with pytest.raises(TimeoutError, match="alive and sends none"):
            frames.read(0.02)
        publisher.beat("loading")
        until(lambda: frames.beat is not None)
        with pytest.raises(TimeoutError, match="its graph is loading"):
            frames.read(0.02)
        assert frames.latest() is frame  # still the newest
        publisher.frame(flat(50))
        until(lambda: frames.latest().n == 50)  # type: ignore[union-attr]


def test_every_frame_in_order(publisher: Publisher) -> None:
    with subscribed(publisher, latest=False, queue=100) as frames:
        for number in range(50):
            publisher.frame(flat(number))
        assert [frames.read(5).n for _ in range(50)] == list(range(50))  # type: ignore[union-attr]


def test_a_queue_that_is_full_loses_the_oldest_and_says_so(publisher: Publisher) -> None:
    with subscribed(publisher, latest=False, queue=5) as frames:
        for number in range(12):
            publisher.frame(flat(number))
        until(lambda: frames.counts.received == 12)
        assert [frames.read(5).n for _ in range(5)] == [7, 8, 9, 10, 11]  # type: ignore[union-attr]
        assert frames.counts.overflowed == 7


def test_a_queue_that_waits_takes_no_more_from_the_connection(publisher: Publisher) -> None:
    with subscribed(publisher, latest=False, queue=3, wait=True) as frames:
        for number in range(20):
            publisher.frame(flat(number))
        until(lambda: frames.counts.received == 4)  # three wait, and one in hand
        assert [frames.read(5).n for _ in range(20)] == list(range(20))  # type: ignore[union-attr]
        assert (frames.counts.overflowed, frames.counts.lost) == (0, 0)


def test_a_slow_reader_sees_the_present(publisher: Publisher) -> None:
    """A reader four times slower than the publisher: what it gets is what had come when it asked, every time."""
    stop, sent = threading.Event(), [0]

    def publish() -> None:
        while not stop.wait(0.01):
            publisher.frame(flat(publisher.n))
            sent[0] = publisher.n

    thread = threading.Thread(target=publish)
    with subscribed(publisher) as frames:
        thread.start()
        behind = []
        for _ in range(25):
            before = sent[0]
            frame = frames.read(5)
            assert frame is not None
            behind.append(before - 1 - frame.n)
            stop.wait(0.04)
        stop.set()
        thread.join()
        assert frames.counts.passed_over > 25
        # Between asking and getting nothing can be lost but the time of the way: a frame or two, and it never grows.
        assert sorted(behind)[12] <= 1, behind
        assert sum(behind[-8:]) <= sum(behind[:8]) + 8, behind


# ---------------------------------------------------------------- gaps, epochs, runs


def test_losses_and_drops_are_told_apart(publisher: Publisher) -> None:
    with subscribed(publisher, latest=False) as frames:
        publisher.frame(flat(0), seq=10)
        publisher.frame(flat(1), seq=14)  # the graph dropped 11 to 13
        publisher.frame(flat(2), n=5, seq=20)  # three were lost on the way, two dropped
        publisher.frame(flat(3), n=6, seq=3, epoch=1)  # a new epoch: ordinals say nothing across it
        found = [frames.read(5) for _ in range(4)]
        assert [frame.gap for frame in found] == [0, 0, 3, 0]  # type: ignore[union-attr]
        assert (frames.counts.lost, frames.counts.dropped) == (3, 3 + 2)


def test_a_publisher_that_was_started_again(publisher: Publisher) -> None:
    with subscribed(publisher, latest=False) as frames:
        publisher.frame(flat(0), n=1000)
        publisher.run = "f" * 16
        publisher.beat()
        publisher.frame(flat(1), n=0)
        first, second = frames.read(5), frames.read(5)
        assert first is not None
        assert second is not None
        assert (first.restarted, first.discontinuity) == (False, False)
        assert (second.restarted, second.discontinuity, second.gap) == (True, True, 0)
        assert (frames.counts.runs, frames.counts.lost) == (2, 0)


def test_reconnecting_to_a_publisher_that_was_started_again() -> None:
    first = Publisher()
    with Subscriber(first.url, latest=False) as frames:
        first.joined()
        first.frame(flat(1))
        assert frames.read(5).n == 0  # type: ignore[union-attr]
        first.close()
        until(lambda: not frames.connected)
        with Publisher(url=first.url, run="a" * 16) as second:
            second.joined()
            second.frame(flat(2))
            frame = frames.read(20)
            assert frame is not None
            assert frame.restarted
            assert (frame.array == 2).all()
            assert frames.connected


# ---------------------------------------------------------------- life and end


def test_heartbeats_tell_silence_from_death(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    with subscribed(publisher) as frames:
        assert not frames.alive
        publisher.beat()
        until(lambda: frames.alive)
        assert frames.beat is not None
        assert frames.beat.state == "online"
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + 3.5)
        assert not frames.alive


def test_the_end_of_a_run(publisher: Publisher) -> None:
    with subscribed(publisher, latest=False) as frames:
        publisher.frame(flat(0))
        publisher.frame(flat(1))
        publisher.end("stopped")
        assert [frame.n for frame in frames] == [0, 1]
        assert frames.ended
        assert frames.end is not None
        assert frames.end.reason == "stopped"
        assert not frames.alive


def test_following_beyond_the_end(publisher: Publisher) -> None:
    with subscribed(publisher, latest=False, follow=True) as frames:
        publisher.frame(flat(0))
        publisher.end()
        publisher.run, publisher.n = "e" * 16, 0
        publisher.frame(flat(1))
        found = iter(frames)
        assert [next(found).restarted, next(found).restarted] == [False, True]


def test_nobody_there() -> None:
    with Subscriber("tcp://127.0.0.1:9") as frames, pytest.raises(TimeoutError, match="nobody answers there"):
        frames.read(0.05)


def test_closing_wakes_whoever_waits(publisher: Publisher) -> None:
    frames = subscribed(publisher)
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(frames.read()))
    thread.start()
    frames.close()
    thread.join(10)
    assert got == [None]
    frames.close()


def test_nothing_stays_behind(publisher: Publisher) -> None:
    with nothing_left():
        for _ in range(5):
            with subscribed(publisher) as frames:
                publisher.frame(flat(publisher.n))
                assert frames.read(5) is not None
    assert not ours()


def test_an_address_that_is_none() -> None:
    for url, why in (("nonsense", "no address to connect to"), ("tcp://127.0.0.1", "no port"), ("tcp://127.0.0.1:70000", "no port")):
        for client in (Subscriber, Control):
            with nothing_left(), pytest.raises(KeyProblem, match=why):
                client(url)
    with nothing_left(), pytest.raises(KeyProblem, match="together with server_key"):
        Subscriber("tcp://127.0.0.1:1", key="mine.key_secret")
    with pytest.raises(WireError, match="no name"):
        Subscriber("tcp://127.0.0.1:1", "a/b")


# ---------------------------------------------------------------- what breaks the rules


def test_bad_messages_are_counted_and_passed_over(publisher: Publisher) -> None:
    with subscribed(publisher, latest=False, max_bytes=100_000) as frames:
        publisher.send(b"noise")
        publisher.send()
        publisher.frame(flat(0), shape=(999, 999, 3), size=(999 * 999 * 3,))
        publisher.frame(flat(1), size=(5,))
        publisher.frame(flat(2), n=2, seq=2)
        frame = frames.read(5)
        assert frame is not None
        assert frame.n == 2
        assert frames.counts.refused == 4
        assert "size" in frames.trouble
        assert frames.alive


def test_a_message_above_the_limit_never_arrives(publisher: Publisher) -> None:
    """The connection is cut by ZeroMQ itself before the message is in memory, and made again."""
    big = flat(0, (1000, 1000))
    with subscribed(publisher, latest=False, max_bytes=500_000) as frames:
        publisher.frame(big)  # 3 MB
        publisher.joined()
        publisher.frame(flat(7))
        frame = frames.read(10)
        assert frame is not None
        assert (frame.array == 7).all()


def test_a_damaged_picture_does_not_end_the_stream(publisher: Publisher) -> None:
    with subscribed(publisher, latest=False) as frames:
        publisher.frame(flat(0), [b"no png"], enc="png", size=(6,))
        publisher.frame(flat(1))
        damaged, whole = frames.read(5), frames.read(5)
        with pytest.raises(WireError, match="no png file"):
            _ = damaged.array  # type: ignore[union-attr]
        assert (whole.array == 1).all()  # type: ignore[union-attr]


# ---------------------------------------------------------------- values


def test_values_of_every_kind(publisher: Publisher) -> None:
    mask = flat(1)[..., 0]
    latent = np.arange(4 * 6 * 8, dtype=np.float16).reshape(1, 4, 6, 8)
    people = np.linspace(0, 1, 54, dtype=np.float32).reshape(1, 18, 3)
    values = {
        "Pose": plain.pose_map(people, (48, 64), 0.5), "Prompt": {"text": "a", "negative": "b", "blend": 3}, "Scalar": 0.25, "Text": "täxt",
        "Data": {"a": [1, None, {"b": True}]},
    }  # fmt: skip
    with subscribed(publisher, latest=False) as frames:
        publisher.frame(mask, type="Mask", layout="", color={})
        publisher.frame(latent, type="Latent", layout="", color={})
        for kind, value in values.items():
            packed = plain.pack(value)
            publisher.frame(mask, [packed], type=kind, enc="msgpack", dtype="", shape=(), layout="", color={}, size=(len(packed),))
        found = {frame.type: frame for frame in (frames.read(5) for _ in range(7)) if frame}
        assert (found["Mask"].array == mask).all()
        assert (found["Latent"].array == latent).all()
        assert (found["Pose"].value["people"] == people).all()
        assert {kind: found[kind].value for kind in ("Prompt", "Scalar", "Text", "Data")} == {k: v for k, v in values.items() if k != "Pose"}
        with pytest.raises(TypeError, match=r"frame\.value"):
            _ = found["Text"].array
        with pytest.raises(TypeError, match="no picture"):
            _ = found["Latent"].rgb
        assert found["Scalar"]._repr_png_() is None
        assert "Scalar" in repr(found["Scalar"])


def test_pictures_for_people(publisher: Publisher) -> None:
    """rgb and bgr are what they say, whatever came: BGR bytes, planes of floats, a matte."""
    rgb = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    floats = np.ascontiguousarray(rgb.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    with subscribed(publisher, latest=False) as frames:
        publisher.frame(rgb)
        publisher.frame(np.ascontiguousarray(rgb[..., ::-1]), color={"space": "srgb", "order": "bgr"})
        publisher.frame(floats, layout="chw")
        publisher.frame(np.ascontiguousarray(rgb[..., 0]), type="Mask", layout="", color={})
        for _ in range(3):
            frame = frames.read(5)
            assert frame is not None
            assert (frame.rgb == rgb).all()
            assert (frame.bgr == rgb[..., ::-1]).all()
        matte = frames.read(5)
        assert matte is not None
        assert (matte.rgb == rgb[..., :1]).all()
        import cv2

        shown = cv2.imdecode(np.frombuffer(frame._repr_png_() or b"", np.uint8), cv2.IMREAD_COLOR)
        assert (shown == rgb[..., ::-1]).all()
        assert (cv2.imdecode(np.frombuffer(matte._repr_png_() or b"", np.uint8), cv2.IMREAD_GRAYSCALE) == rgb[..., 0]).all()


def test_ages(publisher: Publisher) -> None:
    now = time.time_ns()
    with subscribed(publisher) as frames:
        publisher.frame(flat(0), born=now - 80_000_000, sent=now - 30_000_000)
        frame = frames.read(5)
        assert frame is not None
        assert frame.age_ms - frame.transit_ms == pytest.approx(50)
        assert frame.age_ms >= 80
        assert frame.age_now_ms() >= frame.age_ms
        assert frames.stats()["age_ms"]["p50"] == pytest.approx(frame.age_ms, abs=0.01)


# ---------------------------------------------------------------- video


def units(count: int, key_every: int = 10**9) -> list[tuple[bytes, bool]]:
    """Access units of a picture that gets brighter by 4 with each."""
    import av

    encoder: Any = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 64, 48, "yuv420p", Fraction(1, 25)
    encoder.options = {"preset": "ultrafast", "tune": "zerolatency", "crf": "10", "g": "1000", "forced-idr": "1"}
    made = []
    for i in range(count):
        frame = av.VideoFrame.from_ndarray(flat(20 + 4 * i, (48, 64)), format="rgb24").reformat(format="yuv420p", dst_colorspace=1)
        frame.pts = i
        kinds = av.video.frame.PictureType
        frame.pict_type = kinds.I if i % key_every == 0 else kinds.NONE
        (packet,) = encoder.encode(frame)
        made.append((bytes(packet), packet.is_keyframe))
    return made


def video(publisher: Publisher, unit: tuple[bytes, bool], **more: Any) -> None:
    color = {"space": "srgb", "order": "rgb", "matrix": "bt709", "range": "limited"}
    publisher.frame(
        flat(0, (48, 64)), [unit[0]], **{"enc": "h264", "color": color, "flags": int(unit[1]), "size": (len(unit[0]),), **more}
    )


def brightness(frame: Any) -> float:
    return float(frame.array.mean())


def test_video_in_latest_mode_needs_every_unit_and_shows_the_last(publisher: Publisher) -> None:
    made = units(20)
    with subscribed(publisher) as frames:
        for unit in made[:12]:
            video(publisher, unit)
        until(lambda: frames.counts.received == 12)
        frame = frames.read(5)
        assert frame is not None
        assert frame.n == 11
        assert brightness(frame) == pytest.approx(20 + 4 * 11, abs=3)
        for unit in made[12:]:
            video(publisher, unit)
        until(lambda: frames.counts.received == 20)
        assert brightness(frames.read(5)) == pytest.approx(20 + 4 * 19, abs=3)
        assert frames.counts.undecodable == 0


@pytest.mark.parametrize("latest", [True, False])
def test_video_starts_at_a_key_unit_and_goes_on_at_one_after_a_loss(publisher: Publisher, latest: bool) -> None:
    made = units(12, key_every=6)
    with subscribed(publisher, latest=latest) as frames:
        shown = []
        for i in (2, 3, 6, 7, 9, 10):  # joined late; 8 is lost
            video(publisher, made[i], n=i, seq=i)
            until(lambda: frames.counts.received == len(shown) + 1)
            try:
                shown.append((frames.read(0.05).n, True))  # type: ignore[union-attr]
            except TimeoutError:
                shown.append((i, False))
        assert shown == [(2, False), (3, False), (6, True), (7, True), (9, False), (10, False)]
        assert frames.counts.undecodable == 4


def test_units_as_they_are(publisher: Publisher) -> None:
    made = units(2)
    with subscribed(publisher, latest=False, decode=False) as frames:
        for unit in made:
            video(publisher, unit)
        for unit in made:
            frame = frames.read(5)
            assert frame is not None
            assert bytes(frame.payload[0]) == unit[0]
        with pytest.raises(WireError, match="h264"):
            _ = frame.array


def test_a_damaged_unit(publisher: Publisher) -> None:
    made = units(3, key_every=2)
    with subscribed(publisher, latest=False) as frames:
        video(publisher, (b"\0\0\0\1\x65" + b"\xff" * 50, True))
        video(publisher, made[1])
        video(publisher, made[2])
        frame = frames.read(5)
        assert frame is not None
        assert frame.n == 2
        assert frames.counts.refused == 1


def test_without_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in ("av", "cv2", "PIL"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDecoder, match="pip install av"):
        decode.Video()
    header = Publisher.header(type("P", (), {"stream": "live", "run": "0" * 16, "n": 0})(), flat(0, (48, 64)), enc="png")  # type: ignore[arg-type]
    with pytest.raises(MissingDecoder, match="pip install opencv-python"):
        decode.value_of(header, [notebook.png(flat(0, (48, 64)))])


@pytest.mark.parametrize("missing", ["cv2", "PIL"])
@pytest.mark.parametrize("enc", ["jpeg", "png"])
def test_either_picture_library_does(monkeypatch: pytest.MonkeyPatch, enc: str, missing: str) -> None:
    import sys

    import cv2

    picture = np.stack([np.add.outer(np.arange(48), np.arange(64)) * k % 256 for k in (1, 2, 0)], -1).astype(np.uint8)
    data = bytes(cv2.imencode("." + {"jpeg": "jpg"}.get(enc, enc), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])[1])
    header = Publisher.header(type("P", (), {"stream": "live", "run": "0" * 16, "n": 0})(), picture, enc=enc)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, missing, None)
    found = decode.value_of(header, [data])
    assert np.abs(found.astype(int) - picture).mean() < (3 if enc == "jpeg" else 1e-9)


# ---------------------------------------------------------------- shared memory


def shared(publisher: Publisher, ring: Ring, value: Any) -> None:
    place = ring.write(publisher.n, value)
    assert place is not None
    publisher.frame(value, [], enc="shm", size=(), shm=place)


def test_frames_in_shared_memory(publisher: Publisher) -> None:
    ring = Ring(flat(0).nbytes, slots=3)
    try:
        with subscribed(publisher) as latest, subscribed(publisher, latest=False) as every:
            for number in range(8):
                shared(publisher, ring, flat(number))
                until(lambda number=number: every.counts.received == number + 1)
            assert (latest.read(5).array == 7).all()  # type: ignore[union-attr]
            assert [int(every.read(5).array.max()) for _ in range(8)] == list(range(8))  # type: ignore[union-attr]
            assert latest.counts.overwritten == every.counts.overwritten == 0
    finally:
        ring.close()


def test_a_frame_that_was_overwritten_before_it_was_read(publisher: Publisher) -> None:
    ring = Ring(flat(0).nbytes, slots=3)
    try:
        with subscribed(publisher) as frames:
            shared(publisher, ring, flat(0))
            until(lambda: frames.counts.received == 1)
            for mark in range(100, 103):
                ring.write(mark, flat(9))
            with pytest.raises(TimeoutError):
                frames.read(0.05)
            assert frames.counts.overwritten == 1
            shared(publisher, ring, flat(1))
            assert (frames.read(5).array == 1).all()  # type: ignore[union-attr]
    finally:
        ring.close()


def test_a_lease_on_a_frame(publisher: Publisher) -> None:
    ring = Ring(flat(0).nbytes, slots=3)
    try:
        with subscribed(publisher, copy=False) as frames:
            shared(publisher, ring, flat(5))
            frame = frames.read(5)
            assert frame is not None
            with frame.lease() as array:
                for mark in range(100, 106):
                    ring.write(mark, flat(9))
                assert (array == 5).all()
            for mark in range(200, 203):
                ring.write(mark, flat(9))
            with pytest.raises(Overwritten):
                _ = frame.array
    finally:
        ring.close()


# ---------------------------------------------------------------- asyncio


def test_asyncio(publisher: Publisher) -> None:
    async def watch() -> list[int]:
        async with AsyncSubscriber(publisher.url, latest=False) as frames:
            await asyncio.to_thread(publisher.joined)
            for number in range(3):
                publisher.frame(flat(number))
            first = await frames.read(5)
            assert first is not None
            publisher.end()
            return [first.n, *[frame.n async for frame in frames]]

    assert asyncio.run(watch()) == [0, 1, 2]
    assert not ours()


def test_asyncio_does_not_block_its_loop(publisher: Publisher) -> None:
    async def watch() -> int:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        async with AsyncSubscriber(publisher.url) as frames:
            await asyncio.to_thread(publisher.joined)
            ticking = asyncio.create_task(tick())
            with pytest.raises(TimeoutError):
                await frames.read(0.1)
            ticking.cancel()
        return ticks

    assert asyncio.run(watch()) > 10


# ---------------------------------------------------------------- notebooks


def test_show_in_a_notebook(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    shown: list[Any] = []

    class Handle:
        def update(self, what: Any) -> None:
            shown.append(what)

    def display(what: Any, display_id: bool) -> Handle:
        shown.append(what)
        return Handle()

    fake = types.ModuleType("IPython.display")
    fake.Image, fake.display = dict, display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", fake)
    with subscribed(publisher, latest=False) as frames:
        publisher.frame(flat(3))
        publisher.frame(flat(4))
        publisher.end()
        assert notebook.show(frames, fps=1000) == 2
    assert [what["data"][:4] for what in shown] == [b"\x89PNG"] * 2


def test_show_without_a_notebook(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with subscribed(publisher) as frames, pytest.raises(ImportError, match="needs IPython"):
        notebook.show(frames, 0.1)


def test_flags_of_the_header(publisher: Publisher) -> None:
    with subscribed(publisher, latest=False) as frames:
        publisher.frame(flat(0), flags=wire.KEY | wire.DISCONTINUITY | wire.DEGRADED, params=7, meta={"show": 1}, lat={"paint": 3.5})
        frame = frames.read(5)
        assert frame is not None
        assert (frame.key, frame.discontinuity, frame.degraded, frame.params) == (True, True, True, 7)
        assert (frame.meta, frame.lat) == ({"show": 1}, {"paint": 3.5})
