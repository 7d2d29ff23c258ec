"""The picture of a posed figure: filled hulls, back to front, on a place.

Shapes are given in picture heights and drawn antialiased with sub-pixel corners; the same calls fill a map of part ids, so that a
pixel's part is known. Invariant: equal skeleton, look and size give equal bytes.
"""

from __future__ import annotations

import math

import numpy as np

from operators.figure.look import COLOURS, HAIR, METAL, RGB, SKIN, Look
from operators.figure.motion import Skeleton, on_head
from operators.figure.place import backdrop

PARTS: tuple[str, ...] = ("place", "top", "bottom", "hair", "face", "skin", "hat", "shoe", "hand", "detail")
PART: dict[str, int] = {name: number for number, name in enumerate(PARTS)}
INK: RGB = (26, 22, 28)
_RING = np.stack([(math.cos(2 * math.pi * k / 16), math.sin(2 * math.pi * k / 16)) for k in range(16)])


def _scaled(colour: RGB, factor: float, lift: float = 0.0) -> RGB:
    return tuple(int(min(255, max(0, c * factor + lift))) for c in colour)  # type: ignore[return-value]


class _Canvas:
    """A picture and its part map, painted together."""

    def __init__(self, ground: np.ndarray, style: str):
        import cv2

        self.cv2 = cv2
        self.rgb = ground.copy()
        self.height = ground.shape[0]
        self.parts = np.zeros(ground.shape[:2], np.uint8)
        self.style = style

    def _fixed(self, points: np.ndarray) -> np.ndarray:
        limit = 8 * self.height * 16
        return np.clip(np.round((points * self.height - 0.5) * 16), -limit, limit).astype(np.int32)

    def fill(self, points: np.ndarray, colour: RGB, part: int) -> None:
        """A filled polygon, corners (n, 2) in picture heights."""
        corners = [self._fixed(points)]
        self.cv2.fillPoly(self.rgb, corners, colour, self.cv2.LINE_AA, 4)
        self.cv2.fillPoly(self.parts, corners, part, self.cv2.LINE_8, 4)

    def line(self, points: np.ndarray, colour: RGB, width: float) -> None:
        """An open line, `width` in picture heights; it belongs to the part under it."""
        thickness = max(1, round(width * self.height))
        self.cv2.polylines(self.rgb, [self._fixed(points)], False, colour, thickness, self.cv2.LINE_AA, 4)

    def hull(self, circles: list[tuple[np.ndarray, float]], colour: RGB, part: int, shade: float = 0.8) -> None:
        """The hull of circles (centre, radius), with the style's outline and shading."""
        around = np.concatenate([c[None, :2] + _RING * r for c, r in circles]).astype(np.float32)
        outline = self.cv2.convexHull(around)[:, 0]
        small = min(r for _, r in circles)
        if self.style == "comic":
            grown = np.concatenate([c[None, :2] + _RING * (r + 0.0085) for c, r in circles]).astype(np.float32)
            self.fill(self.cv2.convexHull(grown)[:, 0], INK, part)
        if self.style == "soft":  # shadow side first, then the lit side moved towards the light, up and to the left
            self.fill(outline, _scaled(colour, shade), part)
            off = np.array([-0.14, -0.10]) * small
            lit = np.concatenate([c[None, :2] + off + _RING * (r * 0.82) for c, r in circles]).astype(np.float32)
            self.fill(self.cv2.convexHull(lit)[:, 0], _scaled(colour, 1.03, 3), part)
        else:
            self.fill(outline, colour, part)

    def cap(self, centre: np.ndarray, radius: float, axis: np.ndarray, angle: float, colour: RGB, part: int) -> None:
        """The part of a ball within `angle` degrees of `axis` (view space), as far as it can be seen."""
        axis = axis / np.linalg.norm(axis)
        other = np.array([0.0, 1.0, 0.0]) if abs(axis[1]) < 0.9 else np.array([1.0, 0.0, 0.0])
        u = np.cross(axis, other)
        u /= np.linalg.norm(u)
        v = np.cross(axis, u)
        a = math.radians(angle)
        turn = np.linspace(0, 2 * math.pi, 40, endpoint=False)
        rim = axis * math.cos(a) + math.sin(a) * (np.cos(turn)[:, None] * u + np.sin(turn)[:, None] * v)
        hidden = rim[:, 2] < 0
        if hidden.all():
            if math.degrees(math.acos(max(-1.0, min(1.0, float(axis[2]))))) < 90:
                self.fill(centre[None, :2] + _RING * radius, colour, part)
            return
        flat = np.stack([rim[:, 0], -rim[:, 1]], axis=1)
        rounded = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
        if axis[2] < 0:  # turned away: what shows lies between the near rim and the silhouette
            flat = np.concatenate([flat[~hidden], rounded[~hidden]])
        else:
            flat[hidden] = rounded[hidden]
        points = (centre[None, :2] + flat * radius).astype(np.float32)
        self.fill(self.cv2.convexHull(points)[:, 0] if hidden.any() else points, colour, part)


def _mix(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    return a + (b - a) * share


def _offset(s: Skeleton, direction: np.ndarray, radius: float) -> np.ndarray:
    """Where a direction in head axes lands in the picture, at `radius` head radii."""
    d = direction @ s.head
    return s.points["head"][:2] + np.array([d[0], -d[1]]) * s.radius * radius


def _paint_leg(c: _Canvas, s: Skeleton, look: Look, side: str) -> None:
    p, u = s.points, s.unit
    hip, knee, ankle, toe = (p[f"{side}_{n}"] for n in ("hip", "knee", "ankle", "toe"))
    cloth = COLOURS[look.bottom_colour]
    skin = METAL if look.kind == "robot" else SKIN[look.skin]
    heel = ankle + (ankle - knee) / max(1e-6, float(np.linalg.norm((ankle - knee)[:2]))) * 0.012 * u
    c.hull([(heel, 0.03 * u), (_mix(heel, toe, 0.85), 0.024 * u)], (96, 66, 52), PART["shoe"])
    if look.bottom == "trousers":
        c.hull([(knee, 0.041 * u), (ankle, 0.034 * u)], cloth, PART["bottom"])
        c.hull([(hip, 0.058 * u), (knee, 0.043 * u)], cloth, PART["bottom"])
    else:
        c.hull([(knee, 0.034 * u), (ankle, 0.027 * u)], skin, PART["skin"])
        c.hull([(hip, 0.05 * u), (knee, 0.037 * u)], skin, PART["skin"])
        if look.bottom == "shorts":
            c.hull([(hip, 0.06 * u), (_mix(hip, knee, 0.72), 0.056 * u)], cloth, PART["bottom"])


def _paint_arm(c: _Canvas, s: Skeleton, look: Look, side: str) -> None:
    p, u = s.points, s.unit
    shoulder, elbow, wrist = (p[f"{side}_{n}"] for n in ("shoulder", "elbow", "wrist"))
    cloth = COLOURS[look.top_colour]
    skin = METAL if look.kind == "robot" else SKIN[look.skin]
    reach = wrist + (wrist - elbow) * 0.14
    c.hull([(_mix(wrist, reach, 0.2), 0.026 * u), (reach, 0.029 * u)], skin, PART["hand"])
    if look.top == "jacket":
        c.hull([(elbow, 0.036 * u), (wrist, 0.034 * u)], cloth, PART["top"], 0.76)
        c.hull([(shoulder, 0.047 * u), (elbow, 0.04 * u)], cloth, PART["top"], 0.76)
    else:
        c.hull([(elbow, 0.029 * u), (wrist, 0.024 * u)], skin, PART["skin"])
        c.hull([(shoulder, 0.036 * u), (elbow, 0.031 * u)], skin, PART["skin"])
        c.hull([(shoulder, 0.048 * u), (_mix(shoulder, elbow, 0.58), 0.046 * u)], cloth, PART["top"], 0.76)


def _paint_trunk(c: _Canvas, s: Skeleton, look: Look) -> None:
    p, u = s.points, s.unit
    left, right, hip_l, hip_r = p["left_shoulder"], p["right_shoulder"], p["left_hip"], p["right_hip"]
    top, bottom = COLOURS[look.top_colour], COLOURS[look.bottom_colour]
    facing = float(s.chest[2][2])
    skin = METAL if look.kind == "robot" else SKIN[look.skin]
    if look.bottom == "skirt":
        middle = _mix(hip_l, hip_r, 0.5)
        hem = [(_mix(hip, knee, 0.76) + (hip - middle) * 0.45, 0.06 * u) for hip, knee in ((hip_l, p["left_knee"]), (hip_r, p["right_knee"]))]
        c.hull([(hip_l, 0.052 * u), (hip_r, 0.052 * u), *hem], bottom, PART["bottom"])
    else:
        c.hull([(hip_l, 0.057 * u), (hip_r, 0.057 * u)], bottom, PART["bottom"])
    neck, head = p["neck"], p["head"]
    c.hull([(neck, 0.035 * u), (_mix(neck, head, 0.5), 0.033 * u)], skin, PART["skin"])
    drop = 0.55 if look.top == "jacket" else 0.12  # a jacket ends over the thighs
    low = [(_mix(h, p[f"{n}_knee"], 0.34 * drop), (0.062 + 0.012 * drop) * u) for n, h in (("left", hip_l), ("right", hip_r))]
    lower = np.array([0.0, 0.02 * u, 0.0])
    shoulders = [(_mix(left, neck, 0.12) + lower, 0.048 * u), (_mix(right, neck, 0.12) + lower, 0.048 * u)]
    c.hull([*shoulders, *low], top, PART["top"])
    if look.top == "jacket" and facing > 0.15:  # it is open over a light shirt, with two lapels
        front = s.chest[2]
        shift = np.array([front[0], -front[1], 0.0]) * 0.05 * u
        chest, belt = neck + shift * 0.8, _mix(hip_l, hip_r, 0.5) + shift
        across = (right - left)[:2] * 0.5
        white = (228, 226, 222) if look.top_colour != "white" else (120, 124, 134)
        c.fill(np.stack([chest[:2] - across * 0.32, chest[:2] + across * 0.32, _mix(chest, belt, 0.62)[:2]]), white, PART["detail"])
        c.line(np.stack([_mix(chest, belt, 0.62)[:2], _mix(chest, belt, 1.12)[:2]]), _scaled(top, 0.6), 0.008 * u)
    elif look.top == "shirt" and facing > 0.15:  # a round collar
        front = s.chest[2]
        spot = neck[:2] + np.array([front[0], -front[1]]) * 0.03 * u
        c.fill(spot + _RING * np.array([0.034, 0.02]) * u + [0, -0.012 * u], skin, PART["skin"])


def _paint_long_hair(c: _Canvas, s: Skeleton, look: Look) -> None:
    p, r = s.points, s.radius
    back = -s.head[2]
    behind = np.array([back[0], -back[1], 0.0]) * r * 0.35
    low = p["head"] + behind + np.array([-s.head[1][0], s.head[1][1], 0.0]) * r * 1.25
    wide = np.array([s.head[0][0], -s.head[0][1], 0.0]) * r * 0.42
    c.hull([(p["head"] + behind * 0.3, r * 1.04), (low + wide, r * 0.5), (low - wide, r * 0.5)], HAIR[look.hair_colour], PART["hair"], 0.78)


def _paint_face(c: _Canvas, s: Skeleton, look: Look) -> None:
    r = s.radius
    eye = (30, 26, 34)
    for side in (-1, 1):
        if (on_head(24 * side, -4) @ s.head)[2] < 0.12:
            continue
        squeeze = max(0.45, float((on_head(24 * side, -4) @ s.head)[2]))
        spot = _offset(s, on_head(24 * side, -4), 0.98)
        c.fill(spot + _RING * np.array([0.17 * squeeze, 0.215]) * r, (250, 250, 250), PART["detail"])
        c.fill(spot + [0.02 * r, 0.02 * r] + _RING * np.array([0.12 * squeeze, 0.165]) * r, eye, PART["detail"])
        c.fill(spot + [-0.03 * r, -0.05 * r] + _RING * 0.05 * r, (250, 250, 250), PART["detail"])
        brow = [_offset(s, on_head(side * a, b), 0.98) for a, b in ((13, 24), (25, 26), (37, 22))]
        c.line(np.stack(brow), _scaled(HAIR[look.hair_colour], 0.7), 0.07 * r)
    tone = SKIN[look.skin]
    for side in (-1, 1):
        if (on_head(40 * side, -27) @ s.head)[2] > 0.3:
            blush = (_scaled(tone, 0.93, -2)[0], *_scaled(tone, 0.8)[1:])
            c.fill(_offset(s, on_head(40 * side, -27), 0.95) + _RING * np.array([0.13, 0.09]) * r, blush, PART["face"])
    if (on_head(0, -18) @ s.head)[2] > 0.2:
        c.fill(_offset(s, on_head(0, -18), 1.0) + _RING * np.array([0.06, 0.045]) * r, _scaled(tone, 0.78), PART["detail"])
    if (on_head(0, -38) @ s.head)[2] > 0.15:
        smile = np.stack([_offset(s, on_head(a, -36 - 7 * math.cos(math.radians(a * 4.5))), 0.98) for a in (-20, -13, -6, 0, 6, 13, 20)])
        c.line(smile, (150, 48, 52), 0.085 * r)


def _paint_head(c: _Canvas, s: Skeleton, look: Look) -> None:
    centre, r = s.points["head"], s.radius
    if look.kind == "robot":
        right, up = np.array([s.head[0][0], -s.head[0][1], 0]), np.array([s.head[1][0], -s.head[1][1], 0])
        wide = max(0.62, abs(float(s.head[0][0])))
        half = right / max(0.3, np.linalg.norm(right)) * r * 0.66 * wide
        corners = [(centre + half * a + up * r * 0.62 * b, r * 0.3) for a in (-1, 1) for b in (-1, 1)]
        if look.hat == "none":
            tip = centre + up * r * 1.45
            c.hull([(centre + up * r * 0.8, r * 0.05), (tip, r * 0.05)], (96, 104, 116), PART["hair"])
            c.hull([(tip, r * 0.14)], (236, 72, 72), PART["hair"])
        c.hull(corners, METAL, PART["face"])
        if (on_head(0, 0) @ s.head)[2] > 0.15:
            visor = np.stack([_offset(s, on_head(a, b), 0.97) for a, b in ((-46, 20), (46, 20), (46, -16), (-46, -16))])
            c.fill(visor, (34, 40, 52), PART["detail"])
            for side in (-1, 1):
                if (on_head(24 * side, 2) @ s.head)[2] > 0.1:
                    c.fill(_offset(s, on_head(22 * side, 2), 0.98) + _RING * np.array([0.13, 0.15]) * r, (90, 230, 250), PART["detail"])
            mouth = np.stack([_offset(s, on_head(a, -36), 0.97) for a in (-20, 20)])
            c.line(mouth, (70, 78, 92), 0.1 * r)
    else:
        c.hull([(centre, r * 1.03)], HAIR[look.hair_colour], PART["hair"], 0.78)
        tone = SKIN[look.skin]
        axis, angle = (on_head(0, -24) @ s.head, 66) if look.hair == "long" else (on_head(0, -46) @ s.head, 84)
        if c.style == "soft":
            c.cap(centre, r * 0.99, axis, angle, _scaled(tone, 0.86), PART["face"])
            c.cap(centre - np.array([0.05 * r, 0.03 * r, 0]), r * 0.93, axis, angle - 1, _scaled(tone, 1.02, 2), PART["face"])
        else:
            c.cap(centre, r * 0.99, axis, angle, tone, PART["face"])
        for side in (-1, 1):  # ears, where no long hair hides them
            if look.hair == "short" and (on_head(88 * side, -8) @ s.head)[2] > -0.3:
                c.fill(_offset(s, on_head(88 * side, -8), 1.0) + _RING * np.array([0.13, 0.19]) * r, _scaled(tone, 0.92), PART["face"])
        _paint_face(c, s, look)
    if look.hat != "none":
        _paint_hat(c, s, look)


def _paint_hat(c: _Canvas, s: Skeleton, look: Look) -> None:
    centre, r = s.points["head"], s.radius
    colour = COLOURS[look.hat_colour]
    right, up, front = (np.array([v[0], -v[1], 0.0]) for v in s.head)
    side = right / max(1e-6, float(np.linalg.norm(right))) if np.linalg.norm(right) > 0.4 else np.array([1.0, 0.0, 0.0])
    if look.hat == "cap":
        c.cap(centre, r * 1.12, on_head(180, 62) @ s.head, 78, _scaled(colour, 0.82), PART["hat"])
        c.cap(centre - [0.04 * r, 0.03 * r, 0], r * 1.06, on_head(180, 62) @ s.head, 76, colour, PART["hat"])
        peak = centre + up * r * 0.55
        base, tip = peak + front * r * 0.75, peak + front * r * 1.35 - up * r * 0.06
        c.hull([(base + side * r * 0.55, r * 0.11), (base - side * r * 0.55, r * 0.11), (tip, r * 0.12)], _scaled(colour, 0.86), PART["hat"])
    else:
        brim, crown = centre + up * r * 0.62, centre + up * r * 1.6
        around = ((-1.25, 0), (1.25, 0), (-0.7, 1), (0.7, 1), (-0.7, -1), (0.7, -1))
        c.hull([(brim + side * r * a + front * r * 0.25 * b, r * 0.1) for a, b in around], _scaled(colour, 0.85), PART["hat"])
        c.hull([(at + side * r * a * 0.68, r * 0.1) for at in (brim, crown) for a in (-1, 1)], colour, PART["hat"])
        band = np.stack([(brim + up * r * 0.2 + side * r * a * 0.76)[:2] for a in (-1, 1)])
        c.line(band, _scaled(colour, 0.55, 8), 0.16 * r)


def paint(s: Skeleton, look: Look, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Paint `look` on the posed skeleton. Returns (uint8 RGB (height, width, 3), uint8 part ids (height, width), see PARTS)."""
    c = _Canvas(backdrop(look.place, look.place_colour, height, width), look.style)
    p = s.points
    feet = max(p["left_ankle"][1], p["right_ankle"][1], p["left_toe"][1], p["right_toe"][1])
    ground = min(1.2, feet + 0.02 * s.unit)
    if ground < 1.05:  # a shadow on the ground, darker than what it falls on; not a part of the figure
        middle = (p["left_ankle"][0] + p["right_ankle"][0]) / 2
        spread = 0.11 * s.unit + abs(p["left_ankle"][0] - p["right_ankle"][0]) * 0.5
        oval = c._fixed(np.array([middle, ground]) + _RING * [spread, 0.022 * s.unit])
        tone = c.rgb[min(height - 1, int(ground * height)), min(width - 1, max(0, int(middle * height)))]
        c.cv2.fillPoly(c.rgb, [oval], _scaled(tuple(int(v) for v in tone), 0.74), c.cv2.LINE_AA, 4)
    away = float(s.head[2][2]) < -0.1
    person = look.kind == "person"
    if person and look.hair == "long" and not away:
        _paint_long_hair(c, s, look)
    trunk = float(_mix(p["neck"], p["hip"], 0.5)[2])

    def depth(part: str) -> float:
        limb = ("elbow", "wrist") if part.endswith("arm") else ("knee", "ankle")
        return float(np.mean([p[f"{part.split('_')[0]}_{n}"][2] for n in limb])) - trunk

    behind = -0.035 * s.unit  # an arm has to be clearly behind to be painted first: what faces the viewer usually is in front
    arms = sorted(("left_arm", "right_arm"), key=depth)
    for part in arms:
        if depth(part) < behind:
            _paint_arm(c, s, look, part.split("_")[0])
    for part in sorted(("left_leg", "right_leg"), key=depth):
        _paint_leg(c, s, look, part.split("_")[0])
    _paint_trunk(c, s, look)
    _paint_head(c, s, look)
    if person and look.hair == "long" and away:
        _paint_long_hair(c, s, look)
        if look.hat != "none":
            _paint_hat(c, s, look)
    for part in arms:
        if depth(part) >= behind:
            _paint_arm(c, s, look, part.split("_")[0])
    return c.rgb, c.parts
