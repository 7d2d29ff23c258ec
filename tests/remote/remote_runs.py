"""What the tests of remote/ share: graphs of toys, a session on a thread of its own, and the real command in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import toys  # noqa: F401 - registers its operators

from engine import operator
from engine.cli.inspect import compiled
from engine.payload import Prompt, Scalar, Text
from engine.session import Session

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
COMMAND = [sys.executable, "-c", "import sys; from engine.cli import main; sys.exit(main())"]

GRAPH = """
[graph]
name = "toys"
clock = "{clock}"
[node.source]
op = "toy.count"
count = {count}
period = {period}
paced = {paced}
[node.add]
op = "toy.add"
in.a = "source"
[node.more]
op = "toy.add"
in.a = "add"
[node.sink]
op = "toy.collect"
in.a = "more"
"""


@operator("toy.tells")
def prompted(a: Scalar, prompt: Prompt | None = None) -> Text:
    """What the prompt says, and over how many frames it should be blended in."""
    return Text(f"{prompt.text}|{prompt.blend}" if prompt else "")


def graph(folder: Path, *, clock: str = "live", count: int = 10**6, period: float = 2.0, paced: bool = True, more: str = "") -> Path:
    """A counting graph: source, add, more, sink."""
    path = folder / "toys.toml"
    text = GRAPH.format(clock=clock, count=count, period=period, paced=str(paced).lower()) + more
    path.write_text(text, encoding="utf-8")
    return path


class Running:
    """A session that runs on a thread. `error` is what ended it."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.session.run()
        except Exception as error:
            self.error = error

    def start(self) -> None:
        self._thread.start()

    def wait(self, timeout: float = 20.0) -> None:
        self._thread.join(timeout)
        assert not self._thread.is_alive(), "the session did not end"


@contextmanager
def running(path: Path, **options: Any) -> Iterator[Running]:
    """The graph at `path` while it runs, from its first frame on."""
    run = Running(Session(compiled(str(path)), **options))
    run.start()
    try:
        until(lambda: run.session.frames_out > 0 or run.error)
        yield run
    finally:
        run.session.stop()
        run.wait()
        run.session.check()  # nothing was lost without a cause, whatever was done to it


def until(ready: Callable[[], Any], seconds: float = 15.0) -> Any:
    """Wait for what other threads or processes do; fails after `seconds`."""
    tick = threading.Event()
    for _ in range(round(seconds / 0.005)):
        found = ready()
        if found:
            return found
        tick.wait(0.005)
    raise AssertionError("it never came")


class Ear:
    """A reply: keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def __call__(self, message: dict[str, Any]) -> None:
        self.messages.append(message)

    def of(self, number: int | None, *kinds: str) -> list[dict[str, Any]]:
        return [m for m in list(self.messages) if m["id"] == number and (not kinds or m["kind"] in kinds)]

    def one(self, number: int, kind: str) -> dict[str, Any]:
        """The message of this kind, waiting for it; fails where there are several."""
        until(lambda: self.of(number, kind))
        (found,) = self.of(number, kind)
        return found


def environment(folder: Path) -> dict[str, str]:
    """An environment in which the operators of toys.py are installed, found through PYTHONPATH."""
    info = folder / "toys-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[afterimage.operators]\ntoy = toys\n")
    paths = [str(folder), str(TESTS), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p), "PYTHONUNBUFFERED": "1"}


@contextmanager
def engine(folder: Path, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """The real command, ended for good when the block is left."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    process = subprocess.Popen([*COMMAND, *arguments], env=environment(folder), cwd=folder, text=True, **streams)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def read_until(stream: Any, word: str) -> str:
    """Lines of `stream` up to the one with `word` in it; the test's timeout is the deadline. Returns that line."""
    seen = ""
    for line in stream:
        seen += line
        if word in line:
            return str(line)
    raise AssertionError(f"{word!r} never came: {seen}")
