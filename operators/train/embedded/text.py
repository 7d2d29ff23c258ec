"""Stage `text`: the text encoder, taught word by word what belongs to what.

UNet gradients alone are slow to bind "red" to "coat". So each noun's token has to tell which slot it names and in what colour, all
other tokens have to say nothing, and the last token has to tell every choice of the caption, "not said" included.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from operators.figure.look import CHOICES, SLOTS, Caption, Look, describe, draw_look, slot_colour
from operators.train.embedded.flat import Flat
from operators.train.embedded.networks import build_text
from operators.train.embedded.settings import Settings
from operators.train.embedded.tokens import encode, load_tokenizer


def targets(look: Look, caption: Caption, ids: np.ndarray, noun_ids: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """What the tokens have to tell: (tokens, slots, 4) with RGB in -1..1 and a 1 for "named here", and (choices,) class numbers
    where 0 means "not said"."""
    dense = np.zeros((len(ids), len(SLOTS), 4), np.float32)
    for noun, slot in caption.nouns:
        at = np.flatnonzero(ids == noun_ids[noun])
        if len(at):
            dense[at[0], SLOTS.index(slot), :3] = np.array(slot_colour(look, slot), np.float32) / 127.5 - 1
            dense[at[0], SLOTS.index(slot), 3] = 1
    classes = np.zeros(len(CHOICES), np.int64)
    for n, (name, options) in enumerate(CHOICES.items()):
        if name in caption.fixed:
            classes[n] = 1 + options.index(getattr(look, name))
    return dense, classes


class Text:
    """The text encoder with its two read-outs, which are thrown away afterwards."""

    name = "text"

    def __init__(self, s: Settings, folder: Path, rank: int = 0):
        self.s, self.folder = s, folder
        self.steps, self.lr = s.text_steps, 2e-3
        torch.manual_seed(s.seed + 1)
        self.tokenizer = load_tokenizer(folder)
        end = self.tokenizer.eos_token_id
        self.model = build_text(s, len(self.tokenizer), end)
        self.end = end
        self.dense = nn.Linear(s.text_width, len(SLOTS) * 4)
        self.sizes = [len(o) + 1 for o in CHOICES.values()]
        self.classes = nn.Linear(s.text_width, sum(self.sizes))
        self.flat = Flat([self.model, self.dense, self.classes], dtype=torch.float32, lr=self.lr, ema=0.995)
        self.rng = np.random.default_rng((s.seed, 2, rank))
        vocabulary = self.tokenizer.get_vocab()
        self.noun_ids = {w[: -len("</w>")]: n for w, n in vocabulary.items() if w.endswith("</w>")}

    def loss(self, step: int) -> dict[str, float]:
        """One step on fresh captions."""
        looks = [draw_look(self.rng) for _ in range(self.s.text_batch)]
        said = [describe(look, self.rng, drop=0.15, shuffle=step > self.steps // 5, noise=0.15) for look in looks]
        ids = encode(self.tokenizer, [c.text for c in said], self.s.tokens)
        pairs = [targets(look, c, row, self.noun_ids) for look, c, row in zip(looks, said, ids, strict=True)]
        dense = torch.from_numpy(np.stack([p[0] for p in pairs]))
        classes = torch.from_numpy(np.stack([p[1] for p in pairs]))
        tokens = torch.from_numpy(ids)
        states = self.model(tokens)[0]
        told = self.dense(states).unflatten(-1, (len(SLOTS), 4))
        named = dense[..., 3:] > 0
        colours = ((told - dense).square() * (1 + 20 * named)).mean()
        ends = (tokens == self.end).int().argmax(1)
        logits = self.classes(states[torch.arange(len(states)), ends]).split(self.sizes, dim=1)
        kinds = sum((F.cross_entropy(part, classes[:, n]) for n, part in enumerate(logits)), torch.zeros(()))
        (colours * 10 + 0.1 * kinds).backward()
        right = torch.stack([(part.argmax(1) == classes[:, n]).float().mean() for n, part in enumerate(logits)])
        off = ((told - dense).abs()[..., :3] * named).sum() / named.sum().clamp(min=1) / 3 * 127.5
        return {"loss": colours.item(), "rgb_error": off.item(), "choices": right.mean().item(), "worst": right.min().item()}

    def sketch(self, step: int) -> None:
        """Nothing to draw."""

    def finish(self) -> None:
        """Save the averaged weights."""
        from operators.train.embedded.export import save_part

        self.flat.use_average(True)
        save_part(self.model, self.folder / "text_encoder")
