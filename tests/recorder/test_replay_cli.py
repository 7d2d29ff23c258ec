"""`engine run --record` and `engine replay`, as people type them; the diffusion loop recorded in one process and run again in another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.cli import main
from engine.cli.replay import _show
from recorder.check import Seen
from recorder.replay import Outcome

GRAPH = """
[graph]
name  = "figure"
clock = "{clock}"
seed  = 3

[node.dancer]
op     = "source.figure"
size   = 64
fps    = 60
frames = 12

[node.calm]
op      = "pose.smooth"
in.pose = "dancer.pose"

[node.skeleton]
op      = "pose.draw"
in.pose = "calm"
width   = 64
height  = 64

[node.stills]
op       = "sink.images"
url      = "out/%03d.png"
in.image = "skeleton"
"""

PAINT = """
[graph]
name  = "paint"
clock = "live"
seed  = 7

[node.dancer]
op     = "source.figure"
size   = 64
fps    = 8
frames = 14

[node.steady]
op      = "pose.stability"
in.pose = "dancer.pose"

[node.skeleton]
op      = "pose.draw"
in.pose = "dancer.pose"
width   = 64
height  = 64

[node.paint]
op          = "diffusion.stream"
model       = "any/model"
controlnets = [{ model = "any/openpose" }]
steps       = 1
width       = 64
height      = 64
threads     = 1
hold        = 0.9
skip        = 1
skip_change = 0.2
flow        = { on = "control", noise = true }
remember    = { anchor = true }
in.control  = ["skeleton"]
in.carry    = "paint.latent@-1"
in.strength = { from = "steady", map = [1.0, 0.6] }
in.prompt   = { from = "refine.prompt", hold = "a woman in a red jacket" }

[node.refine]
op       = "vlm.refine"
model    = "any/vlm"
prompt   = "a woman in a red jacket, at sunset"
in.image = { from = "paint.image", every = 3, policy = "latest" }

[node.screen]
op       = "sink.null"
in.image = "paint.image"
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "figure.toml").write_text(GRAPH.format(clock="offline"))
    return tmp_path


@pytest.fixture
def engine(home: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(list(arguments))
        out, err = capfd.readouterr()
        return code, out, err

    return call


def test_a_run_is_recorded_and_run_again(engine: Any, home: Path):
    code, out, err = engine("run", "figure.toml", "--record", "a.mcap", "--record-snapshots", "5", "-q", "calm.beta=2.0")
    assert code == 0, err
    assert "a.mcap" in out
    before = {path.name: path.read_bytes() for path in (home / "out").iterdir()}
    assert len(before) == 12

    code, out, err = engine("replay", "a.mcap")
    assert (code, err.count("\n")) == (0, 1), err
    assert "stills: 12 frames identical" in out
    assert "recorded 20" in err

    code, out, _ = engine("replay", "a.mcap", "--from", "7", "--until", "9", "--out", "again", "--json")
    assert code == 0
    facts = json.loads(out)
    assert (facts["verdict"], facts["from"], facts["frames"], facts["sinks"]["stills"]["identical"]) == ("identical", 5, 5, 5)
    assert {path.name: path.read_bytes() for path in (home / "out").iterdir()} == before, "what was recorded was written over"
    again = sorted((home / "again" / "stills").iterdir())
    assert [path.read_bytes() for path in again] == [before[f"{n:03}.png"] for n in range(5, 10)]


def test_what_would_have_happened(engine: Any):
    assert engine("run", "figure.toml", "--record", "a.mcap", "-q")[0] == 0
    code, out, _ = engine("replay", "a.mcap", "--with", "calm.min_cutoff=0.01")
    assert code == 0
    assert "11 differ, first at frame 1: another image" in out
    assert "this is what would have happened" in out


def test_what_an_edge_feeds_is_said_to_come_from_there(engine: Any, home: Path):
    (home / "fed.toml").write_text(GRAPH.format(clock="offline") + """
[node.bright]
op            = "image.color"
in.image      = "skeleton"
in.saturation = "steady"

[node.steady]
op      = "pose.stability"
in.pose = "dancer.pose"

[node.more]
op       = "sink.null"
in.image = "bright"
""")
    assert engine("run", "fed.toml", "--record", "a.mcap", "-q")[0] == 0
    code, _, err = engine("replay", "a.mcap", "--with", "bright.saturation=0.5")
    assert code == 0
    assert "note: bright.saturation comes from steady.scalar" in err
    assert "comes from" not in engine("replay", "a.mcap", "--with", "bright.contrast=0.5")[2]


def test_nothing_to_compare_is_not_called_identical(capsys: pytest.CaptureFixture[str]):
    for count, said in ((0, "nothing was compared"), (3, "identical: the sinks got")):
        _show(Outcome("identical", {"screen": Seen(identical=count)}, 3, 0, {}, [], []), 2.0)
        assert said in capsys.readouterr().out


def test_a_device_that_is_not_there(engine: Any):
    assert engine("run", "figure.toml", "--record", "a.mcap", "-q")[0] == 0
    assert engine("replay", "a.mcap", "--device", "cuda:99")[0] == 4
    assert engine("replay", "a.mcap", "--device", "quantum")[0] == 2


def test_a_replay_that_differs_ends_with_5(engine: Any, monkeypatch: pytest.MonkeyPatch):
    assert engine("run", "figure.toml", "--record", "a.mcap", "-q")[0] == 0
    from operators.pose.smooth import Smooth

    before = Smooth.__call__
    monkeypatch.setattr(Smooth, "__call__", lambda self, pose: pose if self.site.seq == 6 else before(self, pose))
    code, out, _ = engine("replay", "a.mcap")
    assert code == 5
    assert "4 differ, first at frame 6: another image" in out
    assert "different" in out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["none.mcap"], 3, "there is no recording"), (["figure.toml"], 5, "is no MCAP file"), (["a.mcap", "--with", "calm.bta=1"], 2, "beta"),
        (["a.mcap", "--with", "calm"], 2, "NODE.PARAM=VALUE"), (["a.mcap", "--out", "out"], 2, "new or empty"),
        (["a.mcap", "--from", "5", "--until", "3"], 2, "comes before"), (["a.mcap", "--rerun", "clam"], 2, "calm"),
        (["a.mcap", "--from", "12"], 2, "give at most 11"),
    ],
)  # fmt: skip
def test_what_is_refused(engine: Any, arguments: list[str], code: int, words: str):
    if arguments[0] == "a.mcap":
        assert engine("run", "figure.toml", "--record", "a.mcap", "-q")[0] == 0
    found, _, err = engine("replay", *arguments)
    assert (found, words in err) == (code, True), err


def test_a_recording_is_never_written_over(engine: Any, home: Path):
    (home / "a.mcap").write_text("mine")
    code, _, err = engine("run", "figure.toml", "--record", "a.mcap", "-q")
    assert code == 2
    assert "exists already" in err
    assert (home / "a.mcap").read_text() == "mine"


def process(home: Path, *arguments: str) -> dict[str, Any]:
    """What a process of its own prints, as JSON."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=home, env=env, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


AGAIN = """
import json
from recorder.replay import Wish, replay
from recorder.tape import read
tape = read("a.mcap")
print(json.dumps([replay(tape).to_dict(), replay(tape, Wish(begin=tape.last)).to_dict()]))
"""


@pytest.mark.timeout(400)
def test_the_live_diffusion_loop_runs_again_in_another_process(home: Path):
    """Pose, latent carryover, a prompt from the slow lane, on whatever frames the gate let in: bit for bit, and from a snapshot too."""
    (home / "paint.toml").write_text(PAINT)
    options = ("--embedded", "--device", "cpu", "--record", "a.mcap", "--record-snapshots", "4", "--json")
    out = process(home, "-m", "engine", "run", "paint.toml", *options)["frames"]["out"]
    assert out > 1
    whole, part = process(home, "-c", AGAIN)
    assert whole["verdict"] == part["verdict"] == "identical", (whole, part)
    assert whole["differs"] == {}
    assert whole["sinks"]["screen"]["identical"] == out
    assert part["from"] >= 4

    from recorder.tape import read

    tape = read(home / "a.mcap")
    assert tape.made["refine"], "the captioner never spoke: the test tests less than it should"
    assert [event["what"] for event in tape.events].count("model") == 1
