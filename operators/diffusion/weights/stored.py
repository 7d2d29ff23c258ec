"""Layers whose weights are kept otherwise than they compute: in eight-bit floats, or in the memory of the host.

A weight is brought into the precision and onto the device of what it is applied to, each time it is applied, and let go of again; from the
host by a ferry (ferry.py). What is kept never moves and is never written, so a recorded pass finds it where it was. In eight bits the result
is that of diffusers' layerwise casting to the same storage type, bit for bit; from the host it is that of weights on the device, bit for bit.

Normalisations, embeddings, biases and the first and last layers stay as they are. It knows layers, not models or plans.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from operators.models.sizes import KEPT

if TYPE_CHECKING:
    import torch

    from operators.diffusion.weights.ferry import Ferry


def store8(module: Any) -> None:
    """Keep the weights of linear layers and convolutions in float8_e4m3fn from now on."""
    import torch

    for layer in _layers(module):
        layer.weight = torch.nn.Parameter(layer.weight.data.to(torch.float8_e4m3fn), requires_grad=False)


def store_on_host(module: Any, device: torch.device, ferry: Ferry | None = None) -> None:
    """Keep these weights in the memory of the host, pinned where `device` can read it directly, and everything else on `device`. `ferry`
    brings them; modules that share one have two layers on the device between them."""
    import torch

    from operators.diffusion.weights.ferry import Ferry

    ferry, away = ferry or Ferry(device), set()
    for layer in _layers(module):
        weight = layer.weight.data.to("cpu")
        layer.weight = torch.nn.Parameter(weight.pin_memory() if device.type == "cuda" else weight, requires_grad=False)
        away.add(id(layer.weight))
        layer.ferry = ferry
        ferry.add(layer)
    for inner in module.modules():
        for name, parameter in inner._parameters.items():
            if parameter is not None and id(parameter) not in away:
                inner._parameters[name] = torch.nn.Parameter(parameter.data.to(device), requires_grad=False)
        for name, buffer in inner._buffers.items():
            inner._buffers[name] = None if buffer is None else buffer.to(device)


def _layers(module: Any) -> Iterator[Any]:
    """The layers of `module` that can be stored otherwise, made into such that fetch their weight."""
    for name, layer in module.named_modules():
        kind = _kinds().get(type(layer))
        if kind is not None and not KEPT.search(name):
            layer.__class__ = kind
            yield layer


@cache
def _kinds() -> dict[type, type]:
    import torch
    import torch.nn.functional as F

    class Stored(torch.nn.Module):
        ferry: Ferry | None = None

        def forward(self, input: torch.Tensor) -> torch.Tensor:
            if self.ferry is None:
                return self.applied(input, self.weight.to(input.dtype))  # type: ignore[no-any-return, arg-type, operator]
            weight = self.take()  # narrow over the bus, wide on the device
            found = self.applied(input, weight.to(input.dtype))  # type: ignore[operator]
            self.give()
            return found  # type: ignore[no-any-return]

        @torch.compiler.disable
        def take(self) -> torch.Tensor:
            assert self.ferry is not None
            return self.ferry.take(self)

        @torch.compiler.disable
        def give(self) -> None:
            assert self.ferry is not None
            self.ferry.give(self)

        def written(self) -> None:
            """The weight is about to be written."""
            if self.ferry is not None:
                self.ferry.written(self)

    class Linear(Stored, torch.nn.Linear):
        def applied(self, input: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            return F.linear(input, weight, self.bias)

    class Conv2d(Stored, torch.nn.Conv2d):
        def applied(self, input: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            return self._conv_forward(input, weight, self.bias)

    return {torch.nn.Linear: Linear, torch.nn.Conv2d: Conv2d, Linear: Linear, Conv2d: Conv2d}
