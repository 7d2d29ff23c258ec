"""The state of a run is told everywhere: the live view, the summary, stats, metrics."""

from __future__ import annotations

import json

import pytest
from remote_runs import Ear, engine, graph, read_until, running, until

from bindings.python.control import Control
from engine.cli.summary import show_summary
from engine.cli.view import Lines, Meter, line
from engine.live.summary import summarise
from remote.metrics import render
from remote.verbs import Verbs

FAILING = """
[node.shaky]
op = "toy.fails"
on_error = "skip"
max_errors = 1000000
after = 5
in.a = "source"
[node.shaken]
op = "toy.collect"
in.a = "shaky"
"""


def test_an_error_that_was_tolerated_shows_everywhere(tmp_path, capsys):
    with running(graph(tmp_path, more=FAILING)) as run:
        until(lambda: run.session.state == "degraded_inference")
        reading = Meter(run.session).read()
        assert "degraded inference: shaky failed on frames" in line(reading)
        verbs, ear = Verbs(run.session), Ear()
        verbs.handle({"v": 1, "id": 1, "op": "stats"}, ear)
        stats = ear.one(1, "answer")
        assert (stats["state"], "shaky failed" in stats["reasons"][0]) == ("degraded_inference", True)
        assert b'afterimage_state{state="degraded_inference"} 1.0' in render(run.session)
        verbs.close()
    run.wait()
    summary = summarise(run.session).to_dict()
    assert summary["state"] == "stopped"
    assert sum(summary["states"].values()) == pytest.approx(summary["seconds"], abs=0.5)
    assert summary["states"]["degraded_inference"] > 0
    show_summary({**summary, "graph": "toys", "ok": True, "interrupted": False})
    assert "state   degraded inference for " in capsys.readouterr().out


def test_what_goes_wrong_is_told_at_once_where_there_is_no_terminal(tmp_path, capsys):
    with running(graph(tmp_path)) as run:
        lines = Lines(Meter(run.session))
        lines.tick()
        capsys.readouterr()
        for what, facts in (("lost", {"url": "rtsp://me:secret@host/x"}), ("subscribers", {}), ("lost", {}), ("reconnected", {"attempts": 2})):
            run.session.event(what, "in", 7, **facts)
            lines.tick()
        lines.tick()
    run.wait()
    told = [line.split("  ", 1)[1] for line in capsys.readouterr().err.splitlines() if "fps" not in line]
    assert told == ["lost  in frame 7  url rtsp://***@host/x", "reconnected  in frame 7  attempts 2"]


def test_a_run_tells_its_states_in_its_own_summary(tmp_path):
    with engine(tmp_path, "run", str(graph(tmp_path)), "--control", "tcp://127.0.0.1:*", "--json") as process:
        endpoint = read_until(process.stderr, "control: ").split()[1].rstrip(",")
        with Control(endpoint) as client:
            until(lambda: client.hello()["state"] == "online")
            client.stop().wait_applied(10)
        summary = json.loads(process.communicate(timeout=20)[0])
    assert (summary["state"], set(summary["states"]) >= {"online"}) == ("stopped", True)
