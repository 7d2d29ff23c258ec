"""All that a captured step touches, in tensors that stay: the loop's basis, the step's row of numbers, and twins of what passes are told.

What changes with every step or frame (timestep, coefficients, noise, the strengths of ControlNets) is a value in one of these tensors, so
steps, strength and scales move without a capture. Text, added conditions and embedded pictures are copied in when they are other ones.
Invariant: a body made here reads and writes only these tensors, what a pass keeps, and weights; it asks the host nothing.
It knows tensors and passes, not when they run.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

from operators.diffusion.steps.graphs import Body, places
from operators.diffusion.steps.passes import Control, Passes, Told
from operators.diffusion.steps.schedule import LAST, ROW, SOURCE, WITH, WITHOUT, X

if TYPE_CHECKING:
    import torch

    from operators.diffusion.weights.models import Models, Net


class Basis:
    """The buffers of one latent shape (rows, C, h, w), `rows` being the passes of guidance."""

    def __init__(self, passes: int, shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype) -> None:
        import torch

        size = shape[0] * shape[1] * shape[2]
        self.turns = [torch.zeros(6, size, device=device) for _ in range(2)]
        self.latent = [b[X].view(1, *shape) for b in self.turns]
        self.last = [b[LAST].view(1, *shape) for b in self.turns]
        self.answer = [b[WITHOUT : WITH + 1].view(2, *shape)[2 - passes :] for b in self.turns]
        self.noise = [b[4].view(1, *shape) for b in self.turns]
        self.source = [b[SOURCE].view(1, *shape) for b in self.turns]
        self.result = [b[X : LAST + 1] for b in self.turns]
        self.input = torch.zeros(passes, *shape, device=device, dtype=dtype).to(memory_format=torch.channels_last)

    def clear(self) -> None:
        """Forget everything: a value that is not finite would outlive a weight of zero."""
        for basis in self.turns:
            basis.zero_()


class Slot:
    """A tensor that stays, holding a copy of another one. What it is given is taken to be unchanged while it is the same object."""

    __slots__ = ("last", "tensor")

    def __init__(self, like: torch.Tensor, shape: Sequence[int] | None = None) -> None:
        import torch

        form = torch.channels_last if like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        self.tensor = torch.zeros(tuple(shape or like.shape), dtype=like.dtype, device=like.device).to(memory_format=form)
        self.last: torch.Tensor | None = None

    def take(self, value: torch.Tensor) -> None:
        if value is not self.last:
            self.last = None  # should the copy fail, the next call tries again
            self.tensor.copy_(value)
            self.last = value


class Rig(Basis):
    """A basis with a place for every input. `key`: what must be equal for another frame to use it."""

    def __init__(self, models: Models, passes: Passes, rows: int, shape: tuple[int, int, int], told: Told) -> None:
        import torch

        super().__init__(rows, shape, models.device, models.dtype)
        self.models, self.passes, self.shape = models, passes, (rows, *shape)
        self.row = torch.zeros(ROW, device=models.device)
        self.t, self.scale, self.matrix = self.row[:1], self.row[1], self.row[2:].view(2, 6)
        self.text = Slot(told.text)
        self.extra = None if told.extra is None else Slot(told.extra)
        self.added = None if told.added is None else {name: Slot(value) for name, value in told.added.items()}
        added = None if self.added is None else {name: slot.tensor for name, slot in self.added.items()}
        extra = None if self.extra is None else self.extra.tensor
        self.told = [Told(self.text.tensor, extra, added)]  # and without the first row, for passes that leave the negative prompt out
        self.told.append(Told(self.text.tensor[1:], extra, added and {name: each[1:] for name, each in added.items()}))
        self.out = torch.zeros(rows, *shape, device=models.device, dtype=models.dtype)
        self.features: dict[int, Slot] = {}
        self.controls: dict[int, Control] = {}
        self.pixels: torch.Tensor | None = None
        self.key = rig_key(self.shape, told)

    # ---- inputs

    def hear(self, told: Told, controls: Sequence[Control]) -> None:
        """Take what this frame is told, where it is not what the last one was."""
        self.text.take(told.text)
        if self.extra is not None and told.extra is not None:
            self.extra.take(told.extra)
        if self.added is not None and told.added is not None:
            for name, slot in self.added.items():
                slot.take(told.added[name])
        for control in controls:
            self.place(control).take(control.feature)

    def place(self, control: Control) -> Slot:
        """The slot of a ControlNet's embedded condition, made where it is new. It has the latent's height and width."""
        name = id(control.net)
        slot = self.features.get(name)
        if slot is None:
            slot = self.features[name] = Slot(control.feature, (*control.feature.shape[:2], *self.shape[2:]))
            self.controls[name] = Control(control.net, slot.tensor, control.scale)
        return slot

    # ---- bodies

    def step(self, kind: str, nets: Sequence[Net]) -> Body:
        """One step of a plain frame: the model on the latent, then the sampler's row."""
        import torch

        given, latent, answer, now, scratch, after = (
            self.input, self.latent[0], self.answer[0], self.turns[0], self.result[1], self.result[0],
        )  # fmt: skip
        ask = self._asking(kind, nets, 0)

        def body() -> None:
            given.copy_(latent)
            given.mul_(self.scale)
            answer.copy_(ask())
            torch.mm(self.matrix, now, out=scratch)
            after.copy_(scratch)

        return body

    def answering(self, kind: str, nets: Sequence[Net], lone: int) -> Body:
        """One pass alone: from `input` to `out`, both without their first row where `lone` is 1."""
        ask, out = self._asking(kind, nets, lone), self.out[lone:]

        def body() -> None:
            out.copy_(ask())

        return body

    def _asking(self, kind: str, nets: Sequence[Net], lone: int) -> Callable[[], torch.Tensor]:
        controls = [self.controls[id(net)] for net in nets]
        passes, given, t, told = self.passes, self.input[lone:], self.t, self.told[lone]
        if kind == "full":
            return lambda: passes.full(given, t, told, controls)
        return lambda: passes.short(given, t, told)

    def decoding(self) -> Body:
        """The latent to `pixels`."""
        import torch

        def body() -> None:
            found = self.models.decode(self.latent[0])
            if self.pixels is None or self.pixels.shape != found.shape or self.pixels.dtype != found.dtype:
                self.pixels = torch.empty_like(found)
            self.pixels.copy_(found)

        return body


def doubted(models: Models, body: Body, modules: Sequence[Any]) -> tuple[Body, Callable[[], str | None]]:
    """`body` of these modules, and why it may not be captured now: asking runs it once more, and looks whether weights stay where they are."""

    def ask() -> str | None:
        if any(id(module) in models.resting or id(module) in models.streamed for module in modules):
            return "a module is on the device only while it works"
        before = places(modules)
        body()
        return None if places(modules) == before else "weights move while they compute"

    return body, ask


def rig_key(shape: tuple[int, ...], told: Told) -> Hashable:
    """Shapes that decide which rig a frame can use."""
    added = None if told.added is None else tuple((name, tuple(value.shape)) for name, value in told.added.items())
    return (shape, tuple(told.text.shape), told.extra is not None, added)
