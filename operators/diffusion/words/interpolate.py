"""Ways between two tensors, for prompts that change and noise that is renewed. It knows tensors, not what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def slerp(start: torch.Tensor, end: torch.Tensor, share: float) -> torch.Tensor:
    """Spherical interpolation along the last axis, in float32: keeps the norm that a straight mix would shrink. Shoemake 1985.

    Directions that are nearly parallel are mixed straight, where both agree. No value is looked at on the host.
    """
    import torch

    a, b = start.float(), end.float()
    length_a, length_b = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    cosine = (a * b).sum(-1, keepdim=True) / (length_a * length_b).clamp_min(1e-12)
    angle = torch.arccos(cosine.clamp(-1, 1))
    sine = torch.sin(angle)
    straight = sine < 1e-4
    safe = torch.where(straight, torch.ones_like(sine), sine)
    first = torch.where(straight, torch.full_like(sine, 1 - share), torch.sin((1 - share) * angle) / safe)
    second = torch.where(straight, torch.full_like(sine, share), torch.sin(share * angle) / safe)
    return (first * a + second * b).to(start.dtype)


def lerp(start: torch.Tensor, end: torch.Tensor, share: float) -> torch.Tensor:
    """A straight mix, in float32."""
    import torch

    return torch.lerp(start.float(), end.float(), share).to(start.dtype)
