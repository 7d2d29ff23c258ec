"""Texts of graphs: broken TOML, includes, files, and names of graphs that ship."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine import UsageError
from engine.errors import Diagnostic, EngineError, GraphError
from engine.graph import Input, Place, Ref
from engine.text import layers
from engine.text.load import load, loads

SMALL = """\
[node.camera]
op  = "source.video"
url = "0"

[node.file]
op       = "sink.video"
in.image = "camera"
"""


def problem(text: str, **options: Any) -> Diagnostic:
    with pytest.raises(GraphError) as caught:
        loads(text, "g.toml", **options)
    (found,) = caught.value.diagnostics
    return found


def node(text: str) -> str:
    """A node of which one line is in question; that line is the third."""
    return f'[node.a]\nop = "x.y"\n{text}\n'


# ---------------------------------------------------------------- TOML that is none


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("[graph]\nname = live", 2, 'text needs quotes: key = "text"'),
        ("[graph]\nname = \u201clive\u201d", 2, "these quotes are a word processor's"),
        ("[graph]\nname = 'x'\n[node.gr\u00f6\u00dfe]\nop = 'a.b'", 3, 'put it in quotes: "gr\u00f6\u00dfe"'),
        ("[node.x]\nh\u00f6he = 3", 2, 'put it in quotes: "h\u00f6he"'),
        ("[graph]\nname = \"\u201cl\u00f6ve\u201d", 2, "the quotes are not closed"),
        ("[graph]\nname 'live'", 2, "a key needs an equals sign and a value"),
        (node("\n[node.a]"), 4, "the table is written twice (found [node.a])"),
        (node('op = "z.w"'), 3, "the key is written twice"),
        (node('url = "C:\\clips\\a.mp4"'), 3, "put Windows paths in single quotes"),
        (node('url = "C:\\users\\me"'), 3, "put Windows paths in single quotes"),
        (node('url = "a'), 3, "the quotes are not closed"),
        (node("url = 'a"), 3, "the quotes are not closed"),
        (node('url = """a'), 3, "the quotes are not closed"),
        (node("reuse = { every = 1"), 3, "the inline table is not closed"),
        (node("sizes = [1, 2"), 3, "the list is not closed"),
        (node("steps = 3 4"), 3, "one key = value per line"),
        (node("steps ="), 3, "the value is not one that TOML knows (found steps =)"),
        ("[node.a\nop = 'x.y'", 1, "the table's header is not closed"),
        ("hello", 1, "write key = value"),
        ("= 3", 1, "neither a key, a [table] nor a # comment"),
        ("\n" + "a = " + "9" * 5000, 2, "the number is too long"),
        ('a = "\x07"', 1, "a character that TOML does not allow"),
        ("a = " + "[" * 3000, None, "nested too deeply"),
        ("a = " + "[" * 40 + "]" * 40, None, "nested too deeply (expected at most 32 levels)"),
    ],
)
def test_broken_toml_in_plain_words(text: str, line: int | None, says: str) -> None:
    found = problem(text)
    assert (found.file, found.line) == ("g.toml", line)
    assert says in str(found)


def test_credentials_do_not_reach_the_message() -> None:
    assert "hunter2" not in str(problem('a = 1\nurl = "rtsp://me:hunter2@cam/1" x'))


# ---------------------------------------------------------------- include


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes files by name; gives the path of the first."""

    def write(**texts: str) -> Path:
        for name, text in texts.items():
            (tmp_path / f"{name}.toml").write_text(text, encoding="utf-8", newline="")
        return tmp_path / f"{next(iter(texts))}.toml"

    return write


def test_an_include_lies_under_the_file_and_keeps_its_lines(folder: Callable[..., Path]) -> None:
    path = folder(
        main='include = "base.toml"\n[param]\nn = 2\n[node.a]\nsteps = 5\nin.x = { every = 3 }\n[node.b]\nop = "s.t"\n',
        base='# base\n[param]\nn = 1\nm = 1\n[node.a]\nop = "x.y"\nsteps = 1\nsize = "${n}${m}"\n'
        'in.x = { from = "b" }\nlist = [{ k = 1 }, { k = 2 }]\n',
    )
    graph = load(path)
    a, b = graph.nodes
    assert (a.op, a.params) == ("x.y", {"steps": 5, "size": "21", "list": [{"k": 1}, {"k": 2}]})
    assert (a.inputs, b.op) == ((Input("x", (Ref("b"),), every=3),), "s.t")
    base = str(path.parent / "base.toml")
    assert graph.places["node.a.size"] == Place(base, 8)
    assert graph.places["node.a.steps"] == Place(str(path), 5)
    assert graph.places["node.a.in.x.from"] == Place(base, 9)
    assert graph.places["node.a.list.1.k"] == Place(base, 10)
    assert graph.file == str(path)


def test_what_replaces_a_list_hides_the_lines_of_the_old_one(folder: Callable[..., Path]) -> None:
    path = folder(main='include = "base.toml"\n[node.a]\nlist = [3]\n', base='[node.a]\nop = "x.y"\nlist = [\n1,\n2]')
    graph = load(path, sets=["a.op=z.w"])
    assert graph.place("node.a.list.1") == Place(str(path), 3)
    assert graph.nodes[0].op == "z.w"


def test_includes_chain_and_the_later_wins(folder: Callable[..., Path]) -> None:
    path = folder(
        main='include = ["one.toml", "two.toml"]\n[graph]\nname = "main"',
        one='include = "deep.toml"\n[graph]\nseed = 1\nin_flight = 1\n',
        two='include = "deep.toml"\n[graph]\nseed = 2\n',
        deep='[graph]\nseed = 3\nname = "deep"\nclock = "live"\n',
    )
    graph = load(path)
    assert (graph.name, graph.seed, graph.in_flight, graph.clock) == ("main", 2, 1, "live")


def test_a_graph_that_ships_is_included_by_its_name_unless_a_file_is_called_so(folder: Callable[..., Path], tmp_path: Path) -> None:
    path = folder(main='include = "live_lcm"\n[graph]\nname = "mine"\n')
    plan = load(path)
    assert (plan.name, "paint" in [node.name for node in plan.nodes]) == ("mine", True)
    (tmp_path / "live_lcm").write_text('[node.src]\nop = "toy.count"\n[node.sink]\nop = "toy.collect"\nin.a = "src"\n')
    assert [node.name for node in load(path).nodes] == ["src", "sink"]


def test_includes_are_relative_to_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "main.toml").write_text('include = "sub/mid.toml"')
    (tmp_path / "sub" / "mid.toml").write_text('include = "../leaf.toml"')
    (tmp_path / "leaf.toml").write_text("[graph]\nsed = 3")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GraphError) as caught:
        load("main.toml")
    assert [(d.file, d.line) for d in caught.value.diagnostics] == [("sub/../leaf.toml", 2)]


@pytest.mark.parametrize(
    ("files", "file", "line", "says"),
    [
        ({"main": '\ninclude = "bass.toml"', "base": ""}, "main", 2, 'bass.toml does not exist; did you mean "base"?'),
        ({"main": 'include = [\n"base.toml",\n3]', "base": ""}, "main", 3, "expected a graph file by name, or a list of these, found 3"),
        ({"main": 'include = ""'}, "main", 1, "not a file"),
        ({"main": 'include = "no/base.toml"'}, "main", 1, "there is no folder"),
        ({"main": 'include = "."'}, "main", 1, "cannot be read"),
        ({"main": 'include = "a\\u0000b"'}, "main", 1, "not a file name"),
        ({"main": 'include = "main.toml"'}, "main", 1, "main.toml includes itself in the end"),
        ({"main": 'include = "b.toml"', "b": "\n\ninclude = ['c.toml']", "c": 'include = "b.toml"'}, "c", 1, "b.toml includes itself"),
        ({"main": 'include = "b.toml"', "b": "[graph]\nx = "}, "b", 2, "the value is not one that TOML knows"),
    ],
)
def test_wrong_includes(folder: Callable[..., Path], files: dict[str, str], file: str, line: int, says: str) -> None:
    path = folder(**files)
    with pytest.raises(GraphError) as caught:
        load(path)
    (found,) = caught.value.diagnostics
    assert (Path(found.file).stem, found.line) == (file, line)
    assert says in str(found)


# ---------------------------------------------------------------- files


def test_crlf_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    path.write_bytes(b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode())
    assert load(path).nodes == loads(SMALL).nodes
    assert load(path).places["node.camera.url"].line == 3


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [(b"a = 1\nb = '\xff'", 2, "is not text in UTF-8"), ("[graph]\nname = 'x'".encode("utf-16-le"), 1, "is not text in UTF-8"),
      (b"\x00\x00\x00\x20ftypisom\xff" * 9, 1, "is not text in UTF-8"),
     (b"#" * (layers.MAX_BYTES + 1), None, "is too big for a graph")],
)  # fmt: skip
def test_files_that_are_no_graph(tmp_path: Path, content: bytes, line: int | None, says: str) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(GraphError) as caught:
        load(path)
    (found,) = caught.value.diagnostics
    assert (found.file, found.line) == (str(path), line)
    assert says in str(found)


def test_a_graph_that_ships_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demo.toml").write_text(SMALL)
    monkeypatch.setattr(layers, "shipped_graphs", lambda: {"demo": tmp_path / "demo.toml", "live_2060": tmp_path / "x.toml"})
    assert load("demo").nodes == loads(SMALL).nodes
    assert load("demo").file == "graphs/demo.toml"
    with pytest.raises(UsageError, match='did you mean "demo"'):
        load("dmeo")
    with pytest.raises(UsageError, match='did you mean "live_2060"'):
        load("live-2060")


def test_shipped_graphs_are_those_of_the_package() -> None:
    found = layers.shipped_graphs()
    assert set(found) == {path.stem for path in (Path(__file__).parents[2] / "graphs").glob("*.toml")}
    assert all(path.is_file() for path in found.values())


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("nope.toml", UsageError, "there is no graph file"),
        ("liv.toml", UsageError, 'did you mean "live"?'),
        ("no/such/live.toml", UsageError, "there is no folder"),
        ("", UsageError, "the name of the graph is empty"),
        (".", UsageError, "is a folder"),
        ("a" * 5000, UsageError, "not a file name"),
        ("zzz", UsageError, "no graph is called 'zzz'"),
    ],
)
def test_graphs_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: type[EngineError], says: str) -> None:
    (tmp_path / "live.toml").write_text(SMALL)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind) as caught:
        load(name)
    assert says in str(caught.value)
