"""A plan from its JSON, as a recording keeps it; and the changes to one that a replay asks for.

Invariant: a plan that this engine wrote comes back with the same hash. It runs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from engine import registry
from engine.errors import EngineError, ParamError, ReplayError, UsageError
from engine.graph import UNSET, Govern, KnobRule
from engine.operator import Spec
from engine.payload import from_plain
from engine.plan import Edge, Plan, PlanLane, PlanNode
from engine.planning import convert

T = TypeVar("T")


def plan_of(data: Mapping[str, Any]) -> Plan:
    """The plan whose `to_dict` is `data`. Raises ReplayError where it does not fit the operators that are installed."""
    assert convert  # registers the conversions that the compiler plans
    try:
        nodes = tuple(_node(item) for item in data["nodes"])
        specs = {node.name: registry.find(node.op) for node in nodes}
        edges = tuple(_edge(item, specs[item["node"]]) for item in data["edges"])
        lanes = tuple(_made(PlanLane, item, nodes=tuple(item["nodes"])) for item in data["lanes"])
        knobs = tuple(
            _made(KnobRule, k, range=tuple(k["range"]) if k.get("range") else None, choices=tuple(k.get("choices") or ()))
            for k in data["govern"]["knobs"]
        )
        govern = _made(Govern, data["govern"], knobs=knobs)
        listed = {name: tuple(data[name]) for name in ("culled", "notes")}
        return _made(Plan, data, nodes=nodes, edges=edges, lanes=lanes, govern=govern, **listed)
    except EngineError as error:
        raise ReplayError(f"the recorded plan does not fit this installation: {error.message}", fix=error.fix) from error
    except (KeyError, TypeError, ValueError) as error:
        raise ReplayError(f"the recorded plan cannot be read: {type(error).__name__}: {error}") from error


def _made(kind: type[T], data: Mapping[str, Any], **changed: Any) -> T:
    """A dataclass from the keys that it knows: a plan of an older engine lacks some, one of a newer has more."""
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    return kind(**{k: v for k, v in {**data, **changed}.items() if k in known})


def _node(data: Mapping[str, Any]) -> PlanNode:
    return _made(PlanNode, data, params=checked(registry.find(data["op"]), data["name"], data["params"]), given=tuple(data["given"]))


def checked(spec: Spec, node: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """`params` validated as in a graph. Raises ParamError."""
    from pydantic import ValidationError

    try:
        model = spec.model()(**params)
    except ValidationError as error:
        raise ParamError({f"{node}.{item['loc'][0]}": f"{item['msg']} (found {item.get('input')!r})" for item in error.errors()}) from None
    return {p.name: getattr(model, p.name) for p in spec.params}


def _edge(data: Mapping[str, Any], spec: Spec) -> Edge:
    hold = data["hold"]
    if hold is None and data["role"] != "constant":
        hold = UNSET
    elif data["feeds"] == "port" and hold is not None:
        port = spec.port(data["port"])
        if port is None:
            raise ValueError(f"{spec.name} has no input {data['port']!r}")
        if isinstance(hold, Mapping) and set(hold) <= {"value"} | {"text"} | {"values"} and port.type.kind in ("Scalar", "Text", "Data"):
            hold = next(iter(hold.values()), None)
        hold = from_plain(port.type, hold)
    pair = tuple(data["map"]) if data.get("map") else None
    return _made(Edge, data, hold=hold, map=pair)


# ---------------------------------------------------------------- what would have happened


def changed(plan: Plan, wanted: Mapping[str, Any]) -> Plan:
    """`plan` with other parameters (`node.param` to value). Raises UsageError with the nearest names, ParamError."""
    by_node: dict[str, dict[str, Any]] = {}
    names = {node.name: node for node in plan.nodes if node.kind != "convert"}
    for path, value in wanted.items():
        name, dot, param = path.partition(".")
        if name not in names or not dot:
            raise UsageError(f"--with {path}: the recording has no node {name!r}", fix=registry.suggest(name, list(names)))
        spec = registry.find(names[name].op)
        if spec.param(param) is None:
            near = registry.suggest(param, [p.name for p in spec.params])
            raise UsageError(f"--with {path}: {spec.name} has no parameter {param!r}", fix=near)
        by_node.setdefault(name, {})[param] = value
    for name, change in by_node.items():
        names[name] = replace(names[name], params=checked(registry.find(names[name].op), name, {**names[name].params, **change}))
    return replace(plan, nodes=tuple(names.get(node.name, node) for node in plan.nodes))
