"""How much memory.py will keep for a graph, counted before anything is loaded: layers x places x width x passes x copies.

Which self-attentions there are follows from the UNet's configuration, which passes leave something from steps, strength, guidance and reuse.
Invariant: what it says is what a Memory holds in the end, once every pass that may come has come (tests/operators/test_diffusion_work.py), for
one working size; each other size that frames were painted at keeps one step's places more. It knows configurations, neither torch nor files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Layer = tuple[int, int]  # places, width

FOUR: dict[str, Any] = {
    "block_out_channels": [320, 640, 1280, 1280], "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}  # fmt: skip
# Of the UNets of the published architectures, by the width of the text that they attend to.
PUBLISHED: dict[int, dict[str, Any]] = {
    768: FOUR,
    1024: FOUR,
    2048: {
        "block_out_channels": [320, 640, 1280], "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
        "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"], "transformer_layers_per_block": [1, 2, 10],
    },
}  # fmt: skip


def layers(unet: Mapping[str, Any], cells: tuple[int, int]) -> tuple[list[list[Layer]], list[Layer], list[list[Layer]]]:
    """Self-attentions of the first down block and of the last up block, a list for each of their layers; and those between. `cells`: height
    and width of the latent."""
    widths, depth = list(unet["block_out_channels"]), unet.get("transformer_layers_per_block", 1)
    n, counts = len(widths), unet.get("layers_per_block", 2)
    depths = [depth] * n if isinstance(depth, int) else list(depth)
    counts = [counts] * n if isinstance(counts, int) else list(counts)

    def block(level: int, kind: str, count: int) -> list[list[Layer]]:
        height, width = (-(-edge // 2**level) for edge in cells)
        deep = depths[level] if isinstance(depths[level], int) else None  # else one number a layer
        return [[(height * width, widths[level])] * (deep or depths[level][i]) if "CrossAttn" in kind else [] for i in range(count)]

    down = [block(level, kind, counts[level]) for level, kind in enumerate(unet["down_block_types"])]
    up = [block(n - 1 - i, kind, counts[n - 1 - i] + 1) for i, kind in enumerate(unet["up_block_types"])]
    middle = block(n - 1, str(unet.get("mid_block_type", "UNetMidBlock2DCrossAttn")), 1)
    between = [each for some in (*down[1:], middle, *up[:-1]) for one in some for each in one]
    return down[0], between, up[-1]


def passes(params: Mapping[str, Any], runs: Iterable[int], first: Iterable[int] = ()) -> set[tuple[int, str, int]]:
    """Step (~step for a short one), kind and rows of every pass that frames of so many executed steps may take. `first`: of those that begin
    an epoch, on whose features none like them lives."""
    from operators.diffusion.work import key_steps

    reuse = {"every": 1, "cut": 0, "frames": 1, "end": 1.0, **(params.get("reuse") or {})}
    n, once, guided = int(params["steps"]), params["guidance"] == "rcfg-onetime", params["guidance"] == "cfg"
    found = set()
    for run, alone in (*((run, False) for run in runs), *((run, True) for run in first)):
        keys = key_steps(run, int(reuse["every"]), float(reuse["end"]), once)
        for k in range(run):
            step, rows = n - run + k, 1 + (guided or (once and k == 0))
            if k in keys:
                found.add((step, "full", rows))
            if k not in keys or (reuse["frames"] > 1 and not alone):
                found.add((~step, f"short {reuse['cut']}", rows))
    return found


def remembered(
    params: Mapping[str, Any], unet: Mapping[str, Any], cells: tuple[int, int], runs: Iterable[int], first: Iterable[int], number: int
) -> int:
    """Bytes. `params`: of diffusion.stream, with steps and guidance settled; `runs`, `first`: executed steps that frames may have; `number`:
    bytes of one."""
    said = dict(params.get("remember") or {})
    most, limit, anchor = int(said.get("cells", 1024)), int(said.get("megabytes", 512)) * 2**20, bool(said.get("anchor"))
    top, between, last = layers(unet, cells)

    def sizes(kind: str, rows: int) -> list[int]:
        cut = len(top) if kind == "full" else int(kind.split()[1])
        ran = (*top[:cut], between if kind == "full" else (), *last[len(last) - 1 - cut :])
        return [2 * number * rows * places * width for some in ran for places, width in some if places <= most]

    held, steps, stages = 0, dict[int, int](), dict[tuple[str, int], int]()
    for step, kind, rows in sorted(passes(params, runs, first), key=lambda each: (max(each[0], ~each[0]), each[1], -each[2])):
        if (kind, rows) not in stages:
            stages[kind, rows] = 0
            for size in sizes(kind, rows):
                if held + (1 + anchor) * size > limit:
                    break
                held += (1 + anchor) * size
                stages[kind, rows] += size
        more = (2 + anchor) * max(0, stages[kind, rows] - steps.get(step, 0))
        if held + more <= limit:
            held += more
            steps[step] = max(steps.get(step, 0), stages[kind, rows])
    return held
