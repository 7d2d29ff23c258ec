"""Bodies that move: joint angles over time, a 3-D skeleton from them, and its 18 keypoints in the picture.

Axes of the body: x to its own left, y up, z the way it faces; lengths are shares of the body height. Invariant: everything is a
pure function of its arguments, so a sequence can be entered at any time. This module knows nothing of clothes or pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from operators.figure.skeleton import INDEX

MOTIONS: tuple[str, ...] = ("walk", "run", "wave", "dance", "jack", "idle", "clap", "juggle", "random")
HEAD_SHARE = 0.34  # head radius over torso length: larger than life, so that a face fits on few pixels


@dataclass(frozen=True)
class Body:
    """Proportions, as factors on a default body."""

    torso: float = 1.0
    shoulders: float = 1.0
    hips: float = 1.0
    arms: float = 1.0
    legs: float = 1.0
    neck: float = 1.0
    face: float = 0.85  # how far out on the head the face's keypoints sit: detectors disagree, so training varies it


@dataclass(frozen=True)
class Camera:
    """Where the figure stands in the picture. x, y: place of the mid-hip in 0..1; scale: body height over picture height."""

    x: float = 0.5
    y: float = 0.53
    scale: float = 0.82
    yaw: float = 0.0  # radians; 0 faces the viewer
    pitch: float = 0.0
    aspect: float = 1.0  # picture width over height


@dataclass
class Angles:
    """Joint angles in radians. A limb is (flex, spread, flex, spread) of its upper and lower bone: flex swings forward,
    spread swings out to the side, both from hanging straight down."""

    left_arm: tuple[float, float, float, float] = (0.0, 0.12, 0.15, 0.12)
    right_arm: tuple[float, float, float, float] = (0.0, 0.12, 0.15, 0.12)
    left_leg: tuple[float, float, float, float] = (0.0, 0.04, -0.03, 0.03)
    right_leg: tuple[float, float, float, float] = (0.0, 0.04, -0.03, 0.03)
    lean: float = 0.0  # to its left
    bow: float = 0.0  # forward
    twist: float = 0.0  # shoulders against hips
    turn: float = 0.0  # the whole body, added to the camera's yaw
    head: tuple[float, float, float] = (0.0, 0.0, 0.0)  # yaw, pitch (up), tilt
    lift: float = 0.0  # of the hips, in body heights


@dataclass
class Skeleton:
    """A posed body seen by a camera.

    points: name -> (x, y, z): x, y in px of a picture of height 1 (so x runs to `aspect`), z towards the viewer, same unit.
    unit: picture heights per body height. head: (3, 3) rows are the head's left, up and face axes in view space.
    """

    points: dict[str, np.ndarray]
    unit: float
    radius: float  # of the head, in picture heights
    head: np.ndarray
    chest: np.ndarray
    aspect: float = 1.0
    keypoints: np.ndarray = field(default_factory=lambda: np.zeros((18, 3), np.float32))


def _wave(t: float, rate: float, phase: float = 0.0) -> float:
    return math.sin(2 * math.pi * (rate * t + phase))


def angles(motion: str, t: float, traits: np.ndarray) -> Angles:
    """The joint angles of `motion` at `t` seconds; `traits` (32 numbers in 0..1) make one performer differ from another."""
    if motion not in MOTIONS:
        raise ValueError(f"motion must be one of {', '.join(MOTIONS)}, not {motion!r}")
    a = Angles()
    k = [float(v) for v in traits]
    p = k[0]
    breath = 0.02 * _wave(t, 0.3, p)
    a.head = (0.35 * (k[1] - 0.5) + 0.25 * _wave(t, 0.17, k[2]), 0.12 * _wave(t, 0.23, k[3]), 0.08 * _wave(t, 0.31, k[4]))
    if motion in ("walk", "run"):
        fast = motion == "run"
        rate, swing = (1.5 + 0.4 * k[5], 0.75) if fast else (0.8 + 0.4 * k[5], 0.45 + 0.15 * k[6])
        s, c = _wave(t, rate, p), _wave(t, rate, p + 0.25)
        bend = 1.3 if fast else 0.6

        def leg(s: float, c: float) -> tuple[float, float, float, float]:
            return (swing * s, 0.03, swing * s - (0.12 + bend * max(0.0, c) * 0.9), 0.02)

        elbow = 1.35 if fast else 0.35
        a.left_leg, a.right_leg = leg(s, c), leg(-s, -c)
        a.left_arm = (-swing * s, 0.12, -swing * s + elbow, 0.05)
        a.right_arm = (swing * s, 0.12, swing * s + elbow, 0.05)
        a.twist, a.bow = -0.15 * s, 0.18 if fast else 0.03
        a.lift = (0.03 if fast else 0.012) * _wave(t, 2 * rate, p + 0.1)
    elif motion == "wave":
        up = 2.2 + 0.3 * k[5]
        beat = 0.5 * _wave(t, 1.2 + 0.6 * k[6], p)
        a.left_arm = (0.1, up - 0.6, 0.2, math.pi - 0.2 + beat)
        a.right_arm = (0.05, 0.15 + 0.2 * k[7], 0.3 + 0.5 * k[8], 0.1 - 0.5 * k[9])
        a.lean = 0.06 * _wave(t, 0.5, p)
    elif motion == "dance":
        rate = 0.7 + 0.5 * k[5]
        s, c = _wave(t, rate, p), _wave(t, rate, p + 0.25)
        s2 = _wave(t, rate / 2, k[6])
        a.left_arm = (0.5 * s2, 1.1 + 0.9 * s, 0.4 + 0.5 * c, 1.6 + 1.1 * s)
        a.right_arm = (-0.5 * s2, 1.1 - 0.9 * s * (1 if k[7] > 0.4 else -1), 0.4 - 0.5 * c, 1.6 - 1.1 * c)
        a.left_leg = (0.35 * max(0.0, s), 0.18 + 0.15 * c, 0.35 * max(0.0, s) - 0.7 * max(0.0, s), 0.1)
        a.right_leg = (0.35 * max(0.0, -s), 0.18 - 0.15 * c, 0.35 * max(0.0, -s) - 0.7 * max(0.0, -s), 0.1)
        a.lean, a.twist, a.turn = 0.18 * c, 0.35 * s, 0.5 * s2
        a.lift = 0.025 * _wave(t, 2 * rate, p)
    elif motion == "jack":
        o = 0.5 - 0.5 * math.cos(2 * math.pi * (t * (0.7 + 0.4 * k[5]) + p))
        a.left_arm = a.right_arm = (0.05, 0.15 + 2.5 * o, 0.1, 0.15 + 2.75 * o)
        a.left_leg = a.right_leg = (0.0, 0.04 + 0.38 * o, -0.04, 0.03 + 0.38 * o)
        a.lift = 0.05 * math.sin(math.pi * o) - 0.02 * o
    elif motion == "idle":
        hands = (0.35 * k[5], 0.1 + 0.25 * k[6], 0.35 * k[5] + 1.3 * k[7], 0.1 - 0.7 * k[8])
        a.left_arm, a.right_arm = hands, (0.2 * k[9], 0.12 + breath, 0.2 * k[9] + 0.8 * k[10], 0.05)
        a.lean = 0.05 * _wave(t, 0.2, p)
        a.left_leg = (0.15 * k[11], 0.05 + 0.15 * k[12], -0.1 * k[11], 0.03)
    elif motion == "clap":
        o = 0.5 + 0.5 * _wave(t, 1.3 + 0.7 * k[5], p)
        high = 0.9 + 0.9 * k[6]
        a.left_arm = a.right_arm = (high, 0.2 + 0.5 * o, high + 0.7, -0.55 + 0.9 * o)
        a.lift = 0.01 * o
    elif motion == "juggle":
        rate = 0.9 + 0.5 * k[5]
        s, c = _wave(t, rate, p), _wave(t, rate, p + 0.5)
        up, knee = 0.35 * k[6], max(0.0, _wave(t, rate / 2, k[7]))
        other = max(0.0, -_wave(t, rate / 2, k[7]))
        a.left_arm = (0.15 + 0.2 * s, 0.25 + 0.3 * k[8], 1.25 * k[9] + up + 0.4 * s, 0.15 + 0.4 * k[8])
        a.right_arm = (0.15 + 0.2 * c, 0.25 + 0.3 * k[8], 1.25 * k[9] + up + 0.4 * c, 0.15 + 0.4 * k[8])
        a.left_leg = (1.2 * knee * k[10], 0.05 + 0.2 * knee * k[11], 1.2 * knee * k[10] - 1.4 * knee * k[12], 0.03)
        a.right_leg = (1.2 * other * k[10], 0.05 + 0.2 * other * k[11], 1.2 * other * k[10] - 1.4 * other * k[12], 0.03)
        a.bow, a.head = 0.12 * k[13], (a.head[0], a.head[1] - 0.3 * k[14], a.head[2])
    else:  # random: every angle on a slow wave of its own, wide enough to cover what people do
        w = [_wave(t, 0.15 + 0.35 * k[(i * 7 + 3) % 32], k[i % 32] + 0.37 * i) for i in range(24)]
        arm = [(0.9 * w[0], 1.2 + 1.3 * w[1], 0.9 * w[0] + 0.8 + 0.8 * w[2], 1.2 + 1.5 * w[3])]
        arm.append((0.9 * w[4], 1.2 + 1.3 * w[5], 0.9 * w[4] + 0.8 + 0.8 * w[6], 1.2 + 1.5 * w[7]))
        a.left_arm, a.right_arm = arm
        f, g = 0.5 * w[8] + 0.15, 0.5 * w[9] + 0.15
        a.left_leg = (f, 0.22 + 0.25 * w[10], f - 0.7 - 0.7 * w[11], 0.15 + 0.25 * w[10])
        a.right_leg = (g, 0.22 + 0.25 * w[12], g - 0.7 - 0.7 * w[13], 0.15 + 0.25 * w[12])
        a.lean, a.bow, a.twist = 0.25 * w[14], 0.15 * w[15] + 0.05, 0.4 * w[16]
        a.head = (0.6 * w[17], 0.3 * w[18], 0.25 * w[19])
        a.lift = 0.03 * w[20]
    return a


def _direction(flex: float, spread: float, side: float) -> np.ndarray:
    return np.array([side * math.sin(spread), -math.cos(spread) * math.cos(flex), math.cos(spread) * math.sin(flex)])


def _turn_x(v: float) -> np.ndarray:
    c, s = math.cos(v), math.sin(v)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def _turn_y(v: float) -> np.ndarray:
    c, s = math.cos(v), math.sin(v)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def _turn_z(v: float) -> np.ndarray:
    c, s = math.cos(v), math.sin(v)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


# Directions on the head: (yaw, pitch) in degrees from straight ahead; yaw to the head's own left.
FACE_POINTS = {"nose": (0, -8), "right_eye": (-24, 9), "left_eye": (24, 9), "right_ear": (-88, 2), "left_ear": (88, 2)}


def on_head(yaw: float, pitch: float) -> np.ndarray:
    """A unit vector in head axes (left, up, face) from degrees."""
    y, p = math.radians(yaw), math.radians(pitch)
    return np.array([math.sin(y) * math.cos(p), math.sin(p), math.cos(y) * math.cos(p)])


_FACE_UNIT = {name: on_head(*spot) for name, spot in FACE_POINTS.items()}


def pose_body(a: Angles, body: Body, camera: Camera) -> Skeleton:
    """The 3-D skeleton of `a` as `camera` sees it, with its 18 keypoints (x, y as shares of width and height; 1 in the picture)."""
    torso = 0.29 * body.torso
    radius = HEAD_SHARE * torso
    chest_turn = _turn_y(a.twist) @ _turn_z(-a.lean) @ _turn_x(a.bow)
    head_turn = chest_turn @ _turn_y(a.head[0]) @ _turn_z(-a.head[2]) @ _turn_x(-a.head[1])
    pts: dict[str, np.ndarray] = {"hip": np.array([0.0, a.lift, 0.0])}
    pts["neck"] = pts["hip"] + chest_turn @ np.array([0.0, torso, 0.0])
    pts["head"] = pts["neck"] + chest_turn @ np.array([0.0, 0.045 * body.neck, 0.01]) + head_turn @ np.array([0.0, 0.9 * radius, 0.0])
    for side, name in ((1.0, "left"), (-1.0, "right")):
        shoulder = pts["neck"] + chest_turn @ np.array([side * 0.125 * body.shoulders, -0.005, 0.0])
        flex, spread, flex2, spread2 = getattr(a, f"{name}_arm")
        elbow = shoulder + chest_turn @ _direction(flex, spread, side) * (0.165 * body.arms)
        wrist = elbow + chest_turn @ _direction(flex2, spread2, side) * (0.155 * body.arms)
        hip = pts["hip"] + np.array([side * 0.075 * body.hips, 0.0, 0.0])
        flex, spread, flex2, spread2 = getattr(a, f"{name}_leg")
        knee = hip + _direction(flex, spread, side) * (0.245 * body.legs)
        ankle = knee + _direction(flex2, spread2, side) * (0.24 * body.legs)
        toe = ankle + _direction(flex2 + 1.35, 0.25, side) * 0.075
        parts = {"shoulder": shoulder, "elbow": elbow, "wrist": wrist, "hip": hip, "knee": knee, "ankle": ankle, "toe": toe}
        pts.update({f"{name}_{part}": point for part, point in parts.items()})
    view = _turn_x(camera.pitch) @ _turn_y(camera.yaw + a.turn)
    names = list(pts)
    xyz = np.stack([pts[n] for n in names]) @ view.T
    depth = 1.0 / (1.0 - 0.12 * xyz[:, 2:3])  # a mild perspective: what is near is a little larger
    xyz[:, :2] = xyz[:, :2] * depth
    xyz *= camera.scale
    xyz[:, 0] += camera.x * camera.aspect
    xyz[:, 1] = camera.y - xyz[:, 1]
    seen = dict(zip(names, xyz, strict=True))
    axes = (view @ head_turn).T
    skeleton = Skeleton(seen, camera.scale, radius * camera.scale, axes, (view @ chest_turn).T, camera.aspect)
    keys = np.zeros((18, 3), np.float32)
    for joint, number in INDEX.items():
        if joint in _FACE_UNIT:
            d = _FACE_UNIT[joint] @ axes
            point = seen["head"] + np.array([d[0], -d[1], d[2]]) * skeleton.radius * body.face
            visible = d[2] > -0.25
        else:
            point, visible = seen[joint], True
        keys[number, 0], keys[number, 1] = point[0] / camera.aspect, point[1]
        inside = 0.0 <= keys[number, 0] < 1.0 and 0.0 <= keys[number, 1] < 1.0
        keys[number, 2] = 1.0 if visible and inside else 0.0
    skeleton.keypoints = keys
    return skeleton


def draw_traits(rng: np.random.Generator) -> np.ndarray:
    """The 32 numbers that make a performer."""
    return rng.random(32)


def draw_body(rng: np.random.Generator) -> Body:
    """A body within what people are: every factor within about a sixth of 1."""
    u = rng.uniform
    return Body(u(0.9, 1.12), u(0.8, 1.2), u(0.75, 1.3), u(0.88, 1.15), u(0.85, 1.15), u(0.8, 1.3), u(0.45, 1.0))


def draw_camera(rng: np.random.Generator, aspect: float = 1.0) -> Camera:
    """Mostly the whole figure, often off-centre or small, sometimes cut by the frame; every yaw, front views more often."""
    u = rng.uniform
    kind = rng.random()
    if kind < 0.72:
        scale = u(0.68, 0.95)
        x, y = 0.5 + u(-0.16, 0.16), 0.53 + u(-0.05, 0.05)
    elif kind < 0.94:
        scale = u(0.45, 0.7)
        x, y = u(0.22, 0.78), u(0.45, 0.66)
    else:
        scale = u(1.0, 1.9)
        x, y = 0.5 + u(-0.15, 0.15), 0.55 + scale * u(0.05, 0.3)
    front = rng.random()
    yaw = rng.normal(0, 0.45) if front < 0.75 else u(-math.pi, math.pi)
    return Camera(x, y, scale, float(yaw), float(rng.normal(0.05, 0.08)), aspect)
