"""What an operator sees of the world: its name, its device, the frame in hand, random numbers, buffers and a way to speak up.

One Site per node, used only on the node's lane. It knows nothing of queues or of other nodes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import rng
from engine.clock import Clock, RealClock
from engine.errors import Cancelled
from engine.operator import StreamInfo
from engine.packet import Packet
from engine.pool import Lease, Pools

if TYPE_CHECKING:
    import numpy as np


def _ignore(*args: Any, **facts: Any) -> None:
    """Stands in for the session's hooks where an operator runs on its own."""


@dataclass(eq=False)
class Site:
    """The surroundings of one node.

    `live`: True under the live clock (pace yourself, never block for long), False offline.
    `embedded`: load the embedded stand-in instead of the named model.
    `device`: "cpu", "cuda:0", "mps": where this node's lane computes.
    """

    node: str
    seed: int = 0
    live: bool = False
    embedded: bool = False
    device: str = "cpu"
    budget_ms: float | None = None
    placed: Mapping[str, str] = field(default_factory=dict)  # how to keep models, by the names given in `Operator.outlook`: a Way's `how`
    choices: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # live parameters that the governor moves: the values it may take
    base: Path = field(default_factory=Path)  # relative paths in a graph are relative to the working directory; kept for tools
    clock: Clock = field(default_factory=RealClock)
    pools: Pools = field(default_factory=Pools)
    stop: threading.Event = field(default_factory=threading.Event)
    batch: int = 1  # how many frames a call gathers at most
    packet: Packet | None = None  # the frame in hand: the trigger's packet
    packets: list[Packet] = field(default_factory=list)  # those of a batch, in order; the last of them is in hand, any may be put there
    stream: StreamInfo | None = None  # for a source: what it described
    later: bool = False  # whether `landing` may be used: this lane's results are waited for where they are read
    _landing: Any = None
    _leases: list[Lease] = field(default_factory=list)
    _event: Callable[..., None] = _ignore
    _reset: Callable[[str, str], object] = _ignore
    _output: Callable[[str], None] = _ignore
    _measure: Callable[[str, int, dict[str, float]], None] = _ignore
    _span: Callable[[int, int, str, int, int], None] = _ignore
    _health: Callable[[], str] = lambda: ""
    _spent: Callable[[int], dict[str, float]] = lambda seq: {}
    _outcome: Callable[[], str] = lambda: "eof"
    _decide: Callable[[str, str, Callable[[], Any]], Any] = lambda node, what, make: make()

    # ---- the frame in hand

    @property
    def seq(self) -> int:
        """Source ordinal of the frame in hand; -1 outside a call."""
        return self.packet.seq if self.packet else -1

    @property
    def epoch(self) -> int:
        return self.packet.epoch if self.packet else 0

    @property
    def pts(self) -> int:
        """Presentation time of the frame in hand, ns on the graph clock."""
        return self.packet.pts if self.packet else 0

    @property
    def born(self) -> int:
        """Capture time of the frame in hand, monotonic ns."""
        return self.packet.born if self.packet else 0

    @property
    def origin(self) -> StreamInfo:
        """What the source of the frame in hand said of its stream."""
        return self.packet.origin if self.packet and self.packet.origin else StreamInfo()

    @property
    def spent(self) -> dict[str, float]:
        """Milliseconds that each node before this one spent on the frame in hand, its source not counted. Host time: on a GPU, to submit."""
        return self._spent(self.packet.seq) if self.packet else {}

    # ---- random numbers

    def key(self, seq: int | None = None) -> int:
        """A 63-bit seed for (graph seed, node, epoch, seq); `seq` defaults to the frame in hand."""
        return rng.key(self.seed, self.node, self.epoch, self.seq if seq is None else seq)

    def rng(self, seq: int | None = None) -> np.random.Generator:
        """A NumPy generator for (graph seed, node, epoch, seq); for torch, seed a generator with `key()`."""
        return rng.generator(self.seed, self.node, self.epoch, self.seq if seq is None else seq)

    # ---- buffers

    def empty(self, shape: tuple[int, ...], dtype: Any = "uint8", *, pinned: bool = False) -> np.ndarray[Any, Any]:
        """A pooled host array with undefined content.

        Put it (or a view of it) into a payload you return, and the runtime keeps it until its last reader is done; otherwise it is scratch
        memory of this call. Never keep it across calls. `pinned`: a GPU can copy to it while the host goes on (see `landing`).
        """
        lease = self.pools.take(tuple(shape), dtype, self.node if pinned else "")
        self._leases.append(lease)
        return lease.array

    def let_go(self) -> None:
        """The call is over: its buffers go back to their pools, but for those that its result shows. Whoever runs the operator calls this."""
        for lease in self._leases:
            lease.release()
        self._leases.clear()
        self._landing = None

    def landing(self, event: Any) -> None:
        """What this call returns in arrays on the host is whole when `event` has happened (a CUDA event, recorded): readers wait for it, this
        lane does not. Only where `later` says that somebody listens; elsewhere a result is whole when the call returns."""
        self._landing = event

    def hold(self, payload: Any) -> tuple[Lease, ...]:
        """For sinks that read on after their call has ended (a socket that sends without copying): the pooled buffers behind `payload`, kept
        from being used again until each is given back with `release`, from any thread."""
        from engine.run.emit import leases_of

        held = leases_of(payload, [*self._leases, *(self.packet.leases if self.packet else ())])
        for lease in held:
            lease.retain()
        return held

    # ---- choices

    def decide(self, what: str, make: Callable[[], Any]) -> Any:
        """`make()`, for a choice that depends on the machine or the moment, such as the faster of two ways; a plain value. A recording keeps
        it and a replay gets it back, so that the replay does the same."""
        return self._decide(self.node, what, make)

    # ---- speaking up

    def describe(self, info: StreamInfo) -> None:
        """For sources, in open or before the first frame: what is known of the stream."""
        self.stream = info

    def event(self, what: str, **facts: Any) -> None:
        """Put an event with its facts into the trace and the run's log (plain values only)."""
        self._event(what, self.node, self.seq, **facts)

    @property
    def health(self) -> str:
        """What the session says of itself: loading, online, degraded_input …; "" where an operator runs on its own."""
        return self._health()

    def measure(self, **numbers: float) -> None:
        """Numbers about the frame in hand (executed steps, a score), kept for plots and the run's report; cheap enough for every frame."""
        self._measure(self.node, self.seq, numbers)

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Time a part of a call: it is shown inside the call in traces and in the report. Host time: on a GPU, the time to submit."""
        begun = self.clock.now()
        try:
            yield
        finally:
            self._span(begun, self.clock.now(), f"{self.node}.{name}", self.seq, self.epoch)

    def request_reset(self, reason: str) -> None:
        """Ask for a new epoch (scene cut, drift): carries and holds start afresh at the next frame admitted."""
        self._reset(self.node, reason)

    def output(self, path: str | Path) -> None:
        """Tell the run's summary of a file or address that this sink makes."""
        self._output(str(path))

    # ---- stopping

    @property
    def outcome(self) -> str:
        """How the run is coming to its end, as far as is known: "error", "stopped" where somebody asked it to stop, else "eof"."""
        return self._outcome()

    @property
    def stopping(self) -> bool:
        return self.stop.is_set()

    def check(self) -> None:
        """Raise Cancelled when the session is being aborted; call it between the steps of long work."""
        if self.stop.is_set():
            raise Cancelled

    def sleep_until(self, when: int) -> bool:
        """Wait until `when` (monotonic ns); False when the session stops first."""
        return self.clock.sleep_until(when, self.stop)
