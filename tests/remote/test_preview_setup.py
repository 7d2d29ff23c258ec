"""How a preview is set up: what gets a tap, where it listens, what the command line makes of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from http.client import HTTPConnection
from pathlib import Path

import pytest
import shown  # noqa: F401 - registers its operators
from remote_runs import COMMAND, ROOT

from engine.errors import DeviceError, UsageError
from engine.graph import Graph, GraphBuilder
from engine.planning.compile import compile
from remote import web
from remote.preview import Preview, tapped
from remote.web import Address


def names(graph: Graph) -> list[str]:
    return [str(node.params["box"]) for node in tapped(graph, "", ()).nodes if node.op == "sink.tap"]


def test_taps_go_to_the_main_picture_first_and_bring_nothing_back_that_was_culled() -> None:
    graph = GraphBuilder("g")
    graph.node("film", "shown.film")
    graph.node("unused", "shown.keep", image="film")
    graph.node("keep", "shown.keep", image="film")
    graph.node("count", "sink.null", image="film")
    graph.node("file", "sink.video", image="keep", url="a.mp4")
    assert names(graph.build()) == ["keep.image", "film.image"]
    plan = compile(tapped(graph.build(), "p/"))
    assert plan.culled == ("unused",)
    assert [lane.nodes for lane in plan.lanes if lane.name == "preview"] == [("preview", "preview_film_image")]
    wished = tapped(graph.build(), "", ["film"])
    assert [node.params["box"] for node in wished.nodes if node.op == "sink.tap"] == ["film.image", "keep.image"]
    with pytest.raises(UsageError, match=r"keep\.image"):
        tapped(graph.build(), "", ["nobody"])


def test_what_is_written_in_place_is_not_tapped() -> None:
    graph = GraphBuilder("g")
    graph.node("film", "shown.film")
    graph.node("keep", "shown.keep", image="film")
    graph.node("paint", "shown.paint", image="keep")
    graph.node("out", "sink.null", image="paint")
    assert names(graph.build()) == ["paint.image", "film.image"]
    compile(tapped(graph.build(), "p/"))
    graph.node("lost", "shown.paint", image="paint")  # nobody reads it: it is culled, and writes to nothing
    assert names(graph.build()) == ["paint.image", "film.image"]


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:9000", "127.0.0.1", 9000), ("9000", "127.0.0.1", 9000), ("[::1]:9000", "::1", 9000), ("box.lan", "box.lan", None),
     (":9", "127.0.0.1", 9)],
)
def test_addresses_are_read(text: str, host: str, port: int | None) -> None:
    assert Address.parse(text) == Address(host, port)


@pytest.mark.parametrize("text", ["http://x:1", "a:b", "127.0.0.1:99999", "::1:80"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Address.parse(text)


@pytest.mark.parametrize("web", ["0.0.0.0:0", "192.168.1.2:80", "box.lan:80", "[::]:0"])
def test_addresses_that_others_reach_have_to_be_asked_for(web: str) -> None:
    with pytest.raises(UsageError, match="insecure"):
        Preview(web)
    assert Preview(web, insecure=True).token
    assert not Address.parse("127.0.0.1:0").beyond_loopback
    assert not Address.parse("localhost:0").beyond_loopback


def test_a_port_that_is_taken_is_an_error_where_it_was_named_and_the_next_one_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    with Address("127.0.0.1", 0).listen() as taken:
        port = taken.getsockname()[1]
        with pytest.raises(DeviceError, match="another port"):
            Address("127.0.0.1", port).listen()
        monkeypatch.setattr(web, "PORT", port)
        with Address().listen() as other:
            assert port < other.getsockname()[1] < port + web.PORTS


def test_a_token_may_be_given_and_must_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_WEB_TOKEN", "a-token-of-my-own-1234")
    assert Preview().token == "a-token-of-my-own-1234"
    for wrong in ("short", "with spaces in it, no", "x" * 300):
        monkeypatch.setenv("ENGINE_WEB_TOKEN", wrong)
        with pytest.raises(UsageError, match="ENGINE_WEB_TOKEN"):
            Preview()
    monkeypatch.delenv("ENGINE_WEB_TOKEN")
    assert len({Preview().token for _ in range(4)}) == 4


# ---------------------------------------------------------------- the command


def test_the_command_serves_a_page_and_ends_with_the_run(tmp_path: Path) -> None:
    graph = tmp_path / "g.toml"
    graph.write_text("""
[graph]
name = "figure"
clock = "live"
[node.figure]
op = "source.figure"
size = 64
[node.edges]
op = "image.canny"
in.image = "figure.image"
[node.out]
op = "sink.null"
in.image = "edges"
""")
    command = [*COMMAND, "run", str(graph), "-q", "--json", "--web", "127.0.0.1:0", "--preview-of", "edges", "--duration", "1"]
    with subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        found = re.fullmatch(r"preview: http://127\.0\.0\.1:(\d+)/\?token=(\S+)\n", process.stderr.readline())
        assert found
        connection = HTTPConnection("127.0.0.1", int(found[1]), timeout=30)
        connection.request("GET", f"/graph.json?token={found[2]}")
        assert {output["of"] for output in json.loads(connection.getresponse().read())["outputs"]} == {"edges.image", "figure.image"}
        connection.request("GET", f"/snapshot.png?token={found[2]}")
        answer = connection.getresponse()
        assert answer.read()[:4] == b"\x89PNG" or answer.status == 503  # before the first picture
        connection.close()
        printed, said = process.communicate(timeout=60)
    result = json.loads(printed)
    assert (process.returncode, result["ok"]) == (0, True)
    assert found[2] not in printed + said


@pytest.mark.parametrize(("options", "code", "words"), [
    (["--web", "0.0.0.0:8060"], 2, "insecure"), (["--preview-of", "nobody"], 2, "edges"), (["--web", "nonsense:x"], 2, "HOST:PORT"),
])  # fmt: skip
def test_the_command_refuses_what_cannot_be(tmp_path: Path, options: list[str], code: int, words: str) -> None:
    from engine.cli import main

    graph = tmp_path / "g.toml"
    graph.write_text('[node.film]\nop = "shown.film"\n[node.edges]\nop = "shown.keep"\nin.image = "film"\n[node.out]\nop = "sink.null"\n'
                     'in.image = "edges"\n')  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr("engine.cli.report.say", lambda text, style="": said.append(text))
        assert main(["run", str(graph), "-q", *options]) == code
    assert words in " ".join(said)
