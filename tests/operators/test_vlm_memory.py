"""How the model of vlm.refine is kept: away between looks, quantised, and gone at once when somebody who paints needs the memory."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import vlm_checkpoints  # noqa: E402

from engine.errors import MissingError  # noqa: E402
from engine.payload import Image  # noqa: E402
from engine.planning.memory import plan_memory  # noqa: E402
from engine.planning.outlook import Asked  # noqa: E402
from engine.testing import Bench  # noqa: E402
from operators.models import quantise as quantising  # noqa: E402
from operators.models.quantise import held_bytes, installed  # noqa: E402
from operators.vlm.refine import Refine  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    return str(vlm_checkpoints.qwen(tmp_path_factory.mktemp("vlm"), "qwen2_vl"))


NOISE = Image(np.random.default_rng(0).integers(0, 256, (56, 56, 3), np.uint8))


def watched(bench: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where the model of `bench` is moved to from now on, on a device that is told apart from the host."""
    eye, moves, plain = bench.operator._eye, [], torch.nn.Module.to

    def to(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self is eye.model:
            moves.append(str(args[0]))
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "to", to)
    eye.device = torch.device("cpu", 0)
    return moves


def test_it_visits_the_device_for_each_look(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Bench("vlm.refine", model=folder, max_tokens=4) as bench:
        stays = bench(NOISE).caption.text
    for how in ({"placement": "offload"}, {"site_placed": {"vlm": "offload"}}):
        with Bench("vlm.refine", model=folder, max_tokens=4, **how) as bench:
            moves = watched(bench, monkeypatch)
            assert bench(NOISE).caption.text == stays
            assert bench(NOISE).caption.text == stays
            assert moves == ["cpu:0", "cpu"] * 2
        monkeypatch.undo()


def test_a_look_is_given_up_when_memory_is_needed(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread asks in the middle of a long answer: the answer ends within a token, and nothing is looked at until there is room."""
    with Bench("vlm.refine", model=folder, max_tokens=1024) as bench:
        moves = watched(bench, monkeypatch)
        eye, begun, tokens, results = bench.operator._eye, threading.Event(), [0], []
        eye._generation.eos_token_id = None  # or the model might fall silent by itself

        def count(*args: Any) -> None:
            tokens[0] += 1
            if tokens[0] >= 5:
                begun.set()

        eye.model.register_forward_pre_hook(count)
        looking = threading.Thread(target=lambda: results.append(bench(NOISE)))
        looking.start()
        assert begun.wait(60)
        assert bench.operator.relieve()
        assert moves == ["cpu"]  # and the model is off the device by now
        looking.join(60)
        assert results[0].caption is None
        assert tokens[0] < 1000
        assert not bench.operator.relieve()
        assert bench(NOISE).caption is None
        bench.operator.restore()
        assert moves == ["cpu"]
        eye._generation.max_new_tokens = 4
        assert bench(NOISE).caption is not None
        assert moves == ["cpu", "cpu:0"]


def test_no_room_on_the_way_back(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asked to come back and there was no room: its own ladder relieves it once more, and it goes on without looking."""
    with Bench("vlm.refine", model=folder, max_tokens=4) as bench:
        eye = bench.operator._eye
        eye.device = torch.device("cpu", 0)
        assert bench.operator.relieve()
        bench.operator.restore()
        monkeypatch.setattr(eye, "restore", lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("none left")))
        with pytest.raises(torch.OutOfMemoryError):
            bench(NOISE)
        assert bench.operator.relieve()
        assert bench(NOISE).caption is None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "backend", [pytest.param(b, marks=pytest.mark.skipif(b not in installed(device="cpu"), reason=f"{b} is not installed"))
                for b in ("torchao", "quanto")]
)  # fmt: skip
def test_quantised_it_still_answers(folder: str, backend: str) -> None:
    with Bench("vlm.refine", model=folder, max_tokens=6) as bench:
        bench(NOISE)
        whole = held_bytes(bench.operator._eye.model)
    with Bench("vlm.refine", model=folder, max_tokens=6, quantise={"backend": backend}) as bench:
        assert isinstance(bench(NOISE).caption.text, str)
        assert held_bytes(bench.operator._eye.model) < 0.8 * whole


def test_a_library_that_is_not_there_is_named(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantising, "installed", lambda bits=8, device="cuda": [])
    with pytest.raises(MissingError, match="pip install torchao"), Bench("vlm.refine", model=folder, quantise={"bits": 8}):
        pass


def ways(model: str, monkeypatch: pytest.MonkeyPatch, *, there: tuple[str, ...] = (), budget: int | None = None, **params: Any) -> Any:
    """The placement of the model within `budget` bytes."""
    monkeypatch.setattr(quantising, "installed", lambda bits=8, device="cuda": list(there))
    told = Refine.outlook(Asked({"model": model, **params}, every=48))
    assert told is not None
    return plan_memory({"look": told}, budget, reserve=0).placements[0]


def test_sizes_are_counted_where_the_files_are(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from operators.models.sizes import count

    held = ways(folder, monkeypatch)
    assert held.weights.exact
    assert held.weights.bytes == 2 * count(Path(folder)).total
    known = ways("Qwen/Qwen2-VL-2B-Instruct", monkeypatch)
    assert not known.weights.exact
    assert known.weights.bytes > 4e9


def test_it_is_quantised_where_that_is_allowed_and_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "Qwen/Qwen2-VL-2B-Instruct"
    assert ways(name, monkeypatch, budget=3 * 10**9).how == "host"
    assert ways(name, monkeypatch, budget=3 * 10**9, there=("torchao",)).how == "host"  # nobody allowed it
    allowed = ways(name, monkeypatch, budget=3 * 10**9, there=("torchao",), quantise="auto")
    assert allowed.how == "int8"
    assert allowed.way.stays < 0.62 * allowed.weights.bytes
    assert ways(name, monkeypatch, there=("torchao",), quantise="auto").how == "resident"  # nor needed
    assert ways(name, monkeypatch, budget=10**9, there=("torchao",), quantise="auto").how == "host"
    fixed = ways(name, monkeypatch, quantise={"backend": "bitsandbytes", "bits": 4})
    assert fixed.how == "int4"
    assert fixed.way.stays < 0.42 * fixed.weights.bytes
    assert ways(name, monkeypatch, placement="host").how == "host"
