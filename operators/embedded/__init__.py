"""The embedded model: a small diffusion model and a captioner that ship inside the package.

`root()` is a folder in the layout of `StableDiffusionControlNetPipeline` with a `captioner/` beside it; MODEL_CARD.md says what it
is. It draws well in one step. Importing this package loads nothing heavy; the captioner loads on first use.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

UNSURE = 0.4  # an attribute less likely than this is left out


def root() -> Path:
    """The folder that holds unet, controlnet, vae, text_encoder, tokenizer, scheduler and captioner."""
    return Path(__file__).parent / "weights"


@cache
def _captioner() -> Any:
    from transformers import ResNetForImageClassification
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return ResNetForImageClassification.from_pretrained(root() / "captioner").eval()
    finally:
        if shown:
            logging.enable_progress_bar()


def likelihoods(image: np.ndarray) -> dict[str, dict[str, float]]:
    """For every attribute of `operators.figure.look.CHOICES`, how likely each choice is, given uint8 RGB (h, w, 3) of any size."""
    import cv2
    import numpy as np
    import torch

    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be uint8 RGB (h, w, 3), not {image.dtype} {image.shape}")
    model = _captioner()
    side = int(getattr(model.config, "image_size", 128))
    small = cv2.resize(np.ascontiguousarray(image), (side, side), interpolation=cv2.INTER_AREA)
    x = torch.from_numpy(small).permute(2, 0, 1)[None].float().div(127.5).sub(1)
    with torch.inference_mode():
        logits = model(x).logits[0]
    table: dict[str, dict[str, float]] = {}
    for number, label in model.config.id2label.items():
        name, _, choice = label.partition("=")
        table.setdefault(name, {})[choice] = float(logits[int(number)])
    for options in table.values():
        top = max(options.values())
        weights = {c: 2.718281828459045 ** (v - top) for c, v in options.items()}
        whole = sum(weights.values())
        options.update({c: w / whole for c, w in weights.items()})
    return table


def attributes(image: np.ndarray) -> dict[str, str]:
    """What the captioner sees in uint8 RGB (h, w, 3): attribute -> choice, without those it is unsure about."""
    out: dict[str, str] = {}
    for name, options in likelihoods(image).items():
        choice = max(options, key=lambda c: options[c])
        if options[choice] >= UNSURE:
            out[name] = choice
    if out.get("place") not in ("plain", "stage"):
        out.pop("place_colour", None)
    if out.get("hat", "none") == "none":
        out.pop("hat_colour", None)
    if out.get("kind") == "robot":
        for name in ("hair", "hair_colour", "skin"):
            out.pop(name, None)
    return out


def caption(image: np.ndarray) -> str:
    """A sentence about uint8 RGB (h, w, 3), in the words the embedded diffusion model knows."""
    from operators.figure.look import WORDS

    seen = attributes(image)

    def word(key: str) -> str:
        return WORDS.get(key, (key,))[0]

    text = f"a {word(seen.get('kind', 'person'))}"
    clothes = []
    if "top_colour" in seen:
        clothes.append(f"a {seen['top_colour']} {word(seen.get('top', 'shirt'))}")
    if "bottom_colour" in seen:
        bottom = seen.get("bottom", "trousers")
        clothes.append(f"{'a ' if bottom == 'skirt' else ''}{seen['bottom_colour']} {word(bottom)}")
    if clothes:
        text += " in " + " and ".join(clothes)
    clauses = []
    if "hair_colour" in seen:
        clauses.append(f"with {seen['hair'] + ' ' if 'hair' in seen else ''}{seen['hair_colour']} hair")
    if "skin" in seen:
        clauses.append(f"{seen['skin']} skin")
    if "hat_colour" in seen:
        clauses.append(f"in a {seen['hat_colour']} {word(seen['hat'])}")
    place = seen.get("place")
    if place == "plain" and "place_colour" in seen:
        clauses.append(f"on a {seen['place_colour']} background")
    elif place == "stage" and "place_colour" in seen:
        clauses.append(f"on a stage with {seen['place_colour']} curtains")
    elif place and place not in ("plain", "stage"):
        clauses.append(word(place))
    if "style" in seen:
        clauses.append(word(seen["style"]))
    return ", ".join([text, *clauses])
