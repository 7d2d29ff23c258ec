"""The vlm family: a picture-to-text model that keeps the prompt in step with the picture."""

from operators.vlm import refine

__all__ = ["refine"]
