"""What the tests of the carry tools share: a carry, and pictures that differ in one cell."""

from __future__ import annotations

import torch
from diffusion_checkpoints import picture

from engine.payload import Image, Latent

CARRY = Latent(torch.full((1, 4, 8, 8), 0.5))
NEAR = {"still": 0.06, "reach": 0.0}  # of 8 cells, one is far


def changed(at: tuple[int, int] = (0, 0), by: int = 90) -> list[Image]:
    """The picture of `skeleton()`, other in one cell of 8 x 8 pixels."""
    data = picture(0).copy()
    y, x = at[0] * 8, at[1] * 8
    data[y : y + 8, x : x + 8] = (data[y : y + 8, x : x + 8].astype(int) + by) % 256
    return [Image(data)]
