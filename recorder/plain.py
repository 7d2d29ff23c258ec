"""What a recording says of live objects, in plain words: what a sink was given, what a stream is, facts without credentials; and hooks that
cannot harm the run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine.errors import scrub
from engine.packet import Packet

if TYPE_CHECKING:
    from engine.run.node import NodeRun
    from engine.run.side import Side
    from recorder.recorder import Recorder


def guarded(hook: Callable[..., None]) -> Callable[..., None]:
    """A hook of a Recorder that, where it fails, ends the recording and not the run."""

    @functools.wraps(hook)
    def call(self: Recorder, *args: Any) -> None:
        try:
            hook(self, *args)
        except Exception as error:
            self.on = False
            self._queue.put((self._broken, 0, (error,), (), 0))

    return call


def taken(node: NodeRun, head: Packet, given: list[tuple[Side, Any]]) -> tuple[dict[str, Any], list[Any], list[Any]]:
    """What a sink was given: port (and place in its list) to payload or value; the leases and the events behind it."""
    assert node.trigger is not None
    inputs: dict[str, Any] = {}
    leases: list[Any] = []
    ready: list[Any] = []
    for edge, value in [(node.trigger.edge, head), *((side.edge, value) for side, value in given)]:
        name = edge.port if edge.slot is None else f"{edge.port}[{edge.slot}]"
        if type(value) is Packet:
            inputs[name] = value.payload
            leases += value.leases
            ready += [value.ready] if value.ready is not None else []
        else:
            inputs[name] = value
    return inputs, leases, ready


def named(seqs: dict[int, int]) -> dict[str, int]:
    return {str(gate): seq for gate, seq in seqs.items()}


def stream_facts(stream: Any) -> dict[str, Any]:
    if stream is None:
        return {}
    return {"url": scrub(stream.url), "fps": stream.fps, "frames": stream.frames, "size": list(stream.size) if stream.size else None,
            "audio": stream.audio}  # fmt: skip


def clean(value: Any) -> Any:
    """Plain values for JSON, without credentials; what JSON does not know is written as text."""
    if isinstance(value, dict):
        return {str(k): clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(v) for v in value]
    if isinstance(value, str):
        return scrub(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else repr(value)
    return scrub(str(value))
