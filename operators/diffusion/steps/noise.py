"""Noise that a frame starts from and, where the sampler asks, draws on the way.

Invariant: a draw depends on nothing but its key and its shape, so a dropped frame never shifts the noise of another.
It knows keys and shapes, not frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from operators.diffusion.carry import warp
from operators.diffusion.words.interpolate import slerp

if TYPE_CHECKING:
    import torch


class Noise:
    """Standard normal latents by key, (1 + draws, C, h, w) float32: the first starts the frame, the others belong to its nominal steps."""

    def __init__(self, device: torch.device) -> None:
        import torch

        self.device = device
        self.generator = torch.Generator(device)
        self.kept: tuple[int, tuple[int, ...]] | None = None
        self.fixed: torch.Tensor | None = None

    def draw(self, key: int, shape: tuple[int, ...]) -> torch.Tensor:
        import torch

        self.generator.manual_seed(key)
        return torch.randn(shape, generator=self.generator, device=self.device)

    def __call__(
        self, key: int, fixed_key: int, fresh: float, shape: tuple[int, ...], came: torch.Tensor | None = None
    ) -> torch.Tensor:  # fmt: skip
        """Noise of one frame: drawn under `key` for `fresh` 1, under `fixed_key` for 0, between them on the sphere that joins the two.
        `came` (2, h, w): where each cell was when the fixed noise was drawn, in cells; None: where it is.

        A straight mix would lose variance: normal latents lie near a sphere of radius sqrt(n).
        """
        if fresh >= 1:
            return self.draw(key, shape)
        if self.kept != (fixed_key, shape):
            self.fixed, self.kept = self.draw(fixed_key, shape), (fixed_key, shape)
        assert self.fixed is not None
        fixed = self.fixed if came is None or came.shape[1:] != self.fixed.shape[2:] else warp.noise(self.fixed, came)
        if fresh <= 0:
            return fixed
        return slerp(fixed.flatten(1), self.draw(key, shape).flatten(1), fresh).view(shape)
