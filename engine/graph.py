"""A graph as written: nodes, their parameters and inputs, and where each of these stands in its file.

Plain data. Nothing here is checked against operators: that is the compiler's work. `engine.text.load` makes a Graph from TOML; `GraphBuilder`
makes the same one from Python calls:

    g = GraphBuilder("edges", clock="offline")
    g.node("camera", "source.video", url="clip.mp4")
    g.node("edges", "image.canny", image="camera", low=40)
    g.node("file", "sink.video", image="edges", url="out.mp4")
    plan = compile(g.build())
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from engine.errors import Diagnostic, GraphError

_REF = re.compile(r"(?P<node>[A-Za-z_][\w-]*)(?:\.(?P<output>[A-Za-z_]\w*))?(?:@(?P<delay>[+-]?\d+))?")
POLICIES = ("block", "latest", "drop-oldest")
ON_ERROR = ("fail", "skip", "hold")
MISSING = ("skip", "reuse", "default", "error")
CLOCKS = ("live", "offline")


class _Unset:
    def __repr__(self) -> str:
        return "UNSET"

    def __reduce__(self) -> str:
        return "UNSET"  # one and the same object in every process and copy


UNSET: Final[Any] = _Unset()


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands: file and line (1-based), for diagnostics."""

    file: str = "<graph>"
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Ref:
    """A reference to another node's output: `node`, `node.output`, or `node.output@-1` for the last processed frame."""

    node: str
    output: str | None = None
    delay: int = 0

    @classmethod
    def parse(cls, text: str) -> Ref:
        """Raises ValueError where `text` is no reference."""
        match = _REF.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{text!r} is no reference; write NODE, NODE.OUTPUT or NODE.OUTPUT@-1")
        return cls(match["node"], match["output"], int(match["delay"] or 0))

    def __str__(self) -> str:
        return self.node + (f".{self.output}" if self.output else "") + (f"@{self.delay}" if self.delay else "")


@dataclass(frozen=True, slots=True)
class Input:
    """What feeds one port (or one live parameter) of a node.

    `refs` is empty for a constant (`{ hold = … }` alone). `listed`: written as a list. `hold` is UNSET when not given.
    `missing`: what an exact input does when its partner never comes: skip the frame, reuse the last value, take the port's default, or fail.
    """

    port: str
    refs: tuple[Ref, ...]
    listed: bool = False
    policy: str | None = None
    cap: int | None = None
    every: int = 1
    max_age_ms: float | None = None
    hold: Any = UNSET
    map: tuple[float, float] | None = None
    missing: str | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """An operator in a graph, under a name."""

    name: str
    op: str
    params: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[Input, ...] = ()
    lane: str | None = None
    on_error: str | None = None
    max_errors: int = 10
    trigger: str | None = None
    batch: int = 1
    process: bool = False


@dataclass(frozen=True, slots=True)
class KnobRule:
    """A knob the governor may move: `set` is node.param; a range (worst, best) or a list of choices, best first.

    `follow`: a Scalar output (`pose.stability`) that limits the knob too: at 0 the best setting is allowed, at 1 only the cheapest.
    """

    set: str
    range: tuple[float, float] | None = None
    choices: tuple[Any, ...] = ()
    step: float | None = None
    follow: str | None = None


@dataclass(frozen=True, slots=True)
class Govern:
    """The governor's orders; knobs are moved in the order they are written, and back in reverse."""

    target_fps: float | None = None
    knobs: tuple[KnobRule, ...] = ()
    dwell_s: float = 2.0
    enabled: bool = True


@dataclass(frozen=True)
class Graph:
    """A whole graph. `places` maps dotted paths (`node.paint.in.pose`) to where they are written."""

    name: str
    nodes: tuple[Node, ...]
    clock: str = "offline"
    budget_ms: float | None = None
    in_flight: int | None = None
    seed: int = 0
    govern: Govern = Govern()
    memory: Mapping[str, Any] = field(default_factory=dict)
    file: str = "<graph>"
    places: Mapping[str, Place] = field(default_factory=dict, compare=False)
    files: tuple[str, ...] = field(default=(), compare=False)  # the file and those it includes, as absolute paths; for whoever watches them

    def place(self, path: str) -> Place:
        """Where `path` is written, or the nearest thing around it that is."""
        while path:
            if path in self.places:
                return self.places[path]
            path = path.rpartition(".")[0]
        return Place(self.file)

    def problem(self, path: str, message: str, **facts: str) -> Diagnostic:
        """A Diagnostic at `path`."""
        place = self.place(path)
        return Diagnostic(message, place.file, place.line, path, **facts)


_NODE_KEYS = ("lane", "on_error", "max_errors", "trigger", "batch", "process")


class GraphBuilder:
    """Builds a Graph from Python calls; the keyword arguments of `node` are ports, node keys and parameters alike."""

    def __init__(self, name: str = "graph", **settings: Any) -> None:
        self._name, self._settings, self._nodes = name, settings, {}  # type: str, dict[str, Any], dict[str, Node]

    def node(self, name: str, op: str, /, **given: Any) -> str:
        """Add a node; returns its name.

        A value is an input where the operator has a port of that name, or where it is an `Input`. Where port and parameter share a name,
        text is an input only if it names a node added before. None leaves a port unconnected. Raises GraphError, and UsageError for unknown
        operators.
        """
        from engine import registry

        spec = registry.find(op)
        if name in self._nodes:
            raise GraphError([Diagnostic(f"node {name!r} is defined twice", path=f"node.{name}")])
        keys = {key: given.pop(key) for key in _NODE_KEYS if key in given}
        inputs, params = [], {}
        for key, value in given.items():
            port, param = spec.port(key), spec.param(key)
            plain = isinstance(value, str) and param is not None and value.partition(".")[0].partition("@")[0] not in self._nodes
            if isinstance(value, Input) or (port is not None and value is not None and not plain):
                try:
                    inputs.append(as_input(key, value))
                except ValueError as error:
                    raise GraphError([Diagnostic(str(error), path=f"node.{name}.in.{key}")]) from None
            elif port is None or param is not None:
                params[key] = value
        self._nodes[name] = Node(name, op, params, tuple(inputs), **keys)
        return name

    def build(self) -> Graph:
        return Graph(self._name, tuple(self._nodes.values()), **self._settings)


def as_input(port: str, value: Any) -> Input:
    """An Input from how it is written: "node.output", a list of these, or a table. Raises ValueError on anything else."""
    if isinstance(value, Input):
        return value
    if isinstance(value, str):
        return Input(port, (Ref.parse(value),))
    if isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
        return Input(port, tuple(Ref.parse(v) for v in value), listed=True)
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a node, a list of nodes or a table, found {value!r}")
    table = dict(value)
    source, bounds = table.pop("from", None), table.pop("map", None)
    if isinstance(source, Mapping):
        raise ValueError(f"from names nodes, it is no table: {source!r}")
    unknown = set(table) - {f.name for f in fields(Input)} | table.keys() & {"port", "refs", "listed"}
    if unknown:
        raise ValueError(f"an input has no key {', '.join(sorted(unknown))}")
    if bounds is not None and not (isinstance(bounds, (list, tuple)) and len(bounds) == 2):
        raise ValueError(f"map takes two numbers, [a, b], found {bounds!r}")
    refs = as_input(port, source) if source is not None else Input(port, ())
    return Input(port, refs.refs, refs.listed, map=None if bounds is None else (bounds[0], bounds[1]), **table)
