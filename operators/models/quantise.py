"""Weights in eight or four bits by a library that does it: torchao, quanto or bitsandbytes, whichever is installed.

None of them is needed by anything here: they are looked for when a graph asks, and what is absent is told with the command that gets it.
Weights alone are quantised, one scale a row; layers compute in the precision of what they are given. Normalisations, embeddings and the
first and last layers stay as they are. It knows layers, not models.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine.errors import DeviceError, MissingError, UsageError

if TYPE_CHECKING:
    import torch

PACKAGES = {"torchao": ("torchao", "torchao"), "quanto": ("optimum.quanto", "optimum-quanto"), "bitsandbytes": ("bitsandbytes", "bitsandbytes")}
FOUR = ("bitsandbytes",)  # those that go down to four bits with what is in their package: quanto compiles its code for that when it is used
CONVOLUTIONS = ("quanto",)  # those that quantise convolutions too
GROUP = 64  # numbers that share a scale, in four bits


def installed(bits: int = 8, device: str = "cuda") -> list[str]:
    """The libraries here that can do it on `device`, best first; none is imported."""
    found = []
    for backend, (module, _) in PACKAGES.items():
        if (bits == 4 and backend not in FOUR) or (backend == "bitsandbytes" and not device.startswith("cuda")):
            continue
        try:
            there = importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:
            there = False
        if there:
            found.append(backend)
    return found


def choose(backend: str, bits: int, device: str) -> str:
    """The library to use. Raises MissingError where it is not installed, DeviceError or UsageError where it cannot do what is asked."""
    if backend == "auto":
        there = installed(bits, device)
        if not there:
            package = "torchao" if bits == 8 else f"{FOUR[0]} (it needs a CUDA device)"
            raise MissingError(f"quantise: no library for {bits} bits is installed", fix=f"pip install {package}")
        return there[0]
    if bits == 4 and backend not in FOUR:
        raise UsageError(f"quantise: {backend} quantises to 8 bits here, 4 were asked for", fix='bits = 8, or on CUDA backend = "bitsandbytes"')
    if backend == "bitsandbytes" and not device.startswith("cuda"):
        raise DeviceError(f"quantise: bitsandbytes needs a CUDA device, found {device}", fix='backend = "torchao" or "quanto"')
    if backend not in installed(bits, device):
        raise MissingError(f"quantise: {PACKAGES[backend][1]} is not installed", fix=f"pip install {PACKAGES[backend][1]}")
    return backend


def bytes_of(backend: str, bits: int, *, linear: int, conv: int, rest: int) -> int:
    """Bytes of a module of so many numbers in half precision once it is quantised: `rest` are in neither kind of layer. Scales are counted."""
    packed = linear + (conv if backend in CONVOLUTIONS else 0)
    scales = 4 * packed // GROUP if bits == 4 else packed // 256
    return packed * bits // 8 + scales + 2 * (rest + linear + conv - packed)


def quantise(module: Any, backend: str, bits: int, keep: Callable[[str], Any]) -> Any:
    """Quantise the layers of `module` in place, except those whose names `keep` says to leave. Call it before it is moved to its device."""
    import torch

    kinds = (torch.nn.Linear, torch.nn.Conv2d) if backend in CONVOLUTIONS else (torch.nn.Linear,)
    layers = {name: layer for name, layer in module.named_modules() if type(layer) in kinds and not keep(name)}
    if bits == 4:  # a row must divide into groups
        layers = {name: layer for name, layer in layers.items() if layer.weight[0].numel() % GROUP == 0}
    if not layers:
        raise UsageError(f"quantise: {type(module).__name__} has no layer that {backend} can take to {bits} bits", fix="leave this part out")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # these libraries speak, while imported, of what torch will lack one day
        {"torchao": _torchao, "quanto": _quanto, "bitsandbytes": _bitsandbytes}[backend](module, layers, bits)
    return module


def _torchao(module: Any, layers: dict[str, Any], bits: int) -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(module, Int8WeightOnlyConfig(), filter_fn=lambda layer, name: name in layers)


def _quanto(module: Any, layers: dict[str, Any], bits: int) -> None:
    from optimum import quanto

    quanto.quantize(module, weights=quanto.qint8, include=list(layers))
    quanto.freeze(module)


def _bitsandbytes(module: Any, layers: dict[str, Any], bits: int) -> None:
    """Layers are put in the place of others; their weights shrink when they come to the card."""
    import bitsandbytes as bnb

    for name, layer in layers.items():
        width, height, bias, dtype = layer.in_features, layer.out_features, layer.bias is not None, layer.weight.dtype
        if bits == 8:
            made = bnb.nn.Linear8bitLt(width, height, bias=bias, has_fp16_weights=False, threshold=6.0)
            made.weight = bnb.nn.Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
        else:
            made = bnb.nn.Linear4bit(width, height, bias=bias, compute_dtype=dtype, quant_type="nf4")
            made.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
        made.bias = layer.bias
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, made)


def held_bytes(module: torch.nn.Module) -> int:
    """Bytes of a module's parameters and buffers as they lie in memory, whatever they are stored as."""
    import torch
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    def of(tensor: Any) -> int:
        if is_traceable_wrapper_subclass(tensor):  # a quantised weight: the tensors it is made of
            names, _ = tensor.__tensor_flatten__()
            return sum(of(getattr(tensor, name)) for name in names)
        return int(tensor.numel() * tensor.element_size())

    seen: dict[int, Any] = {id(t): t for t in (*module.parameters(), *module.buffers())}
    return sum(of(t.data if isinstance(t, torch.nn.Parameter) and type(t) is torch.nn.Parameter else t) for t in seen.values())
