"""The loop against StreamDiffusion 0.1.1 from PyPI, unmodified, on the same networks and noise: the same pictures within 1e-5.

Skipped where it is not: install it with `pip install --no-deps --target DIR streamdiffusion==0.1.1` and set STREAMDIFFUSION=DIR.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from bench import cpu_streamdiffusion as bench  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def kind() -> Iterator[Any]:
    event, synchronize = torch.cuda.Event, torch.cuda.synchronize
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield bench.find(os.environ.get("STREAMDIFFUSION", ""))
    except ImportError as error:
        pytest.skip(f"needs streamdiffusion 0.1.1, set STREAMDIFFUSION to where it is: {error}")
    finally:
        torch.cuda.Event, torch.cuda.synchronize = event, synchronize
        torch.set_num_threads(threads)


@pytest.mark.parametrize("case", bench.CASES)
def test_the_same_pictures(kind: Any, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SIDE", 128)
    assert bench.difference(kind, bench.networks((32, 32, 32, 32)), case, frames=5) <= 1e-5


@pytest.mark.parametrize("case", bench.GUIDED)
def test_the_same_pictures_under_residual_guidance(kind: Any, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SIDE", 128)
    parts = bench.networks((32, 32, 32, 32))
    assert bench.difference(kind, parts, case, frames=8) <= 1e-5
    monkeypatch.setattr(bench, "SCALE", 1.0 + 1e-6)
    plain = _ours(parts, case)
    monkeypatch.undo()
    monkeypatch.setattr(bench, "SIDE", 128)
    assert max(float((a - b).abs().max()) for a, b in zip(plain, _ours(parts, case), strict=True)) > 1e-2  # guidance does something here


def _ours(parts: Any, case: str) -> list[Any]:
    nominal, indices, _, _, guidance = bench.GUIDED[case]
    frame, _ = bench.ours(parts, nominal, len(indices), guidance)
    with torch.inference_mode():
        return [frame(each)[1] for each in bench.pictures(3)]
