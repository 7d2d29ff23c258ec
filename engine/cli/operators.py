"""`engine ops` and `engine schema`: what operators there are, told from their signatures. Imports every installed family, and runs nothing."""

from __future__ import annotations

import re
from typing import Any

from engine import registry
from engine.cli import report
from engine.errors import EngineError, UsageError
from engine.operator import Output, Port, Spec


def ops(name: str | None, *, how: str) -> None:
    """Print the operators by family, those of one family, or one of them. `how`: "text", "json" or "markdown"."""
    if name is None and how == "markdown":
        from engine.text.reference import reference_markdown

        print(reference_markdown().rstrip())  # from the code alone: nothing in it is a credential, whatever it looks like
        return
    if name is not None:
        for family in {name, name.rpartition(".")[0]} & registry.families().keys():
            registry.load_family(family)  # what is wrong with it is why the name is not found
    names = registry.all_names()
    if name in names:
        _one(registry.find(name), how)
        return
    chosen = [n for n in names if name is None or n.rpartition(".")[0] == name]
    if name is not None and not chosen:
        near = registry.suggest(name, [*names, *registry.families()])
        raise UsageError(f"no operator or family is called {name!r}", fix=near or "engine ops lists them")
    specs = [registry.find(n) for n in chosen]
    match how:
        case "json":
            report.tell(report.as_json([{"name": s.name, "family": s.family, "summary": _summary(s)} for s in specs]))
        case "markdown":
            from engine.text.reference import reference_markdown

            report.tell(reference_markdown(chosen).rstrip())
        case _:
            _families(specs)
    if name is None:
        _absent(names)


def _one(spec: Spec, how: str) -> None:
    from engine.text.reference import describe_operator, reference_markdown
    from engine.text.schema import parameter_schema

    match how:
        case "json":
            report.tell(report.as_json({
                **{name: getattr(spec, name) for name in ("name", "doc", "source", "sink", "lane", "version")},
                "ports": [_plain(port, "optional", "many") for port in spec.ports],
                "outputs": [_plain(output, "may_skip") for output in spec.outputs],
                "parameters": parameter_schema(spec),
            }))  # fmt: skip
        case "markdown":
            report.tell(reference_markdown([spec.name]).rstrip())
        case _:
            report.tell(describe_operator(spec).rstrip())


def _plain(slot: Port | Output, *flags: str) -> dict[str, Any]:
    return {"name": slot.name, "type": slot.type.__name__, "format": str(slot.format), **{flag: getattr(slot, flag) for flag in flags}}


def _families(specs: list[Spec]) -> None:
    width = max((len(spec.name) for spec in specs), default=0)
    family = ""
    for spec in specs:
        if spec.family != family:
            family = spec.family
            report.tell(("" if spec is specs[0] else "\n") + family, "bold")
        report.tell(f"  {spec.name:{width}}  {_summary(spec)}")


def _absent(names: list[str]) -> None:
    """Say which installed families could not be imported."""
    known = {name.rpartition(".")[0] for name in names}
    for family in sorted(set(registry.families()) - known):
        try:
            registry.load_family(family)
        except Exception as error:
            report.say(f"{error.message if isinstance(error, EngineError) else error}", "yellow")


def _summary(spec: Spec) -> str:
    """The first sentence of the docstring."""
    return re.split(r"(?<!et al)\. (?=[A-Z`])", spec.summary)[0].rstrip(".")


def schema() -> None:
    """Print the JSON Schema of graph files."""
    from engine.text.schema import graph_schema

    made: dict[str, Any] = graph_schema()
    report.tell(report.as_json(made))
