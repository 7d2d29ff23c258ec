"""Plots as SVG text: lines, stacked areas, bars. Small enough to read, no library in the page, light and dark by the page's own colours.

Pure functions from numbers to text. Long series are thinned to what a screen can show, keeping peaks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 230, 56, 12, 12, 26
COLOURS = ("#e8804a", "#5b8def", "#4fae7c", "#c9a227", "#a974d6", "#d9618f", "#3fb0b8", "#7d9b3a", "#b5794e", "#6f7bd0")
WAIT = "#8a93a3"  # of what is called `wait`, in every plot
POINTS = 430  # columns that a curve is drawn in

Series = Sequence[tuple[float, float]]
Mark = tuple[float, str]


def thin(series: Series, columns: int = POINTS) -> list[tuple[float, float]]:
    """At most two points a column, the least and the greatest, in the order in which they come."""
    points = [(x, y) for x, y in series if math.isfinite(x) and math.isfinite(y)]
    if len(points) <= 2 * columns:
        return points
    size = len(points) / columns
    kept: list[tuple[float, float]] = []
    for i in range(columns):
        part = points[int(i * size) : int((i + 1) * size)]
        low, high = min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])
        kept += sorted({low, high})
    return kept


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers from `low` to `high`."""
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [low]
    raw = span / count
    step = 10 ** math.floor(math.log10(raw))
    step *= next(m for m in (1, 2, 5, 10) if m * step >= raw)
    return [round(k * step, 10) for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


class Axes:
    """From values to places, with the frame of a plot."""

    def __init__(self, xs: Iterable[float], ys: Iterable[float], unit: str, *, floor: float | None = 0.0, x_unit: str = "s") -> None:
        xs, ys = list(xs) or [0.0], list(ys) or [0.0]
        self.x0, self.x1 = min(xs), max(xs)
        low, high = min(ys), max(ys)
        self.y0 = low if floor is None else min(floor, low)
        self.y1 = high if high > self.y0 else self.y0 + 1
        self.y1 += 0.06 * (self.y1 - self.y0)
        self.unit, self.x_unit = unit, x_unit

    def x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - self.x0) / ((self.x1 - self.x0) or 1)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - self.y0) / (self.y1 - self.y0)

    def frame(self) -> str:
        out = []
        for value in ticks(self.y0, self.y1):
            y = self.y(value)
            out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            out.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_number(value)}</text>')
        places = ticks(self.x0, self.x1, 8)
        for value in places:
            x, unit = self.x(value), f" {self.x_unit}" if value is places[-1] else ""
            anchor = f'x="{x:.1f}" text-anchor="middle"' if x < WIDTH - RIGHT - 20 else f'x="{WIDTH - 2}" text-anchor="end"'
            out.append(f'<text class="tick" {anchor} y="{HEIGHT - 8}">{_number(value)}{escape(unit)}</text>')
        return "".join([*out, f'<text class="tick" x="4" y="{TOP + 4}">{escape(self.unit)}</text>'])

    def limit(self, level: float | None) -> str:
        """A line at `level`, with its name."""
        if level is None:
            return ""
        y = self.y(level)
        name = f'<text class="tick" x="{WIDTH - RIGHT - 4}" y="{y - 4 if y > TOP + 10 else y + 13:.1f}" text-anchor="end">budget</text>'
        return f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>{name}'


def _colour(place: int, name: str) -> str:
    return WAIT if name == "wait" else COLOURS[place % len(COLOURS)]


def _svg(body: str, label: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{body}</svg>'


def _legend(names: Iterable[str]) -> str:
    items = (f'<span><i style="background:{_colour(i, name)}"></i>{escape(name)}</span>' for i, name in enumerate(names))
    return f'<div class="legend">{"".join(items)}</div>'


def lines(
    series: Mapping[str, Series], unit: str, *, label: str, marks: Sequence[Mark] = (), limit: float | None = None, floor: float | None = 0.0,
    x_unit: str = "s", steps: bool = False,
) -> str:  # fmt: skip
    """Curves over time. `marks`: moments to draw a thin line at. `limit`: a level to draw. `steps`: values hold until the next one."""
    drawn = {name: thin(points) for name, points in series.items() if points}
    if not drawn:
        return ""
    xs = [x for points in drawn.values() for x, _ in points]
    ys = [y for points in drawn.values() for _, y in points] + ([limit] if limit is not None else [])
    axes = Axes(xs, ys, unit, floor=floor, x_unit=x_unit)
    body = [axes.frame()]
    for when, what in marks:
        if axes.x0 <= when <= axes.x1:
            place = f'x1="{axes.x(when):.1f}" x2="{axes.x(when):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"'
            body.append(f'<line class="mark" {place}><title>{escape(what)}</title></line>')
    body.append(axes.limit(limit))
    for i, (name, points) in enumerate(drawn.items()):
        path: list[str] = []
        for n, (x, y) in enumerate(points):
            place = f"{axes.x(x):.1f}"
            path.append(f"H{place}V{axes.y(y):.1f}" if steps and n else f"{'L' if n else 'M'}{place} {axes.y(y):.1f}")
        body.append(f'<path class="curve" stroke="{_colour(i, name)}" d="{"".join(path)}"/>')
    return _svg("".join(body), label) + (_legend(drawn) if len(drawn) > 1 else "")


def stacked(xs: Sequence[float], parts: Mapping[str, Sequence[float]], unit: str, *, label: str, limit: float | None = None) -> str:
    """Areas on top of each other: what a frame's time was made of. Every part has one value for each x."""
    if not xs or not parts:
        return ""
    count = min(POINTS, len(xs))
    edges = [round(i * len(xs) / count) for i in range(count + 1)]
    places = [xs[min((a + b) // 2, len(xs) - 1)] for a, b in pairwise(edges)]
    means = {name: [sum(ys[a:b]) / max(1, b - a) for a, b in pairwise(edges)] for name, ys in parts.items()}
    totals = [sum(column) for column in zip(*means.values(), strict=True)]
    axes = Axes(places, [*totals, *([limit] if limit is not None else [])], unit)
    body, below = [axes.frame()], [0.0] * count
    for i, (name, ys) in enumerate(means.items()):
        above = [b + y for b, y in zip(below, ys, strict=True)]
        edge = [f"{axes.x(x):.1f} {axes.y(y):.1f}" for x, y in zip(places, above, strict=True)]
        back = [f"{axes.x(x):.1f} {axes.y(y):.1f}" for x, y in zip(reversed(places), reversed(below), strict=True)]
        body.append(f'<path class="area" fill="{_colour(i, name)}" d="M{"L".join([*edge, *back])}Z"/>')
        below = above
    body.append(axes.limit(limit))
    return _svg("".join(body), label) + _legend(parts)


Colour = tuple[tuple[int, int, int], float]  # RGB and share


def bands(samples: Sequence[tuple[float, Sequence[Colour]]], *, label: str) -> str:
    """What colours something had over time: a column a sample, each colour as high as its share of the sample."""
    if len(samples) < 2:
        return ""
    height, width = 56, WIDTH - LEFT - RIGHT
    first, last = samples[0][0], samples[-1][0]
    step = width / (len(samples) - 1)
    body = [f'<text class="tick" x="{LEFT - 8}" y="{height / 2 + 4}" text-anchor="end">{escape(label)}</text>']
    for x, colours in samples:
        left = max(LEFT, LEFT + width * (x - first) / ((last - first) or 1) - step / 2)
        whole, top = sum(share for _, share in colours) or 1.0, 0.0
        for (r, g, b), share in colours:
            tall = height * share / whole
            place = f'x="{left:.1f}" y="{top:.1f}" width="{step + 0.5:.1f}" height="{tall + 0.3:.1f}"'
            body.append(f'<rect {place} fill="#{r:02x}{g:02x}{b:02x}"/>')
            top += tall
    about = f"colours of {escape(label)} over time"
    return f'<svg class="band" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{about}">{"".join(body)}</svg>'


def bars(values: Mapping[str, float], unit: str) -> str:
    """Horizontal bars with their numbers, the longest first."""
    if not values:
        return ""
    most = max(values.values()) or 1
    rows = (
        f'<div class="bar"><span>{escape(name)}</span><b style="width:{100 * value / most:.1f}%"></b>'
        f"<em>{_number(value)} {escape(unit)}</em></div>"
        for name, value in sorted(values.items(), key=lambda item: -item[1])
    )
    return f'<div class="bars">{"".join(rows)}</div>'
