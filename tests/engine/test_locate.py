"""Where keys stand: hand-made layouts, and generated documents whose layout is known while they are written."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toml_paths import paths_of

from engine.text.locate import KeyPath, dotted, positions

# ---------------------------------------------------------------- by hand


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = 1\n\nb = 2", {"a": 1, "b": 3}),
        ("# a = 1\na = 1 # b = 2\nb = '#'", {"a": 2, "b": 3}),
        ("[a.b]\nc = 1\n[a]\nd = 2\n", {"a": 1, "a.b": 1, "a.b.c": 2, "a.d": 4}),
        ("[node.x]\nin.y = 1\nz = 2\nin.w = 3", {"node": 1, "node.x": 1, "node.x.in": 2, "node.x.in.y": 2, "node.x.z": 3, "node.x.in.w": 4}),
        ("t = { a = 1, b = { c = 2 } }\nu = 1", {"t": 1, "t.a": 1, "t.b": 1, "t.b.c": 1, "u": 2}),
        ("l = [\n  1, # one\n\n  [2,\n   3],\n]\nu = 1", {"l": 1, "l.0": 2, "l.1": 4, "l.1.0": 4, "l.1.1": 5, "u": 7}),
        ("l = [\n  { a = 1 },\n  { a = 2,\tb = [\n1] },\n]", {"l": 1, "l.0": 2, "l.0.a": 2, "l.1": 3, "l.1.a": 3, "l.1.b": 3, "l.1.b.0": 4}),
        ("[[k]]\na = 1\n[[k]]\na = 2\n[k.s]\nb = 3", {"k": 1, "k.0": 1, "k.0.a": 2, "k.1": 3, "k.1.a": 4, "k.1.s": 5, "k.1.s.b": 6}),
        (
            "[[a]]\n[[a.b]]\n[[a.b]]\n[[a]]\n[[a.b]]",
            {"a": 1, "a.0": 1, "a.0.b": 2, "a.0.b.0": 2, "a.0.b.1": 3, "a.1": 4, "a.1.b": 5, "a.1.b.0": 5},
        ),
        ('s = """\n\n[x]\ny = 1 \\""" \\\\"""\nt = 1', {"s": 1, "t": 5}),
        ('s = """a""""\nt = """b"""""\nu = """"c"""\nv = ""', {"s": 1, "t": 2, "u": 3, "v": 4}),
        ("s = '''\n\\\n'''''\nt = 'C:\\'\nu = 1", {"s": 1, "t": 4, "u": 5}),
        ("d = 1979-05-27 07:32:00\ne = inf\nf = -1_000", {"d": 1, "e": 2, "f": 3}),
        ("\"a b\" = 1\n'c.d' . e = 2\n\"\\u0066\" = 3\n'' = 4", {'"a b"': 1, '"c.d"': 2, '"c.d".e': 2, "f": 3, '""': 4}),
        (" [ a . 'b' ] \n c . d = 1", {"a": 1, "a.b": 1, "a.b.c": 2, "a.b.c.d": 2}),
        ("e = [ ]\nf = { }\ng = [ # no\n]\nh = 1", {"e": 1, "f": 2, "g": 3, "h": 5}),
        ("", {}),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_known_layouts(text: str, expected: dict[str, int], newline: str) -> None:
    text = text.replace("\n", newline)
    assert {dotted(path) for path in paths_of(tomllib.loads(text))} == set(expected), "the test itself must be right"
    assert {dotted(path): line for path, line in positions(text).items()} == expected


def test_what_is_no_toml_is_refused_rather_than_looped_over() -> None:
    for text in ("= 1", "a", "[a", "a = [1", 'a = "', "]"):
        with pytest.raises(ValueError, match="line 1"):
            positions(text)


# ---------------------------------------------------------------- generated

NAMES = st.sampled_from(["a", "b", "in", "node", "x-1", "0", "op", "two words", "dot.ted", 'quo"te', "ü", ""])
MULTILINE = ["'''\n\n'y'\n'''", '"""\n\\\n """', '"""[x]"""']
SCALARS = st.sampled_from(
    [*MULTILINE, "1", "-0.5e3", "true", "1979-05-27T07:32:00Z", "07:32:00", '""', "''", '"#"', "'] = ['", r'"\"["']
)


class Writer:
    """Writes a document and notes what stands where, the way a person would count."""

    def __init__(self, draw: Any, newline: str) -> None:
        self.draw, self.newline, self.text, self.line = draw, newline, "", 1
        self.expected: dict[KeyPath, int] = {}

    def put(self, text: str) -> None:
        self.line += text.count("\n")
        self.text += text.replace("\n", self.newline)

    def note(self, path: KeyPath) -> None:
        for n in range(1, len(path) + 1):
            self.expected.setdefault(path[:n], self.line)

    def blank(self, *, lines: bool) -> None:
        self.put(self.draw(st.sampled_from(["", " ", "\t", "\n", " # [no]\n", "\n\n#x=1\n"] if lines else ["", " ", "  "])))

    def key(self, parts: KeyPath) -> None:
        for n, part in enumerate(parts):
            if n:
                self.put(self.draw(st.sampled_from([".", " . "])))
            part = str(part)
            bare = part.replace("-", "").isalnum() and part.isascii()
            styles = (["bare"] if bare else []) + ["basic"] + ([] if "'" in part else ["literal"])
            style = self.draw(st.sampled_from(styles))
            escaped = part.replace('"', '\\"')
            self.put(part if style == "bare" else f"'{part}'" if style == "literal" else f'"{escaped}"')

    def value(self, path: KeyPath, depth: int, *, inline: bool = False) -> None:
        kind = self.draw(st.sampled_from(["scalar", "scalar", "array", "table"])) if depth else "scalar"
        if kind == "scalar":
            self.put(self.draw(SCALARS))
        elif kind == "array":
            self.put("[")
            for n in range(self.draw(st.integers(0, 3))):
                self.put("," if n else "")
                self.blank(lines=True)
                self.note((*path, n))
                self.value((*path, n), depth - 1)
            self.blank(lines=True)
            self.put("]")
        else:
            self.put("{")
            for n, name in enumerate(self.draw(st.lists(NAMES, unique=True, max_size=3))):
                self.put("," if n else "")
                self.blank(lines=False)
                self.pair(path, (name,), depth - 1)
            self.blank(lines=False)
            self.put("}")

    def pair(self, table: KeyPath, parts: KeyPath, depth: int) -> None:
        self.note(table + parts)
        self.key(parts)
        self.put(self.draw(st.sampled_from(["=", " = "])))
        self.value(table + parts, depth)

    def body(self, table: KeyPath) -> None:
        """Plain and dotted keys; dotted ones share their first part, and may have others between them."""
        names = self.draw(st.lists(NAMES, unique=True, max_size=4))
        stems = {name: self.draw(st.lists(NAMES, unique=True, max_size=2)) for name in names}
        parts: list[KeyPath] = [(name, leaf) if stems[name] else (name,) for name in names for leaf in stems[name] or [""]]
        for one in self.draw(st.permutations(parts)):
            self.blank(lines=True)
            self.pair(table, one, 2)
            self.put(self.draw(st.sampled_from(["\n", " # in.x = 1\n", "\n\n"])))


@st.composite
def documents(draw: Any) -> tuple[str, dict[KeyPath, int]]:
    """A valid document and the line of everything in it."""
    out = Writer(draw, draw(st.sampled_from(["\n", "\r\n"])))
    if draw(st.booleans()):
        out.body(())
    used = {path[0] for path in out.expected}
    counts: dict[KeyPath, int] = {}
    free = [n for n in ("alpha", "beta", "gamma", "two words") if n not in used]
    headers = draw(st.permutations([(a, b) for a in free for b in ("", "sub one", "sub.two")]))  # out of order: sub-tables before tables
    for name, sub in headers[: draw(st.integers(0, 8))]:
        if name == "gamma":  # an array of tables, its elements with or without a sub-table
            counts[(name,)] = counts.get((name,), -1) + 1
            path: KeyPath = (name, counts[(name,)])
            out.note(path)
            out.put("[[")
            out.key((name,))
            out.put("]]\n")
            out.body(path)
            if sub and (*path, sub) not in out.expected:
                path = (*path, sub)
                out.note(path)
                out.put(" [ ")
                out.key((name, sub))
                out.put(" ]\n")
                out.body(path)
            continue
        path = (name, sub) if sub else (name,)
        out.note(path)
        out.put("[")
        out.key(path)
        out.put("] # [[x]]\n")
        out.body(path)
    return out.text, out.expected


@settings(max_examples=120, deadline=None)
@given(documents())
def test_generated_layouts(document: tuple[str, dict[KeyPath, int]]) -> None:
    text, expected = document
    assert paths_of(tomllib.loads(text)) == set(expected)
    assert positions(text) == expected
