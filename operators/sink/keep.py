"""`sink.keep`: a few small pictures of a run, spread over all of it, kept in memory for its report."""

from __future__ import annotations

from typing import Annotated

from engine.operator import Operator, Range, operator
from engine.payload import Image


@operator("sink.keep")
class Keep(Operator):
    """Keep at most `count` thumbnails, `height` px high, as JPEG: every n-th frame, and when there is no room, every second of those kept and
    every 2n-th from then on. So they are spread evenly whatever the length of the run. `kept` holds (seq, pts ns, JPEG bytes).
    """

    onlooker = True

    def __init__(self, *, count: Annotated[int, Range(2, 512)] = 24, height: Annotated[int, Range(16, 1024)] = 160) -> None:
        self.count, self.height = count, height
        self.kept: list[tuple[int, int, bytes]] = []
        self._every = 1
        self._came = 0

    def wanted(self) -> bool:
        wanted = self._came % self._every == 0
        self._came += not wanted  # a call counts the others
        return wanted

    def __call__(self, image: Image) -> None:
        import cv2
        import numpy as np

        if len(self.kept) >= self.count:
            self.kept = self.kept[::2]
            self._every *= 2
            if self._came % self._every:
                self._came += 1
                return
        self._came += 1
        width = max(1, round(image.width * self.height / image.height))
        small = cv2.resize(np.asarray(image.data), (width, self.height), interpolation=cv2.INTER_AREA)
        done, file = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 82])
        if done:
            self.kept.append((self.site.seq, self.site.pts, file.tobytes()))
