"""One text encoder with its tokenizer. It knows tokens and layers, not prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class TextTower:
    """`late`: the encoding is taken before the last layer and left as it is (SDXL), instead of after it and normalised (Stable Diffusion).

    `pad`: the token that fills a chunk where the tokenizer's own is not the model's. `words`: what words of textual inversions stand for.
    """

    def __init__(self, module: Any, tokenizer: Any, *, late: bool = False, pad: int | None = None) -> None:
        self.module, self.tokenizer, self.late = module, tokenizer, late
        self.limit = int(module.config.max_position_embeddings)
        self.width = int(module.config.hidden_size)
        self.pools = hasattr(module, "text_projection")
        self.words: dict[str, str] = {}
        if tokenizer is not None:
            self.begin, self.end = int(tokenizer.bos_token_id), int(tokenizer.eos_token_id)
            self.pad = int(tokenizer.pad_token_id if pad is None else pad)

    def ids(self, text: str) -> list[int]:
        """Token ids of `text`, without begin and end."""
        for word, stands_for in self.words.items():
            text = text.replace(word, stands_for)
        found: list[int] = self.tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        return found

    def run(self, ids: torch.Tensor, mask: torch.Tensor | None, skip: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encodings (rows, limit, width) of `ids` (rows, limit), `skip` layers before the last, and the pooled ones where it has them."""
        deep = self.late or skip > 0
        found = self.module(ids, attention_mask=mask, output_hidden_states=deep)
        pooled = found.text_embeds if self.pools else None
        if self.late:
            return found.hidden_states[-(skip + 2)], pooled
        if not skip:
            return found.last_hidden_state, pooled
        inner = getattr(self.module, "text_model", self.module)
        return inner.final_layer_norm(found.hidden_states[-(skip + 1)]), pooled
