"""Cells that keep what they have, and how they stay level with the noise of the cells that are painted around them.

It knows latents and masks, not where a mask comes from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(slots=True, eq=False)
class Held:
    """`keep` (1, 1, h, w), 0..1: how firmly each cell keeps `clean` (1, C, h, w), both float32 on the device."""

    keep: torch.Tensor
    clean: torch.Tensor

    def pin(self, latent: torch.Tensor, noise: torch.Tensor, signal: float, spread: float) -> None:
        """Set held cells of `latent` back, in place, to signal * clean + spread * noise: what they would be at this step."""
        import torch

        target = self.clean if signal == 1 else self.clean * signal
        latent.lerp_(torch.add(target, noise, alpha=spread) if spread else target, self.keep)
