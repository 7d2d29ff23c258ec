"""Phase 7: eight-bit weights, by torchao where it is installed and by the operator's own parameter where it has one."""

from __future__ import annotations

from typing import Any

from bench.gpu import nets, paint
from bench.gpu.ceilings import networks
from bench.gpu.lab import Lab, Skipped, graphed
from bench.gpu.modules import compile_parts
from bench.gpu.options import EIGHTS, GRAPHS, chosen, wished


def eighth(lab: Lab) -> None:
    import torch

    made = networks(lab)
    with torch.inference_mode():
        for batch in (1,) if lab.tiny else (1, 8):
            lab.attempt(f"linears by torchao.{batch}", lambda b=batch: linears(lab, made, b))
    more = wished(GRAPHS)
    for label, wish in EIGHTS.items():
        lab.attempt(f"{label}.frame", lambda w=wish: frame(lab, made, {**more, **chosen(w)}))


def linears(lab: Lab, made: nets.Nets, batch: int) -> dict[str, float]:
    """The UNet with its linear layers in fp8, compiled in parts, against half precision compiled alike."""
    import torch

    if not lab.cuda:
        raise Skipped("fp8 matrix products need a CUDA device")
    try:
        from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, quantize_
    except ImportError as error:
        raise Skipped(f"torchao is not installed here: {error}") from error
    given = nets.inputs(lab, made, batch)
    found: dict[str, float] = {}
    answers = {}
    for name in ("fp16", "fp8"):
        own = nets.Nets(**{**vars(made), "unet": nets.twin(made.unet)})
        if name == "fp8":
            quantize_(own.unet, Float8DynamicActivationFloat8WeightConfig())
        compile_parts(own.unet, "inductor", None)
        call = nets.calls(own, given)["unet"]
        answers[name] = call().float().clone()
        found[f"{name}_ms"] = lab.ms(graphed(lab, call))
    found["times"] = round(found["fp16_ms"] / found["fp8_ms"], 3)
    found["difference"] = float((answers["fp8"] - answers["fp16"]).norm() / answers["fp16"].norm())
    torch.compiler.reset()
    return found


def frame(lab: Lab, made: nets.Nets, more: dict[str, Any]) -> dict[str, Any]:
    import torch

    with paint.ours(lab, made, paint.CONFIGS["b: 4 LCM steps, ControlNet"], **more) as painted:
        found: dict[str, Any] = dict(lab.frames(painted, seconds=2.0))
        if lab.cuda:
            found["allocated_mb"] = round(torch.cuda.memory_allocated() / 1e6)
        return found
