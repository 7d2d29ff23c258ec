"""The places a figure stands in: pictures of walls, stages and skies, a pure function of place, colour and size.

Nothing in a place is random: what a caption names looks the same every time, which is what lets a small model draw it sharply.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from operators.figure.look import COLOURS, TINTED

FLOOR = 0.82  # share of the height where wall or land begins to be floor


def _ramp(stops: list[tuple[float, tuple[int, int, int]]], height: int) -> np.ndarray:
    rows = (np.arange(height) + 0.5) / height
    places = [s[0] for s in stops]
    return np.stack([np.interp(rows, places, [s[1][c] for s in stops]) for c in range(3)], axis=1)


def _disc(canvas: np.ndarray, x: float, y: float, r: float, colour: tuple[int, int, int]) -> None:
    import cv2

    h = canvas.shape[0]
    cv2.circle(canvas, (round(x * h * 16), round(y * h * 16)), round(r * h * 16), colour, -1, cv2.LINE_AA, 4)


def _poly(canvas: np.ndarray, points: list[tuple[float, float]], colour: tuple[int, int, int]) -> None:
    import cv2

    h = canvas.shape[0]
    cv2.fillPoly(canvas, [np.round(np.array(points) * h * 16).astype(np.int32)], colour, cv2.LINE_AA, 4)


def _hills(canvas: np.ndarray, width: float, base: float, size: float, waves: float, phase: float, colour: tuple[int, int, int]) -> None:
    x = np.linspace(0, width, 60)
    y = base - size * (0.6 * np.sin(waves * x * 2 + phase) + 0.4 * np.sin(waves * x * 4.6 + 2 * phase))
    _poly(canvas, [*zip(x, y, strict=True), (width, 1.01), (0, 1.01)], colour)


def _tinted(place: str, colour: str, height: int, width: int) -> np.ndarray:
    base = np.array(COLOURS[colour], np.float32)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    y, x = (y + 0.5) / height, (x + 0.5) / width
    if place == "plain":
        light = 1.02 - 0.16 * ((x - 0.5) ** 2 + (y - 0.45) ** 2) * 2
        floor = np.clip((y - FLOOR) / 0.012, 0, 1)
        light = light * (1 - 0.13 * floor)
        return base * light[..., None]
    folds = 0.86 + 0.17 * np.sin(x * width / height * 2 * np.pi * 9)
    folds = folds * np.clip(0.72 + 0.5 * np.exp(-(((x - 0.5) / 0.3) ** 2)), 0, 1.12)
    picture = np.clip(base[None, None] * folds[..., None] + 6, 0, 255)
    planks = 1.0 - 0.10 * (np.mod(y * 22, 1.0) < 0.16)
    wood = np.array([164, 112, 70], np.float32) * (planks * (0.75 + 0.45 * np.exp(-(((x - 0.5) / 0.33) ** 2))))[..., None]
    floor = (y > FLOOR)[..., None]
    return np.where(floor, wood, picture)


def _scene(place: str, height: int, width: int) -> np.ndarray:
    import cv2

    w = width / height
    sky = {
        "studio": [(0, (206, 209, 214)), (0.62, (232, 233, 235)), (0.78, (222, 223, 226)), (1, (176, 178, 184))],
        "sunset": [(0, (86, 62, 134)), (0.35, (216, 100, 108)), (0.62, (252, 176, 96)), (0.7, (255, 214, 140)), (1, (255, 214, 140))],
        "night": [(0, (12, 16, 44)), (0.7, (38, 48, 100)), (1, (38, 48, 100))],
        "meadow": [(0, (112, 184, 240)), (0.6, (206, 234, 250)), (1, (206, 234, 250))],
        "beach": [(0, (96, 186, 240)), (0.5, (196, 232, 248)), (1, (196, 232, 248))],
        "city": [(0, (150, 186, 222)), (0.7, (232, 222, 206)), (1, (232, 222, 206))],
        "snow": [(0, (176, 200, 226)), (0.6, (226, 236, 246)), (1, (226, 236, 246))],
        "forest": [(0, (196, 226, 176)), (0.5, (150, 196, 140)), (1, (120, 170, 110))],
    }[place]
    canvas = np.repeat(np.round(_ramp(sky, height)).astype(np.uint8)[:, None], width, axis=1).copy()
    if place == "studio":
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        glow = np.exp(-(((x / width - 0.5) / 0.42) ** 2) - ((y / height - 0.42) / 0.5) ** 2)
        return np.clip(canvas * (0.84 + 0.2 * glow)[..., None], 0, 255)
    if place == "sunset":
        _disc(canvas, 0.72 * w, 0.6, 0.12, (255, 238, 180))
        _hills(canvas, w, 0.72, 0.04, 2.2, 0.4, (128, 62, 96))
        _hills(canvas, w, 0.83, 0.02, 3.0, 2.0, (74, 42, 78))
    elif place == "night":
        stars = np.random.default_rng(11)
        for _ in range(46):
            _disc(canvas, float(stars.random() * w), float(stars.random() * 0.62), float(stars.uniform(0.002, 0.0045)), (236, 236, 210))
        _disc(canvas, 0.2 * w, 0.18, 0.085, (250, 244, 208))
        _disc(canvas, 0.2 * w + 0.035, 0.16, 0.07, (18, 24, 58))
        _hills(canvas, w, 0.78, 0.05, 1.8, 1.0, (22, 34, 62))
        _hills(canvas, w, FLOOR + 0.03, 0.012, 2.0, 0.0, (30, 52, 60))
    elif place == "meadow":
        _disc(canvas, 0.82 * w, 0.16, 0.075, (255, 240, 150))
        for cx, cy in ((0.2, 0.2), (0.55, 0.12)):
            for dx, r in ((-0.06, 0.035), (0.0, 0.05), (0.06, 0.036)):
                _disc(canvas, cx * w + dx, cy, r, (250, 252, 254))
        _hills(canvas, w, 0.6, 0.06, 1.7, 0.8, (126, 190, 110))
        _hills(canvas, w, 0.72, 0.03, 1.4, 2.2, (96, 172, 84))
        _hills(canvas, w, 0.86, 0.01, 2.0, 0.3, (76, 152, 70))
    elif place == "beach":
        _disc(canvas, 0.2 * w, 0.17, 0.08, (255, 246, 176))
        _poly(canvas, [(0, 0.5), (w, 0.5), (w, 0.75), (0, 0.75)], (40, 138, 190))
        for row, shade in ((0.56, (62, 158, 204)), (0.64, (84, 176, 212))):
            _poly(canvas, [(0, row), (w, row), (w, row + 0.02), (0, row + 0.02)], shade)
        _hills(canvas, w, 0.72, 0.012, 2.6, 0.5, (222, 240, 240))
        _hills(canvas, w, 0.735, 0.012, 2.6, 0.5, (240, 216, 160))
        _hills(canvas, w, 0.9, 0.012, 1.6, 1.5, (228, 198, 136))
    elif place == "city":
        skyline = (0.32, 0.5, 0.24, 0.44, 0.36, 0.18, 0.46, 0.3)
        shades = ((112, 122, 146), (132, 140, 160), (98, 108, 132))
        for n, top in enumerate(skyline):
            left, right = n / 8 * w, (n + 1) / 8 * w - 0.012
            _poly(canvas, [(left, top), (right, top), (right, FLOOR), (left, FLOOR)], shades[n % 3])
            for row in np.arange(top + 0.05, 0.74, 0.085):
                for column in (0.28, 0.66):
                    cx = left + (right - left) * column
                    _poly(canvas, [(cx - 0.014, row), (cx + 0.014, row), (cx + 0.014, row + 0.035), (cx - 0.014, row + 0.035)], (244, 222, 150))
        _poly(canvas, [(0, 0.8), (w, 0.8), (w, 1), (0, 1)], (160, 160, 166))
        _poly(canvas, [(0, 0.87), (w, 0.87), (w, 1), (0, 1)], (92, 94, 102))
    elif place == "snow":
        _hills(canvas, w, 0.55, 0.09, 2.0, 0.2, (160, 186, 214))
        for n in range(7):
            cx, s = (0.06 + 0.15 * n) * w, 0.8 + 0.3 * ((n * 37) % 5) / 4
            for k in range(3):
                top, half = 0.44 - 0.02 * s + 0.08 * k, (0.035 + 0.02 * k) * s
                _poly(canvas, [(cx, top), (cx + half, top + 0.12), (cx - half, top + 0.12)], (58, 108, 100))
        _hills(canvas, w, 0.71, 0.02, 1.7, 1.0, (236, 243, 250))
        _hills(canvas, w, 0.87, 0.01, 1.4, 0.0, (222, 233, 246))
    else:  # forest
        for n in range(9):
            cx, half = (0.02 + 0.12 * n) * w, 0.016 + 0.008 * (n % 3)
            _poly(canvas, [(cx - half, 0.1), (cx + half, 0.1), (cx + half * 1.4, 0.82), (cx - half * 1.4, 0.82)], (104 - 8 * (n % 3), 76, 52))
        for n in range(12):
            _disc(canvas, (n * 0.095) * w, 0.1 + 0.05 * ((n * 5) % 3), 0.12, ((50, 116, 62), (64, 134, 70), (42, 100, 56))[n % 3])
        _hills(canvas, w, 0.76, 0.015, 2.4, 0.4, (88, 146, 72))
        _hills(canvas, w, 0.87, 0.01, 2.0, 1.4, (72, 124, 60))
    return cv2.GaussianBlur(canvas, (0, 0), max(0.3, height / 700))


@lru_cache(maxsize=256)
def backdrop(place: str, colour: str, height: int, width: int) -> np.ndarray:
    """The picture of `place` (uint8 RGB, read-only) in `colour` where it takes one."""
    picture = _tinted(place, colour, height, width) if place in TINTED else _scene(place, height, width)
    out = np.clip(np.round(picture), 0, 255).astype(np.uint8)
    out.setflags(write=False)
    return out
