"""Writes a run into an MCAP file while it goes on.

Invariants: lanes and gates only put references into a queue, everything else happens on a thread of its own; entries reach the file in the
order in which they happened, so that every prefix of the file is a run that could have stopped there. Under a live clock nobody ever waits for
the disk: when the queue is full, previews go first, then the digests of what reached the sinks, and when source frames would be lost the
recording ends, says so, and the run goes on. Offline the source waits, as it does for everything else. It knows no operator.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import engine
from engine.errors import EngineError, MediaError, UsageError
from engine.live.record import Tap
from engine.live.summary import frames_of
from engine.payload import Image, Mask, Payload
from engine.planning.wire import SLOW
from recorder import foxglove, pictures, snapshots
from recorder.facts import file_facts, file_of, machine, operator_versions, session_facts
from recorder.file import McapFile
from recorder.payloads import SMALL, digest, nbytes, packed
from recorder.plain import clean, guarded, named, stream_facts, taken

if TYPE_CHECKING:
    from engine.packet import Packet
    from engine.run.gate import Gate, Offer
    from engine.run.node import NodeRun
    from engine.run.side import Side
    from engine.session import Session

Frames = Literal["auto", "store", "hash", "none"]
FLUSH_S = 0.5  # what a killed process loses at most
NOTE = 256  # bytes that a small entry counts for
KEY_S = 1.0  # between pictures of a sink that are kept whole, for a replay that differs to say by how much


class Recorder(Tap):
    """Records one session: `attach` before it runs, `close` when it is over.

    `frames`: "store" keeps every admitted source frame without loss, "hash" its digest and what file it came from, "none" neither; "auto" is
    "hash" for sources that read a file and "store" for others. `snapshot_every`: state is kept every so many source frames, for replays
    that begin there (0: never). `preview_fps`: JPEG pictures for viewers. `queue_mb`: what may wait for the disk.
    """

    def __init__(
        self, path: str | Path, *, frames: Frames = "auto", snapshot_every: int = 240, preview_fps: float = 2.0, queue_mb: float = 256.0,
        graph: str = "", files: dict[str, str] | None = None, sets: Iterable[str] = (),
    ) -> None:  # fmt: skip
        self.path, self.frames, self.every = Path(path), frames, snapshot_every
        self._about = (graph, dict(files or {}), list(sets))
        self._pace = round(1e9 / preview_fps) if preview_fps > 0 else 0
        self._limit = round(queue_mb * 2**20)
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._lock = threading.Condition()
        self._bytes = 0
        self.on = False
        self.unchecked = 0  # frames at sinks whose digests were left out
        self.error: EngineError | None = None
        self._modes: dict[int, str] = {}
        self._marks: dict[int, int] = {}
        self._next: dict[str, int] = {}  # topic to when its next picture is due
        self._stored: set[str] = set()
        self.session: Session
        self.file: McapFile

    # ---- life

    def attach(self, session: Session) -> None:
        """Open the file and listen. Raises UsageError where it exists already, MediaError where it cannot be written."""
        if self.path.exists():
            raise UsageError(f"the recording {self.path} exists already", fix="choose another name; a recording is never written over")
        self.session = session
        self.file = McapFile(self.path, f"afterimage-engine {engine.__version__}")
        self._offset = time.time_ns() - session.clock.now()
        graph, files, sets = self._about
        facts = session_facts(session, graph=graph, files=files, sets=sets)
        facts |= {"frames": self.frames, "snapshot_every": self.every, "began": time.time_ns(), "clock_at": session.clock.now()}
        plain = clean(facts)
        plain["plan_digest"] = digest(plain["plan"])
        try:
            self._begin(plain)
        except OSError as error:
            self.file.abandon()
            raise MediaError(f"cannot write the recording {self.path}: {error.strerror}", fix="make room, or record to another disk") from error
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._live = session.plan.live
        self.on = True
        session.listen(self)
        self._thread.start()

    def _begin(self, facts: dict[str, Any]) -> None:
        session = self.session
        self.file.about({"engine": engine.__version__, "graph": session.plan.name, "plan": session.plan.hash, "format": "1"})
        self.file.add("/afterimage/session", facts, self._wall())
        self.file.flush()

    def close(self, error: BaseException | None = None) -> None:
        """Write how the run ended, the indexes and the end of the file. Raises MediaError where the recording had ended before."""
        if not hasattr(self, "_thread"):
            return
        session, thread = self.session, self._thread
        if self.on:
            first = error or next(iter(session.errors), None)
            state = "aborted" if session.aborted else "failed" if first is not None else "done"
            facts = {
                "state": state, "error": str(first) if first is not None else "", "frames": frames_of(session), "unchecked": self.unchecked,
                "events": len(session.events),
            }  # fmt: skip
            self._put(self._write, ("/afterimage/end", clean(facts)), force=True)
        self._queue.put(None)
        thread.join()
        self.on = False
        if self.error is None:
            try:
                self.file.close()
            except OSError as failure:
                self._fail(failure)
        if self.error is not None:
            raise self.error

    # ---- what the run says (on lanes and under the locks of gates)

    def joined(self, node: NodeRun) -> None:
        node.emit.tapped = node.plan.lane == SLOW and bool(node.spec.outputs)
        if self.every and node.spec.outputs and node.gate is None:
            node.mark = self.every

    def note(self, kind: str, entry: tuple[Any, ...]) -> None:
        self._put(self._note, (kind, entry))

    def event(self, event: dict[str, Any]) -> None:
        self._put(self._event, (event,))

    @guarded
    def decided(self, node: str, what: str, value: Any) -> None:
        self._put(self._write, ("/afterimage/decided", {"node": node, "what": what, "value": packed(value)}))

    @guarded
    def entered(self, gate: Gate, offer: Offer, version: int, epoch: int) -> None:
        if not self.on:
            return
        mode = self._mode(gate)
        read = {name: value for name, value, _ in offer.values if gate.source.emit.outs[name]}
        leases = [lease for name, _, found in offer.values if name in read for lease in found] if mode != "none" else []
        size = NOTE + (sum(nbytes(value) for value in read.values()) if mode != "none" else 0)
        if self.every and offer.seq >= self._marks.setdefault(gate.source.gate_id, self.every):
            mark = offer.seq // self.every * self.every
            self._marks[gate.source.gate_id] = mark + self.every
            where = {"node": gate.source.name, "gate": gate.source.gate_id, "mark": mark, "first": offer.seq, "epoch": epoch}
            facts = where | {"counts": snapshots.counts(gate.source)}
            self._put(self._write, ("/afterimage/snapshot", facts))
        facts = {
            "gate": gate.source.gate_id, "node": gate.source.name, "seq": offer.seq, "pts": offer.pts, "born": offer.born, "cut": offer.cut,
            "version": version, "epoch": epoch,
        }  # fmt: skip
        self._put(self._frame, (facts, read, mode), leases, size)

    def refused(self, gate: Gate, offer: Offer, cause: str) -> None:
        facts = {"gate": gate.source.gate_id, "node": gate.source.name, "seq": offer.seq, "pts": offer.pts, "cut": offer.cut, "cause": cause}
        self._put(self._write, ("/afterimage/refused", facts, offer.seq))

    @guarded
    def made(self, node: NodeRun, head: Packet, values: list[tuple[str, Any]]) -> None:
        if not self.on:
            return
        facts = {
            "node": node.name, "seq": head.seq, "epoch": head.epoch, "last": head.frame is None,
            "values": {
                name: None if value is None else {"hash": digest(value), **({"value": packed(value)} if value.kind in SMALL else {})}
                for name, value in values
            },
        }  # fmt: skip
        self._put(self._write, ("/afterimage/made", facts, head.seq), size=NOTE * 4)

    @guarded
    def sunk(self, node: NodeRun, head: Packet, given: list[tuple[Side, Any]]) -> None:
        if not self.on:
            return
        inputs, leases, ready = taken(node, head, given)
        size = NOTE + sum(nbytes(value) for value in inputs.values())
        skip = self._live and self._bytes + size > self._limit // 2
        self.unchecked += skip
        facts = {"node": node.name, "seq": head.seq, "epoch": head.epoch, "pts": head.pts, "version": head.version}
        self._put(self._sunk, (facts, {} if skip else inputs, ready, skip), [] if skip else leases, NOTE if skip else size)

    @guarded
    def crossed(self, node: NodeRun, head: Packet) -> None:
        mark = head.seq // self.every * self.every
        node.mark = mark + self.every
        if self.on:
            taken_state, leases, size = snapshots.take(node, head, mark)
            self._put(self._snapshot, (taken_state,), leases, NOTE + size)

    @guarded
    def read(self, side: Side, head: Packet) -> None:
        value = side.value
        if not self.on or value is None or not self.every or value.seq >= head.seq // self.every * self.every:
            return
        if side.node.mark - self.every > value.seq:  # it crosses a snapshot: made before it, read after it
            facts = {"edge": side.edge.id, "read": head.seq, **snapshots.place(value)}
            self._put(self._late, (facts, value), list(value.leases), NOTE + nbytes(value.payload))

    # ---- the queue

    def _put(
        self, write: Callable[..., None], args: tuple[Any, ...], leases: Iterable[Any] = (), size: int = NOTE, *, force: bool = False
    ) -> None:  # fmt: skip
        with self._lock:
            while self.on and not force and self._bytes + size > self._limit and self._bytes:
                if self._live:
                    self.on = False
                    self._queue.put((self._overrun, 0, (), (), 0))
                else:
                    self._lock.wait(0.1)
            if not self.on:
                return
            for lease in leases:
                lease.retain()
            self._bytes += size
            self._queue.put((write, self._wall(), args, leases, size))

    def _wall(self) -> int:
        return int(self.session.clock.now() + self._offset)

    @property
    def waiting(self) -> float:
        """How full the queue is, 0..1."""
        return self._bytes / self._limit

    def _mode(self, gate: Gate) -> str:
        found = self._modes.get(gate.source.gate_id)
        if found is None:
            stream = gate.source.site.stream
            path = file_of(stream.url) if stream is not None else None
            found = ("store" if path is None else "hash") if self.frames == "auto" else self.frames
            self._modes[gate.source.gate_id] = found
            facts = {"gate": gate.source.gate_id, "node": gate.source.name, "mode": found, "stream": stream_facts(stream)}
            self._put(self._source, (facts, path))
        return found

    # ---- the thread

    def _run(self) -> None:
        due = time.monotonic() + FLUSH_S
        while True:
            try:
                item = self._queue.get(timeout=max(0.0, due - time.monotonic()))
            except queue.Empty:
                item = ()
            if item is None:
                return
            if item:
                self._deal(*item)
            if time.monotonic() >= due:
                due = time.monotonic() + FLUSH_S
                if self.error is None:
                    try:
                        self.file.flush()
                    except OSError as error:
                        self._fail(error)

    def _deal(self, write: Callable[..., None], when: int, args: tuple[Any, ...], leases: Iterable[Any], size: int) -> None:
        try:
            if self.error is None:
                write(when, *args)
        except (OSError, EngineError, ValueError, TypeError) as error:
            self._fail(error)
        finally:
            for lease in leases:
                lease.release()
            with self._lock:
                self._bytes -= size
                self._lock.notify_all()

    def _fail(self, error: Exception) -> None:
        """The recording ends here; what it has stays readable, and the run goes on."""
        if self.error is not None:
            return
        self.on = False
        if isinstance(error, OSError):
            why = f"{error.strerror or error} ({self.path.name}, {self.file.size} bytes)"
            self.error = MediaError(f"the recording ended early: {why}", fix="make room, or record to another disk")
        else:
            fix = error.fix if isinstance(error, EngineError) else ""
            self.error = MediaError(f"the recording ended early: {error}", fix=fix)
        self.file.abandon()
        self.session.event("recording ended", "", -1, error=type(self.error).__name__, message=self.error.message, fix=self.error.fix)

    def _overrun(self, when: int) -> None:
        try:
            self.file.flush()
        except OSError as error:
            self._fail(error)
        self._fail(MediaError(f"the disk is slower than the run: {self._limit >> 20} MB were waiting for it", fix="use --record-frames hash"))

    def _broken(self, when: int, error: Exception) -> None:
        self._fail(error if isinstance(error, (OSError, EngineError)) else RuntimeError(f"{type(error).__name__}: {error}"))

    # ---- writing (on the thread)

    def _write(self, when: int, topic: str, facts: dict[str, Any], seq: int = -1) -> None:
        self.file.add(topic, facts, when, seq)

    def _note(self, when: int, kind: str, entry: tuple[Any, ...]) -> None:
        if kind == "plans":  # a reload
            ends, ended, starts, plan = entry
            data = clean(plan.to_dict())
            facts = {"ends": named(ends), "ended": list(ended), "starts": named(starts)}
            facts |= {"plan": data, "plan_digest": digest(data), "plan_hash": plan.hash}
            self.file.add("/afterimage/plans", facts | {"operators": operator_versions(plan)}, when)
            return
        self.file.add(f"/afterimage/{kind}", {"entry": packed(list(entry))}, when)

    def _event(self, when: int, event: dict[str, Any]) -> None:
        self.file.add("/afterimage/event", clean(event), when, int(event.get("seq", -1)))

    def _source(self, when: int, facts: dict[str, Any], path: Path | None) -> None:
        if path is not None and facts["mode"] != "store":
            try:
                facts |= {"file": file_facts(path)}
            except OSError as error:
                facts |= {"file_error": str(error)}
        self.file.add("/afterimage/source", facts | {"machine": machine()}, when)

    def _frame(self, when: int, facts: dict[str, Any], read: dict[str, Payload], mode: str) -> None:
        values = {}
        for name, value in read.items():
            values[name] = {"type": value.kind} | ({"hash": digest(value)} if mode != "none" else {})
            topic = f"/source/{facts['node']}/{name}"
            if mode == "store":
                self._payload(topic, value, when, facts["seq"])
            elif mode == "hash":
                self._preview(topic, value, when, facts["seq"])
        self.file.add("/afterimage/frame", facts | {"values": values}, when, facts["seq"])

    def _sunk(self, when: int, facts: dict[str, Any], inputs: dict[str, Any], ready: list[Any], skip: bool) -> None:
        for event in ready:
            event.synchronize()
        if skip:
            self.file.add("/afterimage/sunk", facts | {"unchecked": True}, when, facts["seq"])
            return
        ports = {}
        for port, value in inputs.items():
            small = not isinstance(value, Payload) or value.kind in SMALL
            ports[port] = {"hash": digest(value), **({"value": packed(value)} if small else {})}
            topic = f"/sink/{facts['node']}/{port}"
            if not small:
                if self._due(topic, when, round(KEY_S * 1e9)):
                    self._payload(topic, value, when, facts["seq"])
                    ports[port]["kept"] = True
                self._preview(topic, value, when, facts["seq"])
        self.file.add("/afterimage/sunk", facts | {"inputs": ports}, when, facts["seq"])

    def _snapshot(self, when: int, state: snapshots.Taken) -> None:
        self.file.add("/afterimage/snapshot", state.pack(), when, state.facts["first"])

    def _late(self, when: int, facts: dict[str, Any], value: Packet) -> None:
        if value.ready is not None:
            value.ready.synchronize()
        self.file.add("/afterimage/late", facts | {"payload": packed(value.payload)}, when, facts["seq"])

    def _payload(self, topic: str, value: Payload, when: int, seq: int) -> None:
        """A payload without loss: pictures as bytes that viewers show, others as JSON."""
        raw = pictures.raw(value) if isinstance(value, (Image, Mask)) else None
        if raw is not None:
            width, height, color, data = raw
            self.file.add_raw(topic, foxglove.raw_image(when, topic, width, height, color, data), when, seq, schema=foxglove.RAW)
        else:
            self.file.add(topic, packed(value), when, seq, schema=f"afterimage.{value.kind}")

    def _preview(self, topic: str, value: Payload, when: int, seq: int) -> None:
        if not self._pace or not isinstance(value, Image) or self.waiting > 0.25 or not self._due(f"/preview{topic}", when, self._pace):
            return
        data = pictures.jpeg(value)
        if data:
            message = foxglove.compressed_image(when, topic, "jpeg", data)
            self.file.add_raw(f"/preview{topic}", message, when, seq, schema=foxglove.COMPRESSED)

    def _due(self, topic: str, when: int, pace: int) -> bool:
        if when < self._next.get(topic, 0):
            return False
        self._next[topic] = when + pace
        return True
