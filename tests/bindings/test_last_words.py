"""What is said right before a client closes, or its program ends, arrives: in Python, JavaScript and C; also where nobody was there yet."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import others
import pytest
import zmq
from ports import free_port

COUNT = 20


class Hearer:
    """A ROUTER that only listens."""

    def __init__(self, port: int) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.bind(f"tcp://127.0.0.1:{port}")

    def requests(self, count: int) -> list[dict[str, Any]]:
        """The next requests, as many as come within the time that each may take."""
        found: list[dict[str, Any]] = []
        while len(found) < count and self.socket.poll(5_000):
            found.append(msgpack.unpackb(self.socket.recv_multipart()[-1]))
        return found

    def close(self) -> None:
        self.context.destroy(linger=0)


@contextmanager
def heard(late: bool) -> Iterator[tuple[str, threading.Event, list[Hearer]]]:
    """Where to connect; with `late`, somebody listens there only when the event is set."""
    port = free_port()
    hearers: list[Hearer] = []
    begin = threading.Event()

    def listen() -> None:
        begin.wait(20)
        hearers.append(Hearer(port))

    thread = threading.Thread(target=listen)
    thread.start()
    if not late:
        begin.set()
        thread.join()
    try:
        yield f"tcp://127.0.0.1:{port}", begin, hearers
    finally:
        begin.set()
        thread.join()
        for hearer in hearers:
            hearer.close()


def command(language: str, url: str) -> list[str]:
    if language == "c":
        return [str(others.probe()), "last", url, "x.amount", str(COUNT)]
    program = f"""
        import {{ Control }} from {json.dumps((others.JAVASCRIPT / "src/index.js").as_uri())};
        const control = new Control({json.dumps(url)});
        for (let i = 0; i < {COUNT}; i++) control.set({{ "x.amount": i }}).then(() => {{}}, () => {{}});
        control.close();"""
    return [others.node(), "--input-type=module", "-e", program]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("language", ["c", "javascript"])
def test_changes_right_before_the_end_arrive_in_order(language: str, late: bool) -> None:
    with heard(late) as (url, begin, hearers):
        client = subprocess.Popen(command(language, url), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        with client:
            try:
                if late:  # within the second that a client lingers
                    threading.Timer(0.5 if language == "c" else 0.7, begin.set).start()
                    begin.wait(20)
                while not hearers:
                    begin.wait(0.01)
                found = hearers[0].requests(COUNT)
                errors = client.communicate(timeout=30)[1]
            finally:
                client.kill()
    assert client.returncode == 0, errors
    assert [(one["op"], one["changes"]) for one in found] == [("set", {"x.amount": i}) for i in range(COUNT)]


@pytest.mark.parametrize("language", ["c", "javascript"])
def test_a_client_whose_engine_is_not_there_ends_all_the_same(language: str) -> None:
    with heard(True) as (url, _, _):
        done = subprocess.run(command(language, url), capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


def test_in_python_a_change_is_accepted_before_the_call_returns() -> None:
    """So nothing can be lost between `set` and `close`: `set` itself waits."""
    program = """
import sys
from bindings.python.control import Control, NoAnswer
with Control(sys.argv[1], timeout=1.0) as engine:
    try:
        engine.set({"x.amount": 1})
    except NoAnswer:
        print("no answer")
"""
    with heard(False) as (url, _, hearers):
        done = subprocess.run([sys.executable, "-c", program, url], capture_output=True, text=True, timeout=60, cwd=others.ROOT)
        assert done.stdout.strip() == "no answer", done.stderr
        assert [one["changes"] for one in hearers[0].requests(1)] == [{"x.amount": 1}]
