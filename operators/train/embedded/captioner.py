"""Stage `captioner`: a small ResNet that names what a figure wears and where it stands.

One classifier, all attributes side by side in its logits: naming a choice is easier than writing a sentence, and the grammar writes
the sentence. What a picture does not show (legs out of frame, a robot's hair) is not asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from operators.figure.look import CHOICES, TINTED
from operators.figure.paint import PART
from operators.train.embedded.data import Pool, Sample
from operators.train.embedded.flat import Flat
from operators.train.embedded.settings import Settings

NEEDS = {  # attribute -> the part that has to be seen
    "top": "top", "top_colour": "top", "bottom": "bottom", "bottom_colour": "bottom", "hair": "face", "hair_colour": "hair",
    "hat": "face", "hat_colour": "hat", "skin": "face", "kind": "face",
}  # fmt: skip
ENOUGH = 0.0012  # share of the picture that counts as seen
EMPHASIS = {"hair_colour": 3.0, "hair": 2.0, "hat": 1.5}  # small things, which the average over the picture nearly loses


def labels(item: Sample) -> np.ndarray:
    """Class numbers for every attribute of `item`, -100 where the picture does not show it. int64 (choices,)."""
    area = np.bincount(item.parts.ravel(), minlength=len(PART)) / item.parts.size
    out = np.empty(len(CHOICES), np.int64)
    for n, (name, options) in enumerate(CHOICES.items()):
        hidden = name in NEEDS and area[PART[NEEDS[name]]] < ENOUGH
        hidden |= item.look.kind == "robot" and name in ("hair", "hair_colour", "skin")
        hidden |= name == "place_colour" and item.look.place not in TINTED
        hidden |= name == "hat_colour" and item.look.hat == "none"
        out[n] = -100 if hidden else options.index(getattr(item.look, name))
    return out


def worn_picture(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`image` as a model or a codec might give it: softer, noisier, a little off in colour."""
    import cv2

    out = image
    if rng.random() < 0.5:
        out = cv2.GaussianBlur(out, (0, 0), float(rng.uniform(0.3, 1.6)))
    wide = out.astype(np.float32)
    if rng.random() < 0.5:
        wide = wide * rng.uniform(0.93, 1.07, 3).astype(np.float32) + rng.normal(0, 4)
    if rng.random() < 0.5:
        wide += rng.normal(0, rng.uniform(1, 9), wide.shape).astype(np.float32)
    return np.clip(wide, 0, 255).astype(np.uint8)


def build_captioner(s: Settings) -> Any:
    """ResNetForImageClassification whose labels are "attribute=choice"."""
    from transformers import ResNetConfig, ResNetForImageClassification

    names = [f"{name}={option}" for name, options in CHOICES.items() for option in options]
    config = ResNetConfig(
        embedding_size=32, hidden_sizes=list(s.caption_widths), depths=[1] * len(s.caption_widths), layer_type="basic",
        image_size=s.caption_size, id2label=dict(enumerate(names)), label2id={name: n for n, name in enumerate(names)},
    )  # fmt: skip
    return ResNetForImageClassification(config)


class Captioner:
    """The classifier over pictures rendered on the way."""

    name = "captioner"

    def __init__(self, s: Settings, folder: Path, rank: int = 0):
        self.s, self.folder = s, folder
        self.steps, self.lr = s.captioner_steps, 2e-3
        torch.manual_seed(s.seed + 5)
        self.model = build_captioner(s).train()
        self.flat = Flat([self.model], dtype=torch.float32, lr=self.lr, decay=0.02, ema=0.99, muon=True)
        self.rng = np.random.default_rng((s.seed, 6, rank))
        self.pool = Pool(s.pool, s.caption_size, self.rng)
        self.sizes = [len(o) for o in CHOICES.values()]

    def loss(self, step: int) -> dict[str, float]:
        """One step; accuracies of shirt, legs and hair colour on the training pictures."""
        self.pool.refresh(self.s.captioner_batch // 4)
        items = self.pool.pick(self.s.captioner_batch)
        pictures = np.stack([worn_picture(i.image, self.rng) for i in items])
        x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div_(127.5).sub_(1).contiguous(memory_format=torch.channels_last)
        wanted = torch.from_numpy(np.stack([labels(i) for i in items]))
        with torch.autocast("cpu", torch.bfloat16):
            scores = self.model(x).logits
        logits = scores.float().split(self.sizes, dim=1)
        total, right = torch.zeros(()), {}
        for n, (name, part) in enumerate(zip(CHOICES, logits, strict=True)):
            seen = wanted[:, n] >= 0
            if bool(seen.any()):
                total = total + EMPHASIS.get(name, 1.0) * F.cross_entropy(part[seen], wanted[seen, n])
                right[name] = (part[seen].argmax(1) == wanted[seen, n]).float().mean().item()
        total.backward()
        keys = ("top_colour", "bottom_colour", "hair_colour", "hat", "place_colour")
        return {"loss": total.item(), **{k: right.get(k, 0.0) for k in keys}}

    def sketch(self, step: int) -> None:
        """Nothing to draw."""

    def finish(self) -> None:
        """Save the averaged weights."""
        from operators.train.embedded.export import save_part

        self.flat.use_average(True)
        save_part(self.model.eval(), self.folder / "captioner")
