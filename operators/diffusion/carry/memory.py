"""What self-attentions keep of earlier frames (attention.py), and where.

Every pass reads and leaves keys in the same places, its *stage*; what a step finds there is copied in before the pass, what it left is copied
out after it, so a pass that was recorded once is right for every step and frame that treats the stage the same way (`Mode`).
Invariants: a frame reads what the last finished frame left and writes beside it, so a frame that is tried again finds what it found at
first; a step is remembered in all its copies or not at all, and never more than `megabytes` are held. It knows tensors, layers by number and
steps, not what is computed with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    Pair = tuple[torch.Tensor, torch.Tensor]

Shape = tuple[int, ...]
Key = tuple[Shape, str]  # of the latent that a pass is given, and which layers run
STAGES = 16  # shapes and kinds of passes whose places are kept


@dataclass(frozen=True, slots=True)
class Mode:
    """How self-attentions take a pass: by the stage `key`; whether they find keys of the `last` frame there, and of the `first` one; whether
    these are `weighed`, or count like present ones."""

    key: Key
    last: bool = False
    first: bool = False
    weighed: bool = False

    def of(self, shape: Shape) -> Mode:
        """The same for another shape."""
        return replace(self, key=(shape, self.key[1]))


@dataclass(slots=True, eq=False)
class Stage:
    """Where passes of one key find and leave keys and values, two tensors (rows, places, width) a layer. `now`: of the last frame, then of
    this one; `first`: of the anchor. `made` changes with every place that is made. `closed`: no layer may come any more."""

    at: dict[int, int] = field(default_factory=dict)  # layer: index of its keys in the lists
    now: list[torch.Tensor] = field(default_factory=list)
    first: list[torch.Tensor] = field(default_factory=list)
    made: int = 0
    closed: bool = False


@dataclass(slots=True, eq=False)
class Kept:
    """What one step left, in the order of its `stage`: two frames' `banks`, and the anchor's."""

    stage: Stage
    banks: list[list[torch.Tensor]]
    first: list[torch.Tensor]


class Memory:
    """What all layers share. `mode`: of the pass under way; None: it neither reads nor leaves anything."""

    def __init__(self, tell: Callable[..., None], *, anchor: bool = False, cells: int = 1024, megabytes: int = 512) -> None:
        self.tell, self.anchor, self.cells, self.limit = tell, anchor, cells, megabytes * 2**20
        self.mode: Mode | None = None
        self.step = 0
        self.stages: dict[Key, Stage] = {}
        self.steps: dict[int, Kept] = {}
        self.left: list[set[int]] = [set(), set()]  # steps of which each bank holds the keys
        self.begun: set[int] = set()  # steps of which the anchor does
        self.biases: dict[tuple[int, int, torch.dtype], torch.Tensor] = {}
        self.now = 0  # the bank that this frame writes
        self.weight, self.held, self.full, self.count = 0.0, 0, False, 0
        self.shape: Shape = ()

    # ---- a frame

    def begin(self, weight: float, shape: Shape) -> None:
        """A frame begins, or begins again. `shape`: of its latent, with the passes of guidance."""
        if shape != self.shape:
            self.forget()
            self.held -= sum(_bytes(*kept.banks, kept.first) for kept in self.steps.values())
            self.steps, self.shape, self.full = {}, shape, False
        if weight != self.weight:
            self.weight = weight
            for (places, _, _), bias in self.biases.items():
                bias[..., places:].fill_(self._bias())
        self.left[self.now].clear()

    def enter(self, step: int, shape: Shape, kind: str = "full") -> None:
        """A pass begins that is given a latent of `shape`, with the layers that `kind` says. `step`: the nominal one, ~step where shallow
        layers alone run (their passes remember each other only)."""
        import torch

        key, kept = (shape, kind), self.steps.get(step)
        stage = self.stages.pop(key, None)
        if stage is not None:
            self.stages[key] = stage  # the last is the one used last
        fits = self.weight > 0 and kept is not None and kept.stage is stage
        last, first = fits and step in self.left[1 - self.now], fits and step in self.begun
        self.step, self.mode = step, Mode(key, last, first, (last or first) and self.weight != 1)
        if kept is not None and stage is not None:
            if last:
                torch._foreach_copy_(stage.now, kept.banks[1 - self.now])
            if first:
                torch._foreach_copy_(stage.first, kept.first)

    def leave(self) -> None:
        """The pass is over: what lies in its places is kept for the next frame."""
        import torch

        assert self.mode is not None
        stage, self.mode = self.stages.get(self.mode.key), None
        kept = None if stage is None or not stage.now else self._kept(self.step, stage)
        if kept is not None:
            torch._foreach_copy_(kept.banks[self.now], kept.stage.now)
            self.left[self.now].add(self.step)

    def settle(self) -> None:
        """The frame is painted: what it left is what the next one finds."""
        import torch

        self.mode = None
        if self.anchor and not self.begun:
            self.begun = set(self.left[self.now])
            for step in self.begun:
                torch._foreach_copy_(self.steps[step].first, self.steps[step].banks[self.now])
        self.now = 1 - self.now

    def restart(self) -> None:
        """The next frame is the one to anchor at: the prompt is another one."""
        self.begun = set()

    def forget(self) -> None:
        """Nothing of earlier frames is left; places stay."""
        self.mode, self.begun = None, set()
        self.left = [set(), set()]

    # ---- for recorded passes

    def course(self) -> Hashable:
        """What decides the course of a pass besides its arguments: it belongs to the name of a recorded one."""
        stage = None if self.mode is None else self.stages.get(self.mode.key)
        return (self.mode, 0 if stage is None else stage.made)

    @contextmanager
    def going(self, mode: Mode | None) -> Iterator[None]:
        """Passes inside are taken by `mode`, whatever frame is under way."""
        was, self.mode = self.mode, mode
        try:
            yield
        finally:
            self.mode = was

    def bound(self, body: Callable[[], None]) -> Callable[[], None]:
        """`body` in the present mode, whenever it runs: when nothing is painted, it is warmed up and recorded."""
        mode = self.mode

        def run() -> None:
            with self.going(mode):
                body()

        return run

    # ---- for replays

    def snapshot(self) -> dict[str, Any]:
        last, keys = self.left[1 - self.now], {id(stage): key for key, stage in self.stages.items()}
        steps = []
        for step in sorted(last | self.begun):
            kept = self.steps[step]
            shape, kind = keys.get(id(kept.stage), ((), ""))
            if kind:
                tensors = [kept.banks[1 - self.now] if step in last else [], kept.first if step in self.begun else []]
                steps.append([step, list(shape), kind, list(kept.stage.at), *([each.clone() for each in some] for some in tensors)])
        return {"shape": list(self.shape), "steps": steps}

    def recall(self, state: Any, device: torch.device, dtype: torch.dtype) -> None:
        import torch

        self.begin(self.weight, tuple(state["shape"]))
        self.forget()
        for step, shape, kind, layers, *said in state["steps"]:
            last, first = ([torch.as_tensor(each).to(device, dtype) for each in some] for some in said)
            stage, some = self._stage((tuple(shape), kind)), last or first
            placed = [self._place(stage, layer, some[2 * n]) is not None for n, layer in enumerate(layers)]
            kept = self._kept(step, stage) if all(placed) else None
            if kept is None:
                continue
            for found, place, steps in ((last, kept.banks[1 - self.now], self.left[1 - self.now]), (first, kept.first, self.begun)):
                if found:
                    torch._foreach_copy_(place, found)
                    steps.add(step)

    # ---- for layers

    def found(self, layer: int) -> list[Pair]:
        """Keys and values that `layer` finds in this pass."""
        mode = self.mode
        stage = None if mode is None else self.stages.get(mode.key)
        if mode is None or stage is None or (at := stage.at.get(layer)) is None:
            return []
        return [(some[at], some[at + 1]) for some, there in ((stage.now, mode.last), (stage.first, mode.first)) if there]

    def put(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Leave `keys` and `values` (rows, places, width) for the next frame. What was found for the layer is overwritten."""
        if self.mode is None:
            return
        stage = self._stage(self.mode.key)
        at = self._place(stage, layer, keys)
        if at is not None:
            stage.now[at].copy_(keys)
            stage.now[at + 1].copy_(values)

    def bias(self, places: int, more: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor | None:
        """What is added to the logits of `places` present and `more` remembered places; None where that is nothing."""
        import torch

        if self.mode is None or not self.mode.weighed:
            return None
        key = (places, more, dtype)
        if key not in self.biases:
            self.biases[key] = torch.zeros(1, 1, 1, places + more, dtype=dtype, device=device)
            self.biases[key][..., places:].fill_(self._bias())
        return self.biases[key]

    # ---- places

    def _bias(self) -> float:
        return math.log(max(self.weight, 1e-8))

    def _stage(self, key: Key) -> Stage:
        stage = self.stages.get(key)
        if stage is None:
            if len(self.stages) >= STAGES:
                old = self.stages.pop(next(iter(self.stages)))
                self.held -= _bytes(old.now, old.first)
            stage = self.stages[key] = Stage()
        return stage

    def _place(self, stage: Stage, layer: int, keys: torch.Tensor) -> int | None:
        """Where `layer` has its keys in `stage`, made where it is new; None where there is no room."""
        import torch

        if layer not in stage.at and not stage.closed:
            copies = 2 + 2 * self.anchor
            stage.closed = not self._room(copies * keys.numel() * keys.element_size())
            if not stage.closed:
                stage.at[layer] = len(stage.now)
                for some in (stage.now, stage.first)[: copies // 2]:
                    some += [torch.zeros_like(keys, memory_format=torch.contiguous_format) for _ in range(2)]
                self.count += 1
                stage.made = self.count
        return stage.at.get(layer)

    def _kept(self, step: int, stage: Stage) -> Kept | None:
        """Where `step` is kept, made where it is new or was of another stage; None where there is no room for all of it."""
        import torch

        kept = self.steps.get(step)
        if kept is not None and kept.stage is stage and len(kept.banks[0]) == len(stage.now):
            return kept
        if kept is not None:
            self.held -= _bytes(*kept.banks, kept.first)
            del self.steps[step]
            for steps in (*self.left, self.begun):
                steps.discard(step)
        if not self._room(_bytes(stage.now, stage.now, stage.first)):
            return None
        one, other, first = ([torch.empty_like(each) for each in some] for some in (stage.now, stage.now, stage.first))
        kept = self.steps[step] = Kept(stage, [one, other], first)
        return kept

    def _room(self, need: int) -> bool:
        """Whether so many bytes more fit, and if so, that they are taken from now on."""
        if self.held + need > self.limit:
            if not self.full:
                self.full = True
                why = "other layers and steps do without"
                self.tell("memory_full", held_mb=round(self.held / 2**20, 1), limit_mb=self.limit >> 20, why=why)
            return False
        self.held += need
        return True


def _bytes(*lists: list[torch.Tensor]) -> int:
    return sum(each.numel() * each.element_size() for some in lists for each in some)
