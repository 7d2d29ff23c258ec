"""Two lanes that load at once do not disturb each other."""

from __future__ import annotations

import threading

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from diffusion_checkpoints import checkpoints  # noqa: E402

from engine.testing import Bench  # noqa: E402
from operators.models.loading import LOADING, library  # noqa: E402


def test_a_lane_waits_for_another_to_load() -> None:
    """A module that is made while a loader has replaced how parameters are made would have no data."""
    opened, began = threading.Event(), threading.Event()
    found: list[bool] = []

    def load() -> None:
        began.set()
        with Bench("diffusion.decode", vae=checkpoints().taesd) as bench:
            opened.set()
            found.append(any(p.is_meta for p in bench.operator.coder.module.parameters()))

    from accelerate import init_empty_weights

    checkpoints()
    lane = threading.Thread(target=load)
    with LOADING, init_empty_weights(include_buffers=False):
        lane.start()
        assert began.wait(30)
        assert torch.nn.Linear(1, 1).weight.is_meta
        assert not opened.wait(0.2)
    lane.join(60)
    assert found == [False]


def test_a_library_is_what_stands_in_its_place() -> None:
    import sys

    assert library("diffusers") is sys.modules["diffusers"]
    assert library("diffusers").UNet2DConditionModel
