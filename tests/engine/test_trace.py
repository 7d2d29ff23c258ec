"""Traces: valid JSON, one track a lane, a frame followed across them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import toys  # noqa: F401 - registers the operators

from engine.errors import MediaError
from engine.graph import GraphBuilder
from engine.planning.compile import compile
from engine.session import Session
from engine.trace import Ring, chrome_trace, write_trace


def run(executor: str) -> Session:
    g = GraphBuilder("t", clock="offline")
    g.node("src", "toy.count", count=5, cut_at=[3])
    g.node("x", "toy.add", a="src", lane="one")
    g.node("y", "toy.add", a="x", lane="two")
    g.node("sink", "toy.collect", a="y")
    session = Session(compile(g.build()), executor=executor, costs={"x": 1000, "y": 2000})
    session.set({"x.amount": 1.0})
    session.run()
    return session


@pytest.mark.parametrize("executor", ["inline", "threaded"])
def test_a_frame_is_followed_across_lanes(executor: str, tmp_path: Path) -> None:
    session = run(executor)
    trace = chrome_trace({name: lane.trace for name, lane in session.lanes.items()}, session.events, about={"plan": session.plan.hash})
    path = tmp_path / "t.json"
    write_trace(path, trace)
    again = json.loads(path.read_text())
    events = again["traceEvents"]
    tracks = {e["tid"]: e["args"]["name"] for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    assert sorted(tracks.values()) == ["in:src", "one", "out", "two"]
    calls = [e for e in events if e["ph"] == "X" and e["cat"] in ("call", "source")]
    assert sorted({e["name"] for e in calls}) == ["sink", "src", "x", "y"]
    assert all(e["dur"] >= 0 and e["ts"] >= 0 for e in calls)
    for seq in range(3):
        flow = [e for e in events if e.get("cat") == "frame" and e["id"] == f"0.{seq}"]
        assert [e["ph"] for e in flow] == ["s", "t", "t", "f"]
        assert [tracks[e["tid"]] for e in flow] == ["in:src", "one", "two", "out"]
        assert [e["ts"] for e in flow] == sorted(e["ts"] for e in flow)
    assert not [e for e in events if e.get("cat") == "frame" and "-" in e["id"]], "opening is nobody's frame"
    said = {e["name"] for e in events if e["ph"] == "i"}
    assert {"set", "epoch"} <= said
    assert again["otherData"]["plan"] == session.plan.hash


def test_a_ring_keeps_the_last_records_in_order() -> None:
    ring = Ring(3)
    for i in range(5):
        ring.add(i, i + 1, "call", "x", i, 0)
    assert [r[0] for r in ring.records()] == [2, 3, 4]


def test_virtual_times_are_exact() -> None:
    session = run("inline")
    spent = [r[1] - r[0] for r in session.lanes["two"].trace.records() if r[2] == "call"]
    assert spent == [2000] * 5


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="cannot write the trace"):
        write_trace(tmp_path / "no" / "t.json", chrome_trace({}))


@pytest.mark.parametrize("executor", ["inline", "threaded"])
def test_an_operator_measures_frames_and_times_parts_of_its_calls(executor: str) -> None:
    g = GraphBuilder("t", clock="offline")
    g.node("src", "toy.count", count=3)
    g.node("x", "toy.measures", a="src")
    g.node("sink", "toy.collect", a="x")
    session = Session(compile(g.build()), executor=executor)
    session.run()
    assert list(session.series["x"]) == [(0, {"twice": 0.0}), (1, {"twice": 2.0}), (2, {"twice": 4.0})]
    trace = chrome_trace({name: lane.trace for name, lane in session.lanes.items()})["traceEvents"]
    parts = [e for e in trace if e.get("cat") == "part"]
    assert [(e["name"], e["args"]["seq"]) for e in parts] == [("x.inner", 0), ("x.inner", 1), ("x.inner", 2)]
    calls = {e["args"]["seq"]: e for e in trace if e.get("cat") == "call" and e["name"] == "x"}
    for part in parts:
        call = calls[part["args"]["seq"]]
        assert call["ts"] <= part["ts"]
        assert part["ts"] + part["dur"] <= call["ts"] + call["dur"]
    assert [e["ph"] for e in trace if e.get("cat") == "frame" and e["id"] == "0.1"].count("t") == 1  # a part is no stop of the frame
