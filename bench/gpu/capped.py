"""Phase 6: the shipped presets in sessions of the engine, with networks of full size and random weights; `live_2060` within 6 GB.

Camera, finder of poses and picture-to-text model are stand-ins of the same shape; everything between them is what ships: the graph file,
the compiler, the lanes, the memory plan, the painter.
"""

from __future__ import annotations

from typing import Any

from bench.gpu import paint
from bench.gpu.ceilings import networks
from bench.gpu.feed import Body, Camera, Idle, Look, Remark
from bench.gpu.lab import Lab, Skipped
from bench.gpu.nets import Nets

GIB = 2**30
FILES = ("ip_adapters", "loras", "embeddings", "vae")  # what a preset reads from files that random networks do not have


def capped(lab: Lab) -> None:
    made = networks(lab)
    lab.attempt("live_2060, 6 GB", lambda: preset(lab, made, "live_2060", frames=6 if lab.tiny else 1000, cap=6 * GIB))
    for name in ("live_lcm", "live_4080"):
        lab.attempt(name, lambda n=name: preset(lab, made, n, frames=4 if lab.tiny else 400))


def preset(lab: Lab, made: Nets, name: str, *, frames: int, cap: int | None = None) -> dict[str, Any]:
    """One shipped graph until `frames` are out or the phase's time is."""
    import torch

    from engine.planning.compile import compile
    from engine.session import Session
    from engine.text.load import load

    sets = [] if cap is None else [f"memory.vram={cap // 2**20}MiB"]
    if lab.tiny:
        sets += [f"paint.{key}={made.side}" for key in ("width", "height", "size")]
    try:
        graph = load(name, sets=sets)
    except Exception as error:
        raise Skipped(f"{name} does not load here: {error}") from error
    plan = compile(graph)
    ops = {node.name: node for node in plan.nodes}
    kinds = stand_ins(lab, made)
    missing = {node.op for node in plan.nodes} - set(kinds) - {"pose.draw", "image.pick"}
    if missing:
        raise Skipped(f"{name} has operators that nothing stands in for: {sorted(missing)}")
    if cap is not None and lab.cuda:
        torch.cuda.empty_cache()
        own = sum(p.numel() * p.element_size() for module in made.modules.values() for p in module.parameters())
        total = torch.cuda.get_device_properties(lab.device).total_memory
        # The networks that the painter's are copied from are not the preset's.
        torch.cuda.set_per_process_memory_fraction(min(1.0, (cap + own) / total))
        torch.cuda.reset_peak_memory_stats()
    try:
        with Session(plan, device=lab.device, govern=False) as session:
            session.stand_in = lambda node: kinds[node.plan.op](node) if node.plan.op in kinds else None

            def tick(running: Session) -> None:
                if running.frames_out >= frames or lab.left < 2:
                    running.stop()

            told = session.run(tick)
            found: dict[str, Any] = {
                "plan": plan.hash, "frames": told.frames["out"], "fps": told.fps, "age_ms": told.age_ms, "executed": executed(session),
                "errors": told.error, "out_of_memory": sum(count for what, count in told.events.items() if "memory" in what),
                "nodes_ms": {node: row["ms"] for node, row in told.nodes.items() if ops[node].kind != "sink"},
            }  # fmt: skip
            if session.memory is not None:
                found["planned_mb"] = round(session.memory.peak / 1e6)
                found["placements"] = {f"{p.node}.{p.weights.name}": p.how for p in session.memory.placements}
            if lab.cuda and cap is not None:
                found["allocated_mb"] = round((torch.cuda.max_memory_allocated() - own) / 1e6)
                found["reserved_mb"] = round((torch.cuda.max_memory_reserved() - own) / 1e6)
            return found
    finally:
        if cap is not None and lab.cuda:
            torch.cuda.set_per_process_memory_fraction(1.0)


def executed(session: Any) -> dict[str, float]:
    """Executed steps over the run."""
    rows = [numbers["executed"] for _, numbers in session.series.get("paint", ()) if "executed" in numbers]
    return {"least": min(rows), "most": max(rows), "mean": round(sum(rows) / len(rows), 2)} if rows else {}


def stand_ins(lab: Lab, made: Nets) -> dict[str, Any]:
    """By operator, what makes the stand-in of a node."""
    from operators.pose.mediapipe import Tracked
    from operators.vlm.refine import Refined

    def painter(node: Any) -> Any:
        params = {name: value for name, value in node.params.items() if name not in FILES}
        return paint.given(lab, made, len(params.get("controlnets") or []))(**params)

    camera, tokens = 24.0 if lab.tiny else 120.0, 2 if lab.tiny else 48
    idle = {op: (lambda node: Idle()) for op in ("sink.video", "sink.images", "diffusion.snapshot")}
    return idle | {
        "source.video": lambda node: Camera(made.side, camera), "pose.mediapipe": lambda node: Body(Tracked), "diffusion.stream": painter,
        "diffusion.reference": lambda node: Look(lab.tiny), "vlm.refine": lambda node: Remark(Refined, lab.tiny, 500, tokens),
    }  # fmt: skip
