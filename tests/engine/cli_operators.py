"""Operators of the family `clitest`, for runs of the real command: a counting source, one that fails, one that chats, one that gets stuck."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from typing import Annotated

from engine.operator import Knob, Operator, Stamped, StreamInfo, operator
from engine.payload import Image
from engine.site import Site


@operator("clitest.count")
class Count(Operator):
    """Grey pictures, 64 x 48, one every `every_ms`; 0 `frames` never end. Says how many where there is an end."""

    def __init__(self, *, frames: int = 30, every_ms: float = 0.0) -> None:
        self.frames, self.every_ms = frames, every_ms

    def open(self, site: Site) -> None:
        super().open(site)
        site.describe(StreamInfo(fps=25.0, frames=self.frames or None, size=(48, 64)))

    def __call__(self) -> Iterator[Image]:
        begun, n = self.site.clock.now(), 0
        while not self.frames or n < self.frames:
            if self.every_ms and not self.site.sleep_until(begun + round(n * self.every_ms * 1e6)):
                return
            data = self.site.empty((48, 64, 3))
            data.fill(n % 256)
            yield Stamped(Image(data), pts=n * 40_000_000)
            n += 1


@operator("clitest.fail")
def fail(image: Image, *, at: int = 10, site: Site) -> Image:
    """Raises at frame `at`."""
    if site.seq == at:
        raise ValueError("the wheel came off at rtsp://bob:secret@host/x")
    return image


@operator("clitest.chat")
def chat(image: Image, *, at: int = 3, level: Annotated[float, Knob(0, 1)] = 0.5, site: Site) -> Image:
    """Prints to stdout, from Python and below it, says "ready" on stderr at frame `at`, and puts an event into the log."""
    if site.seq == at:
        print("noise from python")
        os.write(1, b"noise from below\n")
        site.event("chatted", url="rtsp://bob:secret@host/x")
        print("ready", file=sys.stderr, flush=True)
    return image


@operator("clitest.stuck")
def stuck(image: Image, *, at: int = 3, site: Site) -> Image:
    """Does not return from frame `at` until the session is aborted."""
    while site.seq >= at:
        site.check()
        if site.seq == at:
            print("ready", file=sys.stderr, flush=True)
            at = -1 if at < 0 else at
        time.sleep(0.005)
    return image
