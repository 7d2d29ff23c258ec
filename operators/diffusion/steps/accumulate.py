"""Matrix products that add up in half precision: twice the rate on GeForce cards, nothing on others, and a little less exact.

The switch of torch (`allow_fp16_accumulation`, 2.7 and later) reaches products in cuBLAS, which are half of a UNet, not cuDNN's
convolutions. It holds for the whole process. Invariant: it is on only where the UNet's output with it is within TOLERANCE of the output
without. It knows one switch and one comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from operators.diffusion.weights.models import Models

Accumulation = Literal["auto", "fp32", "fp16"]


def switch() -> Any:
    """What holds the flag; None where this torch has none."""
    import torch

    holder = torch.backends.cuda.matmul
    return holder if hasattr(type(holder), "__getattr__") and _has(holder) else None


def _has(holder: Any) -> bool:
    try:
        return isinstance(holder.allow_fp16_accumulation, bool)
    except (AttributeError, RuntimeError):
        return False


def gains(models: Models) -> bool:
    """Whether the device adds up twice as fast in half precision: GeForce cards do, the larger ones of each generation do not."""
    import torch

    return models.device.type == "cuda" and "GeForce" in torch.cuda.get_device_name(models.device)


def able(models: Models) -> str | None:
    """Why products of `models` cannot add up in half precision; None where they can."""
    import torch

    if switch() is None:
        return f"torch {torch.__version__} cannot"
    if models.dtype is not torch.float16:
        return f"the model computes in {str(models.dtype).removeprefix('torch.')}"
    return None if models.device.type == "cuda" else f"{models.device.type} has no such products"


def choose(wanted: Accumulation, models: Models, tell: Callable[..., None]) -> str:
    """Turn it on where it is wanted, pays and is exact enough; "fp16" or "fp32"."""
    from operators.diffusion.steps.quick import TOLERANCE, answer, error

    if wanted == "fp32" or (wanted == "auto" and not gains(models)):
        return "fp32"
    why, holder = able(models), switch()
    if why is not None or holder is None:
        if wanted == "fp16":
            tell("accumulation_stays", at="fp32", why=why)
        return "fp32"
    try:
        holder.allow_fp16_accumulation = False
        right = answer(models)
        holder.allow_fp16_accumulation = True
        off = error(answer(models), right)
    except BaseException:
        holder.allow_fp16_accumulation = False
        raise
    if off <= TOLERANCE:
        tell("accumulation", at="fp16", error=float(f"{off:.2g}"), allowed=TOLERANCE, holds_for="the whole process")
        return "fp16"
    holder.allow_fp16_accumulation = False  # for others that it would suit too: nothing here is computed beyond the tolerance
    tell("accumulation_stays", at="fp32", why=f"the UNet's output would be off by {off:.2g}, more than {TOLERANCE:g}")
    return "fp32"
