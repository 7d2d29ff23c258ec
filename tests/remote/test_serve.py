"""`engine serve`: real children that crash, hang, freeze and end; when they are started again, and that nothing is left of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from remote_runs import COMMAND, engine, environment, graph, read_until, until

from engine.cli import main
from engine.errors import GraphError, UsageError
from remote.serve.child import Child
from remote.serve.log import Log
from remote.serve.page import Page, page
from remote.serve.policy import History, ended, steady
from remote.serve.streams import Folder, Restart, Serve, Stream, read
from remote.serve.supervisor import Supervisor, is_well

posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
QUICK = {"first_s": 0.05, "most_s": 0.2}


# ---------------------------------------------------------------- what is served


def test_every_graph_of_a_folder_is_a_stream(tmp_path):
    graph(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[tool.x]\n")
    (tmp_path / "part.toml").write_text('[node.source]\nop = "toy.count"\n')  # for others to include
    (tmp_path / "more.toml").write_text('include = ["toys.toml"]\n')
    (tmp_path / "broken.toml").write_text("[node\n")  # is served, so that its error is seen
    found = read(tmp_path)
    assert {name: stream.graph for name, stream in found.stream.items()} == {n: f"{n}.toml" for n in ("broken", "more", "toys")}


def test_serve_toml_says_what_and_how(tmp_path):
    (tmp_path / "serve.toml").write_text(
        '[serve]\nstatus = "127.0.0.1:0"\nspacing_s = 2\n[stream.door]\ngraph = "d.toml"\nset = ["a.b=1"]\ngpu = "1"\nenv = { X = "y" }\n'
        '[stream.door.health]\nsilent_s = 5\n[stream.door.restart]\nwhen = "always"\n'
    )
    door = read(tmp_path).stream["door"]
    assert door.environment() == {"CUDA_VISIBLE_DEVICES": "1", "X": "y"}
    assert (door.health.silent_s, door.restart.when, read(tmp_path).serve.spacing_s) == (5.0, "always", 2.0)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("[stream.a]\n", "stream.a.graph"), ("[stream.a]\ngraph = 3\n", "stream.a.graph"),
        ('[stream.a]\ngraph = "x"\ngrpah = 1\n', "stream.a.grpah"), ('[stream.a]\ngraph = "x"\nset = "a=1"\n', "stream.a.set"),
        ('[stream."a/b"]\ngraph = "x"\n', "stream.a/b"), ('[serve]\nstatus = 1\n', "serve.status"), ("[strem.a]\n", "strem"),
        ('[stream.a]\ngraph = "x"\n[stream.a.restart]\nbreaker = 0\n', "stream.a.restart.breaker"),
    ],
)  # fmt: skip
def test_a_wrong_serve_toml_is_told_with_its_place(tmp_path, text, path):
    (tmp_path / "serve.toml").write_text(text)
    with pytest.raises(GraphError) as error:
        read(tmp_path)
    assert path in [d.path for d in error.value.diagnostics]


def test_nothing_to_serve_is_said(tmp_path):
    with pytest.raises(UsageError, match="no graph"):
        read(tmp_path)
    with pytest.raises(UsageError, match="no folder"):
        read(tmp_path / "x")
    (tmp_path / "serve.toml").write_text("")
    with pytest.raises(UsageError, match="no stream"):
        read(tmp_path)


# ---------------------------------------------------------------- the policy


@given(failures=st.lists(st.tuples(st.floats(0, 1), st.sampled_from([1, 4, 5, -9, -11])), min_size=30, max_size=30))
@settings(max_examples=100, deadline=None)
def test_pauses_double_within_their_jitter_and_the_breaker_opens(failures):
    rules = Restart()
    history, now = History(), 0.0
    for streak, (chance, code) in enumerate(failures, 1):
        verdict = ended(rules, history, code, "", now, lambda chance=chance: chance)
        assert verdict.after is not None
        if verdict.state == "waiting":
            assert 0.75 * min(2 ** (streak - 1), 60) <= verdict.after <= 1.25 * min(2 ** (streak - 1), 60)
            assert streak < rules.breaker
        else:
            assert verdict.state == "resting"
            assert streak >= rules.breaker
            assert 0.75 * rules.rest_s <= verdict.after <= 1.25 * 12 * rules.rest_s
        history, now = verdict.history, now + verdict.after + 1
    forgotten = steady(rules, history, rules.steady_s)
    assert ended(rules, forgotten, 1, "", now, lambda: 0.5).after == rules.first_s
    assert steady(rules, history, rules.steady_s - 1) == history


def test_failures_that_are_far_apart_do_not_open_the_breaker():
    rules, history = Restart(breaker=3, window_s=10.0), History()
    for n in range(20):
        verdict = ended(rules, history, 1, "", n * 100.0, lambda: 0.5)
        assert verdict.state == "waiting"
        history = verdict.history


@pytest.mark.parametrize(
    ("when", "code", "why", "state"),
    [
        ("on-failure", 0, "", "ended"), ("always", 0, "", "waiting"), ("never", 1, "", "ended"), ("never", 0, "", "ended"),
        ("on-failure", 1, "", "waiting"), ("on-failure", 2, "", "broken"), ("always", 3, "", "broken"), ("on-failure", -9, "", "waiting"),
        ("on-failure", 0, "no frame for 30 s", "waiting"), ("on-failure", 2, "hung", "waiting"), ("on-failure", 130, "", "waiting"),
    ],
)  # fmt: skip
def test_what_follows_on_an_end(when, code, why, state):
    assert ended(Restart(when=when), History(), code, why, 0.0, lambda: 0.5).state == state


# ---------------------------------------------------------------- children


class Served:
    """A supervisor on a thread of its own."""

    def __init__(self, folder: Path, **streams: dict[str, Any]) -> None:
        self.said: list[str] = []
        found = {name: Stream.model_validate(stream) for name, stream in streams.items()}
        self.supervisor = Supervisor(folder, Folder(serve=Serve(spacing_s=0.0), stream=found), say=self.said.append)
        self._thread = threading.Thread(target=self.supervisor.run)

    def __enter__(self) -> Served:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.supervisor.stop()
        self._thread.join(25)
        if self._thread.is_alive():
            self.supervisor.stop(hard=True)
            self._thread.join(10)
        assert not self._thread.is_alive()
        assert all(child.process is None for child in self.supervisor.children.values())

    def stream(self, name: str) -> dict[str, Any]:
        (found,) = [s for s in self.supervisor.status()["streams"] if s["name"] == name]
        return found

    def until(self, name: str, ready: Any, seconds: float = 30.0) -> dict[str, Any]:
        try:
            until(lambda: ready(self.stream(name)), seconds)
        except AssertionError:
            raise AssertionError(f"{self.stream(name)}\n{list(self.supervisor.children[name].log.lines)}") from None
        return self.stream(name)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    graph(tmp_path)
    return tmp_path


def quick(**more: Any) -> dict[str, Any]:
    return {"graph": "toys.toml", "restart": {**QUICK, **more.pop("restart", {})}, **more}


@posix
def test_a_child_that_is_killed_comes_back_and_its_neighbour_does_not_notice(folder):
    with Served(folder, one=quick(), two=quick()) as served:
        first = served.until("one", lambda s: s["frames"]["out"] > 0)
        other = served.until("two", lambda s: s["frames"]["out"] > 0)
        os.kill(first["pid"], signal.SIGKILL)
        again = served.until("one", lambda s: s["starts"] == 2 and s["frames"]["out"] > 0)
        assert again["pid"] != first["pid"]
        assert again["last_exit"] == -signal.SIGKILL
        assert served.stream("two")["pid"] == other["pid"]
        assert served.stream("two")["state"] == "online"
    assert any("killed by signal 9" in line for line in served.said)
    log = (folder / "logs" / "one.log").read_text()
    assert "start 2" in log
    assert log.count("ended with exit code") == 2


@pytest.mark.slow
@posix
def test_a_child_that_is_frozen_is_ended_and_started_again(folder):
    with Served(folder, one=quick(health={"answer_s": 1.5})) as served:
        first = served.until("one", lambda s: s["frames"]["out"] > 0)
        os.kill(first["pid"], signal.SIGSTOP)
        served.until("one", lambda s: s["starts"] == 2 and s["frames"]["out"] > 0, 40)
    assert any("no sign of life" in line for line in served.said)
    with pytest.raises(ProcessLookupError):
        os.kill(first["pid"], 0)


@pytest.mark.slow
def test_a_child_that_lives_but_brings_no_frames_is_ill(folder):
    """It answers, and its source is there: only the frames say that something is wrong."""
    (folder / "stuck.toml").write_text(
        '[graph]\nclock = "live"\n[node.source]\nop = "toy.count"\npaced = true\nperiod = 5.0\ncount = 1000000\n'
        '[node.stuck]\nop = "toy.fails"\non_error = "skip"\nmax_errors = 1000000\nafter = 20\nin.a = "source"\n'
        '[node.sink]\nop = "toy.collect"\nin.a = "stuck"\n'
    )
    with Served(folder, one=quick(graph="stuck.toml", health={"silent_s": 1.0})) as served:
        served.until("one", lambda s: s["starts"] >= 2, 40)
    assert any("no frame for 1 s" in line for line in served.said)


def test_frames_that_nobody_watches_are_frames(folder):
    """A graph that publishes and has no subscriber, or none any more: nothing is wrong with it, so it is left alone."""
    child = Child("one", Stream(graph="toys.toml"), folder, Log(folder / "one.log", 1000))

    def tell(now: float, out: int, unwatched: int) -> str:
        child._take({"state": "online", "frames": {"in": 99, "out": out, "drops": {"unwatched": unwatched, "gate": 3}}}, now)
        return child.look(now)

    child.started = 0.0
    assert [tell(now, 0, unwatched) for now, unwatched in ((10.0, 5), (301.0, 900), (330.0, 1800))] == ["", "", ""]
    assert [tell(340.0, 7, 1800), tell(369.0, 7, 1801), tell(398.0, 7, 1802)] == ["", "", ""]
    assert tell(429.0, 7, 1802) == "no frame for 30 s"
    assert child.described(429.0)["frames"] == {"in": 99, "out": 7, "drops": 3, "unwatched": 1802}
    child.log.close()


def test_a_graph_that_is_wrong_waits_until_it_is_mended(folder):
    (folder / "bad.toml").write_text((folder / "toys.toml").read_text().replace("toy.collect", "toy.colect"))
    with Served(folder, bad=quick(graph="bad.toml")) as served:
        broken = served.until("bad", lambda s: s["state"] == "broken")
        assert (broken["starts"], broken["last_exit"]) == (1, 2)
        assert not served.supervisor.status()["well"]
        assert 'did you mean "toy.collect"' in "".join(served.supervisor.children["bad"].log.lines)
        (folder / "bad.toml").write_text((folder / "toys.toml").read_text())
        served.until("bad", lambda s: s["frames"]["out"] > 0)


@pytest.mark.slow
def test_one_that_fails_again_and_again_is_left_to_rest(folder):
    failing = quick(set=["source.fail_at=3"], restart={"breaker": 2, "rest_s": 600.0})
    with Served(folder, one=failing) as served:
        resting = served.until("one", lambda s: s["state"] == "resting", 40)
        assert resting["starts"] == 2
        assert resting["due_s"] > 400
        assert "2 failures in a row" in resting["why"]


@pytest.mark.slow
def test_one_that_is_done_is_done(folder):
    served = Served(folder, one=quick(set=["source.count=30"]))
    with served:
        served.until("one", lambda s: s["state"] == "ended")
        served._thread.join(10)
        assert not served._thread.is_alive()  # nothing is left to wait for
    assert served.stream("one")["last_exit"] == 0


@pytest.mark.slow
@posix
def test_children_end_with_a_supervisor_that_was_killed(folder):
    (folder / "serve.toml").write_text('[serve]\nstatus = "127.0.0.1:0"\n[stream.one]\ngraph = "toys.toml"\n')
    with engine(folder, "serve", str(folder)) as process:
        read_until(process.stderr, "status: ")
        until(lambda: (folder / ".engine-serve.json").exists())

        def running() -> Any:
            command = [*COMMAND, "serve", str(folder), "--status", "--json"]
            done = subprocess.run(command, env=environment(folder), capture_output=True, text=True, check=False)
            (stream,) = json.loads(done.stdout)["streams"] if done.returncode == 0 else [{"frames": {"out": 0}}]
            return stream if stream["frames"]["out"] else None

        child = until(running, 30)["pid"]
        process.kill()
        process.wait()

        def ended_too() -> bool:
            try:
                os.kill(child, 0)
            except ProcessLookupError:
                return True
            return Path(f"/proc/{child}/stat").read_text().split()[2] == "Z"  # nobody reaps it here

        until(ended_too, 20)


@posix
def test_the_command_serves_shows_and_ends_in_order(folder, capsys):
    (folder / "serve.toml").write_text('[serve]\nstatus = "127.0.0.1:0"\n[stream.one]\ngraph = "toys.toml"\nset = ["source.count=900000"]\n')
    with engine(folder, "serve", str(folder)) as process:
        url = read_until(process.stderr, "status: ").split("status: ")[1].strip()

        def shown() -> Any:
            code, out = main(["serve", str(folder), "--status", "--json"]), capsys.readouterr().out
            (stream,) = json.loads(out)["streams"]
            return stream if code == 0 and stream["state"] == "online" else None

        stream = until(shown, 30)
        assert main(["serve", str(folder), "--status"]) == 0
        assert "online" in capsys.readouterr().out
        assert main(["ctl", "--at", stream["control"], "set", "add.amount=3"]) == 0
        assert main(["serve", str(folder)]) == 2
        assert "served already" in capsys.readouterr().err
        assert fetch(url.replace("/?", "/status.json?"))[0] == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    log = (folder / "logs" / "one.log").read_text()
    assert "ended with exit code 0" in log  # drained, not killed
    assert not (folder / ".engine-serve.json").exists()
    assert main(["serve", str(folder), "--status"]) == 5


# ---------------------------------------------------------------- the log and the page


def test_logs_are_scrubbed_and_bounded(tmp_path):
    log = Log(tmp_path / "logs" / "x.log", 2000)
    for n in range(100):
        log.write(f"{n} rtsp://me:hunter2@camera/1 ?token=hunter2 " + "y" * 30)
    log.close()
    files = sorted(p.name for p in (tmp_path / "logs").iterdir())
    assert files == ["x.log", "x.log.1"]
    text = "".join((tmp_path / "logs" / name).read_text() for name in files)
    assert "hunter2" not in text + "".join(log.lines)
    assert all((tmp_path / "logs" / name).stat().st_size < 2200 for name in files)
    assert " 99 rtsp://***@camera/1" in text


STATUS = {
    "folder": "/f <x>", "since": 0.0, "well": True, "stopping": False,
    "streams": [
        {
            "name": "door", "graph": "d.toml", "state": "online", "why": "", "pid": 3, "control": "tcp://127.0.0.1:1", "gpu": None, "starts": 2,
            "last_exit": None, "seconds": 12.0, "due_s": None, "fps": 24.5, "age_ms": 31.0, "frames": {"in": 9, "out": 8, "drops": 1},
            "frame_s": 0.1, "reasons": ["<script>alert(1)</script>"], "rss": 123_000_000,
        },
        {
            "name": "yard", "graph": "y.toml", "state": "resting", "why": "exit code 5 <b>", "pid": None, "control": "", "gpu": "1",
            "starts": 5, "last_exit": 5, "seconds": 0.0, "due_s": 12.0, "fps": 0.0, "age_ms": 0.0, "frames": {"in": 0, "out": 0, "drops": 0},
            "frame_s": None, "reasons": [], "rss": None,
        },
    ],
}  # fmt: skip


@pytest.fixture
def served_page():
    made = Page("127.0.0.1:0", lambda: STATUS, lambda name: ["<i>last line</i>"])
    yield made
    made.close()


def fetch(url: str, **headers: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.mark.parametrize(
    ("state", "last_exit", "well"),
    [("online", None, True), ("waiting", None, True), ("waiting", 5, False), ("waiting", -9, False), ("waiting", 0, True), ("online", 5, True),
     ("resting", 5, False), ("broken", 2, False), ("error", None, False), ("ended", 0, True)],
)  # fmt: skip
def test_who_is_well(state, last_exit, well):
    assert is_well({"state": state, "last_exit": last_exit}) is well


def test_the_page_needs_its_token_and_its_own_name(served_page):
    at = served_page.address
    bearer = {"Authorization": f"Bearer {served_page.token}"}
    for path in ("/", "/status.json", "/metrics"):
        assert fetch(at + path)[0] == 401
        assert fetch(at + path, Authorization="Bearer wrong")[0] == 401
        assert fetch(at + path, **bearer)[0] == 200
        assert fetch(at + path, Host="evil.example", **bearer)[0] == 403
        assert fetch(at + path, Cookie=f"afterimage-serve-{served_page.port}={served_page.token}")[0] == 200
    assert fetch(at + "/other", **bearer)[0] == 404
    assert json.loads(fetch(at + "/status.json", **bearer)[1]) == STATUS


def test_what_streams_say_is_escaped(served_page):
    text = fetch(served_page.address, Authorization=f"Bearer {served_page.token}")[1].decode()
    assert "<script>" not in text
    assert "<b>;" not in text
    assert "&lt;i&gt;last line" in text
    assert "/f &lt;x&gt;" in page(STATUS, lambda name: [])


def test_the_numbers_of_all_streams(served_page):
    data = fetch(served_page.address + "/metrics", Authorization=f"Bearer {served_page.token}")[1].decode()
    found = {(s.name, s.labels["stream"]): s.value for f in text_string_to_metric_families(data) for s in f.samples if "_created" not in s.name}
    assert found["afterimage_stream_up", "door"] == 1
    assert found["afterimage_stream_up", "yard"] == 0
    assert found["afterimage_stream_starts_total", "yard"] == 5


def test_the_token_goes_into_a_cookie_and_out_of_the_address(served_page):
    with socket.create_connection(("127.0.0.1", served_page.port), timeout=10) as raw:
        raw.sendall(f"GET /?token={served_page.token} HTTP/1.1\r\nHost: 127.0.0.1:{served_page.port}\r\nConnection: close\r\n\r\n".encode())
        head = raw.recv(4096).decode()
    assert " 303 " in head.splitlines()[0]
    assert "Location: /\r\n" in head
    assert "HttpOnly; SameSite=Strict" in head


@pytest.mark.parametrize("address", ["0.0.0.0:0", "192.0.2.1:0"])
def test_a_page_that_others_can_reach_has_to_be_asked_for(address):
    with pytest.raises(UsageError, match="other machines"):
        Page(address, dict, lambda name: [])
