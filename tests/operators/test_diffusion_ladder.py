"""A painting node and a picture-to-text model in one session, with real errors of torch: who gives up what, and in what order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import vlm_checkpoints  # noqa: E402
from diffusion_checkpoints import checkpoints  # noqa: E402

from engine.graph import Govern, GraphBuilder, KnobRule  # noqa: E402
from engine.operator import Operator, Stamped  # noqa: E402
from engine.payload import Image  # noqa: E402
from engine.planning.compile import compile  # noqa: E402
from engine.session import Session  # noqa: E402
from operators.vlm import backends  # noqa: E402


class Camera(Operator):
    """Three pictures."""

    def __call__(self) -> Iterator[Image]:
        for n in range(3):
            noise = np.random.default_rng(n).integers(0, 256, (128, 128, 3), np.uint8)
            yield Stamped(Image(noise), pts=n * 40_000_000)  # type: ignore[misc]


@pytest.fixture(scope="module")
def eye(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(vlm_checkpoints.qwen(tmp_path_factory.mktemp("vlm"), "qwen2_vl"))


def opened(eye: str, monkeypatch: pytest.MonkeyPatch) -> Session:
    check = checkpoints()
    made = backends.Transformers.__init__

    def on_a_device(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        self.device = torch.device("cpu", 0)  # told apart from the host, so that leaving it counts

    monkeypatch.setattr(backends.Transformers, "__init__", on_a_device)
    knobs = (KnobRule("paint.steps", (2, 4)), KnobRule("paint.size", choices=(128, 64)))
    g = GraphBuilder("short", clock="offline", govern=Govern(knobs=knobs))
    g.node("camera", "source.video", url="0")
    g.node(
        "paint", "diffusion.stream", image="camera", model=check.model, vae=check.taesd, size=128, width=128, height=128, steps=4, strength=0.6,
        dtype="fp32", guidance="none", scheduler="ddim", prompt={"from": "look.prompt", "hold": "a dancer"},
    )  # fmt: skip
    g.node("look", "vlm.refine", image={"from": "paint.image", "policy": "block"}, model=eye, max_tokens=2, lane="slow")
    g.node("seen", "sink.null", image="paint.image")
    session = Session(compile(g.build()), executor="inline", device="cpu")
    session.stand_in = lambda node: Camera() if node.plan.op == "source.video" else None
    return session


@pytest.mark.parametrize("depth", range(1, 5))
def test_a_frame_gives_up_one_thing_after_the_other(depth: int, eye: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The UNet has no memory until the first `depth` things are given up; the frame in hand is painted, and every other one."""
    torch.set_num_threads(1)
    session = opened(eye, monkeypatch)
    tries: list[tuple[int, bool, int, int, bool]] = []

    def watch(operator: Any) -> None:
        plain = operator.models.unet.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            node = session.nodes["look"].operator
            now = (operator.site.seq, node._rested, operator.steps, operator.size, operator.models.relieved)
            if not tries or tries[-1] != now:
                tries.append(now)
            given = [now[1], now[2] == 2, now[3] == 64, now[4]]
            if operator.site.seq >= 1 and not all(given[:depth]):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return plain(*args, **kwargs)

        operator.models.unet.forward = forward

    from operators.diffusion.stream import Stream

    loaded = Stream.open

    def open_and_watch(self: Any, site: Any) -> None:
        loaded(self, site)
        watch(self)

    monkeypatch.setattr(Stream, "open", open_and_watch)
    summary = session.run()
    session.check()
    assert summary.error is None
    assert summary.frames["out"] == 3
    assert summary.frames["drops"] == {}
    told = [(e["node"], e["seq"], e["rung"]) for e in session.events if e["what"] == "memory"]
    rungs = ["look away", "steps 2", "size 64", "offload"]
    assert told == [("paint", 1, rung) for rung in rungs[:depth]]
    steps = [(1, False, 4, 128, False), (1, True, 4, 128, False), (1, True, 2, 128, False), (1, True, 2, 64, False), (1, True, 2, 64, True)]
    assert tries == [(0, False, 4, 128, False), *steps[: depth + 1], (2, *steps[depth][1:])]
