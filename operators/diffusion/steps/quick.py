"""What makes a painting node's modules quick, decided once at open: kernels of attention, accumulation, compiled blocks, captured steps.

Everything here is an option that a device may refuse. Invariant: whatever changes results is tried against the plain way on the modules
themselves first, and taken only within TOLERANCE; what is asked for and not taken is told once, with the reason. Nothing here raises but
for `graphs = "on"` on a device that has none.
It knows modules and devices, not frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from operators.diffusion.steps.capture import capturer_for
from operators.diffusion.steps.graphs import Graphs

if TYPE_CHECKING:
    import torch

    from operators.diffusion.stream import Stream
    from operators.diffusion.weights.models import Models

TOLERANCE = 1e-2  # relative, of a UNet's output: above, half precision would be seen in pictures


def quicken(stream: Stream, models: Models) -> Graphs | None:
    """Apply `attention`, `accumulation`, `compile` and `graphs` of `stream` to its modules; what captures its steps, or None."""
    import torch

    from operators.diffusion.steps import accumulate, attend, compiled

    tell = stream.site.event
    cuda = models.device.type == "cuda"
    with torch.inference_mode():
        if cuda:
            torch.backends.cudnn.benchmark = True  # shapes are few, and stay
        taken = {
            "attention": attend.choose(stream.attention, models, tell),
            "accumulation": accumulate.choose(stream.accumulation, models, tell),
            "compiled": compiled.choose(stream.compile, models, tell),
        }
    capturer, why = capturer_for(models.device, stream.graphs)
    if cuda or any(getattr(stream, name) != "auto" for name in ("attention", "accumulation", "graphs")) or stream.compile != "off":
        tell("quick", **taken, graphs="captured" if capturer is not None else f"none: {why}")
    return None if capturer is None else Graphs(capturer, tell)


def sample(models: Models) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, Any]]:
    """An input that a UNet may well get: latent, timestep, text and the other arguments, the same on every call."""
    import torch

    generator = torch.Generator(models.device).manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=models.device).to(models.dtype)

    unet, cells = models.unet, models.native // models.fold
    latent = normal(1, models.channels, cells, cells).to(memory_format=torch.channels_last)
    more: dict[str, Any] = {}
    if unet.config.time_cond_proj_dim:
        more["timestep_cond"] = normal(1, int(unet.config.time_cond_proj_dim))
    if unet.config.addition_embed_type == "text_time":
        width = int(unet.config.projection_class_embeddings_input_dim) - 6 * int(unet.config.addition_time_embed_dim)
        times = torch.full((1, 6), float(models.native), device=models.device, dtype=models.dtype)
        more["added_cond_kwargs"] = {"text_embeds": normal(1, width), "time_ids": times}
    elif unet.config.addition_embed_type:
        more["added_cond_kwargs"] = {}
    return latent, torch.full((1,), 500.0, device=models.device), normal(1, models.towers[0].limit, models.text_width), more


def answer(models: Models) -> torch.Tensor:
    """The UNet's output for the sample, float32."""
    latent, t, text, more = sample(models)
    found: torch.Tensor = models.unet(latent, t, text, return_dict=False, **more)[0]
    return found.float()


def error(found: torch.Tensor, right: torch.Tensor) -> float:
    """Relative: of the difference's norm to that of what is right; infinite where something is not finite."""
    import math

    value = float((found - right).norm() / right.norm().clamp(min=1e-12))
    return value if math.isfinite(value) else math.inf
