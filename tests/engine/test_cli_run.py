"""`engine run`: its summary, exit codes, logs, and what it shows; signals and terminals in processes of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_tools import CHAIN, COMMAND, Done, balanced, call, decoded, one_object, register, run_engine, write_graph

posix = pytest.mark.skipif(os.name != "posix", reason="signals and terminals of POSIX")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with the graph chain.toml, as working directory."""
    monkeypatch.chdir(tmp_path)
    write_graph(tmp_path)
    return tmp_path


@pytest.fixture
def engine(home: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    return lambda *arguments: call(arguments, capsys)


def start(arguments: list[str], env: dict[str, str], cwd: Path, **streams: Any) -> subprocess.Popen[str]:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.Popen([*COMMAND, *arguments], env=env, cwd=cwd, text=True, **streams)


def read_until(stream: Any, word: str) -> str:
    """Lines of `stream` up to the one with `word` in it; the test's timeout is the deadline."""
    seen = ""
    for line in stream:
        seen += line
        if word in line:
            return seen
    raise AssertionError(f"{word!r} never came: {seen}")


# ---------------------------------------------------------------- a whole run


def encode(path: Path, frames: int) -> None:
    av = pytest.importorskip("av")
    import numpy as np

    with av.open(str(path), "w") as video:
        stream = video.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for n in range(frames):
            picture = np.zeros((96, 128, 3), np.uint8)
            picture[:, n : n + 16] = 255
            video.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        video.mux(stream.encode())


def test_an_encoded_clip_goes_through_and_the_summary_adds_up(home, engine):
    encode(home / "clip.mp4", 40)
    write_graph(
        home,
        """
        [graph]
        clock = "offline"
        [node.camera]
        op = "source.video"
        url = "missing.mp4"
        [node.small]
        op = "image.resize"
        width = 64
        height = 48
        in.image = "camera"
        [node.file]
        op = "sink.video"
        url = "out/small.mp4"
        in.image = "small"
        """,
        "clip.toml",
    )
    done = engine("run", "clip.toml", "--json", "--set", "camera.url=clip.mp4", "small.width=32")
    summary = one_object(done.stdout)
    assert (done.returncode, summary["exit_code"], summary["ok"], summary["error"]) == (0, 0, True, None), done.stderr
    assert summary["frames"] == {"in": 40, "out": 40, "in_flight": 0, "drops": {}}
    assert balanced(summary)
    assert {name: node["count"] for name, node in summary["nodes"].items()} == {"camera": 40, "small": 40, "file": 40}
    assert all({"p50", "p95"} <= set(node["ms"]) for node in summary["nodes"].values())
    assert set(summary["age_ms"]) == {"p50", "p95", "p99"}
    assert summary["age_ms"]["p50"] > 0
    assert summary["fps"] > 0
    assert summary["knobs"] == {}
    assert len(summary["plan"]) == 64
    assert summary["seconds"] > 0
    (output,) = summary["outputs"]
    assert decoded(home / output) == 40


def test_stdout_holds_the_object_alone_whatever_operators_print(home):
    env = register(home / "site")
    done = run_engine(["run", "chain.toml", "--json"], env, home)
    assert one_object(done.stdout)["frames"]["out"] == 30
    assert "noise from python" in done.stderr
    assert "noise from below" in done.stderr


def test_the_summary_for_people_ends_with_the_outputs(home, engine):
    done = engine("run", "chain.toml", "--quiet", "--set", "chat.at=-1")
    lines = done.stdout.strip().splitlines()
    assert done.returncode == 0
    assert done.stderr == ""
    assert "30 in · 30 out" in done.stdout
    assert lines[-1].startswith(f"→ {Path('out', 'chain.mp4')}")
    assert "\x1b" not in done.stdout


# ---------------------------------------------------------------- options


def test_frames_seed_clock_and_trace(home, engine):
    done = engine(
        "run", "chain.toml", "--json", "-q", "--frames", "7", "--seed", "3", "--clock", "live", "--trace", "t.json", "--log", "l.jsonl"
    )
    summary = one_object(done.stdout)
    assert summary["frames"]["in"] == 7
    assert summary["clock"] == "live"
    assert balanced(summary)
    assert {e["ph"] for e in json.loads((home / "t.json").read_text())["traceEvents"]} >= {"M", "X"}
    log = [json.loads(line) for line in (home / "l.jsonl").read_text().splitlines()]
    assert log[0]["what"] == "start"
    assert log[0]["seed"] == 3
    assert log[0]["plan"] == summary["plan"]
    assert log[-1]["what"] == "end"
    assert log[-1]["frames"] == summary["frames"]


def test_duration_ends_a_run_that_would_not_end(home, engine):
    done = engine("run", "chain.toml", "--json", "--duration", "0.3", "count.frames=0", "count.every_ms=5.0")
    summary = one_object(done.stdout)
    assert done.returncode == 0
    assert not summary["interrupted"]
    assert summary["frames"]["in_flight"] == 0
    assert 10 <= summary["frames"]["in"] < 1000
    assert balanced(summary)


def test_inline_runs_the_same_frames_on_a_step_clock(home, engine):
    done = engine("run", "chain.toml", "--json", "--inline", "--poison", "count.every_ms=1000.0")
    summary = one_object(done.stdout)
    assert summary["frames"]["out"] == 30
    assert summary["seconds"] >= 29
    assert decoded(home / "out" / "chain.mp4") == 30


# ---------------------------------------------------------------- failures


def test_a_failure_keeps_what_was_made_and_is_told_in_full(home, engine):
    done = engine("run", "chain.toml", "--json", "--log", "l.jsonl", "fail.at=12")
    summary = one_object(done.stdout)
    assert done.returncode == summary["exit_code"] == 5
    assert not summary["ok"]
    error = summary["error"]
    assert (error["type"], error["cause"], error["node"], error["frame"]) == ("OperatorError", "ValueError", "fail", 12)
    assert "wheel" in error["message"]
    assert "node fail, frame 12" in done.stderr
    assert "Traceback" not in done.stderr
    assert summary["frames"]["drops"].get("error", 0) >= 1
    assert balanced(summary)
    assert decoded(home / "out" / "chain.mp4") >= 12
    log = [json.loads(line) for line in (home / "l.jsonl").read_text().splitlines()]
    assert "chatted" in [event["what"] for event in log]
    assert log[-1]["what"] == "end"
    assert log[-1]["error"]["frame"] == 12


def test_credentials_never_appear(home, engine):
    done = engine("run", "chain.toml", "--json", "--debug", "--log", "l.jsonl", "fail.at=12")
    said = done.stdout + done.stderr + (home / "l.jsonl").read_text()
    assert "rtsp://***@host" in said
    assert "secret" not in said
    assert "Traceback" in done.stderr
    assert "cli_operators.py" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["chain.toml", "--set", "file.at=1", "count.frames=x"], 2, ["GraphError", "sink.video has no parameter", "valid integer"]),
        (["chian.toml"], 2, ["UsageError", "did you mean"]),
        (["chain"], 2, ["UsageError", "no graph is called"]),
        (["chain.toml", "--device", "cuda:99"], 4, ["DeviceError"]),
        (["chain.toml", "--device", "quantum"], 2, ["UsageError", "quantum"]),
        (["chain.toml", "--trace", "no/such/folder/t.json"], 2, ["UsageError", "--trace no/such/folder/t.json: there is no folder"]),
        (["chain.toml", "--log", "no/such/folder/l.json"], 2, ["UsageError", "--log no/such/folder/l.json: there is no folder"]),
        (["chain.toml", "--report", "no/such/folder/r.html"], 2, ["UsageError", "--report no/such/folder/r.html: there is no folder"]),
        (["chain.toml", "--record", "no/such/folder/r.mcap"], 2, ["UsageError", "--record no/such/folder/r.mcap: there is no folder"]),
        (["chain.toml", "--trace", "."], 2, ["UsageError", "--trace .: that is a folder"]),
        (["chain.toml", "--report", "."], 2, ["UsageError", "--report .: that is a folder"]),
        (["chain.toml", "--trace", "./chain.toml"], 2, ["UsageError", "--trace chain.toml: that is the graph that is run"]),
        (["chain.toml", "--log", "a.txt", "--trace", "a.txt"], 2, ["UsageError", "--log a.txt: that is --trace"]),
        (["chain.toml", "--param", "x"], 2, ["UsageError", "NAME=VALUE"]),
    ],
)
def test_exit_codes_and_typed_errors(home, engine, arguments, code, words):
    if "cuda:99" in arguments:
        pytest.importorskip("torch")
    done = engine("run", *arguments, "--json", "-q")
    summary = one_object(done.stdout)
    assert done.returncode == summary["exit_code"] == summary["error"]["exit_code"] == code, done.stderr
    text = json.dumps(summary["error"])
    assert all(word in text for word in words), text
    assert balanced(summary)
    assert {"fps", "age_ms", "nodes", "knobs", "outputs"} <= set(summary)
    assert "Traceback" not in done.stderr


# ---------------------------------------------------------------- signals


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_finishes_the_frames_under_way(home, number):
    env = register(home / "site")
    process = start(["run", "chain.toml", "--json", "count.frames=0", "count.every_ms=5.0"], env, home)
    read_until(process.stderr, "ready")
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    summary = one_object(out)
    assert process.returncode == summary["exit_code"] == 130
    assert summary["interrupted"]
    assert "stopping" in err
    assert summary["frames"]["in_flight"] == 0
    assert summary["frames"]["out"] == summary["frames"]["in"] >= 3
    assert summary["error"] is None
    assert decoded(home / "out" / "chain.mp4") == summary["frames"]["out"]


@posix
def test_the_second_signal_gives_up_what_is_under_way(home):
    env = register(home / "site")
    write_graph(home, CHAIN.replace("clitest.fail", "clitest.stuck"))
    process = start(["run", "chain.toml", "--json", "fail.at=5", "count.frames=0", "count.every_ms=5.0", "chat.at=-1"], env, home)
    read_until(process.stderr, "ready")
    process.send_signal(signal.SIGINT)
    read_until(process.stderr, "Ctrl-C again")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    summary = one_object(out)
    assert process.returncode == 130
    assert "given up" in err
    assert summary["error"] is None
    assert summary["frames"]["in"] > 5
    assert summary["frames"]["out"] == 5
    assert balanced(summary)
    assert decoded(home / "out" / "chain.mp4") == 5


# ---------------------------------------------------------------- what it shows


def test_lines_now_and_then_where_there_is_no_terminal(home, engine):
    done = engine("run", "chain.toml", "count.frames=70", "count.every_ms=50.0", "chat.at=-1")
    lines = [line for line in done.stderr.splitlines() if "  in " in line]  # a busy machine may still be opening at first
    assert lines
    assert re.match(r"0:0\d  in \d+ out \d+  [\d.]+ fps  ", lines[0])
    assert "%" in lines[0]
    assert "\x1b" not in done.stderr


def on_a_terminal(arguments, env, home, stdout=None):
    """What a command writes to a terminal, and its exit code. `stdout`: where its stdout goes instead."""
    import pty
    import threading

    leader, follower = pty.openpty()
    seen = bytearray()

    def drain() -> None:
        try:
            while chunk := os.read(leader, 4096):
                seen.extend(chunk)
        except OSError:  # Linux's way to say that the other side is closed
            pass

    process = start(arguments, env, home, stdin=follower, stdout=stdout or follower, stderr=follower)
    os.close(follower)
    reader = threading.Thread(target=drain)
    reader.start()
    process.wait(60)
    reader.join(10)
    os.close(leader)
    return seen.decode(errors="replace"), process.returncode


@posix
def test_tables_fit_a_narrow_terminal(home):
    """Names in one piece, and what the graph file says anyway left out."""
    env = register(home / "site") | {"TERM": "xterm", "LINES": "40", "NO_COLOR": "1"}
    for columns, heads in ((60, "node frames ms p50 p95 seconds errors"), (100, "node operator lane frames ms p50 p95 seconds errors")):
        text, code = on_a_terminal(["run", "chain.toml", "count.frames=6"], env | {"COLUMNS": str(columns)}, home)
        assert code == 0, text
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
        table = plain[plain.index("chain.toml: done") :].splitlines()
        assert heads in [" ".join(line.split()) for line in table], text
        assert max(len(line) for line in table) <= columns
        assert {"count", "chat", "fail", "file"} <= {line.split()[0] for line in table if line.split()}, text


@posix
def test_a_live_view_on_a_terminal(home):
    env = register(home / "site")
    write_graph(home, CHAIN + '[govern]\ntarget_fps = 25.0\n[[govern.knob]]\nset = "chat.level"\nrange = [0.1, 1.0]\n')
    env |= {"TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    arguments = ["run", "chain.toml", "--json", "--no-govern", "--clock", "live", "count.frames=120", "count.every_ms=20.0"]
    out = Path(home / "out.json")
    with out.open("wb") as file:
        text, code = on_a_terminal(arguments, env, home, stdout=file)
    assert code == 0
    assert one_object(out.read_text())["knobs"] == {"chat.level": 0.5}
    for word in ("fps", "age ms", "p99", "chat.level", "of 120 frames", "ends in", "lane busy", "encoder", "under way", "main"):
        assert word in text, word


def test_the_view_leaves_nothing_but_errors_when_quiet(home, engine):
    done = engine("run", "chain.toml", "-q", "--json", "fail.at=-2")
    assert done.stderr == "noise from python\nready\n"
    assert one_object(done.stdout)["ok"]


def test_what_is_printed_is_scrubbed_wherever_it_came_from(capsys):
    from engine.cli import report

    assert report.as_json({"outputs": ["rtsp://bob:secret@host/x"]}, indent=None) == '{"outputs": ["rtsp://***@host/x"]}'
    report.say("reading http://h/x?token=secret")
    report.tell("→ rtsp://bob:secret@host/x")
    said = capsys.readouterr()
    assert said.err == "reading http://h/x?token=***\n"
    assert said.out == "→ rtsp://***@host/x\n"
