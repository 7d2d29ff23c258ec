"""Stage `tokenizer`: a byte-pair vocabulary in CLIP's layout in which every word of the captions is one token.

A tokenizer that cuts captions silently wastes all training after it, so what is promised here is asserted here: every word one
token, no caption longer than the text encoder reads. Unknown words fall apart into pieces and, at last, bytes.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from operators.figure.look import FILLERS, VERBS, WORDS, describe, draw_look
from operators.train.embedded.settings import Settings

START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
GLUE = ("a", "the", "in", "and", "with", "wearing", "on", "of", "front", "against", "stage", "skin", "hair", "figure")


def words() -> list[str]:
    """Every word that the caption grammar can say, sorted."""
    rows = [*GLUE, *VERBS, *FILLERS, *(phrase for row in WORDS.values() for phrase in row), *WORDS]
    return sorted({w for phrase in rows for w in re.findall(r"[a-z]+|[0-9]", phrase)})


def _byte_letters() -> list[str]:
    """The 256 printable stand-ins for bytes, in the order of CLIP's vocabulary."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in shown]
    return [chr(b) for b in shown] + [chr(256 + n) for n in range(len(rest))]


def merges_for(vocabulary: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent pair first, until every word of `vocabulary` is one piece."""
    pieces = {w: [*w[:-1], w[-1] + WORD_END] for w in vocabulary}
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for parts in pieces.values():
            pairs.update(pairwise(parts))
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for w, parts in pieces.items():
            joined: list[str] = []
            for part in parts:
                if joined and (joined[-1], part) == best:
                    joined[-1] += part
                else:
                    joined.append(part)
            pieces[w] = joined


def train_tokenizer(s: Settings, folder: Path) -> Any:
    """Write `tokenizer/` and return it, after checking what it promises on captions of the grammar."""
    from transformers import CLIPTokenizer

    out = folder / "tokenizer"
    out.mkdir(parents=True, exist_ok=True)
    merges = merges_for(words())
    letters = _byte_letters()
    entries = [*letters, *(c + WORD_END for c in letters), *dict.fromkeys(a + b for a, b in merges), START, END]
    vocabulary = {entry: number for number, entry in enumerate(dict.fromkeys(entries))}
    (out / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False, sort_keys=False), encoding="utf-8")
    (out / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
    tokenizer = CLIPTokenizer(
        vocab=vocabulary, merges=merges, unk_token=END, bos_token=START, eos_token=END, pad_token=END, model_max_length=s.tokens,
    )  # fmt: skip
    tokenizer.save_pretrained(out)
    tokenizer = CLIPTokenizer.from_pretrained(out)
    for word in words():
        ids = tokenizer(word)["input_ids"]
        if len(ids) != 3:
            raise AssertionError(f"{word!r} is {len(ids) - 2} tokens: {tokenizer.convert_ids_to_tokens(ids)}")
    rng = np.random.default_rng((s.seed, 7))
    longest = max(len(tokenizer(describe(draw_look(rng), rng, shuffle=True).text)["input_ids"]) for _ in range(s.captions // 8))
    if longest > s.tokens:
        raise AssertionError(f"a caption takes {longest} tokens; the text encoder reads {s.tokens}")
    strange = tokenizer("zürich qwxyz 日本")["input_ids"]
    if tokenizer.unk_token_id in strange[1:-1]:
        raise AssertionError("a strange word became the unknown token instead of bytes")
    return tokenizer


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer that the stage wrote."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(folder / "tokenizer")


def encode(tokenizer: Any, captions: list[str], length: int) -> np.ndarray:
    """Token ids, (n, length) int64, padded."""
    return np.asarray(tokenizer(captions, padding="max_length", max_length=length, truncation=True)["input_ids"], np.int64)
