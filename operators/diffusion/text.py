"""Prompts as conditioning: text encoded once per string, changes blended in over frames.

Invariant: while neither text nor blend changes, the same tensor comes back and no module runs.
It knows text encoders of the CLIP kind, not what the conditioning is for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from operators.diffusion.models import Models

KEPT = 64  # encodings remembered; one of Stable Diffusion 1.5 takes 118 kB in half precision


class Encoder:
    """Text to (1, tokens, width) on the device, remembered for the last `KEPT` strings."""

    def __init__(self, models: Models, warn: Callable[..., None]) -> None:
        self.models, self.warn = models, warn
        self.kept: OrderedDict[str, torch.Tensor] = OrderedDict()

    def __call__(self, text: str) -> torch.Tensor:
        if text in self.kept:
            self.kept.move_to_end(text)
            return self.kept[text]
        found = self._encode(text)
        self.kept[text] = found
        if len(self.kept) > KEPT:
            self.kept.popitem(last=False)
        return found

    def _encode(self, text: str) -> torch.Tensor:
        models = self.models
        limit = models.text.config.max_position_embeddings
        tokens: Any = models.tokenizer(text, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
        whole = models.tokenizer(text, truncation=False)["input_ids"]
        if len(whole) > limit:
            self.warn("prompt_cut", tokens=len(whole), limit=limit, lost=models.tokenizer.decode(whole[limit - 1 : -1]))
        mask = tokens.attention_mask.to(models.device) if getattr(models.text.config, "use_attention_mask", False) else None
        with models.use(models.text):
            return models.text(tokens.input_ids.to(models.device), attention_mask=mask)[0].to(models.dtype)


def slerp(start: torch.Tensor, end: torch.Tensor, share: float) -> torch.Tensor:
    """Spherical interpolation along the last axis, in float32: keeps the norm that a straight mix would shrink. Shoemake 1985.

    Directions that are nearly parallel are mixed straight, where both agree. No value is looked at on the host.
    """
    import torch

    a, b = start.float(), end.float()
    length_a, length_b = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    cosine = (a * b).sum(-1, keepdim=True) / (length_a * length_b).clamp_min(1e-12)
    angle = torch.arccos(cosine.clamp(-1, 1))
    sine = torch.sin(angle)
    straight = sine < 1e-4
    safe = torch.where(straight, torch.ones_like(sine), sine)
    first = torch.where(straight, torch.full_like(sine, 1 - share), torch.sin((1 - share) * angle) / safe)
    second = torch.where(straight, torch.full_like(sine, share), torch.sin(share * angle) / safe)
    return (first * a + second * b).to(start.dtype)


class Conditioning:
    """What the UNet hears this frame: (1, tokens, width), or (2, ...) with the negative prompt first where guidance takes two passes."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.key: tuple[str, str, bool] | None = None
        self.value: torch.Tensor | None = None
        self.origin: torch.Tensor | None = None
        self.target: torch.Tensor | None = None
        self.frame = self.frames = 0
        self.seen: tuple[int, int] | None = None

    def reset(self) -> None:
        """Skip what is left of a blend: a new epoch starts with its prompt in full."""
        self.value, self.frame, self.frames = self.target, 0, 0

    def __call__(self, text: str, negative: str, frames: int, guided: bool, at: tuple[int, int]) -> torch.Tensor:
        """The conditioning of frame `at` (epoch, seq). A changed text arrives in `frames` equal shares, the first now; 0 or 1: at once.

        A frame that is tried again hears what it heard the first time.
        """
        import torch

        key = (text, negative, guided)
        if key != self.key:
            target = self.encoder(text)
            if guided:
                target = torch.cat([self.encoder(negative), target])
            same = self.value is not None and self.value.shape == target.shape
            self.origin, self.target, self.key = self.value, target, key
            self.frame, self.frames = 0, frames if same else 0
            self.value = target if self.frames <= 1 else self.value
        if self.frame < self.frames and at != self.seen:
            self.frame += 1
            assert self.origin is not None
            assert self.target is not None
            self.value = self.target if self.frame == self.frames else slerp(self.origin, self.target, self.frame / self.frames)
        self.seen = at
        assert self.value is not None
        return self.value
