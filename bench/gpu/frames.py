"""Phase 4: whole frames, bytes to bytes, ours beside diffusers and StreamDiffusion, on the same networks in one process.

    A   diffusers' __call__                         A2  the same, its networks compiled in parts
    B   StreamDiffusion                             B2  the same, its UNet behind a CUDA graph
    C   ours, eager                                 D   ours, its passes as CUDA graphs (D2: compiled too)
    E   D in a session: lanes overlap               F   D with deep features reused
    G   D with a batch of steps or of frames

Latency stands beside every rate. A parameter that this version of diffusion.stream lacks is a line that says so, never an end.
"""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable
from typing import Any

from bench.gpu import paint
from bench.gpu.ceilings import networks
from bench.gpu.lab import Lab, Late
from bench.gpu.modules import compile_parts
from bench.gpu.nets import Nets
from bench.gpu.options import BATCHES, COMPILED, GRAPHS, REUSES, chosen, wished


def frames(lab: Lab) -> None:
    made = networks(lab)
    # What the targets are about first: if time runs out, it is the variations that are missing.
    configs = paint.configs(lab.tiny)
    for name, config in configs.items():
        lab.note(f"{name}.frame", config.facts())
        for label, work in basics(lab, made, config).items():
            lab.attempt(f"{name}.{label}", work)
        ratios(lab, name)
    for name in ("a: 15 steps, cfg, ControlNet", "c: 1 step, ControlNet"):
        lab.attempt(f"{name}.steady", lambda n=name: steady(lab, made, configs[n]))
    for name, config in configs.items():
        for label, more in REUSES.items():
            if config.executed >= 4 and config.control:
                lab.attempt(f"{name}.F {label}", lambda c=config, m=more: alone(lab, made, c, seconds=2.0, **wished(GRAPHS), **chosen(m)))
        for label, (batch, more) in BATCHES.items():
            if config.indices and (config.executed > 1 or not more["batching"]):
                lab.attempt(f"{name}.G {label}", lambda c=config, b=batch, m=more: batched(lab, made, c, b, m))
        ratios(lab, name)
    if lab.cuda and not lab.tiny:
        for name in ("c: 1 step, ControlNet", "b: 4 LCM steps, ControlNet"):
            more = {**wished(GRAPHS), **chosen(COMPILED)}
            lab.attempt(f"{name}.D2 ours, graphs, compiled", lambda c=configs[name], m=more: alone(lab, made, c, seconds=2.0, **m))
        for name in ("b: 4 LCM steps, ControlNet", "c: 1 step, ControlNet", "a: 15 steps, cfg, ControlNet"):
            if lab.left < 25:
                raise Late(name)
            shrink = functools.partial(compile_parts, backend="inductor", mode=None)
            lab.attempt(f"{name}.A2 diffusers, compiled", lambda c=configs[name], s=shrink: theirs(lab, paint.pipeline(lab, made, c, s)))
            ratios(lab, name)


def basics(lab: Lab, made: Nets, config: paint.Config) -> dict[str, Callable[[], Any]]:
    """What every configuration is measured by."""
    count = 8 if lab.tiny else max(60, min(400, 1200 // config.executed))
    return {
        "A diffusers": lambda: theirs(lab, paint.pipeline(lab, made, config)),
        "E ours, in a session": lambda: paint.in_session(lab, made, config, count, **wished(GRAPHS)),
        "B StreamDiffusion": lambda: theirs(lab, paint.streamed(lab, made, config), late=config.executed - 1),
        "D ours, graphs": lambda: alone(lab, made, config, **chosen(GRAPHS)),
        "B2 StreamDiffusion, graph": lambda: theirs(
            lab, paint.streamed(lab, made, config, paint.graphed_unet(lab, made)), late=config.executed - 1
        ),
        "C ours, eager": lambda: alone(lab, made, config, **chosen(GRAPHS, off=True)),
    }


def alone(lab: Lab, made: Nets, config: paint.Config, *, seconds: float = 2.0, **more: Any) -> dict[str, float]:
    """Our frames one after another."""
    with paint.ours(lab, made, config, **more) as frame:
        settle(lab, frame)
        return lab.frames(frame, seconds=seconds)


def settle(lab: Lab, frame: Callable[[int], Any]) -> None:
    """Paint, and let the operator do between frames what it does in idle moments, until there is nothing left to capture."""
    operator: Any = frame.bench.operator  # type: ignore[attr-defined]
    until = time.monotonic() + (0.2 if lab.tiny else 6.0)
    for n in range(4):
        frame(n)
        while getattr(operator, "idle", lambda: False)() and time.monotonic() < until:
            pass
        lab.sync()


def batched(lab: Lab, made: Nets, config: paint.Config, batch: int, more: dict[str, Any]) -> dict[str, float]:
    """Rows of several steps or frames in one pass, in a session; what that costs in latency is in the ages."""
    count = 4 * batch if lab.tiny else max(96, min(400, 2000 // config.executed))
    return paint.in_session(lab, made, config, count, batch, **wished(GRAPHS), **chosen(more))


def theirs(lab: Lab, frame: Callable[[int], Any], late: int = 0) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = lab.frames(frame, seconds=2.0)
    return {**found, "late_frames": late} if late else found


def ratios(lab: Lab, name: str) -> None:
    """fps against A, B and B2, and TFLOP/s against the measured matrix product."""
    rows = lab.now[name]
    fps = {label: row["fps"] for label, row in rows.items() if isinstance(row, dict) and "fps" in row}
    bases = {letter: fps[label] for letter, label in (
        ("A", "A diffusers"), ("B", "B StreamDiffusion"), ("B2", "B2 StreamDiffusion, graph"), ("D", "D ours, graphs")
    ) if label in fps}  # fmt: skip
    rows["times"] = {label: {base: round(value / by, 3) for base, by in bases.items()} for label, value in fps.items()}
    top, tflop = lab.read("0 ceilings", "gemm_tflops.fp16"), rows["frame"]["tflop"]
    if top and not lab.tiny:
        rows["of_gemm"] = {label: round(value * tflop / top, 4) for label, value in fps.items() if not label.startswith("F")}
    lab.write()


def steady(lab: Lab, made: Nets, config: paint.Config) -> dict[str, Any]:
    """What a frame asks of host and driver once it runs: waits for the device, memory from the driver, time to submit."""
    import torch

    from engine.clock import RealClock

    with paint.ours(lab, made, config, **wished(GRAPHS)) as frame:
        settle(lab, frame)
        for n in range(3):
            frame(n)
        site, spans = frame.bench.site, []  # type: ignore[attr-defined]
        site._span = lambda begun, ended, name, *rest: spans.append((name.rpartition(".")[2], (ended - begun) / 1e6))
        site.clock = RealClock()
        lab.sync()
        count = 4 if lab.tiny else 40
        before = torch.cuda.memory_stats() if lab.cuda else {}
        for n in range(count):
            frame(n)
        after = torch.cuda.memory_stats() if lab.cuda else {}
        names = sorted({name for name, _ in spans})
        found: dict[str, Any] = {
            "submit_ms": {name: round(sum(ms for part, ms in spans if part == name) / count, 4) for name in names},
        }  # fmt: skip
        if lab.cuda:
            key = "num_device_alloc" if "num_device_alloc" in after else "segment.all.allocated"
            found["driver_allocations_a_frame"] = (after.get(key, 0) - before.get(key, 0)) / count
            found["waits"] = waits(frame)
        return found


def waits(frame: Callable[[int], Any]) -> list[str]:
    """Where one frame makes the host wait for the device, as torch tells: the picture's way home has to, nothing else may."""
    import torch

    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            frame(0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places = [w for w in told if "synchroniz" in str(w.message)]
    return [f"{w.filename.replace(chr(92), '/').rsplit('/', 2)[-2]}/{w.filename.rsplit('/', 1)[-1]}:{w.lineno}" for w in places]
