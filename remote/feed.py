"""One shown output: its newest picture, encoded once for all who look at it in the same way.

A thread runs while somebody looks, and only then. Before each picture it asks every watcher whether it could take one now; who cannot is
passed over, and gets the newest when it can: nobody is ever sent an older picture than there is. Invariants: a watcher gets an H.264
frame only when it can decode it; what nobody can take is not encoded. It knows no sockets.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from operators.link.coder import file_of
from remote.encode import JPEG, encoder, shrunk

if TYPE_CHECKING:
    from operators.link.coder import H264
    from operators.sink.tap import Mailbox, Seen

Enc = Literal["h264", "jpeg"]
IDLE_S = 0.25  # how long a thread that nobody wants any more may go on, and a newcomer to a still picture waits
KEY_PAUSE = 0.3  # s between key frames while others follow the stream: one slow viewer must not cost all the others' bits
WINDOW_S = 3.0  # a viewer is judged by what it got over so long
BEHIND = 0.5  # share of pictures passed over that makes a viewer light
PROBATION_S = 8.0  # before a light viewer is tried at full size again; doubles each time


@dataclass(frozen=True, slots=True)
class Frame:
    """An encoded picture. `header` has the keys of the wire format that do not depend on who reads."""

    header: dict[str, Any]
    payload: bytes
    key: bool
    codec: str
    seen: Seen


@dataclass(eq=False)
class Watcher:
    """Somebody who looks. Subclasses say when they can take a frame (`free`) and take it (`give`), both on the feed's thread."""

    enc: Enc = "jpeg"
    light: bool = False
    stream: int = -1  # which encoder it follows, and how many of its frames it has had: it can decode the next one
    had: int = -1
    last: int = 0  # count of the last picture it was given
    passed: int = 0
    _judged: deque[tuple[float, bool]] = field(default_factory=deque)
    _since: float = field(default_factory=time.monotonic)
    _patience: float = PROBATION_S

    def free(self) -> bool:
        """Whether it can take a frame now."""
        raise NotImplementedError

    def give(self, frame: Frame) -> None:
        """Take a frame; must not wait."""
        raise NotImplementedError

    def restart(self) -> None:
        """It begins anew: the next frame has to be a key frame."""
        self.stream = self.had = -1
        self.last = 0

    def judge(self, taken: bool, now: float) -> None:
        """Note whether it could take a picture, and make it a light viewer, or a full one again, accordingly."""
        self.passed += not taken
        judged = self._judged
        judged.append((now, taken))
        while judged and now - judged[0][0] > WINDOW_S:
            judged.popleft()
        missed = sum(not t for _, t in judged) / len(judged)
        if now - self._since < WINDOW_S or len(judged) < 10:
            return
        if not self.light and missed > BEHIND:
            self.light, self._since = True, now
        elif self.light and missed < BEHIND / 4 and now - self._since > self._patience:
            self.light, self._since, self._patience = False, now, self._patience * 2


class Feed:
    """The pictures of one output. `add` and `remove` may be called from any thread."""

    def __init__(self, of: str, box: Mailbox) -> None:
        self.of, self.box = of, box
        self.fault = ""  # what ended the last thread, if anything
        self._lock = threading.Lock()
        self._watchers: list[Watcher] = []
        self._thread: threading.Thread | None = None
        self._newcomer = False
        self._streams = 0
        self._encoders: dict[bool, tuple[int, H264]] = {}
        self._keyed: dict[bool, float] = {}
        self.encoded = {"h264": 0, "jpeg": 0}

    @property
    def watchers(self) -> int:
        return len(self._watchers)

    def add(self, watcher: Watcher) -> None:
        """Begin to show `watcher` what comes, starting with the picture that is there."""
        watcher.restart()
        with self._lock:
            self._watchers.append(watcher)
            self._newcomer = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"preview {self.of}", daemon=True)
                self._thread.start()

    def remove(self, watcher: Watcher) -> None:
        """Stop showing `watcher` anything. The thread ends soon after the last one has gone."""
        with self._lock:
            self._watchers = [w for w in self._watchers if w is not watcher]

    def close(self, timeout: float = 5.0) -> None:
        """Let go of everybody and wait for the thread."""
        with self._lock:
            self._watchers = []
            thread = self._thread
        if thread is not None:
            thread.join(timeout)

    # ---- the thread

    def _run(self) -> None:
        try:
            with self.box.watching():
                self._show()
        except Exception as error:  # the graph must not end because a picture cannot be encoded
            self.fault = f"{type(error).__name__}: {error}"
            with self._lock:
                self._thread = None
        finally:
            self._encoders.clear()

    def _show(self) -> None:
        count = self.box.count
        while True:
            with self._lock:
                if not self._watchers:
                    self._thread = None  # under the lock: whoever comes now starts another
                    return
                watchers, newcomer, self._newcomer = list(self._watchers), self._newcomer, False
            if newcomer and (still := self.box.latest()) is not None:
                self._offer(still, [w for w in watchers if w.had < 0])
            if self.box.ended:
                time.sleep(IDLE_S / 5)  # between two graphs, or after the last
                continue
            seen = self.box.next(count, IDLE_S)
            if seen is not None:
                count = seen.count
                with self._lock:
                    watchers = list(self._watchers)
                self._offer(seen, watchers)

    def _offer(self, seen: Seen, watchers: list[Watcher]) -> None:
        now = time.monotonic()
        groups: dict[tuple[Enc, bool], list[Watcher]] = {}
        for watcher in watchers:
            if watcher.last >= seen.count:  # a newcomer was given it when it came
                continue
            free = watcher.free()
            watcher.judge(free, now)
            if free:
                groups.setdefault((watcher.enc, watcher.light), []).append(watcher)
        for (enc, light), group in groups.items():
            picture = shrunk(seen.picture, light)
            if enc == "jpeg":
                self.encoded["jpeg"] += 1
                frame = Frame(self._header(seen, enc), file_of(picture, "jpeg", JPEG[light]), True, "", seen)
                for watcher in group:
                    watcher.had, watcher.last = 0, seen.count
                    watcher.give(frame)
            else:
                self._h264(seen, picture, light, group, now)

    def _h264(self, seen: Seen, picture: Any, light: bool, group: list[Watcher], now: float) -> None:
        height, width = picture.shape[:2]
        stream, coder = self._encoders.get(light, (0, None))
        if coder is None or (coder.height, coder.width) != (height, width):
            self._streams += 1
            stream, coder = self._encoders[light] = self._streams, encoder(height, width, light)
        can = [w for w in group if (w.stream, w.had) == (stream, coder.count)]
        key = len(can) < len(group) and (not can or now - self._keyed.get(light, 0.0) > KEY_PAUSE)
        unit, whole = coder.encode(picture, seen.born, key=key)
        if whole:
            self._keyed[light] = now
        self.encoded["h264"] += 1
        frame = Frame(self._header(seen, "h264"), unit, whole, coder.codec if whole else "", seen)
        for watcher in group if whole else can:
            watcher.stream, watcher.had, watcher.last = stream, coder.count, seen.count
            watcher.give(frame)

    def _header(self, seen: Seen, enc: Enc) -> dict[str, Any]:
        color = {"space": "srgb", "order": "rgb", **({"matrix": "bt709", "range": "limited"} if enc == "h264" else {})}
        return {
            "v": 1, "kind": "frame", "stream": self.of, "seq": seen.seq, "epoch": seen.epoch, "pts": seen.pts,
            "born": time.time_ns() - (time.monotonic_ns() - seen.born),
            "params": seen.version, "type": "Image", "enc": enc, "dtype": "uint8", "shape": list(seen.picture.shape), "layout": "hwc",
            "color": color,
        }  # fmt: skip
