"""The client alone: built and installed as a package of its own, used in a process that sees neither the engine nor torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from zmq_peers import ROOT, Publisher, flat

CLIENT = ROOT / "bindings" / "python"

USE = """
import importlib.util, json, sys
assert importlib.util.find_spec("engine") is None, "the engine can be imported"
for name in ("torch", "cv2", "av", "PIL", "pydantic"):
    sys.modules[name] = None                      # as if not installed
import afterimage_client
from afterimage_client import AsyncSubscriber, Control, MissingDecoder, Subscriber, WireError, show
with Subscriber(sys.argv[1], latest=False) as frames:
    print("ready", flush=True)
    found = [(frame.seq, int(frame.array.max()), frame._repr_png_()[:4].hex()) for frame in frames]
    loaded = sorted({name.partition(".")[0] for name in sys.modules} & {"engine", "operators", "torch", "bindings"} - {"torch"})
    print(json.dumps({"frames": found, "end": frames.end.reason, "loaded": loaded, "file": afterimage_client.__file__}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the client in it, as pip puts it there."""
    pytest.importorskip("setuptools", minversion="77", reason="building the package needs setuptools 77")
    source, target = tmp_path_factory.mktemp("source") / "python", tmp_path_factory.mktemp("target")
    shutil.copytree(CLIENT, source, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--no-compile", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", target, source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def alone(installed: Path) -> dict[str, str]:
    """The environment of a process that finds the client and what it needs, and nothing of this repository."""
    return {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}


def without_the_engine() -> list[str]:
    """Interpreter options under which an editable installation of the engine is not found, but the client and what it needs are."""
    import msgpack

    site = Path(msgpack.__file__).resolve().parent.parent
    return ["-S", "-c", f"import sys; sys.path.append({str(site)!r}); sys.argv.pop(0); exec(sys.argv[0])"]


def test_it_works_without_the_engine(installed: Path, tmp_path: Path) -> None:
    with Publisher() as publisher:
        args = [sys.executable, *without_the_engine(), USE, publisher.url]
        with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=alone(installed), cwd=tmp_path) as client:
            publisher.joined()
            for number in range(3):
                publisher.frame(flat(number))
            publisher.end()
            out, errors = client.communicate(timeout=60)
    assert client.returncode == 0, errors
    told: dict[str, Any] = json.loads(out.splitlines()[-1])
    assert told["frames"] == [[number, number, "89504e47"] for number in range(3)]
    assert (told["end"], told["loaded"]) == ("eof", [])
    assert Path(told["file"]).is_relative_to(installed)


def test_what_is_in_the_package(installed: Path) -> None:
    there = {path.name for path in (installed / "afterimage_client").iterdir()}
    modules = {path.name for path in CLIENT.glob("*.py")}
    assert modules <= there
    assert "py.typed" in there
    assert "examples" not in there


GOLDEN = """
import json, pathlib, struct, sys
from afterimage_client import plain, wire
folder = pathlib.Path(sys.argv[1])
def taken(name):
    data = (folder / name).read_bytes()
    (count,), at, parts = struct.unpack_from("<I", data), 4, []
    for _ in range(count):
        (size,) = struct.unpack_from("<I", data, at)
        parts.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    try:
        header, payload = wire.decode(parts)
        if getattr(header, "enc", "") == "msgpack":
            plain.read(header, payload)
    except wire.WireError:
        return False
    return True
index = json.loads((folder / "index.json").read_text("utf-8"))
told = {kind: [taken(entry["file"]) for entry in index[kind]] for kind in ("messages", "refused")}
print(json.dumps({**told, "file": wire.__file__}))
"""


def test_the_installed_client_reads_the_recorded_messages_and_refuses_the_others(installed: Path, tmp_path: Path) -> None:
    args = [sys.executable, *without_the_engine(), GOLDEN, str(ROOT / "bindings/golden")]
    done = subprocess.run(args, capture_output=True, text=True, env=alone(installed), cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert Path(told["file"]).is_relative_to(installed)
    assert len(told["messages"]) > 15
    assert all(told["messages"])
    assert len(told["refused"]) > 15
    assert not any(told["refused"])


def test_the_watcher(installed: Path, tmp_path: Path) -> None:
    """`python -m afterimage_client URL` tells how it stands once a second."""
    with Publisher() as publisher:
        args = [sys.executable, "-m", "afterimage_client", publisher.url, "--seconds", "1.3"]
        with subprocess.Popen(args, stdout=subprocess.PIPE, text=True, env=alone(installed), cwd=tmp_path) as client:
            publisher.joined()
            publisher.beat()
            publisher.frame(flat(1), seq=77)
            out, _ = client.communicate(timeout=60)
    assert client.returncode == 0
    assert "online" in out
    assert "<live 77 (epoch 0): Image raw 8x12x3" in out


def example(name: str, installed: Path, tmp_path: Path, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, CLIENT / "examples" / name, *args], stdout=subprocess.PIPE, text=True, env=alone(installed), cwd=tmp_path
    )


def test_the_example_that_saves(installed: Path, tmp_path: Path) -> None:
    import av

    with Publisher() as publisher, example("save_to_file.py", installed, tmp_path, "out.mp4", publisher.url) as saver:
        publisher.joined()
        begin = 1_000_000_000_000
        for number in range(10):
            publisher.frame(flat(20 * number, (48, 64)), born=begin + number * 50_000_000)
        publisher.end()
        out, _ = saver.communicate(timeout=60)
    assert saver.returncode == 0
    assert out.startswith("10 frames, 0 lost")
    with av.open(str(tmp_path / "out.mp4")) as file:
        frames = [(float(frame.time or 0), float(frame.to_ndarray(format="rgb24").mean())) for frame in file.decode(video=0)]
    assert [when for when, _ in frames] == pytest.approx([0.05 * number for number in range(10)], abs=2e-3)
    assert [level for _, level in frames] == pytest.approx([20.0 * number for number in range(10)], abs=4)


def test_the_example_for_touchdesigner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its callbacks, with an operator that does what they use of one."""
    import runpy

    import bindings.python

    monkeypatch.setitem(sys.modules, "afterimage_client", bindings.python)

    class Parameter:
        def __init__(self) -> None:
            self.default = ""

        def eval(self) -> str:
            return self.default

    class ScriptOp:
        path = "/project1/script1"

        def __init__(self) -> None:
            self.par, self.stored, self.shown = type("Par", (), {})(), {}, None  # type: ignore[var-annotated]

        def appendCustomPage(self, name: str) -> ScriptOp:
            return self

        def appendStr(self, name: str, label: str) -> list[Parameter]:
            setattr(self.par, name, Parameter())
            return [getattr(self.par, name)]

        def copyNumpyArray(self, array: Any) -> None:
            self.shown = array

        def store(self, key: str, value: Any) -> None:
            self.stored[key] = value

    script = runpy.run_path(str(CLIENT / "examples" / "touchdesigner_script.py"))
    operator = ScriptOp()
    script["onSetupParameters"](operator)
    with Publisher() as publisher:
        operator.par.Url.default = publisher.url
        script["onCook"](operator)
        assert operator.shown is None
        publisher.joined()
        picture = flat(0)
        picture[0] = 200
        publisher.frame(picture)
        from zmq_peers import until

        def cooked() -> bool:
            script["onCook"](operator)
            return operator.shown is not None

        until(cooked)
        assert (operator.shown[-1] == 200).all()
        assert operator.stored["lost"] == 0
        script["subscribers"][operator.path].close()


def test_the_example_with_a_window_is_python() -> None:
    """It needs a screen to run: here it is at least compiled, and names nothing that the client does not have."""
    import ast

    import bindings.python

    tree = ast.parse((CLIENT / "examples" / "opencv_window.py").read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "afterimage_client"]
    imported = [alias.name for node in imports for alias in node.names]
    assert imported
    assert all(hasattr(bindings.python, name) for name in imported)
