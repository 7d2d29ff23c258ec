"""What operators say only one can hold, and that a reload hands it over: a real port, a file."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import toys

from bindings.python import Subscriber
from engine import registry
from engine.graph import GraphBuilder
from engine.plan import Plan
from engine.planning.compile import compile
from engine.session import Session

CASES = [
    ("source.video", {"url": "0"}, "camera 0"),
    ("source.video", {"url": "/dev/video0"}, "camera 0"),
    ("source.video", {"url": "camera:Cam Link"}, "camera camera:Cam Link"),
    ("source.video", {"url": "udp://0.0.0.0:5000"}, "port 5000"),
    ("source.video", {"url": "clip.mp4"}, None),
    ("source.video", {"url": "rtsp://127.0.0.1:8554/a"}, None),
    ("source.webrtc", {"url": "http://127.0.0.1:8890/live"}, "port 8890"),
    ("sink.zmq", {"url": "tcp://*:5555"}, "port 5555"),
    ("sink.zmq", {"url": "tcp://127.0.0.1:0"}, None),
    ("sink.zmq", {"url": "ipc://live.sock"}, "file ipc://live.sock"),
    ("sink.zmq", {"url": "tcp://127.0.0.1:no"}, None),
    ("sink.rtsp", {"url": "rtsp://0.0.0.0:8554/live"}, "port 8554"),
    ("sink.webrtc", {"url": "http://127.0.0.1:8889/live?token=a"}, "port 8889"),
    ("sink.virtual_camera", {"device": "/dev/video2"}, "virtual camera /dev/video2"),
    ("sink.video", {"url": "out.mp4", "overwrite": True}, None),
    ("sink.video", {"url": "rtmp://a/live/key", "overwrite": True}, "receiver rtmp://a/live/key"),
    ("sink.video", {"url": "out/live.m3u8", "overwrite": True}, "receiver out/live.m3u8"),
    ("sink.video", {"url": "out/live.m3u8", "overwrite": False}, None),
    ("sink.table", {"url": "a.csv", "overwrite": True}, "file a.csv"),
    ("sink.table", {"url": "a.csv", "overwrite": False}, None),
    ("sink.null", {}, None),
]


@pytest.mark.parametrize(("op", "params", "what"), CASES)
def test_what_only_one_can_hold(op: str, params: dict[str, Any], what: str | None) -> None:
    target: Any = registry.find(op).target
    assert (target.exclusive(params) if registry.find(op).is_class else None) == what


def test_a_publisher_is_made_anew_at_its_port_and_subscribers_find_it_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        url = f"tcp://127.0.0.1:{held.getsockname()[1]}"

    def plan(hwm: int) -> Plan:
        g = GraphBuilder("anew", clock="live")
        g.node("src", "toy.count", count=10**7, paced=True, period=2.0)
        g.node("out", "sink.zmq", frame="src", url=url, hwm=hwm)
        return compile(g.build())

    runs: list[str] = []
    asked: list[Any] = []
    subscriber = Subscriber(url, latest=False, queue=64)

    def tick(session: Session) -> None:
        frame = subscriber.latest()
        if frame is not None and frame.header.run not in runs:
            runs.append(frame.header.run)
        if runs and not asked:
            asked.append(session.reload(plan(9)))
        if len(runs) == 2:
            session.stop()

    session = Session(plan(8))
    try:
        session.run(tick, tick_s=0.01)
    finally:
        subscriber.close()
    toys.settled(session)
    assert (asked[0].state, asked[0].reason) == ("applied", "")
    assert len(runs) == 2


def test_a_table_made_anew_in_the_same_file_has_its_own_rows_and_no_others(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"

    def plan(column: str) -> Plan:
        g = GraphBuilder("anew")
        g.node("src", "toy.count", count=10**7)
        g.node("out", "sink.table", values=["src"], url=str(path), columns=[column])
        return compile(g.build())

    asked: list[Any] = []

    def tick(session: Session) -> None:
        if session.frames_out >= 2000 and not asked:
            asked.append(session.reload(plan("second")))
        if asked and asked[0].finished and session.frames_out >= asked[0].applied_at + 50:
            session.stop()

    Session(plan("first")).run(tick, tick_s=0.001)
    lines = path.read_bytes().split(b"\r\n")
    assert lines[0] == b"seq,pts_s,epoch,second"
    assert int(lines[1].split(b",")[0]) == asked[0].applied_at
    assert b"\0" not in path.read_bytes()
