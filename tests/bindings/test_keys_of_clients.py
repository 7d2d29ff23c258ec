"""CURVE in the C and JavaScript clients, against a publisher and a control socket that ask for keys: friends only, and both ways."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import others
import pytest
import toys  # noqa: F401 - registers its operators

from bindings.python import curve
from engine.graph import GraphBuilder
from engine.planning.compile import compile
from engine.session import Session
from remote.server import Server
from remote.verbs import Verbs

PATIENCE_S = 1.5  # how long those wait that get nothing


@dataclass(frozen=True)
class Locked:
    """A graph behind keys: where it publishes, where it is controlled, whose keys there are."""

    url: str
    where: str
    keys: dict[str, curve.Keys]
    session: Session


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    folder: Path = tmp_path_factory.mktemp("keys")
    keys = {name: curve.generate() for name in ("server", "friend", "stranger")}
    files = {name: curve.write(pair, folder, name) for name, pair in keys.items()}
    g = GraphBuilder("locked", clock="live")
    g.node("src", "toy.count", count=10**7, paced=True, period=20.0)
    g.node("x", "toy.add", a="src")
    g.node("out", "sink.zmq", frame="x", url="tcp://127.0.0.1:*", key=str(files["server"][1]), allow=[str(files["friend"][0])])
    session = Session(compile(g.build()))
    verbs = Verbs(session)
    server = Server(verbs, "tcp://127.0.0.1:*", guard=curve.Guard.load(files["server"][1], [files["friend"][0]]))
    server.start()
    thread = threading.Thread(target=session.run)
    thread.start()
    try:
        wait = threading.Event()
        while not session.frames_out and getattr(session.nodes["out"].operator, "endpoint", None) is None:
            wait.wait(0.01)
        yield Locked(session.nodes["out"].operator.endpoint, server.endpoint, keys, session)
    finally:
        session.stop()
        thread.join(20)
        verbs.ended(None)
        server.close()
        verbs.close()


def pair_of(locked: Locked, who: str) -> dict[str, str]:
    """The keys that one shows: a friend's, a stranger's, or a friend's who takes somebody else for the server."""
    server = locked.keys["stranger" if who == "mistaken" else "server"]
    own = locked.keys["stranger" if who == "stranger" else "friend"]
    assert own.secret is not None
    return {"serverKey": server.public.decode(), "publicKey": own.public.decode(), "secretKey": own.secret.decode()}


def environment(locked: Locked, who: str) -> dict[str, str]:
    told = {**os.environ, "AFT_PATIENCE": str(round(1000 * (20 if who == "friend" else PATIENCE_S)))}
    if who != "nobody":
        pair = pair_of(locked, who)
        told |= {"AFT_SERVER_KEY": pair["serverKey"], "AFT_PUBLIC_KEY": pair["publicKey"], "AFT_SECRET_KEY": pair["secretKey"]}
    return told


def c(locked: Locked, who: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([str(others.probe()), *arguments], env=environment(locked, who), stdout=subprocess.PIPE, text=True)


def javascript(locked: Locked, who: str) -> subprocess.Popen[str]:
    """Three frames, then a change; how many came and what became of it."""
    options = {"timeoutMs": 1000 * (20 if who == "friend" else PATIENCE_S), **({} if who == "nobody" else {"curve": pair_of(locked, who)})}
    program = f"""
        import {{ Control, Subscriber }} from {json.dumps((others.JAVASCRIPT / "src/index.js").as_uri())};
        const options = {json.dumps(options)};
        const frames = new Subscriber({json.dumps(locked.url)}, {{ latest: false, queue: 100, ...options }});
        const control = new Control({json.dumps(locked.where)}, options);
        let count = 0;
        setTimeout(() => frames.close(), options.timeoutMs).unref?.();
        for await (const frame of frames) if (++count === 3) break;
        frames.close();
        let changed = "nothing";
        try {{ changed = (await control.set({{ "x.amount": 3 }})).seq; }} catch (error) {{ changed = error.name; }}
        control.close();
        console.log(JSON.stringify({{ count, changed }}));"""
    return subprocess.Popen([others.node(), "--input-type=module", "-e", program], stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    with process:
        try:
            return others.lines(process.communicate(timeout=60)[0])
        finally:
            process.kill()


def test_a_friend_sees_and_changes_in_c(locked: Locked) -> None:
    *frames, status = said(c(locked, "friend", "observe", locked.url, "live", "100", "3"))
    assert (len(frames), status["frames"], status["malformed"]) == (3, 3, 0)
    told = {one["what"]: one for one in said(c(locked, "friend", "control", locked.where, "x.amount", "0.5"))}
    assert told["hello"]["code"] == told["accepted"]["code"] == told["applied"]["code"] == told["done"]["code"] == 0
    released = said(c(locked, "friend", "release", locked.where, "x.amount"))
    assert [(one["what"], one["code"]) for one in released] == [("one", -8), ("all", 0)]  # this graph has no knob to release
    assert released[0]["key"] == "x.amount"


def test_a_friend_sees_and_changes_in_javascript(locked: Locked) -> None:
    (told,) = said(javascript(locked, "friend"))
    assert told["count"] == 3
    assert isinstance(told["changed"], int)
    assert locked.session.values(["x.amount"]) == {"x.amount": 3.0}


def test_nobody_else_does_in_either(locked: Locked) -> None:
    """A stranger, one without keys, and one who mistakes the server; all at once, because each of them waits for nothing."""
    before = locked.session.version
    waiting = {
        (language, who): (c(locked, who, "observe", locked.url, "live", "1", "1") if language == "c" else javascript(locked, who))
        for language in ("c", "javascript") for who in ("stranger", "nobody", "mistaken")
    }  # fmt: skip
    for (language, who), process in waiting.items():
        (told,) = said(process)
        if language == "c":
            assert (told["frames"], told["alive"]) == (0, False), who
        else:
            # Where the handshake fails the connection ends at once, and where keys meet none nothing is heard.
            assert told["count"] == 0, who
            assert told["changed"] in ("TimeoutError", "ConnectionError"), who
    assert locked.session.version == before
