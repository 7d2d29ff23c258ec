"""Blocks that repeat in a UNet, compiled by torch: transformer blocks and residual blocks, nine tenths of its work in few shapes.

Whole models compile in minutes and again with every change of shape; blocks in tens of seconds, once. Invariants: the compiler is tried on one
small function first, and the whole UNet must answer as before within TOLERANCE; else everything is as it was. Weights stay where they are,
so captured steps and merged LoRAs do not notice. Blocks whose attention does more than attend (IP-Adapters, memories) are left alone.
It knows blocks of diffusers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

    from operators.diffusion.weights.models import Models

Compile = Literal["off", "blocks"]
KINDS = ("BasicTransformerBlock", "ResnetBlock2D")
PLAIN = ("AttnProcessor2_0", "AttnProcessor", "Processor")
SHAPES = 64  # of one kind of block: torch gives up on a function after 8 of them by default


def choose(wanted: Compile, models: Models, tell: Callable[..., None]) -> str:
    """Compile the blocks of UNet and ControlNets; "blocks" or "off"."""
    from operators.diffusion.steps.quick import TOLERANCE, answer, error

    if wanted == "off":
        return "off"
    why = self_test(models.device)
    if why is None:
        right = answer(models)
        blocks = [block for body in (models.unet, *(net.module for net in models.nets)) for block in _blocks(body)]
        try:
            put(blocks, mode(models))
            off = error(answer(models), right)
            why = None if off <= TOLERANCE else f"the UNet's output would be off by {off:.2g}, more than {TOLERANCE:g}"
        except Exception as failure:
            why = f"{type(failure).__name__}: {failure}".split("\n")[0]
        if why is None:
            tell("compiled", blocks=len(blocks), error=float(f"{off:.2g}"), allowed=TOLERANCE)
            return "blocks"
        take_out(blocks)
    tell("compile_stays", at="off", why=why)
    return "off"


def self_test(device: torch.device) -> str | None:
    """Why the compiler cannot be used here; None where it computes what it should. Turing cards, old drivers and machines without a C++
    compiler fail in many ways, some of them silently."""
    import torch

    given = torch.linspace(-3, 3, 256, device=device)

    def point(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.silu(x) * 2 + 1

    try:
        found = torch.compile(point, dynamic=False)(given)
    except Exception as failure:
        return f"the compiler fails: {type(failure).__name__}: {failure}".split("\n")[0]
    return None if torch.allclose(found, point(given), atol=1e-5) else "the compiler's result is wrong"


def mode(models: Models) -> str | None:
    """How hard the compiler tries. Not with graphs of its own, for ours are in fixed places; and on Turing it must not tune products, because
    what it writes there does not reach the tensor cores."""
    import torch

    if models.device.type != "cuda" or torch.cuda.get_device_capability(models.device) < (8, 0):
        return None
    return "max-autotune-no-cudagraphs"


def put(blocks: list[Any], how: str | None) -> None:
    """Compile the forward passes of `blocks` in place; hooks stay outside."""
    import torch

    settings: Any = torch._dynamo.config
    settings.recompile_limit = max(int(settings.recompile_limit), SHAPES)
    for block in blocks:
        block.forward = torch.compile(block.forward, mode=how, dynamic=False)


def take_out(blocks: list[Any]) -> None:
    for block in blocks:
        block.__dict__.pop("forward", None)


def _blocks(body: Any) -> list[Any]:
    found = [part for part in body.modules() if type(part).__name__ in KINDS]
    return [part for part in found if all(type(p.processor).__name__ in PLAIN for p in part.modules() if hasattr(p, "processor"))]
