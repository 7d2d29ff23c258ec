"""The denoising loop: UNet and ControlNets driven along a sampler's rows.

Everything that lasts is allocated when the shape is first seen: the basis that a step multiplies (two of them, written in turn), the model's
input. A step is the model, one copy and one matrix product; no value is read on the host, so nothing here waits for the device.
It knows latents and conditioning, not frames, prompts or pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from operators.diffusion.models import Models
from operators.diffusion.passes import Control as Control  # where everybody looks for it
from operators.diffusion.passes import Passes, Told
from operators.diffusion.reuse import Reuse
from operators.diffusion.schedule import LAST, SOURCE, WITH, WITHOUT, Rows, X

if TYPE_CHECKING:
    import torch

    from operators.diffusion.carry.attention import Memory
    from operators.diffusion.carry.hold import Held
    from operators.diffusion.ipadapter import Looks


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


class Loop:
    """Runs rows over one set of modules."""

    def __init__(self, models: Models, reuse: Reuse | None) -> None:
        self.models, self.reuse, self.passes = models, reuse, Passes(models, reuse)
        self.memory: Memory | None = None  # what self-attentions keep of earlier frames
        self.looks: Looks | None = None  # what cross-attentions look at beside the text
        self.bases: dict[tuple[int, ...], Basis] = {}

    def basis(self, passes: int, shape: tuple[int, int, int]) -> Basis:
        key = (passes, *shape)
        if key not in self.bases:
            if len(self.bases) >= 8:  # sizes and guidance seen long ago
                self.bases.pop(next(iter(self.bases)))
            self.bases[key] = Basis(passes, shape, self.models.device, self.models.dtype)
        return self.bases[key]

    def run(
        self,
        rows: Rows,
        begin: int,
        noise: torch.Tensor,
        source: torch.Tensor | None,
        cond: torch.Tensor,
        controls: Sequence[Control],
        extra: torch.Tensor | None,
        check: Callable[[], None],
        added: dict[str, torch.Tensor] | None = None,
        held: Held | None = None,
    ) -> torch.Tensor:
        """The clean latent (1, C, h, w) float32.

        `begin`: the first of the nominal steps to run. `source`: the clean latent that the frame starts from; None starts from noise alone.
        `noise`: (1 + n or 1, C, h, w). `extra`: the embedded guidance scale of a distilled model, or None. `added`: what models with
        pooled text add to the time (SDXL), or None. `held`: cells that keep what they have, at every step as noisy as the others
        (Levin & Fried 2023, arXiv 2306.00950). The result is a view into buffers of the loop: copy it before the next run.
        """
        import torch

        basis = self.basis(len(cond), tuple(noise.shape[1:]))  # type: ignore[arg-type]
        start, now = noise[:1], 0
        if source is None:
            torch.mul(start, rows.pure, out=basis.latent[0])
            if rows.residual:
                for each in basis.source:
                    each.zero_()
        else:
            keep, add = rows.start[begin]
            torch.mul(source, keep, out=basis.latent[0])
            basis.latent[0].add_(start, alpha=add)
            if rows.residual:
                for each in basis.source:
                    each.copy_(source)
        told, steps = Told(cond, extra, added), rows.n - begin
        if held is not None and steps:
            held.pin(basis.latent[0], start, *rows.start[begin])
        for k in range(steps):
            check()
            i = begin + k
            lone = rows.onetime and k > 0  # only the first step hears the negative prompt
            if lone and k == 1:
                told = Told(cond[1:], extra, None if added is None else {name: each[1:] for name, each in added.items()})
                if self.looks is not None:
                    self.looks.guided = False
            if self.memory is not None:
                self.memory.step = i
            given = basis.input[1:] if lone else basis.input
            given.copy_(basis.latent[now])
            if rows.scaled:
                given.mul_(rows.scale[i])
            answer = basis.answer[now][1:] if lone else basis.answer[now]
            answer.copy_(self._predict(given, rows.t[i], told, controls, k, steps))
            if rows.onetime and not k:
                against = torch.mm(rows.against[i], basis.turns[now]).view(basis.source[0].shape)
                for each in basis.source:
                    each.copy_(against)
            if rows.draws[i]:
                basis.noise[now].copy_(noise[1 + i])
            matrix = rows.later[i] if k else rows.first[i]
            torch.mm(matrix, basis.turns[now], out=basis.result[1 - now])
            now = 1 - now
            if held is not None:
                held.pin(basis.last[now], start, 1.0, 0.0)
                held.pin(basis.latent[now], start, *(rows.start[i + 1] if k + 1 < steps else (1.0, 0.0)))
        return basis.latent[now]

    def clear(self) -> None:
        for basis in self.bases.values():
            basis.clear()

    def _predict(
        self, given: torch.Tensor, t: torch.Tensor, told: Told, controls: Sequence[Control], k: int, steps: int
    ) -> torch.Tensor:  # fmt: skip
        if self.reuse is not None and not self.reuse.due(k):
            return self.passes.short(given, t, told)
        return self.passes.full(given, t, told, [control for control in controls if control.net.active(k, steps)])
