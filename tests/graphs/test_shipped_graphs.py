"""Every graph that ships: it loads, compiles, matches the editors' schema, keeps to the files' conventions, and answers quickly."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from engine import registry
from engine.planning.compile import compile
from engine.planning.forecast import outlooks
from engine.text import layers
from engine.text.load import load
from engine.text.schema import graph_schema

ROOT = Path(__file__).parents[2]
GRAPHS = sorted((ROOT / "graphs").glob("*.toml"))

every_graph = pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)


def test_there_are_graphs() -> None:
    assert {path.stem for path in GRAPHS} >= {"demo", "live_2060", "live_4080", "live_lcm", "live_sdxl_turbo", "live_turbo"}
    assert layers.shipped_graphs().keys() == {path.stem for path in GRAPHS}


@every_graph
def test_one_parameter_says_what_is_painted(path: Path) -> None:
    text = "a robot on a roof"
    plan = compile(load(path, params={"prompt": text}))
    assert plan.node("refine").params["prompt"] == text
    (heard,) = (edge.hold for edge in plan.edges if (edge.node, edge.port) == ("paint", "prompt"))
    assert heard.text == text


@every_graph
@pytest.mark.parametrize("embedded", [False, True], ids=["as written", "embedded"])
def test_it_compiles(path: Path, embedded: bool) -> None:
    graph = load(path)
    plan = compile(graph, embedded=embedded)
    assert [node.name for node in plan.nodes if node.kind == "source"]
    assert [node.name for node in plan.nodes if node.kind == "sink"]
    assert plan.culled == (), "a node that reaches no sink is dead weight in an example"
    assert graph.name == path.stem == load(path.stem).name


@every_graph
def test_the_pose_leads_also_where_the_governor_leaves_the_fewest_steps(path: Path) -> None:
    fewest = {rule.set: min(rule.range) for rule in load(path).govern.knobs if rule.range and rule.set.endswith(".steps")}
    said = outlooks(compile(load(path, sets=[f"{name}={steps:g}" for name, steps in fewest.items()])))
    for node, outlook in said.items():
        for what, (least, _) in outlook.counts.items():
            assert least >= 1 or not what.startswith(("passes of ControlNets", "executed")), f"{node}: {what} {least}"


@every_graph
def test_it_matches_the_schema(path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="needs the package jsonschema")
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    used = {node["op"] for node in data.get("node", {}).values() if "op" in node}
    known = [name for name in used if registry.get(name)]
    errors = list(jsonschema.Draft202012Validator(graph_schema(known)).iter_errors(data))
    assert [f"{error.json_path}: {error.message}" for error in errors] == []


@every_graph
def test_it_says_what_it_is_for(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    first, _, rest = text.partition("\n")
    assert first == "#:schema ./schema.json", "editors find the schema by the first line"
    assert rest.startswith("# "), "the next line says what the graph does"
    assert not set(text) & {"\r", "\t", "\ufeff"}


@every_graph
def test_every_node_can_be_changed_from_outside(path: Path) -> None:
    graph = load(path)
    for node in graph.nodes:
        changed = load(path, sets=[f"{node.name}.on_error=skip"])
        assert next(n for n in changed.nodes if n.name == node.name).on_error == "skip"


def test_loading_and_compiling_cost_little(tmp_path: Path) -> None:
    """In a fresh process, and without torch. The time is the process's own, with bytecode from an earlier run, as everybody has who runs it
    twice; the least of three, because other work on the host still slows a process."""
    code = """import sys, time
from engine.text.load import load
from engine.planning.compile import compile
from engine.planning.forecast import outlooks
plan = compile(load("live_2060"))
print(time.process_time(), [name for name in ("torch", "av", "cv2", "mediapipe", "diffusers", "transformers") if name in sys.modules])"""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"} | {"PYTHONPYCACHEPREFIX": str(tmp_path)}
    times = []
    for _ in range(4):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=kept)
        seconds, _, heavy = done.stdout.strip().partition(" ")
        assert heavy == "[]"
        times.append(float(seconds))
    assert min(times[1:]) < 0.5
