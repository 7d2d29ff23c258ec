"""Operators on pictures: size, colour, overlay, edges, text. Small, deterministic functions on (H, W, 3) uint8 RGB."""

from operators.image import color, combine, size

__all__ = ["color", "combine", "size"]
