"""`source.zmq`: frames that another engine, or any program that speaks docs/wire.md, publishes.

Invariant: a frame keeps its seq, its pts and its capture time; a new epoch of the sender, or a sender that was started again, is a cut here.
What does not follow the wire format is counted and passed over. It knows streams and payloads; the socket and its thread are the client's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from engine.errors import EngineError, MediaError, UsageError, scrub
from engine.operator import HOST_RGB, Operator, Range, Stamped, StreamInfo, operator
from engine.payload import Data, Image, Latent, Mask, Payload, Pose, Prompt, Scalar, Text
from engine.site import Site

if TYPE_CHECKING:
    from bindings.python import Subscriber
    from bindings.python.frame import Frame

TICK_S = 0.1


class Received(NamedTuple):
    """What a stream may bring; each frame is one of these."""

    image: Annotated[Image, HOST_RGB] | None = None
    mask: Mask | None = None
    latent: Latent | None = None
    pose: Pose | None = None
    prompt: Prompt | None = None
    scalar: Scalar | None = None
    text: Text | None = None
    data: Data | None = None


@operator("source.zmq")
class Zmq(Operator):
    """Frames published over ZeroMQ, by `sink.zmq` of another engine or by any program that speaks the wire format.

    `url`: where they are published, such as "tcp://stage:5555"; `stream`: the name there. A picture comes as 8-bit RGB whatever it was sent as;
    other payloads come as outputs of their own (`pose`, `latent`, …).
    Under the live clock a slow graph gets the newest frame; offline every frame comes, and `queue` of them may wait (a `lossless` sender
    waits with them). `follow`: go on when the sender ends, and wait for the next one; else the stream ends with it.
    `open_timeout`: seconds to wait for the first sign of the sender (0: for ever). `read_timeout`: seconds without one after which it is taken
    for lost; it is waited for as long as `give_up` says (seconds, 0: for ever), and goes on behind a cut.
    `server_key`, `key`: the sender's public key, and a file with a key pair of one's own, where it asks for keys. `max_bytes`: larger frames
    are refused.

    seq, pts and capture time are the sender's; across machines ages are as good as their clocks agree. A new epoch there is a cut here.
    Raises MediaError where nobody sends, UsageError for keys or addresses that are none.
    """

    def __init__(
        self, *, url: str, stream: str = "live", queue: Annotated[int, Range(1, 100_000)] = 256, follow: bool = False,
        open_timeout: Annotated[float, Range(0, 3600)] = 10.0, read_timeout: Annotated[float, Range(1.5, 3600)] = 3.0,
        give_up: Annotated[float, Range(0)] = 60.0, server_key: str = "", key: str = "", max_bytes: Annotated[int, Range(1)] = 256 << 20,
    ) -> None:  # fmt: skip
        self.url, self.name, self.queue, self.follow = url, stream, queue, follow
        self.open_timeout, self.read_timeout, self.give_up = open_timeout, read_timeout, give_up
        self.server_key, self.key, self.max_bytes = server_key, key, max_bytes
        self.frames: Subscriber | None = None
        self._place: tuple[str, int] | None = None  # run and epoch of the last frame
        self._pts = self._shift = 0
        self._seq = -1
        self.late = 0
        self._last: Subscriber | None = None  # after close

    def open(self, site: Site) -> None:
        super().open(site)
        from bindings.python import KeyProblem, Subscriber, WireError

        try:
            self.frames = Subscriber(
                self.url, self.name, latest=site.live, queue=self.queue, wait=True, follow=self.follow, server_key=self.server_key or None,
                key=self.key or None, max_bytes=self.max_bytes,
            )  # fmt: skip
        except (KeyProblem, WireError) as error:
            raise UsageError(str(error)) from error
        self.named = scrub(self.url)
        site.describe(StreamInfo(url=self.named))

    def __call__(self) -> Iterator[Received]:
        frames = self.frames
        assert frames is not None
        begun, heard, lost = time.monotonic(), False, False
        while not self.site.stopping:
            try:
                frame = frames.read(TICK_S)
            except TimeoutError:
                heard = heard or frames.alive
                lost = self._silent(frames, begun, heard, lost)
                continue
            if frame is None:
                return
            if lost:
                lost = False
                self.site.event("reconnected", url=self.named, stream=self.name)
            heard = True
            stamped = self._stamped(frame)
            if stamped is not None:
                yield stamped  # type: ignore[misc]

    def _silent(self, frames: Subscriber, begun: float, heard: bool, lost: bool) -> bool:
        """Nothing came for a moment: whether the sender is to be taken for lost. Raises MediaError where there is no point in waiting on."""
        quiet = time.monotonic() - (frames.heard if heard else begun)
        if not heard:
            if self.open_timeout and quiet > self.open_timeout:
                why = frames.trouble or ("connected, but there is no such stream" if frames.connected else "nobody answers")
                raise MediaError(f"nothing comes from {self.url}, stream {self.name!r}: {why}", fix="is the sender running?")
            return False
        if frames.ended or quiet <= self.read_timeout:
            return lost
        if self.give_up and quiet > self.give_up:
            raise MediaError(f"{self.url} is lost: nothing was heard of it for {quiet:.0f} s", fix="set give_up = 0 to wait for ever")
        if not lost:
            self.site.event("lost", url=self.named, stream=self.name, why=frames.trouble or f"nothing heard for {quiet:.1f} s")
        return True

    def _stamped(self, frame: Frame) -> Stamped[Received] | None:
        """The frame as this graph takes it; None where it cannot be."""
        header, now = frame.header, self.site.clock.now()
        place, first = (header.run, header.epoch), self._place is None
        cut = not first and place != self._place
        if not first and not cut and header.pts <= self._pts:
            self.late += 1  # its time does not rise: the gate would refuse it
            return None
        payload = self._payload(frame)
        if payload is None:
            return None
        if header.seq + self._shift <= self._seq:
            self._shift = self._seq + 1 - header.seq  # a sender that counts from the start again: here ordinals only rise
        self._place, self._pts, self._seq = place, header.pts, header.seq + self._shift
        if isinstance(payload, Image):
            self._describe(payload)
        age = max(0, time.time_ns() - header.born)
        return Stamped(Received(**{header.type.lower(): payload}), pts=header.pts, born=now - age, cut=cut, seq=self._seq)

    def _payload(self, frame: Frame) -> Payload | None:
        """The frame's value in buffers of this graph's own, so that others may hold and wrap them as they do all others."""
        import numpy as np

        from bindings.python import WireError
        from engine.planning.convert import convert
        from operators.link.payloads import payload_of

        try:
            value: Any = payload_of(frame.header, frame.value)
        except (WireError, EngineError) as error:
            self.site.event("refused", url=self.named, error=str(error))
            return None
        if isinstance(value, Image) and not (value.layout == "hwc" and value.color == "rgb" and value.data.dtype == np.uint8):
            if value.layout == "chw" and len(value.data.shape) == 3:
                value = replace(value, data=value.data[None])  # type: ignore[index]
            return convert(value, site=self.site)
        name = "people" if isinstance(value, Pose) else "data"
        array = getattr(value, name, None)
        if isinstance(array, np.ndarray) and array.size:
            own = self.site.empty(array.shape, array.dtype)
            np.copyto(own, array)
            return replace(value, **{name: own})  # type: ignore[no-any-return]
        return value  # type: ignore[no-any-return]

    def _describe(self, picture: Image) -> None:
        info, frames = self.site.stream, self.frames
        assert info is not None
        assert frames is not None
        size = (picture.height, picture.width)
        if info.size != size:
            fps = frames.beat.fps if frames.beat is not None and frames.beat.fps else None
            self.site.describe(replace(info, size=size, fps=fps))

    def tally(self) -> dict[str, int]:
        frames = self.frames or self._last
        if frames is None:
            return {}
        names = ("received", "lost", "passed_over", "overflowed", "overwritten", "undecodable", "refused")
        return {**{name: getattr(frames.counts, name) for name in names}, "late": self.late}

    def close(self) -> None:
        frames, self.frames = self.frames, None
        if frames is None:
            return
        frames.close()
        self._last = frames
        tally = self.tally()
        if trouble := {name: count for name, count in tally.items() if count and name != "received"}:
            self.site.event("missed", url=self.named, stream=self.name, **trouble)
