"""`engine run`: opens a session on a graph, shows how it goes, and says in the end what it did.

Whatever happens, the summary is made, the log of events is complete and the exit code is right: a run that fails still reports what it got
done. Signals only set a count; the session is stopped from its own tick, so that no handler ever waits for a lock.
"""

from __future__ import annotations

import json
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine.cli import report
from engine.cli.attach import Attachment
from engine.cli.inspect import compiled
from engine.cli.view import make_view
from engine.errors import DeviceError, EngineError, UsageError, scrub, writing
from engine.plan import Plan
from engine.session import Session

INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Options:
    """What was typed after `engine run`."""

    graph: str
    sets: tuple[str, ...] = ()
    params: tuple[str, ...] = ()
    embedded: bool = False
    frames: int | None = None
    duration: float | None = None
    device: str | None = None
    inline: bool = False
    trace: Path | None = None
    log: Path | None = None
    json: bool = False
    quiet: bool = False
    poison: bool = False
    govern: bool = True
    attachments: tuple[Attachment, ...] = ()


def run(options: Options) -> int:
    """Run the graph and report; the exit code."""
    with report.stdout_kept() if options.json else nullcontext(print) as write:
        result, error, code = _run(options)
        if error is not None:
            report.complain(error)
        if options.json:
            write(report.as_json(result))
            return code
    if result["frames"]["in"] or error is None:
        from engine.cli.summary import show_summary

        show_summary(result)
    return code


def _run(options: Options) -> tuple[dict[str, Any], BaseException | None, int]:
    """The summary as plain values, the error that ended the run, and the exit code."""
    result: dict[str, Any] = {
        "ok": False, "exit_code": 0, "graph": options.graph, "plan": "", "frames": {"in": 0, "out": 0, "in_flight": 0, "drops": {}}, "fps": 0.0,
        "age_ms": {"p50": 0.0, "p95": 0.0, "p99": 0.0}, "nodes": {}, "knobs": {}, "outputs": [], "seconds": 0.0, "events": {},
    }  # fmt: skip
    session: Watched | None = None
    error: Exception | None = None
    stops = Stops()
    log = Log(options.log)
    try:
        plan = compiled(options.graph, options.sets, options.params, embedded=options.embedded, change=[a.graph for a in options.attachments])
        result["plan"] = plan.hash
        look_at_files(options, plan)
        log.open(plan)
        session = Watched(plan, options, log)
        with session:
            session.watch(stops)
    except KeyboardInterrupt:
        stops.count = max(stops.count, 1)
    except Exception as failure:
        error = failure
    if session is not None:
        try:
            session.finish(error)
        except EngineError as failure:
            error = error or failure
        result |= session.summary().to_dict()
    code = getattr(error, "exit_code", 5) if error is not None and stops.count < 2 else INTERRUPTED if stops.count else 0
    result |= {"ok": code == 0, "exit_code": code, "interrupted": stops.count > 0, "error": report.described(error) if error else None}
    log.close({"exit_code": code, "frames": result["frames"], "error": result["error"]})
    return result, error, code


def look_at_files(options: Options, plan: Plan) -> None:
    """Raise UsageError where a file that the run is to write cannot be one: better now than when there is something to write."""
    wanted = [("--trace", options.trace), ("--log", options.log), *(a.writes for a in options.attachments if a.writes is not None)]
    taken = {Path(plan.file).resolve(): "the graph that is run"}
    for option, path in wanted:
        if path is None:
            continue
        if path.is_dir():
            raise UsageError(f"{option} {path}: that is a folder", fix="name a file in it")
        if not path.absolute().parent.is_dir():
            raise UsageError(f"{option} {path}: there is no folder {path.parent}", fix="name a file in a folder that exists")
        if (other := taken.setdefault(path.resolve(), option)) != option:
            raise UsageError(f"{option} {path}: that is {other}", fix="name another file")


class Watched(Session):
    """A session under the eyes of the command line: its events are logged, its limits kept, its progress shown."""

    def __init__(self, plan: Plan, options: Options, log: Log) -> None:
        self.log, self.options, self.begun = log, options, 0
        super().__init__(
            plan, executor="inline" if options.inline else "threaded", device=known_device(options.device), poison=options.poison,
            govern=options.govern, frames=options.frames, **{k: v for a in options.attachments for k, v in a.options().items()},
        )  # fmt: skip
        self.attached: list[Attachment] = []

    def event(self, what: str, node: str, seq: int, **facts: Any) -> None:
        super().event(what, node, seq, **facts)
        event = {"at": self.clock.now(), "what": what, "node": node, "seq": seq, **facts}
        self.log.add(event)
        for attachment in self.options.attachments:
            attachment.event(event)

    def watch(self, stops: Stops) -> None:
        """Run to the end, showing how it goes. Raises what `run` raises."""
        duration = self.options.duration
        view = make_view(self, quiet=self.options.quiet, frames=self.options.frames, duration=duration)
        self.say = view.say  # what an attachment has to say goes where the view does not overwrite it

        def tick(session: Session) -> None:
            self.log.write()
            entered = sum(gate.entered for gate in self.gates.values())
            self.begun = self.begun or (self.clock.now() if entered else 0)
            if duration is not None and self.begun and (self.clock.now() - self.begun) / 1e9 >= duration:
                self.stop()
            stops.carry_out(self, begun=entered > 0, say=view.say)
            for attachment in self.attached:
                attachment.tick(self)
            view.tick()

        with view, stops.caught():
            for attachment in self.options.attachments:
                self.attached.append(attachment)
                attachment.attached(self)
            self.run(tick)

    def finish(self, error: BaseException | None) -> None:
        """End what went along, and write the trace, where one was asked for. Raises the first error of these, after all were ended."""
        failures = []
        for attachment in reversed(self.attached):
            try:
                attachment.ended(self, error)
            except EngineError as failure:
                failures.append(failure)
        if failures:
            raise failures[0]
        if self.options.trace is not None:
            from engine.trace import chrome_trace, joined, write_trace

            rings = joined([*self.past.traces, *((name, lane.trace) for name, lane in self.lanes.items())])
            write_trace(self.options.trace, chrome_trace(rings, self.events, about={"plan": self.plan.hash, "graph": self.plan.name}))


def known_device(name: str | None) -> str | None:
    """`name`, where it is a device that this machine has. Raises UsageError or DeviceError."""
    if name is None or name == "cpu":
        return name
    kind, _, index = name.partition(":")
    if kind != "cuda" or (index and not index.isdigit()):
        raise UsageError(f"no device is called {name!r}", fix="write cpu, cuda or cuda:1")
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(index or 0) >= count:
        raise DeviceError(f"there is no {name}: torch sees {count} CUDA devices", fix="run engine doctor, or leave --device out")
    return f"cuda:{int(index or 0)}"


# ---------------------------------------------------------------- signals


class Stops:
    """Counts requests to stop: the first drains, the second aborts, the third does not wait for anybody."""

    def __init__(self) -> None:
        self.count = self.told = 0

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Catch Ctrl-C, Ctrl-Break, a hang-up and a polite kill, where this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {}
        for name in ("SIGINT", "SIGTERM", "SIGBREAK", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup stays in force
                before[number] = signal.signal(number, self._caught)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _caught(self, number: int, frame: Any) -> None:
        self.count += 1
        if self.count > 2:
            raise KeyboardInterrupt

    def carry_out(self, session: Session, *, begun: bool, say: Callable[[str], None]) -> None:
        """Stop the session as often as was asked. Before the first frame there is nothing to finish."""
        if self.count == self.told:
            return
        self.told = self.count
        if self.count == 1 and begun:
            say("stopping: the frames under way are finished and the files closed; Ctrl-C again gives the frames up")
            session.stop()
        else:
            say("stopping at once: files are closed, frames under way are given up")
            session.stop(drain=False)


# ---------------------------------------------------------------- the log


class Log:
    """Events as lines of JSON. Lanes only put them into a queue; the file is written from the session's own tick and at the end."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._queue: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._file: Any = None

    def open(self, plan: Plan) -> None:
        """Start the file with a line about the run. Raises MediaError."""
        if self.path is None:
            return
        import engine

        with writing(f"the log {self.path}"):
            self._file = self.path.open("w", encoding="utf-8")
        self.add({"what": "start", "graph": plan.name, "plan": plan.hash, "clock": plan.clock, "seed": plan.seed, "engine": engine.__version__})
        self.write()

    def add(self, event: dict[str, Any]) -> None:
        """Note an event; called from any thread."""
        if self._file is not None:
            self._queue.put({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **event})

    def write(self) -> None:
        """Bring what was noted to the file."""
        while self._file is not None and not self._queue.empty():
            self._file.write(scrub(json.dumps(self._queue.get(), default=str)) + "\n")
            if self._queue.empty():
                self._file.flush()

    def close(self, last: dict[str, Any]) -> None:
        """End the file with a line about how the run ended."""
        if self._file is not None:
            self.add({"what": "end", **last})
            self.write()
            self._file.close()
            self._file = None
