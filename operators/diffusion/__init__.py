"""Painting: our own denoising loop over diffusers modules, with a latent carried from frame to frame."""

from __future__ import annotations

from operators.diffusion.stream import Painted, Stream

__all__ = ["Painted", "Stream"]
