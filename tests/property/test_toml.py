"""Any text at all, and graphs with something broken in them, either load or are refused with typed errors and places that exist."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from toml_paths import paths_of

from engine.errors import EngineError, GraphError
from engine.graph import Graph
from engine.text.keys import FILE, GOVERN, GRAPH, INPUT, KNOB, MEMORY, NODE, Key
from engine.text.load import load, loads
from engine.text.locate import dotted, positions

GRAPH_TEXT = """\
include = []
[param]
clip = "a.mp4"
n = 3

[graph]
name      = "live"
clock     = "live"
budget_ms = 1000.0
in_flight = 2
seed      = "${n}"

[node.camera]
op  = "source.video"
url = '${clip}'

[node.paint]
op          = "diffusion.stream"
prompt      = \"\"\"a dancer
in a red coat\"\"\"
controlnets = [
  { model = "pose", scale = 0.9 },
]
in.control  = ["camera", "camera.image"]
in.carry    = "paint.latent@-1"
in.strength = { from = "camera.score", map = [1.0, 0.6], policy = "latest", every = 2, hold = 1 }

[govern]
target_fps = 12
[[govern.knob]]
set   = "paint.steps"
range = [10, 22]

[memory]
vram = "6GB"
"""
SETS = ("paint.steps=4", "graph.seed=1", "paint.in.carry={ hold = 1 }", "param.n=x", "govern.knob.0.set=1", "camera=1", "=", "a.b.c.d=[")


def check(error: GraphError, text: str) -> None:
    """Every problem says something, in the message too, and stands on a line that exists."""
    assert error.diagnostics
    for found in error.diagnostics:
        assert found.message
        assert found.line is None or 1 <= found.line <= text.count("\n") + 1
        assert str(found) in str(error)


def holds(make: Callable[[], Graph], text: str = "") -> Graph | None:
    """Load; whatever happens must be one of the two promised outcomes. None where it was refused."""
    try:
        graph = make()
    except GraphError as error:
        check(error, text)
        return None
    except EngineError:
        return None
    for path, place in graph.places.items():
        assert place.line is None or 1 <= place.line <= text.count("\n") + 1, path
    return graph


# ---------------------------------------------------------------- any text


@settings(max_examples=100, deadline=None)
@given(st.text())
@example("\ufeff")
@example("a = '''")
@example("[graph]\r")
@example('include = "\\u0000"')
def test_any_text(text: str) -> None:
    holds(lambda: loads(text), text)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary())
@example(b"\xff\xfe[\x00g\x00")
@example(b"\xed\xa0\x80 = 1")
def test_any_bytes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "g.toml"
    path.write_bytes(content)
    holds(lambda: load(path), content.decode(errors="replace"))


@settings(max_examples=200, deadline=None)
@given(st.text(), st.lists(st.one_of(st.text(), st.sampled_from(SETS))))
@example("a.b", ["camera.\x00=1", "graph=", "node.=1", "graph.name.x=1"])
def test_any_change(name: str, sets: list[str]) -> None:
    holds(lambda: loads(GRAPH_TEXT, sets=[f"{name}=1", *sets]), GRAPH_TEXT)


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_any_name(name: str) -> None:
    holds(lambda: load(name), "\n" * 10_000)


# ---------------------------------------------------------------- a graph with something broken in it

PIECES = st.sampled_from(
    ["\n", "\r\n", '"', "'", '"""', "[", "]", "[[", "{", "}", "=", ".", ",", "#", "\\", "\x00", "ü", "${", "${n}", "${ENV:X}", "${clip", "$${",
     "@-1", "@", "1", "-1", "nan",
     "true", "1979-05-27", "[node.camera]\n", "[node.x]\n", "node", "in.", "op = 3\n", "[[govern.knob]]\n", "include = 'x.toml'\n"]
)  # fmt: skip


@st.composite
def broken(draw: Any) -> str:
    """A valid graph after some cuts, doublings and insertions."""
    text = GRAPH_TEXT
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 30)))
        what = draw(st.sampled_from(["cut", "double", "insert", "move line", "crlf"]))
        if what == "cut":
            text = text[:start] + text[end:]
        elif what == "double":
            text = text[:end] + text[start:]
        elif what == "insert":
            text = text[:start] + draw(PIECES) + text[start:]
        elif what == "crlf":
            text = text.replace("\r\n", "\n").replace("\n", "\r\n")
        else:
            lines = text.split("\n")
            line = lines.pop(draw(st.integers(0, len(lines) - 1)))
            lines.insert(draw(st.integers(0, len(lines))), line)
            text = "\n".join(lines)
    return text


@settings(max_examples=200, deadline=None)
@given(broken())
def test_broken_graphs(text: str) -> None:
    holds(lambda: loads(text), text)


@settings(max_examples=200, deadline=None)
@given(broken())
def test_every_path_of_what_tomllib_accepts_has_a_line_and_no_other_has(text: str) -> None:
    try:
        data = tomllib.loads(text)
    except ValueError:
        return
    found = positions(text)
    assert set(found) == paths_of(data)
    assert all(1 <= line <= text.count("\n") + 1 for line in found.values())


# ---------------------------------------------------------------- any value in any place

WORDS = st.sampled_from(["camera", "a.b@-1", "${n}", "${x}", "live", "6GB", "latest"])
KEYS = st.sampled_from(["from", "set", "op", "in", "x", "hold"])
VALUES = st.recursive(
    st.one_of(st.booleans(), st.integers(), st.floats(), st.text(max_size=8), WORDS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=6,
)


def as_toml(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return '"' + "".join(f"\\U{ord(c):08X}" for c in value if not 0xD800 <= ord(c) < 0xE000) + '"'
        case dict():
            return "{" + ", ".join(f"{as_toml(key)} = {as_toml(item)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(as_toml, value)) + "]"
        case _:
            return str(value)


def refusals(text: str) -> list[str]:
    """The paths of all problems of a text."""
    try:
        loads(text)
    except GraphError as error:
        check(error, text)
        return [found.path for found in error.diagnostics]
    return []


SECTIONS: dict[str, tuple[Key, ...]] = {
    "": FILE, "graph": GRAPH, "node.a": NODE, "node.a.in.x": INPUT, "govern": GOVERN, "govern.knob.0": KNOB, "memory": MEMORY,
}  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([(section, key.name) for section, known in SECTIONS.items() for key in known]), VALUES)
def test_any_value_under_any_key(where: tuple[str, str], value: Any) -> None:
    section, key = where
    head = {"": "", "govern.knob.0": "[[govern.knob]]\n"}.get(section, f"[{section}]\n")
    text = f"{head}{key} = {as_toml(value)}\n" + ("" if section == "" else "[param]\nn = 3\n")
    path = f"{section}.{key}" if section else key
    for one in refusals(text):
        assert f"{one}.".startswith(f"{path}.") or f"{path}.".startswith(f"{one}."), (one, path)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x7f")), min_size=1, max_size=4))
def test_paths_are_written_as_toml_would_read_them(parts: list[str]) -> None:
    value: Any = tomllib.loads(f"{dotted(parts)} = 1")
    for part in parts:
        (value,) = [value[part]] if value.keys() == {part} else []
    assert value == 1
