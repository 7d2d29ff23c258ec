"""Operators for the tests of child processes; imported here and there."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import numpy as np

from engine.errors import MissingError
from engine.operator import Live, Operator, Stamped, StreamInfo, operator
from engine.payload import Data, Image, Latent, Mask, Pose, Scalar
from engine.site import Site


class Parts(NamedTuple):
    image: Image
    mask: Mask
    pose: Pose | None
    latent: Latent
    data: Data


@operator("child.parts")
class Child(Operator):
    """Several kinds of payload, back as they came, but changed where one can tell; and what the site says of itself."""

    def __init__(self, *, gain: Annotated[int, Live(0, 9)] = 1, path: str = "") -> None:
        self.gain, self.path, self.calls = gain, path, 0

    def open(self, site: Site) -> None:
        super().open(site)
        site.event("opened", pid=os.getpid())

    def __call__(self, image: Image, latent: Latent, pose: Pose | None = None, masks: list[Mask] = []) -> Parts:  # noqa: B006
        self.calls += 1
        site = self.site
        if site.seq == 3:
            site.request_reset("a cut")
            site.output("out/here.mp4")
        out = site.empty(image.data.shape)
        np.multiply(image.data, self.gain, out=out)
        facts = {
            "pid": os.getpid(), "calls": self.calls, "seq": site.seq, "pts": site.pts, "epoch": site.epoch, "key": site.key(),
            "draw": float(site.rng().random()), "masks": len(masks), "now": site.clock.now(), "born": site.born, "fps": site.origin.fps,
            "writable": image.data.flags.writeable, "node": site.node,
        }  # fmt: skip
        return Parts(Image(out), Mask(np.full((90, 70), 255, "uint8")), pose, Latent(latent.data * 2), Data(facts))

    def reset(self) -> None:
        self.calls = 100

    def flush(self) -> Any:
        return Parts(Image(np.zeros((80, 80, 3), "uint8")), Mask(np.zeros((2, 2), "uint8")), None, Latent(np.zeros(3)), Data({"last": True}))

    def relieve(self) -> bool:
        return self.gain == 1

    def close(self) -> None:
        if self.path:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write("closed\n")


@operator("child.add")
def add(image: Image, *, amount: Annotated[int, Live(0, 255)] = 1, site: Site) -> Image:
    """A function with parameters and a site."""
    return Image(image.data + np.uint8(amount + site.seq))


@operator("child.naughty")
class Naughty(Operator):
    """Misbehaves as told by the frame's number."""

    def __init__(self, *, refuse: bool = False, path: str = "") -> None:
        if refuse:
            raise MissingError("model 'x' is not here", fix="engine models pull x")
        self.path = path

    def __call__(self, number: Scalar) -> Scalar:
        deed = int(number.value)
        if deed == 1:
            raise ZeroDivisionError("by nought")
        if deed == 2:
            raise MissingError("weights are not here", fix="fetch them")
        if deed == 3:
            os._exit(7)
        if deed == 4:
            time.sleep(3600)
        if deed == 5:
            import torch

            raise torch.OutOfMemoryError("CUDA out of memory.")
        if deed == 6:
            raise type("Odd", (Exception,), {})("quite odd")
        if deed == 7:
            for _ in range(4):
                time.sleep(0.4)
                self.site.event("alive")
        return Scalar(float(os.getpid()))

    def close(self) -> None:
        if self.path:
            time.sleep(3600)


@operator("child.late")
class Late(Operator):
    """Takes its time, and writes what it did when closed."""

    def __init__(self, *, path: str) -> None:
        self.path, self.calls = path, 0

    def __call__(self, number: Scalar) -> None:
        time.sleep(0.5)
        self.calls += 1

    def close(self) -> None:
        with open(self.path, "w", encoding="utf-8") as file:
            file.write(f"{self.calls} calls")


@operator("child.count")
class Count(Operator):
    """A source of three frames."""

    def open(self, site: Site) -> None:
        super().open(site)
        site.describe(StreamInfo(url="count", fps=12.5))

    def __call__(self) -> Iterator[Image]:
        for i in range(3):
            yield Stamped(Image(np.full((40, 40, 3), i, "uint8")), pts=i * 80)  # type: ignore[misc]


@operator("child.deeds")
class Deeds(Operator):
    """A source of numbers."""

    def __init__(self, *, deeds: list[int]) -> None:
        self.deeds = deeds

    def __call__(self) -> Iterator[Scalar]:
        yield from (Scalar(float(deed)) for deed in self.deeds)


@operator("child.pids")
def pids(number: Scalar) -> None:
    """A sink of numbers."""
