"""What is different between two plans, in the terms of a running session: which nodes can stay as they are, which have to be made anew.

Pure data and a pure function; `str(diff)` is what people read. It knows nothing of sessions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from engine import registry
from engine.errors import UsageError
from engine.graph import UNSET
from engine.payload import to_plain
from engine.plan import Edge, Plan, PlanNode

REBUILD = ("op", "version", "kind", "lane", "batch", "process")  # what is fixed when a node is made
KEEP = ("on_error", "max_errors")  # what a node can take on as it is
FIXED = ("clock", "seed", "embedded")  # what a session cannot change at all
SETTINGS = ("name", "in_flight", "budget_ms", "govern", "memory")


@dataclass(frozen=True)
class Diff:
    """What a reload changes. `rebuilt`: node to why. `params`: `node.param` or `node.in.port` to (old, new), live ones of kept nodes."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    rebuilt: Mapping[str, str] = field(default_factory=dict)
    kept: tuple[str, ...] = ()
    rewired: tuple[str, ...] = ()  # kept nodes with other edges or another way to deal with errors
    params: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    edges_added: tuple[str, ...] = ()
    edges_removed: tuple[str, ...] = ()
    settings: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)

    @property
    def structural(self) -> bool:
        """Whether more than live values changes."""
        return bool(self.added or self.removed or self.rebuilt or self.rewired or self.settings.keys() - {"name", "memory"})

    def __bool__(self) -> bool:
        return self.structural or bool(self.params or self.settings)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, fit for JSON."""
        return {
            "added": list(self.added), "removed": list(self.removed), "rebuilt": dict(self.rebuilt), "kept": list(self.kept),
            "rewired": list(self.rewired), "params": {path: [_plain(a), _plain(b)] for path, (a, b) in self.params.items()},
            "edges_added": list(self.edges_added), "edges_removed": list(self.edges_removed),
            "settings": {name: [_plain(a), _plain(b)] for name, (a, b) in self.settings.items()},
        }  # fmt: skip

    def __str__(self) -> str:
        lines = [f"+ {name}" for name in self.added] + [f"- {name}" for name in self.removed]
        lines += [f"~ {name}  made anew: {why}" for name, why in self.rebuilt.items()]
        lines += [f"= {path}  {_short(a)} -> {_short(b)}" for path, (a, b) in {**self.params, **self.settings}.items()]
        lines += [f"+ {edge}" for edge in self.edges_added] + [f"- {edge}" for edge in self.edges_removed]
        lines += [f"{len(self.kept)} nodes stay as they are: {', '.join(self.kept)}"] if self.kept else []
        return "\n".join(lines) if self else "nothing changes"


def diff(old: Plan, new: Plan, *, force: Collection[str] = ()) -> Diff:
    """What leads from `old` to `new`. `force`: nodes that have to be made anew whatever the plans say."""
    before, after = {node.name: node for node in old.nodes}, {node.name: node for node in new.nodes}
    params: dict[str, tuple[Any, Any]] = {}
    rebuilt: dict[str, str] = {}
    for name in before.keys() & after.keys():
        why = _why(before[name], after[name]) or ("it had ended" if name in force else "")
        if why:
            rebuilt[name] = why
        else:
            params |= {f"{name}.{key}": pair for key, pair in _changed(before[name].params, after[name].params).items()}
    same = before.keys() & after.keys() - rebuilt.keys()
    was, now = _edges(old, same), _edges(new, same)
    for key in was.keys() & now.keys():
        a, b = was[key], now[key]
        if a.hold is not b.hold and a.hold != b.hold and a.node in same:
            params[f"{a.node}.in.{a.port}"] = (_plain(a.hold), _plain(b.hold))
    rewired = {edge.node for key in was.keys() ^ now.keys() for edge in (was.get(key) or now[key],)}
    rewired |= {edge.source for key in was.keys() ^ now.keys() for edge in (was.get(key) or now[key],)}
    rewired |= {name for name in same if any(getattr(before[name], key) != getattr(after[name], key) for key in KEEP)}
    gone, came = (sorted(str_edge(table[key]) for key in table.keys() - other.keys()) for table, other in ((was, now), (now, was)))
    return Diff(
        added=tuple(name for name in after if name not in before), removed=tuple(name for name in before if name not in after),
        rebuilt={name: rebuilt[name] for name in after if name in rebuilt}, kept=tuple(name for name in after if name in same),
        rewired=tuple(name for name in after if name in rewired & same), params=dict(sorted(params.items())),
        edges_added=tuple(e for e in came if e not in gone), edges_removed=tuple(e for e in gone if e not in came),
        settings={k: (getattr(old, k), getattr(new, k)) for k in SETTINGS if getattr(old, k) != getattr(new, k)},
    )  # fmt: skip


def check_same_run(old: Plan, new: Plan) -> None:
    """Raise UsageError where a running session cannot go on with `new`."""
    for key in FIXED:
        was, now = getattr(old, key), getattr(new, key)
        if was != now:
            fix = f"keep {key}, or stop this run and start the new graph"
            raise UsageError(f"{key} of a running session cannot change: it is {was!r}, the new plan has {now!r}", fix=fix)


def reader(edge: Edge) -> tuple[Any, ...]:
    """What makes two edges the same to a queue and to its reader: everything but number, written value, and who listens further down."""
    return (edge.hold is UNSET, *(getattr(edge, name) for name in Edge.__slots__ if name not in ("id", "hold", "bounds")))


def str_edge(edge: Edge) -> str:
    return f"{edge.node}.{edge}"


def _edges(plan: Plan, same: Collection[str]) -> dict[tuple[Any, ...], Edge]:
    """Edges by what they are; those that a node made anew has at either end count as others."""
    return {(*reader(e), e.node in same, e.source in same or not e.source): e for e in plan.edges}


def _why(old: PlanNode, new: PlanNode) -> str:
    """Why a node cannot stay; "" where it can."""
    for key in REBUILD:
        a, b = getattr(old, key), getattr(new, key)
        if a != b:
            return f"{key} {_short(a)} -> {_short(b)}"
    spec = registry.find(new.op)
    live = {param.name for param in spec.params if param.live}
    for key, (a, b) in _changed(old.params, new.params).items():
        if key not in live:
            return f"{key} {_short(a)} -> {_short(b)}"
    return ""


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = [*old, *(name for name in new if name not in old)]
    return {name: (old.get(name, UNSET), new.get(name, UNSET)) for name in names if old.get(name, UNSET) != new.get(name, UNSET)}


def _plain(value: Any) -> Any:
    value = to_plain(value)
    if hasattr(value, "model_dump"):
        return value.model_dump()
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if value is None or isinstance(value, (str, int, float, bool, dict)):
        return value
    return repr(value)


def _short(value: Any) -> str:
    text = repr(_plain(value))
    return text if len(text) <= 40 else text[:39] + "…"
