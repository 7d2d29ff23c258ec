"""The two ways in which a step asks the model: a full pass (ControlNets, then the UNet) and a short one (shallow layers on kept features).

A pass is a plain function of tensors: what it reads and what it leaves for later passes are tensors in fixed places, so that whoever calls it
may run it as it is or record it once and replay it. Which pass a step takes is decided by others (reuse.py, loop.py).
Invariant: a pass reads no value on the host and branches on nothing but its arguments and what `facts` says.
It knows modules, not steps, samplers or frames.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from operators.diffusion.steps.reuse import Reuse
    from operators.diffusion.weights.models import Models, Net


@dataclass(slots=True)
class Control:
    """One ControlNet's part in a frame: the embedded condition (1, C, h, w) and the strength as a 0-d tensor on the device."""

    net: Net
    feature: torch.Tensor
    scale: torch.Tensor


@dataclass(slots=True, eq=False)
class Told:
    """What every pass of a frame is told beside the latent: the text (rows, tokens, width), the embedded guidance scale of a distilled model
    or None, and what models with pooled text add to the time (SDXL) or None."""

    text: torch.Tensor
    extra: torch.Tensor | None = None
    added: dict[str, torch.Tensor] | None = None

    def row(self, n: int) -> Told:
        """What row `n` alone is told."""
        return Told(self.text[n : n + 1], self.extra, None if self.added is None else {k: v[n : n + 1] for k, v in self.added.items()})


class Passes:
    """Full and short passes over one set of modules.

    `facts`: whoever makes a pass take another course, or read other tensors, by other means than its arguments (adapters that rest, caches
    that fill) adds a function of the latent's shape whose answer changes with it; the answers belong to the name of a recorded pass.
    `lasting`: whoever has passes leave something for later frames adds a function that gives those tensors, so that a pass run only to be
    recorded can be undone.
    """

    def __init__(self, models: Models, reuse: Reuse | None) -> None:
        self.models, self.reuse = models, reuse
        self.facts: list[Callable[[tuple[int, ...]], Hashable]] = []
        self.lasting: list[Callable[[], Iterable[torch.Tensor]]] = []
        if reuse is not None:
            self.facts.append(reuse.course)
            self.lasting.append(lambda: reuse.kept)

    def full(self, given: torch.Tensor, t: torch.Tensor, told: Told, controls: Sequence[Control]) -> torch.Tensor:
        """The model's output for `given` (rows, C, h, w) at timestep `t` (1,), with the `controls` that work in this step."""
        down: list[torch.Tensor] | None = None
        middle: torch.Tensor | None = None
        for control in controls:
            parts, centre = control.net.module(
                given, t, told.text, control.feature, conditioning_scale=control.scale, added_cond_kwargs=told.added, return_dict=False
            )
            if down is None:
                down, middle = list(parts), centre
            else:
                down, middle = [a.add_(b) for a, b in zip(down, parts, strict=True)], middle.add_(centre)  # type: ignore[union-attr]
        if self.reuse is not None:
            return self.reuse.full(given, t, told.text, told.extra, down, middle, told.added)
        answer: torch.Tensor = self.models.unet(
            given, t, told.text, timestep_cond=told.extra, added_cond_kwargs=told.added, down_block_additional_residuals=down,
            mid_block_additional_residual=middle, return_dict=False,
        )[0]  # fmt: skip
        return answer

    def short(self, given: torch.Tensor, t: torch.Tensor, told: Told) -> torch.Tensor:
        """The same from shallow layers alone, on what the last full pass kept."""
        assert self.reuse is not None
        return self.reuse.shallow(given, t, told.text, told.extra, told.added)
