"""What a pass leaves for later ones: tensors in places that stay, so that a recorded pass finds and leaves them where a plain one does.

A place is made when a name is first put for a shape, and written in place ever after. Since a replay runs no Python, what is kept is looked
up by the shape of the latent that a pass was given, never by an attribute that a pass would set.
Invariant: `made` changes with every place that is made, so that whoever recorded a pass before can tell that it may look elsewhere now.
It knows tensors and names, not layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SHAPES = 8  # as many as the loop has bases for


class Kept:
    """Named tensors for each shape of latent (rows, C, h, w)."""

    def __init__(self) -> None:
        self.places: dict[tuple[int, ...], dict[str, torch.Tensor]] = {}
        self.marks: dict[tuple[int, ...], int] = {}
        self.count = 0

    def put(self, shape: tuple[int, ...], name: str, value: torch.Tensor | None) -> None:
        """Keep a copy of `value`; None fills what is kept under the name, if anything is, with zeros."""
        import torch

        here = self.places.get(shape)
        if here is None:
            if len(self.places) >= SHAPES:
                self.places.pop(next(iter(self.places)))  # a shape seen long ago
            here = self.places[shape] = {}
        place = here.get(name)
        if value is None:
            if place is not None:
                place.zero_()
            return
        if place is None or place.shape != value.shape or place.dtype != value.dtype:
            # Slices of a channels_last tensor are not dense, so the format has to be said.
            form = torch.channels_last if value.ndim == 4 else torch.contiguous_format
            place = here[name] = torch.empty(value.shape, dtype=value.dtype, device=value.device, memory_format=form)
            self.count += 1
            self.marks[shape] = self.count
        place.copy_(value)

    def get(self, shape: tuple[int, ...], name: str) -> torch.Tensor | None:
        here = self.places.get(shape)
        return None if here is None else here.get(name)

    def made(self, shape: tuple[int, ...]) -> int:
        """Changes whenever a place is made for this shape."""
        return self.marks.get(shape, 0)

    def clear(self) -> None:
        """Zeros everywhere; the places stay."""
        import torch

        with torch.inference_mode():  # where they were made, and where nothing else may write to them
            for place in self:
                place.zero_()

    def __iter__(self) -> Iterator[torch.Tensor]:
        for here in self.places.values():
            yield from here.values()
