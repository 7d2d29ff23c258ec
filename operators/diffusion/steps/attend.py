"""The kernels of attention: torch's own, which choose among flash, memory-efficient and plain by what the card has, or those of xformers.

Invariant: xformers is taken only where it is installed and gives, at the head sizes of this very model, what torch gives. Attention that looks
at more than the text (IP-Adapters) or remembers keeps its own way. It knows attention processors of diffusers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from operators.diffusion.weights.models import Models

Attention = Literal["auto", "sdpa", "xformers"]


def choose(wanted: Attention, models: Models, tell: Callable[..., None]) -> str:
    """Put the kernels in; "sdpa" or "xformers". "auto" is torch's: newer xformers calls the same kernels."""
    if wanted != "xformers":
        return "sdpa"
    try:
        from xformers import ops
    except Exception as error:  # a build for another torch fails in many ways
        tell("attention_stays", at="sdpa", why=f"xformers cannot be imported: {type(error).__name__}: {error}".split("\n")[0])
        return "sdpa"
    bodies = [models.unet, *(net.module for net in models.nets)]
    why = _differs(ops, models, sorted({_width(part) for body in bodies for part in _parts(body)}))
    if why:
        tell("attention_stays", at="sdpa", why=why)
        return "sdpa"
    for body in bodies:
        for part in _parts(body):
            part.set_processor(Processor(ops))
    return "xformers"


def _parts(body: Any) -> list[Any]:
    """The attentions of a module that go the plain way."""
    return [part for part in body.modules() if type(getattr(part, "processor", None)).__name__ in ("AttnProcessor2_0", "AttnProcessor")]


def _width(part: Any) -> int:
    return int(part.to_q.out_features // part.heads)


def _differs(ops: Any, models: Models, widths: list[int]) -> str | None:
    """Why xformers cannot be used; None where it agrees with torch."""
    import torch

    from operators.diffusion.steps.quick import TOLERANCE, error

    generator = torch.Generator(models.device).manual_seed(1)
    for width in widths:
        query, key, value = (
            torch.randn((1, n, 2, width), generator=generator, device=models.device).to(models.dtype) for n in (64, 77, 77)
        )
        try:
            found = ops.memory_efficient_attention(query, key, value)
        except Exception as failure:
            return f"xformers fails at heads of {width}: {type(failure).__name__}: {failure}".split("\n")[0]
        right = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (query, key, value))).transpose(1, 2)
        off = error(found.float(), right.float())
        if off > TOLERANCE:
            return f"xformers differs from torch by {off:.2g} at heads of {width}"
    return None


class Processor:
    """As diffusers' AttnProcessor2_0 for a transformer's attention, without masks or norms of its own, by xformers."""

    def __init__(self, ops: Any) -> None:
        self.ops = ops

    def __call__(self, attn: Any, hidden: Any, encoder_hidden_states: Any = None, attention_mask: Any = None, *a: Any, **k: Any) -> Any:
        rows, places, _ = hidden.shape
        source = hidden if encoder_hidden_states is None else encoder_hidden_states
        width = attn.to_q.out_features // attn.heads
        query, key, value = (
            part(x).view(rows, -1, attn.heads, width) for part, x in ((attn.to_q, hidden), (attn.to_k, source), (attn.to_v, source))
        )
        found = self.ops.memory_efficient_attention(query, key, value).reshape(rows, places, -1)
        return attn.to_out[1](attn.to_out[0](found))
