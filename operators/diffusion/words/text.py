"""Text as conditioning: one or two encoders of the CLIP kind, weights, parts that are mixed, texts of any length.

A text is cut into chunks of what an encoder takes (77 tokens, two of them its frame); chunks are encoded in one batch and laid end to end.
A token's weight multiplies its encoding, and the mean of the chunk is restored after, as the AUTOMATIC1111 interface does. Text without
weights that fits one chunk is encoded exactly as diffusers does.

Invariant: one text is encoded once while it is remembered, and every text that cannot be read as written is told once.
It knows tokens and encoders, not frames.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from operators.diffusion.words.syntax import Fragment, Part, Syntax, WeightError, parse, plain

if TYPE_CHECKING:
    import torch

    from operators.diffusion.weights.models import Models, TextTower

KEPT = 64  # encodings remembered; one of Stable Diffusion 1.5 takes 118 kB in half precision


class Encoded(NamedTuple):
    """`text`: (rows, tokens, width). `pooled`: (rows, pooled width), for models that add it to the time, else None."""

    text: torch.Tensor
    pooled: torch.Tensor | None = None


class Encoder:
    """Text to `Encoded` of one row on the device, remembered for the last `KEPT` strings.

    `chunks`: how many chunks a text may have; what exceeds them is told as `prompt_cut` and left out. `skip`: layers of the encoder left out
    at its end (clip skip).
    """

    def __init__(self, models: Models, warn: Callable[..., None], *, syntax: Syntax = "weights", chunks: int = 4, skip: int = 0) -> None:
        self.models, self.warn, self.syntax, self.chunks, self.skip = models, warn, syntax, chunks, skip
        self.kept: OrderedDict[str, Encoded] = OrderedDict()

    def __call__(self, text: str) -> Encoded:
        if text in self.kept:
            self.kept.move_to_end(text)
            return self.kept[text]
        found = self._encode(text)
        self.kept[text] = found
        if len(self.kept) > KEPT:
            self.kept.popitem(last=False)
        return found

    def forget(self) -> None:
        """Drop what is remembered: the encoders have other weights now."""
        self.kept.clear()

    def negative(self, text: str) -> Encoded:
        """What guidance sets against: an empty text is nothing at all for models that were trained so (SDXL), else a text."""
        found = self(text)
        if text or not self.models.empty_is_zero:
            return found
        return Encoded(found.text.new_zeros(found.text.shape), None if found.pooled is None else found.pooled.new_zeros(found.pooled.shape))

    def fit(self, encoded: Encoded, tokens: int) -> Encoded:
        """`encoded` with empty chunks behind it until it has `tokens` tokens."""
        import torch

        lacking = tokens - encoded.text.shape[1]
        if lacking <= 0:
            return encoded
        empty = self("").text
        more = empty.repeat(len(encoded.text), lacking // empty.shape[1], 1)
        return Encoded(torch.cat([encoded.text, more], dim=1), encoded.pooled)

    def _encode(self, text: str) -> Encoded:
        try:
            parts = parse(text, self.syntax)
        except WeightError as error:
            self.warn("prompt_weight", why=error.message, position=error.position, taken="as plain text")
            parts = plain(text)
        models = self.models
        with models.use(*(tower.module for tower in models.towers)):
            found = [self._part(part) for part in parts]
        if len(found) == 1:
            return found[0]
        long = max(each.text.shape[1] for each in found)
        found = [self.fit(each, long) for each in found]
        text_mix = sum(each.text.float() * part.share for each, part in zip(found, parts, strict=True))
        if found[0].pooled is None:
            return Encoded(text_mix.to(models.dtype))  # type: ignore[union-attr]
        pooled_mix = sum(each.pooled.float() * part.share for each, part in zip(found, parts, strict=True))  # type: ignore[union-attr]
        return Encoded(text_mix.to(models.dtype), pooled_mix.to(models.dtype))  # type: ignore[union-attr]

    def _part(self, part: Part) -> Encoded:
        import torch

        towers = self.models.towers
        chunked = [self._chunks(tower, part.fragments) for tower in towers]
        count = max(len(chunks) for chunks in chunked)
        texts, pooled = [], None
        for tower, chunks in zip(towers, chunked, strict=True):
            chunks += [([], [])] * (count - len(chunks))
            hidden, last = self._run(tower, chunks)
            texts.append(hidden)
            pooled = last if tower.pools else pooled
        return Encoded(torch.cat(texts, dim=-1) if len(texts) > 1 else texts[0], pooled)

    def _chunks(self, tower: TextTower, fragments: Iterable[Fragment]) -> list[tuple[list[int], list[float]]]:
        """Token ids and weights of every chunk, without the tokens of its frame."""
        room = tower.limit - 2
        chunks: list[tuple[list[int], list[float]]] = [([], [])]
        for fragment in fragments:
            ids = tower.ids(fragment.text)
            for token in ids:
                if len(chunks[-1][0]) == room:
                    chunks.append(([], []))
                chunks[-1][0].append(token)
                chunks[-1][1].append(fragment.weight)
            if fragment.ends:
                chunks.append(([], []))
        if len(chunks) > 1 and not chunks[-1][0]:
            chunks.pop()
        if len(chunks) > self.chunks:
            lost = [token for ids, _ in chunks[self.chunks :] for token in ids]
            tokens = sum(len(ids) for ids, _ in chunks) + 2
            if tower is self.models.towers[0]:
                self.warn("prompt_cut", tokens=tokens, limit=self.chunks * room + 2, lost=tower.tokenizer.decode(lost))
            del chunks[self.chunks :]
        return chunks

    def _run(self, tower: TextTower, chunks: list[tuple[list[int], list[float]]]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(1, chunks x limit, width), and the pooled encoding of the first chunk."""
        import torch

        models = self.models
        rows, masks = [], []
        for ids, _ in chunks:
            row = [tower.begin, *ids, tower.end]
            masks.append([1] * len(row) + [0] * (tower.limit - len(row)))
            rows.append(row + [tower.pad] * (tower.limit - len(row)))
        given = torch.tensor(rows, device=models.device)
        mask = torch.tensor(masks, device=models.device) if getattr(tower.module.config, "use_attention_mask", False) else None
        hidden, pooled = tower.run(given, mask, self.skip)
        if any(weight != 1 for _, weights in chunks for weight in weights):
            scale = torch.ones(len(chunks), tower.limit, 1)
            for n, (_, weights) in enumerate(chunks):
                scale[n, 1 : 1 + len(weights), 0] = torch.tensor(weights)
            before = hidden.float()
            after = before * scale.to(models.device)
            hidden = after * (before.mean() / after.mean())
        hidden = hidden.to(models.dtype).flatten(0, 1)[None]
        return hidden, None if pooled is None else pooled[:1].to(models.dtype)
