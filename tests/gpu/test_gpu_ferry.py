"""Weights that cross to the card layer by layer: the bits of weights that lie there, two layers at a time, and the host waits for none of it.

    python -m pytest -m gpu tests/gpu
"""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusion_checkpoints import picture, stream  # noqa: E402

from engine.payload import Image  # noqa: E402
from operators.diffusion.weights.ferry import Cuda, Ferry  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def layers(count: int, width: int) -> list[Any]:
    made = [torch.nn.Linear(width, width, bias=False, dtype=torch.float16) for _ in range(count)]
    for layer in made:
        layer.weight = torch.nn.Parameter(layer.weight.data.pin_memory(), requires_grad=False)
    return made


def passed(ferry: Ferry, made: list[Any], x: Any, times: int) -> Any:
    """`times` products with each layer, one after the other."""
    for layer in made:
        weight = ferry.take(layer)
        for _ in range(times):
            x = torch.nn.functional.normalize(x @ weight)
        ferry.give(layer)
    return x


@pytest.mark.parametrize("times", [1, 50])
def test_a_chain_of_layers_is_right_whoever_is_quicker(times: int) -> None:
    """Copies that take longer than computing, and the other way round; the same place is written again and again."""
    made = layers(12, 1024)
    x = torch.randn(64, 1024, dtype=torch.float16, device="cuda")
    want = x
    for layer in made:
        weight = layer.weight.cuda()
        for _ in range(times):
            want = torch.nn.functional.normalize(want @ weight)
    ferry = Ferry(torch.device("cuda:0"))
    assert isinstance(ferry.streams, Cuda)
    with torch.inference_mode():
        for _ in range(5):
            assert torch.equal(passed(ferry, made, x, times), want)


def test_copies_run_while_layers_compute() -> None:
    """By torch's own account: copies from the host are under way while products are, the host waits for nothing, two places are enough."""
    made = layers(12, 4096)
    ferry = Ferry(torch.device("cuda:0"))
    for layer in made:
        ferry.add(layer)
    x = torch.randn(4096, 4096, dtype=torch.float16, device="cuda")
    with torch.inference_mode():
        for _ in range(3):
            passed(ferry, made, x, 4)
        torch.cuda.synchronize()
        assert ferry.places[0].buffer is not None
        assert sum(place.buffer.nbytes for place in ferry.places if place.buffer is not None) == 2 * made[0].weight.nbytes
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]) as profile:
            torch.cuda.set_sync_debug_mode("error")
            try:
                passed(ferry, made, x, 4)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            torch.cuda.synchronize()
    on_card = [event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    copies = [event.time_range for event in on_card if "Memcpy HtoD" in event.name]
    products = [event.time_range for event in on_card if "gemm" in event.name.lower() or "cutlass" in event.name.lower()]
    assert len(copies) == len(made)
    assert products
    assert any(copy.start < product.end and product.start < copy.end for copy in copies for product in products)


@pytest.mark.parametrize("settings", [{}, {"reuse": {"every": 2, "cut": 1}, "steps": 8}])
def test_frames_are_those_of_weights_on_the_card(settings: dict[str, Any]) -> None:
    placed = {"placement": {"unet": "group", "controlnets": "group"}}
    with stream(site_device="cuda:0", dtype="fp16", graphs="off", **settings) as plain, stream(
        site_device="cuda:0", dtype="fp16", graphs="off", **placed, **settings
    ) as moved:  # fmt: skip
        for n in range(4):
            found = []
            for bench in (plain, moved):
                out = bench([Image(picture(n))])
                found.append((out.image.data.copy(), torch.as_tensor(out.latent.data).cpu()))
                bench.let_go()
            assert (found[0][0] == found[1][0]).all(), n
            assert torch.equal(found[0][1], found[1][1]), n
