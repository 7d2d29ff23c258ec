"""The bench for GPUs, on tiny networks: phases that end, fail or are skipped leave what they measured, and nothing measured is lost."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from bench import gpu_live, gpu_wheels
from bench.gpu import targets
from bench.gpu.lab import Lab, Late, Skipped, rates

ROOT = Path(__file__).parents[2]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab("cpu", True, tmp_path / "r.json", {"bench": "t"})


def stored(lab: Lab) -> dict[str, Any]:
    return json.loads(lab.path.read_text())  # type: ignore[no-any-return]


def test_numbers_are_in_the_file_as_soon_as_they_are_known(lab: Lab) -> None:
    lab.begin("0 ceilings", 9)
    lab.note("gemm.fp16", 7.0)
    assert stored(lab)["phases"]["0 ceilings"]["gemm"] == {"fp16": 7.0}
    again = Lab("cpu", True, lab.path, {})  # a later call, for other phases
    assert again.read("0 ceilings", "gemm.fp16") == 7.0
    assert again.read("0 ceilings", "gemm.bf16.more") is None
    again.begin("1 networks", 9)
    again.note("built", True)
    assert stored(lab)["phases"].keys() == {"0 ceilings", "1 networks"}


def test_what_fails_is_a_line_and_the_next_is_measured(lab: Lab) -> None:
    lab.begin("2 modules", 9)

    def fails() -> None:
        raise ValueError("as told")

    def skips() -> None:
        raise Skipped("not here")

    assert lab.attempt("a", fails) is None
    assert lab.attempt("b", skips) is None
    assert lab.attempt("c", lambda: 3) == 3
    found = stored(lab)["phases"]["2 modules"]
    assert found["a"] == {"failed": "ValueError: as told"}
    assert found["b"] == {"skipped": "not here"}
    assert found["c"] == 3
    lab.until = time.monotonic() - 1
    with pytest.raises(Late):
        lab.attempt("d", lambda: 4)


def phase(call: Any, monkeypatch: pytest.MonkeyPatch) -> gpu_live.Phase:
    from bench.gpu import ceilings

    monkeypatch.setattr(ceilings, "planted", call, raising=False)
    return gpu_live.Phase("0 ceilings", 1, "ceilings", "planted")


def test_a_phase_that_does_not_end_is_interrupted(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(lab: Lab) -> None:
        lab.note("before", 1)
        while True:
            pass

    begun = time.monotonic()
    gpu_live.run_phase(lab, phase(hangs, monkeypatch), 0.3, apart=False)
    assert time.monotonic() - begun < 10
    found = stored(lab)["phases"]["0 ceilings"]
    assert found["before"] == 1
    assert found["ended"].startswith("out of time")


def test_a_phase_that_fails_says_so(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(lab: Lab) -> None:
        raise KeyError("x")

    gpu_live.run_phase(lab, phase(fails, monkeypatch), 5, apart=False)
    assert stored(lab)["phases"]["0 ceilings"]["ended"].startswith("failed: KeyError")


def test_rates_are_of_the_frames_that_were_timed() -> None:
    found = rates([0.1] * 19 + [1.0])
    assert found["fps"] == pytest.approx(20 / 2.9, abs=1e-3)
    assert (found["p50_ms"], found["p99_ms"]) == (100.0, 1000.0)
    with pytest.raises(Late):
        rates([])


def test_targets_are_judged_by_what_was_measured() -> None:
    numbers = {
        ("2 modules", "unet.1.eager.ms"): 30.0, ("2 modules", "unet.1.graph.ms"): 9.0, ("5 beside", "best.fps_drop"): 0.2,
        ("4 frames", f"{targets.A}.D ours, graphs.fps"): 10.0, ("4 frames", f"{targets.A}.F reuse 3, cut 1.fps"): 20.0,
    }  # fmt: skip
    rows = {row["what"]: row for row in targets.table(lambda a, b: numbers.get((a, b)))}
    assert rows["UNet, batch 1: graph against eager"]["met"] is True
    assert rows["frames lost to a language model beside it"]["met"] is False
    assert rows["ours against diffusers, 1 step"]["met"] is None
    share = rows["reuse on every third step: share of its FLOP ratio"]
    assert share["found"] == pytest.approx(2.0 / 2.24, abs=0.03)  # three full passes against one and two of a fifth or less
    assert "not measured" in targets.show(list(rows.values()), tiny=False)
    assert "MISSED" not in targets.show(list(rows.values()), tiny=True)


def test_the_script_runs_its_phases_on_tiny_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not for numbers: networks, and one shipped preset through the engine with everything standing in that is not painted."""
    pytest.importorskip("diffusers")
    path = tmp_path / "tiny.json"
    assert gpu_live.main(["--device", "cpu", "--tiny", "--json", str(path), "--phases", "0,1", "--seconds", "60"]) == 0
    told = json.loads(path.read_text())
    assert all(part["finite"] and part["moves"] for part in told["phases"]["1 networks"]["check"].values())
    assert told["phases"]["0 ceilings"]["gemm_tflops"]["fp32"] > 0
    assert {"live_2060", "live_4080"} <= told["plans"].keys()
    assert told["machine"]["versions"]["torch"]
    assert str(ROOT) not in path.read_text()
    assert "no figure here is a result" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_whole_script_on_tiny_networks(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    path = tmp_path / "tiny.json"
    assert gpu_live.main(["--device", "cpu", "--tiny", "--json", str(path), "--seconds", "300"]) == 0
    told = json.loads(path.read_text())["phases"]
    assert told.keys() == {phase.name for phase in gpu_live.PHASES}
    assert all(found["ended"].startswith(("whole", "out of time")) for found in told.values()), "a busy machine may be late, and no more"
    assert '"failed"' not in json.dumps(told)
    frames = told["4 frames"]["b: 4 LCM steps, ControlNet"]
    assert frames["A diffusers"]["fps"] > 0
    assert frames["E ours, in a session"]["p95_ms"] >= frames["E ours, in a session"]["p50_ms"] > 0
    assert told["6 capped"]["live_2060, 6 GB"]["frames"] > 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_phase_in_a_process_of_its_own_is_ended_with_its_time(lab: Lab) -> None:
    """What it wrote until then is there; with enough time it ends by itself."""
    pytest.importorskip("diffusers")
    (networks,) = (phase for phase in gpu_live.PHASES if phase.number == 1)
    lab.begin(networks.name, 200)
    gpu_live.in_process(lab, networks, 200)
    assert lab.now["check"]["unet"]["finite"]
    assert stored(lab)["phases"][networks.name]["ended"] == "whole"
    lab.begin(networks.name, 1)
    with pytest.raises(Late, match="ended"):
        gpu_live.in_process(lab, networks, 0.5)


def test_without_a_gpu_it_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert gpu_live.main([]) == 2
    assert "--device cpu --tiny" in capsys.readouterr().err


# ---------------------------------------------------------------- what is taken along


def test_every_dependency_is_accounted_for() -> None:
    """A dependency that is added has to be taken along, be there, or be left out on purpose."""
    import re
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.split(r"[<>=;\s\[]", line, maxsplit=1)[0].lower().replace("_", "-") for line in project["dependencies"]}
    known = {name.lower().replace("_", "-") for name in (*gpu_wheels.LACKS, *gpu_wheels.HAS, *gpu_wheels.LEFT)}
    assert needed <= known
    assert all("==" in line for line in gpu_wheels.wanted(["av"]))
    assert gpu_wheels.wanted(["nothing-of-ours"])[-1] == "nothing-of-ours"


def test_a_checkout_on_the_path_has_its_operators(tmp_path: Path) -> None:
    import importlib.metadata

    gpu_wheels.entry_points(tmp_path)
    (found,) = importlib.metadata.distributions(path=[str(tmp_path)])
    assert found.version == __import__("engine").__version__
    families = {point.name: point.value for point in found.entry_points if point.group == "afterimage.operators"}
    assert families["diffusion"] == "operators.diffusion"
    assert {"source", "sink", "pose", "vlm", "metric", "image"} <= families.keys()


def test_unpacking_nothing_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_wheels.main(["unpack", str(tmp_path), str(tmp_path / "site")]) == 2
    assert "pack" in capsys.readouterr().err
