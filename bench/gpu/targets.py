"""What was hoped for on an H200, as ratios within one run, and what a run found: met, missed, or not measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Read = Callable[[str, str], Any]
A, B, C = "a: 15 steps, cfg, ControlNet", "b: 4 LCM steps, ControlNet", "c: 1 step, ControlNet"
B_BARE, C_BARE = "b: 4 LCM steps", "c: 1 step"
E = "E ours, in a session"


def _over(read: Read, phase: str, top: str, bottom: str) -> float | None:
    a, b = read(phase, top), read(phase, bottom)
    return a / b if isinstance(a, (int, float)) and isinstance(b, (int, float)) and b else None


def _reuse(read: Read) -> float | None:
    """How much of its FLOP ratio reuse N = 3 reaches at 15 steps."""
    sped = _over(read, "4 frames", f"{A}.F reuse 3, cut 1.fps", f"{A}.D ours, graphs.fps")
    if sped is None:
        return None
    from operators.diffusion.work import SD1

    both = SD1.unet.at(1) + SD1.control.at(1)
    return sped / (3 * both / (both + 2 * SD1.cuts[1].at(1)))


def table(read: Read) -> list[dict[str, Any]]:
    """One row a target: what, at least or at most how much, found (None: not measured), met."""
    t = "4 frames"
    rows: list[tuple[str, str, float, float | None]] = [
        ("UNet, batch 1: graph against eager", ">=", 3.0, _over(read, "2 modules", "unet.1.eager.ms", "unet.1.graph.ms")),
        ("UNet: an image at batch 8 against batch 1, as graphs", ">=", 2.0,
         _over(read, "2 modules", "unet.1.graph, channels last.ms_an_image", "unet.8.graph, channels last.ms_an_image")),
        ("UNet, batch 8: share of the matrix product", ">=", 0.35, read("2 modules", "unet.8.of_gemm")),
        ("compiled and captured against captured", ">=", 1.15, read("3 compiled", "unet.default.1.times_graph")),
        ("ours against diffusers, 1 step", ">=", 4.5, _over(read, t, f"{C}.{E}.fps", f"{C}.A diffusers.fps")),
        ("ours against diffusers, 4 steps", ">=", 3.0, _over(read, t, f"{B}.{E}.fps", f"{B}.A diffusers.fps")),
        ("ours against diffusers, 15 steps with cfg", ">=", 2.2, _over(read, t, f"{A}.{E}.fps", f"{A}.A diffusers.fps")),
        ("ours against StreamDiffusion, 1 step", ">=", 3.0, _over(read, t, f"{C_BARE}.{E}.fps", f"{C_BARE}.B StreamDiffusion.fps")),
        ("ours against StreamDiffusion, 4 steps", ">=", 2.0, _over(read, t, f"{B_BARE}.{E}.fps", f"{B_BARE}.B StreamDiffusion.fps")),
        ("ours against StreamDiffusion with a graph, 1 step", ">=", 1.15,
         _over(read, t, f"{C_BARE}.{E}.fps", f"{C_BARE}.B2 StreamDiffusion, graph.fps")),
        ("reuse on every third step: share of its FLOP ratio", ">=", 0.8, _reuse(read)),
        ("overlap of lanes, 15 steps", ">=", 1.03, _over(read, t, f"{A}.{E}.fps", f"{A}.D ours, graphs.fps")),
        ("overlap of lanes, 4 steps", ">=", 1.10, _over(read, t, f"{B}.{E}.fps", f"{B}.D ours, graphs.fps")),
        ("overlap of lanes, 1 step", ">=", 1.20, _over(read, t, f"{C}.{E}.fps", f"{C}.D ours, graphs.fps")),
        ("frames lost to a language model beside it", "<=", 0.10, read("5 beside", "best.fps_drop")),
        ("p99 of a frame beside it against alone", "<=", 1.5, read("5 beside", "best.p99_times")),
        ("frames of live_2060 within 6 GB", ">=", 1000, read("6 capped", "live_2060, 6 GB.frames")),
        ("memory from the driver a steady frame", "<=", 0, read(t, f"{A}.steady.driver_allocations_a_frame")),
        ("time to submit a steady frame of 15 steps, ms", "<=", 1.0, read(t, f"{A}.steady.submit_ms.denoise")),
    ]  # fmt: skip
    return [
        {"what": what, "target": f"{sign} {goal:g}", "found": None if found is None else round(found, 3),
         "met": None if found is None else (found >= goal if sign == ">=" else found <= goal)}
        for what, sign, goal, found in rows
    ]  # fmt: skip


def show(rows: list[dict[str, Any]], tiny: bool) -> str:
    """The table as text; of tiny networks nothing is judged."""
    words = {True: "met", False: "MISSED", None: "not measured"} if not tiny else {True: "tried", False: "tried", None: "not tried"}
    return "\n".join(f"  {r['what']:58} {r['target']:>8} {'' if r['found'] is None else r['found']!s:>9}  {words[r['met']]}" for r in rows)
