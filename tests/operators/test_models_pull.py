"""Fetching models from a server on this machine: whole, cut short, resumed, wrong; and a Hub."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import models_hub
import numpy as np
import pytest

from engine.errors import MediaError, MissingError, UsageError
from operators.models import assemble, catalogue, pull, store, verify

CONTENT = np.random.default_rng(0).integers(0, 256, 700_001, np.uint8).tobytes()


class Server:
    """Sends `content`, or only the first `cut` bytes of it; with ranges or without."""

    def __init__(self) -> None:
        self.content, self.cut, self.ranges, self.asked = CONTENT, None, True, []
        outer: Any = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers.get("Range")
                outer.asked.append(asked)
                start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and outer.ranges else 0
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(outer.content) - start))
                self.end_headers()
                self.wfile.write(outer.content[start : outer.cut])

            def log_message(self, *args: object) -> None:
                """Keep the test's output clean."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}/pose.task"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, daemon=True)
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()


@pytest.fixture
def model(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> catalogue.Model:
    """The only model of the catalogue, at the server's address, with no second way to it."""
    monkeypatch.setenv("AFTERIMAGE_HOME", str(tmp_path))
    entry = replace(
        catalogue.MODELS[0], source=server.address, size=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest(), alike=()
    )
    monkeypatch.setattr(catalogue, "MODELS", (entry,))
    return entry


def test_a_pull_installs_tells_and_is_done_once(server: Server, model: catalogue.Model) -> None:
    told: list[tuple[str, int, int | None]] = []
    path = pull("pose", lambda *facts: told.append(facts))
    assert path.read_bytes() == CONTENT
    assert path == store.find("pose")
    assert verify("pose").ok
    assert told[0][1] == 0
    assert told[-1][1:] == (len(CONTENT), len(CONTENT))
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert pull("pose") == path
    assert len(server.asked) == 1
    assert [f.name for f in path.parent.iterdir()] == [path.name]


def test_what_was_cut_short_goes_on_where_it_stopped(server: Server, model: catalogue.Model) -> None:
    server.cut = 300_000
    with pytest.raises(MissingError, match="cut short at 300000 of 700001"):
        pull("pose")
    with pytest.raises(MissingError):
        store.find("pose")
    server.cut = None
    assert pull("pose").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-"]


def test_a_server_without_ranges_sends_it_all_again(server: Server, model: catalogue.Model) -> None:
    part = store.place(model).with_name(store.place(model).name + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    server.ranges = False
    assert pull("pose").read_bytes() == CONTENT


@pytest.mark.parametrize("change", [lambda c: c[:-1] + b"\0", lambda c: c + b"more"], ids=["other", "longer"])
def test_another_file_is_not_installed(server: Server, model: catalogue.Model, change: Any) -> None:
    server.content = change(CONTENT)
    with pytest.raises(MediaError, match="sent another file"):
        pull("pose")
    assert list(store.place(model).parent.iterdir()) == []


def test_a_damaged_file_is_replaced(server: Server, model: catalogue.Model) -> None:
    store.place(model).parent.mkdir(parents=True)
    store.place(model).write_bytes(b"damaged")
    assert pull("pose").read_bytes() == CONTENT


def test_out_of_reach_names_the_place_to_put_it(server: Server, model: catalogue.Model) -> None:
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(MissingError, match="cannot be reached") as caught:
        pull("pose")
    assert str(store.place(model)) in caught.value.fix


def test_where_there_is_a_second_way_it_is_taken(model: catalogue.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    made = b"assembled"
    entry = replace(model, source="http://127.0.0.1:9/nothing", alike=(hashlib.sha256(made).hexdigest(),))
    monkeypatch.setattr(catalogue, "MODELS", (entry,))
    monkeypatch.setattr(assemble, "fetch_and_assemble", lambda: made)
    told: list[str] = []
    assert pull("pose", lambda what, *_: told.append(what)).read_bytes() == made
    assert verify("pose").ok
    assert any("mediapipe" in what for what in told)


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match="pose-lite"):
        pull("pose-light")


def test_another_wheel_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "mediapipe.whl"
    wheel.write_bytes(b"not the wheel")
    with pytest.raises(MediaError, match="sha256"):
        assemble.assemble(wheel)


def test_pip_out_of_reach_is_an_error_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assemble, "WHEEL", "afterimage-no-such-package==0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(MissingError, match="pip could not fetch"):
        assemble.download_wheel(tmp_path)


@pytest.mark.slow
def test_the_pose_model_is_assembled_from_the_real_wheel(tmp_path: Path) -> None:
    """Downloads 36 MB; the result must be the pinned one to the byte, and MediaPipe must load it."""
    pytest.importorskip("mediapipe")
    try:
        wheel = assemble.download_wheel(tmp_path)
    except MissingError as error:
        pytest.skip(str(error))
    content = assemble.assemble(wheel)
    assert hashlib.sha256(content).hexdigest() == catalogue.POSE_ASSEMBLED
    (tmp_path / "pose.task").write_bytes(content)
    from engine.payload import Image
    from engine.testing import Bench

    with Bench("pose.mediapipe", model=str(tmp_path / "pose.task")) as bench:
        assert bench(Image(np.zeros((64, 64, 3), np.uint8))).pose.people.shape == (0, 18, 3)


def test_a_hub_model_comes_without_pickles_and_code(tmp_path: Path) -> None:
    """In a process of its own, because the Hub's library reads its address once."""
    from safetensors.numpy import save

    good = {
        "config.json": b"{}", "unet/model.safetensors": save({"a": np.zeros(4, np.float32)}), "pytorch_model.bin": b"pickle",
        "modeling.py": b"raise SystemExit('code of a checkpoint ran')",
    }  # fmt: skip
    repos = {"some/model": good, "pickles/only": {"config.json": b"{}", "pytorch_model.bin": b"pickle"}}
    code = """
import json, sys
from engine.errors import EngineError
from operators.models import pull, verify, find
from huggingface_hub import snapshot_download
def error(name):
    try:
        pull(name)
    except EngineError as e:
        return [type(e).__name__, str(e)]
told = []
path = pull("some/model", lambda *facts: told.append(facts))
print(json.dumps({
    "files": sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()), "told": told,
    "ok": verify("some/model").ok, "found": str(find("some/model")) == str(path),
    "library": snapshot_download("some/model", local_files_only=True) == str(path),
    "pickles": error("pickles/only"), "unknown": error("no/body"),
}))
"""
    with models_hub.serve(repos) as (address, sent):
        env = {
            **os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "AFTERIMAGE_HOME": str(tmp_path / "own"),
            "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }  # fmt: skip
        for unwanted in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN"):
            env.pop(unwanted, None)
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        result = json.loads(done.stdout.splitlines()[-1])
        assert sorted(sent) == ["config.json", "unet/model.safetensors"]
    assert result["files"] == ["config.json", "unet/model.safetensors"]
    assert result["ok"]
    assert result["found"]
    assert result["library"]
    total = len(good["config.json"]) + len(good["unet/model.safetensors"])
    assert result["told"][-1][1:] == [total, total]
    assert result["pickles"][0] == "UsageError"
    assert "pickle" in result["pickles"][1]
    assert result["unknown"][0] == "MissingError"
    env["HF_ENDPOINT"] = "http://127.0.0.1:9"
    code = "from operators.models import pull; pull('other/model')"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert "MissingError: other/model cannot be fetched" in done.stderr
