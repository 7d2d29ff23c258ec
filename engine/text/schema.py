"""A JSON Schema (draft 2020-12) of graph files, for editors: completion, hover texts and underlined mistakes while writing.

Made from the same table of keys as the loader's checks and from the operators' own parameter models. Whatever the loader and the compiler
accept is valid; the converse cannot hold, since a schema sees no types of edges. `${name}` is allowed wherever a value is. Put
`#:schema schema.json` on the first line of a graph to use the output of `engine schema`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

from engine import registry
from engine.operator import Param, Spec
from engine.text import keys
from engine.text.keys import Key

DRAFT = "https://json-schema.org/draft/2020-12/schema"
HOLE = r"\$\{[^{}]*\}"
_REF = r"^\s*[A-Za-z_][\w-]*(\.[A-Za-z_]\w*)?(@[+-]?\d+)?\s*$"
_ASIDE = re.compile(r"(?:^|\s)(?:Outputs?:|Raises )")

Schema = dict[str, Any]


def graph_schema(names: Iterable[str] | None = None) -> Schema:
    """The schema of graph files that use the operators `names`, by default every registered one."""
    specs = [registry.find(name) for name in (registry.all_names() if names is None else names)]
    defs: Schema = {
        "placeholder": {"type": "string", "pattern": HOLE, "description": "A value of [param], or ${ENV:NAME} from the environment."},
        "input": _input(),
        "node": {
            "type": "object",
            "properties": _section(keys.NODE) | {"op": _operators(specs)},
            "allOf": [{"if": _is(spec), "then": {"$ref": f"#/$defs/{spec.name}"}} for spec in specs],
        },
        "complete": {  # what a node needs unless the rest of it may stand in an included file
            "required": ["op"],
            "allOf": [{"if": _is(spec), "then": {"required": need}} for spec in specs if (need := _required(spec))],
        },
    }
    for spec in specs:
        defs |= _operator(spec)
    parts: dict[str, Schema] = {key.name: {"description": key.doc} for key in keys.FILE}
    parts["graph"] |= _table(keys.GRAPH)
    parts["node"] |= {"type": "object", "propertyNames": {"pattern": f"^{keys.NODE_NAME.pattern}$"}}
    parts["node"]["additionalProperties"] = {"$ref": "#/$defs/node"}
    parts["govern"] |= _table(keys.GOVERN)
    parts["govern"]["properties"]["knob"] |= _loose({"type": "array", "items": _table(keys.KNOB) | {"required": ["set"]}})
    parts["memory"] |= _table(keys.MEMORY)
    parts["param"] |= {"type": "object"}
    name: Schema = {"type": "string", "minLength": 1}
    parts["include"] |= {"anyOf": [name, {"type": "array", "items": name}]}
    return {
        "$schema": DRAFT,
        "title": "Afterimage graph",
        "type": "object",
        "properties": parts,
        "additionalProperties": False,
        "if": {"not": {"required": ["include"]}},
        "then": {"properties": {"node": {"additionalProperties": {"$ref": "#/$defs/complete"}}}},
        "$defs": defs,
    }


# ---------------------------------------------------------------- keys of the file


def _table(known: Sequence[Key]) -> Schema:
    return {"type": "object", "properties": _section(known), "additionalProperties": False}


def _section(known: Sequence[Key]) -> Schema:
    return {key.name: _key(key) for key in known}


def _key(key: Key) -> Schema:
    schema: Schema = dict(keys.KINDS[key.kind].schema)
    if key.lo is not None:
        schema["exclusiveMinimum" if key.above else "minimum"] = key.lo
    if key.choices:
        choices = {"enum": list(key.choices)}
        schema = {**schema, "items": choices} if key.kind == "list" else choices
    default = f" Default: {key.default}." if key.default else ""
    return {"description": key.doc + default, **_loose(schema)}


def _input() -> Schema:
    one = {"anyOf": [{"type": "string", "pattern": _REF}, {"$ref": "#/$defs/placeholder"}]}
    several = {"type": "array", "items": one, "minItems": 1}
    given = _section(keys.INPUT)
    given["from"] |= {"anyOf": [one, several]}
    table = {"type": "object", "properties": given, "additionalProperties": False, "anyOf": [{"required": ["from"]}, {"required": ["hold"]}]}
    return {"anyOf": [one, several, table], "description": '"node", "node.output", "node.output@-1", a list of these, or a table'}


# ---------------------------------------------------------------- operators


def _is(spec: Spec) -> Schema:
    return {"properties": {"op": {"const": spec.name}}, "required": ["op"]}


def _operators(specs: Sequence[Spec]) -> Schema:
    named = [{"const": spec.name, "description": spec.summary} for spec in specs]
    return {"description": keys.NODE[0].doc, "anyOf": [*named, {"$ref": "#/$defs/placeholder"}]}


def _required(spec: Spec) -> list[str]:
    """Parameters that must be written; a live one may be fed by an edge instead, which a schema cannot see."""
    return [p.name for p in spec.params if p.required and not p.live]


def _operator(spec: Spec) -> Schema:
    """The definitions of one operator: its node, and the tables its parameters are made of."""
    model = parameter_schema(spec)
    tables = {f"{spec.name}.{name}": _loose(table) for name, table in model.pop("$defs", {}).items()}
    docs = term_docs(spec)
    params = {p.name: _param(p, model["properties"][p.name], docs.get(p.name, "")) for p in spec.params}
    ports = {p.name: _port(f"{p}. {docs.get(p.name, '')}") for p in spec.ports}
    fed = {p.name: _port(f"Feeds the parameter {p.name}. {docs.get(p.name, '')}") for p in spec.params if p.live and p.name not in ports}
    node = {key.name: True for key in keys.NODE} | params
    node["in"] = {"type": "object", "properties": ports | fed, "additionalProperties": False}
    return tables | {spec.name: {"description": spec.doc, "properties": node, "additionalProperties": False}}


def _port(doc: str) -> Schema:
    return {"$ref": "#/$defs/input", "description": doc.strip()}


def _param(param: Param, schema: Schema, doc: str) -> Schema:
    how = "Knob: live, and the governor may move it." if param.knob else "Live: may change between frames." if param.live else ""
    flags = {"live": True} | ({"knob": True} if param.knob else {}) if param.live else {}
    said = " ".join(part for part in (schema.pop("description", doc), how) if part)
    return _loose(_without(schema, ("title", "live", "knob"))) | flags | ({"description": said} if said else {})


def parameter_schema(spec: Spec) -> Schema:
    """The JSON Schema of an operator's parameter model; types that have none accept anything."""
    from pydantic.json_schema import GenerateJsonSchema, PydanticJsonSchemaWarning

    class Lenient(GenerateJsonSchema):
        def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> Schema:
            return {}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PydanticJsonSchemaWarning)  # defaults that JSON cannot write are left out
        return spec.model().model_json_schema(ref_template=f"#/$defs/{spec.name}.{{model}}", schema_generator=Lenient) | {}


def term_docs(spec: Spec) -> dict[str, str]:
    """What an operator's docstring says of each port and parameter.

    That is what follows `name:` at the start of a sentence, up to the next such term or the end of the paragraph, else the first sentence
    that speaks of the name.
    """
    names = [p.name for p in spec.ports] + [p.name for p in spec.params]
    one = rf"`?\b(?:{'|'.join(names)})\b`?"
    term = re.compile(rf"(?:^|(?<=[.;:)] ))(?P<names>{one}(?:(?:, | and ){one})*):\s") if names else re.compile("(?!)")
    found: dict[str, str] = {}
    sentences: list[str] = []
    for paragraph in re.split(r"\n\s*\n", spec.doc):
        text = _ASIDE.split(" ".join(paragraph.split()))[0]
        terms = list(term.finditer(text))
        for here, after in zip_longest(terms, terms[1:]):
            said = text[here.end() : after.start() if after else len(text)].strip().rstrip(";,")
            for name in re.findall(r"\w+", here["names"]):
                found.setdefault(name, said[:1].upper() + said[1:])
        sentences += re.split(r"(?<=\.)\s+(?=[\w`\"])", text)
    for name in names:
        word = rf"\b{name}\b" if "_" in name else rf"`{name}`"  # a plain word may be just that
        spoken = next((s for s in sentences if re.search(word, s)), "")
        if spoken and not found.get(name):
            found[name] = spoken
    return found


# ---------------------------------------------------------------- placeholders


def _loose(schema: Schema) -> Schema:
    """`schema`, with a `${name}` accepted in its place and in that of every part of it; null, which TOML cannot write, is left out."""
    schema = _without(schema, ("title",))
    if schema.get("default", 0) is None:
        del schema["default"]
    choices = [item for item in schema.get("anyOf", ()) if item != {"type": "null"}]
    if len(choices) == 1:  # an optional value: its own words say better what is wrong with it
        schema = {key: value for key, value in schema.items() if key != "anyOf"} | choices[0]
    for key in ("properties", "patternProperties"):
        if key in schema:
            schema[key] = {name: _loose(item) if isinstance(item, dict) else item for name, item in schema[key].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            schema[key] = _loose(schema[key])
    for key in ("anyOf", "oneOf", "prefixItems"):
        if key in schema:
            schema[key] = [_loose(item) for item in schema[key] if item != {"type": "null"}]
    if "const" in schema or "enum" in schema or (schema.get("type") == "string" and "pattern" in schema):
        outside: Schema = {key: schema.pop(key) for key in ("description", "default") if key in schema}
        return {"anyOf": [schema, {"$ref": "#/$defs/placeholder"}], **outside}
    if schema.get("type") in ("integer", "number", "boolean", "array", "object"):
        return schema | {"type": [schema["type"], "string"], "pattern": HOLE}  # a pattern binds texts only, a minimum numbers only
    return schema


def _without(schema: Schema, names: Sequence[str]) -> Schema:
    return {key: value for key, value in schema.items() if key not in names}

