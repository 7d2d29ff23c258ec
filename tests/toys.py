"""Toy operators for the tests of the runtime: small enough to compute by hand, nasty enough to find what it gets wrong.

Pictures are (1, 4, 3) bytes that hold a 64-bit number, made in pooled buffers: a picture that was returned too early, written to, or read
from the wrong frame is a wrong number. `toy.stir` mixes everything it was given (inputs, parameters, its own memory, its random key) into
the number it makes, so two runs with the same numbers at the sinks did the same at every node.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pytest

from engine import Format, Live, Operator, Stamped, operator, registry
from engine.clock import StepClock
from engine.payload import Image, Scalar, Text
from engine.planning.outlook import Asked, Outlook, Weights
from engine.site import Site

MS = 1_000_000
SHAPE = (1, 4, 3)
PLANES = Format("uint8", "chw", "bgr", "cpu")
BOTH = pytest.mark.parametrize("executor", ["inline", "threaded"])
"""What holds under both executors."""


class Planted(Exception):
    """What a toy raises when it was told to fail."""


def mix(*parts: Any) -> int:
    """A 64-bit number that depends on every part."""
    text = repr(parts).encode()
    return zlib.crc32(text) << 32 | zlib.crc32(text[::-1])


def picture(site: Site, number: int) -> Image:
    """`number` as a picture in a pooled buffer."""
    data = site.empty(SHAPE, "uint8")
    data.reshape(-1)[:8] = np.frombuffer(number.to_bytes(8, "little"), np.uint8)
    data.reshape(-1)[8:] = 7
    return Image(data)


def number(image: Image) -> int:
    """The number in a picture; raises where it holds something else."""
    flat = np.ascontiguousarray(image.data if image.layout == "hwc" else image.data[0].transpose(1, 2, 0))
    if image.color == "bgr":
        flat = np.ascontiguousarray(flat[..., ::-1])
    flat = flat.reshape(-1)
    assert (flat[8:] == 7).all(), f"a picture that nobody made: {flat.tolist()}"
    return int.from_bytes(flat[:8].tobytes(), "little")


# ---------------------------------------------------------------- sources


@operator("toy.count")
class Count(Operator):
    """0, 1, 2, … `count` times, one every `period` ms of the stream; `paced` waits for them on the clock."""

    def __init__(
        self, *, count: int = 10, period: float = 1.0, paced: bool = False, fail_at: int = -1, cut_at: list[int] | None = None,
        pts: list[int] | None = None, offset: int = 0,
    ) -> None:  # fmt: skip
        self.count, self.period, self.paced, self.fail_at = count, round(period * MS), paced, fail_at
        self.cut_at, self.pts, self.offset = set(cut_at or ()), pts, offset

    def __call__(self) -> Iterator[Scalar]:
        start = self.site.clock.now()
        for i in range(self.count):
            if i == self.fail_at:
                raise Planted(f"frame {i}")
            if self.paced and not self.site.sleep_until(start + i * self.period):
                return
            pts = self.pts[i] if self.pts is not None else i * self.period
            yield Stamped(Scalar(float(i + self.offset)), pts=pts, cut=i in self.cut_at)  # type: ignore[misc]


@operator("toy.film")
class Film(Operator):
    """Pictures of `mix(node, i)` in pooled buffers; otherwise like toy.count."""

    def __init__(
        self, *, count: int = 10, period: float = 1.0, paced: bool = False, fail_at: int = -1, cut_at: list[int] | None = None
    ) -> None:
        self.count, self.period, self.paced, self.fail_at = count, round(period * MS), paced, fail_at
        self.cut_at = set(cut_at or ())

    def __call__(self) -> Iterator[Image]:
        start = self.site.clock.now()
        for i in range(self.count):
            if i == self.fail_at:
                raise Planted(f"frame {i}")
            if self.paced and not self.site.sleep_until(start + i * self.period):
                return
            made = picture(self.site, mix(self.site.node, i))
            yield Stamped(made, pts=i * self.period, cut=i in self.cut_at)  # type: ignore[misc]


# ---------------------------------------------------------------- numbers


@operator("toy.add")
def add(a: Scalar, b: Scalar | None = None, *, amount: Annotated[float, Live(-100, 100)] = 0.0) -> Scalar:
    """a + b + amount."""
    return Scalar(a.value + (b.value if b else 0.0) + amount)


@operator("toy.sum")
def total(values: list[Scalar]) -> Scalar:
    """The sum of a list port."""
    return Scalar(sum(v.value for v in values))


@operator("toy.pair")
def pair(a: Scalar, b: Scalar) -> Scalar:
    """1000 a + b: both inputs can be read off the result."""
    return Scalar(1000 * a.value + b.value)


@operator("toy.odd")
def odd(a: Scalar, *, modulus: int = 2, rest: int = 1) -> Scalar | None:
    """Only the numbers with this rest; the other frames are left out."""
    return a if int(a.value) % modulus == rest else None


@operator("toy.late")
def late_result(a: Scalar, *, cost: int = 0, site: Site) -> Scalar:
    """`a`, after `cost` ms of the step clock."""
    assert isinstance(site.clock, StepClock)
    site.clock.advance(cost * MS)
    return a


@operator("toy.fails")
class Fails(Operator):
    """`a`, but raises on the frames in `at` (all of them from `after` on)."""

    def __init__(self, *, at: list[int] | None = None, after: int = 10**9, level: Annotated[float, Live(0, 9)] = 0.0) -> None:
        self.at, self.after, self.level = set(at or ()), after, level

    def __call__(self, a: Scalar) -> Scalar:
        if int(a.value) in self.at or a.value >= self.after:
            raise Planted(f"frame {int(a.value)}")
        return a


class Halves(NamedTuple):
    low: Scalar
    high: Scalar | None


@operator("toy.halves")
class Half(Operator):
    """low = a, high = a + 0.5 on odd numbers only; raises on the frames in `at`."""

    def __init__(self, *, at: list[int] | None = None) -> None:
        self.at = set(at or ())

    def __call__(self, a: Scalar) -> Halves:
        if int(a.value) in self.at:
            raise Planted(f"frame {int(a.value)}")
        return Halves(a, Scalar(a.value + 0.5) if int(a.value) % 2 else None)


@operator("toy.memory")
class Memory(Operator):
    """The running sum since the last reset, plus `level`; remembers its life in `calls`."""

    def __init__(self, *, level: Annotated[float, Live(0, 1000)] = 0.0, broken: Literal["", "init", "open", "call", "close"] = "") -> None:
        self.level, self.broken = level, broken
        self.sum, self.calls = 0.0, ["init"]
        self._fail("init")

    def _fail(self, where: str) -> None:
        if self.broken == where:
            raise Planted(where)

    def open(self, site: Site) -> None:
        super().open(site)
        self.calls.append("open")
        self._fail("open")

    def __call__(self, a: Scalar) -> Scalar:
        self._fail("call")
        self.sum += a.value
        return Scalar(self.sum + self.level)

    def reset(self) -> None:
        self.calls.append("reset")
        self.sum = 0.0

    def snapshot(self) -> Any:
        return {"sum": self.sum}

    def recall(self, state: Any) -> None:
        self.sum = state["sum"]

    def flush(self) -> None:
        self.calls.append("flush")

    def close(self) -> None:
        self.calls.append("close")
        self._fail("close")


@operator("toy.keeping")
class Keeping(Operator):
    """The running sum, which it does not hand out."""

    def __init__(self) -> None:
        self.sum = 0.0

    def __call__(self, a: Scalar) -> Scalar:
        self.sum += a.value
        return Scalar(self.sum)

    def reset(self) -> None:
        self.sum = 0.0


@operator("toy.noise")
def noise(a: Scalar, *, site: Site) -> Scalar:
    """A random number for this frame."""
    return Scalar(float(site.rng().random()))


@operator("toy.batch")
class Batch(Operator):
    """a + level, gathered; `sizes` notes how many frames each call got. Frames whose `b` never comes stop here."""

    def __init__(self, *, level: Annotated[float, Live(0, 1000)] = 0.0) -> None:
        self.level = level
        self.sizes: list[int] = []

    def __call__(self, a: Scalar, b: Scalar | None = None) -> Scalar:
        return Scalar(a.value + self.level)

    def call_batch(self, frames: list[dict[str, Any]]) -> list[Scalar]:
        self.sizes.append(len(frames))
        return [self(**frame) for frame in frames]


@operator("toy.last")
class Last(Operator):
    """Passes numbers on, and at the end their sum."""

    def __init__(self) -> None:
        self.sum = 0.0

    def __call__(self, a: Scalar) -> Scalar:
        self.sum += a.value
        return a

    def flush(self) -> Scalar:
        return Scalar(self.sum)


@operator("toy.say")
def say(a: Scalar) -> Text:
    """The number as text."""
    return Text(f"{a.value:g}")


@operator("toy.wrong")
def wrong(a: Scalar, *, what: Literal["none", "type"] = "none") -> Scalar:
    """Returns what it does not declare."""
    return None if what == "none" else Text("no number")  # type: ignore[return-value]


@operator("toy.waits")
class Waits(Operator):
    """Says nothing on frame `at` until the session is given up."""

    def __init__(self, *, at: int = 3, cancel: bool = False) -> None:
        self.at, self.cancel = at, cancel

    def __call__(self, a: Scalar) -> Scalar:
        if a.value == self.at:
            self.site.stop.wait()
            if self.cancel:
                self.site.check()
        return a


@operator("toy.stops")
class Stops(Operator):
    """Calls `stop(drain=…)` on `session` (planted by the test) at frame `at`."""

    session: Any = None

    def __init__(self, *, at: int = 3, drain: bool = True) -> None:
        self.at, self.drain = at, drain

    def __call__(self, a: Scalar) -> Scalar:
        if a.value == self.at:
            Stops.session.stop(drain=self.drain)
        return a


@operator("toy.resets")
class Resets(Operator):
    """Asks for a reset at the frames in `at`."""

    def __init__(self, *, at: list[int]) -> None:
        self.at = set(at)

    def __call__(self, a: Scalar) -> Scalar:
        if int(a.value) in self.at:
            self.site.request_reset("asked for")
        return a


# ---------------------------------------------------------------- pictures


@operator("toy.copy")
def copy(image: Image, *, site: Site) -> Image:
    """The same number in a buffer of its own."""
    return picture(site, number(image))


@operator("toy.same")
def same(image: Image) -> Image:
    """The picture itself, as a view of what it was given."""
    return Image(image.data[:, :, :])


@operator("toy.tmisshapen")
def misshapen(image: Image, *, what: str = "channels", at: int = 2, site: Site) -> Image:
    """Wrong on purpose from frame `at` on: a picture that is not 8-bit RGB on the host."""
    if site.seq < at:
        return Image(image.data.copy())
    match what:
        case "channels":
            return Image(image.data[:, :, :2].copy())
        case "plane":
            return Image(image.data[:, :, 0].copy())
        case "empty":
            return Image(image.data[:0])
        case "float":
            return Image(image.data.astype(np.float32))
        case "list":
            return Image([[1, 2, 3]])  # type: ignore[arg-type]
        case _:
            return Image(image.data.copy(), color="bgr")


@operator("toy.stamp", inplace="image")
def stamp(image: Image) -> Image:
    """Writes number + 1 into the picture it was given."""
    value = number(image) + 1
    image.data.reshape(-1)[:8] = np.frombuffer(value.to_bytes(8, "little"), np.uint8)
    return image


@operator("toy.keeps")
class Keeps(Operator):
    """Wrong on purpose: keeps a picture beyond its call and hands out that of the frame before."""

    def __init__(self) -> None:
        self.kept: Image | None = None

    def __call__(self, image: Image) -> Image:
        before, self.kept = self.kept, image
        return Image(before.data.copy()) if before is not None else Image(image.data.copy())


@operator("toy.bgr")
def bgr(image: Annotated[Image, PLANES], *, site: Site) -> Image:
    """Wants planes of BGR, gives RGB."""
    return picture(site, number(image))


@operator("toy.float")
def floats(image: Annotated[Image, Format("float32", "chw", "rgb", "cpu")]) -> Annotated[Image, Format("float32", "chw", "rgb", "cpu")]:
    """Wants and gives planes of floats."""
    return image


class Stirred(NamedTuple):
    image: Image | None
    level: Scalar | None


class _Stir(Operator):
    def __init__(self, salt: int, skips: int, fails: int, gain: float) -> None:
        self.salt, self.skips, self.fails, self.gain = salt, skips, fails, gain
        self.memory = 0

    def one(self, seq: int, epoch: int, key: int, *given: Image | None) -> Stirred:
        dice = mix(self.salt, seq) % 1000
        if dice < self.fails:
            raise Planted(f"seq {seq}")
        if dice < self.fails + self.skips:
            return Stirred(None, None)
        self.memory = mix(self.memory, self.salt, seq, epoch, key, self.gain, *(None if g is None else number(g) for g in given))
        if dice % 11 == 0 and given[0] is not None:
            return Stirred(Image(given[0].data[:, :, :]), None)  # handed on as it is, in the buffer it came in
        return Stirred(picture(self.site, self.memory), Scalar(float(self.memory % 1000)))

    def reset(self) -> None:
        self.memory = 0

    def snapshot(self) -> Any:
        return {"memory": self.memory}

    def recall(self, state: Any) -> None:
        self.memory = state["memory"]


@operator("toy.stir")
class Stir(_Stir):
    """Makes a number of everything it knows; leaves out `skips` and fails on `fails` of 1000 frames, by their seq."""

    def __init__(self, *, salt: int = 0, skips: int = 0, fails: int = 0, gain: Annotated[float, Live(0, 1000)] = 1.0) -> None:
        super().__init__(salt, skips, fails, gain)

    def __call__(self, a: Image, b: Image | None = None, c: Image | None = None) -> Stirred:
        return self.one(self.site.seq, self.site.epoch, self.site.key(), a, b, c)


@operator("toy.stir_many")
class StirMany(_Stir):
    """Like toy.stir, over a batch."""

    def __init__(self, *, salt: int = 0, skips: int = 0, gain: Annotated[float, Live(0, 1000)] = 1.0) -> None:
        super().__init__(salt, skips, 0, gain)
        self.frames = 0

    def __call__(self, a: Image, b: Image | None = None, c: Image | None = None) -> Stirred:
        return self.one(self.frames, self.site.epoch, 0, a, b, c)

    def call_batch(self, frames: list[dict[str, Any]]) -> list[Stirred]:
        made = []
        for frame in frames:
            self.frames += 1
            made.append(self.one(self.frames, self.site.epoch, 0, *frame.values()))
        return made

    def reset(self) -> None:
        super().reset()
        self.frames = 0

    def snapshot(self) -> Any:
        return {"memory": self.memory, "frames": self.frames}

    def recall(self, state: Any) -> None:
        self.memory, self.frames = state["memory"], state["frames"]


@operator("toy.stir_bgr")
class StirBgr(_Stir):
    """Like toy.stir, wants planes of BGR."""

    def __init__(self, *, salt: int = 0, gain: Annotated[float, Live(0, 1000)] = 1.0) -> None:
        super().__init__(salt, 0, 0, gain)

    def __call__(
        self, a: Annotated[Image, PLANES], b: Annotated[Image | None, PLANES] = None,
        c: Image | None = None,
    ) -> Stirred:  # fmt: skip
        self.memory = mix(self.memory, self.salt, self.site.seq, *(None if g is None else number(g) for g in (a, b, c)), self.gain)
        return Stirred(picture(self.site, self.memory), Scalar(float(self.memory % 1000)))


# ---------------------------------------------------------------- sinks


class Taken(NamedTuple):
    """What a sink got: the frame, and when (ns on the session's clock)."""

    seq: int
    epoch: int
    value: Any
    at: int
    pts: int


class _Sink(Operator):
    def __init__(self) -> None:
        self.taken: list[Taken] = []
        self.closed = False

    def take(self, value: Any) -> None:
        site = self.site
        self.taken.append(Taken(site.seq, site.epoch, value, site.clock.now(), site.pts))

    def close(self) -> None:
        self.closed = True


@operator("toy.collect")
class Collect(_Sink):
    """Keeps every number it gets; raises at frame `fail_at`."""

    def __init__(self, *, fail_at: int = -1) -> None:
        super().__init__()
        self.fail_at = fail_at

    def __call__(self, a: Scalar) -> None:
        if self.site.seq == self.fail_at:
            raise Planted(f"seq {self.site.seq}")
        self.take(a.value)


@operator("toy.measures")
class Measures(Operator):
    """Says a number about every frame, and times a part of its call."""

    def __init__(self) -> None:
        pass

    def __call__(self, a: Scalar) -> Scalar:
        with self.site.span("inner"):
            self.site.measure(twice=2 * a.value)
        return a


@operator("toy.shy")
class Shy(Operator):
    """Is watched on some frames only, and notes which it was given."""

    def __init__(self, *, watched: list[int]) -> None:
        self.watched, self.seen = watched, list[int]()

    def wanted(self) -> bool:
        return self.site.seq in self.watched

    def __call__(self, a: Scalar) -> None:
        self.seen.append(self.site.seq)


@operator("toy.heavy", gpu=True)
class Heavy(Operator):
    """Says that a frame costs `amount` TFLOP and that it loads two models of 1 and 2 GB; remembers where it was placed."""

    def __init__(self, *, amount: Annotated[float, Live(0, 100)] = 10.0) -> None:
        self.amount = amount

    @classmethod
    def outlook(cls, asked: Asked) -> Outlook | None:
        weights = (Weights("net", 2 * 10**9, True, 10.0), Weights("eyes", 10**9, True, 1 / asked.every, anywhere=True))
        return None if asked.embedded else Outlook(weights, 10**8, asked.range("amount"), asked.range("amount"))

    def __call__(self, a: Scalar) -> Scalar:
        return a


@operator("toy.looks")
class Looks(Operator):
    """Watches beside other sinks."""

    onlooker = True

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, a: Scalar) -> None:
        self.seen.append(self.site.seq)


@operator("toy.gallery")
class Gallery(_Sink):
    """Keeps the number of every picture it gets."""

    def __init__(self) -> None:
        super().__init__()

    def __call__(self, image: Image) -> None:
        self.take(number(image))


@operator("toy.read")
class Read(_Sink):
    """Keeps every text it gets."""

    def __init__(self) -> None:
        super().__init__()

    def __call__(self, text: Text) -> None:
        self.take(text.text)


# ---------------------------------------------------------------- running them


def taken(session: Any, sink: str = "sink") -> list[Taken]:
    """What `sink` of a session got."""
    found: list[Taken] = session.nodes[sink].operator.taken
    return found


def values(session: Any, sink: str = "sink") -> list[Any]:
    return [t.value for t in taken(session, sink)]


@contextmanager
def registered(targets: Mapping[str, Any]) -> Iterator[None]:
    """Operators by their names, there for a while; whatever else was registered meanwhile goes too."""
    before = dict(registry._specs)
    for name, target in targets.items():
        operator(name)(target)
    yield
    registry._specs.clear()
    registry._specs.update(before)


def settled(session: Any) -> None:
    """What holds after every run, however it ended: nothing lost, nothing under way, nothing on loan, no queue above its bound."""
    session.check()
    assert session.pools.loaned == 0, f"{session.pools.loaned} buffers are still on loan"
    for gate in session.gates.values():
        assert gate.in_flight == 0, f"{gate.source.name}: {gate.in_flight} frames in flight"
        assert gate.entered == gate.out + sum(gate.drops.values())
        assert gate.credits == session.plan.in_flight, f"{gate.source.name}: {gate.credits} of {session.plan.in_flight} credits came back"
    for channel in session.channels if session.replay is None else ():
        assert channel.peak <= channel.edge.cap, f"{channel.edge}: {channel.peak} packets in a queue of {channel.edge.cap}"


def interrupted(session: Any, *, after: int = 10) -> None:
    """Run until more than `after` frames are out and Ctrl-C comes: the exception goes up, and everything is settled."""

    def tick(running: Any) -> None:
        if running.frames_out > after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.run(tick, tick_s=0.001)
    settled(session)
