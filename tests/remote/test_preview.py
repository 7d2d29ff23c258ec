"""The preview's server against its promises, over real sockets: what it shows, to how many, how fresh, and that the graph does not notice."""

from __future__ import annotations

import base64
import json
import socket as sockets
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from shown import Shown, Socket, film, number_in, shown, stamped
from websockets.exceptions import ConnectionClosed, InvalidStatus

from engine.graph import GraphBuilder
from engine.planning.compile import compile
from operators.link.coder import codec_of
from operators.sink.tap import mailbox
from remote import web
from remote.encode import encoder, shrunk
from remote.feed import Watcher


def decoded(data: bytes) -> Any:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def out(run: Shown) -> int:
    return run.session.nodes["out"].count


def wait_for(found: Any, timeout: float = 20.0) -> Any:
    until = time.monotonic() + timeout
    while not (value := found()):
        assert time.monotonic() < until, "it does not come"
        time.sleep(0.01)
    return value


def read_to_the_end(raw: Any) -> None:
    """Read until the other side closes."""
    with suppress(ConnectionClosed):
        while True:
            raw.recv(timeout=20)


# ---------------------------------------------------------------- pictures


def test_a_snapshot_is_the_frame_it_says() -> None:
    with shown() as run:
        for of in ("", "?of=keep.image", "?of=film.image"):
            status, data, headers = run.read(f"/snapshot.png{of}")
            seq = int(headers["x-frame-seq"])
            assert (status, headers["content-type"]) == (200, "image/png")
            assert np.array_equal(decoded(data), stamped(seq))
        _, data, headers = run.read("/snapshot.jpg")
        assert number_in(decoded(data)) == int(headers["x-frame-seq"])
        assert run.read("/snapshot.png?of=nobody.image")[0] == 404
        assert run.read("/snapshot.gif")[0] == 404


def test_the_mjpeg_stream_parses_and_goes_on() -> None:
    with shown() as run:
        answer = run.get("/stream.mjpeg")
        kind, _, boundary = answer.headers["content-type"].partition("; boundary=")
        assert kind == "multipart/x-mixed-replace"
        seen = []
        for _ in range(4):
            assert answer.readline().rstrip() == b"--" + boundary.encode()
            head = {}
            while line := answer.readline().rstrip():
                name, _, value = line.decode().partition(": ")
                head[name] = value
            picture = decoded(answer.read(int(head["Content-Length"])))
            assert answer.readline() == b"\r\n"
            seen.append(number_in(picture))
            assert seen[-1] == int(head["X-Frame-Seq"])
        assert seen == sorted(set(seen))
        answer.connection.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("codecs", [["h264", "jpeg"], ["jpeg"]])
def test_the_websocket_shows_frames(codecs: list[str]) -> None:
    decoder = av.CodecContext.create("h264", "r")
    with shown() as run, run.socket() as raw:
        socket = Socket(raw)
        answer = socket.ask("view", codecs=codecs)
        assert (answer["of"], answer["enc"]) == ("keep.image", codecs[0])
        assert answer["outputs"] == [{"of": "keep.image", "main": True}, {"of": "film.image", "main": False}]
        numbers = []
        for _ in range(5):
            header, payload = socket.frame()
            assert (header["enc"], header["size"], header["shape"]) == (codecs[0], [len(payload)], [96, 256, 3])
            assert 0 <= header["sent"] - header["born"] < 20e9
            if codecs[0] == "h264":
                if not numbers:
                    assert header["flags"] & 1
                    assert header["codec"] == codec_of(payload) != ""
                (frame,) = decoder.decode(av.Packet(payload))
                numbers.append(number_in(frame.to_ndarray(format="rgb24")))
            else:
                numbers.append(number_in(decoded(payload)))
            assert numbers[-1] == header["seq"]
        assert numbers == sorted(set(numbers))
        assert [header["n"] for header, _ in socket.frames] == list(range(6, 6 + len(socket.frames)))


def test_another_viewer_begins_with_a_key_frame_and_shares_the_encode() -> None:
    with shown() as run, run.socket() as a, run.socket() as b:
        first, second = Socket(a), Socket(b)
        first.ask("view", codecs=["h264"])
        while not first.frame()[0]["n"] > 5:
            pass
        joined = out(run)
        second.ask("view", codecs=["h264"])
        header, payload = second.frame()
        assert header["flags"] & 1
        assert header["seq"] < joined + 250  # made for it: the next one that nobody asked for would be 600 pictures away
        assert codec_of(payload)
        one: dict[int, bytes] = {}
        other: dict[int, bytes] = {}
        while len(shared := one.keys() & other.keys()) < 6:
            assert len(other) < 300, "they get pictures of different frames"
            for socket, seen in ((first, one), (second, other)):
                header, payload = socket.frame()
                seen[header["seq"]] = payload
        assert all(one[seq] == other[seq] for seq in shared)  # the very same bytes
        assert run.preview.stage.feed("keep.image").encoded["h264"] <= mailbox("preview/keep.image").count + 2  # type: ignore[union-attr]


def test_nothing_is_copied_or_encoded_while_nobody_looks() -> None:
    with shown() as run:
        tap = run.session.nodes["preview"]
        wait_for(lambda: out(run) > 10)
        assert tap.count == 0
        with run.socket() as raw:
            socket = Socket(raw)
            socket.ask("hello")
            assert not mailbox("preview/keep.image").wanted
            socket.ask("view")
            socket.frame()
            assert mailbox("preview/keep.image").wanted
            assert socket.ask("view", of="")["of"] == ""
            wait_for(lambda: not mailbox("preview/keep.image").wanted)
            socket.ask("view", of="film.image")
            socket.frame()
            assert mailbox("preview/film.image").wanted
        wait_for(lambda: not mailbox("preview/film.image").wanted)
        done = tap.count
        past = out(run)
        wait_for(lambda: out(run) > past + 10)
        assert tap.count == done


def test_a_viewer_that_does_not_read_delays_nobody_and_then_gets_the_newest() -> None:
    large = film(width=960, height=544, fps=40)
    with shown(large) as run, run.socket(max_queue=1) as slow, run.socket() as quick:
        lazy, eager = Socket(slow), Socket(quick)
        lazy.ask("view", codecs=["jpeg"])
        eager.ask("view", codecs=["jpeg"])
        lazy.frame()
        begun = out(run)
        ages = []
        while out(run) < begun + 120:  # the slow one does not read meanwhile
            header, _ = eager.frame()
            ages.append((time.time_ns() - header["born"]) / 1e6)
        feed = run.preview.stage.feed("keep.image")  # type: ignore[union-attr]
        stuck = max(feed._watchers, key=lambda w: w.passed)
        assert stuck.passed > 40  # it was passed over, not waited for
        assert sorted(ages)[len(ages) // 2] < 500
        drops = run.session.gates["film"].drops
        assert drops.total() <= 0.5 * run.session.gates["film"].entered
        newest = out(run)
        last = 0
        while last < newest:  # what the system's buffers hold is old; then comes the newest
            header, _ = lazy.frame()
            assert header["seq"] > last
            last = header["seq"]


def test_frames_that_are_not_shown_hold_back_those_to_come() -> None:
    with shown() as run, run.socket() as raw:
        socket = Socket(raw)
        socket.ask("view", codecs=["jpeg"])
        raw.send(json.dumps({"v": 1, "op": "shown", "n": socket.frame()[0]["n"]}))
        past = out(run)
        wait_for(lambda: out(run) > past + 40)
        socket.ask("clock")
        assert len(socket.frames) <= 12  # eight, and those that were sent before it said so
        raw.send(json.dumps({"v": 1, "op": "shown", "n": socket.frames[-1][0]["n"]}))
        old = socket.frames[-1][0]["seq"]
        socket.frames.clear()
        assert socket.frame()[0]["seq"] > old + 20


def test_a_viewer_that_falls_behind_gets_less_and_is_tried_again() -> None:
    watcher = Watcher()
    for i in range(200):
        watcher.judge(i % 2 == 0, watcher._since + 0.03 * i)
    assert watcher.light
    began = watcher._since
    for i in range(1, 400):
        watcher.judge(True, began + 0.03 * i)
    assert not watcher.light
    assert shrunk(stamped(1, (720, 1280)), light=True).shape == (360, 640, 3)
    assert shrunk(stamped(1, (2160, 3840)), light=False).shape == (1080, 1920, 3)


@pytest.mark.parametrize("size", [(96, 256), (97, 301)])
def test_h264_is_decodable_at_once_and_from_every_key(size: tuple[int, int]) -> None:
    coder, units = encoder(*size, light=False), []
    for i in range(8):
        units.append(coder.encode(stamped(i, size), i * 33_000_000, key=i == 5))
    assert [key for _, key in units] == [i in (0, 5) for i in range(8)]
    for start in (0, 5):
        decoder = av.CodecContext.create("h264", "r")
        for i, (unit, _) in enumerate(units[start:], start):
            (frame,) = decoder.decode(av.Packet(unit))
            assert number_in(frame.to_ndarray(format="rgb24")) == i


# ---------------------------------------------------------------- verbs


def test_changes_land_and_are_answered() -> None:
    with shown() as run, run.socket() as raw:
        socket = Socket(raw)
        assert socket.ask("set", changes={"keep.level": 7})["kind"] == "accepted"
        applied = socket.until(lambda m: m["kind"] == "applied")
        assert applied["seq"] >= 0
        assert socket.ask("get", paths=["keep.level"])["values"] == {"keep.level": 7}
        refused = socket.ask("set", changes={"keep.level": 70})
        assert (refused["kind"], list(refused["problems"])) == ("refused", ["keep.level"])
        picture = socket.ask("snapshot", format="png")
        assert np.array_equal(decoded(base64.b64decode(picture["data"])), stamped(picture["seq"]))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "NaN", '{"v": 1}', "[1, 2]", '{"v": 1, "id": 1, "op": "view", "codecs": 3}',
                                  '{"v": 1, "id": 1, "op": "view", "of": "no.body"}', '{"v": 1, "id": 1, "op": "record", "on": 3}',
                                  '{"v": 2, "id": 1, "op": "clock"}'])  # fmt: skip
def test_nonsense_is_refused_and_the_connection_stays(text: str) -> None:
    with shown() as run, run.socket() as raw:
        socket = Socket(raw)
        raw.send(text)
        refused = socket.until(lambda m: True)
        assert refused["kind"] == "refused"
        assert refused["error"]["message"]
        assert socket.ask("clock")["now"] > 0


def test_messages_that_are_too_large_or_binary_end_that_connection_alone() -> None:
    with shown() as run, run.socket() as kept:
        for message in ("x" * (web.MESSAGE_BYTES + 1), b"\x00"):
            with run.socket() as raw:
                raw.send(message)
                read_to_the_end(raw)
        assert Socket(kept).ask("clock")["kind"] == "answer"


def test_recording_makes_a_film_of_what_is_shown(tmp_path: Path) -> None:
    with shown() as run, run.socket() as raw:
        run.preview.stage.folder = tmp_path  # type: ignore[union-attr]
        socket = Socket(raw)
        assert socket.ask("record")["recording"] is False
        assert socket.ask("record", on=True)["recording"] is True
        begun = wait_for(lambda: run.preview.stage.filming()["frames"])  # type: ignore[union-attr]
        wait_for(lambda: run.preview.stage.filming()["frames"] > begun + 10)  # type: ignore[union-attr]
        done = socket.ask("record", on=False)
        assert (done["recording"], done["fault"], done["of"]) == (False, "", "keep.image")
        assert done["path"] in run.session.outputs
    with av.open(done["path"]) as file:
        numbers = [number_in(frame.to_ndarray(format="rgb24")) for frame in file.decode(video=0)]
    assert len(numbers) == done["frames"]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] - numbers[0] + 1 - len(numbers) <= done["missed"] + numbers[-1]


def test_a_recording_is_finished_when_the_run_ends(tmp_path: Path) -> None:
    with shown() as run:
        run.preview.stage.folder = tmp_path  # type: ignore[union-attr]
        run.preview.stage.record(True)  # type: ignore[union-attr]
        wait_for(lambda: run.preview.stage.filming()["frames"] > 3)  # type: ignore[union-attr]
    (path,) = tmp_path.glob("film-*.mp4")
    with av.open(str(path)) as file:
        assert sum(1 for _ in file.decode(video=0)) > 3


# ---------------------------------------------------------------- pages, limits, the end


def test_graph_metrics_and_health() -> None:
    with shown() as run:
        wait_for(lambda: out(run) > 3)
        graph = json.loads(run.read("/graph.json")[1])
        assert set(graph["nodes"]) >= {"film", "keep", "out"}
        assert graph["plan"] == run.session.plan.hash
        status, body, headers = run.read("/metrics")
        assert (status, headers["content-type"].startswith("text/plain")) == (200, True)
        assert b"frames" in body
        wait_for(lambda: json.loads(run.read("/healthz", token=False)[1]) == {"state": "online"})
        assert run.read("/healthz", token=False)[0] == 200


def test_there_is_a_limit_to_viewers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "VIEWERS", 1)
    with shown() as run, run.socket() as raw:
        assert Socket(raw).ask("clock")["kind"] == "answer"
        with pytest.raises(InvalidStatus) as refused, run.socket():
            pass
        assert refused.value.response.status_code == 503
        assert run.read("/stream.mjpeg")[0] == 503


def test_viewers_are_told_and_nothing_is_left_when_the_run_ends() -> None:
    import psutil

    before = len(psutil.Process().net_connections())
    with ExitStack() as around, shown() as run:
        port = run.port
        raw, stream = around.enter_context(run.socket()), run.get("/stream.mjpeg")
        socket = Socket(raw)
        socket.ask("view")
        socket.frame()
        assert socket.ask("stop", drain=True)["kind"] == "accepted"
        around.callback(lambda: [socket.until(lambda m: m["kind"] == "applied"), read_to_the_end(raw)])
    stream.connection.close()  # type: ignore[attr-defined]
    assert len(psutil.Process().net_connections()) == before
    with pytest.raises(ConnectionRefusedError):
        sockets.create_connection(("127.0.0.1", port), 2)


def test_a_reload_shows_the_new_graph_to_who_is_looking() -> None:
    with shown() as run, run.socket() as raw:
        socket = Socket(raw)
        socket.ask("view")
        socket.frame()
        changed = GraphBuilder("film", clock="live")
        changed.node("film", "shown.film")
        changed.node("keep", "shown.keep", image="film", level=5)
        changed.node("again", "shown.keep", image="keep")
        changed.node("out", "sink.null", image="keep")
        changed.node("more", "sink.null", image="again")
        plan = compile(run.preview.graph(changed.build()))
        assert run.session.reload(plan).wait(20) is not None
        assert [o["of"] for o in socket.ask("view")["outputs"]] == ["keep.image", "film.image", "again.image"]
        socket.frames.clear()
        first = socket.frame()[0]["seq"]
        assert socket.frame()[0]["seq"] > first
        socket.ask("view", of="again.image", codecs=["jpeg"])
        header, payload = next(f for f in iter(socket.frame, None) if f[0]["stream"] == "again.image")
        assert number_in(decoded(payload)) == header["seq"]
