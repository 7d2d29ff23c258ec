"""Compile: what is refused, in which words, and what the plan says of what is not."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import toys

from engine import operator
from engine.errors import Diagnostic, GraphError
from engine.graph import Graph, GraphBuilder
from engine.payload import Image, Scalar
from engine.plan import Plan
from engine.planning.compile import compile
from engine.text.load import loads

SOURCE = """
[node.src]
op = "toy.count"
"""
SINK = """
[node.sink]
op = "toy.collect"
in.a = "{}"
"""
FILM = """
[node.film]
op = "toy.film"
[node.wall]
op = "toy.gallery"
in.image = "{}"
"""


def graph(body: str, **settings: Any) -> Graph:
    head = "".join(f"{key} = {value!r}\n" for key, value in {"clock": "offline", **settings}.items())
    return loads("[graph]\n" + head.replace("'", '"') + body)


def problems(body: str, **settings: Any) -> list[Diagnostic]:
    with pytest.raises(GraphError) as caught:
        compile(graph(body, **settings))
    assert caught.value.exit_code == 2
    return list(caught.value.diagnostics)


def only(body: str, **settings: Any) -> Diagnostic:
    found = problems(body, **settings)
    assert len(found) == 1, "\n".join(map(str, found))
    return found[0]


CASES = {
    "unknown operator": (
        SOURCE + '[node.x]\nop = "toy.cuont"\nin.a = "src"\n' + SINK.format("src"),
        "node.x.op", "no operator is called 'toy.cuont'", "", "", 'did you mean "toy.count"',
    ),
    "unknown parameter": (
        SOURCE + "cuont = 3\n" + SINK.format("src"),
        "node.src.cuont", "toy.count has no parameter 'cuont'", "", "", 'did you mean "count"',
    ),
    "parameter that is a port": (
        SOURCE + '[node.x]\nop = "toy.add"\nb = "src"\nin.a = "src"\n' + SINK.format("x"),
        "node.x.b", "toy.add has no parameter 'b'", "", "", 'write in.b = "NODE"',
    ),
    "wrong type": (
        SOURCE + 'count = "many"\n' + SINK.format("src"),
        "node.src.count", "parameter 'count'", "a valid integer", "'many'", "",
    ),
    "out of range": (
        SOURCE + '[node.x]\nop = "toy.add"\namount = 101.0\nin.a = "src"\n' + SINK.format("x"),
        "node.x.amount", "parameter 'amount'", "less than or equal to 100", "101.0", "",
    ),
    "not one of the choices": (
        SOURCE + '[node.x]\nop = "toy.wrong"\nwhat = "nothing"\nin.a = "src"\n' + SINK.format("x"),
        "node.x.what", "parameter 'what'", "'none' or 'type'", "'nothing'", "",
    ),
    "port without a node": (
        SOURCE + '[node.x]\nop = "toy.resets"\nat = []\n' + SINK.format("x"),
        "node.x", "port 'a' of toy.resets is not connected", "Scalar", "", 'add in.a = "NODE" (of that type: src, x)',
    ),
    "card": (
        SOURCE + SINK.format("src") + '[memory]\ncard = "rtx-20600"\n',
        "memory.card", "no card is called 'rtx-20600'", "", "", 'did you mean "rtx-2060"',
    ),
    "required parameter": (
        SOURCE + '[node.x]\nop = "toy.resets"\nin.a = "src"\n' + SINK.format("x"),
        "node.x.at", "parameter 'at' of toy.resets is required", "list[int]", "", "",
    ),
    "unknown port": (
        SOURCE + '[node.x]\nop = "toy.add"\nin.a = "src"\nin.bb = "src"\n' + SINK.format("x"),
        "node.x.in.bb", "toy.add has no port 'bb'", "", "", 'did you mean "b"?',
    ),
    "input of a source": (
        '[node.src]\nop = "toy.count"\nin.a = "src"\n' + SINK.format("src"),
        "node.src.in.a", "has no port 'a'", "", "", "is a source and takes no input",
    ),
    "fixed parameter fed by an edge": (
        SOURCE + '[node.x]\nop = "toy.odd"\nin.a = "src"\nin.modulus = "src"\n' + SINK.format("x"),
        "node.x.in.modulus", "'modulus' of toy.odd is fixed at open", "", "", "write modulus = VALUE",
    ),
    "two inputs where one goes": (
        SOURCE + '[node.x]\nop = "toy.add"\nin.a = ["src", "src"]\n' + SINK.format("x"),
        "node.x.in.a", "'a' takes one input", "", "2 inputs", "",
    ),
    "port not connected": (
        SOURCE + '[node.x]\nop = "toy.pair"\nin.a = "src"\n' + SINK.format("x"),
        "node.x", "port 'b' of toy.pair is not connected", "Scalar", "", 'add in.b = "NODE" (of that type: src, x)',
    ),
    "unknown node": (
        SOURCE + SINK.format("scr"),
        "node.sink.in.a", "there is no node 'scr'", "", "", 'did you mean "src"',
    ),
    "unknown output": (
        SOURCE + '[node.x]\nop = "toy.halves"\nin.a = "src"\n' + SINK.format("x.hihg"),
        "node.sink.in.a", "toy.halves has no output 'hihg'", "", "", 'did you mean "high"',
    ),
    "output of a sink": (
        SOURCE + SINK.format("src") + '[node.x]\nop = "toy.collect"\nin.a = "sink"\n',
        "node.x.in.a", "sink is a sink and has no output", "", "toy.collect", "",
    ),
    "carry of two frames": (
        SOURCE + '[node.x]\nop = "toy.add"\nin.a = "src"\nin.b = "x@-2"\n' + SINK.format("x"),
        "node.x.in.b", "a carry reaches back one frame", "@-1", "@-2", "",
    ),
    "carry without a start": (
        SOURCE + '[node.x]\nop = "toy.pair"\nin.a = "src"\nin.b = "x@-1"\n' + SINK.format("x"),
        "node.x.in.b", "a carry needs a start", "b: Scalar | None", "Scalar", "give hold = VALUE",
    ),
    "wrong payload, another output fits": (
        FILM.format("s.image") + '[node.s]\nop = "toy.stir"\nin.a = "film"\n' + SINK.format("s"),
        "node.sink.in.a", "s does not fit", "Scalar", "Image from s.image", 'write "s.level"',
    ),
    "wrong payload, an operator bridges": (
        SOURCE + '[node.r]\nop = "toy.read"\nin.text = "src"\n',
        "node.r.in.text", "src does not fit", "Text", "Scalar from src.scalar", 'add a node with op = "toy.say" between them',
    ),
    "a number fed by a picture": (
        FILM.format("film") + '[node.x]\nop = "toy.stir"\nin.a = "film"\nin.gain = "film"\n[node.w]\nop = "toy.gallery"\nin.image = "x"\n',
        "node.x.in.gain", "film does not fit", "Scalar for float", "Image from film.image", "",
    ),
    "map where there is no number": (
        SOURCE + '[node.x]\nop = "toy.add"\nin.a = { from = "src", map = [0.0, 1.0] }\n' + SINK.format("x"),
        "node.x.in.a", "map works on a number that feeds a live parameter", "", "Scalar", "",
    ),
    "hold that cannot be written": (
        FILM.format("s") + '[node.s]\nop = "toy.stir"\nin.a = "film"\nin.b = { from = "film", hold = "black" }\n',
        "node.s.in.b.hold", "'black' is no Image that can be written in a graph", "Image | None", "str", "",
    ),
    "hold out of range": (
        SOURCE + '[node.x]\nop = "toy.add"\nin.a = "src"\nin.amount = { from = "src", hold = 1000.0 }\n' + SINK.format("x"),
        "node.x.amount", "parameter 'amount'", "less than or equal to 100", "1000.0", "",
    ),
    "a cycle": (
        SOURCE + '[node.x]\nop = "toy.add"\nin.a = "src"\nin.b = "y"\n[node.y]\nop = "toy.add"\nin.a = "x"\n' + SINK.format("y"),
        "node.x.in.b", "a cycle: x -> y -> x", "", "", 'close it with a carry ("y.scalar@-1") or a hold',
    ),
    "a node that feeds itself": (
        SOURCE + '[node.x]\nop = "toy.add"\nin.a = "src"\nin.b = "x"\n' + SINK.format("x"),
        "node.x.in.b", "a cycle: x -> x", "", "", '"x.scalar@-1"',
    ),
    "no sink": (SOURCE, "", "the graph has no sink", "", "", 'op = "sink.video"'),
    "trigger that is not connected": (
        SOURCE + '[node.x]\nop = "toy.add"\ntrigger = "b"\nin.a = "src"\n' + SINK.format("x"),
        "node.x.trigger", "no connected port is called 'b'", "a, b", "", "",
    ),
    "nothing fires": (
        SOURCE + '[node.x]\nop = "toy.add"\nin.a = { from = "src", hold = 1.0 }\n' + SINK.format("x"),
        "node.x", "nothing fires this node", "", "", "connect one without hold or @-1",
    ),
    "branches that drop differently": (
        SOURCE + '[node.odd]\nop = "toy.odd"\nin.a = "src"\n[node.x]\nop = "toy.pair"\nin.a = "src"\nin.b = "odd"\n' + SINK.format("x"),
        "node.x.in.b", "drop different frames", "", "odd.scalar, which may skip frames", 'missing = "skip", "reuse", "default" or "error"',
    ),
    "a branch that samples": (
        SOURCE + '[node.x]\nop = "toy.pair"\nin.a = "src"\nin.b = { from = "src", every = 2 }\n' + SINK.format("x"),
        "node.x.in.b", "drop different frames", "", "every = 2 on node.x.in.b", "",
    ),
    "a branch that skips failures": (
        SOURCE + '[node.f]\nop = "toy.fails"\non_error = "skip"\nin.a = "src"\n'
        '[node.x]\nop = "toy.pair"\nin.a = "src"\nin.b = "f"\n' + SINK.format("x"),
        "node.x.in.b", "drop different frames", "", "f, which skips frames that fail", "",
    ),
    "a join that skips, joined": (
        SOURCE + '[node.odd]\nop = "toy.odd"\nin.a = "src"\n'
        '[node.x]\nop = "toy.pair"\nin.a = "src"\nin.b = { from = "odd", missing = "skip" }\n'
        '[node.y]\nop = "toy.pair"\nin.a = "src"\nin.b = "x"\n' + SINK.format("y"),
        "node.y.in.b", "drop different frames", "", "odd.scalar, which may skip frames", "",
    ),
    "cap on the newest value": (
        SOURCE + '[node.x]\nop = "toy.pair"\nin.a = "src"\nin.b = { from = "src", policy = "latest", cap = 2 }\n' + SINK.format("x"),
        "node.x.in.b", "reads the newest value has no queue", "", "", "leave cap out",
    ),
    "carry from another stream": (
        SOURCE + '[node.two]\nop = "toy.count"\n[node.x]\nop = "toy.add"\nin.a = "src"\nin.b = "two@-1"\n' + SINK.format("x"),
        "node.x.in.b", "a carry looks back within one stream", "a node fired by src", "two, fired by two", "hold",
    ),
    "batch of an operator that takes none": (
        SOURCE + '[node.x]\nop = "toy.add"\nbatch = 2\nin.a = "src"\n' + SINK.format("x"),
        "node.x.batch", "toy.add works frame by frame", "", "", "leave batch out",
    ),
    "batch in a loop": (
        SOURCE + '[node.x]\nop = "toy.batch"\nbatch = 2\nin.a = "y"\n'
        '[node.y]\nop = "toy.add"\nin.a = "src"\nin.b = "x@-1"\n' + SINK.format("x"),
        "node.x.batch", "a batch inside a loop", "", "", "leave batch out",
    ),
    "batch with a fed parameter": (
        SOURCE + '[node.x]\nop = "toy.batch"\nbatch = 2\nin.a = "src"\nin.level = "src"\n' + SINK.format("x"),
        "node.x.in.level", "a fed parameter changes from frame to frame", "", "", "leave batch out",
    ),
    "a queue shorter than a batch": (
        SOURCE + '[node.x]\nop = "toy.batch"\nbatch = 3\nin.a = "src"\n'
        '[node.y]\nop = "toy.pair"\nin.a = { from = "src", cap = 2 }\nin.b = "x"\n' + SINK.format("y"),
        "node.y.in.a.cap", "a queue shorter than what x gathers", ">= 3", "2", "leave cap out",
    ),
    "a lane with two sources": (
        SOURCE + 'lane = "io"\n[node.x]\nop = "toy.add"\nlane = "io"\nin.a = "src"\n' + SINK.format("x"),
        "node.src.lane", "a source has its lane to itself, and 'io' is taken", "", "", "",
    ),
    "in place where others read": (
        FILM.format("film") + '[node.s]\nop = "toy.stamp"\nin.image = "film"\n[node.w]\nop = "toy.gallery"\nin.image = "s"\n',
        "node.s.in.image", "toy.stamp writes to its input, which others still read", "", "wall", 'put op = "image.copy" before it',
    ),
    "knob of no node": (
        SOURCE + SINK.format("src") + '[[govern.knob]]\nset = "scr.count"\nrange = [1, 2]\n',
        "govern.knob.0", "there is no node 'scr'", "", "", 'did you mean "src"',
    ),
    "knob that is none": (
        SOURCE + '[node.x]\nop = "toy.add"\nin.a = "src"\n' + SINK.format("x") + '[[govern.knob]]\nset = "x.amount"\nrange = [1, 2]\n',
        "govern.knob.0", "toy.add has no knob 'amount'", "", "", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_mistakes(case: str) -> None:
    body, path, message, expected, found, fix = CASES[case]
    problem = only(body)
    assert problem.path == path
    assert message in problem.message
    assert expected in problem.expected
    assert found in problem.found
    assert fix in problem.fix
    if path:
        assert problem.line is not None


LIVE_CASES = {
    "exact input from the slow lane": (
        SOURCE + '[node.s]\nop = "toy.add"\nlane = "slow"\nin.a = "src"\n'
        '[node.x]\nop = "toy.pair"\nin.a = "src"\nin.b = { from = "s", missing = "reuse" }\n' + SINK.format("x"),
        "node.x.in.b", "wait for the slow lane with every frame", "s on lane 'slow'", 'policy = "latest"',
    ),
    "carry from the slow lane": (
        SOURCE + '[node.s]\nop = "toy.add"\nlane = "slow"\nin.a = "x"\n'
        '[node.x]\nop = "toy.add"\nin.a = "src"\nin.b = "s@-1"\n' + SINK.format("x"),
        "node.x.in.b", "wait for the slow lane with every frame", "s on lane 'slow'", "read it with hold",
    ),
    "exact input of a node that samples": (
        SOURCE + '[node.f]\nop = "toy.add"\nin.a = "src"\n'
        '[node.s]\nop = "toy.pair"\nlane = "slow"\nin.a = "src"\nin.b = "f"\n' + SINK.format("f")
        + '[node.end]\nop = "toy.collect"\nlane = "slow"\nin.a = "s"\n',
        "node.s.in.b", "keep every frame", "f, which drops none", 'policy = "latest"',
    ),
    "a batch behind a lossy queue, joined": (
        SOURCE + '[node.x]\nop = "toy.batch"\nbatch = 2\nin.a = { from = "src", policy = "latest" }\n'
        '[node.y]\nop = "toy.add"\nin.a = "src"\nin.b = { from = "x", missing = "default" }\n' + SINK.format("y"),
        "node.x.batch", "may wait for frames that a join holds", "policy = latest on node.x.in.a", "leave batch out",
    ),
    "two live sources": (
        SOURCE + '[node.two]\nop = "toy.count"\n[node.x]\nop = "toy.pair"\nin.a = "src"\nin.b = "two"\n' + SINK.format("x"),
        "node.x.in.b", "drop different frames", "source two", "missing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LIVE_CASES)
def test_mistakes_under_the_live_clock(case: str) -> None:
    body, path, message, found, fix = LIVE_CASES[case]
    problem = only(body, clock="live")
    assert (problem.path, message in problem.message) == (path, True), str(problem)
    assert found in problem.found
    assert fix in problem.fix


def test_batches_that_gather_more_than_may_be_under_way() -> None:
    body = (
        SOURCE + '[node.x]\nop = "toy.batch"\nbatch = 3\nin.a = "src"\n'
        '[node.y]\nop = "toy.batch"\nbatch = 4\nin.a = "x"\n' + SINK.format("y")
    )  # fmt: skip
    first, second = problems(body, in_flight=5)
    assert (first.path, second.path) == ("node.x.batch", "node.y.batch")
    assert first.expected == "graph.in_flight >= 6"
    assert first.found == "5"
    assert compile(graph(body)).in_flight == 6


def test_knobs_have_a_range_or_choices_within_bounds() -> None:
    @operator("test.knobbed")
    def knobbed(a: Scalar, *, steps: int = 3) -> Scalar:
        return a

    body = SOURCE + '[node.x]\nop = "test.knobbed"\nin.a = "src"\n' + SINK.format("x") + '[[govern.knob]]\nset = "x.steps"\nrange = [1, 2]\n'
    assert "has no knob 'steps'" in only(body).message


def test_all_problems_at_once_in_the_order_of_the_file() -> None:
    found = problems(
        '[node.src]\nop = "toy.count"\ncount = "x"\nperoid = 2.0\n[node.a]\nop = "toy.nope"\n[node.b]\nop = "toy.pair"\nin.a = "nobody"\n'
        + SINK.format("src.none")
    )
    assert [p.path for p in found] == [
        "node.src.count", "node.src.peroid", "node.a.op", "node.b", "node.b.in.a", "node.sink.in.a",
    ]  # fmt: skip
    lines = [p.line for p in found if p.line is not None]
    assert lines == sorted(lines)


def test_an_empty_graph() -> None:
    with pytest.raises(GraphError, match="the graph has no nodes"):
        compile(Graph("empty", ()))


def test_two_cycles_are_two_problems() -> None:
    loop = '[node.{0}]\nop = "toy.add"\nin.a = "src"\nin.b = "{1}"\n'
    found = problems(SOURCE + loop.format("a", "b") + loop.format("b", "a") + loop.format("c", "c") + SINK.format("a"))
    assert [p.message for p in found] == ["a cycle: a -> b -> a", "a cycle: c -> c"]


# ---------------------------------------------------------------- what a plan says


def plan(body: str, **settings: Any) -> Plan:
    return compile(graph(body, **settings))


def edge(p: Plan, node: str, port: str) -> Any:
    return next(e for e in p.edges if (e.node, e.port) == (node, port))


def test_nodes_that_reach_no_sink_are_left_out() -> None:
    p = plan(SOURCE + '[node.lost]\nop = "toy.add"\nin.a = "src"\n' + SINK.format("src"))
    assert p.culled == ("lost",)
    assert [n.name for n in p.nodes] == ["src", "sink"]
    assert all("lost" not in (e.source, e.node) for e in p.edges)
    assert "lost reaches no sink and is left out" in str(p)


def test_a_culled_reader_does_not_count_for_in_place() -> None:
    p = plan('[node.film]\nop = "toy.film"\n[node.s]\nop = "toy.stamp"\nin.image = "film"\n[node.w]\nop = "toy.gallery"\nin.image = "s"\n'
             '[node.lost]\nop = "toy.copy"\nin.image = "film"\n')  # fmt: skip
    assert p.culled == ("lost",)


def test_order_is_topological_and_stable() -> None:
    body = SINK.format("b") + '[node.b]\nop = "toy.pair"\nin.a = "a"\nin.b = "src"\n[node.a]\nop = "toy.add"\nin.a = "src"\n' + SOURCE
    assert [n.name for n in plan(body).nodes] == ["src", "a", "b", "sink"]


def test_roles_and_defaults_of_edges() -> None:
    body = (
        SOURCE
        + '[node.x]\nop = "toy.add"\nin.a = "src"\nin.b = "x@-1"\nin.amount = { from = "y", hold = 2.0, map = [0.0, 1.0], max_age_ms = 40.0 }\n'
        + '[node.y]\nop = "toy.pair"\nin.a = "x"\nin.b = { hold = 4.0 }\n'
        + SINK.format("y")
    )
    for clock, lag in (("offline", 1), ("live", None)):
        p = plan(body, clock=clock)
        assert [edge(p, "x", port).role for port in ("a", "b", "amount")] == ["trigger", "carry", "hold"]
        assert edge(p, "x", "b").lag == 1
        assert edge(p, "x", "amount").lag == lag  # offline a hold waits for its settled value; live it reads what is there
        assert edge(p, "x", "amount").feeds == "param"
        assert edge(p, "y", "b").role == "constant"
        assert edge(p, "y", "b").hold == Scalar(4.0)
        assert [edge(p, "x", port).counted for port in ("a", "b", "amount")] == [True, False, False]
    assert p.in_flight == 2
    assert plan(body).in_flight == 4


def test_lanes() -> None:
    body = SOURCE + '[node.x]\nop = "toy.add"\nin.a = "src"\n[node.y]\nop = "toy.add"\nlane = "side"\nin.a = "x"\n' + SINK.format("y")
    p = plan(body)
    assert {lane.name: lane.nodes for lane in p.lanes} == {"in:src": ("src",), "main": ("x",), "side": ("y",), "out": ("sink",)}
    assert [lane.priority for lane in p.lanes] == [0, -1, 0, 0]
    assert [lane.source for lane in p.lanes] == [True, False, False, False]
    assert [edge(p, n, "a").crosses for n in ("x", "y", "sink")] == [True, True, True]


def test_policies_bound_every_queue() -> None:
    body = (
        SOURCE
        + '[node.x]\nop = "toy.add"\nin.a = { from = "src", policy = "drop-oldest", cap = 3 }\n'
        + '[node.y]\nop = "toy.add"\nlane = "slow"\nin.a = "x"\n'
        + SINK.format("x")
        + '[node.end]\nop = "toy.collect"\nlane = "slow"\nin.a = "y"\n'
    )
    p = plan(body, clock="live")
    assert (edge(p, "x", "a").policy, edge(p, "x", "a").cap, edge(p, "x", "a").credit) == ("drop-oldest", 3, False)
    assert (edge(p, "y", "a").policy, edge(p, "y", "a").cap) == ("latest", 1)  # the slow lane samples by itself
    q = plan(body)
    assert {e.policy for e in q.edges} == {"block"}  # offline loses nothing, whatever is written
    assert all(e.cap >= 1 for e in [*p.edges, *q.edges])
    assert f"{sum(e.cap for e in p.edges)} packets queued in all" in str(p)


def test_a_join_that_says_what_to_do_compiles() -> None:
    for missing in ("skip", "reuse", "default", "error"):
        body = (
            SOURCE + '[node.odd]\nop = "toy.odd"\nin.a = "src"\n'
            + f'[node.x]\nop = "toy.add"\nin.a = "src"\nin.b = {{ from = "odd", missing = "{missing}" }}\n' + SINK.format("x")
        )  # fmt: skip
        assert edge(plan(body), "x", "b").missing == missing


def test_the_same_drops_on_both_sides_need_nothing() -> None:
    body = (
        SOURCE + '[node.o]\nop = "toy.odd"\nin.a = "src"\n[node.y]\nop = "toy.add"\nin.a = "o"\n'
        '[node.x]\nop = "toy.pair"\nin.a = "y"\nin.b = "o"\n'
    )  # fmt: skip
    assert edge(plan(body + SINK.format("x")), "x", "b").role == "exact"


def test_a_plan_is_the_same_from_toml_and_from_python() -> None:
    g = GraphBuilder("graph", clock="offline")
    g.node("src", "toy.count", count=5)
    g.node("x", "toy.add", a="src", amount=2.0)
    g.node("sink", "toy.collect", a="x")
    built = compile(g.build())
    body = SOURCE + "count = 5\n" + '[node.x]\nop = "toy.add"\namount = 2.0\nin.a = "src"\n' + SINK.format("x")
    assert built.hash == plan(body, name="graph").hash


def test_the_hash_is_of_what_runs() -> None:
    body = SOURCE + "count = {}\n" + SINK.format("src")
    assert plan(body.format(3)).hash == plan(body.format(3) + "\n# a remark\n").hash
    assert plan(body.format(3)).hash != plan(body.format(4)).hash
    assert plan(body.format(3)).hash != plan(body.format(3), seed=1).hash
    assert len(plan(body.format(3)).hash) == 64


def test_a_plan_is_frozen_and_prints() -> None:
    p = plan(FILM.format("b") + '[node.b]\nop = "toy.bgr"\nin.image = "film"\n')
    with pytest.raises(AttributeError):
        p.seed = 3  # type: ignore[misc]
    text = str(p)
    assert "film.image:uint8-chw-bgr-cpu  engine.convert" in text
    assert "layout = 'chw', color = 'bgr'" in text


def test_ten_mistakes_cost_no_time_and_no_torch() -> None:
    """Compiling runs no operator and imports no torch."""
    code = (
        "import sys; sys.path.insert(0, 'tests'); import toys; from engine.graph import GraphBuilder;"
        "from engine.planning.compile import compile;"
        "g = GraphBuilder('g'); g.node('s', 'toy.film', count=3); g.node('k', 'toy.gallery', image='s'); print(compile(g.build()).hash);"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=toys.__file__.rpartition("tests")[0])


def test_formats_that_nobody_fixes_are_not_converted() -> None:
    @operator("test.any")
    def anything(image: Image) -> Image:
        return image

    p = plan(FILM.format("x") + '[node.x]\nop = "test.any"\nin.image = "film"\n')
    assert [n.kind for n in p.nodes] == ["source", "node", "sink"]
