"""Phases 0 and 1: what the machine can do at most, and whether the networks are there and whole."""

from __future__ import annotations

import os
import platform
import time
from typing import Any

from bench.gpu import nets
from bench.gpu.lab import Lab, graphed


def machine(lab: Lab) -> dict[str, Any]:
    """Names and versions; no path, no host name."""
    import importlib.metadata

    import torch

    versions = {}
    for package in ("diffusers", "transformers", "triton", "torchao", "streamdiffusion", "numpy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    facts: dict[str, Any] = {
        "python": platform.python_version(), "torch": torch.__version__, "cores": os.cpu_count(), "system": platform.system(),
        "versions": versions, "device": "cpu",
    }  # fmt: skip
    if lab.cuda:
        card = torch.cuda.get_device_properties(lab.device)
        facts |= {
            "device": card.name, "memory_gb": round(card.total_memory / 1e9, 2), "multiprocessors": card.multi_processor_count,
            "capability": [card.major, card.minor], "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
        }  # fmt: skip
    return facts


def ceilings(lab: Lab) -> None:
    """Copies, matrix products, transfers, launches."""
    import torch

    lab.note("machine", machine(lab))
    side = 8192 if lab.cuda else 128
    kinds = {"fp16": torch.float16, "bf16": torch.bfloat16} if lab.cuda else {"fp32": torch.float32}

    def product(dtype: Any) -> float:
        a, b = (torch.randn(side, side, device=lab.device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        ms = lab.ms(lambda: torch.mm(a, b, out=out))
        return round(2 * side**3 / ms / 1e9, 2)

    for name, dtype in kinds.items():
        lab.attempt(f"gemm_tflops.{name}", lambda dtype=dtype: product(dtype))

    def copy() -> float:
        size = 2**31 if lab.cuda else 2**20
        a, b = (torch.empty(size, dtype=torch.uint8, device=lab.device) for _ in range(2))
        return round(2 * size / lab.ms(lambda: b.copy_(a)) / 1e6, 1)

    lab.attempt("copy_gb_s", copy)
    if lab.cuda:
        host, there = torch.empty(2**28, dtype=torch.uint8, pin_memory=True), torch.empty(2**28, dtype=torch.uint8, device=lab.device)
        lab.attempt("host_to_device_gb_s", lambda: round(2**28 / lab.ms(lambda: there.copy_(host, non_blocking=True)) / 1e6, 1))
        lab.attempt("device_to_host_gb_s", lambda: round(2**28 / lab.ms(lambda: host.copy_(there, non_blocking=True)) / 1e6, 1))
    one = torch.ones(1, device=lab.device)

    def launches(count: int = 200) -> dict[str, float]:
        """µs a kernel that does nothing takes to submit, and in a graph."""
        eager = lab.ms(lambda: [one.add_(0) for _ in range(count)])
        replay = graphed(lab, lambda: [one.add_(0) for _ in range(count)])
        found = {"eager_us_a_kernel": round(eager * 1e3 / count, 3)}
        if lab.cuda:
            found["graph_us_a_kernel"] = round(lab.ms(replay) * 1e3 / count, 3)
            alone = graphed(lab, lambda: one.add_(0))
            begun = time.perf_counter()
            for _ in range(1000):
                alone()
            found["graph_launch_us"] = round((time.perf_counter() - begun) * 1e3, 3)
            lab.sync()
        return found

    lab.attempt("launches", launches)


def networks(lab: Lab) -> nets.Nets:
    """Build them once a run, and prove that every one answers with finite numbers that depend on what it is given."""
    import torch

    if "nets" in lab.kept:
        return lab.kept["nets"]  # type: ignore[no-any-return]
    begun = time.perf_counter()
    made = nets.build(lab)
    lab.sync()
    lab.kept["nets"] = made
    size = {name: sum(p.numel() * p.element_size() for p in module.parameters()) for name, module in made.modules.items()}
    lab.note("weights_gb", {name: round(count / 1e9, 4) for name, count in size.items()})
    lab.note("built_s", round(time.perf_counter() - begun, 2))
    with torch.inference_mode():
        one, other = (nets.calls(made, nets.inputs(lab, made, batch)) for batch in (1, 2))
        for name, call in one.items():
            found = call()
            facts = {"finite": bool(torch.isfinite(found).all()), "spread": round(float(found.float().std()), 5)}
            facts["moves"] = bool((other[name]()[:1].float() - found.float()).abs().max() > 1e-3)
            lab.note(f"check.{name}", facts)
    return made
