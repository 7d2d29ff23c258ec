"""Painting on a CUDA device, tiny networks: the frames of the host, captured or not, on lanes or not, and nothing asked in between.

    python -m pytest -m gpu tests/gpu                          on a machine with a GPU; needs neither a network nor a camera
    GPU_TESTS_DEVICE=cpu python -m pytest -m gpu tests/gpu     the tests themselves, anywhere
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusion_checkpoints import SIZE, checkpoints, picture, skeleton, stream  # noqa: E402

from engine.graph import GraphBuilder  # noqa: E402
from engine.payload import Image  # noqa: E402
from engine.planning.compile import compile  # noqa: E402
from engine.session import Session  # noqa: E402

DEVICE = os.environ.get("GPU_TESTS_DEVICE", "cuda:0")
CUDA = DEVICE.startswith("cuda")
pytestmark = [
    pytest.mark.gpu, pytest.mark.skipif(CUDA and not torch.cuda.is_available(), reason="needs a CUDA device that torch can use"),
]  # fmt: skip
only_cuda = pytest.mark.skipif(not CUDA, reason="speaks of CUDA's allocator and streams")


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """Single precision is single precision, and kernels are the same ones every time."""
    backends: Any = torch.backends
    before = backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, backends.cudnn.benchmark, backends.cudnn.deterministic
    backends.cuda.matmul.allow_tf32 = backends.cudnn.allow_tf32 = backends.cudnn.benchmark = False
    backends.cudnn.deterministic = True
    yield
    backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, backends.cudnn.benchmark, backends.cudnn.deterministic = before


@pytest.fixture
def one_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same noise on every device: drawn on the host."""
    from operators.diffusion.steps.noise import Noise

    def draw(self: Any, key: int, shape: tuple[int, ...]) -> Any:
        return torch.randn(shape, generator=torch.Generator().manual_seed(key)).to(self.device)

    monkeypatch.setattr(Noise, "draw", draw)


def settle(bench: Any) -> None:
    """Let the lane be idle until nothing is left to do."""
    for _ in range(200):
        if not bench.operator.idle():
            return
    raise AssertionError("there is always more to do")


def walk(bench: Any, count: int, control: int = 1) -> list[Any]:
    """Latents of `count` frames, each from the carried latent of the one before and from pictures of its own."""
    carry, found = None, []
    for n in range(count):
        given = [Image(picture(n + k)) for k in range(control)]
        painted = bench(given, Image(picture(9 + n)), carry)
        carry = painted.latent
        found.append(painted.latent.data.detach().float().cpu().clone())
        bench.let_go()
        if n:
            settle(bench)
    return found


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "two controls": {"control": 2, "control_ends": [1.0, 0.5]},
    "cfg": {"guidance": "cfg", "guidance_scale": 4.0, "negative": "blur"},
    "rcfg": {"guidance": "rcfg-self"},
    "noisy": {"scheduler": "lcm"},
    "scaled": {"scheduler": "euler_a"},
    "reuse": {"reuse": {"every": 2, "cut": 1}, "steps": 8},
}


@pytest.mark.parametrize("case", CASES)
def test_frames_are_those_of_the_host(case: str, one_noise: None) -> None:
    changes = CASES[case]
    with stream(**changes, site_device=DEVICE) as here, stream(**changes) as host:
        for found, expected in zip(*(walk(bench, 3, changes.get("control", 1)) for bench in (here, host)), strict=True):
            assert float((found - expected).abs().max()) <= 2e-3 * float(expected.abs().max())


@pytest.mark.parametrize("case", CASES)
def test_captured_frames_are_those_of_the_plain_loop(case: str) -> None:
    """Condition, picture, carry and noise move with every frame; the graphs are the same."""
    changes = {**CASES[case], "fresh_noise": 0.5}
    control = changes.get("control", 1)
    with stream(**changes, graphs="off", site_device=DEVICE) as plain, stream(**changes, graphs="auto", site_device=DEVICE) as quick:
        for n, (found, expected) in enumerate(zip(walk(quick, 7, control), walk(plain, 7, control), strict=True)):
            assert torch.equal(found, expected), n
        if CUDA:
            assert quick.operator._loop.graphs.ready > 0, "nothing was captured"


def test_half_precision_is_near_single_precision(one_noise: None) -> None:
    with stream(dtype="fp16" if CUDA else "bf16", site_device=DEVICE) as half, stream(dtype="fp32", site_device=DEVICE) as single:
        for found, expected in zip(walk(half, 3), walk(single, 3), strict=True):
            assert torch.isfinite(found).all()
            assert float((found - expected).norm() / expected.norm()) < 0.1


@only_cuda
def test_a_steady_frame_takes_no_memory_from_the_driver() -> None:
    with stream(site_device=DEVICE) as bench:
        walk(bench, 4)
        torch.cuda.synchronize()
        before, held = torch.cuda.memory_stats(), torch.cuda.memory_reserved()
        for n in range(20):
            bench(skeleton(n % 3), Image(picture(n)))
            bench.let_go()
        after = torch.cuda.memory_stats()
        assert torch.cuda.memory_reserved() == held
        assert after["segment.all.allocated"] == before["segment.all.allocated"]


@only_cuda
def test_nothing_but_the_picture_makes_the_host_wait() -> None:
    with stream(site_device=DEVICE) as bench:
        walk(bench, 4)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                bench(skeleton(1), Image(picture(3)))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        places = {os.path.basename(w.filename) for w in told if "synchroniz" in str(w.message)}
        assert places <= {"pixels.py"}, "only what takes the picture home may wait"


def graph(frames: int, **paint: Any) -> Any:
    """A figure that moves, its skeleton, and a painter that carries: three lanes."""
    g = GraphBuilder("lanes", clock="offline", in_flight=3, seed=5)
    g.node("dancer", "source.figure", size=SIZE, frames=frames, seed=1)
    g.node("bones", "pose.draw", pose="dancer.pose", width=SIZE, height=SIZE, lane="pose")
    g.node("paint", "diffusion.stream", control=["bones"], image="dancer.image", carry="paint.latent@-1", **paint)
    g.node("keep", "sink.keep", image="paint.image", count=64, height=SIZE, lane="out")
    return compile(g.build())


def kept(plan: Any, executor: str) -> list[bytes]:
    with Session(plan, device=DEVICE, executor=executor) as session:
        session.run()
        session.check()
        return [data for _, _, data in session.nodes["keep"].operator.kept]


def test_lanes_give_what_one_thread_gives() -> None:
    """Threads and streams that overlap, and one thread on one stream: the same pictures. A missing wait would show."""
    check = checkpoints()
    plan = graph(
        12, model=check.model, vae=check.taesd, controlnets=[{"model": check.control}], size=SIZE, steps=4, strength=0.6, dtype="fp32",
        guidance="none", scheduler="ddim", prompt="a dancer", graphs="off",
    )  # fmt: skip
    found, expected = kept(plan, "threaded"), kept(plan, "inline")
    assert len(found) == len(expected) >= 6
    assert found == expected
    assert len(set(found)) > 3


def test_the_embedded_model_paints_live() -> None:
    """The model that ships, under the live clock: frames arrive, none is lost without a cause, and they show something."""
    import io

    import numpy as np
    import PIL.Image

    from operators.embedded import root

    if not (root() / "unet").is_dir():
        pytest.skip("the embedded weights are not in this checkout")
    g = GraphBuilder("live", clock="live", in_flight=2, seed=5)
    g.node("dancer", "source.figure", size=256, frames=48, seed=1)
    g.node("bones", "pose.draw", pose="dancer.pose", width=256, height=256, lane="pose")
    g.node(
        "paint", "diffusion.stream", model="embedded", controlnets=[{"model": "embedded"}], control=["bones"], carry="paint.latent@-1",
        size=256, prompt="a dancer in a red coat",
    )  # fmt: skip
    g.node("keep", "sink.keep", image="paint.image", count=16, height=128, lane="out")
    with Session(compile(g.build(), embedded=True), device=DEVICE) as session:
        told = session.run()
        session.check()
        pictures = [np.asarray(PIL.Image.open(io.BytesIO(data))) for _, _, data in session.nodes["keep"].operator.kept]
    assert told.frames["out"] >= 1
    assert told.frames["in"] == told.frames["out"] + sum(told.frames["drops"].values())
    assert all(each.std() > 10 for each in pictures)
