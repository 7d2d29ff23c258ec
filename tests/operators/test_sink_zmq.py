"""`sink.zmq`: what goes out, to whom, and that nobody who listens can hold the graph up."""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toys  # noqa: F401  (registers its operators)
import zmq
from zmq_graphs import SIDE, Running, film
from zmq_peers import Watcher, nothing_left, ours, until

from bindings.python import Subscriber, curve
from engine.errors import DeviceError, OperatorError, UsageError
from engine.graph import GraphBuilder
from engine.payload import Data, Image, Latent, Mask, Mesh, Payload, Pose, Prompt, Scalar, Text
from engine.testing import Bench, conform, same
from operators.link import coder, payloads

LOCAL = "tcp://127.0.0.1:*"
posix = pytest.mark.skipif(os.name != "posix", reason="needs signals that stop a process")


@pytest.fixture
def port() -> str:
    """An address that is free."""
    with zmq.Context() as context, context.socket(zmq.PUB) as socket:
        return f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}"


def picture(height: int = 48, width: int = 64) -> Any:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([y * 5 % 256, x * 4 % 256, (x + y) % 256], axis=-1).astype(np.uint8)


def through(value: Payload, **params: Any) -> Any:
    """`value`, sent by a sink and received by a client: the frame."""
    with Bench("sink.zmq", url=LOCAL, **params) as bench, Subscriber(bench.operator.endpoint, latest=False) as frames:
        until(bench.operator.wanted)
        bench(value)
        bench.let_go()
        return frames.read(10)


# ---------------------------------------------------------------- what goes out

PEOPLE = np.linspace(0, 1, 108, dtype=np.float32).reshape(2, 18, 3)
PAYLOADS: dict[str, Payload] = {
    "image": Image(picture()),
    "mask": Mask(picture()[..., 0]),
    "latent": Latent(np.arange(192, dtype=np.float16).reshape(1, 4, 6, 8)),
    "latent float32": Latent(np.arange(192, dtype=np.float32).reshape(1, 4, 6, 8)),
    "pose": Pose(PEOPLE, (480, 640), 0.5),
    "nobody": Pose(PEOPLE[:0], (480, 640)),
    "prompt": Prompt("a dancer, 舞者", "blurry", 12),
    "scalar": Scalar(0.25),
    "text": Text("two people"),
    "data": Data({"score": 0.5, "parts": [1, None, {"x": True}]}),
}


@pytest.mark.parametrize("name", PAYLOADS)
@pytest.mark.parametrize("encoding", ["raw", "shm", "png"])
def test_every_payload_comes_back(name: str, encoding: str) -> None:
    value = PAYLOADS[name]
    frame = through(value, encoding=encoding)
    assert frame.type == value.kind
    found = payloads.payload_of(frame.header, frame.value)
    assert same(found, value)
    arrays = ("image", "mask") if encoding == "png" else ("image", "mask", "latent")
    assert frame.header.enc == (encoding if name in arrays or (name.startswith("latent") and encoding == "shm") else
                                "raw" if name.startswith("latent") else "msgpack")  # fmt: skip


@pytest.mark.parametrize(("encoding", "error"), [("jpeg", 4.0), ("h264", 6.0)])
@pytest.mark.parametrize("size", [(48, 64), (47, 63)])
def test_coded_pictures(encoding: str, error: float, size: tuple[int, int]) -> None:
    frame = through(Image(np.ascontiguousarray(picture(48, 64)[: size[0], : size[1]] // 2)), encoding=encoding, quality=95)
    assert frame.array.shape == (*size, 3)
    assert np.abs(frame.array.astype(int) - picture()[: size[0], : size[1]] // 2).mean() < error


def test_pictures_in_other_formats() -> None:
    """Planes of floats, BGR, views with gaps: 8-bit RGB on the wire, unless they are to be kept."""
    rgb = picture()
    planes = rgb[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32) / 255
    for value in (Image(planes, "chw", "bgr"), Image(rgb[..., ::-1], "hwc", "bgr"), Image(np.repeat(rgb, 2, axis=1)[:, ::2])):
        frame = through(value)
        assert (frame.header.dtype, frame.header.layout, frame.header.color["order"]) == ("uint8", "hwc", "rgb")
        assert (frame.array == rgb).all()
    kept = through(Image(planes, "chw", "bgr"), keep=True)
    assert (kept.header.dtype, kept.header.layout, kept.header.color["order"]) == ("float32", "chw", "bgr")
    assert (kept.array == planes).all()
    assert (kept.rgb == rgb).all()


def test_tensors() -> None:
    torch = pytest.importorskip("torch")
    latent = torch.arange(192).reshape(1, 4, 6, 8) / 64
    assert (through(Latent(latent.half())).array == latent.numpy().astype(np.float16)).all()
    brain = through(Latent(latent.bfloat16()))  # NumPy has no bfloat16
    assert brain.header.dtype == "float32"
    assert (brain.array == latent.bfloat16().float().numpy()).all()
    image = torch.from_numpy(picture().transpose(2, 0, 1)[None].copy())
    assert (through(Image(image, "chw")).array == picture()).all()


def test_what_has_no_form_on_the_wire() -> None:
    with Bench("sink.zmq", url=LOCAL) as bench, Subscriber(bench.operator.endpoint) as frames:
        until(bench.operator.wanted)
        with pytest.raises(Exception, match="a Mesh has no form on the wire"):
            bench(Mesh(np.zeros((3, 3), np.float32), np.zeros((1, 3), np.int32)))
        with pytest.raises(Exception, match="MessagePack does not know"):
            bench(Data({"x": object()}))
        bench(Scalar(1.0))
        assert frames.read(10).value == 1.0  # type: ignore[union-attr]


def test_the_header_says_where_the_frame_stands() -> None:
    with Bench("sink.zmq", url=LOCAL, meta={"show": "tuesday"}) as bench, Subscriber(bench.operator.endpoint, latest=False) as frames:
        until(bench.operator.wanted)
        before = time.time_ns()
        bench(Scalar(0.0), seq=7, pts=123)
        bench(Scalar(0.0))
        bench.new_epoch()
        bench(Scalar(0.0))
        first, second, third = (frames.read(10).header for _ in range(3))  # type: ignore[union-attr]
        assert (first.seq, first.pts, first.epoch, first.n, dict(first.meta)) == (7, 123, 0, 0, {"show": "tuesday"})
        assert before <= first.born <= first.sent <= time.time_ns()
        assert [frame.discontinuity for frame in (first, second, third)] == [True, False, True]
        assert (third.seq, third.epoch, third.n) == (9, 1, 2)


def test_beats_say_how_the_graph_is() -> None:
    with Bench("sink.zmq", url=LOCAL) as bench, Subscriber(bench.operator.endpoint, latest=False) as frames:
        until(lambda: frames.alive)
        assert frames.beat.state == "loading"  # type: ignore[union-attr]
        bench(Scalar(0.0))
        until(lambda: frames.beat.state == "online", 5)  # type: ignore[union-attr]
        bench.site._health = lambda: "degraded_input"
        bench(Scalar(0.0))
        until(lambda: frames.beat.state == "degraded_input", 5)  # type: ignore[union-attr]
        assert [frames.read(5).degraded for _ in range(2)] == [False, True]  # type: ignore[union-attr]
        bench.site._health = lambda: "stopped"  # which the format does not know: the last word is that of the stream's end
        bench(Scalar(0.0))
        until(lambda: frames.beat.state == "online", 5)  # type: ignore[union-attr]


@pytest.mark.parametrize("stop", [False, True])
def test_the_end_says_why(port: str, stop: bool) -> None:
    with Subscriber(port, latest=False) as frames, Running(film(port, given={"frames": 10**6 if stop else 200, "period": 10.0})) as run:
        assert frames.read(20) is not None
        if stop:
            run.session.stop()
        for _ in frames:
            pass
        assert frames.end is not None
        assert frames.end.reason == ("stopped" if stop else "eof")


def test_several_streams_on_one_socket(port: str) -> None:
    graph = film(port, given={"period": 10.0}, stream="picture")
    graph.node("level", "test.wire_level", image="film")
    graph.node("numbers", "sink.zmq", url=port, stream="level", frame="level")
    with nothing_left(), Running(graph), Subscriber(port, "picture") as pictures, Subscriber(port, "level") as levels:
        for frames, kind in ((pictures, "Image"), (levels, "Scalar")):
            frame = frames.read(20)
            assert frame is not None
            assert (frame.type, frame.stream) == (kind, frames.stream)


def test_two_sinks_that_do_not_agree(port: str) -> None:
    with Bench("sink.zmq", url=port, hwm=3):
        with pytest.raises(UsageError, match="with other settings"), Bench("sink.zmq", url=port, stream="b"):
            pass
        with pytest.raises(UsageError, match=r"published at .* already"), Bench("sink.zmq", url=port, hwm=3):
            pass
        with Bench("sink.zmq", url=port, hwm=3, stream="b"):
            pass
    with Bench("sink.zmq", url=port):  # the address is free again
        pass


def test_an_address_that_is_taken(port: str) -> None:
    with nothing_left(), zmq.Context() as context, context.socket(zmq.PUB) as socket:
        socket.bind(port)
        with pytest.raises(DeviceError, match="cannot publish"), Bench("sink.zmq", url=port):
            pass


@pytest.mark.parametrize("url", ["nonsense", "http://127.0.0.1:80", "tcp://127.0.0.1"])
def test_an_address_that_is_none(url: str) -> None:
    with nothing_left(), pytest.raises(UsageError), Bench("sink.zmq", url=url, insecure=True):
        pass


def test_the_kit() -> None:
    conform("sink.zmq", url=LOCAL)


# ---------------------------------------------------------------- nobody listens


def test_nobody_listens_nothing_is_encoded(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    real = coder.file_of
    monkeypatch.setattr(coder, "file_of", lambda *given: made.append(given[1]) or real(*given))
    with Running(film(port, given={"period": 5.0}, encoding="jpeg")) as run:
        gate = run.session.gates["film"]
        until(lambda: gate.drops["unwatched"] >= 20)
        assert not made
        with Subscriber(port, latest=False) as frames:
            assert frames.read(20) is not None
            assert made
        until(lambda: not run.operator("out").stream.subscribers)
        until(lambda: len(made) == until(lambda: len(made)))
        had, dropped = len(made), gate.drops["unwatched"]
        until(lambda: gate.drops["unwatched"] >= dropped + 20)
        assert len(made) <= had + 2  # one may have been under way


def test_the_film_is_encoded_once_for_all(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    real = coder.file_of
    monkeypatch.setattr(coder, "file_of", lambda *given: made.append(given[1]) or real(*given))
    with Bench("sink.zmq", url=port, encoding="jpeg") as bench:
        viewers = [Subscriber(port, latest=False) for _ in range(4)]
        until(lambda: bench.operator.stream.subscribers == 4)
        for _ in range(3):
            bench(Image(picture()))
        for viewer in viewers:
            assert [viewer.read(10).n for _ in range(3)] == [0, 1, 2]  # type: ignore[union-attr]
            viewer.close()
        assert len(made) == 3


def test_video_starts_at_once_for_who_comes_late(port: str) -> None:
    """A key unit is made for a newcomer: nobody waits for the next one that would come anyway."""
    with Running(film(port, given={"period": 15.0}, encoding="h264")), Subscriber(port, latest=False) as early:
        shown = [early.read(20).n for _ in range(5)]  # type: ignore[union-attr]
        assert shown == list(range(shown[0], shown[0] + 5))
        with Subscriber(port, latest=False) as late:
            first = late.read(20)
            assert first is not None
            assert first.key
            assert late.counts.undecodable <= 2
            assert abs(float(first.array.mean()) - first.seq % 251) < 6
        frames = [early.read(20) for _ in range(10)]
        assert any(frame.key for frame in frames)  # type: ignore[union-attr]


# ---------------------------------------------------------------- those who listen badly


@posix
def test_a_frozen_and_a_killed_subscriber_hold_nobody_up(port: str) -> None:
    """Peers in processes of their own. One is stopped: the film goes on at its pace, another sees all of it, and buffers are used again."""
    graph = film(port, given={"period": 10.0}, hwm=4)
    with nothing_left(), Running(graph, poison=True) as run, Watcher(port) as frozen, Watcher(port) as healthy:
        until(lambda: frozen.frames and healthy.frames)
        os.kill(frozen.process.pid, signal.SIGSTOP)
        begun, count = time.monotonic(), len(healthy.frames)
        until(lambda: len(healthy.frames) > count + 150)
        seconds = time.monotonic() - begun
        times = run.session.nodes["out"].times
        assert statistics.median(list(times)[-100:]) < 10e6  # the sink's own call does not take a period
        assert seconds < 30, seconds  # 1.5 on an idle machine; a publisher that waited would never get there
        assert len(healthy.frames) - count > 150
        os.kill(frozen.process.pid, signal.SIGCONT)
        seen = len(frozen.frames)
        until(lambda: len(frozen.frames) > seen + 20)
        newest = frozen.frames[-1]
        assert newest["seq"] > healthy.frames[count]["seq"] + 100  # it is in the present
        for line in healthy.frames + frozen.frames:
            assert line["low"] == line["high"] == line["seq"] % 251, "a buffer was used again while it was being sent"
        os.kill(frozen.process.pid, signal.SIGKILL)
        until(lambda: run.operator("out").stream.subscribers == 1)
        count = len(healthy.frames)
        until(lambda: len(healthy.frames) > count + 10)


@posix
def test_buffers_are_kept_until_they_are_sent(port: str) -> None:
    """Messages wait for a frozen subscriber: what they show must not change meanwhile, although the pool is poisoned and busy."""
    with Running(film(port, given={"period": 5.0}, hwm=64), poison=True) as run, Watcher(port, latest=False, queue=5000) as slow:
        until(lambda: len(slow.frames) > 3)
        os.kill(slow.process.pid, signal.SIGSTOP)
        held = run.session.pools
        until(lambda: held.loaned > 30)
        os.kill(slow.process.pid, signal.SIGCONT)
        until(lambda: len(slow.frames) > 60)
        until(lambda: held.loaned < 10)
        for line in slow.frames:
            assert line["low"] == line["high"] == line["seq"] % 251


def test_twenty_come_and_go(port: str) -> None:
    with nothing_left(), Running(film(port, given={"period": 5.0})) as run:
        stream = until(lambda: getattr(run.operator("out"), "stream", None))
        for _ in range(3):
            viewers = [Subscriber(port) for _ in range(20)]
            until(lambda: stream.subscribers == 20)
            for viewer in viewers:
                frame = viewer.read(20)
                assert frame is not None
                assert (frame.array == frame.seq % 251).all()
            for viewer in viewers:
                viewer.close()
            until(lambda: stream.subscribers == 0)
        assert stream.joins == 60
    assert not ours()


def test_a_slow_reader_sees_frames_no_older_than_a_period(port: str) -> None:
    """30 frames a second, a reader in another process that sleeps 100 ms a frame: what it gets is a period old and what the way takes."""
    period = 1000 / 30
    with Running(film(port, given={"period": period})), Watcher(port, sleep=0.1, limit=40) as slow:
        until(lambda: len(slow.frames) >= 40, 40)
        ages = [(line["at"] - line["born"]) / 1e6 for line in slow.frames[5:]]
        assert statistics.median(ages) <= period + 25, ages
        assert statistics.mean(ages[-12:]) <= statistics.mean(ages[:12]) + period + 25, ages  # and it does not grow


RUDE = """
import sys, zmq
socket = zmq.Context().socket(zmq.XSUB)
socket.connect(sys.argv[1])
socket.send(b"\\1live/")
sys.stdin.readline()
socket.send(b"nothing known")
socket.send(b"\\1" + b"x" * 1_000_000)
sys.stdin.read()
"""


def test_what_subscribers_send_does_no_harm(port: str) -> None:
    """Whatever comes into the publishing socket: noise, huge subscriptions, half a handshake."""
    import socket as sockets

    with Running(film(port, given={"period": 5.0})) as run, Subscriber(port) as frames:
        until(lambda: getattr(run.operator("out"), "stream", None))
        host, number = "127.0.0.1", int(port.rpartition(":")[2])
        for noise in (b"\0" * 100, b"GET / HTTP/1.1\r\n\r\n", b"\xff\0\0\0\0\0\0\0\1\x7f" + b"\xff" * 4000):
            with sockets.create_connection((host, number), 5) as peer:
                peer.sendall(noise)
        # In a process of its own: so long a subscription breaks the one who makes it.
        rude = subprocess.Popen([sys.executable, "-c", RUDE, port], stdin=subprocess.PIPE)
        assert rude.stdin is not None
        until(lambda: run.operator("out").stream.subscribers == 2)
        rude.stdin.write(b"\n")
        rude.stdin.flush()
        until(lambda: run.operator("out").stream.subscribers == 1)
        rude.kill()
        rude.communicate()
        seen = frames.read(20)
        assert seen is not None
        until(lambda: frames.latest().n > seen.n + 20)  # type: ignore[union-attr]


def test_a_publisher_that_is_started_again(port: str) -> None:
    with Subscriber(port, latest=False, follow=True) as frames:
        runs = []
        for _ in range(2):
            with Running(film(port, given={"frames": 40, "period": 5.0})) as run:
                first = frames.read(20)
                assert first is not None
                runs.append((first.header.run, first.restarted))
                run.session.stop()
            until(lambda: frames.ended)
            while True:
                try:
                    frames.read(0)
                except TimeoutError:
                    break
        assert runs[0][0] != runs[1][0]
        assert [restarted for _, restarted in runs] == [False, True]
        assert frames.counts.lost == 0


# ---------------------------------------------------------------- nothing is lost where it must not be


def test_lossless_for_offline_graphs(port: str) -> None:
    """The film waits for its subscriber, and goes at its pace: every frame arrives, whole, although the reader is slow and queues are short."""
    graph = film(port, "offline", given={"frames": 120, "period": 0.0}, lossless=True, hwm=2)
    with nothing_left(), Running(graph, poison=True) as run, Watcher(port, latest=False, queue=4, wait=True, sleep=0.002) as slow:
        until(lambda: "end" in (slow.lines or [{}])[-1], 40)
        run.join()
        assert [line["seq"] for line in slow.frames] == list(range(120))
        assert all(line["low"] == line["high"] == line["seq"] % 251 for line in slow.frames)
        assert slow.lines[-1]["end"] == "eof"
        assert run.session.summary().frames["out"] == 120


def test_a_ring_is_not_lossless() -> None:
    with nothing_left(), pytest.raises(UsageError, match="waits for nobody"), Bench("sink.zmq", url=LOCAL, lossless=True, encoding="shm"):
        pass


@posix
def test_a_lossless_graph_can_be_given_up(port: str) -> None:
    """Its subscriber is frozen, so it waits; stopping does not."""
    graph = film(port, "offline", given={"frames": 10**6, "period": 0.0, "side": 512}, lossless=True, hwm=2)
    with nothing_left(), Running(graph) as run, Watcher(port, latest=False, queue=10**6, sleep=0.001) as frozen:
        until(lambda: frozen.frames)
        os.kill(frozen.process.pid, signal.SIGSTOP)
        stream, full = run.operator("out").stream, threading.Event()
        given_up = stream.stopping
        stream.stopping = lambda: full.set() or given_up()  # it is asked each time that there was no room
        assert full.wait(20)
        run.session.stop()
        run.join()


def test_an_offline_graph_waits_for_its_first_subscriber_and_can_be_stopped(port: str) -> None:
    graph = film(port, "offline", given={"frames": 5, "period": 0.0}, lossless=True)
    with Running(graph) as run:
        until(lambda: run.session.gates["film"].entered)
        run.session.stop()
        run.join()


# ---------------------------------------------------------------- who may listen


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server, a friend on the list, a stranger: files of their keys."""
    folder = tmp_path_factory.mktemp("keys")
    return {name: curve.write(curve.generate(), folder, name) for name in ("server", "friend", "stranger")}


def test_keys(port: str, keys: Any) -> None:
    """A friend gets frames, and meanwhile nobody else does: not a stranger, not one without keys, not one who mistakes the server."""
    server, secret = keys["server"]
    graph = film(port, given={"period": 5.0}, key=str(secret), allow=[str(keys["friend"][0])])
    with nothing_left(), Running(graph) as run:
        others = {
            "stranger": Subscriber(port, server_key=server, key=keys["stranger"][1]),
            "nobody": Subscriber(port),
            "wrong server": Subscriber(port, server_key=keys["stranger"][0], key=keys["friend"][1]),
        }
        with Subscriber(port, server_key=server, key=keys["friend"][1]) as friend:
            for _ in range(20):
                assert friend.read(20) is not None
            until(lambda: others["stranger"].trouble)
            assert "not on its list" in others["stranger"].trouble
            assert run.operator("out").stream.subscribers == 1
            for other in others.values():
                assert (other.counts.received, other.connected) == (0, False)
                other.close()
        until(lambda: run.operator("out").stream.subscribers == 0)


@pytest.mark.parametrize("url", ["tcp://*:*", "tcp://0.0.0.0:*", "tcp://[::]:*", "tcp://eth0:5555", "tcp://192.168.1.5:5555", "tcp://stage:5555"])
def test_beyond_this_machine_only_with_keys(url: str, keys: Any) -> None:
    with nothing_left(), pytest.raises(UsageError, match=r"everybody there could use it.*insecure"), Bench("sink.zmq", url=url):
        pass


def test_beyond_this_machine_with_keys_or_in_so_many_words(keys: Any) -> None:
    with Bench("sink.zmq", url="tcp://*:*", insecure=True) as bench:
        assert bench.operator.endpoint.startswith("tcp://0.0.0.0:")
    with Bench("sink.zmq", url="tcp://*:*", key=str(keys["server"][1]), allow=[str(keys["friend"][0])]):
        pass


@pytest.mark.parametrize(
    ("params", "what"),
    [
        ({"key": "SECRET"}, "needs both key and allow"),
        ({"allow": ["PUBLIC"]}, "needs both key and allow"),
        ({"key": "PUBLIC", "allow": ["PUBLIC"]}, "holds no secret key"),
        ({"key": "SECRET", "allow": ["/nowhere"]}, "no key can be read"),
    ],
)
def test_keys_that_are_none(params: dict[str, Any], what: str, keys: Any) -> None:
    public, secret = map(str, keys["server"])
    text = json.dumps(params).replace("PUBLIC", public).replace("SECRET", secret)
    with nothing_left(), pytest.raises(UsageError, match=what), Bench("sink.zmq", url=LOCAL, **json.loads(text)):
        pass


def test_no_secret_in_a_plan(port: str, keys: Any) -> None:
    """The plan is printed, hashed and logged: it holds the name of the file only."""
    from engine.planning.compile import compile

    secret = re.search(r'secret-key = "(.{40})"', Path(keys["server"][1]).read_text())
    assert secret is not None
    plan = compile(film(port, key=str(keys["server"][1]), allow=[str(keys["friend"][0])]).build())
    assert secret[1] not in repr(plan)


# ---------------------------------------------------------------- imagezmq


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_imagezmq(encoding: str) -> None:
    """What its ImageHub does with a message (imagezmq 1.1, REQ_REP=False): JSON, then a buffer to reshape, or a JPEG file."""
    import cv2

    with Bench("sink.zmq", url=LOCAL, imagezmq=True, encoding=encoding, quality=95) as bench, zmq.Context() as context:
        hub = context.socket(zmq.SUB)
        hub.setsockopt_string(zmq.SUBSCRIBE, "")
        hub.setsockopt(zmq.RCVTIMEO, 10_000)
        hub.connect(bench.operator.endpoint)
        until(bench.operator.wanted)
        bench(Image(picture()))
        md, msg = hub.recv_json(), hub.recv()
        assert md["msg"] == "live"
        found = cv2.imdecode(np.frombuffer(msg, np.uint8), -1) if encoding == "jpeg" else np.frombuffer(msg, md["dtype"]).reshape(md["shape"])
        assert np.abs(found.astype(int) - picture()[..., ::-1]).mean() < (0.1 if encoding == "raw" else 5)
        with pytest.raises(UsageError, match="no Scalar"):
            bench(Scalar(1.0))
        hub.close(0)
    with pytest.raises(UsageError, match="imagezmq knows no"), Bench("sink.zmq", url=LOCAL, imagezmq=True, encoding="h264"):
        pass


def test_over_ipc(tmp_path: Path) -> None:
    if not zmq.has("ipc"):
        pytest.skip("this system's ZeroMQ has no ipc")
    url = f"ipc://{tmp_path}/live"
    with Running(film(url)), Subscriber(url) as frames:
        assert frames.read(20) is not None


def test_an_error_in_the_graph_ends_the_stream_as_such(port: str) -> None:
    graph = GraphBuilder("g", clock="live")
    graph.node("count", "toy.count", count=300, period=10.0, paced=True, fail_at=200)
    graph.node("out", "sink.zmq", url=port, frame="count")
    with Subscriber(port, latest=False) as frames:
        with Running(graph) as run:
            assert frames.read(20) is not None
            run.join()
            error, run.error = run.error, None
        assert isinstance(error, OperatorError)
        assert "Planted" in str(error)
        for _ in frames:
            pass
        assert frames.end is not None
        assert frames.end.reason == "error"


assert SIDE * SIDE * 3 > zmq.COPY_THRESHOLD
