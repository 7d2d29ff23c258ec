"""Still pictures: their size, reading and writing, safe against bombs and half-written files.

Invariant: a file's size is read from its header and judged before a pixel is decoded, and a written file appears under its name whole or
not at all. It knows files and arrays, no streams.
"""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import MediaError, MissingError
from operators.media.faults import explain
from operators.media.urls import VIDEO_SUFFIXES, nearest_name

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

MAX_PICTURE_PIXELS = 100_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
"""What is read. The list is closed: Pillow knows many formats whose decoders see little use."""


def _open(path: Path, max_pixels: int) -> Any:
    import PIL.Image

    if not path.exists():
        raise MissingError(f"the picture {path} does not exist", fix=nearest_name(path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)  # judged below, by our own limit
            picture = PIL.Image.open(path, formats=FORMATS)
    except PIL.Image.DecompressionBombError as error:
        count = re.search(r"\d{6,}", str(error))  # Pillow's own limit, which comes first where max_pixels is above it
        many = f"{count[0]} pixels" if count else "too many pixels"
        raise MediaError(f"{path} has {many}, more than max_pixels = {max_pixels}", fix="make it smaller first") from error
    except PIL.UnidentifiedImageError as error:
        fix = "for a video use source.video" if path.suffix.lower() in VIDEO_SUFFIXES else "it reads " + ", ".join(FORMATS)
        raise MediaError(f"{path} is not a picture this engine can read", fix=fix) from error
    except OSError as error:
        raise explain(error, str(path), doing="read") from error
    if picture.width * picture.height > max_pixels:
        picture.close()
        size = f"{picture.width}x{picture.height}"
        raise MediaError(f"{path} is {size}, more than max_pixels = {max_pixels}", fix="raise max_pixels if you trust it")
    return picture


def picture_size(path: Path, max_pixels: int = MAX_PICTURE_PIXELS) -> tuple[int, int]:
    """(width, height) of a picture as it will be read, from its header."""
    with _open(path, max_pixels) as picture:
        turned = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        return (picture.height, picture.width) if turned else (picture.width, picture.height)


def read_picture(path: Path, max_pixels: int = MAX_PICTURE_PIXELS) -> Array:
    """A picture as (H, W, 3) uint8 RGB: turned as its EXIF says, 16 bit brought to 8, transparency on black, first page or frame."""
    import numpy as np
    import PIL.Image
    import PIL.ImageOps

    with _open(path, max_pixels) as picture:
        try:
            upright = PIL.ImageOps.exif_transpose(picture)
            if upright.mode in ("I", "I;16", "I;16B", "I;16L"):
                deep = np.asarray(upright).astype(np.uint32)
                return np.repeat((deep >> 8).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
            if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
                upright = upright.convert("RGBA")
                black = PIL.Image.new("RGBA", upright.size, (0, 0, 0, 255))
                upright = PIL.Image.alpha_composite(black, upright)
            return np.asarray(upright.convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            raise MediaError(f"{path} is damaged: {error}", fix="make it again") from error


def write_picture(path: Path, rgb: Array, *, quality: int = 90, compression: int = 3) -> None:
    """Write (H, W, 3) uint8 RGB by the suffix of `path` (.png, .jpg, .jpeg, .webp). The file appears under its name when it is whole."""
    import cv2

    suffix = path.suffix.lower()
    options = {
        ".png": [cv2.IMWRITE_PNG_COMPRESSION, compression],
        ".webp": [cv2.IMWRITE_WEBP_QUALITY, quality],
    }.get(suffix, [cv2.IMWRITE_JPEG_QUALITY, quality])
    ok, data = cv2.imencode(suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)
    if not ok:
        raise MediaError(f"{path}: the picture could not be encoded")
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(data.tobytes())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise explain(error, str(path), doing="write") from error
