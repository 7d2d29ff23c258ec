"""What of a running node can be set from outside, and whether a value fits: live parameters, and inputs with a written value.

Paths: `node.param` is a live parameter; `node.port`, or `node.in.port` where a parameter has the same name, is an input with a written value
(a constant, a hold's default) or one that the graph leaves unconnected. It reads nodes and changes nothing; when a value lands is the business
of `engine.live.changes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engine import registry
from engine.errors import ParamError
from engine.live import ramp
from engine.operator import Port
from engine.payload import Prompt, from_plain, to_plain

if TYPE_CHECKING:
    from engine.run.node import NodeRun

LONGEST = 10_000  # characters of a text that is set live: frames wait while a model reads it
Path = tuple[str, str]  # node; parameter, or "in." and port
Values = Mapping[str, Mapping[str, Any]]  # node to key to value


def checked(nodes: Mapping[str, NodeRun], wanted: Values, changes: Mapping[str, Any]) -> dict[Path, Any]:
    """The validated values of `changes`, beside what the nodes are to have already (`wanted`). Raises ParamError with every problem."""
    problems: dict[str, str] = {}
    params: dict[str, dict[str, Any]] = {}
    found: dict[Path, Any] = {}
    for path, value in changes.items():
        name, _, rest = path.partition(".")
        run = nodes.get(name)
        if run is None:
            problems[path] = registry.unknown(f"there is no node {name!r}", name, list(nodes))
            continue
        if (length := _longest(value)) > LONGEST:
            problems[path] = f"is a text of {length:,} characters; live it may have {LONGEST:,}: write it into the graph file"
            continue
        named = _find(run, rest, value)
        if isinstance(named, str):
            problems[path] = named
            continue
        key, port = named
        if not key.startswith("in."):
            params.setdefault(name, {})[key] = value
            continue
        try:
            found[name, key] = _input(run, _known(run, wanted), key, port, value)
        except ValueError as error:
            problems[path] = str(error)
    for name, change in params.items():
        known = {key: value for key, value in {**nodes[name].params, **_known(nodes[name], wanted)}.items() if not key.startswith("in.")}
        good, bad = _validated(nodes[name], known, change)
        problems |= {f"{name}.{key}": why for key, why in bad}
        found |= {(name, key): value for key, value in good.items()}
    if problems:
        raise ParamError(problems)
    return found


def _longest(value: Any) -> int:
    """The characters of the longest text in a plain value."""
    if isinstance(value, Mapping):
        return max(map(_longest, value.values()), default=0)
    return len(value) if isinstance(value, str) else 0


def plain(values: Mapping[Path, Any]) -> dict[str, Any]:
    """Checked values by `node.key`, as a recording and a receipt have them."""
    return {f"{name}.{key}": to_plain(value) for (name, key), value in values.items()}


def present(run: NodeRun, known: Values, key: str) -> Any:
    """What `key` of a node is by `known`, as a plain value; an input that is not in it has what the graph wrote."""
    return to_plain(_known(run, known).get(key, run.inputs.written(key.removeprefix("in."))))


def _known(run: NodeRun, values: Values) -> Mapping[str, Any]:
    """What `values` say of a node, else its own parameters: a reload may have put it into the graph, or another operator in its place, and not
    yet told of it."""
    told = values.get(run.name, {})
    return run.params | {key: value for key, value in told.items() if key in run.params or key.startswith("in.")}


def no_ramp(run: NodeRun, wanted: Values, key: str, target: Any) -> str:
    """Why a ramp cannot go to `target`, "" where it can."""
    param = run.spec.param(key)
    if param is not None and "Literal" in str(param.annotation):
        return "is a choice: there is nothing between two of its values; set it"
    target, start = to_plain(target), present(run, wanted, key)
    if isinstance(target, (str, Mapping)) and key.startswith("in."):
        return "is no number: set it as a table with text and blend, the frames over which it is blended in"
    if not ramp.numeric(target):
        return f"a ramp goes between numbers (found {target!r}); set it"
    if not ramp.numeric(start) or isinstance(start, (list, tuple)) != isinstance(target, (list, tuple)):
        return f"a ramp has no number to start from (it is {start!r}); set it first"
    if isinstance(target, (list, tuple)) and len(target) != len(start):
        return f"has {len(start)} parts at present, {len(target)} were given"
    return ""


def _find(run: NodeRun, rest: str, value: Any) -> tuple[str, Port | None] | str:
    """The key that `rest` names on a node, with the port where it is an input; or why there is none."""
    port, inputs = rest.removeprefix("in."), run.inputs.settable()
    param = run.spec.param(rest)
    if port in inputs:
        wired, kind = inputs[port]
        free = not wired and param is not None and not isinstance(value, Mapping) and run.inputs.blank.get(port) is None
        if port != rest or not free:
            return f"in.{port}", kind
    elif port != rest or (param is None and run.spec.port(port) is not None):
        return _why_not(run, port)
    if param is None:
        return registry.unknown(f"{run.plan.op} has no parameter {rest!r}", rest, [p.name for p in run.spec.params] + list(inputs))
    if not param.live:
        return "is fixed at open"
    fed = any(edge.feeds == "param" for edge in run.inputs.edges(rest))
    return _why_not(run, rest) if fed else (rest, None)


def _why_not(run: NodeRun, port: str) -> str:
    """Why an input cannot be set."""
    edge = next(iter(run.inputs.edges(port)), None)
    if edge is None:
        return f"{run.plan.op} has no input {port!r} that could be set"
    source = f"{edge.source}.{edge.output}"
    if edge.feeds == "param":
        return f"is fed by {source} with every frame, which would overwrite it; take that edge out of the graph to set it"
    return f"comes from {source} with every frame; give it a hold in the graph to set it"


def _input(run: NodeRun, wanted: Mapping[str, Any], key: str, port: Port | None, value: Any) -> Any:
    """The value of an input as its payload; of one that feeds a parameter, as that parameter takes it. Raises ValueError."""
    name = key.removeprefix("in.")
    if port is None:
        good, bad = _validated(run, {k: v for k, v in run.params.items() if run.spec.param(k) is not None}, {name: value})
        if bad:
            raise ValueError("; ".join(why for _, why in bad))
        return good[name]
    if value is None and not run.inputs.settable()[name][0]:
        return None  # as the graph leaves it
    payload = from_plain(port.type, value)
    before = wanted.get(key, run.inputs.written(name))
    if isinstance(payload, Prompt) and isinstance(value, str) and isinstance(before, Prompt):
        return Prompt(value, before.negative, before.blend)  # other words; what to avoid and how to blend stay
    return payload


def _validated(run: NodeRun, known: Mapping[str, Any], change: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """`change` as the operator's parameters take it beside the `known` ones, or what is wrong, by parameter."""
    from pydantic import ValidationError

    try:
        model = run.spec.model()(**{**known, **change})
    except ValidationError as error:
        return {}, [(str(item["loc"][0]), f"{item['msg']} (found {item.get('input')!r})") for item in error.errors()]
    return {key: getattr(model, key) for key in change}, []
