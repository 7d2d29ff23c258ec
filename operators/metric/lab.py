"""Colours as people see their differences: CIE L*a*b* and CIEDE2000.

Pure array work. Sources: sRGB, IEC 61966-2-1; L*a*b* under D65, CIE 15; CIEDE2000 as in Sharma, Wu and Dalal, "The CIEDE2000 color-difference
formula: implementation notes" (2005), whose test pairs the tests hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

# sRGB primaries to CIE XYZ, each row divided by the white of D65.
_TO_XYZ = (
    (0.4124564 / 0.95047, 0.3575761 / 0.95047, 0.1804375 / 0.95047),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339 / 1.08883, 0.1191920 / 1.08883, 0.9503041 / 1.08883),
)


def to_lab(rgb: Array) -> Array:
    """(..., 3) sRGB, uint8 or float in 0..255, to (..., 3) float32 L* (0..100), a*, b*."""
    import numpy as np

    value = np.asarray(rgb, np.float32) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    xyz = linear @ np.array(_TO_XYZ, np.float32).T
    root = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = root[..., 0], root[..., 1], root[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1).astype(np.float32)


def delta_e(one: Array, two: Array) -> Array:
    """CIEDE2000 between two arrays of L*a*b* colours (..., 3): 1 is just visible side by side, 10 is another colour."""
    import numpy as np

    a, b = np.asarray(one, np.float64), np.asarray(two, np.float64)
    mean_chroma = (np.hypot(a[..., 1], a[..., 2]) + np.hypot(b[..., 1], b[..., 2])) / 2
    grey = 0.5 * (1 - np.sqrt(mean_chroma**7 / (mean_chroma**7 + 25.0**7)))
    a1, a2 = a[..., 1] * (1 + grey), b[..., 1] * (1 + grey)
    c1, c2 = np.hypot(a1, a[..., 2]), np.hypot(a2, b[..., 2])
    h1, h2 = np.degrees(np.arctan2(a[..., 2], a1)) % 360, np.degrees(np.arctan2(b[..., 2], a2)) % 360
    colourless = c1 * c2 == 0
    turn = h2 - h1
    turn = np.where(turn > 180, turn - 360, np.where(turn < -180, turn + 360, turn))
    turn = np.where(colourless, 0, turn)
    d_l, d_c = b[..., 0] - a[..., 0], c2 - c1
    d_h = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2))
    light, c = (a[..., 0] + b[..., 0]) / 2, (c1 + c2) / 2
    far = np.abs(h1 - h2) > 180
    h = np.where(colourless, h1 + h2, np.where(far, (h1 + h2 + np.where(h1 + h2 < 360, 360, -360)) / 2, (h1 + h2) / 2))
    t = (
        1 - 0.17 * np.cos(np.radians(h - 30)) + 0.24 * np.cos(np.radians(2 * h)) + 0.32 * np.cos(np.radians(3 * h + 6))
        - 0.20 * np.cos(np.radians(4 * h - 63))
    )  # fmt: skip
    s_l = 1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2)
    s_c, s_h = 1 + 0.045 * c, 1 + 0.015 * c * t
    r_c = 2 * np.sqrt(c**7 / (c**7 + 25.0**7))
    r_t = -r_c * np.sin(np.radians(60 * np.exp(-(((h - 275) / 25) ** 2))))
    parts = (d_l / s_l) ** 2 + (d_c / s_c) ** 2 + (d_h / s_h) ** 2 + r_t * (d_c / s_c) * (d_h / s_h)
    return np.asarray(np.sqrt(np.maximum(parts, 0)))
