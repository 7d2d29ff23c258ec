"""Graphics cards as numbers: memory, and how fast they multiply. Data only.

`peak` is the dense fp16 rate with fp32 accumulation, which is what convolutions in torch use; no program is faster than that on the card.
`reached` is what programs have been reported to reach with Stable Diffusion's UNet, tuned and typical; for the H200 both are guesses.
None of these was measured by this project.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import UsageError


@dataclass(frozen=True, slots=True)
class Card:
    """`memory`: bytes. Rates in TFLOP/s. `capability`: CUDA compute capability."""

    name: str
    memory: int
    peak: float
    reached: tuple[float, float]  # typical, best
    capability: tuple[int, int]


GB = 2**30
CARDS = (
    Card("rtx-2060", 6 * GB, 25.8, (11.6, 17.1), (7, 5)),
    Card("rtx-4080", 16 * GB, 97.5, (64.6, 78.9), (8, 9)),
    Card("rtx-4090", 24 * GB, 165.0, (100.0, 129.0), (8, 9)),
    Card("h200", 141 * GB, 788.0, (120.0, 300.0), (9, 0)),
)


def find(name: str) -> Card:
    """The card called `name`. Raises UsageError with those that are known."""
    from engine.registry import suggest

    plain = name.strip().lower().replace(" ", "-").replace("_", "-").removeprefix("nvidia-").removeprefix("geforce-")
    for card in CARDS:
        if plain in (card.name, card.name.removeprefix("rtx-"), card.name.replace("-", "")):
            return card
    raise UsageError(f"no card is called {name!r}", fix=suggest(plain, [card.name for card in CARDS]))
