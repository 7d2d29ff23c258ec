"""An output that goes on when its source does not: the last picture again and again at the output's rate, after a while a slate instead.

Invariant: times only rise, whatever the source's clock did, and a new picture is shown at once. It reads no clock and sends nothing: its
owner tells it the time (ns, monotonic) and asks what to send, in a thread or in a child process alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

SECOND = 1_000_000_000
GRACE = 1.5  # periods without a picture before the last one is repeated: a source that is only a little late is no reason

TOLD = 0.5  # s of silence after which it is told: a graph that stutters would fill the log


@dataclass(frozen=True, slots=True)
class AlwaysOn:
    """What to show without a source, plain data. `slate`: "last", "dim", "text:WORDS" or a picture file, shown after `after` seconds."""

    fps: float
    slate: str = "last"
    after: float = 2.0


def check_slate(slate: str) -> None:
    """Refuse a slate that cannot be shown, before anything runs. Raises UsageError or what reading the picture raises."""
    if slate in ("last", "dim") or slate.startswith("text:"):
        return
    if not Path(slate).suffix:
        raise UsageError(f'slate = "{slate}" is not known', fix='there is "last", "dim", "text:WORDS" and the path of a picture')
    from operators.media.pictures import picture_size

    picture_size(Path(slate).expanduser())


def paint_slate(slate: str, last: Array) -> Array:
    """The picture to show instead of `last` (H, W, 3), of its size."""
    import cv2
    import numpy as np

    if slate == "last":
        return last
    height, width = last.shape[:2]
    if slate != "dim" and not slate.startswith("text:"):
        from operators.media.geometry import fitting, place
        from operators.media.pictures import read_picture

        out = np.empty_like(last)
        picture = read_picture(Path(slate).expanduser())
        scaled = fitting((picture.shape[1], picture.shape[0]), (width, height), "letterbox").scaled
        place(cv2.resize(picture, scaled, interpolation=cv2.INTER_AREA), out)
        return out
    out = (last * np.float32(0.35)).astype(np.uint8)
    words = slate.removeprefix("text:") if slate != "dim" else ""
    if words:
        font, thick = cv2.FONT_HERSHEY_SIMPLEX, max(1, height // 240)
        (w, h), _ = cv2.getTextSize(words, font, 1.0, thick)
        scale = min(0.8 * width / max(w, 1), 0.12 * height / max(h, 1))
        (w, h), _ = cv2.getTextSize(words, font, scale, thick)
        cv2.putText(out, words, ((width - w) // 2, (height + h) // 2), font, scale, (255, 255, 255), thick, cv2.LINE_AA)
    return out


class Pacing:
    """Keeps the last picture and says when it is due again. One thread uses it."""

    def __init__(self, on: AlwaysOn) -> None:
        self.on, self.period = on, round(SECOND / on.fps)
        self.repeated = 0
        self.showing = "source"  # or "last", "slate"
        self._last: Array | None = None
        self._slate: Array | None = None
        self._fresh = self._sent = 0

    def fresh(self, picture: Array, now: int) -> None:
        """A picture of the source goes out now. It is copied: its memory may be used again at once."""
        import numpy as np

        if self._last is None or self._last.shape != picture.shape:
            self._last = np.empty_like(picture)
        np.copyto(self._last, picture)
        self._fresh = self._sent = now
        self._slate, self.showing = None, "source"

    def silent(self, now: int) -> bool:
        """Whether the source has been silent for so long that it is worth telling."""
        return now - self._fresh > TOLD * SECOND

    def due(self) -> int | None:
        """When (ns) the next repeat is to be sent; None before the first picture."""
        if self._last is None:
            return None
        return self._sent + round(self.period * (GRACE if self.showing == "source" else 1.0))

    def repeat(self, now: int) -> Array:
        """The picture to send in place of one that did not come; call it when `due` is reached."""
        assert self._last is not None
        # Counted on from what was due, so that the rate holds; from now at the first one, and where the output was held up.
        self._sent = self._sent + self.period if self.showing != "source" and now - self._sent < 2 * self.period else now
        self.repeated += 1
        if now - self._fresh < self.on.after * SECOND or self.on.slate == "last":
            self.showing = "last"
            return self._last
        if self._slate is None:
            self._slate = paint_slate(self.on.slate, self._last)
        self.showing = "slate"
        return self._slate
