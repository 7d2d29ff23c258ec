"""Latents and noise taken from where their cells were.

Latents are sampled bilinearly, and where the way is not trusted they are filled from what is trusted around. Noise is sampled bilinearly and
divided by the root of the sum of the squared weights, so that every cell stays standard normal; cells that share a source are no longer
independent of each other (Chang et al. 2024, "How I Warped Your Noise", who integrate instead; Burgert et al. 2025, arXiv 2501.08331). It
is sampled from the noise of the epoch's start and never from noise that was warped before, which would lose its grain.

It knows tensors and coordinates, not pictures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def sample(field: torch.Tensor, came: torch.Tensor) -> torch.Tensor:
    """`field` (n, C, h, w) at `came` (2, h, w): x and y in cells; the border goes on outside."""
    import torch

    height, width = field.shape[2:]
    x, y = (came[0] + 0.5) * (2 / width) - 1, (came[1] + 0.5) * (2 / height) - 1
    grid = torch.stack([x, y], -1)[None].expand(len(field), -1, -1, -1)
    return torch.nn.functional.grid_sample(field, grid, mode="bilinear", padding_mode="border", align_corners=False)


def noise(field: torch.Tensor, came: torch.Tensor) -> torch.Tensor:
    """Standard normal `field` (n, C, h, w) at `came` (2, h, w), of variance 1 in every cell."""
    import torch

    spot = torch.stack([came[0].clamp(0, field.shape[3] - 1), came[1].clamp(0, field.shape[2] - 1)])
    part = spot - spot.floor()
    weight = (part**2 + (1 - part) ** 2).prod(0)  # the sum of the four squared weights
    return sample(field, spot) / weight.sqrt()


def filled(field: torch.Tensor, trust: torch.Tensor) -> torch.Tensor:
    """`field` (1, C, h, w) with untrusted cells taken from trusted ones around them, near ones first: means over ever larger fields, each laid
    under what the finer one does not know. `trust` (1, 1, h, w), 0..1."""
    import torch

    shrink = torch.nn.functional.avg_pool2d
    known, weight = field * trust, trust
    levels = [(known, weight)]
    while min(known.shape[2:]) > 1:
        known, weight = shrink(known, 2, ceil_mode=True), shrink(weight, 2, ceil_mode=True)
        levels.append((known, weight))
    under = levels[-1][0] / levels[-1][1].clamp(min=1e-6)
    for known, weight in reversed(levels[:-1]):
        under = torch.nn.functional.interpolate(under, known.shape[2:], mode="bilinear", align_corners=False)
        sure = weight.clamp(max=1.0)
        under = known + (1 - sure) * under  # known is weighted already
    return under
