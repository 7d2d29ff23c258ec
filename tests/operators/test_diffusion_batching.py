"""Several frames in one pass: a frame batch and a stream batch, each frame what it would be alone; order, resets, retries, refusals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusion_checkpoints import picture, skeleton, stream  # noqa: E402

from engine.errors import UsageError  # noqa: E402
from engine.packet import Packet  # noqa: E402
from engine.payload import Data, Image, Latent, Prompt  # noqa: E402

STREAM = {"stream": True}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Gathered:
    """Calls the operator of a bench as the engine would: with frames that have their own packets."""

    def __init__(self, bench: Any) -> None:
        self.bench, self.site, self.seq = bench, bench.site, 0

    def packet(self) -> Packet:
        packet = Packet(self.seq, self.seq * 40_000_000, self.bench.epoch, 0, Data())
        self.seq += 1
        return packet

    def __call__(self, frames: Sequence[dict[str, Any]], packets: list[Packet] | None = None) -> list[Any]:
        self.site.packets = packets if packets is not None else [self.packet() for _ in frames]
        if self.site.packets:
            self.site.packet = self.site.packets[-1]
        return self.bench.operator.call_batch([dict(f) for f in frames])

    def slide(self, frames: Sequence[dict[str, Any]]) -> list[Any]:
        """One at a time, then all that is left."""
        found: list[Any] = []
        for frame in frames:
            found += self([frame])
        return found + self([])


def inputs(count: int, *, control: bool = True) -> list[dict[str, Any]]:
    return [{"image": Image(picture(50 + n)), **({"control": skeleton(n % 3)} if control else {})} for n in range(count)]


def singles(frames: Sequence[dict[str, Any]], **params: Any) -> list[Any]:
    with stream(**params) as bench:
        return [bench(**frame) for frame in frames]


def near(a: Any, b: Any) -> bool:
    """Within rounding: 1e-5 of the largest value, at most one level of a byte."""
    import numpy as np

    (image, latent), (other, clean) = a, b
    close = float((latent.data - clean.data).abs().max()) <= 1e-5 * max(1.0, float(clean.data.abs().max()))
    return close and int(np.abs(image.data.astype(int) - other.data).max()) <= 1


def agree(a: Sequence[Any], b: Sequence[Any]) -> bool:
    return len(a) == len(b) and all(near(x, y) for x, y in zip(a, b, strict=True))


WAYS: dict[str, dict[str, Any]] = {
    "plain": {"control": 0}, "control": {}, "two nets": {"control": 2}, "cfg": {"guidance": "cfg"}, "residual": {"guidance": "rcfg-self"},
    "dpm++": {"scheduler": "dpm++"}, "ancestral": {"scheduler": "euler_a", "fresh_noise": 0.4},
    "latent consistency": {"scheduler": "lcm", "fresh_noise": 1.0},
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["frames", "stream"])
def test_a_frame_of_a_batch_is_what_it_is_alone(way: str, kind: str) -> None:
    params = {"steps": 6, "strength": 0.67, **WAYS[way]}
    count = params.get("control", 1)
    frames = [{"image": Image(picture(50 + n)), "control": [*skeleton(n % 3), *skeleton(5)][:count]} for n in range(7)]
    alone = singles(frames, **params)
    with stream(site_batch=4, batching=STREAM if kind == "stream" else None, **params) as bench:
        call = Gathered(bench)
        got = call.slide(frames) if kind == "stream" else [*call(frames[:4]), *call(frames[4:])]
    assert agree(got, alone)
    assert not agree(got[:-1], alone[1:])
