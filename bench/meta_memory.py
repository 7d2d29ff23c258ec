"""Live bytes of activations, counted on torch's meta device, against what the memory plan assumes.

Every storage that an operation makes is counted until the last tensor on it is gone, in half precision, with attention as one operation, as
the kernels on a card do it. Weights are not counted. Fails where the plan's table is below what was counted or more than 5 % above it.

    python bench/meta_memory.py --json bench/results/meta_memory.json
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import common
from meta_work import KL, SHAPES, modules


def live_bytes(call: Callable[[], Any], weights: Iterable[Any]) -> dict[str, int]:
    """Peak of live bytes, their sum over all allocations, and the number of these, during one call; `weights` are modules left out."""
    import torch
    import torch.nn.functional as F
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    own = {p.untyped_storage()._cdata for module in weights for p in (*module.parameters(), *module.buffers())}

    class Fused(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return torch.empty_like(args[0]) if func is F.scaled_dot_product_attention else func(*args, **(kwargs or {}))

    class Live(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.held: dict[int, int] = {}
            self.now = self.peak = self.total = self.count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            for leaf in tree_leaves(out):
                if isinstance(leaf, torch.Tensor) and (key := leaf.untyped_storage()._cdata) not in self.held and key not in own:
                    storage = leaf.untyped_storage()
                    self.held[key] = storage.nbytes()
                    self.now += storage.nbytes()
                    self.total += storage.nbytes()
                    self.count += 1
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._gone, key)
            return out

        def _gone(self, key: int) -> None:
            self.now -= self.held.pop(key, 0)

    with torch.no_grad(), Fused(), Live() as live:
        call()
    return {"peak": live.peak, "sum": live.total, "allocations": live.count}


def measure(size: int) -> dict[str, dict[str, int]]:
    """Every module at one size."""
    import torch
    from diffusers import AutoencoderKL, AutoencoderTiny

    def latent() -> Any:
        return torch.zeros(1, 4, size // 8, size // 8)

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    found: dict[str, dict[str, int]] = {}
    try:
        with torch.device("meta"):
            t, picture = torch.zeros(1), torch.zeros(1, 3, size, size)
            for name in SHAPES:
                unet, control = modules(name)
                text = torch.zeros(1, 77, SHAPES[name]["cross_attention_dim"])
                more = {"added_cond_kwargs": {"text_embeds": torch.zeros(1, 1280), "time_ids": torch.zeros(1, 6)}} if name == "sdxl" else {}
                found[f"{name} unet"] = live_bytes(lambda u=unet, e=text, m=more: u(latent(), t, e, **m), [unet])
                found[f"{name} control"] = live_bytes(lambda c=control, e=text, m=more: c(latent(), t, e, picture, **m), [control])
            for name, module in (("kl", AutoencoderKL(**KL).eval()), ("tiny", AutoencoderTiny().eval())):
                found[f"{name} encode"] = live_bytes(lambda v=module: v.encode(torch.zeros(1, 3, size, size)), [module])
                found[f"{name} decode"] = live_bytes(lambda v=module: v.decode(latent()), [module])
    finally:
        torch.set_default_dtype(before)
    return found


def assumed(size: int) -> dict[str, int]:
    """What operators/diffusion/work.py takes for a pass of each family and for each autoencoder."""
    from operators.diffusion import work

    area = (size / 512) ** 2
    families = {"sd1": work.SD1, "sd2": work.SD2, "sdxl": work.SDXL}
    peaks = {name: round(family.live * area * 1e6) for name, family in families.items()}
    return {**peaks, "kl": round(work.KL[3] * area * 1e6), "tiny": round(work.TINY[3] * area * 1e6)}


def main() -> int:
    args = common.arguments(__doc__ or "")
    rows: dict[str, Any] = {}
    met = True
    for size in (256, 512, 768):
        counted = measure(size)
        for name, plan in assumed(size).items():
            peak = max(value["peak"] for part, value in counted.items() if part.split()[0] == name)
            ratio = plan / peak
            met &= 1.0 <= round(ratio, 3) <= 1.05
            rows[f"{name} {size}"] = {"planned_mb": round(plan / 1e6, 1), "counted_mb": round(peak / 1e6, 1), "ratio": round(ratio, 3)}
        rows[f"modules {size}"] = counted
    common.report(args, "meta_memory", {"rows": rows, "target": "planned at most 1.05 of counted, and not below it", "met": met})
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
