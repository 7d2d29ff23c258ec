"""What stands in for sources, sinks and slow nodes in a replay: the recording itself.

Invariant: a stand-in gives what was recorded for the frame in hand, or fails as was recorded; it never makes anything up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.clock import StepClock
from engine.errors import MissingError, ReplayError, RunError
from engine.operator import Operator, Stamped, StreamInfo
from engine.planning.wire import SLOW
from engine.site import Site
from recorder.facts import file_facts
from recorder.payloads import SMALL, blank, digest, unpacked

if TYPE_CHECKING:
    from engine.run.node import NodeRun
    from recorder.tape import Tape


class Failed(RunError):
    """What an operator raised when it was recorded."""


class Source(Operator):
    """A source that yields the admitted frames of a recording, from `begin` to `until`, at their own seqs. `before`: called ahead of the first,
    when every node is open."""

    def __init__(self, tape: Tape, node: NodeRun, begin: int, until: int | None, before: Callable[[], None]) -> None:
        self.tape, self.node, self.before = tape, node, before
        frames = tape.frames.get(node.gate_id, {})
        self.frames = [frames[seq] for seq in sorted(frames) if seq >= begin and (until is None or seq <= until)]
        self.facts = tape.sources.get(node.gate_id, {})

    def open(self, site: Site) -> None:
        super().open(site)
        stream = dict(self.facts.get("stream") or {})
        if stream:
            stream["size"] = tuple(stream["size"]) if stream.get("size") else None
            site.describe(StreamInfo(**stream))

    def __call__(self) -> Iterator[Any]:
        self.before()
        for facts in self.frames:
            yield self.stamped(facts, self.stored(facts))

    def stamped(self, facts: Mapping[str, Any], value: Any) -> Any:
        return Stamped(value, pts=facts["pts"], born=facts["born"], cut=facts["cut"], seq=facts["seq"])

    def stored(self, facts: Mapping[str, Any]) -> Any:
        """The value of a frame: stored outputs, and blanks for those that nobody reads."""
        spec, values = self.node.spec, []
        for output in spec.outputs:
            known = facts["values"].get(output.name)
            if known is None:
                values.append(None if output.may_skip else blank(output.type))
                continue
            topic = f"/source/{self.node.name}/{output.name}"
            if not self.tape.has(topic, facts["seq"]):
                raise ReplayError(f"frame {facts['seq']} of {self.node.name} was not stored", fix="record with --record-frames store")
            value = self.tape.payload(topic, facts["seq"])
            if known.get("hash") not in (None, digest(value)):
                raise ReplayError(f"{self.tape.path}: frame {facts['seq']} of {self.node.name} is damaged", fix="use another copy")
            values.append(value)
        return values[0] if spec.result is None else spec.result(*values)


class Again(Source):
    """A source that reads its file once more, and compares every frame with the digest that was recorded."""

    def open(self, site: Site) -> None:
        Operator.open(self, site)
        self._same_file()
        # Paced by nothing: which frames count is known from the recording.
        self.inner_site = replace(site, live=False, clock=StepClock())
        self.inner: Any = None
        if self.node.spec.is_class:
            self.inner = self.node.spec.target(**self.node.params)
            self.inner.open(self.inner_site)
            site.stream = self.inner_site.stream
        elif self.node.spec.wants_site:
            raise ReplayError(f"{self.node.name}: {self.node.spec.name} cannot be read a second time", fix="record with --record-frames store")

    def _same_file(self) -> None:
        known = self.facts.get("file")
        if known is None:
            return
        given = str(self.node.params.get("url") or known["path"])
        for path in dict.fromkeys((Path(given), Path(known["absolute"]))):
            if path.exists():
                if file_facts(path)["hash"] == known["hash"]:
                    return
                raise ReplayError(f"{self.node.name}: {path} is not the file that was recorded: its content differs",
                                  fix=f"give the right one: --with {self.node.name}.url=FILE")  # fmt: skip
        raise MissingError(f"{self.node.name}: {given}, which was recorded by its digest, is not here",
                           fix=f"say where it is: --with {self.node.name}.url=FILE")  # fmt: skip

    def __call__(self) -> Iterator[Any]:
        self.before()
        source = iter(self.inner() if self.inner is not None else self.node.spec.target(**self.node.params))
        for facts in self.frames:
            for item in source:
                found = item if isinstance(item, Stamped) else Stamped(item)
                if found.pts is None or found.pts == facts["pts"]:
                    self._compare(facts, found.value)
                    yield self.stamped(facts, found.value)
                    break
                self.inner_site.let_go()
            else:
                raise ReplayError(f"{self.node.name} ends before the recorded frame {facts['seq']}", fix="record with --record-frames store")

    def _compare(self, facts: Mapping[str, Any], value: Any) -> None:
        spec = self.node.spec
        values = dict(zip([o.name for o in spec.outputs], [value] if spec.result is None else value, strict=True))
        for name, known in facts["values"].items():
            if known.get("hash") not in (None, digest(values[name])):
                raise ReplayError(f"frame {facts['seq']} of {self.node.name} is not the recorded one: it decodes to other pixels here",
                                  fix="record with --record-frames store, or use the versions that recorded it")  # fmt: skip

    def close(self) -> None:
        if getattr(self, "inner", None) is not None:
            self.inner.close()


class Slow(Operator):
    """A node of a slow lane: gives what it made when it was recorded, so that its model need not run."""

    def __init__(self, tape: Tape, node: NodeRun) -> None:
        self.node, self.known, self.failed = node, tape.made.get(node.name, {}), tape.failed.get(node.name, {})
        self.last = -1

    def __call__(self, **ports: Any) -> Any:
        self.last = seq = self.site.seq
        if seq in self.failed and seq not in self.known:
            raise Failed(self.failed[seq])
        return self._result(next((made for made in self.known.get(seq, ()) if not made["last"]), None))

    def flush(self) -> Any:
        made = next((made for made in self.known.get(self.last, ()) if made["last"]), None)
        return None if made is None else self._result(made)

    def _result(self, made: Mapping[str, Any] | None) -> Any:
        spec = self.node.spec
        values = [None if made is None or (v := made["values"].get(o.name)) is None else unpacked(v["value"]) for o in spec.outputs]
        if made is None and not all(output.may_skip for output in spec.outputs):
            raise Failed("the recording ends before this was made")
        return values[0] if spec.result is None else spec.result(*values)


def injects(node: NodeRun) -> bool:
    """Whether the recording can stand in for a node: one of a slow lane, all of whose outputs are small enough to have been written."""
    small = bool(node.spec.outputs) and all(output.type.kind in SMALL for output in node.spec.outputs)
    return small and node.plan.lane == SLOW and node.gate is None and node.plan.batch == 1


def repeating(tape: Tape) -> dict[str, Callable[[NodeRun], Any]]:
    """Stand-ins for the nodes that failed, or ran out of memory, when they were recorded: they compute, and on the same frames they fail
    again, or go on with the cheaper settings that were found then."""
    rungs: dict[str, dict[int, dict[str, Any]]] = {}
    for event in tape.events:
        if event["what"] == "memory" and event.get("settings") and int(event["seq"]) >= 0:
            rungs.setdefault(event["node"], {}).setdefault(int(event["seq"]), {}).update(event["settings"])
    return {name: _repeater(tape.failed.get(name, {}), rungs.get(name, {})) for name in {*tape.failed, *rungs}}


def _repeater(failed: Mapping[int, str], rungs: Mapping[int, Mapping[str, Any]]) -> Callable[[NodeRun], Any]:
    def make(node: NodeRun) -> Any:
        def before() -> None:
            if node.site.seq in rungs:
                node.update(dict(rungs[node.site.seq]))
            if node.site.seq in failed:
                raise Failed(failed[node.site.seq])

        target: Any = node.spec.target
        if node.plan.process:
            return None  # it computes in a child of its own, and what it raised there it raises again
        if not node.spec.is_class:
            extra = {"site": node.site} if node.spec.wants_site else {}

            def call(**ports: Any) -> Any:
                before()
                return target(**ports, **node.params, **extra)

            return call

        class Repeats(target):  # type: ignore[misc]
            def __call__(self, *args: Any, **ports: Any) -> Any:
                before()
                return super().__call__(*args, **ports)

        return Repeats(**node.params)

    return make


class Sink(Operator):
    """A sink that takes everything and does nothing, or what `inner` does; it fails where the recorded one failed."""

    def __init__(self, tape: Tape, node: NodeRun, inner: Operator | None) -> None:
        self.failed, self.inner, self.ended = tape.failed.get(node.name, {}), inner, False

    def open(self, site: Site) -> None:
        super().open(site)
        if self.inner is not None:
            self.inner.open(site)

    def __call__(self, *args: Any, **ports: Any) -> None:
        if self.site.seq in self.failed:
            raise Failed(self.failed[self.site.seq])
        if self.inner is not None:
            self.inner(*args, **ports)  # type: ignore[operator]

    def call_batch(self, frames: list[dict[str, Any]]) -> list[None]:
        if self.site.seq in self.failed:
            raise Failed(self.failed[self.site.seq])
        return [None] * len(frames) if self.inner is None else self.inner.call_batch(frames)  # type: ignore[attr-defined]

    def update(self, **changes: Any) -> None:
        if self.inner is not None:
            self.inner.update(**changes)

    def reset(self) -> None:
        if self.inner is not None:
            self.inner.reset()

    def flush(self) -> Any:
        return None if self.inner is None else self.inner.flush()

    def close(self) -> None:
        if self.inner is not None:
            self.inner.close()


def sink_maker(tape: Tape, out: Path | None) -> Callable[[NodeRun], Operator]:
    """Makes the stand-in of a sink, writing into `out` where there is one and the sink writes files."""

    def make(node: NodeRun) -> Operator:
        target = node.spec.target
        inner = None
        if out is not None and node.spec.is_class:
            params = target.redirected(node.params, out, node.name)  # type: ignore[attr-defined]
            inner = target(**params) if params is not None else None
        return Sink(tape, node, inner)

    return make


__all__ = ["Again", "Failed", "Sink", "Slow", "Source", "injects", "repeating", "sink_maker"]
