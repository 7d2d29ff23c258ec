"""One stream: its process, the connection to it, and what is known of its health.

Health is frames that arrive: a process that lives and answers but brings no frames is ill. A frame that came to a sink which nobody watches
has arrived too. Invariant: between `start` and `gone` there is
exactly one process, and everything that belongs to it (pipes, thread, connection) ends with it; nothing here waits for the process. When to
start again is the supervisor's to know.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remote.serve.log import Log
from remote.serve.policy import History
from remote.serve.streams import Stream
from remote.server import SUPERVISED

if TYPE_CHECKING:
    from bindings.python.control import Control, Watch

EVERY_S = 0.5  # between two reports of the child
KILL_S = 5.0


class Child:
    """A stream of the folder. `state` is what it says of itself while it runs, else starting, waiting, resting, broken, stopping or ended."""

    def __init__(self, name: str, stream: Stream, folder: Path, log: Log) -> None:
        self.name, self.stream, self.folder, self.log = name, stream, folder, log
        self.state, self.why = "waiting", ""
        self.history = History()
        self.starts = 0
        self.due: float | None = 0.0  # when to start, on the monotonic clock
        self.stats: dict[str, Any] = {}
        self.endpoint = ""
        self.process: subprocess.Popen[str] | None = None
        self.started = self.heard = self.moved = self.healthy = 0.0
        self.last_exit: int | None = None
        self.stopping = 0.0
        self.ended_by = ""
        self._out = -1
        self._client: Control | None = None
        self._watch: Watch | None = None
        self._reader: Any = None
        self._seen = self.stamp()

    # ---- the process

    def start(self) -> None:
        """Start the process. Raises OSError."""
        stream, now = self.stream, time.monotonic()
        command = [sys.executable, "-m", "engine", "run", stream.graph, "--control", stream.control]
        command += [word for change in stream.set for word in ("--set", change)] + [w for param in stream.param for w in ("--param", param)]
        command += ["--embedded"] * stream.embedded + stream.options
        environment = {**os.environ, **stream.environment(), SUPERVISED: "1", "PYTHONUNBUFFERED": "1"}
        own: dict[str, Any] = {"start_new_session": True} if os.name == "posix" else {"creationflags": 0x200}  # Ctrl-C is for the supervisor
        self.starts += 1
        self.state, self.why, self.ended_by, self.endpoint, self.stats = "starting", "", "", "", {}
        self.started = self.heard = self.moved = now
        self.healthy = self.stopping = 0.0
        self.due, self._out, self._seen = None, -1, self.stamp()
        self.log.note(f"start {self.starts}")
        self.process = subprocess.Popen(
            command, cwd=self.folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            encoding="utf-8", errors="replace", **own,
        )  # fmt: skip
        assert self.process.stdout is not None
        self._reader = self.log.follow(self.process.stdout, self._said, self.name)

    def _said(self, line: str) -> None:
        if not self.endpoint and line.startswith("control: "):
            self.endpoint = line.split()[1].rstrip(",")

    def look(self, now: float) -> str:
        """Hear what the process reports; why it should be ended, "" where it should not."""
        self._listen(now)
        health = self.stream.health
        if self.stopping:
            return ""
        if self._out <= 0:
            return f"no frame within {health.start_s:g} s" if now - self.started > health.start_s else ""
        if now - self.heard > health.answer_s:
            return f"no sign of life for {health.answer_s:g} s"
        limit = health.input_s if self.state == "degraded_input" else health.silent_s
        if limit and now - self.moved > limit and not self.stats.get("paused"):
            return f"no frame for {limit:g} s" + (", the input is gone" if self.state == "degraded_input" else "")
        return ""

    def _listen(self, now: float) -> None:
        from bindings.python import control

        if not self.endpoint:
            return
        try:
            if self._client is None:
                self._client = control.Control(self.endpoint, timeout=2.0)
            if self._watch is None:
                self._watch = self._client.watch("stats", every=EVERY_S, wait=False)
            while True:
                self._take(self._watch.next(0.001), now)
        except control.NoAnswer:
            pass
        except control.ControlError:
            self._watch = None

    def _take(self, stats: dict[str, Any], now: float) -> None:
        self.stats, self.heard = stats, now
        if not self.stopping:
            self.state = str(stats.get("state", "online"))
        frames = stats["frames"]
        out = int(frames["out"]) + int(frames.get("drops", {}).get("unwatched", 0))
        if out != self._out:
            if out > self._out >= 0 or out > 0:
                self.moved = now
                self.healthy = self.healthy or now
            self._out = out

    # ---- its end

    def ask_to_stop(self, why: str = "") -> None:
        """Ask it to finish what is under way and go; `finish` sees to it that it does."""
        from bindings.python.control import ControlError

        self.stopping, self.state, self.ended_by = time.monotonic(), "stopping", why
        self.log.note(f"stop: {why or 'asked for'}")
        try:
            if self._client is not None:
                self._client._begin("stop", {"drain": not why})
        except ControlError:
            pass
        process = self.process
        if process is not None and process.stdin is not None:
            try:
                process.stdin.close()  # it ends with its input, also where nobody answers
            except OSError:
                pass

    def overdue(self, now: float) -> bool:
        """Whether a stop has been asked for so long ago that it will not be heard."""
        limit = KILL_S if self.ended_by else self.stream.drain_s
        return bool(self.stopping) and now - self.stopping > limit

    def kill(self) -> None:
        """End it for good."""
        if self.process is not None and self.process.poll() is None:
            self.log.note("killed")
            self.process.kill()

    def gone(self) -> int | None:
        """The exit code where the process has ended; everything of it is then let go of. None while it runs."""
        process = self.process
        if process is None or process.poll() is None:
            return None
        if self._client is not None:
            self._client.close()
        self._client = self._watch = None
        if process.stdin is not None:
            try:
                process.stdin.close()
            except OSError:
                pass
        if self._reader is not None:
            self._reader.join(2.0)  # a grandchild may hold the pipe open; its thread ends with it
        self.process, self.endpoint, self.last_exit = None, "", process.returncode
        self.log.note(f"ended with exit code {process.returncode}")
        return process.returncode

    # ---- its graph

    def stamp(self) -> tuple[int, int]:
        """When the graph file was written, and its size; zeros where it is none."""
        try:
            found = (self.folder / self.stream.graph).stat()
        except OSError:
            return (0, 0)
        return (found.st_mtime_ns, found.st_size)

    @property
    def changed(self) -> bool:
        """Whether the graph file is another one than when it was last started."""
        return self.stamp() != self._seen

    def described(self, now: float) -> dict[str, Any]:
        """How it is, for the status page."""
        stats, frames = self.stats, self.stats.get("frames", {})
        drops = dict(frames.get("drops", {}))
        unwatched = drops.pop("unwatched", 0)
        running = self.process is not None
        return {
            "name": self.name, "graph": self.stream.graph, "state": self.state, "why": self.why,
            "pid": self.process.pid if self.process else None, "control": self.endpoint, "gpu": self.stream.gpu, "starts": self.starts,
            "last_exit": self.last_exit,
            "seconds": round(now - self.started, 1) if running else 0.0, "due_s": round(max(0.0, self.due - now), 1) if self.due else None,
            "fps": stats.get("fps", 0.0) if running else 0.0, "age_ms": stats.get("age_ms", {}).get("p50", 0.0) if running else 0.0,
            "frames": {"in": frames.get("in", 0), "out": frames.get("out", 0), "drops": sum(drops.values()), "unwatched": unwatched},
            "frame_s": round(now - self.moved, 1) if running and self._out > 0 else None,
            "reasons": list(stats.get("reasons", ())) if running else [], "rss": stats.get("memory", {}).get("rss") if running else None,
        }  # fmt: skip
