"""Phases 2 and 3: every network by itself, by batch: eager, channels last, as a CUDA graph, both, and compiled."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from bench.gpu import nets
from bench.gpu.ceilings import networks
from bench.gpu.lab import Lab, Late, Skipped, graphed

WAYS = ("eager", "channels last", "graph", "graph, channels last")


def modules(lab: Lab) -> None:
    """Milliseconds and TFLOP/s; the error of half precision against single; attention by its backends."""
    import torch

    made = networks(lab)
    with torch.inference_mode():
        for batch in (1, 2) if lab.tiny else (1, 8, 4, 2, 12):
            for name in nets.calls(made, nets.inputs(lab, made, 1)):
                if batch > 4 and name.startswith("kl"):
                    continue  # a full decoder is never batched: its activations alone would fill a small card
                for way in WAYS:
                    lab.attempt(f"{name}.{batch}.{way}", lambda n=name, b=batch, w=way: one(lab, made, n, b, w), cycles=False)
                share(lab, name, batch)
        lab.attempt("error_fp16", lambda: error(lab, made))
        for label, shape in {"64x64": (8, 4096, 40), "32x32": (8, 1024, 80), "16x16": (8, 256, 160)}.items():
            for backend in ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH"):
                lab.attempt(f"attention.{label}.{backend.lower()}", lambda s=shape, b=backend: attention(lab, s, b), cycles=False)


def one(lab: Lab, made: nets.Nets, name: str, batch: int, way: str) -> dict[str, float]:
    """One network, one batch, one way."""
    import torch

    if "graph" in way and not lab.cuda:
        raise Skipped("CUDA graphs need a CUDA device")
    last = torch.channels_last if "channels" in way else torch.contiguous_format
    given = {k: v.to(memory_format=last) if v.dim() == 4 else v for k, v in nets.inputs(lab, made, batch).items()}
    module = {"unet": made.unet, "controlnet": made.control, "taesd": made.tiny, "kl": made.full}[name.split()[0]]
    module.to(memory_format=last)
    try:
        call = nets.calls(made, given)[name]
        ms = lab.ms(graphed(lab, call) if "graph" in way else call, seconds=0.6)
    finally:
        module.to(memory_format=torch.contiguous_format)
    found = {"ms": ms, "ms_an_image": round(ms / batch, 4)}
    if tflop := nets.work(lab).get(name):
        found["tflops"] = round(batch * tflop / ms * 1e3, 2)
    return found


def share(lab: Lab, name: str, batch: int) -> None:
    """Each way against eager at this batch, and the best way's share of the measured matrix product."""
    rows = lab.now.get(name, {}).get(str(batch), {})
    times = {way: rows[way]["ms"] for way in WAYS if isinstance(rows.get(way), dict) and "ms" in rows[way]}
    if "eager" not in times:
        return
    rows["times_eager"] = {way: round(times["eager"] / ms, 3) for way, ms in times.items()}
    top, best = lab.read("0 ceilings", "gemm_tflops.fp16"), max(rows[way].get("tflops", 0.0) for way in times)
    if top and best:
        rows["of_gemm"] = round(best / top, 4)
    lab.write()


def error(lab: Lab, made: nets.Nets) -> dict[str, float]:
    """Relative error of one pass of the UNet in half precision, and of its accumulation in half, against single precision."""
    import torch

    given, exact = nets.inputs(lab, made, 1), nets.inputs(lab, made, 1, torch.float32)
    half = nets.calls(made, given)["unet"]().float()
    wide = nets.twin(made.unet).float()
    allowed = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        reference = wide(exact["latent"], exact["t"], exact["text"], return_dict=False)[0]
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = allowed
    found = {"fp16": float((half - reference).norm() / reference.norm())}
    if lab.cuda and hasattr(torch.backends.cuda.matmul, "allow_fp16_accumulation"):
        torch.backends.cuda.matmul.allow_fp16_accumulation = True
        try:
            loose = nets.calls(made, given)["unet"]().float()
            found["fp16, accumulated in fp16"] = float((loose - reference).norm() / reference.norm())
            found["accumulated in fp16, ms"] = lab.ms(nets.calls(made, given)["unet"])
        finally:
            torch.backends.cuda.matmul.allow_fp16_accumulation = False
    return {name: round(value, 6) for name, value in found.items()}


def attention(lab: Lab, shape: tuple[int, int, int], backend: str) -> float:
    """ms of one self-attention at a shape of the UNet: heads, tokens, width of a head."""
    import torch
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel

    kind = getattr(SDPBackend, backend, None)
    if kind is None or (not lab.cuda and backend != "MATH"):
        raise Skipped("not in this torch" if kind is None else "a kernel of CUDA devices")
    heads, tokens, width = shape if not lab.tiny else (2, 16, 8)
    q, k, v = (torch.randn(1, heads, tokens, width, device=lab.device).to(nets.dtype_of(lab)) for _ in range(3))
    with sdpa_kernel(kind):
        return lab.ms(lambda: F.scaled_dot_product_attention(q, k, v), seconds=0.3)


# ---------------------------------------------------------------- phase 3


def compile_parts(module: Any, backend: str, mode: str | None) -> int:
    """Compile the parts that repeat, each as one: resnets and transformer blocks. Returns how many."""
    import torch
    from diffusers.models.attention import BasicTransformerBlock
    from diffusers.models.resnet import ResnetBlock2D

    torch._dynamo.config.cache_size_limit = max(torch._dynamo.config.cache_size_limit, 64)
    count = 0
    for part in module.modules():
        if isinstance(part, (ResnetBlock2D, BasicTransformerBlock)):
            part.forward = torch.compile(type(part).forward.__get__(part), backend=backend, mode=mode, dynamic=False)
            count += 1
    return count


def compiled(lab: Lab) -> None:
    """UNet and ControlNet with their repeated parts compiled, then captured, against the graph alone."""
    import torch

    made = networks(lab)
    backend = "eager" if lab.tiny else "inductor"
    with torch.inference_mode():
        for name in ("unet", "controlnet"):
            own = nets.Nets(**{**vars(made), "unet": nets.twin(made.unet), "control": nets.twin(made.control)})
            module = own.unet if name == "unet" else own.control
            module.to(memory_format=torch.channels_last)
            for mode in ("default",) if lab.tiny else ("default", "max-autotune-no-cudagraphs"):
                if mode != "default" and lab.left < 45:
                    lab.note(f"{name}.{mode}", {"skipped": "no time left for it"})
                    continue
                parts = compile_parts(module, backend, None if mode == "default" else mode)
                lab.note(f"{name}.{mode}.parts", parts)
                for batch in (1,) if lab.tiny else (1, 8):
                    if lab.left < 5:
                        raise Late(name)
                    given = {k: v.to(memory_format=torch.channels_last) if v.dim() == 4 else v for k, v in nets.inputs(lab, own, batch).items()}
                    call = nets.calls(own, given)[name]
                    lab.attempt(f"{name}.{mode}.{batch}", lambda c=call, n=name, b=batch: against(lab, c, n, b))


def against(lab: Lab, call: Callable[[], Any], name: str, batch: int) -> dict[str, float]:
    begun = time.perf_counter()
    call()
    lab.sync()
    found = {"compile_s": round(time.perf_counter() - begun, 2), "ms": lab.ms(call)}
    if lab.cuda:
        found["graph_ms"] = lab.ms(graphed(lab, call))
        before = lab.read("2 modules", f"{name}.{batch}.graph, channels last.ms")
        if before:
            found["times_graph"] = round(before / found["graph_ms"], 3)
    return found
