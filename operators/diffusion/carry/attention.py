"""Self-attention that remembers: keys and values of earlier frames stand beside those of the present one.

Where attention may look at an earlier frame at the same step, what it paints there stays alike (cross-frame attention: Khachatryan et al. 2023,
"Text2Video-Zero", arXiv 2303.13439; a bank of features in a live stream: Liang et al. 2024, "StreamV2V", 2405.15757). `weight` multiplies the
exponentials of what is remembered: 0 is the plain layer, 1 counts a remembered place like a present one.

Invariants: a frame reads what the last finished frame left and writes beside it, so a frame that is tried again finds what it found at
first; tensors stay while the working size does, never more than `megabytes` of them; with weight 0 the result is that
of the plain layer. It takes the place of diffusers' processors in self-attentions only, so adapters in cross-attentions are left alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    Pair = tuple[torch.Tensor, torch.Tensor]

Key = tuple[int, int]  # layer, step


class Memory:
    """What all layers share. `step`: the nominal step of the pass under way, ~step where shallow layers alone run (their passes remember each
    other only); None: a pass that neither reads nor leaves anything."""

    def __init__(self, tell: Callable[..., None], *, anchor: bool = False, cells: int = 1024, megabytes: int = 512) -> None:
        self.tell, self.anchor, self.cells, self.limit = tell, anchor, cells, megabytes * 2**20
        self.step: int | None = None
        self.banks: list[dict[Key, Pair]] = [{}, {}]
        self.left: list[set[int]] = [set(), set()]  # steps of which each bank holds the keys
        self.first: dict[Key, Pair] = {}
        self.begun: set[int] = set()  # steps of which `first` does
        self.biases: dict[tuple[int, int, torch.dtype], torch.Tensor] = {}
        self.now = 0  # the bank that this frame writes
        self.weight, self.held, self.full = 0.0, 0, False
        self.shape: tuple[int, ...] = ()

    # ---- a frame

    def begin(self, weight: float, shape: tuple[int, ...]) -> None:
        """A frame begins, or begins again. `shape`: of its latent, with the passes of guidance."""
        if shape != self.shape:
            self.forget()
            self.banks, self.first, self.biases = [{}, {}], {}, {}
            self.shape, self.held, self.full = shape, 0, False
        if weight != self.weight:
            self.weight = weight
            for (places, _, _), bias in self.biases.items():
                bias[..., places:].fill_(self._bias())
        self.left[self.now].clear()

    def enter(self, step: int) -> None:
        """A pass of `step` begins."""
        self.step = step
        self.left[self.now].add(step)

    def settle(self) -> None:
        """The frame is painted: what it left is what the next one finds."""
        self.step = None
        if self.anchor and not self.begun:
            self.begun = set(self.left[self.now])
            for key, (k, v) in self.banks[self.now].items():
                if key in self.first:
                    for kept, new in zip(self.first[key], (k, v), strict=True):
                        kept.copy_(new)
                elif self._room(k):
                    self.first[key] = (k.clone(), v.clone())
        self.now = 1 - self.now

    def restart(self) -> None:
        """The next frame is the one to anchor at: the prompt is another one."""
        self.begun = set()

    def forget(self) -> None:
        """Nothing of earlier frames is left; places stay."""
        self.step, self.begun = None, set()
        self.left = [set(), set()]

    # ---- for replays

    def snapshot(self) -> dict[str, Any]:
        last = 1 - self.now

        def said(bank: dict[Key, Pair], steps: set[int]) -> list[Any]:
            return [[*key, k.clone(), v.clone()] for key, (k, v) in bank.items() if key[1] in steps]

        return {"shape": list(self.shape), "last": said(self.banks[last], self.left[last]), "first": said(self.first, self.begun)}

    def recall(self, state: Any, device: torch.device, dtype: torch.dtype) -> None:
        import torch

        self.begin(self.weight, tuple(state["shape"]))
        for bank, steps, said in (
            (self.banks[1 - self.now], self.left[1 - self.now], state["last"]), (self.first, self.begun, state["first"]),
        ):  # fmt: skip
            for layer, step, *pair in said:
                k, v = (torch.as_tensor(each).to(device, dtype) for each in pair)
                if self._room(k):
                    bank[layer, step] = (k, v)
                steps.add(step)

    # ---- for layers

    def found(self, layer: int) -> list[Pair]:
        """Keys and values that `layer` finds at this step."""
        if self.weight == 0 or self.step is None:
            return []
        key, found = (layer, self.step), []
        if self.step in self.left[1 - self.now] and (pair := self.banks[1 - self.now].get(key)) is not None:
            found.append(pair)
        if self.step in self.begun and (pair := self.first.get(key)) is not None:
            found.append(pair)
        return found

    def leave(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Keep `keys` and `values` (rows, places, width) for the next frame."""
        import torch

        if self.step is None:
            return
        bank, key = self.banks[self.now], (layer, self.step)
        pair = bank.get(key)
        if pair is None or pair[0].shape != keys.shape:
            if pair is not None:
                self.held -= _bytes(bank.pop(key)[0])
            if not self._room(keys):
                return
            pair = bank[key] = (torch.empty_like(keys), torch.empty_like(values))
        pair[0].copy_(keys)
        pair[1].copy_(values)

    def bias(self, places: int, more: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor | None:
        """What is added to the logits of `places` present and `more` remembered places; None where that is nothing."""
        import torch

        if self.weight == 1:
            return None
        key = (places, more, dtype)
        if key not in self.biases:
            self.biases[key] = torch.zeros(1, 1, 1, places + more, dtype=dtype, device=device)
            self.biases[key][..., places:].fill_(self._bias())
        return self.biases[key]

    def _bias(self) -> float:
        return math.log(max(self.weight, 1e-8))

    def _room(self, keys: torch.Tensor) -> bool:
        """Whether one more pair like `keys` fits, and if so, that it is there from now on."""
        need = _bytes(keys)
        if self.held + need > self.limit:
            if not self.full:
                self.full = True
                self.tell("memory_full", held_mb=round(self.held / 2**20, 1), limit_mb=self.limit >> 20, why="other layers do without")
            return False
        self.held += need
        return True


def _bytes(keys: torch.Tensor) -> int:
    return 2 * keys.numel() * keys.element_size()


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
            found = [pair for pair in memory.found(self.index) if pair[0].shape == keys.shape]
            if found:
                all_keys = torch.cat([keys, *(pair[0] for pair in found)], 1)
                all_values = torch.cat([values, *(pair[1] for pair in found)], 1)
                bias = memory.bias(places, places * len(found), query.dtype, query.device)
            memory.leave(self.index, keys, values)
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
