"""One running graph, seen by the Python, JavaScript and C clients at once: the same frames, the same bytes, and receipts that are true."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import others
import pytest
from ports import free_port

from bindings.python import Subscriber
from bindings.python.control import Control, NoAnswer

GRAPH = """
[graph]
name = "seen"
clock = "live"
budget_ms = 500
[node.figure]
op = "source.figure"
size = 64
fps = 15.0
[node.color]
op = "image.color"
in.image = "figure.image"
[node.out]
op = "sink.zmq"
url = "{url}"
hwm = 1000
in.frame = "color"
"""


@contextmanager
def running(folder: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """`engine run` on GRAPH: the process, where it publishes, where it is controlled."""
    frames, control = (f"tcp://127.0.0.1:{port}" for port in (free_port(), free_port()))
    path = folder / "seen.toml"
    path.write_text(GRAPH.format(url=frames))
    command = [sys.executable, "-m", "engine", "run", str(path), "--control", control, "--quiet", "--no-govern", *more]
    environment = {**os.environ, "PYTHONPATH": str(others.ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process, frames, control
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def fnv(data: bytes) -> str:
    value = 14695981039346656037
    for byte in data:
        value = (value ^ byte) * 1099511628211 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def answering(control: Control, process: subprocess.Popen[str]) -> None:
    """Wait until the engine is there: it takes seconds to load on a busy machine."""
    for _ in range(12):
        assert process.poll() is None, process.communicate()[0]
        try:
            control.stats()
            return
        except NoAnswer:
            continue
    raise AssertionError("the engine never answered")


@dataclass(frozen=True)
class Live:
    """A running graph: where it publishes, where it is controlled, its page."""

    url: str
    where: str
    page: str
    control: Control


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One engine for all tests of this file; the last one stops it."""
    others.node(), others.probe()  # skip before anything is started
    port = free_port()
    with running(tmp_path_factory.mktemp("live"), "--web", f"127.0.0.1:{port}") as (engine, url, where), Control(where) as control:
        answering(control, engine)
        assert engine.stdout is not None
        page = next(found[0] for line in engine.stdout if (found := re.search(r"http://\S+", line)))
        yield Live(url, where, page, control)


def test_a_refused_change_says_why_in_every_language(live: Live) -> None:
    node, probe, control, where = others.node(), others.probe(), live.control, live.where
    in_c = others.lines(subprocess.run([str(probe), "refused", where, "color.gamma"], capture_output=True, text=True, timeout=30).stdout)[0]
    program = f"""
        import {{ Control }} from {json.dumps((others.JAVASCRIPT / "src/index.js").as_uri())};
        const control = new Control({json.dumps(where)});
        try {{ await control.set({{ "color.gamma": "not what it takes", "no.such": 1 }}); }}
        catch (error) {{ console.log(JSON.stringify({{ name: error.name, problems: error.problems, message: error.message }})); }}
        control.close();"""
    done = subprocess.run([node, "--input-type=module", "-e", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    in_javascript = json.loads(done.stdout)
    unchanged = control.get("color.gamma")
    assert in_c["code"] == -8
    assert in_c["key"] in ("no.such", "color.gamma")
    assert "no node 'no'" in in_c["message"]
    assert in_javascript["name"] == "RefusedError"
    assert set(in_javascript["problems"]) == {"no.such", "color.gamma"}
    assert unchanged in (1, {"color.gamma": 1})


def test_the_preview_is_seen_and_changed_from_javascript(live: Live) -> None:
    node = others.node()
    address = live.page
    program = [node, "--experimental-websocket", "--no-warnings", str(others.JAVASCRIPT / "test/preview.mjs")]
    asked = ["color.brightness", "0.25", "6"]
    done = subprocess.run([*program, address, *asked], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["before"] == 0
    assert found["malformed"] == 0
    assert {output["of"] for output in found["outputs"]} == {"figure.image", "color.image"}
    assert [f["seq"] for f in found["frames"]] == sorted({f["seq"] for f in found["frames"]})
    assert found["frames"][-1]["seq"] >= found["seq"]
    assert found["frames"][-1]["params"] == found["params"]
    assert all((f["enc"], f["type"], f["shape"], f["start"]) == ("jpeg", "Image", [64, 64, 3], [0xFF, 0xD8]) for f in found["frames"])
    wrong = re.sub("token=.*", "token=wrong", address)
    stranger = subprocess.run([*program, wrong, *asked], capture_output=True, text=True, timeout=60)
    assert stranger.returncode != 0
    assert "is the token right?" in stranger.stderr


def test_python_javascript_and_c_see_the_same_and_change_the_same(live: Live) -> None:
    node, probe, control, where, url = others.node(), others.probe(), live.control, live.where, live.url
    seen: list[dict[str, Any]] = []
    subscriber = Subscriber(url, latest=False, queue=1000)

    def watch() -> None:
        for frame in subscriber:
            h = frame.header
            place = {"seq": h.seq, "n": h.n, "epoch": h.epoch, "params": h.params, "shape": list(h.shape)}
            seen.append({**place, "fnv": fnv(frame.payload[0]), "lat": dict(frame.lat), "age_ms": (h.sent - h.born) / 1e6})

    watcher = threading.Thread(target=watch)
    watcher.start()
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    observe = str(others.JAVASCRIPT / "test/observe.mjs")
    javascript = subprocess.Popen([node, observe, url, "live", where, "color.contrast", "1.25"], **pipes)
    c = subprocess.Popen([str(probe), "observe", url, "live", "1000", "0"], **pipes)
    try:
        first = [json.loads(javascript.stdout.readline())]
        changed = subprocess.run([str(probe), "control", where, "color.saturation", "0.5"], capture_output=True, text=True, timeout=60)
        ours = control.set({"color.brightness": 0.125})
        ours.wait_applied(30)
        while len(first) < 25 or not any("receipt" in line for line in first):
            first.append(json.loads(javascript.stdout.readline()))
        control.stop()
        rest, js_errors = javascript.communicate(timeout=60)
        c_out, c_errors = c.communicate(timeout=60)
    finally:
        javascript.kill()
        c.kill()
        watcher.join(30)
        subscriber.close()
    assert javascript.returncode == 0, js_errors
    assert c.returncode == 0, c_errors
    in_javascript, in_c, told = [*first, *others.lines(rest)], others.lines(c_out), others.lines(changed.stdout)

    # the same frames, with the same bytes
    views = {"python": seen, "javascript": [f for f in in_javascript if "seq" in f], "c": [f for f in in_c if "seq" in f]}
    keys = ("seq", "n", "epoch", "params", "shape", "fnv", "lat")
    since = max(frames[0]["n"] for frames in views.values())
    common = {name: [{key: f[key] for key in keys} for f in frames if f["n"] >= since] for name, frames in views.items()}
    assert len(common["python"]) >= 20
    assert common["javascript"] == common["python"]
    assert common["c"] == common["python"]

    # where their time went: the one node between source and sink, in milliseconds of the frame's age
    assert all(list(f["lat"]) == ["color"] and 0 < f["lat"]["color"] <= f["age_ms"] for f in seen)

    # the same account of what was missed, and of the end
    assert in_javascript[-1]["end"] == in_c[-1]["reason"] == "stopped" == subscriber.end.reason
    assert in_javascript[-1]["lost"] == in_c[-1]["lost"] == subscriber.counts.lost == 0
    for frames in views.values():
        assert all(a["n"] + 1 == b["n"] for a, b in itertools.pairwise(frames))
    assert all(f["latency_ms"] >= f["age_ms"] > 0 for name in ("javascript", "c") for f in views[name])

    # receipts: from the frame that they name, and from no earlier one, frames are made with the change
    by_javascript = next(f for f in in_javascript if "receipt" in f)
    assert (by_javascript["before"], by_javascript["after"]) == (1, 1.25)
    by_c = {f["what"]: f for f in told}
    assert by_c["applied"]["code"] == by_c["done"]["code"] == by_c["reset applied"]["code"] == 0
    assert [f["value"] for f in told if f["what"] == "get"] == [1, 0.5, 0.25]
    receipts = [by_javascript["receipt"], by_c["applied"], {"seq": ours.seq, "params": ours.params}]
    for receipt in receipts:
        assert all((f["seq"] >= receipt["seq"]) == (f["params"] >= receipt["params"]) for f in seen), receipt
    assert by_c["done"]["last"] > by_c["done"]["seq"] >= by_c["applied"]["seq"]
    assert seen[-1]["epoch"] == 1  # the probe asked for a reset
