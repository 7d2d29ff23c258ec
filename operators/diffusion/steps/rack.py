"""Frames side by side in one pass of the model, a row each (two with guidance): all at one step (`together`), or each at its own (`Conveyor`).

A frame batch runs some frames through their steps in step. A stream batch (Kodaira et al. 2023, arXiv 2312.12491) has a row for every executed
step: each turn takes a new frame into the first row, runs the model once, and moves every frame a row on, so that a frame is clean as many
turns later as it has steps. A frame's row is that of its step, whoever is beside it; so its result does not depend on when others came.
Invariant: rows do not touch each other: a frame is what it would be alone, within rounding. Nothing here waits for the device.
It knows latents and conditioning, not packets or pictures.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from operators.diffusion.steps.passes import Control, Told
from operators.diffusion.steps.schedule import FRESH, LAST, SOURCE, WITH, Rows, X

if TYPE_CHECKING:
    import torch

    from operators.diffusion.steps.loop import Loop
    from operators.diffusion.weights.models import Net


@dataclass(slots=True, eq=False)
class Frame:
    """What one frame starts from and is told. `controls`: net, embedded condition (1, C, h, w), strength. `source`, `noise`: as Loop.run takes
    them. `run`: steps to execute. `facts`, `cells`: what reuse asks (pace.py). `packet`: whose it is. `full`: full passes it had."""

    rows: Rows
    run: int
    size: tuple[int, int]
    text: torch.Tensor
    added: dict[str, torch.Tensor] | None
    controls: list[tuple[Net, torch.Tensor, float]]
    source: torch.Tensor | None
    noise: torch.Tensor
    extra: torch.Tensor | None = None
    facts: str | None = None
    cells: list[Any] = field(default_factory=list)
    packet: Any = None
    full: int = 0

    @property
    def key(self) -> tuple[Any, ...]:
        """What frames must share to be side by side."""
        nets = tuple(id(net) for net, _, _ in self.controls)
        return (id(self.rows), self.run, self.size, tuple(self.text.shape), self.added is None, nets, id(self.extra))


NAMES = itertools.count()  # of racks: never given twice, unlike an id


class Rack:
    """The buffers of `width` frames of one shape (C, h, w), `passes` rows each: those without the prompt first."""

    def __init__(self, width: int, passes: int, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> None:
        import torch

        size = shape[0] * shape[1] * shape[2]
        self.width, self.passes, self.shape = width, passes, (passes * width, *shape)
        self.basis = torch.zeros(width, 6, size, device=device)
        self.after = torch.zeros(width, 2, size, device=device)
        self.latent = self.basis[:, X].view(width, *shape)
        self.answers = [self.basis[:, WITH + 1 - passes + n].view(width, *shape) for n in range(passes)]
        self.made = self.after.view(width, 2, *shape)  # per frame: the next latent, the clean estimate
        self.input = torch.zeros(self.shape, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        self.places: dict[str, tuple[list[Any], torch.Tensor]] = {}
        self.strengths: dict[int, tuple[list[float], torch.Tensor]] = {}
        self.out = torch.zeros(self.shape, device=device, dtype=dtype)
        self.name, self.made_places = next(NAMES), 0  # what captured passes are known by: places, once made, stay

    def start(self, row: int, frame: Frame) -> None:
        """Lay a frame's first latent into `row`."""
        import torch

        rows, latent = frame.rows, self.latent[row : row + 1]
        if frame.source is None:
            torch.mul(frame.noise[:1], rows.pure, out=latent)
        else:
            keep, add = rows.start[rows.n - frame.run]
            torch.mul(frame.source, keep, out=latent)
            latent.add_(frame.noise[:1], alpha=add)
        self.basis[row, LAST].zero_()  # no weight is on it yet, but what is not finite would outlive that
        if rows.residual and frame.source is not None:
            self.basis[row, SOURCE].copy_(frame.source.flatten())
        elif rows.residual:
            self.basis[row, SOURCE].zero_()

    def fresh(self, row: int, frame: Frame, step: int) -> None:
        """Lay what nominal `step` draws into `row`, where it draws."""
        if frame.rows.draws[step]:
            self.basis[row, FRESH].copy_(frame.noise[1 + step].flatten())

    def lay(self, name: str, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """The rows of a pass for one value (passes or 1, ...) a frame, in a tensor that stays; what is the same object lies there already."""
        import torch

        value, width = values[0], self.width
        shape = (self.passes * width, *value.shape[1:])
        lain, place = self.places.get(name, ([], None))
        if place is None or place.shape != shape or place.dtype != value.dtype:
            form = torch.channels_last if value.ndim == 4 else torch.contiguous_format
            place, lain = torch.empty(shape, dtype=value.dtype, device=value.device, memory_format=form), [None] * width
            self.made_places += 1
        for n, each in enumerate(values):
            if each is not lain[n]:
                for p in range(self.passes):
                    place[p * width + n].copy_(each[p if len(each) > 1 else 0])
        self.places[name] = (list(values), place)
        return place

    def still(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """`value` in a tensor that stays; what is the same object lies there already."""
        import torch

        lain, place = self.places.get(name, ([], None))
        if place is None or place.shape != value.shape:
            place, lain = torch.empty_like(value), []
            self.made_places += 1
        if not lain or lain[0] is not value:
            place.copy_(value)
        self.places[name] = ([value], place)
        return place

    def told(self, frames: Sequence[Frame]) -> Told:
        """What the rows are told."""
        first = frames[0]
        added = None
        if first.added is not None:
            added = {name: self.lay(f"added {name}", [f.added[name] for f in frames if f.added is not None]) for name in first.added}
        return Told(self.lay("text", [f.text for f in frames]), first.extra, added)

    def controls(self, frames: Sequence[Frame], steps: Sequence[int]) -> list[Control]:
        """The ControlNets that work in any of the rows, which are at executed `steps`; where one does not, its strength is 0."""
        import torch

        found = []
        for n, (net, feature, _) in enumerate(frames[0].controls):
            values = [f.controls[n][2] * net.active(step, f.run) for f, step in zip(frames, steps, strict=True)]
            if not any(values):
                continue
            known = self.strengths.get(n)
            if known is None or known[0] != values:
                strength = torch.tensor(values * self.passes, dtype=self.input.dtype).view(-1, 1, 1, 1)
                known = self.strengths[n] = (values, strength.to(feature.device) if known is None else known[1].copy_(strength))
            found.append(Control(net, self.lay(f"control {n}", [f.controls[n][1] for f in frames]), known[1]))
        return found

    def step(
        self, loop: Loop, t: torch.Tensor, told: Told, controls: list[Control], scale: torch.Tensor | None, matrices: torch.Tensor, whole: bool
    ) -> None:  # fmt: skip
        """Ask the model about every row, and put what the sampler makes of it into `after`."""
        import torch

        width = self.width
        for p in range(self.passes):
            self.input[p * width : (p + 1) * width].copy_(self.latent)
        if scale is not None:
            self.input.mul_(scale)
        if loop.graphs is not None and loop.memory is None:
            told = Told(told.text, None if told.extra is None else self.still("extra", told.extra), told.added)
            t, kind, found = self.still("t", t), "full" if whole else "short", self.out
            loop.answer((self.name, self.made_places), kind, self.input, t, told, controls, found)
        else:
            found = loop.passes.full(self.input, t, told, controls) if whole else loop.passes.short(self.input, t, told)
        for p, answer in enumerate(self.answers):
            answer.copy_(found[p * width : (p + 1) * width])
        torch.bmm(matrices, self.basis, out=self.after)

    def clear(self) -> None:
        """Forget everything: a value that is not finite would outlive a weight of zero."""
        self.basis.zero_()
        self.places.clear()


def facts_of(frames: Sequence[Frame]) -> str | None:
    """What the deep features of all rows depend on, where that is the same for all; else None."""
    return frames[0].facts if all(f.facts == frames[0].facts for f in frames) else None


def together(loop: Loop, rack: Rack, frames: Sequence[Frame], check: Callable[[], None]) -> torch.Tensor:
    """The clean latents (frames, C, h, w) of frames with the same key; a view into the rack."""
    rows, run = frames[0].rows, frames[0].run
    begin, pace = rows.n - run, loop.reuse.pace  # type: ignore[union-attr]
    loop.begin()
    for n, frame in enumerate(frames):
        rack.start(n, frame)
    told = rack.told(frames)
    pace.begin(facts_of(frames), (begin, rows.n), rack.shape, lambda: [cells for f in frames for cells in f.cells])
    for k in range(run):
        check()
        i = begin + k
        for n, frame in enumerate(frames):
            rack.fresh(n, frame, i)
        whole = pace.due(k)
        controls = rack.controls(frames, [k] * len(frames)) if whole else []
        matrix = (rows.later[i] if k else rows.first[i]).expand(rack.width, 2, 6)
        rack.step(loop, rows.t[i], told, controls, rows.scale[i] if rows.scaled else None, matrix, whole)
        rack.basis[:, X : LAST + 1].copy_(rack.after)
    pace.done()
    for frame in frames:
        frame.full = pace.full
    return rack.latent


class Conveyor:
    """A stream batch of frames with one key: row k is at executed step k."""

    def __init__(self, rack: Rack, like: Frame) -> None:
        import torch

        rows, run, passes = like.rows, like.run, rack.passes
        self.rack, self.rows, self.key, self.begin = rack, rows, like.key, rows.n - run
        self.frames: list[Frame | None] = [None] * run  # by the step that is next
        self.newest: torch.Tensor | None = None
        steps = range(self.begin, rows.n)
        self.t = torch.cat([rows.t[i] for i in steps]).repeat(passes)
        self.scale = torch.stack([rows.scale[i] for i in steps]).repeat(passes).view(-1, 1, 1, 1) if rows.scaled else None
        self.matrices = torch.stack([rows.later[i] if k else rows.first[i] for k, i in enumerate(steps)])
        self.drawn: list[Any] = [None] * run
        rack.clear()

    @property
    def busy(self) -> bool:
        """Whether any frame is under way."""
        return any(frame is not None for frame in self.frames)

    def turn(self, loop: Loop, new: Frame | None) -> tuple[Frame, torch.Tensor] | None:
        """Take in a frame, or none, and run every row a step. The frame that is clean now with its latent (1, C, h, w), if any.

        Should memory run out, nothing has changed, and the same turn can be taken again. `newest` is what the first step made of `new`.
        """
        rack, rows = self.rack, self.rows
        frames = [new, *self.frames[1:]]
        loop.begin()
        if new is not None:
            rack.start(0, new)
        for k, frame in enumerate(frames):
            if frame is not None and self.drawn[k] is not frame.noise:
                rack.fresh(k, frame, self.begin + k)
                self.drawn[k] = frame.noise
        some = next(frame for frame in frames if frame is not None)
        full = [some if frame is None else frame for frame in frames]  # rows without a frame compute something that nobody looks at
        pace = loop.reuse.pace  # type: ignore[union-attr]
        facts = None if any(frame is None for frame in frames) else facts_of(full)
        pace.begin(facts, (self.begin, rows.n), rack.shape, lambda: [cells for f in full for cells in f.cells])
        whole = pace.due(0)
        controls = rack.controls(full, range(len(full))) if whole else []
        rack.step(loop, self.t, rack.told(full), controls, self.scale, self.matrices, whole)
        last, clean, newest = frames[-1], rack.made[-1:, 0].clone(), rack.made[:1, 1].clone()
        pace.done()
        rack.basis[1:, X : LAST + 1].copy_(rack.after[:-1])
        if rows.residual:
            for k in range(len(frames) - 1, 0, -1):
                rack.basis[k, SOURCE].copy_(rack.basis[k - 1, SOURCE])
        self.frames = [None, *frames[:-1]]
        self.newest = newest if new is not None else self.newest
        for frame in frames:
            if frame is not None:
                frame.full += whole
        return None if last is None else (last, clean)
