"""The verbs beside running: ops, schema, doctor, devices, models, bench, new, version, and what typing mistakes get."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_tools import ROOT, Done, call, decoded, one_object, register, run_engine


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AFTERIMAGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return lambda *arguments: call(arguments, capsys)


# ---------------------------------------------------------------- operators


def test_ops_lists_by_family(engine):
    lines = engine("ops").stdout.splitlines()
    assert lines.index("image") < lines.index("sink") < lines.index("source")
    assert any(line.startswith("  image.canny ") and "ControlNet-canny" in line for line in lines)
    assert {line.split()[0] for line in engine("ops", "sink").stdout.splitlines()[1:]} >= {"sink.video", "sink.null"}


def test_ops_tells_all_of_one_operator(engine):
    text = engine("ops", "clitest.chat").stdout
    for word in ("Prints to stdout", "image", "Image", "level", "0.5", "0 to 1", "knob", 'op = "clitest.chat"'):
        assert word in text, word
    about = one_object(engine("ops", "clitest.chat", "--json").stdout)
    assert about["ports"] == [{"name": "image", "type": "Image", "format": "uint8 hwc rgb cpu", "optional": False, "many": False}]
    assert about["parameters"]["properties"]["level"]["maximum"] == 1
    assert "#### `clitest.chat`" in engine("ops", "clitest.chat", "--markdown").stdout


def test_ops_of_an_unknown_name_suggests(engine):
    done = engine("ops", "clitest.chatt")
    assert done.returncode == 2
    assert 'did you mean "clitest.chat"' in done.stderr


def test_schema_is_a_json_schema(engine):
    schema = one_object(engine("schema").stdout)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert "sink.video" in schema["$defs"]


# ---------------------------------------------------------------- the machine


def test_doctor_reports_on_every_part_and_never_fails(engine):
    pytest.importorskip("torch")
    done = engine("doctor")
    found = one_object(engine("doctor", "--json").stdout)
    assert done.returncode == 0
    assert {"system", "packages", "processor", "gpu", "encoders", "models", "disk", "wrong"} == set(found)
    assert all(found[section] for section in found if section != "wrong")
    pose = [wrong for wrong in found["wrong"] if wrong["what"].startswith("pose_landmarker_full is missing")]
    assert pose[0]["fix"] == "engine models pull pose"
    assert "→ engine models pull pose" in done.stdout
    assert done.stdout.splitlines()[-1].startswith(f"{len(found['wrong'])} thing")


def test_devices_lists_what_opens(engine):
    found = one_object(engine("devices", "--json").stdout)
    assert {"cameras", "cards", "encoders"} <= set(found)
    text = engine("devices").stdout
    assert all(encoder["name"] in text for encoder in found["encoders"])


# ---------------------------------------------------------------- models


def test_models_that_are_not_here_come_with_the_command_that_fetches_them(engine):
    text = engine("models", "list").stdout
    assert "engine models pull pose\n" in text
    assert "engine models pull Qwen/Qwen2-VL-2B-Instruct" in text


def test_models_verify_tells_sound_from_damaged(engine, tmp_path):
    folder = tmp_path / "home" / "models" / "pose"
    folder.mkdir(parents=True)
    (folder / "pose_landmarker_lite.task").write_bytes(b"not a model")
    done = engine("models", "verify", "pose-lite")
    assert done.returncode == 3
    assert "damaged" in done.stdout
    assert "sha256" in done.stdout


def test_models_unknown_or_absent(engine):
    assert engine("models", "pull", "posse").returncode == 2
    done = engine("models", "verify", "pose")
    assert done.returncode == 3
    assert "engine models pull pose" in done.stderr


def test_models_train_hands_its_options_on(engine):
    done = engine("models", "train", "--stage", "nonsense", "--out", "x")
    assert done.returncode == 2
    assert "nonsense" in done.stderr


# ---------------------------------------------------------------- bench, new, version, mistakes


def test_bench_lists_what_a_checkout_has(engine):
    text = engine("bench").stdout
    assert "govern_sim" in text
    assert engine("bench", "govern_simm").returncode == 2


def test_bench_runs_a_measurement_with_its_options(tmp_path):
    done = run_engine(["bench", "govern_sim", "--help"], register(tmp_path / "site"), tmp_path)
    assert done.returncode == 0
    assert "usage" in done.stdout.lower()


def test_a_new_graph_runs_as_it_is(engine, tmp_path):
    assert engine("new", "first").returncode == 0
    done = engine("run", "first.toml", "--json", "-q", "--set", "camera.end=0.4")
    assert done.returncode == 0, done.stderr
    (output,) = one_object(done.stdout)["outputs"]
    assert Path(output) == Path("out", "first.mp4")
    assert decoded(tmp_path / output) == 10
    again = engine("new", "first")
    assert again.returncode == 2
    assert "exists already" in again.stderr


def test_a_new_operator_package_passes_its_tests_and_runs(engine, tmp_path):
    assert engine("new", "--operator", "my-glow").returncode == 0
    folder = tmp_path / "my-glow"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    tests = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert tests.returncode == 0, tests.stdout
    assert "2 passed" in tests.stdout
    # Installed, as far as the engine can tell: its entry points are on the path, and they are those that its pyproject.toml declares.
    import tomllib

    points = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["entry-points"]["afterimage.operators"]
    env = register(tmp_path / "site")
    info = tmp_path / "site" / "my_glow-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-glow\nVersion: 0.1.0\n")
    lines = "\n".join(f"{family} = {module}" for family, module in points.items())
    (info / "entry_points.txt").write_text(f"[afterimage.operators]\n{lines}\n")
    env["PYTHONPATH"] += os.pathsep + str(folder)
    done = run_engine(["run", "example.toml", "--json", "-q", "--frames", "5"], env, folder)
    assert one_object(done.stdout)["nodes"]["warm"]["count"] == 5, done.stderr


@pytest.mark.parametrize("name", ["1st", "a b", "../", "class", "image"])
def test_new_refuses_names_that_cannot_be(engine, name, tmp_path):
    before = sorted(tmp_path.iterdir())
    assert engine("new", "--operator", name).returncode == 2
    assert sorted(tmp_path.iterdir()) == before


def test_version_help_and_mistakes(engine):
    import engine as package

    assert engine("version").stdout == engine("--version").stdout == f"engine {package.__version__}\n"
    assert "{GRAPH} [NODE.PARAM=VALUE]..." in engine("run", "--help").stdout
    assert "run" in engine("--help").stdout
    done = engine("chek")
    assert done.returncode == 2
    assert "check" in done.stderr
    assert engine("run").returncode == 2
    assert engine("run", "x.toml", "--frames", "0").returncode == 2


def test_a_fault_of_the_engine_is_one_line_without_debug(engine, monkeypatch):
    monkeypatch.setattr("engine.cli.operators.schema", lambda: {}["gone"])
    done = engine("schema")
    assert done.returncode == 5
    assert done.stderr.startswith("error: KeyError: 'gone'")
    assert "Traceback" not in done.stderr
    assert "Traceback" in engine("schema", "--debug").stderr
