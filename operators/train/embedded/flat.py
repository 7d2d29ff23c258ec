"""Parameters in one flat buffer: low-precision weights to compute with, full-precision ones to learn with.

Small networks on a CPU lose their time between tensors, not in them: one buffer makes the optimiser step, the moving average and
the gradient exchange between processes one operation each. Invariant: after every step the weights are the rounded master copy.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


def orthogonal(x: torch.Tensor) -> torch.Tensor:
    """The nearest orthogonal matrices to a batch (n, rows <= columns), roughly: five Newton-Schulz steps in bf16, with the
    coefficients of Jordan et al., Muon (2024), which bring singular values near 1 fast rather than exactly."""
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).to(torch.bfloat16)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * (square @ square)) @ x
    return x.float()


class Flat:
    """AdamW, or Muon for the matrices and AdamW for the rest, with an exponential moving average over the parameters of some modules.

    After construction the modules compute in `dtype`, with 4-D weights laid out channels-last; their `.grad` is a view too.
    """

    def __init__(
        self, modules: Iterable[nn.Module], *, dtype: torch.dtype, lr: float, decay: float = 0.01, betas: tuple[float, float] = (0.9, 0.99),
        ema: float = 0.998, clip: float = 1.0, muon: bool = False,
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
        self.step_count = 0
        self.decay = decay
        # Equal shapes are orthogonalised together: (rows, columns) -> [(start, end, rows as stored, transposed)]
        self.matrices: dict[tuple[int, int], list[tuple[int, int, int, bool]]] = defaultdict(list)
        small, start = [], 0
        for p in self.params:
            end, rows = start + p.numel(), p.shape[0]
            columns = p.numel() // rows
            if muon and p.ndim >= 2 and min(rows, columns) >= 16:
                self.matrices[min(rows, columns), max(rows, columns)].append((start, end, rows, rows > columns))
            else:
                small.append(torch.arange(start, end))
            start = end
        self.momentum = torch.zeros_like(self.master) if muon else None
        self.small = torch.cat(small) if muon and small else None
        learned = self.master if self.small is None else self.master[self.small].clone()
        learned.grad = torch.zeros_like(learned) if self.small is not None else self.master.grad
        self.learned = learned
        self.optimiser = torch.optim.AdamW([learned], lr=lr, betas=betas, weight_decay=decay, fused=True)

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
        if self.momentum is not None:
            self._muon(lr, world)
        self.optimiser.step()
        if self.small is not None:
            self.master[self.small] = self.learned
        self.step_count += 1
        ema = min(self.ema, (1 + self.step_count) / (10 + self.step_count))
        self.average.lerp_(self.master, 1 - ema)
        self.weights.copy_(self.master)
        return norm

    @torch.no_grad()
    def _muon(self, lr: float, world: int, beta: float = 0.95) -> None:
        """Move the matrices, and hand the other gradients to AdamW. Processes share the orthogonalising out among them."""
        assert self.momentum is not None
        assert self.master.grad is not None
        if self.small is not None:
            assert self.learned.grad is not None
            self.learned.grad.copy_(self.master.grad[self.small])
        self.momentum.lerp_(self.master.grad, 1 - beta)
        ahead = self.master.grad.lerp(self.momentum, beta)
        rank = torch.distributed.get_rank() if world > 1 else 0
        moves = torch.zeros_like(self.weights)
        shapes = sorted(self.matrices, key=lambda shape: -shape[0] * sum(b - a for a, b, _, _ in self.matrices[shape]))
        for number, shape in enumerate(shapes):
            if world > 1 and (number + number // world) % world != rank:
                continue
            places = self.matrices[shape]
            views = [ahead[a:b].view(rows, -1) for a, b, rows, _ in places]
            stack = torch.stack([v.mT if flip else v for v, (_, _, _, flip) in zip(views, places, strict=True)])
            step = orthogonal(stack).mul_(0.2 * shape[1] ** 0.5)  # as large as a step of AdamW (Liu et al. 2025)
            for piece, (a, b, rows, flip) in zip(step, places, strict=True):
                moves[a:b].view(rows, -1).copy_(piece.mT if flip else piece)
        if world > 1:
            torch.distributed.all_reduce(moves)
        self.master.mul_(1 - lr * self.decay).sub_(moves, alpha=lr)

    def use_average(self, on: bool) -> None:
        """Compute with the moving average (`on`) or with the current weights."""
        self.weights.copy_(self.average if on else self.master)

    def state(self) -> dict[str, Any]:
        """What `load` needs to go on."""
        state = {"master": self.master.detach(), "average": self.average, "optimiser": self.optimiser.state_dict(), "count": self.step_count}
        return state if self.momentum is None else {**state, "momentum": self.momentum}

    def load(self, state: dict[str, Any], *, optimiser: bool = True) -> None:
        """Go on from `state`; without `optimiser`, only its weights are taken."""
        with torch.no_grad():
            self.master.copy_(state["master"])
            if self.small is not None:
                self.learned.copy_(self.master[self.small])
        self.average.copy_(state["average"])
        if optimiser and ("momentum" in state) == (self.momentum is not None):
            self.optimiser.load_state_dict(state["optimiser"])
            if self.momentum is not None:
                self.momentum.copy_(state["momentum"])
            self.step_count = int(state["count"])
        self.weights.copy_(self.master)


def cosine(step: int, total: int, peak: float, *, warmup: int = 100, floor: float = 0.02) -> float:
    """Learning rate: a linear rise, then half a cosine down to `floor` of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    share = min(1.0, (step - warmup) / max(1, total - warmup))
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share)))
