"""What viewers of different means get: the size and quality of their pictures. The encoding itself is `operators.link.coder`.

Pictures are (H, W, 3) uint8 RGB. It knows no viewers and no sockets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from operators.link.coder import H264

    Array = np.ndarray[Any, Any]

LONGEST = {False: 1920, True: 640}  # pixels of the longer side, full and light
SHORTEST = 256  # pixels of the shorter side below which nothing is made smaller
QUALITY = {False: 58, True: 38}  # of H.264: x264's CRF 23 and 28
JPEG = {False: 85, True: 55}
GOP = 600  # frames between key frames that nobody asked for
ENCODER = "libx264"  # in software: a card encodes few streams at a time, and those are for the graph's own sinks


def shrunk(picture: Array, light: bool) -> Array:
    """`picture` made smaller by a whole factor, so that it is not longer than a viewer of this kind gets it."""
    height, width = picture.shape[:2]
    factor = -(-max(height, width) // LONGEST[light])
    if light:
        factor = max(2, factor) if min(height, width) >= 2 * SHORTEST else factor
    if factor <= 1:
        return picture
    import cv2

    return cv2.resize(picture, (max(1, width // factor), max(1, height // factor)), interpolation=cv2.INTER_AREA)


def available() -> bool:
    """Whether this machine can encode H.264 for viewers."""
    from operators.media.codecs import encoder_works

    return encoder_works(ENCODER)


def encoder(height: int, width: int, light: bool) -> H264:
    """An encoder for one stream of one size."""
    from operators.link.coder import H264

    return H264(height, width, QUALITY[light], encoder=ENCODER, gop=GOP)
