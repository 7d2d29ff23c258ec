"""The set of captured bodies of one loop: which are there, which are wanted, when they are made and when they are no longer true.

A body runs as it is until its capture is there. Captures are made when the lane has nothing to do (`idle`), or, where it always has, one before
a frame after some frames of waiting (`begin`); so a change of size is painted at once, by the plain way, and gets its graphs soon after.
Invariants: no more than `bound` are kept, the least recently used go first; what cannot be captured is run plainly for ever, and why is
told once; running a body only to warm it up leaves nothing behind in tensors that outlive a frame.
It knows bodies and keys, not what they paint.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from engine.errors import Cancelled
from operators.diffusion.steps.capture import Capturer, Replayable

if TYPE_CHECKING:
    import torch

Body = Callable[[], None]
Key = tuple[Hashable, ...]  # whose it is, and what

WARM = 2  # runs before a capture: libraries choose their kernels and make their workspaces on the first
PATIENCE = 3  # frames that wait for an idle moment before one of them pays for a capture
BOUND = 32  # graphs: four sizes with a full and a short step, with and without ControlNets, and their decoders


class Captured:
    """One body and, when there is one, its graph. `doubt()`: why it cannot be captured now, or None."""

    __slots__ = ("body", "doubt", "graph", "key", "runs", "since")

    def __init__(self, key: Key, body: Body, doubt: Callable[[], str | None], since: int) -> None:
        self.key, self.body, self.doubt, self.since = key, body, doubt, since
        self.graph: Replayable | None = None
        self.runs = 0

    def run(self) -> None:
        if self.graph is not None:
            self.graph.replay()
            return
        self.body()
        self.runs += 1


class Graphs:
    """`tell(what, **facts)` puts an event into the run's log."""

    def __init__(self, capturer: Capturer, tell: Callable[..., None], *, bound: int = BOUND, patience: int = PATIENCE) -> None:
        self.capturer, self.tell, self.bound, self.patience = capturer, tell, bound, patience
        self.all: OrderedDict[Key, Captured] = OrderedDict()
        self.wanted: dict[Key, Captured] = {}
        self.lasting: list[Callable[[], Iterable[torch.Tensor]]] = []
        self.frames = 0
        self.resting = False
        self.told: set[str] = set()

    def get(self, key: Key, make: Callable[[], tuple[Body, Callable[[], str | None]]]) -> Captured:
        """The entry of `key` (owner, …); a new one is made of a body and its doubt. Ask before each run: what nobody asks for goes first."""
        found = self.all.get(key)
        if found is None:
            found = self.all[key] = Captured(key, *make(), self.frames)
            self.wanted[key] = found
            while len(self.all) > self.bound:
                self._drop(next(iter(self.all)))
        else:
            self.all.move_to_end(key)
        return found

    def begin(self) -> None:
        """A frame begins. What has waited for too long is captured now, one of them."""
        self.frames += 1
        if self.wanted and not self.resting:
            ripe = next((each for each in self.wanted.values() if self.frames - each.since > self.patience and each.runs >= WARM), None)
            if ripe is not None:
                self._capture(ripe)

    def idle(self) -> bool:
        """Do one piece of what is wanted, at most as long as one pass takes; whether there is more to do."""
        if not self.wanted or self.resting:
            return False
        entry = next(iter(self.wanted.values()))
        if entry.runs < WARM:
            self._warm(entry)
        else:
            self._capture(entry)
        return bool(self.wanted) and not self.resting

    def forget(self, key: Key) -> None:
        """Nobody will ask for this again."""
        if key in self.all:
            self._drop(key)

    def drop(self, owner: Hashable) -> None:
        """Forget the entries of an owner that is gone."""
        for key in [key for key in self.all if key[0] == owner]:
            self._drop(key)

    def stale(self, why: str) -> None:
        """Nothing that was captured is true any more: tensors lie elsewhere, or modules do something else."""
        if any(entry.graph is not None for entry in self.all.values()):
            self.tell("graphs_stale", why=why)
        for key in list(self.all):
            self._drop(key)

    def rest(self, why: str) -> bool:
        """Give back all memory and capture nothing until `wake`; False where there was nothing to give."""
        held = any(entry.graph is not None for entry in self.all.values())
        already, self.resting = self.resting, True
        for key in list(self.all):
            self._drop(key)
        if held:
            self.capturer.release()
        if not already:
            self.tell("graphs_rest", why=why)
        return held

    def decline(self, why: str, of: str = "steps") -> None:
        """Say, once, why something runs plainly."""
        if why not in self.told:
            self.told.add(why)
            self.tell("graph_failed", of=of, why=why, instead="it runs without")

    def wake(self) -> None:
        self.resting = False

    def close(self) -> None:
        held = bool(self.all)
        self.all.clear()
        self.wanted.clear()
        if held:
            self.capturer.release()

    @property
    def ready(self) -> int:
        """How many graphs there are."""
        return sum(entry.graph is not None for entry in self.all.values())

    # ---- making

    def _drop(self, key: Key) -> None:
        entry = self.all.pop(key)
        self.wanted.pop(key, None)
        entry.graph = None

    @contextmanager
    def _undone(self) -> Iterator[None]:
        """What runs inside leaves nothing in tensors that outlive a frame."""
        kept = [(tensor, tensor.clone()) for give in self.lasting for tensor in give()]
        try:
            yield
        finally:
            for tensor, value in kept:
                tensor.copy_(value)

    def _warm(self, entry: Captured) -> None:
        if self._tried(entry, entry.body):
            entry.runs += 1

    def _capture(self, entry: Captured) -> None:
        began = time.perf_counter()
        if self._tried(entry, lambda: self._record(entry)) and entry.graph is not None:
            self.wanted.pop(entry.key, None)
            ms = round((time.perf_counter() - began) * 1e3, 1)
            self.tell("graph", of=" ".join(map(str, entry.key[1:3])), ms=ms, graphs=self.ready, mb=round(self.capturer.held() / 2**20))

    def _record(self, entry: Captured) -> None:
        why = entry.doubt()
        if why is not None:
            self._give_up(entry, why)
            return
        entry.graph = self.capturer.capture(entry.body)

    def _tried(self, entry: Captured, work: Body) -> bool:
        """Run `work`; where it fails, the entry is run plainly from now on. Memory that runs out ends all capturing until `wake`."""
        import torch

        try:
            with self._undone():
                work()
        except (Cancelled, KeyboardInterrupt):
            raise
        except torch.OutOfMemoryError as error:
            self.rest(f"memory ran out while a graph was made: {error}".split("\n")[0])
            return False
        except Exception as error:
            self._give_up(entry, f"{type(error).__name__}: {error}".split("\n")[0])
            return False
        return True

    def _give_up(self, entry: Captured, why: str) -> None:
        self.wanted.pop(entry.key, None)
        self.decline(why, " ".join(map(str, entry.key[1:3])))


def places(modules: Iterable[Any]) -> tuple[int, ...]:
    """Where every parameter and buffer of `modules` lies. Too slow for every frame."""
    return tuple(tensor.data_ptr() for module in modules for part in (module.parameters(), module.buffers()) for tensor in part)
