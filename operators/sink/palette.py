"""`sink.palette`: which colours face, hair and clothes had over a run, kept in memory for its report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from engine.operator import HOST_RGB, Operator, Range, operator
from engine.payload import Image, Pose

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

STEPS = (5, 10, 10)  # cells of the histogram along L* (0..100), a* and b* (-100..100): 20 apart, which are other colours
SHOWN = 4  # colours of a sample


@operator("sink.palette")
class Palette(Operator):
    """The colours of the first person's face, hair, upper and lower clothes (`operators.metric.regions`), as histograms in L*a*b*.

    Every picture is measured: the Hellinger distance (0 the same, 1 nothing in common) of each region's histogram to the mean of its first
    `anchor` ones, under the region's name. `kept` holds at most `count` samples, spread over the run like the pictures of sink.keep:
    (seq, pts ns, {region: [((r, g, b), share), ...]}), the region's most frequent colours first.
    """

    onlooker = True

    def __init__(self, *, count: Annotated[int, Range(2, 4096)] = 160, anchor: Annotated[int, Range(1, 1000)] = 8) -> None:
        self.count, self.anchor = count, anchor
        self.kept: list[tuple[int, int, dict[str, list[tuple[tuple[int, int, int], float]]]]] = []
        self._every, self._came = 1, 0
        self.reset()

    def reset(self) -> None:
        """A new epoch is compared with its own beginning."""
        self._anchors: dict[str, tuple[int, Array]] = {}

    def __call__(self, image: Annotated[Image, HOST_RGB], pose: Pose) -> None:
        import numpy as np

        from operators.metric.regions import REGIONS, regions

        picture, people = np.asarray(image.data), np.asarray(pose.people)
        masks = regions(people[0], *picture.shape[:2]) if len(people) else {}
        far: dict[str, float] = {}
        sample: dict[str, list[tuple[tuple[int, int, int], float]]] = {}
        for name in REGIONS:
            if name not in masks:
                continue
            shares, colours = histogram(picture[masks[name]])
            far[name] = self._far(name, shares)
            sample[name] = colours
        self.site.measure(**far)
        self._keep(sample)

    def _far(self, name: str, shares: Array) -> float:
        import numpy as np

        count, mean = self._anchors.get(name, (0, np.zeros_like(shares)))
        if count < self.anchor:
            self._anchors[name] = (count + 1, mean + (shares - mean) / (count + 1))
            return 0.0
        return float(np.sqrt(max(0.0, 1.0 - float(np.sqrt(mean * shares).sum()))))

    def _keep(self, sample: dict[str, list[tuple[tuple[int, int, int], float]]]) -> None:
        due = self._came % self._every == 0
        self._came += 1
        if not due or not sample:
            return
        if len(self.kept) >= self.count:
            self.kept = self.kept[::2]
            self._every *= 2
        self.kept.append((self.site.seq, self.site.pts, sample))


def histogram(pixels: Array) -> tuple[Array, list[tuple[tuple[int, int, int], float]]]:
    """Shares of the cells of L*a*b* that pixels (n, 3) uint8 RGB fall into, (500,), and the mean RGB and share of the most frequent cells."""
    import numpy as np

    from operators.metric.lab import to_lab

    lab = to_lab(pixels)
    cells = np.zeros(len(lab), np.int64)
    for axis, (steps, low, high) in enumerate(zip(STEPS, (0, -100, -100), (100, 100, 100), strict=True)):
        cells = cells * steps + np.clip(((lab[:, axis] - low) / (high - low) * steps).astype(np.int64), 0, steps - 1)
    counts = np.bincount(cells, minlength=STEPS[0] * STEPS[1] * STEPS[2])
    shares = counts / max(1, counts.sum())
    order = np.argsort(-counts, kind="stable")[:SHOWN]
    colours = []
    for cell in order:
        if counts[cell]:
            mean = pixels[cells == cell].mean(axis=0)
            colours.append(((round(float(mean[0])), round(float(mean[1])), round(float(mean[2]))), round(float(shares[cell]), 4)))
    return shares, colours
