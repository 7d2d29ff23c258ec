"""Peers whose connection stays open and says nothing: frozen with SIGSTOP, or behind a network that has swallowed them.

RTSP sources and receivers, ZeroMQ subscribers, RTSP viewers and control clients that freeze are in test_source_live, test_sink_faults,
test_sink_zmq, test_sink_rtsp and test_server; here are the engine that freezes under its clients, viewers of the preview, and true half-open
links (a network namespace whose cable is pulled: no FIN and no RST; needs root and `ip`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from remote_runs import ROOT, engine, graph, read_until, running, until
from shown import Socket, film, shown

from bindings.python import Subscriber
from bindings.python.control import Control, Lost, NoAnswer
from remote.server import Server
from remote.verbs import Verbs

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no SIGSTOP here")

PUBLISHED = """
[node.wire]
op = "sink.zmq"
url = "{url}"
in.frame = "more"
"""


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str, str]]:
    """An engine in a process of its own that can be stopped: the process, its control endpoint, where it publishes."""
    folder = tmp_path_factory.mktemp("frozen")
    url = f"ipc://{folder}/live.sock"
    path = graph(folder, period=5.0, more=PUBLISHED.format(url=url))
    with engine(folder, "run", str(path), "--control", "tcp://127.0.0.1:*", "--quiet", stdout=subprocess.DEVNULL) as process:
        yield process, read_until(process.stderr, "control: ").split()[1].rstrip(","), url
        process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def stopped(process: Any) -> Iterator[None]:
    process.send_signal(signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)  # its last thread stands still: before that one of them might answer
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def test_a_control_client_of_a_frozen_engine_is_told_in_time_and_goes_on_when_it_thaws(frozen: Any) -> None:
    process, where, _ = frozen
    with Control(where, timeout=1.0) as client:
        until(lambda: answers(client))
        with stopped(process):
            begun = time.monotonic()
            with pytest.raises(NoAnswer):
                client.set({"add.amount": 2.0})
            assert time.monotonic() - begun < 4
        until(lambda: answers(client), 30)
        client.set({"add.amount": 3.0}).wait_applied(20)
        assert client.get("add.amount") == {"add.amount": 3.0}


def answers(client: Control) -> bool:
    try:
        client.stats()
    except (NoAnswer, Lost):
        return False
    return True


def test_a_subscriber_of_a_frozen_publisher_says_so_and_sees_the_present_when_it_thaws(frozen: Any) -> None:
    process, _, url = frozen
    with Subscriber(url) as frames:
        first = frames.read(30)
        assert first is not None
        assert frames.alive
        with stopped(process):
            until(lambda: not frames.alive, 20)
            with contextlib.suppress(TimeoutError):
                while frames.read(0.3) is not None:  # what had come before is read, and then nothing
                    pass
            assert not frames.alive
        until(lambda: frames.alive and (found := frames.latest()) is not None and found.age_now_ms() < 1000, 30)
        assert frames.latest().seq > first.seq  # type: ignore[union-attr]


VIEWER = """
import json, struct, sys
from websockets.sync.client import connect
with connect(sys.argv[1], max_size=None, compression=None, proxy=None) as socket:
    socket.send(json.dumps({"v": 1, "id": 1, "op": "view", "codecs": ["jpeg"]}))
    while True:
        data = socket.recv()
        if isinstance(data, bytes):
            (size,) = struct.unpack_from("<I", data)
            socket.send(json.dumps({"v": 1, "op": "shown", "n": json.loads(data[4 : 4 + size])["n"]}))
            print("seen", flush=True)
"""


def test_a_viewer_that_freezes_holds_neither_the_graph_nor_other_viewers_up() -> None:
    with shown(film(fps=60, width=640, height=360)) as run:
        url = f"ws://127.0.0.1:{run.port}/ws?token={run.token}"
        viewer = subprocess.Popen([sys.executable, "-c", VIEWER, url], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            read_until(viewer.stdout, "seen")
            viewer.send_signal(signal.SIGSTOP)
            with run.socket() as raw:
                other = Socket(raw)
                other.ask("view", codecs=["jpeg"])
                seqs = []
                for _ in range(60):
                    header, _ = other.frame()
                    seqs.append(header["seq"])
                    other.socket.send(json.dumps({"v": 1, "op": "shown", "n": header["n"]}))
                assert seqs == sorted(seqs)
                newest = run.session.gates["film"].turn[0]
                assert newest - seqs[-1] < 60  # it is in the present
        finally:
            viewer.kill()
            viewer.communicate()
        until(lambda: run.preview.server is not None and not run.preview.server._site.viewers, 20)


# ---------------------------------------------------------------- a cable that is pulled

SPACE, NEAR, FAR = "aft-half-open", "10.213.77.1", "10.213.77.2"


@pytest.fixture
def cable() -> Iterator[Any]:
    """Call it to pull the cable to the other network namespace. Skips where there is none to be had."""
    ip = shutil.which("ip")
    if ip is None or os.name != "posix" or os.geteuid() != 0:
        pytest.skip("a network namespace of one's own needs root and ip")
    commands = (
        f"netns add {SPACE}", "link add aft-near type veth peer name aft-far", f"link set aft-far netns {SPACE}",
        f"addr add {NEAR}/24 dev aft-near", "link set aft-near up",
        f"-n {SPACE} addr add {FAR}/24 dev aft-far", f"-n {SPACE} link set aft-far up",
    )  # fmt: skip
    try:
        for command in commands:
            done = subprocess.run([ip, *command.split()], capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"no network namespace here: {done.stderr.strip()}")
        yield lambda: subprocess.run([ip, "-n", SPACE, "link", "set", "aft-far", "down"], check=True)
    finally:
        subprocess.run([ip, "netns", "del", SPACE], capture_output=True)
        subprocess.run([ip, "link", "del", "aft-near"], capture_output=True)


CLIENT = """
import sys, time
from bindings.python.control import Control, ControlError
client = Control(sys.argv[1], timeout=5.0)
watch = client.watch("stats", every=0.05)
watch.next(20)
print("watching", flush=True)
begun = time.monotonic()
try:
    while True:
        watch.next(60)
except ControlError as error:
    print(type(error).__name__, round(time.monotonic() - begun, 1), flush=True)
"""


@pytest.mark.slow
def test_both_ends_of_a_control_link_whose_cable_is_pulled_find_out(cable: Any, tmp_path: Path) -> None:
    with running(graph(tmp_path)) as run:
        verbs = Verbs(run.session)
        server = Server(verbs, f"tcp://{NEAR}:*", insecure=True)
        server.start()
        command = ["ip", "netns", "exec", SPACE, sys.executable, "-c", CLIENT, server.endpoint]
        client = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            read_until(client.stdout, "watching")
            (peer,) = server.clients.values()
            cable()
            begun = time.monotonic()
            assert client.stdout is not None
            word, seconds = client.stdout.readline().split()
            assert word == "Lost"
            assert float(seconds) < 30  # heartbeats: after 9 s, and what a busy machine takes
            until(lambda: not verbs.busy(peer), 40)  # here its watch has ended too
            assert time.monotonic() - begun < 40
            with Control(server.endpoint) as other:  # this side of the cable
                assert other.set({"add.amount": 1.0}).wait_applied(10) is not None
        finally:
            client.kill()
            client.communicate()
            server.close()
            verbs.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "control"]


READER = """
import sys, time
from bindings.python import Subscriber
with Subscriber(sys.argv[1]) as frames:
    frames.read(20)
    print("seen", flush=True)
    begun = time.monotonic()
    while frames.alive or frames.connected:
        time.sleep(0.05)
    print("gone", round(time.monotonic() - begun, 1), flush=True)
"""


@pytest.mark.slow
def test_both_ends_of_a_stream_whose_cable_is_pulled_find_out(cable: Any, tmp_path: Path) -> None:
    """A publisher that went on for nobody would encode for nobody."""
    more = PUBLISHED.format(url=f"tcp://{NEAR}:*") + "insecure = true\n"
    with running(graph(tmp_path, period=10.0, more=more)) as run:
        sink = run.session.nodes["wire"].operator
        command = ["ip", "netns", "exec", SPACE, sys.executable, "-c", READER, sink.endpoint]
        reader = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            read_until(reader.stdout, "seen")
            assert sink.stream.subscribers == 1
            cable()
            assert reader.stdout is not None
            word, seconds = reader.stdout.readline().split()
            assert word == "gone"
            assert float(seconds) < 40
            until(lambda: sink.stream.subscribers == 0, 60)
        finally:
            reader.kill()
            reader.communicate()
