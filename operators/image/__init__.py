"""Operators on pictures: size, colour, overlay, edges, text, choosing one. Small and deterministic, on (H, W, 3) uint8 RGB."""

from operators.image import color, combine, pick, size

__all__ = ["color", "combine", "pick", "size"]
