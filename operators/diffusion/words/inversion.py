"""Textual inversion: words with vectors of their own (Gal et al. 2022, arXiv 2208.01618).

A file holds one vector or several a text encoder; a word of several is written as several tokens, as in diffusers. It knows tokenizers and
embeddings, not prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine.errors import UsageError
from operators.diffusion.weights import checkpoint

if TYPE_CHECKING:
    import torch

    from operators.diffusion.words.tower import TextTower

# Names of the vectors for each encoder of SDXL, and the one of files that were trained for a single one.
SEVERAL = ({"clip_l", "text_encoders_0"}, {"clip_g", "text_encoders_1"})
ALONE = "emb_params"


def add(wishes: Sequence[Mapping[str, Any]], towers: Sequence[TextTower]) -> None:
    """Teach the towers the words that `wishes` name. Raises MissingError or UsageError."""
    for wish in wishes:
        name, word = str(wish["model"]), str(wish["token"])
        if not word.strip() or any(c.isspace() for c in word):
            raise UsageError(f"embedding {name}: token: expected one word, found {word!r}", fix='such as token = "<my-style>"')
        vectors = _vectors(name, wish.get("file"), len(towers))
        for tower, found in zip(towers, vectors, strict=True):
            _teach(tower, name, word, found)


def _vectors(name: str, file: str | None, towers: int) -> list[torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = checkpoint.weights_file(name, file, "embedding")
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise UsageError(f"embedding {name}: {path.name} cannot be read: {error}", fix="fetch the file again") from error
    if towers > 1:
        found = [next((v for k, v in state.items() if k in names), None) for names in SEVERAL]
        if any(v is None for v in found):
            raise UsageError(
                f"embedding {name}: expected vectors for both encoders (clip_l and clip_g), found {', '.join(sorted(state))}",
                fix="take an embedding made for this family of models",
            )
        return [v if v.ndim == 2 else v[None] for v in found]  # type: ignore[union-attr]
    one = state.get(ALONE) if ALONE in state else next(iter(state.values())) if len(state) == 1 else None
    if one is None:
        raise UsageError(
            f"embedding {name}: expected one tensor ({ALONE}), found {', '.join(sorted(state)) or 'none'}",
            fix="take an embedding made for this family of models",
        )
    return [one if one.ndim == 2 else one[None]]


def _teach(tower: TextTower, name: str, word: str, vectors: torch.Tensor) -> None:
    import torch

    if vectors.shape[1] != tower.width:
        raise UsageError(
            f"embedding {name}: expected vectors of width {tower.width}, found {vectors.shape[1]}",
            fix="take an embedding made for this family of models",
        )
    words = [word] + [f"{word}_{n}" for n in range(1, len(vectors))]
    known = tower.tokenizer.get_vocab()
    if any(each in known for each in words) or tower.tokenizer.add_tokens(words) != len(words):
        raise UsageError(f"embedding {name}: the word {word!r} has a meaning already", fix="choose another token")
    table = tower.module.get_input_embeddings()
    rows = max(len(tower.tokenizer), len(table.weight))
    grown = torch.nn.Embedding(rows, table.weight.shape[1], dtype=table.weight.dtype, device=table.weight.device)
    with torch.no_grad():
        grown.weight[: len(table.weight)] = table.weight
        grown.weight[torch.tensor(tower.tokenizer.convert_tokens_to_ids(words))] = vectors.to(grown.weight)
    tower.module.set_input_embeddings(grown.requires_grad_(False).eval())
    # Encoders that came before the end of text had a number of its own look for the highest token, which is one of these now.
    inner = getattr(tower.module, "text_model", tower.module)
    inner.eos_token_id = tower.end
    if len(words) > 1:
        tower.words[word] = " ".join(words)
