"""What `engine ctl` reads from the command line and prints: changes, answers, differences, each in a line or two. It knows no socket."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from engine.cli import report
from engine.errors import UsageError


class Answer(UsageError):
    """The engine refused; its problems stand a line each."""

    def __init__(self, error: Any) -> None:
        facts = ", ".join(f"{name} {value}" for name, value in (("expected", error.expected), ("found", error.found)) if value)
        lines = []
        if isinstance(error.problems, Mapping):
            lines = [f"  {path}: {why}" for path, why in error.problems.items()]
        elif isinstance(error.problems, Sequence) and not isinstance(error.problems, str):
            lines = [f"  {_problem(one)}" for one in error.problems if isinstance(one, Mapping)]
        head = "refused" if lines else f"refused: {error.message}" + (f" ({facts})" if facts else "")
        super().__init__("\n".join([head, *lines]), fix=error.fix)


def _problem(one: Mapping[str, Any]) -> str:
    place = f"{one.get('file')}:{one['line']}" if one.get("line") else str(one.get("file") or "")
    facts = ", ".join(f"{name} {one[name]}" for name in ("expected", "found") if one.get(name))
    words = ": ".join(part for part in (place, str(one.get("path") or ""), str(one.get("message") or "")) if part)
    fix = f"; {one['fix']}" if one.get("fix") else ""
    return words + (f" ({facts})" if facts else "") + fix


def parsed(changes: Sequence[str]) -> dict[str, Any]:
    """`node.param=value` words as a map. Raises UsageError."""
    from engine.text.load import value_of

    found: dict[str, Any] = {}
    for text in changes:
        path, equals, raw = text.partition("=")
        if not equals or "." not in path:
            raise UsageError(f"not a change: {text!r}", fix="write NODE.PARAM=VALUE")
        found[path.strip()] = value_of(raw)
    return found


def kept(words: Sequence[str] | None) -> list[str] | dict[str, str] | None:
    """`--keep` words: names alone, or names with values. Raises UsageError for a mixture."""
    if not words:
        return None
    pairs = [word.partition("=") for word in words]
    if all(equals for _, equals, _ in pairs):
        return {name: value for name, _, value in pairs}
    if any(equals for _, equals, _ in pairs):
        raise UsageError("--keep takes names, or names with values, not both at once")
    return [name for name, _, _ in pairs]


def body(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message without what only the protocol needs."""
    return {name: value for name, value in message.items() if name not in ("v", "id")}


def changed(diff: Mapping[str, Any]) -> list[str]:
    """What a reload changes, a line each."""
    lines = [f"+ {name}" for name in diff.get("added", ())] + [f"- {name}" for name in diff.get("removed", ())]
    lines += [f"~ {name}: {why}" for name, why in dict(diff.get("rebuilt") or {}).items()]
    lines += [f"= {path}: {shown(old)} -> {shown(new)}" for path, (old, new) in dict(diff.get("params") or {}).items()]
    return lines or ["nothing changes"]


def shown(value: Any) -> str:
    """A value as one would type it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


WORDS = {"integer": "whole number", "boolean": "true or false", "string": "text", "array": "list", "object": "table", "null": "none"}


def kind(schema: Mapping[str, Any]) -> str:
    """The types that a JSON Schema allows, in the words of `engine ops`."""
    names = ["choice" if "enum" in part else WORDS.get(name := str(part.get("type", "object")), name) for part in _parts(schema)]
    return " or ".join(dict.fromkeys(names))


def span(schema: Mapping[str, Any]) -> str:
    """The range, or the choices, of a JSON Schema."""
    for part in _parts(schema):
        low, high = part.get("minimum", part.get("exclusiveMinimum")), part.get("maximum", part.get("exclusiveMaximum"))
        if "enum" in part:
            return ", ".join(shown(choice) for choice in part["enum"])
        if low is not None or high is not None:
            return f"{'' if low is None else low} .. {'' if high is None else high}"
    return ""


def _parts(schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What a JSON Schema may be, one of several, none last; of a reference, what it refers to."""
    named = {f"#/$defs/{name}": part for name, part in dict(schema.get("$defs") or {}).items()}
    parts = [named.get(str(part.get("$ref")), part) for part in schema.get("anyOf") or schema.get("oneOf") or (schema,)]
    return sorted(parts, key=lambda part: part.get("type") == "null")


def line(message: Mapping[str, Any]) -> str:
    """A message of a watch in one line."""
    kind = message["kind"]
    if kind == "stats":
        frames, age = message["frames"], message["age_ms"]
        parts = [report.clock(message["seconds"]), message["state"], f"in {frames['in']} out {frames['out']}"]
        parts += [f"{report.number(message['fps'])} fps"]
        parts += [f"age {'/'.join(report.number(age[q]) for q in ('p50', 'p95', 'p99'))} ms"]
        parts += [f"drops {report.listed(frames['drops'])}"] if frames["drops"] else []
        return "  ".join(parts)
    if kind == "params":
        return f"parameters {message['params']}: " + ", ".join(f"{path} = {shown(value)}" for path, value in message["values"].items())
    event = message["event"]
    rest = {name: value for name, value in event.items() if name not in ("at", "what", "node", "seq") and value not in ("", None)}
    facts = ", ".join(f"{name} {shown(value)}" for name, value in rest.items())
    return f"{event['what']}  {event['node']}" + (f" frame {event['seq']}" if event["seq"] >= 0 else "") + (f"  {facts}" if facts else "")
