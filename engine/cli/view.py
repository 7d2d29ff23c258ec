"""What `engine run` shows while it runs: a live view on a terminal, a line now and then elsewhere, or nothing.

Everything is read from the session's counters between two ticks, on the caller's thread; no lane waits for a picture of itself. It knows
nothing of signals, files or how a run ends.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice, takewhile
from types import TracebackType
from typing import Any, Self

from engine.cli import report
from engine.errors import scrub
from engine.live.summary import frames_of, percentile
from engine.run.node import NodeRun
from engine.session import Session

REFRESH_S = 0.25
LINE_S = 5.0
RECENT = 256  # frames that percentiles are taken over
WINDOW_S = (2.0, 12.0)  # rates are over the last two seconds, or over more where frames are rare
ENOUGH = 8  # frames that make a rate
TOLD = {"lost", "reconnected", "error", "stalled", "process restarted", "recording ended"}  # what a log has to have besides its lines
AGAIN_S = 5.0  # at most so often of one node: a frame that fails is often followed by others
TONES = {"online": "green", "degraded_input": "bold yellow", "degraded_inference": "bold yellow", "error": "bold red"}


@dataclass(frozen=True)
class Reading:
    """The state of a run at one moment. `rate` and `busy` are over the last seconds; `left_s` is None where no end is known."""

    seconds: float
    frames: dict[str, Any]
    rate: float
    age_ms: tuple[float, float, float]
    busy: dict[str, float]
    opening: tuple[str, ...] = ()
    share: float | None = None
    of: str = ""
    left_s: float | None = None
    state: str = "online"
    reasons: tuple[str, ...] = ()


@dataclass
class Meter:
    """Reads a session. `frames` and `duration` are the limits of the run, where it has some."""

    session: Session
    frames: int | None = None
    duration: float | None = None
    _samples: deque[tuple[float, int, dict[str, int]]] = field(default_factory=lambda: deque(maxlen=256))

    def read(self) -> Reading:
        session = self.session
        frames = frames_of(session)
        now = session.clock.now() / 1e9
        if not self._samples:
            self._samples.append((session.started / 1e9, 0, {}))
        busy = {lane.name: sum(n.busy_ns for n in lane.nodes) for lane in session.lanes.values() if not lane.nodes[0].spec.source}
        self._samples.append((now, frames["out"], busy))
        since = self._since(now, frames["out"])
        span = now - since[0]
        rate = (frames["out"] - since[1]) / span if span else 0.0
        shares = {name: min(1.0, (ns - since[2].get(name, 0)) / 1e9 / span) if span else 0.0 for name, ns in busy.items()}
        ages = [age / 1e6 for age in recent(session.ages)]
        seconds = max(0, session.clock.now() - session.started) / 1e9
        opening = () if frames["in"] else tuple(name for name, node in session.nodes.items() if not _opened(node))
        share, of = self._progress(seconds)
        left = seconds * (1 - share) / share if share else None
        return Reading(
            seconds, frames, rate, (percentile(ages, 50), percentile(ages, 95), percentile(ages, 99)), shares, opening, share, of, left,
            session.state, session.health.reasons,
        )  # fmt: skip

    def _since(self, now: float, out: int) -> tuple[float, int, dict[str, int]]:
        """The sample to measure rates from: the youngest that is old enough and has enough frames since."""
        for sample in reversed(self._samples):
            age = now - sample[0]
            if age >= WINDOW_S[0] and (out - sample[1] >= ENOUGH or age >= WINDOW_S[1]):
                return sample
        return self._samples[0]

    def _progress(self, seconds: float) -> tuple[float | None, str]:
        """How much of the run is done, 0..1, and in what: None where nobody knows the end."""
        found: list[tuple[float, str]] = []
        for name, gate in self.session.gates.items():
            stream = self.session.nodes[name].site.stream
            counts = [n for n in (self.frames, stream.frames if stream else None) if n]
            if counts:
                found.append((gate.entered / min(counts), f"{gate.entered} of {min(counts)} frames"))
        share, of = min(found, default=(None, ""))
        if self.duration and (share is None or seconds / self.duration > share):
            share, of = seconds / self.duration, f"{report.clock(seconds)} of {report.clock(self.duration)}"
        return (None if share is None else min(1.0, share)), of


def recent(values: Any, count: int = RECENT) -> list[Any]:
    """The last values of a deque that others append to."""
    return list(islice(reversed(values), count))


def _opened(node: NodeRun) -> bool:
    return any(kind == "open" and name == node.name for _, _, kind, name, _, _ in node.lane.trace.records()[: len(node.lane.nodes)])


def fed_parameters(session: Session) -> dict[str, Any]:
    """Present values of the knobs, and of the parameters that edges feed."""
    edges = [edge for edge in session.plan.edges if edge.feeds == "param" and edge.role != "constant"]
    fed = {f"{edge.node}.{edge.port}": session.nodes[edge.node].params.get(edge.port) for edge in edges}
    return {name: value for name, value in {**session.knobs(), **fed}.items() if value is not None}


def video_memory(session: Session) -> str:
    """What is taken on the session's CUDA device, by everybody and by this run; empty where it computes elsewhere."""
    device = next((lane.device.name for lane in session.lanes.values() if lane.device.asynchronous), None)
    torch = sys.modules.get("torch")
    if device is None or torch is None or not torch.cuda.is_initialized():
        return ""
    free, total = torch.cuda.mem_get_info(device)
    return f"{report.size(total - free)} of {report.size(total)} taken, {report.size(torch.cuda.memory_reserved(device))} by this run"


# ---------------------------------------------------------------- views


class Silent:
    """Shows nothing but what has to be said."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def tick(self) -> None:
        """Called often; shows something when it is time to."""

    def say(self, text: str) -> None:
        """Show a message at once."""
        report.say(text)


class Lines(Silent):
    """A line every few seconds, for logs and pipes; and one for whatever goes wrong, as it happens."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self._next = time.monotonic() + 1.0
        self._pause = 1.0
        self._last: dict[str, Any] | None = None
        self._told: dict[tuple[str, str], float] = {}

    def tick(self) -> None:
        now = time.monotonic()
        for event in self._new():
            key = (event["what"], event["node"])
            if event["what"] in TOLD and now >= self._told.get(key, now):
                self._told[key] = now + AGAIN_S
                report.say(event_text(self.meter.session, event))
        if now < self._next:
            return
        self._pause = min(LINE_S, self._pause * 2)
        self._next = now + self._pause
        report.say(line(self.meter.read()))

    def _new(self) -> list[dict[str, Any]]:
        """The events since the last look, oldest first."""
        found = list(takewhile(lambda event: event is not self._last, recent(self.meter.session.events)))
        self._last = found[0] if found else self._last
        return found[::-1]


class Screen(Silent):
    """The live view."""

    def __init__(self, meter: Meter) -> None:
        from rich.live import Live

        self.meter, self.session = meter, meter.session
        self._console = report.console(sys.stderr)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._next = 0.0
        self._said = ""

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.__exit__(kind, error, trace)

    def say(self, text: str) -> None:
        self._said = text
        self._next = 0.0

    def tick(self) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + REFRESH_S
            self._live.update(self._picture(self.meter.read()), refresh=True)

    def _picture(self, reading: Reading) -> Any:
        from rich.console import Group
        from rich.text import Text

        parts: list[Any] = [_head(self.session, reading)]
        if reading.reasons and not reading.opening:
            parts.append(Text("; ".join(reading.reasons), TONES.get(reading.state, "")))
        if reading.share is not None and not reading.opening:
            parts.append(_bar(reading))
        if reading.opening:
            parts.append(Text(f"opening {', '.join(reading.opening)} …", "yellow"))
        facts = {
            "age ms": report.listed(dict(zip(("p50", "p95", "p99"), reading.age_ms, strict=True))) if reading.frames["out"] else "",
            "drops": report.listed(reading.frames["drops"], ""),
            "knobs": report.listed(fed_parameters(self.session), ""),
            "signals": report.listed(dict(self.session.signals), ""),
            "VRAM": video_memory(self.session),
        }
        parts += [Text.assemble((f"{name:8s}", "dim"), value) for name, value in facts.items() if value]
        parts.append(self._nodes(reading))
        parts += [Text(text, "dim", no_wrap=True, overflow="ellipsis") for text in self._events()]
        if self._said:
            parts.append(Text(self._said, "bold yellow"))
        return Group(*parts)

    def _nodes(self, reading: Reading) -> Any:
        narrow = self._console.width < report.NARROW
        table = report.table("node", *(() if narrow else ("lane",)), ">frames", ">ms p50", ">p95", "lane busy")
        seen: set[str] = set()
        for name, node in self.session.nodes.items():
            lane = node.plan.lane
            times = [t / 1e6 for t in recent(node.times)]
            p50, p95 = (report.number(percentile(times, q)) for q in (50, 95))
            share = reading.busy.get(lane) if lane not in seen else None
            seen.add(lane)
            now = node.lane.busy is not None and node.lane.busy[0] is node
            table.add_row(
                ("● " if now else "  ") + name, *(() if narrow else (lane,)), str(node.count), p50, p95,
                "" if share is None else f"{meter_bar(share)} {share:4.0%}", style="red" if node.errors else None,
            )  # fmt: skip
        return table

    def _events(self) -> list[str]:
        told = [e for e in recent(self.session.events, 32) if e.get("by") != "governor"]  # its own event says why
        return [event_text(self.session, event) for event in reversed(told[:4])]


def make_view(session: Session, *, quiet: bool, frames: int | None = None, duration: float | None = None) -> Silent:
    """The view that fits stderr."""
    if quiet:
        return Silent()
    meter = Meter(session, frames, duration)
    return Screen(meter) if sys.stderr.isatty() else Lines(meter)


# ---------------------------------------------------------------- pieces of text


def line(reading: Reading) -> str:
    """A reading in one line."""
    frames, age = reading.frames, reading.age_ms
    if not frames["in"]:
        state = f"opening {', '.join(reading.opening)}" if reading.opening else "waiting for the first frame"
        return f"{report.clock(reading.seconds)}  {state}"
    parts = [report.clock(reading.seconds), f"in {frames['in']} out {frames['out']}", f"{report.number(reading.rate)} fps"]
    parts += [state_text(reading)] if reading.state.startswith("degraded") or reading.state == "error" else []
    parts += [f"age {'/'.join(report.number(a) for a in age)} ms"] if frames["out"] else []
    parts += [f"drops {report.listed(frames['drops'])}"] if frames["drops"] else []
    parts += [f"{reading.share:.0%} {ending(reading)}".rstrip()] if reading.share is not None else []
    return "  ".join(parts)


def state_text(reading: Reading) -> str:
    """How the run is, and why where it is not as it should be."""
    word = reading.state.replace("_", " ")
    return f"{word}: {'; '.join(reading.reasons)}" if reading.reasons else word


def ending(reading: Reading) -> str:
    """When a finite run will be over."""
    if reading.left_s is None or reading.seconds < 1:
        return ""
    when = datetime.now() + timedelta(seconds=reading.left_s)
    return f"ends in {report.clock(reading.left_s)}, at {when:%H:%M:%S}"


def meter_bar(share: float, width: int = 8) -> str:
    """`█████   ` for 0.62."""
    eighths = round(share * width * 8)
    return ("█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8]).strip(" ").ljust(width)


def event_text(session: Session, event: dict[str, Any]) -> str:
    """An event in one line: when, what, where, and its facts."""
    facts = ", ".join(f"{k} {v}" for k, v in event.items() if k not in ("at", "what", "node", "seq") and v not in ("", None))
    where = event["node"] + (f" frame {event['seq']}" if event["seq"] >= 0 else "")
    return scrub(f"{report.clock((event['at'] - session.started) / 1e9)}  {event['what']}  {where}  {facts}".rstrip())


def _head(session: Session, reading: Reading) -> Any:
    from rich.text import Text

    frames = reading.frames
    return Text.assemble(
        (session.plan.name, "bold"), f"  {session.plan.clock}" + (", embedded" if session.plan.embedded else ""), "   ",
        (f"{report.number(reading.rate)} fps", "bold green"), f"   {report.clock(reading.seconds)}   ",
        (reading.state.replace("_", " "), TONES.get(reading.state, "")), "   ",
        f"{frames['in']} in · {frames['out']} out · {frames['in_flight']} under way",
    )  # fmt: skip


def _bar(reading: Reading) -> Any:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    row = Table.grid(padding=(0, 2))
    row.add_row(ProgressBar(total=1.0, completed=reading.share or 0.0, width=32), f"{reading.share:4.0%}", reading.of, ending(reading))
    return row
