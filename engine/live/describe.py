"""What a session says of its graph, as plain values: enough for a program to build an interface that it has never seen.

Read from the plan and from the values in force, on any thread, without waiting for a lane. Plain values only, and no credential among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

from engine import registry
from engine.errors import ParamError, scrub
from engine.payload import to_plain
from engine.text.schema import parameter_schema, term_docs

if TYPE_CHECKING:
    from engine.operator import Spec
    from engine.run.node import NodeRun
    from engine.session import Session

_kept: dict[str, tuple[Spec, dict[str, Any], dict[str, str]]] = {}  # operator to its schema and what is said of its terms: costly to make


def plain(value: Any) -> Any:
    """`value` as JSON could have it, without credentials."""
    value = to_plain(value)
    if isinstance(value, str):
        return scrub(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(part) for part in value]
    if hasattr(value, "model_dump"):
        return plain(value.model_dump())
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    return scrub(repr(value))


def describe(session: Session) -> dict[str, Any]:
    """The graph: `nodes`, `edges`, `knobs`, `streams` (what the sinks send out), `inputs` (paths of inputs that can be set)."""
    plan, nodes = session.plan, session.nodes
    shown = {name: run for name, run in nodes.items() if run.plan.kind != "convert"}
    fed = {(e.node, e.port): f"{e.source}.{e.output}" for e in plan.edges if e.feeds == "param" and e.role != "constant"}
    return {
        "graph": plan.name, "plan": plan.hash, "clock": plan.clock, "state": session.state,
        "nodes": {name: _node(session, run, fed) for name, run in shown.items()},
        "edges": [
            {"from": f"{e.source}.{e.output}", "to": f"{e.node}.{e.port}", "role": e.role, "policy": e.policy, "cap": e.cap, "every": e.every}
            for e in plan.edges if e.role != "constant"
        ],
        "knobs": [
            {"path": k.set, "range": list(k.range) if k.range else None, "choices": plain(list(k.choices)) or None, "follow": k.follow,
             "held": k.set in session.governing.held}
            for k in plan.govern.knobs
        ],
        "streams": [
            {"node": name, "op": run.plan.op, **{key: plain(run.params[key]) for key in ("stream", "endpoint", "url") if key in run.params}}
            for name, run in shown.items() if run.plan.kind == "sink"
        ],
        "inputs": [f"{name}.in.{port}" for name, run in shown.items() for port in run.inputs.settable()],
    }  # fmt: skip


def _node(session: Session, run: NodeRun, fed: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    spec = run.spec
    known = _kept.get(spec.name)
    if known is None or known[0] is not spec:
        known = _kept[spec.name] = (spec, parameter_schema(spec), term_docs(spec))
    _, schema, docs = known
    defs, settable = schema.get("$defs"), run.inputs.settable()
    params = {}
    for param in spec.params:
        shape = {key: value for key, value in schema["properties"].get(param.name, {}).items() if key not in ("live", "knob", "title")}
        if defs and "$ref" in repr(shape):
            shape["$defs"] = defs
        params[param.name] = {
            "schema": shape, "doc": docs.get(param.name, ""), "value": plain(run.params.get(param.name)), "live": param.live,
            "knob": param.knob, "fed": fed.get((run.name, param.name)), "required": param.required,
        }  # fmt: skip
    edges: dict[str, list[str]] = {}
    for edge in session.plan.edges:
        if edge.node == run.name and edge.role != "constant":
            edges.setdefault(edge.port, []).append(f"{edge.source}.{edge.output}")
    inputs = {
        port.name: {
            "type": port.type.__name__, "many": port.many, "optional": port.optional, "from": edges.get(port.name, []),
            "settable": port.name in settable, "value": plain(run.inputs.written(port.name)) if port.name in settable else None,
            "doc": docs.get(port.name, ""),
        }
        for port in spec.ports
    }  # fmt: skip
    outputs = [{"name": out.name, "type": out.type.__name__, "may_skip": out.may_skip} for out in spec.outputs]
    return {
        "op": run.plan.op, "doc": spec.summary, "lane": run.plan.lane, "kind": run.plan.kind, "params": params,
        "inputs": inputs, "outputs": outputs,
    }  # fmt: skip


def values(session: Session, paths: Iterable[str] | None = None) -> dict[str, Any]:
    """`node.param` to the value that holds from the newest frame on, `node.port` (`node.in.port` beside a parameter of that name) for inputs
    that can be set; of all, or of `paths`. A fed parameter has the value of the last call. Raises ParamError for an unknown path."""
    found: dict[str, Any] = {}
    for name, run in list(session.nodes.items()):
        if run.plan.kind == "convert":
            continue
        landed = session.changing.landed_on(name)
        for key, value in dict(run.params).items():
            fed = any(edge.feeds == "param" and edge.role != "constant" for edge in run.inputs.edges(key))
            found[f"{name}.{key}"] = value if fed else landed.get(key, value)
        for port, (_, kind) in run.inputs.settable().items():
            if kind is not None:
                path = f"{name}.in.{port}" if run.spec.param(port) is not None else f"{name}.{port}"
                found[path] = landed.get(f"in.{port}", run.inputs.written(port))
    if paths is None:
        return {path: plain(value) for path, value in found.items()}
    wanted: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for path in paths:
        key = path if path in found else path.replace(".in.", ".", 1)  # an input may always be written node.in.port
        if key in found:
            wanted[path] = plain(found[key])
        else:
            problems[path] = registry.unknown("there is no such value", path, list(found))
    if problems:
        raise ParamError(problems)
    return wanted
