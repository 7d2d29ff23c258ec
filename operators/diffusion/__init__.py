"""Painting: our own denoising loop over diffusers modules, with a latent carried from frame to frame."""

from __future__ import annotations

import os

# GNU OpenMP lets idle worker threads spin for some 15 ms before they sleep. Beside other lanes they then burn the core that a decoder or a
# pose network needs, and a frame of many short operators waits for them at every barrier: measured up to fifty times slower. A short
# spin keeps most of the gain of several threads. It is read once, when torch is first imported; whoever has set a policy keeps it.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")

from operators.diffusion.codec import Decode, Encode, Snapshot
from operators.diffusion.reference import MakeReference, Reference
from operators.diffusion.stream import Painted, Stream

__all__ = ["Decode", "Encode", "MakeReference", "Painted", "Reference", "Snapshot", "Stream"]
