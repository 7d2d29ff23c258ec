"""`engine check` and `engine plan`: a graph file to a plan, or to all that is wrong with it. Imports only families that the graph names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from engine.cli.report import as_json, complain, tell
from engine.errors import Diagnostic, EngineError, GraphError, UsageError

if TYPE_CHECKING:
    from engine.graph import Graph
    from engine.plan import Plan


def compiled(
    graph: str, sets: Sequence[str] = (), params: Sequence[str] = (), *, embedded: bool = False,
    change: Iterable[Callable[[Graph], Graph]] = (),
) -> Plan:  # fmt: skip
    """The plan of the graph called `graph`, after every `change`. Raises GraphError with the problems of the file and those of the compiler
    together."""
    from engine.planning.compile import compile
    from engine.text.load import read

    loaded, problems = read(graph, sets=sets, params=_values(params))
    if problems and not loaded.nodes:
        raise GraphError(problems)  # the text itself is broken, and nothing can be said about the rest
    try:
        for made in change:
            loaded = made(loaded)
        plan = compile(loaded, embedded=embedded)
    except GraphError as error:
        raise GraphError([*problems, *(d for d in error.diagnostics if not _said(d, problems))]) from None
    if problems:
        raise GraphError(problems)
    return plan


def _values(params: Sequence[str]) -> dict[str, Any]:
    from engine.text.load import value_of

    pairs = [text.partition("=") for text in params]
    for name, equals, _ in pairs:
        if not equals or not name.strip():
            raise UsageError(f"not a parameter: {name!r}", fix="write --param NAME=VALUE")
    return {name.strip(): value_of(raw) for name, _, raw in pairs}


def _said(problem: Diagnostic, before: Sequence[Diagnostic]) -> bool:
    """Whether `problem` only follows from one that the loader found at the same place."""
    return any(problem.path == said.path or problem.path == f"{said.path}.op" for said in before)


def check(graphs: Sequence[str], sets: Sequence[str], params: Sequence[str], *, embedded: bool) -> int:
    """Print ok or the problems for every graph; the exit code of the first that is not ok."""
    code = 0
    for graph in graphs:
        try:
            plan = compiled(graph, sets, params, embedded=embedded)
        except EngineError as error:
            found = complain(error)
            code = code or found
        else:
            tell(f"{graph}: ok, {len(plan.nodes)} nodes on {len(plan.lanes)} lanes, plan {plan.hash[:12]}")
            for note in plan.notes:
                tell(f"  note: {note}")
    return code


def plan(graph: str, sets: Sequence[str], params: Sequence[str], *, embedded: bool, how: str, card: str | None = None) -> None:
    """Print a plan: "text", "json", "mermaid" or "dot"; the first two with what it costs, and on `card` what that comes to."""
    from engine.planning import forecast, show

    made = compiled(graph, sets, params, embedded=embedded)
    told = forecast.forecast(made, card) if how in ("json", "text") else None
    match how:
        case "json":
            tell(as_json({"hash": made.hash, "file": os.fspath(made.file), **made.to_dict(), "forecast": told.to_dict() if told else None}))
        case "mermaid":
            tell(show.mermaid(made))
        case "dot":
            tell(show.dot(made))
        case _:
            tell(show.plan_text(made))
            if told is not None and told.nodes:
                tell(str(told))
