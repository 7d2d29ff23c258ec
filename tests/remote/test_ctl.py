"""`engine ctl` against a real run in another process: what it prints, what it changes, and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from remote_runs import TESTS, engine, environment, graph, read_until

from engine.cli import main
from engine.cli.ctl_text import kind, span

PICTURE = """
[graph]
name = "pictures"
clock = "live"
[node.dancer]
op = "source.figure"
size = 64
fps = 30
[node.skeleton]
op = "pose.draw"
in.pose = "dancer.pose"
width = 64
height = 64
[node.sink]
op = "sink.null"
in.image = "skeleton"
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The endpoint of a run in a process of its own, and its graph."""
    folder = tmp_path_factory.mktemp("ctl")
    path = graph(folder)
    with engine(folder, "run", str(path), "--control", "tcp://127.0.0.1:*", "--quiet", stdout=subprocess.DEVNULL) as process:
        yield read_until(process.stderr, "control: ").split()[1].rstrip(","), path


@pytest.fixture
def ctl(run, capsys):
    def call(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["ctl", "--at", run[0], *words])
        said = capsys.readouterr()
        return code, said.out.strip(), said.err.strip()

    return call


def test_set_get_and_what_lands(ctl):
    code, out, _ = ctl("set", "add.amount=4", "more.amount=-1.5")
    assert code == 0
    assert out.startswith("applied at frame ")
    assert ctl("get", "add.amount")[1] == "4.0"
    assert ctl("get", "add.amount", "more.amount")[1].splitlines() == ["add.amount = 4.0", "more.amount = -1.5"]
    assert "source.count = 1000000" in ctl("get")[1]
    code, out, _ = ctl("--json", "set", "add.amount=5")
    told = json.loads(out)
    assert (code, told["kind"], told["params"] > 0, told["seq"] >= 0) == (0, "applied", True, True)
    assert json.loads(ctl("get", "add.amount", "--json")[1]) == {"add.amount": 5.0}


def test_options_may_stand_anywhere(run, capsys):
    assert main(["ctl", "get", "add.amount", "--at", run[0], "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"add.amount"}
    assert main(["ctl", "get", f"--at={run[0]}", "add.amount"]) == 0


def test_what_is_refused_says_why_for_every_path_and_exits_with_2(ctl):
    code, out, err = ctl("set", "add.amount=1000", "more.amuont=1")
    assert (code, out) == (2, "")
    assert "add.amount: Input should be less than or equal to 100" in err
    assert 'did you mean "amount"?' in err
    assert ctl("set", "add.amount")[0] == 2
    assert ctl("set", "amount=3")[0] == 2
    assert ctl("snapshot", "-o", "x.gif")[0] == 2
    assert ctl("snapshot", "x.gif")[0] == 2
    assert ctl("snapshot", "x.png", "-o", "y.png")[0] == 2
    assert "a.b: there is no such value" in ctl("get", "a.b")[2].splitlines()[-1]
    assert not ctl("get", "a.b")[2].endswith("; ")
    assert ctl("ramp", "add.amount=1")[0] == 2
    assert ctl("describe", "ad")[2].endswith('did you mean "add"?')


def test_ramp_reset_pause_and_resume(ctl):
    code, out, _ = ctl("ramp", "add.amount=10", "--frames", "20", "--done")
    assert (code, [line.split()[0] for line in out.splitlines()]) == (0, ["applied", "done"])
    assert ctl("get", "add.amount")[1] == "10.0"
    assert "epoch" in ctl("reset", "test")[1]
    assert ctl("pause")[0] == 0
    assert ctl("set", "add.amount=1", "--timeout", "0.2")[0] == 5
    assert ctl("set", "add.amount=2", "--no-wait")[1].startswith("accepted")
    assert ctl("resume")[0] == 0
    assert ctl("get", "add.amount")[1] == "2.0"


def test_stats_describe_and_watch(ctl):
    _, out, _ = ctl("stats")
    assert " fps" in out
    assert "frames  " in out
    stats = json.loads(ctl("stats", "--json")[1])
    assert stats["frames"]["in"] == stats["frames"]["out"] + stats["frames"]["in_flight"] + sum(stats["frames"]["drops"].values())
    _, out, _ = ctl("describe")
    assert "add.amount" in out
    assert "-100 .. 100" in out
    assert "source.count" not in out  # fixed parameters only where a node is named
    assert "source.count" in ctl("describe", "source")[1]
    lines = ctl("--json", "watch", "stats", "--every", "0.05", "--count", "3")[1].splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["stats"] * 3
    assert "toys: " in ctl("hello")[1]


@pytest.mark.parametrize(
    ("schema", "words", "limits"),
    [
        ({"type": "number", "minimum": 0, "maximum": 1}, "number", "0 .. 1"),
        ({"anyOf": [{"type": "integer", "minimum": 1, "maximum": 60}, {"type": "null"}]}, "whole number or none", "1 .. 60"),
        ({"$defs": {"A": {"type": "object"}}, "anyOf": [{"type": "null"}, {"$ref": "#/$defs/A"}]}, "table or none", ""),
        ({"anyOf": [{"enum": ["a", "b"], "type": "string"}, {"type": "null"}]}, "choice or none", "a, b"),
        ({"anyOf": [{"type": "array"}, {"type": "boolean"}]}, "list or true or false", ""),
        ({"$defs": {"A": {"enum": [1, 2]}}, "$ref": "#/$defs/A"}, "choice", "1, 2"),
        ({"type": "integer", "exclusiveMinimum": 0}, "whole number", "0 .. "),
    ],
)
def test_kinds_and_ranges_are_told_whatever_their_schema_looks_like(schema, words, limits):
    assert (kind(schema), span(schema)) == (words, limits)


def test_a_reload_says_what_it_changes(ctl, run):
    path: Path = run[1]
    written = path.read_text()
    path.write_text(written.replace('[node.more]\nop = "toy.add"', '[node.more]\nop = "toy.add"\namount = 7.0'))
    code, out, _ = ctl("reload")
    assert (code, "= more.amount" in out) == (0, True), out
    path.write_text(written.replace("toy.collect", "toy.colect"))
    code, _, err = ctl("reload")
    assert code == 2
    assert 'did you mean "toy.collect"' in err
    assert f"toys.toml:{written[: written.index('toy.collect')].count(chr(10)) + 1}" in err
    path.write_text(written)
    assert ctl("reload")[0] == 0


def test_nobody_there_is_5_and_an_address_that_is_none_is_2(capsys):
    assert main(["ctl", "stats", "--at", "9", "--timeout", "0.2"]) == 5
    assert "nobody listens at tcp://127.0.0.1:9" in capsys.readouterr().err
    assert main(["ctl", "stats", "--at", "http://x"]) == 2


def test_a_snapshot_of_a_run_with_control_alone(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "pictures.toml"
    path.write_text(PICTURE)
    cv2 = pytest.importorskip("cv2")
    with engine(tmp_path, "run", str(path), "--control", "tcp://127.0.0.1:*", "--json") as process:
        endpoint = read_until(process.stderr, "control: ").split()[1].rstrip(",")
        at = ["ctl", "--at", endpoint, "--timeout", "20"]
        assert main([*at, "snapshot", "-o", "one.png"]) == 0, capsys.readouterr().err
        assert main([*at, "snapshot", "two.jpg", "--of", "skeleton.image"]) == 0
        assert main([*at, "snapshot", "--of", "dancer.image", "-o", "three.jpg"]) == 2
        capsys.readouterr()
        code = main([*at, "stop"])
        assert capsys.readouterr().out.startswith("stopped")
        out, err = process.communicate(timeout=20)
        assert (code, process.returncode) == (0, 0), err
    assert [cv2.imread(name).shape for name in ("one.png", "two.jpg")] == [(64, 64, 3)] * 2
    summary = json.loads(out)
    assert summary["frames"]["out"] > 0
    assert summary["frames"]["in_flight"] == 0


def test_keys_are_made_and_let_their_owner_in(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["keys", "engine"]) == 0
    assert main(["keys", "me"]) == 0
    assert main(["keys", "me"]) == 2
    assert main(["keys", "../me"]) == 2
    capsys.readouterr()
    path = graph(tmp_path)
    locked = ["--control", "tcp://127.0.0.1:*", "--control-key", "keys/engine.key_secret", "--control-allow", "keys/me.key"]
    with engine(tmp_path, "run", str(path), *locked) as process:
        endpoint = read_until(process.stderr, "control: ").split()[1].rstrip(",")
        at = ["ctl", "--at", endpoint, "--server-key", "keys/engine.key", "--timeout", "5"]
        assert main([*at, "--key", "keys/me.key_secret", "hello"]) == 0
        assert main([*at[:-1], "0.5", "hello"]) == 5
        assert main([*at, "--key", "keys/me.key_secret", "stop"]) == 0


def test_help_answers_at_once_and_imports_no_socket(tmp_path):
    code = "import sys; from engine.cli import main; main(['ctl', '--help']); sys.exit('zmq' in sys.modules or 'msgpack' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=environment(tmp_path), cwd=TESTS, capture_output=True, check=False)
    assert done.returncode == 0
