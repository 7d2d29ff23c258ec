"""`sink.tap`: the newest picture, for whoever in this process wants to look at it: a preview page, a snapshot, a notebook.

Invariant: a graph with a tap runs as it does without one. Nothing is downloaded or copied while nobody watches; a watcher that is slow
misses pictures and delays nobody. What is handed out is a copy of its own, good for as long as it is held. It knows nothing of encoding.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from engine.operator import HOST_RGB, Format, Operator, operator
from engine.payload import Image
from engine.planning.convert import convert

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A picture that came by: (H, W, 3) uint8 RGB and the frame it belongs to. `count` numbers what the mailbox was given, from 1."""

    picture: Array
    count: int
    seq: int
    epoch: int
    pts: int  # ns on the graph's clock
    born: int  # capture, monotonic ns
    version: int  # of the parameters it was made with


class Mailbox:
    """Holds the newest picture. `put` and `end` are the tap's; all other methods may be called from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._latest: Seen | None = None
        self._watchers = 0
        self._count = 0
        self._taps = 0
        self.ended = False  # the last tap has closed, and none has opened since

    # ---- the tap's side

    def put(self, picture: Array, *, seq: int = -1, epoch: int = 0, pts: int = 0, born: int = 0, version: int = 0) -> None:
        """Replace the picture by a newer one, which the mailbox may keep."""
        with self._changed:
            self._count += 1
            self._latest = Seen(picture, self._count, seq, epoch, pts, born, version)
            self._changed.notify_all()

    def begin(self) -> None:
        """A tap has opened."""
        with self._changed:
            self._taps += 1
            self.ended = False

    def end(self) -> None:
        """A tap has closed. After the last one nobody waits any longer; its last picture stays."""
        with self._changed:
            self._taps -= 1
            self.ended = self._taps <= 0  # a reload opens the new tap before it closes the old one
            self._changed.notify_all()

    # ---- the watchers' side

    @property
    def wanted(self) -> bool:
        """Whether anybody watches."""
        return self._watchers > 0

    @property
    def watchers(self) -> int:
        return self._watchers

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Ask for pictures: they come only while somebody is in this block."""
        with self._changed:
            self._watchers += 1
        try:
            yield
        finally:
            with self._changed:
                self._watchers -= 1

    @property
    def count(self) -> int:
        """How many pictures have come so far."""
        return self._count

    def latest(self) -> Seen | None:
        """The newest picture, None before the first. Old where nobody has been watching."""
        return self._latest

    def next(self, after: int = 0, timeout: float | None = None) -> Seen | None:
        """The newest picture whose count is above `after`, waiting for it; None when `timeout` seconds pass or the tap closes first.

        Call it inside `watching`: nothing comes otherwise.
        """
        until = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while self._latest is None or self._latest.count <= after:
                left = None if until is None else until - time.monotonic()
                if self.ended or (left is not None and left <= 0):
                    return None
                self._changed.wait(left)
            return self._latest

    def fresh(self, timeout: float = 2.0) -> Seen | None:
        """A picture made from now on, or the newest there is where none comes within `timeout` seconds (paused, ended)."""
        with self.watching():
            return self.next(self._count, timeout) or self._latest


_boxes: dict[str, Mailbox] = {}
_finding = threading.Lock()


def mailbox(name: str) -> Mailbox:
    """The mailbox called `name`, the same one for every tap of that name: it outlives the tap, and so the reload of a graph."""
    with _finding:
        return _boxes.setdefault(name, Mailbox())


def forget(name: str) -> None:
    """Let go of the mailbox called `name`, where there is one."""
    with _finding:
        _boxes.pop(name, None)


@operator("sink.tap")
class Tap(Operator):
    """Keep the newest picture for watchers in this process; nothing is downloaded or copied while there are none.

    `box`: the name of the mailbox to put it into, `operators.sink.tap.mailbox(name)`; taps of one name share it. Without a name the mailbox
    is the operator's own: `session.nodes["eye"].operator.mailbox`. Frames that come while nobody watches are dropped as `unwatched`.
    """

    onlooker = True

    def __init__(self, *, box: str = "") -> None:
        self.mailbox = mailbox(box) if box else Mailbox()
        self._feeds = False

    def open(self, site: Any) -> None:
        super().open(site)
        self.mailbox.begin()
        self._feeds = True

    def wanted(self) -> bool:
        return self.mailbox.wanted

    def __call__(self, image: Annotated[Image, Format()]) -> None:
        # Any format is taken and converted here, not by the plan: what nobody looks at must not cross the bus.
        if not HOST_RGB.accepts(Format(str(image.data.dtype).removeprefix("torch."), image.layout, image.color, _where(image))):
            image = convert(image, site=self.site)
        site = self.site
        version = site.packet.version if site.packet else 0
        self.mailbox.put(image.data.copy(), seq=site.seq, epoch=site.epoch, pts=site.pts, born=site.born, version=version)  # type: ignore[union-attr]

    def close(self) -> None:
        if self._feeds:
            self._feeds = False
            self.mailbox.end()


def _where(image: Image) -> str:
    return "cpu" if hasattr(image.data, "__array_interface__") else "lane"
