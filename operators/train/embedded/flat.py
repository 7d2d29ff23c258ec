"""Parameters in one flat buffer: low-precision weights to compute with, full-precision ones to learn with.

Small networks on a CPU lose their time between tensors, not in them: one buffer makes the optimiser step, the moving average and
the gradient exchange between processes one operation each. Invariant: after every step the weights are the rounded master copy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


class Flat:
    """AdamW with an exponential moving average over the parameters of some modules.

    After construction the modules compute in `dtype`, with 4-D weights laid out channels-last; their `.grad` is a view too.
    """

    def __init__(
        self, modules: Iterable[nn.Module], *, dtype: torch.dtype, lr: float, decay: float = 0.01, betas: tuple[float, float] = (0.9, 0.99),
        ema: float = 0.998, clip: float = 1.0,
    ):  # fmt: skip
        self.modules = list(modules)
        self.params = [p for m in self.modules for p in m.parameters() if p.requires_grad]
        total = sum(p.numel() for p in self.params)
        self.master = torch.empty(total)
        self.weights = torch.empty(total, dtype=dtype)
        self.grads = torch.zeros(total, dtype=dtype)
        start = 0
        for p in self.params:
            end = start + p.numel()
            self._view(self.master, start, p.shape).copy_(p.data)
            p.data = self._view(self.weights, start, p.shape)
            p.grad = self._view(self.grads, start, p.shape)
            start = end
        for m in self.modules:
            for b in m.buffers():
                if b.is_floating_point():
                    b.data = b.data.to(dtype)
        self.weights.copy_(self.master)
        self.average = self.master.clone()
        self.lr, self.ema, self.clip = lr, ema, clip
        self.master.grad = torch.zeros_like(self.master)
        self.optimiser = torch.optim.AdamW([self.master], lr=lr, betas=betas, weight_decay=decay, fused=True)
        self.step_count = 0

    @staticmethod
    def _view(buffer: torch.Tensor, start: int, shape: torch.Size) -> torch.Tensor:
        piece = buffer[start : start + math.prod(shape)]
        if len(shape) == 4:
            o, i, h, w = shape
            return piece.view(o, h, w, i).permute(0, 3, 1, 2)
        return piece.view(shape)

    def step(self, lr: float, world: int = 1) -> float:
        """One update from the accumulated gradients, which are cleared. Returns the gradient norm; skips a broken step."""
        if world > 1:
            torch.distributed.all_reduce(self.grads)
        assert self.master.grad is not None
        self.master.grad.copy_(self.grads)
        self.grads.zero_()
        if world > 1:
            self.master.grad.div_(world)
        norm = float(self.master.grad.norm())
        if not math.isfinite(norm):
            return norm
        if norm > self.clip:
            self.master.grad.mul_(self.clip / norm)
        self.optimiser.param_groups[0]["lr"] = lr
        self.optimiser.step()
        self.step_count += 1
        ema = min(self.ema, (1 + self.step_count) / (10 + self.step_count))
        self.average.lerp_(self.master, 1 - ema)
        self.weights.copy_(self.master)
        return norm

    def use_average(self, on: bool) -> None:
        """Compute with the moving average (`on`) or with the current weights."""
        self.weights.copy_(self.average if on else self.master)

    def state(self) -> dict[str, Any]:
        """What `load` needs to go on."""
        return {"master": self.master.detach(), "average": self.average, "optimiser": self.optimiser.state_dict(), "count": self.step_count}

    def load(self, state: dict[str, Any], *, optimiser: bool = True) -> None:
        """Go on from `state`; without `optimiser`, only its weights are taken."""
        with torch.no_grad():
            self.master.copy_(state["master"])
        self.average.copy_(state["average"])
        if optimiser:
            self.optimiser.load_state_dict(state["optimiser"])
            self.step_count = int(state["count"])
        self.weights.copy_(self.master)


def cosine(step: int, total: int, peak: float, *, warmup: int = 100, floor: float = 0.02) -> float:
    """Learning rate: a linear rise, then half a cosine down to `floor` of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    share = min(1.0, (step - warmup) / max(1, total - warmup))
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share)))
