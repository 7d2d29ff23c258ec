"""TOML to Graph: `load("live.toml", sets=["paint.steps=4"])`.

Precedence, weakest first: included files, the file, `params`, `sets`. Every problem is collected before one GraphError is raised, each with
file, line, path, what was expected, what was found and what would fix it. What can be known without the operators is checked here;
parameters, ports and types are the compiler's work, so nothing is imported but the text. Never imports torch.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from engine.errors import Diagnostic, EngineError, GraphError
from engine.graph import Govern, Graph, Input, KnobRule, Node, Place, Ref, as_input
from engine.registry import suggest
from engine.text import keys, layers
from engine.text.keys import Key
from engine.text.layers import Places, Tree, show
from engine.text.locate import KeyPath, dotted

MAX_TEXT = 1 << 20
_HOLE = re.compile(r"\$\$\{|\$\{(?P<name>[^{}]*)\}")


class _Broken:
    """Stands where a value could not be worked out and the problem is noted already."""


_BROKEN = _Broken()


def load(path: str | os.PathLike[str], *, sets: Sequence[str] = (), params: Mapping[str, Any] | None = None) -> Graph:
    """The graph in the file `path`, or the one that ships under that name.

    `sets`: changes in the form of the command line's `--set`; `params`: values of `[param]`. Raises GraphError with every problem, and
    UsageError or MissingError where there is no such graph.
    """
    return _checked(*read(path, sets=sets, params=params))


def loads(
    text: str,
    file: str = "<text>",
    *,
    sets: Sequence[str] = (),
    params: Mapping[str, Any] | None = None,
    base: str | os.PathLike[str] | None = None,
) -> Graph:
    """The graph in a text. `file` is what messages call it; includes are relative to the folder `base`, by default the working one."""
    tree = Tree()
    layers.read_text(tree, text.removeprefix("\ufeff"), file, Path(base) / "_" if base is not None else None)
    return _checked(*_build(tree, file, sets, params))


def read(
    path: str | os.PathLike[str], *, sets: Sequence[str] = (), params: Mapping[str, Any] | None = None
) -> tuple[Graph, list[Diagnostic]]:
    """Like `load`, but gives the problems beside what could be made of the file, so that the compiler's can be added to them."""
    found, shown = layers.find(path)
    tree = Tree()
    layers.read_file(tree, found, shown)
    return _build(tree, shown, sets, params)


def _checked(graph: Graph, problems: Iterable[Diagnostic]) -> Graph:
    problems = list(problems)
    if problems:
        raise GraphError(problems)
    return graph


def _build(tree: Tree, file: str, sets: Sequence[str], params: Mapping[str, Any] | None) -> tuple[Graph, list[Diagnostic]]:
    if tree.problems:  # a text that cannot be read makes everything else look wrong
        return Graph(Path(file).stem, (), file=file), tree.problems
    for name, value in (params or {}).items():
        _put_param(tree, name, value, "--param")
    for text in sets:
        _set(tree, text)
    return _Reader(tree, file).graph(), tree.problems


# ---------------------------------------------------------------- from outside the files


def _put_param(tree: Tree, name: str, value: Any, origin: str) -> None:
    known = tree.data.get("param", {})
    if not isinstance(known, dict) or name not in known:
        fix = suggest(name, list(known)) if isinstance(known, dict) else ""
        tree.problems.append(Diagnostic(f"the graph has no parameter {name!r}", origin, path=f"param.{name}", fix=fix or "add it to [param]"))
        return
    tree.put(("param", name), value, origin)


def _set(tree: Tree, text: str) -> None:
    """Apply one `node.param=value`."""

    def refuse(message: str, fix: str) -> None:
        tree.problems.append(Diagnostic(message, layers.SET, path=name.strip(), found=text, fix=fix))

    name, equals, raw = text.partition("=")
    parts = [part.strip() for part in name.split(".")]
    nodes = tree.data.get("node", {})
    nodes = nodes if isinstance(nodes, dict) else {}
    if not equals or not all(parts):
        return refuse("not a change", "write NODE.PARAM=VALUE, such as paint.steps=4")
    sections = [key.name for key in keys.FILE if key.name != "include"]
    if parts[0] not in sections:
        parts = ["node", *parts]
    if parts[0] == "node":
        if len(parts) > 1 and parts[1] not in nodes:
            return refuse(f"there is no node {parts[1]!r}", suggest(parts[1], list(nodes)))
        if len(parts) < 3:
            return refuse("a change needs a parameter", f"write {parts[-1]}.PARAM=VALUE")
    elif len(parts) < 2:
        return refuse("a change needs a key", f"write {parts[0]}.KEY=VALUE")
    value = value_of(raw)
    if parts[0] == "param":
        _put_param(tree, ".".join(parts[1:]), value, layers.SET)
        return None
    if parts[0] == "node" and len(parts) == 3 and not isinstance(value, str) and _takes_text(nodes[parts[1]], parts[2]):
        value = raw.strip()  # camera.url=0 means "0": whoever types a command has no quotes to spend
    obstacle = tree.put(tuple(parts), value, layers.SET)
    return refuse(obstacle, "") if obstacle else None


def value_of(raw: str) -> Any:
    """The value in the right half of `--set`: TOML where it is, else text as it stands."""
    try:
        found = tomllib.loads(f"value = {raw}")
    except (ValueError, RecursionError):
        return raw.strip()
    return found["value"] if len(found) == 1 else raw.strip()


def _takes_text(node: Any, param: str) -> bool:
    """Whether the operator's parameter takes text and nothing else; False where that cannot be found out."""
    from engine import registry

    op = node.get("op") if isinstance(node, dict) else None
    try:
        spec = registry.get(op) if isinstance(op, str) else None
    except EngineError:
        return False
    found = spec.param(param) if spec is not None else None
    if found is None:
        return False
    return found.kind is str or (bool(get_args(found.kind)) and set(get_args(found.kind)) <= {str, type(None)})


# ---------------------------------------------------------------- the tree to a Graph


@dataclass
class _Reader:
    """Checks the merged tree section by section and makes the Graph."""

    tree: Tree
    file: str
    places: Places = field(init=False)
    known: dict[str, Any] = field(default_factory=dict)  # parameters worked out so far
    pending: list[str] = field(default_factory=list)  # parameters being worked out, for cycles

    def __post_init__(self) -> None:
        self.places = Places(self.tree.layers, self.tree.over)

    def problem(self, path: KeyPath, message: str, **facts: str) -> None:
        at = path
        while at and dotted(at) not in self.places:
            at = at[:-1]
        place = self.places[dotted(at)] if at else Place(self.file)
        self.tree.problems.append(Diagnostic(message, place.file, place.line, dotted(path), **facts))

    def graph(self) -> Graph:
        data = self.tree.data
        top = self.section((), data, keys.FILE)
        self.params = top.get("param", {})
        for name in self.params:
            self.param(name)
        filled = {name: self.fill(top[name], (name,)) for name in ("graph", "node", "govern", "memory") if name in top}
        settings = self.section(("graph",), filled.get("graph", {}), keys.GRAPH)
        nodes = [self.node(name, table) for name, table in filled.get("node", {}).items()]
        return Graph(
            nodes=tuple(node for node in nodes if node is not None),
            govern=self.govern(filled.get("govern", {})),
            memory=self.section(("memory",), filled.get("memory", {}), keys.MEMORY),
            file=self.file, places=self.places, files=tuple(map(str, self.tree.files)),
            **{"name": Path(self.file).stem.strip("<>"), **settings},
        )  # fmt: skip

    # ---- checking

    def section(self, path: KeyPath, table: Mapping[str, Any], known: Sequence[Key], *, free: bool = False) -> dict[str, Any]:
        """The keys of `table` that are as they should be; the others are noted. `free`: unknown keys belong to somebody else."""
        names = [key.name for key in known]
        good = {}
        for key in known:
            if key.name not in table or table[key.name] is _BROKEN:
                continue
            value = table[key.name]
            if key.accepts(value):
                good[key.name] = value
            else:
                near = suggest(value, list(key.choices)) if key.choices and isinstance(value, str) else ""
                self.problem((*path, key.name), "the value does not fit", expected=key.expected, found=show(value), fix=near)
        for name in [] if free else [name for name in table if name not in names]:
            self.problem((*path, name), f"there is no {'key' if path else 'section'} {name!r} here", fix=suggest(name, names))
        return good

    def node(self, name: str, table: Any) -> Node | None:
        path = ("node", name)
        if not isinstance(table, dict):
            if table is not _BROKEN:
                self.problem(path, "a node is a table", expected=f"[node.{dotted((name,))}]", found=show(table))
            return None
        if not keys.NODE_NAME.fullmatch(name):
            self.problem(path, "not a name for a node", expected="a letter or _, then letters, digits, _ and -", found=show(name))
        names = {key.name for key in keys.NODE}
        good = self.section(path, table, keys.NODE, free=True)
        if "op" not in table:
            near = suggest("op", [key for key in table if key not in names and len(key) <= 4]) or ""
            self.problem(path, "the node has no operator", expected='op = "family.name"', fix=near if near.startswith("did") else "")
        inputs = [self.input((*path, "in", port), port, value) for port, value in good.pop("in", {}).items()]
        params = {key: value for key, value in table.items() if key not in names and value is not _BROKEN}
        return Node(name, good.pop("op", ""), params, tuple(i for i in inputs if i is not None), **good)

    def input(self, path: KeyPath, port: str, value: Any) -> Input | None:
        table = value if isinstance(value, dict) else {"from": value}
        good = self.section(path, table, keys.INPUT)
        at = (*path, "from") if isinstance(value, dict) else path
        if "from" not in table and "hold" not in table:
            self.problem(path, "nothing feeds this input", expected='from = "node", or hold = a value')
        if table.get("from") is _BROKEN or ("from" in table and not self.refs(at, table["from"])):
            return None
        return as_input(port, good)

    def refs(self, path: KeyPath, value: Any) -> bool:
        """Whether `value` names nodes as it should."""
        listed = isinstance(value, list)
        if not value or not isinstance(value, (str, list)):
            self.problem(path, "nothing is connected", expected='"node", "node.output" or a list of these', found=show(value),
                         fix="leave the input out to connect nothing" if value == [] else "")  # fmt: skip
            return False
        fine = True
        for n, item in enumerate(value if listed else [value]):
            try:
                Ref.parse(item if isinstance(item, str) else "")
            except ValueError:
                fine = False
                where = (*path, n) if listed else path
                self.problem(where, "not a reference", expected='"node", "node.output" or "node.output@-1"', found=show(item))
        return fine

    def govern(self, table: Mapping[str, Any]) -> Govern:
        good = self.section(("govern",), table, keys.GOVERN)
        listed = good.pop("knob", [])
        if not isinstance(listed, list):
            self.problem(("govern", "knob"), "knobs come as a list", expected="[[govern.knob]]", found=show(listed))
            listed = []
        knobs = [self.knob(("govern", "knob", n), item) for n, item in enumerate(listed)]
        return Govern(knobs=tuple(knob for knob in knobs if knob is not None), **good)

    def knob(self, path: KeyPath, table: Any) -> KnobRule | None:
        if not isinstance(table, dict):
            if table is not _BROKEN:
                self.problem(path, "a knob is a table", expected="[[govern.knob]]", found=show(table))
            return None
        good = self.section(path, table, keys.KNOB)
        if "set" not in table:
            self.problem(path, "the knob says not what it sets", expected='set = "node.parameter"')
        elif "set" in good and not re.fullmatch(rf"{keys.NODE_NAME.pattern}\.[A-Za-z_]\w*", good["set"]):
            self.problem((*path, "set"), "not a parameter of a node", expected='"node.parameter"', found=show(good["set"]))
            return None
        if ("range" in table) == ("choices" in table):
            self.problem(path, "a knob has either a range or choices", expected="range = [worst, best], or choices = [best, …]")
        if "range" in good:
            good["range"] = tuple(good["range"])
        if "set" not in good:
            return None
        return KnobRule(good["set"], good.get("range"), tuple(good.get("choices", ())), good.get("step"), good.get("follow"))

    # ---- parameters of the file

    def fill(self, value: Any, path: KeyPath) -> Any:
        """`value` with every `${name}` in it replaced."""
        match value:
            case dict():
                return {key: self.fill(item, (*path, key)) for key, item in value.items()}
            case list():
                items = [self.fill(item, (*path, n)) for n, item in enumerate(value)]
                return _BROKEN if any(item is _BROKEN for item in items) else items
            case str() if "${" in value:
                return self.text(value, path)
        return value

    def text(self, value: str, path: KeyPath) -> Any:
        whole = _HOLE.fullmatch(value)
        if whole is not None and whole["name"] is not None:
            return self.lookup(whole["name"].strip(), path)
        parts, at = [], 0
        for hole in _HOLE.finditer(value):
            parts.append(value[at : hole.start()])
            at = hole.end()
            if hole["name"] is None:  # $${ stands for ${
                parts.append("${")
                continue
            item = self.lookup(hole["name"].strip(), path)
            if item is _BROKEN:
                return _BROKEN
            if isinstance(item, (dict, list)):
                self.problem(path, f"${{{hole['name']}}} does not fit into a text", expected="text or a number", found=show(item))
                return _BROKEN
            parts.append(("true" if item else "false") if isinstance(item, bool) else str(item))
        text = "".join([*parts, value[at:]])
        if len(text) > MAX_TEXT:
            self.problem(path, "the text grows too long", expected=f"at most {MAX_TEXT} characters")
            return _BROKEN
        return text

    def lookup(self, name: str, path: KeyPath) -> Any:
        if name.startswith("ENV:"):
            variable = name.removeprefix("ENV:").strip()
            if variable and variable in os.environ:
                return os.environ[variable]
            self.problem(path, f"the environment has no variable {variable!r}", fix="set it before the start")
            return _BROKEN
        if name not in self.params:
            self.problem(path, f"there is no parameter {name!r}", fix=suggest(name, list(self.params)) or "add it to [param]")
            return _BROKEN
        return self.param(name)

    def param(self, name: str) -> Any:
        """The value of one of `[param]`, which may be made of others."""
        if name in self.pending:
            loop = " -> ".join([*self.pending[self.pending.index(name) :], name])
            self.problem(("param", name), f"the parameter is made of itself: {loop}", fix="give one of them a value")
            return _BROKEN
        if name not in self.known:
            self.pending.append(name)
            self.known[name] = self.fill(self.params[name], ("param", name))
            self.pending.pop()
        return self.known[name]
