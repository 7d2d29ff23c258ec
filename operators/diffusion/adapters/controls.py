"""The ControlNets of a frame: conditions read, embedded once, and the strengths that hold now.

Invariant: a condition that is byte for byte that of the last frame is neither copied nor embedded again; a scale of 0 costs nothing.
It knows pictures and nets, not prompts or steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.errors import UsageError
from operators.diffusion.pictures.pixels import Intake
from operators.diffusion.steps.loop import Control

if TYPE_CHECKING:
    import torch

    from engine.payload import Image
    from operators.diffusion.weights.models import Models


class Controls:
    """One entry per ControlNet of the graph, in its order."""

    def __init__(self, models: Models, fit: str) -> None:
        import torch

        self.models = models
        self.intakes = [Intake(models.device, models.dtype, 0.0, fit) for _ in models.nets]
        self.features: list[torch.Tensor | None] = [None] * len(models.nets)
        self.scales = [torch.zeros((), device=models.device) for _ in models.nets]
        self.values = [0.0] * len(models.nets)
        self.parts = [(net.start, net.end) for net in models.nets]  # as the graph has them
        self.moved = False  # whether they are others now
        self._idle: set[int] = set()  # nets of which it was said that they take part in no step

    def part(self, starts: Sequence[float] | None, ends: Sequence[float] | None) -> None:
        """Move the part of the executed steps that each net works in; None: as the graph has it."""
        self.moved = bool(starts or ends)
        for n, (net, (start, end)) in enumerate(zip(self.models.nets, self.parts, strict=True)):
            net.start = starts[n] if starts and n < len(starts) else start
            net.end = ends[n] if ends and n < len(ends) else end

    def take(
        self, pictures: list[Image], size: tuple[int, int], at: tuple[int, int], scale: float, scales: Sequence[float] | None
    ) -> tuple[list[Control], float | None]:
        """The nets that take part in frame `at` (epoch, seq), and how much the first picture changed (see Intake.take)."""
        models = self.models
        if pictures and len(pictures) != len(models.nets):
            raise UsageError(
                f"control: expected {len(models.nets)} pictures, one per entry of controlnets, found {len(pictures)}",
                fix="connect one condition for each ControlNet, in the same order",
            )
        found: list[Control] = []
        change: float | None = None
        for n, picture in enumerate(pictures):
            net, intake = models.nets[n], self.intakes[n]
            moved = intake.take(picture, size, at)
            change = moved if n == 0 else change
            feature = self.features[n]
            if moved is not None or feature is None:
                self.features[n] = None  # should memory run out here, the frame is tried again and must not find the last one's
                with models.use(net.embedding):
                    feature = self.features[n] = net.embed(intake.tensor)  # type: ignore[arg-type]
            value = scale * (scales[n] if scales and n < len(scales) else net.scale)
            if value != self.values[n]:
                self.values[n] = value
                self.scales[n].fill_(value)
            if value:
                found.append(Control(net, feature, self.scales[n]))
        return found, change

    def idle(self, steps: int) -> list[str]:
        """What to say, once for each net, of those whose start and end leave them none of a frame's executed `steps`."""
        found = []
        for n, net in enumerate(self.models.nets):
            if (net.start > 0 or net.end < 1) and n not in self._idle and not any(net.active(k, steps) for k in range(steps)):
                self._idle.add(n)
                found.append(f"ControlNet {n + 1} takes part in no step: {steps} executed, start {net.start:g}, end {net.end:g}")
        return found

    def forget(self) -> None:
        """Drop pictures and their embeddings."""
        for intake in self.intakes:
            intake.forget()
        self.features = [None] * len(self.features)
