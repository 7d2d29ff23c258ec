"""`image.pick`: one good picture out of a stream, for whoever needs one to look at: a reference, a thumbnail.

Invariant: what it has picked stays picked until somebody asks for another; a picture that shows nothing is never picked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from engine.operator import HOST_RGB, Live, Operator, operator
from engine.payload import Image, Pose

if TYPE_CHECKING:
    import numpy as np

SIDE = 128  # of the grey picture that is judged
JOINTS = 9  # of 18 that have to be seen


@operator("image.pick")
class Pick(Operator):
    """The sharpest of the first `among` good pictures, once; then nothing until `take` rises, which picks again.

    A picture is good where its brightness spreads by at least `contrast` (standard deviation, 0..1): cameras begin dark, or grey. With
    person = true it also has to show somebody: at least half of the joints of a person on `pose`. Sharpness is the mean absolute Laplacian
    (Pertuz et al. 2013) of a grey picture of 128 px, over the spread of its brightness, so that light counts for nothing. Out comes a picture
    (H, W, 3) uint8 as it went in, under the number of the last one that was looked at.
    """

    def __init__(
        self, *, contrast: Annotated[float, Live(0, 1)] = 0.08, among: Annotated[int, Live(1, 1000)] = 8,
        person: Annotated[bool, Live()] = False, take: Annotated[int, Live(0, 1_000_000_000)] = 0,
    ) -> None:  # fmt: skip
        self.contrast, self.among, self.person, self.take = contrast, among, person, take
        self._taken, self._done, self._seen, self._score = take, False, 0, -1.0
        self._best: np.ndarray[Any, Any] | None = None

    def __call__(self, image: Annotated[Image, HOST_RGB], pose: Pose | None = None) -> Annotated[Image, HOST_RGB] | None:
        import numpy as np

        if self.take > self._taken:
            self._taken, self._done, self._seen, self._score, self._best = self.take, False, 0, -1.0, None
        if self._done or (self.person and not _somebody(pose)):
            return None
        spread, sharp = _judged(np.asarray(image.data))
        if spread < self.contrast:
            return None
        self._seen += 1
        if sharp > self._score:
            self._score, self._best = sharp, np.array(image.data)
        if self._seen < self.among:
            return None
        assert self._best is not None
        out = self.site.empty(self._best.shape)
        out[...] = self._best
        self.site.event("picked", among=self._seen, sharpness=round(self._score, 4))
        self._done, self._best = True, None
        return Image(out)

    def snapshot(self) -> dict[str, Any]:
        """What was seen so far, the best picture among it."""
        best = None if self._best is None else self._best.copy()
        return {"taken": self._taken, "done": self._done, "seen": self._seen, "score": self._score, "best": best}

    def recall(self, state: dict[str, Any]) -> None:
        self._taken, self._done, self._seen, self._score = (state[key] for key in ("taken", "done", "seen", "score"))
        self._best = state["best"]


def _judged(picture: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Spread of brightness (0..1), and sharpness."""
    import cv2
    import numpy as np

    height, width = picture.shape[:2]
    scale = SIDE / max(height, width)
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    grey = cv2.cvtColor(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    spread = float(grey.std())
    return spread, float(np.abs(cv2.Laplacian(grey, cv2.CV_32F)).mean()) / max(spread, 1e-6)


def _somebody(pose: Pose | None) -> bool:
    import numpy as np

    return pose is not None and any(int((person[:, 2] > 0.5).sum()) >= JOINTS for person in np.asarray(pose.people))
