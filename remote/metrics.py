"""The numbers of a run for Prometheus, in its text format, read from counters that the runtime keeps anyway.

Counters never fall while a run lasts: what the session keeps only for the newest frames (ages, events) is added up here, scrape by scrape.
Invariant: node and operator names are the only words of the graph that become labels; no parameter text, no address, no credential does.
It knows sessions and no web server, but for the small one that `engine run --metrics` starts.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from engine.cli.attach import Attachment
from engine.errors import DeviceError, UsageError
from engine.live.health import STATES
from remote import facts

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client.core import Metric

    from engine.session import Session

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
"""Seconds; upper bounds of the age histogram."""
KINDS = 200  # kinds of events that are told apart


class Meter:
    """Adds up, for one session, what the session itself forgets. May be read from several threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.rates = facts.Rates()
        self.buckets = [0] * len(BUCKETS)
        self.count = 0
        self.sum = 0.0
        self.events: Counter[str] = Counter()
        self._sunk: dict[int, int] = {}  # frames of each sink node that were looked at, by identity: a reload makes nodes anew
        self._last_event: dict[str, Any] | None = None

    def read(self, session: Session) -> None:
        """Take in what has happened since the last call."""
        with self.lock:
            self._ages(session)
            self._events(session)

    def _ages(self, session: Session) -> None:
        new, seen = 0, {}
        for run in list(session.nodes.values()):
            if not run.spec.outputs:
                seen[id(run)] = done = max(0, run.count - run.errors)
                new += max(0, done - self._sunk.get(id(run), 0))
        self._sunk = seen
        for age in facts.recent(session.ages, new):
            seconds = age / 1e9
            self.count += 1
            self.sum += seconds
            for i, bound in enumerate(BUCKETS):
                self.buckets[i] += seconds <= bound

    def _events(self, session: Session) -> None:
        fresh: list[dict[str, Any]] = []
        for event in facts.recent(session.events, 20_000):
            if event is self._last_event:
                break
            fresh.append(event)
        if fresh:
            self._last_event = fresh[0]
        for event in fresh:
            what = str(event["what"])
            self.events[what if what in self.events or len(self.events) < KINDS else "other"] += 1


_meters: weakref.WeakKeyDictionary[Session, Meter] = weakref.WeakKeyDictionary()
_making = threading.Lock()


def meter(session: Session) -> Meter:
    """The meter of a session, one for everybody who asks."""
    with _making:
        found = _meters.get(session)
        if found is None:
            found = _meters[session] = Meter()
        return found


def render(session: Session) -> bytes:
    """Everything, in Prometheus' text format 0.0.4."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(session))
    return bytes(generate_latest(registry))


class _Collector:
    def __init__(self, session: Session) -> None:
        self.session = session

    def collect(self) -> Iterable[Metric]:
        session, counted = self.session, meter(self.session)
        counted.read(session)
        return list(_metrics(session, counted, facts.stats(session, counted.rates)))


def _metrics(session: Session, counted: Meter, stats: dict[str, Any]) -> Iterator[Metric]:
    import engine

    info = {"graph": session.plan.name, "plan": session.plan.hash[:12], "clock": session.plan.clock, "version": engine.__version__}
    yield _gauge("info", "What runs; always 1.", [(info, 1)], tuple(info))
    state = stats["state"]
    yield _gauge("state", "1 for the state that the run is in.", [({"state": s}, s == state) for s in STATES], ("state",))
    yield _gauge("uptime_seconds", "Since the first frame could come.", [({}, stats["seconds"])])
    yield _gauge("fps", "Frames that reached a sink, a second, over the last two seconds.", [({}, stats["fps"])])
    yield from _frames(stats)
    yield _histogram(counted)
    yield from _nodes(stats)
    queued = [({"edge": f"{e['from']}>{e['to']}"}, e["queued"]) for e in _merged(stats["edges"])]
    yield _gauge("queue_packets", "Packets that wait on an edge.", queued, ("edge",))
    drops = [({"edge": f"{e['from']}>{e['to']}", "cause": c}, n) for e in _merged(stats["edges"]) for c, n in e["drops"].items()]
    yield _counter("edge_drops", "Packets dropped on an edge, by cause.", drops, ("edge", "cause"))
    yield _gauge("lane_busy_ratio", "Share of the last two seconds that a lane worked.", _each(stats["lanes"], "lane"), ("lane",))
    numbers = {k: float(v) for k, v in stats["knobs"].items() if isinstance(v, (bool, int, float))}
    yield _gauge("knob", "Present value of a governed parameter.", _each(numbers, "param"), ("param",))
    yield _gauge("signal", "What operators say of their input, such as the stability of a pose.", _each(stats["signals"], "name"), ("name",))
    rungs = {name: len(taken) for name, taken in stats["rungs"].items()}
    yield _gauge("memory_rungs", "Steps of the out-of-memory ladder that are taken.", _each(rungs, "node"), ("node",))
    yield _gauge("epoch", "Resets since the start.", [({}, stats["epoch"])])
    yield _counter("parameter_changes", "Transactions of live parameters that landed.", [({}, stats["params"])])
    yield _counter("events", "Events of the log, by kind.", _each(counted.events, "what"), ("what",))
    yield _counter("reconnects", "Streams that were lost and opened again.", [({}, counted.events["reconnected"])])
    yield from _memory(stats["memory"])


def _frames(stats: dict[str, Any]) -> Iterator[Metric]:
    frames = stats["frames"]
    yield _counter("frames_in", "Frames that the sources made.", [({}, frames["in"])])
    yield _counter("frames_out", "Frames that reached a sink.", [({}, frames["out"])])
    yield _gauge("frames_in_flight", "Frames under way.", [({}, frames["in_flight"])])
    yield _counter("frames_dropped", "Frames that reached no sink, by cause.", _each(frames["drops"], "cause"), ("cause",))


def _nodes(stats: dict[str, Any]) -> Iterator[Metric]:
    nodes, names = stats["nodes"], ("node", "op", "lane")
    labels = {name: {"node": name, "op": node["op"], "lane": node["lane"]} for name, node in nodes.items()}
    yield _counter("node_calls", "Calls of an operator.", [(labels[n], v["count"]) for n, v in nodes.items()], names)
    yield _counter("node_errors", "Calls that raised.", [(labels[n], v["errors"]) for n, v in nodes.items()], names)
    yield _counter("node_busy_seconds", "Time spent in calls.", [(labels[n], v["busy_s"]) for n, v in nodes.items()], names)
    recent = [({**labels[n], "quantile": q}, v["ms"][p] / 1e3) for n, v in nodes.items() for q, p in (("0.5", "p50"), ("0.95", "p95"))]
    yield _gauge("node_call_seconds", "Time of one call, over the last 256.", recent, (*names, "quantile"))


def _memory(memory: dict[str, Any]) -> Iterator[Metric]:
    if memory.get("rss") is not None:
        yield _gauge("resident_bytes", "Resident memory of the process.", [({}, memory["rss"])])
    yield _gauge("frame_buffers", "Frame buffers in the pools.", [({}, memory["buffers"])])
    device = memory.get("device")
    kinds = [({"device": device["name"], "kind": k}, device[k]) for k in ("free", "reserved", "total")] if device else []
    yield _gauge("vram_bytes", "Video memory: free, reserved by this run, and in all.", kinds, ("device", "kind"))


def _histogram(counted: Meter) -> Metric:
    from prometheus_client.core import HistogramMetricFamily

    with counted.lock:
        rows = [(repr(bound), float(n)) for bound, n in zip(BUCKETS, counted.buckets, strict=True)]
        rows.append(("+Inf", float(counted.count)))
        return HistogramMetricFamily("afterimage_age_seconds", "Age of frames when they leave: from capture to the sink.", rows, counted.sum)


def _merged(edges: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Edges between the same two ports as one: a list port may have several."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for edge in edges:
        one = found.setdefault((edge["from"], edge["to"]), {"from": edge["from"], "to": edge["to"], "queued": 0, "drops": Counter()})
        one["queued"] += edge["queued"]
        one["drops"].update(edge["drops"])
    return list(found.values())


def _each(values: Any, label: str) -> list[tuple[dict[str, str], float]]:
    return [({label: str(name)}, value) for name, value in values.items()]


def _gauge(name: str, doc: str, rows: Iterable[tuple[dict[str, str], float]], labels: tuple[str, ...] = ()) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    return _filled(GaugeMetricFamily(f"afterimage_{name}", doc, labels=labels), rows, labels)


def _counter(name: str, doc: str, rows: Iterable[tuple[dict[str, str], float]], labels: tuple[str, ...] = ()) -> Metric:
    from prometheus_client.core import CounterMetricFamily

    return _filled(CounterMetricFamily(f"afterimage_{name}", doc, labels=labels), rows, labels)


def _filled(family: Any, rows: Iterable[tuple[dict[str, str], float]], labels: tuple[str, ...]) -> Metric:
    for values, number in rows:
        family.add_metric([values[label] for label in labels], float(number))
    return family  # type: ignore[no-any-return]


# ---------------------------------------------------------------- alone


class Metrics(Attachment):
    """`engine run --metrics HOST:PORT`: the numbers at http://HOST:PORT/metrics. Raises UsageError for an address that must not be opened."""

    def __init__(self, address: str, *, insecure: bool = False, say: Callable[[str], None] | None = None) -> None:
        self.host, self.port = split(address)
        self.say = say
        if not insecure and not loopback(self.host):
            raise UsageError(
                f"metrics: {address} can be reached from other machines, and everybody there could read it",
                fix="listen on 127.0.0.1, or add --insecure",
            )
        self._stop: Callable[[], None] | None = None

    def attached(self, session: Session) -> None:
        self.port, self._stop = serve(lambda: render(session), self.host, self.port)
        if self.say is not None:
            host = f"[{self.host}]" if ":" in self.host else self.host
            self.say(f"metrics: http://{host}:{self.port}/metrics")

    def tick(self, session: Session) -> None:
        meter(session).read(session)  # so that nothing is forgotten between two scrapes

    def ended(self, session: Session, error: BaseException | None) -> None:
        if self._stop is not None:
            self._stop()
            self._stop = None


def split(address: str) -> tuple[str, int]:
    """HOST:PORT, or a port of this machine. Raises UsageError."""
    host, _, port = address.rpartition(":")
    if not port.isdigit() or int(port) > 65535 or "/" in host:
        raise UsageError(f"no address: {address!r}", fix="write HOST:PORT, such as 127.0.0.1:9464")
    return host.strip("[]") or "127.0.0.1", int(port)


def loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(body: Callable[[], bytes], host: str, port: int) -> tuple[int, Callable[[], None]]:
    """Serve `body()` at /metrics; the port, and what ends it. A handful of scrapers, one after another. Raises DeviceError."""
    import http.server
    import os
    import socket
    import socketserver

    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = 5.0
        server_version, sys_version = "afterimage", ""

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path != "/metrics":
                self.send_error(404)
                return
            data = body()
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(socketserver.TCPServer):  # HTTPServer would ask the name service for our own name
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        allow_reuse_address = os.name == "posix"  # elsewhere two programs would share the port

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a scraper that went away is nobody's error

    try:
        server = Server((host, port), Handler)
    except OSError as error:
        raise DeviceError(f"cannot listen at {host}:{port}: {error.strerror or error}", fix="choose another port") from error
    thread = threading.Thread(target=server.serve_forever, args=(0.2,), name="metrics", daemon=True)
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return int(server.server_address[1]), stop
