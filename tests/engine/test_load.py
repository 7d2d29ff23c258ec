"""Graph files: what they come to, and what every mistake in them is called."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest

from engine import Knob, Live, registry
from engine.errors import Diagnostic, GraphError
from engine.graph import UNSET, Govern, Graph, Input, KnobRule, Node, Place, Ref
from engine.operator import describe
from engine.payload import Image
from engine.text import keys, layers
from engine.text.load import loads, read, value_of

LIVE = """\
[graph]
name      = "live"
clock     = "live"
budget_ms = 1000
in_flight = 2
seed      = 7

[node.camera]
op  = "source.video"
url = "0"

[node.paint]
op          = "diffusion.stream"
lane        = "fast"
on_error    = "hold"
max_errors  = 3
trigger     = "control"
batch       = 2
process     = true
controlnets = [{ model = "pose", scale = 0.9 }]
in.control  = ["camera", "camera.image"]
in.carry    = "paint.latent@-1"
in.prompt   = { hold = "a dancer" }
in.strength = { from = "camera.score", map = [1.0, 0.6], policy = "latest", cap = 4, every = 2, max_age_ms = 50.5, missing = "reuse" }

[govern]
target_fps = 12
dwell_s    = 1
enabled    = false
[[govern.knob]]
set   = "paint.steps"
range = [10, 22]
step  = 2
follow = "camera.score"
[[govern.knob]]
set     = "paint.size"
choices = [512, 384]

[memory]
vram = "6GB"
"""


def problems(text: str, **options: Any) -> list[Diagnostic]:
    with pytest.raises(GraphError) as caught:
        loads(text, "g.toml", **options)
    return list(caught.value.diagnostics)


def problem(text: str, **options: Any) -> Diagnostic:
    found = problems(text, **options)
    assert len(found) == 1, "\n".join(map(str, found))
    return found[0]


def node(text: str) -> str:
    """A node of which one line is in question; that line is the third."""
    return f'[node.a]\nop = "x.y"\n{text}\n'


# ---------------------------------------------------------------- what a file comes to


def test_every_key_arrives() -> None:
    graph = loads(LIVE, "live.toml")
    assert (graph.name, graph.clock, graph.budget_ms, graph.in_flight, graph.seed, graph.file) == ("live", "live", 1000, 2, 7, "live.toml")
    camera, paint = graph.nodes
    assert (camera.name, camera.op, camera.params, camera.inputs) == ("camera", "source.video", {"url": "0"}, ())
    assert (camera.lane, camera.on_error, camera.max_errors, camera.trigger, camera.batch, camera.process) == (None, None, 10, None, 1, False)
    assert (paint.lane, paint.on_error, paint.max_errors, paint.trigger, paint.batch, paint.process) == ("fast", "hold", 3, "control", 2, True)
    assert paint.params == {"controlnets": [{"model": "pose", "scale": 0.9}]}
    assert paint.inputs == (
        Input("control", (Ref("camera"), Ref("camera", "image")), listed=True),
        Input("carry", (Ref("paint", "latent", -1),)),
        Input("prompt", (), hold="a dancer"),
        Input("strength", (Ref("camera", "score"),), False, "latest", 4, 2, 50.5, UNSET, (1.0, 0.6), "reuse"),
    )
    assert (graph.govern.target_fps, graph.govern.dwell_s, graph.govern.enabled) == (12, 1, False)
    assert graph.govern.knobs == (KnobRule("paint.steps", (10, 22), (), 2, "camera.score"), KnobRule("paint.size", None, (512, 384)))
    assert graph.memory == {"vram": "6GB"}


def test_every_field_of_a_graph_has_a_key_and_every_key_a_field() -> None:
    def names(kind: type, *without: str) -> set[str]:
        return {field.name for field in dataclasses.fields(kind)} - set(without)

    def known(section: tuple[keys.Key, ...], *without: str) -> set[str]:
        return {key.name for key in section} - set(without)

    assert known(keys.GRAPH) == names(Graph, "nodes", "govern", "memory", "file", "files", "places")
    assert known(keys.NODE, "in") == names(Node, "name", "params", "inputs")
    assert known(keys.INPUT, "from") == names(Input, "port", "refs", "listed")
    assert known(keys.GOVERN, "knob") == names(Govern, "knobs")
    assert known(keys.KNOB) == names(KnobRule)


def test_what_is_left_out_has_the_defaults_of_graph() -> None:
    assert loads(node(""), "folder/edges.toml") == Graph("edges", loads(node("")).nodes, file="folder/edges.toml")


def test_an_input_may_be_written_as_a_key_a_table_or_a_section() -> None:
    forms = ['in.x = { from = "b", every = 2 }', 'in = { x = { from = "b", every = 2 } }', '[node.a.in.x]\nfrom = "b"\nevery = 2']
    assert all(loads(node(form)).nodes[0].inputs == (Input("x", (Ref("b"),), every=2),) for form in forms)


def test_places_point_at_lines() -> None:
    graph = loads(LIVE, "live.toml")
    lines = LIVE.splitlines()
    for path, written in {
        "graph.seed": "seed ", "node.camera": "[node.camera]", "node.paint.in": "in.control", "node.paint.in.strength.every": "in.strength",
        "node.paint.controlnets.0.scale": "controlnets", "govern.knob.1.choices": "choices", "memory.vram": "vram",
    }.items():  # fmt: skip
        place = graph.places[path]
        assert place.file == "live.toml"
        assert place.line is not None
        assert lines[place.line - 1].startswith(written), path
    assert graph.place("node.paint.in.strength.cap.deeper") == graph.places["node.paint.in.strength.cap"]
    assert graph.place("node.none") == graph.places["node"]


def test_loading_looks_up_no_lines_unless_something_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(text: str) -> None:
        raise AssertionError("lines were looked up")

    monkeypatch.setattr(layers, "positions", refuse)
    loads(LIVE)
    with pytest.raises(AssertionError, match="looked up"):
        loads(LIVE + "wrong = 1")


def test_loading_imports_no_heavy_package() -> None:
    code = """import sys, engine.text.load
engine.text.load.loads("[node.a]\\nop = 'x.y'")
print([name for name in ("torch", "numpy", "pydantic", "tomlkit") if name in sys.modules])"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------- what is wrong with it


@pytest.mark.parametrize(
    ("text", "path", "line", "says"),
    [
        ("[graf]\nseed = 1", "graf", 1, 'no section \'graf\' here; did you mean "graph"?'),
        ("[graph]\nclok = 'live'", "graph.clok", 2, 'did you mean "clock"?'),
        ("[graph]\nclock = 'online'", "graph.clock", 2, 'expected one of "live", "offline", found "online"'),
        ("[graph]\nclock = 'life'", "graph.clock", 2, 'did you mean "live"?'),
        ("[graph]\nseed = 1.0", "graph.seed", 2, "expected a whole number, found 1.0"),
        ("[graph]\nin_flight = 0", "graph.in_flight", 2, "expected a whole number of at least 1, found 0"),
        ("[graph]\nin_flight = true", "graph.in_flight", 2, "found true"),
        ("[graph]\nbudget_ms = 0", "graph.budget_ms", 2, "expected a number above 0, found 0"),
        ("[graph]\nbudget_ms = nan", "graph.budget_ms", 2, "found nan"),
        ("[graph]\nbudget_ms = inf", "graph.budget_ms", 2, "found inf"),
        ("[graph]\nname = ''", "graph.name", 2, 'expected text in quotes, found ""'),
        ("[graph]\nname = 1979-05-27", "graph.name", 2, "found date 1979-05-27"),
        ("graph = 3", "graph", 1, "expected a table, found 3"),
        ("[[graph]]", "graph", 1, "expected a table, found the list [a table]"),
        ("node = []", "node", 1, "expected a table, found an empty list"),
        ("[node]\na = 'x.y'", "node.a", 2, 'a node is a table (expected [node.a], found "x.y")'),
        ("[node.a]\nlane = 'x'", "node.a", 1, 'no operator (expected op = "family.name")'),
        ("[node.a]\nopp = 'x.y'", "node.a", 1, 'did you mean "opp"?'),
        ("[node.a]\n\nop = 3", "node.a.op", 3, "expected text in quotes, found 3"),
        ('[node."a b"]\nop = "x.y"', 'node."a b"', 1, "not a name for a node"),
        ('[node.2d]\nop = "x.y"', "node.2d", 1, "not a name for a node"),
        (node("on_error = 'stop'"), "node.a.on_error", 3, 'expected one of "fail", "skip", "hold", found "stop"'),
        (node("batch = 0"), "node.a.batch", 3, "at least 1"),
        (node("process = 1"), "node.a.process", 3, "expected true or false, found 1"),
        (node("max_errors = '3'"), "node.a.max_errors", 3, 'found "3"'),
        (node("in = 'camera'"), "node.a.in", 3, 'expected a table, found "camera"'),
        (node("in.x = 3"), "node.a.in.x", 3, 'expected "node", "node.output" or a list of these, found 3'),
        (node("in.x = []"), "node.a.in.x", 3, "leave the input out to connect nothing"),
        (node("in.x = 'b c'"), "node.a.in.x", 3, 'not a reference (expected "node", "node.output" or "node.output@-1", found "b c")'),
        (node("in.x = [\n'b',\n'c.d.e',\n]"), "node.a.in.x.1", 5, 'found "c.d.e"'),
        (node("in.x = ['b', 3]"), "node.a.in.x.1", 3, "found 3"),
        (node("in.x = {}"), "node.a.in.x", 3, 'expected from = "node", or hold = a value'),
        (node("in.x = { every = 2 }"), "node.a.in.x", 3, "nothing feeds this input"),
        (node("in.x = { from = 'b@1.5' }"), "node.a.in.x.from", 3, "not a reference"),
        (node("in.x = { from = 'b', evry = 2 }"), "node.a.in.x.evry", 3, 'did you mean "every"?'),
        (node("in.x = { from = 'b', policy = 'newest' }"), "node.a.in.x.policy", 3, 'one of "block", "latest", "drop-oldest"'),
        (node("in.x = { from = 'b', policy = 'drop_oldest' }"), "node.a.in.x.policy", 3, 'did you mean "drop-oldest"?'),
        (node("in.x = { from = 'b', cap = 0 }"), "node.a.in.x.cap", 3, "at least 1, found 0"),
        (node("in.x = { from = 'b', every = true }"), "node.a.in.x.every", 3, "found true"),
        (node("in.x = { from = 'b', every = 1.5 }"), "node.a.in.x.every", 3, "found 1.5"),
        (node("in.x = { from = 'b', max_age_ms = -1 }"), "node.a.in.x.max_age_ms", 3, "above 0"),
        (node("in.x = { from = 'b', map = [1] }"), "node.a.in.x.map", 3, "expected two numbers, [a, b], found the list [1]"),
        (node("in.x = { from = 'b', map = [0, nan] }"), "node.a.in.x.map", 3, "found the list [0, nan]"),
        (node("in.x = { from = 'b', map = 'up' }"), "node.a.in.x.map", 3, "two numbers"),
        (node("in.x = { from = 'b', missing = 'ignore' }"), "node.a.in.x.missing", 3, '"skip", "reuse", "default", "error"'),
        ("[govern]\ntarget_fps = '30'", "govern.target_fps", 2, 'above 0, found "30"'),
        ("[govern]\ndwell_s = -1", "govern.dwell_s", 2, "at least 0"),
        ("[govern]\nknobs = []", "govern.knobs", 2, 'did you mean "knob"?'),
        ("[govern.knob]\nset = 'a.b'", "govern.knob", 1, "knobs come as a list (expected [[govern.knob]], found a table)"),
        ("[govern]\nknob = [3]", "govern.knob.0", 2, "a knob is a table"),
        ("[[govern.knob]]\nrange = [1, 2]", "govern.knob.0", 1, 'expected set = "node.parameter"'),
        (
            "[[govern.knob]]\nset = 'a.b'\nrange = [1, 2]\n[[govern.knob]]\nset = 'steps'\nchoices = [1]",
            "govern.knob.1.set", 5, 'expected "node.parameter", found "steps"',
        ),
        ("[[govern.knob]]\nset = 'a.b'\nrange = [2]", "govern.knob.0.range", 3, "expected two numbers"),
        ("[[govern.knob]]\nset = 'a.b'", "govern.knob.0", 1, "either a range or choices"),
        ("[[govern.knob]]\nset = 'a.b'\nrange = [1, 2]\nchoices = [1]", "govern.knob.0", 1, "either a range or choices"),
        ("[[govern.knob]]\nset = 'a.b'\nchoices = []", "govern.knob.0.choices", 3, "a list with something in it, found an empty list"),
        ("[memory]\nvram = 6", "memory.vram", 2, 'a size such as "6GB", found 6'),
        ("[memory]\nvram = '6 gigs'", "memory.vram", 2, "a size such as"),
        ("[memory]\nram = '6GB'", "memory.ram", 2, 'did you mean "vram"?'),
        ("param = 1", "param", 1, "expected a table"),
        (node("in.x = { from = 'b', hold = '${y}' }"), "node.a.in.x.hold", 3, "there is no parameter 'y'; add it to [param]"),
    ],
)
def test_mistakes(text: str, path: str, line: int, says: str) -> None:
    found = problem(text)
    assert (found.file, found.path, found.line) == ("g.toml", path, line)
    assert says in str(found)


def test_all_problems_come_at_once_and_in_file_order() -> None:
    found = problems("[graph]\nclok = 'live'\nseed = 'x'\n[node.a]\nin.x = { from = 'b c', cap = 0 }\n[nodes]\n", sets=["b.c=1"])
    assert [(f.file, f.line, f.path) for f in found] == [
        ("--set", None, "b.c"), ("g.toml", 2, "graph.clok"), ("g.toml", 3, "graph.seed"), ("g.toml", 4, "node.a"),
        ("g.toml", 5, "node.a.in.x.cap"), ("g.toml", 5, "node.a.in.x.from"), ("g.toml", 6, "nodes"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("typo", "meant"),
    [("lan", "lane"), ("on_eror", "on_error"), ("onerror", "on_error"), ("maxerrors", "max_errors"), ("triger", "trigger"),
     ("batches", "batch"), ("proces", "process")],
)  # fmt: skip
def test_typos_of_node_keys_are_parameters_to_the_loader(typo: str, meant: str) -> None:
    """Only the operator knows which other keys it takes; the suggestion is the compiler's, from the same words."""
    assert typo in loads(node(f"{typo} = 1")).nodes[0].params
    assert f'"{meant}"' in registry.suggest(typo, [key.name for key in keys.NODE])


@pytest.mark.parametrize(
    ("section", "typo", "meant"),
    [
        ("graph", "nam", "name"), ("graph", "cluck", "clock"), ("graph", "budget", "budget_ms"), ("graph", "budgetms", "budget_ms"),
        ("graph", "inflight", "in_flight"), ("graph", "in-flight", "in_flight"), ("graph", "sead", "seed"), ("graph", "Seed", "seed"),
        ("govern", "target-fps", "target_fps"), ("govern", "dwell", "dwell_s"), ("govern", "enable", "enabled"),
    ],
)  # fmt: skip
def test_did_you_mean(section: str, typo: str, meant: str) -> None:
    fix = problem(f"[{section}]\n{typo} = 1").fix
    assert fix.startswith(f'did you mean "{meant}"')


@pytest.mark.parametrize(("section", "word"), [("govern", "fps"), ("memory", "VRAM"), ("node.a.in.b", "queue")])
def test_where_nothing_is_near_all_there_is_gets_listed(section: str, word: str) -> None:
    fixes = [found.fix for found in problems(f"[{section}]\n{word} = 1")]
    assert [fix for fix in fixes if {"govern": "target_fps", "memory": "vram"}.get(section, "cap") in fix]


# ---------------------------------------------------------------- parameters of the file


def test_a_parameter_keeps_its_type_and_becomes_text_inside_text() -> None:
    graph = loads(
        '[param]\nn = 3\nx = 0.5\nyes = true\nlist = [1, 2]\nwho = "dancer"\nprompt = "a ${who}, ${n} times"\n[graph]\nseed = "${n}"\n'
        + node('p = ["${x}", "${yes}", "${list}"]\nq = "${prompt} ${x} ${yes}"\nr = "$${n} $5 {n}"\nin.i = "${who}"')
    )
    assert graph.seed == 3
    assert graph.nodes[0].params == {"p": [0.5, True, [1, 2]], "q": "a dancer, 3 times 0.5 true", "r": "${n} $5 {n}"}
    assert graph.nodes[0].inputs == (Input("i", (Ref("dancer"),)),)


def test_secrets_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMERA_KEY", "s3")
    monkeypatch.delenv("NOT_SET", raising=False)
    graph = loads(node('url = "rtsp://me:${ENV:CAMERA_KEY}@cam"\nkey = "${ENV:CAMERA_KEY}"'))
    assert graph.nodes[0].params == {"url": "rtsp://me:s3@cam", "key": "s3"}
    assert "the environment has no variable 'NOT_SET'" in str(problem(node('url = "x${ENV:NOT_SET}"')))


@pytest.mark.parametrize(
    ("text", "path", "says"),
    [
        ("[param]\nclip = 1\n" + node('url = "${clipp}"'), "node.a.url", 'did you mean "clip"?'),
        ("[param]\nclip = 1\n" + node('in.x = { from = "b", every = "${clip_every}" }'), "node.a.in.x.every", "no parameter 'clip_every'"),
        (node('on_error = "a ${nope}"'), "node.a.on_error", "no parameter 'nope'"),
        (node('in.x = ["b", "${nope}"]'), "node.a.in.x.1", "no parameter 'nope'"),
        ("[param]\nl = [1]\n" + node('url = "a ${l}"'), "node.a.url", "${l} does not fit into a text (expected text or a number"),
        ("[param]\na = '${b}'\nb = '${c} x'\nc = '${a}'\n", "param.a", "made of itself: a -> b -> c -> a"),
        ("[param]\na = '${a}'\n" + node("x = '${a}'"), "param.a", "made of itself: a -> a"),
        ("[param]\na = '${nope}'\n" + node("x = '${a}'"), "param.a", "no parameter 'nope'"),
        ("[param]\nn = 'x'\n[graph]\nseed = '${n}'", "graph.seed", 'expected a whole number, found "x"'),
        ("[param]\na = '" + "x" * 1000 + "'\nb = '" + "${a}" * 1000 + "'\nc = '" + "${b}" * 9 + "'", "param.c", "grows too long"),
    ],
)
def test_wrong_parameters(text: str, path: str, says: str) -> None:
    found = problem(text)
    assert found.path == path
    assert says in str(found)
    assert found.line is not None


def test_params_and_set_change_them_and_set_wins() -> None:
    text = "[param]\nn = 1\nm = 1\n[graph]\nseed = '${n}'\nin_flight = '${m}'"
    graph = loads(text, params={"n": 2, "m": 2}, sets=["param.m=3"])
    assert (graph.seed, graph.in_flight) == (2, 3)
    assert graph.places["param.n"] == Place("--param")
    assert 'did you mean "width"?' in str(problem("[param]\nwidth = 1", params={"widht": 2}))
    assert 'did you mean "width"?' in str(problem("[param]\nwidth = 1", sets=["param.widht=2"]))


# ---------------------------------------------------------------- --set


@pytest.mark.parametrize(
    ("raw", "value"),
    [("4", 4), ("0.5", 0.5), ("true", True), ("[1, 2]", [1, 2]), ('"4"', "4"), ("{ every = 3 }", {"every": 3}), ("rtsp://a/b?c=d", "rtsp://a/b?c=d"),
     ("1 # one", 1),
     ("a red coat", "a red coat"), ("C:\\clips\\a.mp4", "C:\\clips\\a.mp4"), ("", ""), ("a=b", "a=b"), ("1\nb = 2", "1\nb = 2")],
)  # fmt: skip
def test_values_of_set(raw: str, value: Any) -> None:
    assert value_of(raw) == value


def test_set_reaches_every_part_and_is_its_own_place() -> None:
    sets = ["paint.steps=4", "node.camera.url=rtsp://cam", "graph.seed = 3", "paint.in.control=camera", "paint.in.strength.every=9",
            "memory.vram=8GB", "govern.knob.0.range=[1, 2]", "paint.controlnets.0.scale=0.5", "paint.in.prompt={ hold = 'x' }",
            "paint.reuse.every=2",             "camera.url=file.mp4"]  # fmt: skip
    graph = loads(LIVE, sets=sets)
    camera, paint = graph.nodes
    assert camera.params == {"url": "file.mp4"}, "the last one wins"
    assert paint.params == {"controlnets": [{"model": "pose", "scale": 0.5}], "steps": 4, "reuse": {"every": 2}}
    by_port = {i.port: i for i in paint.inputs}
    assert by_port["control"] == Input("control", (Ref("camera"),))
    assert (by_port["strength"].every, by_port["strength"].cap, by_port["prompt"].hold) == (9, 4, "x")
    assert (graph.seed, graph.memory, graph.govern.knobs[0].range) == (3, {"vram": "8GB"}, (1, 2))
    paint_paths = ("node.paint.steps", "node.paint.in.control.0", "node.paint.in.strength.every")
    for path in (*paint_paths, "graph.seed", "govern.knob.0.range.1", "node.camera.url"):
        assert graph.place(path) == Place("--set"), path
    assert graph.place("node.paint.in.strength.cap").file == "<text>"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("camrea.url=x", "there is no node 'camrea' (found camrea.url=x); did you mean \"camera\"?"),
        ("node.camrea.url=x", 'did you mean "camera"?'),
        ("camera=x", "a change needs a parameter (found camera=x); write camera.PARAM=VALUE"),
        ("seed=3", "there is no node 'seed'"),
        ("graph=3", "write graph.KEY=VALUE"),
        ("camera.url", "write NODE.PARAM=VALUE"),
        ("camera..url=1", "write NODE.PARAM=VALUE"),
        ("=1", "write NODE.PARAM=VALUE"),
        ("", "write NODE.PARAM=VALUE"),
        ("camera.url.deep=1", "node.camera.url has no parts that could be set"),
        ("govern.knob.7.set=a.b", "govern.knob has no parts that could be set"),
        ("graph.sed=1", 'did you mean "seed"?'),
        ("graph.seed=x", 'expected a whole number, found "x"'),
        ("paint.in.carry=a b", "not a reference"),
    ],
)
def test_wrong_changes(text: str, says: str) -> None:
    found = problem(LIVE, sets=[text])
    assert found.file == "--set"
    assert says in str(found)


@pytest.fixture
def player(monkeypatch: pytest.MonkeyPatch) -> str:
    """An operator with parameters of several types."""

    def play(
        image: Image, *, url: str, title: str | None = None, steps: Annotated[int, Knob(1, 9)] = 4, gain: Annotated[float, Live()] = 1.0
    ) -> None:
        """Takes anything."""

    monkeypatch.setitem(registry._specs, "test.player", describe(play, "test.player"))
    return "[node.p]\nop = 'test.player'\n"


def test_a_number_given_to_a_text_parameter_on_the_command_line_is_text(player: str) -> None:
    graph = loads(player, sets=["p.url=0", "p.title=2024-01-01", "p.steps=3", "p.gain=2"])
    assert graph.nodes[0].params == {"url": "0", "title": "2024-01-01", "steps": 3, "gain": 2}


# ---------------------------------------------------------------- problems and what is left


def test_read_gives_what_it_could_make_beside_the_problems(tmp_path: Path) -> None:
    (tmp_path / "g.toml").write_text("[graph]\nseed = 'x'\nin_flight = 3\n" + node("in.x = 'b c'\nin.y = 'd'\nsize = 3\nlane = 4"))
    graph, found = read(tmp_path / "g.toml")
    assert [d.path for d in found] == ["graph.seed", "node.a.lane", "node.a.in.x"]
    assert (graph.in_flight, graph.seed) == (3, 0)
    assert graph.nodes[0].inputs == (Input("y", (Ref("d"),)),)
    assert graph.nodes[0].params == {"size": 3}
