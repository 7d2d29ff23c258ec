"""The control socket: real clients in other processes, keys, floods, and bytes that nobody asked for."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import msgpack
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st
from remote_runs import ROOT, engine, environment, graph, read_until, running, until

from bindings.python import curve
from bindings.python.control import AsyncControl, Control, Lost, NoAnswer, Refused
from engine.errors import DeviceError, UsageError
from remote.request import MESSAGE_BYTES
from remote.server import Control as ControlAttachment
from remote.server import Server, check_endpoint
from remote.verbs import Verbs


def served(session: Any, endpoint: str = "tcp://127.0.0.1:*", **options: Any) -> Server:
    server = Server(Verbs(session), endpoint, **options)
    server.start()
    return server


def end(server: Server) -> None:
    server.verbs.ended(None)
    server.close()
    server.verbs.close()


@pytest.fixture
def live(tmp_path):
    with running(graph(tmp_path)) as run:
        server = served(run.session)
        yield run, server
        end(server)


@pytest.fixture
def dealer(live):
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVTIMEO, 5000)
    socket.connect(live[1].endpoint)
    yield socket
    context.destroy(0)


def answer(socket: zmq.Socket) -> dict[str, Any]:
    return msgpack.unpackb(socket.recv())


def fds() -> int:
    return len(os.listdir("/proc/self/fd"))


# ---------------------------------------------------------------- the client


def test_every_verb_through_the_client(live):
    run, server = live
    with Control(server.endpoint) as client:
        assert client.hello()["graph"] == "toys"
        assert client.describe()["nodes"]["add"]["params"]["amount"]["live"]
        receipt = client.set({"add.amount": 4.0})
        seq = receipt.wait_applied(5)
        assert (receipt.params, receipt.epoch) == (1, 0)
        assert client.get("add.amount") == {"add.amount": 4.0}
        assert client.reset("test").wait_applied(5) > seq
        ramp = client.ramp({"add.amount": 9.0}, frames=10)
        assert ramp.wait_done(5) > ramp.wait_applied(5)
        client.pause().wait_applied(5)
        held = client.set({"more.amount": 1.0})
        with pytest.raises(NoAnswer, match="has not landed"):
            held.wait_applied(0.2)
        assert client.resume().wait_applied(5) == held.wait_applied(5)
        assert client.stats()["frames"]["out"] > 0
        assert client._link._requests == {}  # what is over is forgotten
        with client.watch("params", "stats", every=0.05) as watch:
            assert {watch.next(5)["kind"] for _ in range(4)} == {"stats", "params"}
        with pytest.raises(Refused) as refused:
            client.set({"add.amount": "four"})
        assert set(refused.value.problems) == {"add.amount"}
        stop = client.stop()
        run.wait()
        server.verbs.ended(None)
        stop.wait_applied(5)


def test_the_client_for_asyncio(live):
    import asyncio

    async def talk() -> list[Any]:
        async with AsyncControl(live[1].endpoint) as client:
            receipt = await client.set({"add.amount": 2.0})
            seq = await client.applied(receipt)
            kinds = []
            async for message in client.watch("params", every=0.05):
                kinds.append(message["kind"])
                break
            return [seq == receipt.seq, kinds, await client.get("add.amount")]

    assert asyncio.run(talk()) == [True, ["params"], {"add.amount": 2.0}]


def test_nobody_listening_is_said_in_time():
    begun = time.monotonic()
    with Control("tcp://127.0.0.1:9", timeout=0.3) as client, pytest.raises(NoAnswer, match="nobody listens"):
        client.hello()
    assert time.monotonic() - begun < 5


def test_a_server_that_goes_away_ends_what_waits_for_it(tmp_path):
    with running(graph(tmp_path)) as run:
        server = served(run.session)
        with Control(server.endpoint) as client:
            client.pause().wait_applied(5)
            receipt = client.set({"add.amount": 1.0})
            watch = client.watch("stats", every=10)
            server.close()
            with pytest.raises(Lost):
                receipt.wait_applied(10)
            for message in watch:  # it ends, and says no more
                assert message["kind"] == "stats"
        server.verbs.close()


# ---------------------------------------------------------------- a client in another process, and the command


STORM = """
import json, sys, time
from bindings.python.control import Control
with Control(sys.argv[1]) as client:
    receipts, times = [], []
    for n in range(1000):
        receipts.append((time.perf_counter(), client.set({"add.amount": n % 100 / 1.0, "more.amount": -(n % 100) / 1.0})))
    seqs = [receipt.wait_applied(20) for _, receipt in receipts]
    print(json.dumps({"seqs": seqs, "params": [r.params for _, r in receipts], "numbers": [r.number for _, r in receipts],
                      "last": client.get("add.amount")["add.amount"]}))
"""


def test_a_storm_of_1000_transactions_from_another_process_lands_whole_and_in_order(live, tmp_path):
    run, server = live
    before = run.session.version
    command = [sys.executable, "-c", STORM, server.endpoint]
    done = subprocess.run(command, env=environment(tmp_path), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["seqs"] == sorted(told["seqs"])
    assert told["params"] == sorted(told["params"])
    assert told["numbers"] == sorted(set(told["numbers"]))
    assert told["last"] == 99.0
    landed = sum(len(changes) > 0 for _, changes in run.session.recording.changes)
    assert landed == run.session.version - before <= 1000  # several transactions may share a frame
    until(lambda: run.session.nodes["sink"].operator.taken[-1].seq > told["seqs"][-1])
    assert {t.value - t.seq for t in run.session.nodes["sink"].operator.taken} == {0.0}  # both halves of each, on one frame, always
    run.session.stop()
    run.wait()
    run.session.check()


def test_the_command_serves_and_ends_by_a_stop(tmp_path):
    path = graph(tmp_path)
    with engine(tmp_path, "run", str(path), "--control", "tcp://127.0.0.1:*", "--json") as process:
        endpoint = read_until(process.stderr, "control: ").split()[1].rstrip(",")
        with Control(endpoint) as client:
            client.set({"add.amount": 3.0}).wait_applied(10)
            stop = client.stop()
            stop.wait_applied(10)  # told after the last frame, before the process goes
        out, _ = process.communicate(timeout=20)
        summary = json.loads(out)
        assert (process.returncode, summary["exit_code"]) == (0, 0)
        frames = summary["frames"]
        assert frames["in"] == frames["out"] + sum(frames["drops"].values()) > 0
        assert summary["events"]["set"] == 1


@pytest.mark.skipif(os.name != "posix", reason="SIGSTOP")
def test_a_client_that_is_frozen_holds_nobody_up(live, tmp_path):
    _, server = live
    code = """
import sys, time
from bindings.python.control import Control
client = Control(sys.argv[1])
watch = client.watch("stats", "events", every=0.05)
print("watching", flush=True)
time.sleep(60)
"""
    frozen = subprocess.Popen(
        [sys.executable, "-c", code, server.endpoint], env=environment(tmp_path), cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        read_until(frozen.stdout, "watching")
        frozen.send_signal(signal.SIGSTOP)
        for n in range(20_000):
            server.verbs.event({"at": n, "what": "noise", "node": "", "seq": n, "text": "x" * 200})
        with Control(server.endpoint) as client:
            assert client.set({"add.amount": 1.0}).wait_applied(5) is not None
        (waiting,) = until(lambda: (busy := [c for c in server.clients.values() if server.verbs.busy(c)]) and len(busy) == 1 and busy)
        assert len(waiting.queue) < 20_000
    finally:
        frozen.kill()
        frozen.communicate()
    until(lambda: not any(server.verbs.busy(c) for c in server.clients.values()))  # it has gone, and its watch with it


def test_twenty_clients_come_and_go_and_leave_nothing(tmp_path):
    with running(graph(tmp_path)) as run:
        server = served(run.session, clients=8)
        threads, open_files = threading.active_count(), fds()
        for _ in range(20):
            client = Control(server.endpoint)
            client.set({"add.amount": 1.0}).wait_applied(5)
            client.close()
            server.clients.clear()  # their places are given up after a while; here at once
        until(lambda: threading.active_count() == threads)
        until(lambda: fds() <= open_files)
        end(server)
    run.session.check()


def test_more_clients_than_places_are_told_so(live):
    run, _ = live
    server = served(run.session, clients=1)
    with Control(server.endpoint) as first, Control(server.endpoint) as second:
        first.hello()
        with pytest.raises(Refused, match="served already"):
            second.hello()
        first.hello()
    end(server)


# ---------------------------------------------------------------- keys


@pytest.fixture
def keys(tmp_path):
    folder = tmp_path / "keys"
    for name in ("server", "friend", "stranger"):
        curve.write(curve.generate(), folder, name)
    return folder


def test_ipv6(tmp_path):
    try:
        with socket.socket(socket.AF_INET6) as free:
            free.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 on this machine")
    with running(graph(tmp_path)) as run:
        server = served(run.session, "tcp://[::1]:*")
        try:
            assert server.endpoint.startswith("tcp://[::1]:")
            with Control(server.endpoint) as client:
                assert client.hello()["graph"] == "toys"
        finally:
            end(server)


def test_only_allowed_keys_are_let_in(tmp_path, keys):
    with running(graph(tmp_path)) as run:
        guard = curve.Guard.load(keys / "server.key_secret", [keys / "friend.key"])
        server = served(run.session, guard=guard)
        try:
            own = {"server_key": keys / "server.key"}
            with Control(server.endpoint, key=keys / "friend.key_secret", **own) as friend:
                assert friend.hello()["graph"] == "toys"
            misled = {"server_key": keys / "stranger.key", "key": keys / "friend.key_secret"}
            for shut_out, why in (
                ({**own, "key": keys / "stranger.key_secret"}, "on the list"), ({}, "asks for keys"), (misled, "handshake fails"),
            ):  # fmt: skip
                with Control(server.endpoint, timeout=0.5, **shut_out) as client, pytest.raises(NoAnswer, match=why) as caught:
                    client.stop()
                assert "server_key" in caught.value.fix
            assert not run.session.draining.is_set()
            with Control(server.endpoint, key=keys / "friend.key_secret", **own) as friend:
                assert friend.hello()["graph"] == "toys"
        finally:
            end(server)


def test_keys_are_files_that_are_never_replaced_nor_shown(keys):
    if os.name == "posix":
        assert (keys / "server.key_secret").stat().st_mode & 0o077 == 0
    with pytest.raises(curve.KeyProblem, match="there already"):
        curve.write(curve.generate(), keys, "server")
    pair = curve.read(keys / "server.key_secret", secret=True)
    assert pair.secret.decode() not in repr(pair)
    assert pair.secret.decode() not in (keys / "server.key").read_text()
    with pytest.raises(curve.KeyProblem, match="no secret key"):
        curve.read(keys / "server.key", secret=True)
    assert curve.read(pair.public.decode()).public == pair.public
    (keys / "none").mkdir()
    with pytest.raises(curve.KeyProblem, match="empty"):
        curve.allowed([keys / "none"])
    assert len(curve.allowed([keys])) == 3


@pytest.mark.parametrize("endpoint", ["tcp://*:5599", "tcp://0.0.0.0:5599", "tcp://192.168.1.4:5599", "tcp://example.org:5599", "tcp://[::]:5599"])
def test_what_others_can_reach_needs_keys_or_to_be_asked_for(endpoint, keys):
    with pytest.raises(UsageError, match="other machines"):
        ControlAttachment(endpoint)
    ControlAttachment(endpoint, insecure=True)
    ControlAttachment(endpoint, key=str(keys / "server.key_secret"), allow=[str(keys / "friend.key")])
    with pytest.raises(UsageError, match="nobody could connect"):
        ControlAttachment(endpoint, key=str(keys / "server.key_secret"))


@pytest.mark.parametrize(
    ("written", "meant"),
    [("5570", "tcp://127.0.0.1:5570"), ("127.0.0.1:1", "tcp://127.0.0.1:1"), ("ipc://x.sock", "ipc://x.sock"), ("tcp://localhost:2", "tcp://localhost:2")],
)
def test_endpoints(written, meant):
    assert check_endpoint(written) == meant
    assert curve.local(meant)
    with pytest.raises(UsageError):
        check_endpoint("http://127.0.0.1:80")


@pytest.mark.parametrize("written", ["99999999", "127.0.0.1:65536", "tcp://*:x", "tcp://localhost"])
def test_what_is_no_port(written):
    with pytest.raises(UsageError, match="no port"):
        check_endpoint(written)


def test_a_port_that_is_taken_is_said(live):
    with pytest.raises(DeviceError, match="cannot listen"):
        served(live[0].session, live[1].endpoint)


# ---------------------------------------------------------------- what nobody should send


@pytest.mark.parametrize(
    "parts",
    [
        [b""], [b"\xc1"], [b"hello"], [b"\x81"], [msgpack.packb([1, 2])], [b"", b""], [b"a", b"b", b"c"], [msgpack.packb({1: 2})],
        [b"\xdf\xff\xff\xff\xff"], [b"\x91" * 5000], [b"\x81\xa1v\xc7\x04\x05aaaa"], [msgpack.packb({"v": 1, "id": 1, "op": "hello"})] * 300,
    ],
)  # fmt: skip
def test_malformed_messages_get_a_typed_answer(live, dealer, parts):
    dealer.send_multipart(parts)
    told = answer(dealer)
    assert (told["kind"], told["id"]) == ("refused", None)
    assert told["error"]["type"] in ("BadRequest", "TooLarge", "BadVersion")
    dealer.send(msgpack.packb({"v": 1, "id": 5, "op": "hello"}))
    assert answer(dealer)["id"] == 5


def test_a_message_that_is_too_large_ends_its_own_connection_only(live, dealer):
    run, server = live
    with Control(server.endpoint) as other:
        other.hello()
        dealer.send(msgpack.packb({"v": 1, "id": 1, "op": "reset", "reason": "x" * (MESSAGE_BYTES + 1)}))
        assert other.set({"add.amount": 1.0}).wait_applied(5) is not None
    assert run.session.epoch == 0
    with Control(server.endpoint) as big, pytest.raises(Refused, match="too large"):
        big.set({"add.amount": "x" * MESSAGE_BYTES})


@given(parts=st.lists(st.binary(max_size=200), min_size=1, max_size=3))
@settings(max_examples=300, deadline=None)
def test_random_bytes_break_nothing(shared, parts):
    run, socket = shared
    socket.send_multipart(parts)
    assert answer(socket)["kind"] in ("refused", "answer")
    assert run.error is None


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with running(graph(tmp_path_factory.mktemp("shared"))) as run:
        server = served(run.session)
        context = zmq.Context()
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.RCVTIMEO, 5000)
        socket.connect(server.endpoint)
        yield run, socket
        context.destroy(0)
        end(server)
        run.session.stop()
        run.wait()
        run.session.check()


class Parting:
    """Verbs whose run ends as soon as it is asked to."""

    def __init__(self) -> None:
        self.asked: queue.Queue[tuple[int, Any]] = queue.Queue()

    def handle(self, request: Any, reply: Any) -> None:
        reply({"v": 1, "id": request["id"], "kind": "accepted", "receipt": 1})
        self.asked.put((request["id"], reply))

    def forget(self, reply: Any) -> None:
        pass


def test_what_is_said_last_arrives():
    for _ in range(15):
        verbs = Parting()
        server = Server(verbs, "tcp://127.0.0.1:*")  # type: ignore[arg-type]
        server.start()

        def part(verbs: Parting = verbs, server: Server = server) -> None:
            number, reply = verbs.asked.get(timeout=10)
            reply({"v": 1, "id": number, "kind": "applied", "receipt": 1, "seq": None})
            server.close()

        thread = threading.Thread(target=part)
        thread.start()
        with Control(server.endpoint) as client:
            client.stop().wait_applied(5)
        thread.join()
