"""A compiled graph: who runs where and in what order, how every edge behaves, how much may be under way.

Immutable plain data, made by `engine.planning.compile` without torch or a GPU. `Plan.hash` is the SHA-256 of its canonical JSON, written into
every trace, summary and bench result, so that two runs can be known to be of the same thing.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from engine.graph import UNSET, Govern, Graph

LOSSY = ("latest", "drop-oldest")


@dataclass(frozen=True, slots=True)
class Edge:
    """One connection, from an output to a port.

    `role`: how the port reads it. "trigger" fires the node; "exact" is the packet of the same seq; "hold" keeps its last value; "latest" is
    the newest not after the trigger; "carry" is the value of the last processed frame; "constant" is a value written in the graph.
    `feeds`: "port" or "param" (a live parameter fed by an edge). `lag`: None reads what is there (asynchronous); 0 waits until the same
    frame is settled, 1 until the previous one is. `counted`: the message belongs to its frame's fate; `credit`: it holds the gate's credit.
    `bounds`: dropped frames are announced on it, because somebody downstream waits for their settlement.
    """

    id: int
    source: str
    output: str
    node: str
    port: str
    slot: int | None
    role: str
    feeds: str = "port"
    policy: str = "block"
    cap: int = 1
    every: int = 1
    max_age_ms: float | None = None
    missing: str = "skip"
    hold: Any = UNSET
    map: tuple[float, float] | None = None
    lag: int | None = None
    counted: bool = True
    credit: bool = True
    bounds: bool = False
    crosses: bool = False

    @property
    def lossy(self) -> bool:
        return self.policy in LOSSY

    def __str__(self) -> str:
        how = [self.role] if self.role != "trigger" else []
        how += [f"{self.policy} {self.cap}" if self.role in ("trigger", "exact") else "", f"every {self.every}" if self.every > 1 else ""]
        how += [f"max age {self.max_age_ms:g} ms" if self.max_age_ms is not None else "", f"map {list(self.map)}" if self.map else ""]
        how += [f"missing: {self.missing}" if self.role == "exact" and self.missing != "skip" else ""]
        source = repr(self.hold) if self.role == "constant" else f"{self.source}.{self.output}" + ("@-1" if self.role == "carry" else "")
        port = self.port if self.slot is None else f"{self.port}[{self.slot}]"
        return f"{port} <- {source}  ({', '.join(h for h in how if h)})" if any(how) else f"{port} <- {source}"


@dataclass(frozen=True, slots=True)
class PlanNode:
    """One operator of a plan, with validated parameters; `order` is its place in the topological order."""

    name: str
    op: str
    version: int
    params: Mapping[str, Any]
    lane: str
    order: int
    kind: str  # source | node | sink | convert
    on_error: str = "fail"
    max_errors: int = 10
    batch: int = 1
    process: bool = False
    given: tuple[str, ...] = ()  # parameters written in the graph, as opposed to defaults


@dataclass(frozen=True, slots=True)
class PlanLane:
    """One thread and its nodes, in the order in which they run. `priority`: -1 before others on a GPU, 0 normal."""

    name: str
    nodes: tuple[str, ...]
    priority: int = 0
    source: bool = False


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything a session needs to run, and nothing that it decides while running."""

    name: str
    clock: str
    seed: int
    in_flight: int
    nodes: tuple[PlanNode, ...]
    edges: tuple[Edge, ...]
    lanes: tuple[PlanLane, ...]
    budget_ms: float | None = None
    govern: Govern = Govern()
    memory: Mapping[str, Any] = field(default_factory=dict)
    embedded: bool = False
    culled: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    file: str = "<graph>"
    graph: Graph | None = None  # what it was compiled from; no part of its hash

    @property
    def live(self) -> bool:
        return self.clock == "live"

    def node(self, name: str) -> PlanNode:
        return next(n for n in self.nodes if n.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, fit for JSON."""
        plain = asdict(replace(self, file="", graph=None))
        plain.pop("file")
        plain.pop("graph")
        for edge in plain["edges"]:
            if edge["hold"] is UNSET:
                edge["hold"] = None
        return json.loads(json.dumps(plain, default=_plain, sort_keys=True))  # type: ignore[no-any-return]

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON, hexadecimal."""
        text: str = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def __hash__(self) -> int:
        return hash(self.hash)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self.hash == other.hash

    def __str__(self) -> str:
        from engine.planning.show import plan_text

        return plan_text(self)


def reach(starts: Iterable[str], after: Mapping[str, Iterable[str]]) -> set[str]:
    """`starts`, and all that comes after them in the end."""
    todo = list(starts)
    found = set(todo)
    while todo:
        fresh = [name for name in after.get(todo.pop(), ()) if name not in found]
        found.update(fresh)
        todo += fresh
    return found


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump()
    if hasattr(value, "__dataclass_fields__"):
        return {name: getattr(value, name) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return dict(value)
    return repr(value)
