"""`engine check` and `engine plan`: every problem on a line of its own, plans in four forms, and no heavy import on the way."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_tools import CHAIN, Done, call, one_object, register, write_graph

BROKEN = """
[graph]
clok = "offline"
[node.count]
op = "clitest.cuont"
[node.chat]
op = "clitest.chat"
at = "three"
in.image = "count"
[node.file]
op = "sink.video"
in.image = "cat"
"""


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    monkeypatch.chdir(tmp_path)
    write_graph(tmp_path)
    write_graph(tmp_path, BROKEN, "broken.toml")
    return lambda *arguments: call(arguments, capsys)


def test_check_says_ok_and_what_it_found(engine):
    done = engine("check", "chain.toml")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("chain.toml: ok, 4 nodes on 3 lanes, plan ")


def test_check_prints_the_problems_of_the_file_and_of_the_operators_together(engine):
    done = engine("check", "broken.toml")
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert [line.partition(": ")[0] for line in lines[:-1]] == [f"broken.toml:{n}" for n in (3, 5, 8, 10, 12)]
    assert lines[-1] == "5 problems"
    assert 'graph.clok' in lines[0]
    assert 'did you mean "clock"?' in lines[0]
    assert 'did you mean "clitest.count"' in lines[1]
    assert "expected a valid integer, found 'three'" in lines[2]


def test_what_follows_from_a_problem_is_not_told_again(engine, tmp_path):
    write_graph(tmp_path, CHAIN.replace('op = "clitest.chat"', ""), "bare.toml")
    lines = engine("check", "bare.toml").stderr.splitlines()
    assert [line for line in lines if "node.chat" in line] == [lines[0]]
    assert "has no operator" in lines[0]


def test_check_of_several_graphs_reports_on_all_of_them(engine):
    done = engine("check", "broken.toml", "chain.toml", "absent.toml")
    assert done.returncode == 2
    assert "chain.toml: ok" in done.stdout
    assert "5 problems" in done.stderr
    assert "absent.toml" in done.stderr


def test_text_that_is_no_toml_is_one_problem(engine, tmp_path):
    write_graph(tmp_path, CHAIN.replace('op = "clitest.count"', "op = clitest.count"), "torn.toml")
    done = engine("check", "torn.toml")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "1 problem"
    assert done.stderr.startswith("torn.toml:6: ")


def test_changes_from_the_command_line_are_checked_too(engine):
    done = engine("check", "chain.toml", "--set", "chat.levle=0.2")
    assert done.returncode == 2
    assert 'did you mean "level"?' in done.stderr


def test_plan_in_its_four_forms(engine):
    text = engine("plan", "chain.toml").stdout
    assert "lane main" in text
    assert "chat  clitest.chat" in text
    plan = one_object(engine("plan", "chain.toml", "--json").stdout)
    assert [node["name"] for node in plan["nodes"]] == ["count", "chat", "fail", "file"]
    assert plan["hash"][:12] in text
    assert engine("plan", "chain.toml", "--mermaid").stdout.startswith("flowchart LR")
    assert engine("plan", "chain.toml", "--dot").stdout.startswith('digraph "chain"')


def test_changes_and_embedded_models_make_another_plan(engine):
    def hash_of(*arguments: str) -> str:
        return str(one_object(engine("plan", "chain.toml", "--json", *arguments).stdout)["hash"])

    plain = hash_of()
    assert hash_of("--set", "graph.seed=3") == hash_of("graph.seed=3") != plain
    assert hash_of("--embedded") != plain


def test_a_parameter_of_the_graph_is_given_by_name(engine, tmp_path):
    write_graph(tmp_path, '[param]\nwhere = "a.mp4"\n' + CHAIN.replace('"out/chain.mp4"', '"${where}"'), "param.toml")
    assert "url = 'b.mp4'" in engine("plan", "param.toml", "--param", "where=b.mp4").stdout
    assert engine("plan", "param.toml", "--param", "were=b.mp4").returncode == 2


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["check", "chain.toml"], ["plan", "chain.toml"], ["version"]])
def test_nothing_heavy_is_imported_to_answer(tmp_path, arguments):
    write_graph(tmp_path)
    heavy = ("torch", "numpy", "av", "cv2", "diffusers", "transformers", "mediapipe", "rich.live")
    script = f"import sys; from engine.cli import main; main({arguments!r}); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=register(tmp_path / "site"), capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
