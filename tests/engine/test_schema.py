"""The editors' schema: what loads is valid, what does not is not; and the reference that is printed from the same sources."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from typing_extensions import TypedDict

from engine import Knob, Live, Range, operator, registry
from engine.errors import GraphError
from engine.payload import Image, Pose
from engine.planning.compile import compile
from engine.text.load import loads
from engine.text.reference import _columns, describe_operator, example, own_operators, reference_markdown, toml, type_name
from engine.text.schema import graph_schema, term_docs

jsonschema = pytest.importorskip("jsonschema", reason="needs the package jsonschema")

ROOT = Path(__file__).parents[2]
GRAPHS = sorted((ROOT / "graphs").glob("*.toml"))

NODES = """\
[node.in]
op = "toy.source"
url = "a"
[node.paint]
op = "toy.paint"
model = "m"
in.image = "in"
[node.out]
op = "toy.sink"
in.image = "paint"
"""


class Net(TypedDict, total=False, closed=True):
    """One of the nets."""

    model: str
    scale: float


@pytest.fixture(scope="module", autouse=True)
def toys() -> Iterator[None]:
    """A small family of operators with every kind of parameter."""

    @operator("toy.source")
    def source(*, url: str, fps: Annotated[float, Range(0.1, 240)] = 25.0) -> Iterator[Image]:
        """Yields pictures.

        `url`: a file, or a camera. `fps`: frames a second.
        """
        raise AssertionError("a schema runs no operator")

    @operator("toy.paint", lane="slow")
    def paint(
        image: Image,
        poses: list[Pose],
        *,
        model: str,
        nets: list[Net] | None = None,
        mode: Literal["fast", "good"] = "fast",
        steps: Annotated[int, Knob(1, 60)] = 15,
        strength: Annotated[float, Live(0, 1)] = 0.5,
        gain: Annotated[float, Live()],
        options: dict[str, str] = {},  # noqa: B006
        exact: bool = False,
    ) -> Image | None:
        """Paints.

        model, nets: what to paint with; safetensors only.

        A high `strength` changes more. steps: of the sampler. Raises nothing at all.
        """
        return None

    @operator("toy.sink")
    def sink(image: Image) -> None:
        """Takes pictures."""

    yield
    for name in ("toy.source", "toy.paint", "toy.sink"):  # and nothing else: families are imported once in a process
        del registry._specs[name]


@pytest.fixture(scope="module")
def schema(toys: None) -> dict[str, Any]:
    found = graph_schema(["toy.source", "toy.paint", "toy.sink"])
    jsonschema.Draft202012Validator.check_schema(found)
    return found


def faults(schema: dict[str, Any], text: str) -> list[str]:
    return [error.json_path for error in jsonschema.Draft202012Validator(schema).iter_errors(tomllib.loads(text))]


def paint(line: str) -> str:
    return NODES.replace('model = "m"', f'model = "m"\n{line}')


# ---------------------------------------------------------------- valid

FULL = (
    '[param]\nn = 4\nclip = "x"\n[graph]\nname = "g"\nclock = "live"\nbudget_ms = 40.5\nin_flight = 2\nseed = "${n}"\n'
    + paint(
        'in.poses = ["in", "paint.image@-1"]\nin.strength = { from = "in", map = [1, 0.5], every = 2, policy = "latest", max_age_ms = 5 }\n'
        'in.gain = { hold = 3 }\nlane = "slow"\non_error = "skip"\nmax_errors = 1\ntrigger = "image"\nbatch = 1\nprocess = false\n'
        'nets = [{ model = "a", scale = "${n}" }, { model = "b", scale = 1 }]\nmode = "good"\nsteps = "${n}"\noptions = { a = "b" }\n'
        'exact = "${n}"'
    )
    + '[govern]\ntarget_fps = 12\n[[govern.knob]]\nset = "paint.steps"\nrange = [1, "${n}"]\n[memory]\nvram = "6 GB"\n'
)


@pytest.mark.parametrize(
    "text",
    [
        FULL,
        NODES,
        "",
        'include = "base.toml"\n[node.paint]\nsteps = 3',
        'include = ["a.toml"]\n[node.paint]\nop = "toy.paint"',
        NODES.replace('"toy.sink"', '"${sink}"'),
        paint("steps = '${n}'\nstrength = 1\nnets = '${nets}'"),
    ],
)
def test_good_graphs_are_valid(schema: dict[str, Any], text: str) -> None:
    assert faults(schema, text) == []


# ---------------------------------------------------------------- planted mistakes


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("[graf]", "$"),
        ("[graph]\nclok = 'live'", "$.graph"),
        ("[graph]\nclock = 'online'", "$.graph.clock"),
        ("[graph]\nseed = 'x'", "$.graph.seed"),
        ("[graph]\nin_flight = 0", "$.graph.in_flight"),
        ("[graph]\nbudget_ms = 0", "$.graph.budget_ms"),
        ("[graph]\nname = ' '", "$.graph.name"),
        ("graph = 3", "$.graph"),
        ("[node]\na = 3", "$.node.a"),
        ("[node.2d]\nop = 'toy.sink'", "$.node"),
        ("[node.a]\nlane = 'x'", "$.node.a"),
        ("[node.a]\nop = 'toy.pant'", "$.node.a.op"),
        ("[node.a]\nop = 'toy.paint'", "$.node.a"),
        (paint("stepps = 3"), "$.node.paint"),
        (paint("steps = 61"), "$.node.paint.steps"),
        (paint("steps = 1.5"), "$.node.paint.steps"),
        (paint("steps = 'many'"), "$.node.paint.steps"),
        (paint("strength = true"), "$.node.paint.strength"),
        (paint("mode = 'slow'"), "$.node.paint.mode"),
        (paint("exact = 1"), "$.node.paint.exact"),
        (paint("nets = { model = 'a' }"), "$.node.paint.nets"),
        (paint("nets = [{ model = 3 }]"), "$.node.paint.nets[0].model"),
        (paint("nets = [{ modle = 'a' }]"), "$.node.paint.nets[0]"),
        (paint("options = { a = 1 }"), "$.node.paint.options.a"),
        (paint("image = 'in'"), "$.node.paint"),
        (paint("in.imag = 'in'"), "$.node.paint.in"),
        (paint("in.steps = 'b c'"), "$.node.paint.in.steps"),
        (paint("in.steps = []"), "$.node.paint.in.steps"),
        (paint("in.steps = 3"), "$.node.paint.in.steps"),
        (paint("in.steps = { every = 3 }"), "$.node.paint.in.steps"),
        (paint("in.steps = { from = 'in', evry = 3 }"), "$.node.paint.in.steps"),
        (paint("in.steps = { from = 'in', policy = 'newest' }"), "$.node.paint.in.steps"),
        (paint("in.steps = { from = 'in', cap = 0 }"), "$.node.paint.in.steps"),
        (paint("in.steps = { from = 'in', map = [1] }"), "$.node.paint.in.steps"),
        (paint("in.model = 'in'"), "$.node.paint.in"),
        (paint("on_error = 'stop'"), "$.node.paint.on_error"),
        (paint("batch = 0"), "$.node.paint.batch"),
        ("[govern]\nfps = 3", "$.govern"),
        ("[govern.knob]\nset = 'a.b'", "$.govern.knob"),
        ("[[govern.knob]]\nrange = [1, 2]", "$.govern.knob[0]"),
        ("[memory]\nvram = 6", "$.memory.vram"),
        ("include = 3", "$.include"),
        ("include = []\nparam = 1", "$.param"),
    ],
)
def test_planted_mistakes_are_found_where_they_are(schema: dict[str, Any], text: str, path: str) -> None:
    assert path in faults(schema, text)


@pytest.mark.parametrize("text", ["[graph]\nclok = 'live'", "[graph]\nin_flight = 0", "[memory]\nvram = 6", "[[govern.knob]]\nrange = [1, 2]",
                                  paint("in.steps = []"), paint("in.steps = { every = 3 }"), paint("in.steps = { from = 'in', cap = 0 }"),
                                  paint("stepps = 3"), paint("steps = 61"), paint("in.imag = 'in'"), paint("in.model = 'in'")])  # fmt: skip
def test_the_engine_refuses_them_too(text: str) -> None:
    with pytest.raises(GraphError):
        compile(loads(text))


@pytest.fixture(scope="module")
def whole(toys: None) -> dict[str, Any]:
    found = graph_schema()
    jsonschema.Draft202012Validator.check_schema(found)
    return found


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)
def test_graphs_that_ship_are_valid(whole: dict[str, Any], path: Path) -> None:
    assert faults(whole, path.read_text(encoding="utf-8")) == []


def test_what_editors_show(schema: dict[str, Any]) -> None:
    node = schema["$defs"]["toy.paint"]["properties"]
    assert node["steps"]["description"] == "Of the sampler. Knob: live, and the governor may move it."
    assert (node["steps"]["default"], node["steps"]["live"], node["steps"]["knob"]) == (15, True, True)
    assert node["strength"]["description"] == "A high `strength` changes more. Live: may change between frames."
    assert "live" not in node["model"]
    assert node["nets"]["description"] == "What to paint with; safetensors only."
    assert node["in"]["properties"]["poses"]["description"].startswith("list[Pose]")
    assert {"const": "toy.paint", "description": "Paints."} in schema["$defs"]["node"]["properties"]["op"]["anyOf"]
    assert set(node["in"]["properties"]) == {"image", "poses", "steps", "strength", "gain"}
    assert json.loads(json.dumps(schema)) == schema


def test_the_schema_costs_no_torch() -> None:
    heavy = "('torch', 'numpy', 'cv2', 'av')"
    code = f"import sys, engine.text.schema as s; s.graph_schema(); print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------- the reference


def test_an_operator_in_plain_text() -> None:
    text = describe_operator(registry.find("toy.paint"))
    lines = text.splitlines()
    assert lines[:2] == ["toy.paint", "  Paints."]
    for row in (
        ["image", "Image", "required", "uint8 hwc rgb cpu"],
        ["poses", "one or more of Pose", "required"],
        ["image", "Image", "may be left out", "uint8 hwc rgb cpu"],
        ["model", "text", "required"],
        ["steps", "whole number", "15", "1 to 60", "knob"],
        ["strength", "number", "0.5", "0 to 1", "live"],
        ["mode", '"fast" or "good"', '"fast"'],
        ["options", "table of text", "{}"],
        ["exact", "true or false", "false"],
    ):
        assert any([cell.strip() for cell in line.split("  ") if cell.strip()] == row for line in lines), row
    assert "list of { model: text = none, scale: number = none }" in " ".join(text.split())


def test_the_example_of_an_operator_loads(schema: dict[str, Any]) -> None:
    for name in ["toy.source", "toy.paint", "toy.sink", *own_operators()]:
        graph = loads(example(registry.find(name)).replace('"NODE"', '"other"'))
        assert graph.nodes[0].op == name
    assert faults(schema, example(registry.find("toy.paint"))) == []


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int, "whole number"), (str | None, "text"), (Annotated[float | None, Live()], "number"), (list[int], "list of whole number"),
        (Literal["a", 1], '"a" or 1'), (tuple[int, ...], "[whole number, …]"), (dict[str, float], "table of number"), (Any, "any value"),
        (int | str, "whole number or text"), (Net, "{ model: text = none, scale: number = none }"), (object, "object"),
    ],
)  # fmt: skip
def test_types_in_the_words_of_a_graph(annotation: Any, text: str) -> None:
    assert type_name(annotation) == text


def test_defaults_as_toml() -> None:
    values = (None, True, 'x"', 0.5, [1, "a"], {"a": 1}, {})
    assert [toml(value) for value in values] == ["none", "true", '"x\\""', "0.5", '[1, "a"]', "{ a = 1 }", "{}"]


def test_words_of_a_docstring_are_found_for_their_parameter() -> None:
    assert term_docs(registry.find("toy.paint")) == {
        "model": "What to paint with; safetensors only.", "nets": "What to paint with; safetensors only.",
        "steps": "Of the sampler.", "strength": "A high `strength` changes more.",
    }  # fmt: skip


def test_the_reference_names_everything() -> None:
    text = reference_markdown(["toy.source", "toy.paint", "toy.sink"])
    for word in ("`max_age_ms`", "`drop-oldest`", "`[[govern.knob]]`", "#### `toy.paint`", "| `steps` | whole number | 15 | 1 to 60 | knob |",
                 "*lane `slow`*", "*sink*", "| parameter | type | default | range |\n"):  # fmt: skip
        assert word in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)


def test_the_reference_in_docs_is_up_to_date() -> None:
    path = ROOT / "docs" / "reference.md"
    if not path.exists():
        pytest.skip("docs/reference.md is not written yet: engine ops --markdown > docs/reference.md")
    assert path.read_text(encoding="utf-8") == reference_markdown(), "run: engine ops --markdown > docs/reference.md"


def test_a_long_cell_pushes_its_own_line_only() -> None:
    assert _columns([("a", "x" * 40, "1", "live"), ("bc", "text", "2", "live")]) == [f"  a   {'x' * 40}  1  live", "  bc  text  2  live"]
