"""IP-Adapters in the UNet: every cross-attention looks at reference pictures too (Ye et al. 2023, arXiv 2308.06721).

The attention to the pictures has keys and values of its own, computed once per reference and laid into buffers that stay where they are; its
strength is a number on the device. A frame therefore pays one more attention over a few tokens, and no branch looks at a value.

Invariant: without a reference, or at scale 0, the UNet answers as if there were no adapter. It knows tokens, not pictures: those become
tokens in reference.py, away from the frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import UsageError
from operators.diffusion.weights import checkpoint

if TYPE_CHECKING:
    import torch

    from operators.diffusion.reference import Reference



class Adapter:
    """One file: `projection` (how a picture becomes tokens) and `layers` (keys and values of each cross-attention, in their order)."""

    def __init__(self, path: Path, name: str) -> None:
        from safetensors import SafetensorError

        from operators.diffusion.weights.single import tensors

        self.name, self.path = name, path
        try:
            state = tensors(path)
        except SafetensorError as error:
            raise UsageError(f"ip-adapter {name}: {path.name} cannot be read: {error}", fix="fetch the file again") from error
        self.projection = {k.removeprefix("image_proj."): v for k, v in state.items() if k.startswith("image_proj.")}
        layers = {k.removeprefix("ip_adapter."): v for k, v in state.items() if k.startswith("ip_adapter.")}
        if not self.projection or not layers:
            found = ", ".join(sorted(state)[:2])
            raise UsageError(f"ip-adapter {name}: expected image_proj.… and ip_adapter.… tensors, found {found}", fix="name an IP-Adapter")
        reads_pictures = any(key in self.projection for key in ("proj.weight", "proj.3.weight", "latents"))
        if not reads_pictures or "perceiver_resampler.proj_in.weight" in self.projection:
            raise UsageError(
                f"ip-adapter {name}: FaceID formats read an identity vector of a face recogniser, found no such network here",
                fix="take ip-adapter-plus-face or ip-adapter-full-face, which read the picture of a face",
            )
        order = sorted({int(key.partition(".")[0]) for key in layers})
        self.keys = [layers[f"{n}.to_k_ip.weight"] for n in order]
        self.values = [layers[f"{n}.to_v_ip.weight"] for n in order]

    @property
    def wide(self) -> int:
        """Width of the tokens."""
        return int(self.keys[0].shape[1])


def find(name: str, file: str | None) -> Adapter:
    """The IP-Adapter that a graph names. Raises MissingError or UsageError."""
    return Adapter(checkpoint.weights_file(name, file, "ip-adapter"), name)


class Looks:
    """What all cross-attentions share: whether there is anything to look at, how strongly, and for which rows of guidance.

    `active[i]`: adapter i has a reference and a scale. `scales[i]`: its strength, 0-d on the device. `marks[i]`: fingerprint of its
    projection; a reference is for the adapter of the same one. `usual[i]`: its scale in the graph.
    """

    def __init__(self, marks: Sequence[str], usual: Sequence[float], device: torch.device) -> None:
        import torch

        self.marks, self.usual = list(marks), list(usual)
        self.active = [False] * len(self.marks)
        self.scales = [torch.zeros((), device=device) for _ in self.marks]
        self.values = [0.0] * len(self.marks)
        self.alone: int | None = 1  # the row of (blank, reference) that a pass of one row is for; None: both rows
        self.seen: list[Reference | None] = [None] * len(self.marks)
        self.layers: list[Any] = []
        self.made = 0  # changes whenever keys and values get other places

    def take(self, references: Sequence[Reference], scale: float, scales: Sequence[float] | None, guided: bool) -> None:
        """Take up the references and strengths of this frame; keys and values are computed only for a reference that is another one.

        Raises UsageError for a reference that no adapter here can read.
        """
        self.alone = None if guided else 1
        left = [reference for reference in references if reference.adapter]
        for n, mark in enumerate(self.marks):
            mine = next((reference for reference in left if reference.adapter == mark), None)
            if mine is not None:
                left.remove(mine)
            if mine is not self.seen[n]:
                self._look(n, mine)
            value = scale * (scales[n] if scales and n < len(scales) else self.usual[n])
            if value != self.values[n]:
                self.values[n] = value
                self.scales[n].fill_(value)
            self.active[n] = value != 0 and mine is not None
        if left:
            raise UsageError(
                f"reference: expected pictures seen by one of ip_adapters ({', '.join(self.marks)}), found {left[0]!r}",
                fix="give diffusion.reference the same adapter file as the stream",
            )

    def course(self) -> tuple[Any, ...]:
        """What decides the course of a pass: who is looked at, for which rows, and where keys and values lie."""
        return (tuple(self.active), self.alone, self.made)

    def _look(self, n: int, reference: Reference | None) -> None:
        import torch

        self.seen[n] = None  # should memory run out here, the frame is tried again and must not find the last one's
        if reference is not None:
            rows = torch.stack([torch.as_tensor(reference.blank).flatten(0, 1), torch.as_tensor(reference.tokens).flatten(0, 1)])
            for layer in self.layers:
                self.made += layer.look(n, rows)
        self.seen[n] = reference


def attach(unet: Any, adapters: Sequence[Adapter], scales: Sequence[float], device: torch.device, dtype: torch.dtype) -> Looks:
    """Put `adapters` into the cross-attentions of `unet`. Raises UsageError where one was made for another model."""
    from operators.diffusion.reference import fingerprint

    looks = Looks([fingerprint(adapter.projection) for adapter in adapters], scales, device)
    processors = dict(unet.attn_processors)
    cross = [name for name in processors if name.endswith("attn2.processor")]
    modules = dict(unet.named_modules())
    for adapter in adapters:
        if len(adapter.keys) != len(cross):
            raise _misfit(adapter, f"expected {len(cross)} cross-attentions, found {len(adapter.keys)}")
    for n, name in enumerate(cross):
        attention = modules[name.removesuffix(".processor")]
        for adapter in adapters:
            want = (attention.to_k.out_features, attention.to_k.in_features)
            if tuple(adapter.keys[n].shape) != want:
                raise _misfit(adapter, f"{name}: expected {want}, found {tuple(adapter.keys[n].shape)}")
        layer = _layer(looks, [(adapter.keys[n], adapter.values[n]) for adapter in adapters])
        processors[name] = layer.to(device, dtype).requires_grad_(False).eval()
        looks.layers.append(layer)
    unet.set_attn_processor(processors)
    return looks


def _misfit(adapter: Adapter, what: str) -> UsageError:
    return UsageError(f"ip-adapter {adapter.name} does not fit the model: {what}", fix="take one made for this family of models")


def _layer(looks: Looks, weights: list[tuple[torch.Tensor, torch.Tensor]]) -> Any:
    """A processor of diffusers' attention, as a module, so that it moves and is cast with the UNet."""
    import torch

    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.to_k = torch.nn.ParameterList([torch.nn.Parameter(k, requires_grad=False) for k, _ in weights])
            self.to_v = torch.nn.ParameterList([torch.nn.Parameter(v, requires_grad=False) for _, v in weights])
            self.keys: list[Any] = [None] * len(weights)
            self.values: list[Any] = [None] * len(weights)

        def look(self, n: int, rows: torch.Tensor) -> bool:
            """Keys and values of adapter `n` for tokens (2, tokens, width), in the same places while their number stays; whether not."""
            new = False
            rows = rows.to(self.to_k[n])
            for kept, weight in ((self.keys, self.to_k[n]), (self.values, self.to_v[n])):
                found = torch.nn.functional.linear(rows, weight)
                if kept[n] is not None and kept[n].shape == found.shape and kept[n].dtype == found.dtype:
                    kept[n].copy_(found)
                else:
                    kept[n], new = found, True
            return new

        def __call__(self, attn: Any, hidden: Any, encoder_hidden_states: Any = None, attention_mask: Any = None, *a: Any, **k: Any) -> Any:
            """As diffusers' AttnProcessor2_0 for a transformer's cross-attention, with the pictures beside the text."""
            rows, places, _ = hidden.shape
            query = attn.to_q(hidden)
            width = query.shape[-1] // attn.heads

            def heads(x: torch.Tensor) -> torch.Tensor:
                return x.view(x.shape[0], -1, attn.heads, width).transpose(1, 2)

            query, text = heads(query), encoder_hidden_states
            product = torch.nn.functional.scaled_dot_product_attention
            found = product(query, heads(attn.to_k(text)), heads(attn.to_v(text)))
            for n, active in enumerate(looks.active):
                if active:
                    key, value = self.keys[n], self.values[n]
                    if looks.alone is not None:
                        key, value = key[looks.alone, None], value[looks.alone, None]
                    if len(key) != rows:  # several pictures at once
                        key, value = (x.repeat_interleave(rows // len(x), dim=0) for x in (key, value))
                    found = found + looks.scales[n].to(found.dtype) * product(query, heads(key), heads(value))
            found = found.transpose(1, 2).reshape(rows, places, -1)
            return attn.to_out[1](attn.to_out[0](found))

    return Layer()
