"""How many numbers are in a module before it is loaded, by kind of layer: read from the headers of safetensors files.

They are counted by kind because what a weight can be kept as depends on the layer it belongs to: those of linear layers and of convolutions
can be stored in eight bits, those of normalisations and embeddings, and biases, are kept as they are. It reads headers, never tensors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KEPT = re.compile(
    r"norm|(^|\.)(time_embedding|add_embedding|class_embedding|conv_in|conv_out|lm_head)(\.|$)|embeddings?(\.|$)|embed_tokens"
    r"|(^|\.)(time_embed|label_emb|input_blocks\.0|out)\.\d"  # the same in the layout of one file
)  # layers that stay as they are, whatever the others are stored as: small, and every value passes through them


@dataclass(frozen=True, slots=True)
class Sizes:
    """Numbers in a module: in all, in weights of `linear` layers and of convolutions (`conv`) that may be stored otherwise. `exact`: read from
    files."""

    total: int
    linear: int = 0
    conv: int = 0
    exact: bool = False

    def __add__(self, other: Sizes) -> Sizes:
        return Sizes(self.total + other.total, self.linear + other.linear, self.conv + other.conv, self.exact and other.exact)


def tally(header: Mapping[str, Any], wanted: Callable[[str], bool] = lambda key: True) -> Sizes:
    """What the tensors in a header whose names are `wanted` add up to."""
    total = linear = conv = 0
    for key, entry in header.items():
        if key == "__metadata__" or not wanted(key):
            continue
        shape = entry["shape"]
        count = math.prod(shape)
        total += count
        if key.endswith(".weight") and not KEPT.search(key):
            linear += count if len(shape) == 2 else 0
            conv += count if len(shape) == 4 else 0
    return Sizes(total, linear, conv, True)


def headers(path: Path, deep: bool = False) -> list[Mapping[str, Any]]:
    """Headers of a safetensors file, or of those in a folder (`deep`: and below): those without a variant, or where there are none, all."""
    from operators.models.store import read_header

    if path.is_file():
        return [read_header(path)]
    files = sorted(path.rglob("*.safetensors") if deep else path.glob("*.safetensors"))
    plain = [f for f in files if f.name.count(".") == 1] or files
    return [read_header(file) for file in plain]


def count(path: Path, wanted: Callable[[str], bool] = lambda key: True, *, deep: bool = False) -> Sizes:
    """The numbers in the files of `path` (a file, or the folder of one part; `deep`: and of all below); none where there are no files."""
    found = Sizes(0, exact=True)
    for header in headers(path, deep):
        found += tally(header, wanted)
    return found
