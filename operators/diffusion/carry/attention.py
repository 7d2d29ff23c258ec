"""Self-attention that remembers: keys and values of earlier frames stand beside those of the present one.

Where attention may look at an earlier frame at the same step, what it paints there stays alike (cross-frame attention: Khachatryan et al. 2023,
"Text2Video-Zero", arXiv 2303.13439; a bank of features in a live stream: Liang et al. 2024, "StreamV2V", 2405.15757). `weight` multiplies the
exponentials of what is remembered: 0 is the plain layer, 1 counts a remembered place like a present one.

Invariant: with weight 0 the result is that of the plain layer. It takes the place of diffusers' processors in self-attentions only, so
adapters in cross-attentions are left alone. What is kept, and when, memory.py says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from operators.diffusion.carry.memory import Memory


class _Layer:
    """A processor of diffusers' attention for one self-attention of a transformer block."""

    def __init__(self, memory: Memory, index: int) -> None:
        self.memory, self.index = memory, index

    def __call__(self, attn: Any, hidden: Any, encoder_hidden_states: Any = None, attention_mask: Any = None, *a: Any, **k: Any) -> Any:
        import torch

        memory, (rows, places, _) = self.memory, hidden.shape
        query, keys, values = attn.to_q(hidden), attn.to_k(hidden), attn.to_v(hidden)
        all_keys, all_values, bias = keys, values, None
        if places <= memory.cells:
            found = memory.found(self.index)
            if found:
                all_keys = torch.cat([keys, *(pair[0] for pair in found)], 1)
                all_values = torch.cat([values, *(pair[1] for pair in found)], 1)
                bias = memory.bias(places, places * len(found), query.dtype, query.device)
            memory.put(self.index, keys, values)  # after they were read
        width = query.shape[-1] // attn.heads

        def heads(x: torch.Tensor) -> torch.Tensor:
            return x.view(rows, -1, attn.heads, width).transpose(1, 2)

        answer = torch.nn.functional.scaled_dot_product_attention(heads(query), heads(all_keys), heads(all_values), attn_mask=bias)
        return attn.to_out[1](attn.to_out[0](answer.transpose(1, 2).reshape(rows, places, -1)))


def attach(unet: Any, memory: Memory) -> int:
    """Put `memory` into the self-attentions of `unet`; how many. Those with norms or projections of another kind stay as they are."""
    modules, processors, count = dict(unet.named_modules()), dict(unet.attn_processors), 0
    for name in processors:
        attention = modules[name.removesuffix(".processor")]
        if name.endswith("attn1.processor") and _plain(attention):
            processors[name] = _Layer(memory, count)
            count += 1
    unet.set_attn_processor(processors)
    return count


def _plain(attention: Any) -> bool:
    extras: Sequence[str] = ("norm_q", "norm_k", "group_norm", "spatial_norm", "added_kv_proj_dim")
    same = attention.to_q.in_features == attention.to_k.in_features
    return same and not any(getattr(attention, each, None) for each in extras) and not attention.residual_connection
