"""What a CPU computes a small model fastest in: measured once, because neither name nor flags of a processor tell.

Invariant: one answer per model size, picture size and thread count in a process, so that two sessions of one process agree to the bit.
"""

from __future__ import annotations

import copy
import time
from typing import Any

SMALL = 60_000_000  # parameters; above, a measurement would take longer than it can save and memory for a second copy is not free

_known: dict[tuple[int, tuple[int, ...], int], str] = {}


def precision(unet: Any, shape: tuple[int, ...], width: int, tokens: int) -> str:
    """"fp32" or "bf16" for `unet` (float32, on the CPU) on latents of `shape` (1, C, h, w): bf16 only where it is at least a tenth faster."""
    import torch

    size = sum(p.numel() for p in unet.parameters())
    cpu: Any = torch.cpu
    able = any(getattr(cpu, probe, bool)() for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    if size > SMALL or not able:
        return "fp32"
    key = (size, shape, torch.get_num_threads())
    if key not in _known:
        kinds = {"fp32": (unet, torch.float32), "bf16": (torch.nn.Module.to(copy.deepcopy(unet), torch.bfloat16), torch.bfloat16)}
        best = dict.fromkeys(kinds, float("inf"))
        with torch.inference_mode():
            for turn in range(4):  # interleaved, so that a busy moment hits both; the first turn warms up
                for name, (module, dtype) in kinds.items():
                    given = torch.zeros(shape, dtype=dtype).to(memory_format=torch.channels_last)
                    t, cond = torch.full((1,), 500.0), torch.zeros(1, tokens, width, dtype=dtype)
                    began = time.perf_counter()
                    module(given, t, cond, return_dict=False)
                    if turn:
                        best[name] = min(best[name], time.perf_counter() - began)
        _known[key] = "bf16" if best["bf16"] < 0.9 * best["fp32"] else "fp32"
    return _known[key]
