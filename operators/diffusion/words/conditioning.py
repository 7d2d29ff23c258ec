"""What the UNet hears over frames: a prompt that changes arrives in shares, and everything else stays the same tensor.

Invariant: while neither text nor blend changes, the same tensors come back and no module runs.
It knows encodings and frames, not encoders.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from operators.diffusion.words.interpolate import lerp, slerp
from operators.diffusion.words.text import Encoded, Encoder

if TYPE_CHECKING:
    import torch

WAYS = {"slerp": slerp, "lerp": lerp}


class Conditioning:
    """The encoding of this frame: of one row, or of two with the negative prompt first where guidance takes two passes.

    `way`: "slerp" turns each token's encoding on the sphere, which keeps its length; "lerp" goes straight and is shorter in the middle.
    """

    def __init__(self, encoder: Encoder, way: str = "slerp") -> None:
        self.encoder, self.way = encoder, WAYS[way]
        self.key: tuple[str, str, bool] | None = None
        self.value: Encoded | None = None
        self.origin: Encoded | None = None
        self.target: Encoded | None = None
        self.frame = self.frames = 0
        self.seen: tuple[int, int] | None = None
        self.sized: tuple[tuple[int, ...], torch.Tensor, dict[str, torch.Tensor]] | None = None

    @property
    def settled(self) -> bool:
        """Whether no blend is under way."""
        return self.frame >= self.frames

    def reset(self) -> None:
        """Skip what is left of a blend: a new epoch starts with its prompt in full."""
        self.value, self.frame, self.frames = self.target, 0, 0

    def snapshot(self) -> dict[str, Any]:
        """What was said last, and the rest of a blend where one is under way."""
        rest = None
        if self.frame < self.frames:
            assert self.origin is not None
            assert self.target is not None
            assert self.value is not None
            rest = {"origin": tuple(self.origin), "through": tuple(self.through), "target": tuple(self.target), "value": tuple(self.value)}
        return {"key": self.key, "blend": rest, "frame": self.frame, "frames": self.frames}

    def recall(self, state: Mapping[str, Any]) -> None:
        """Go on from a `snapshot`."""
        if state["key"] is None:
            return
        text, negative, guided = state["key"]
        self(text, negative, 0, guided, (-1, -1))
        if state["blend"] is not None:
            found = {name: Encoded(*tensors) for name, tensors in state["blend"].items()}
            self.origin, self.through, self.target = found["origin"], found["through"], found["target"]
            self.frame, self.frames, self.value = state["frame"], state["frames"], found["value"]

    def forget(self) -> None:
        """Encode again: the encoders have other weights now. The change arrives at once."""
        self.encoder.forget()
        self.key = None
        self.value = None

    def __call__(self, text: str, negative: str, frames: int, guided: bool, at: tuple[int, int]) -> Encoded:
        """The conditioning of frame `at` (epoch, seq). A changed text arrives in `frames` equal shares, the first now; 0 or 1: at once.

        A frame that is tried again hears what it heard the first time.
        """
        key = (text, negative, guided)
        if key != self.key:
            target = self._target(text, negative, guided)
            origin = self.value
            if origin is not None and len(origin.text) == len(target.text):
                tokens = max(origin.text.shape[1], target.text.shape[1])
                origin = self.encoder.fit(origin, tokens)
                self.frames = frames
                # A shorter text keeps its empty chunks while the longer one fades, and loses them with the last share.
                self.origin, self.through = origin, self.encoder.fit(target, tokens)
            else:
                self.frames = 0
            self.target, self.key, self.frame = target, key, 0
            self.value = target if self.frames <= 1 else origin
        if self.frame < self.frames and at != self.seen:
            self.frame += 1
            assert self.origin is not None
            self.value = self.target if self.frame == self.frames else self._between(self.frame / self.frames)
        self.seen = at
        assert self.value is not None
        return self.value

    def _target(self, text: str, negative: str, guided: bool) -> Encoded:
        import torch

        said = self.encoder(text)
        if not guided:
            return said
        against = self.encoder.negative(negative)
        tokens = max(said.text.shape[1], against.text.shape[1])
        against, said = self.encoder.fit(against, tokens), self.encoder.fit(said, tokens)
        pooled = None if said.pooled is None else torch.cat([against.pooled, said.pooled])  # type: ignore[list-item]
        return Encoded(torch.cat([against.text, said.text]), pooled)

    def _between(self, share: float) -> Encoded:
        assert self.origin is not None
        start, end = self.origin, self.through
        pooled = None if end.pooled is None or start.pooled is None else self.way(start.pooled, end.pooled, share)
        return Encoded(self.way(start.text, end.text, share), pooled)

    def added(self, heard: Encoded, sizes: tuple[int, ...]) -> dict[str, torch.Tensor] | None:
        """What models with pooled text add to the time: the text, and the six numbers `sizes` (original, crop, target; height first).

        None for models without. The same dictionary comes back while nothing changes.
        """
        import torch

        if heard.pooled is None:
            return None
        if self.sized is None or self.sized[0] != sizes or self.sized[1] is not heard.pooled:
            ids = torch.tensor([sizes], dtype=heard.pooled.dtype, device=heard.pooled.device).repeat(len(heard.pooled), 1)
            self.sized = (sizes, heard.pooled, {"text_embeds": heard.pooled, "time_ids": ids})
        return self.sized[2]
