"""Which passes of which frames run in full, where deep features are kept (reuse.py).

Within a frame every `every`-th executed step is full, up to the share `end` of them. Across frames (`frames` > 1) such a key frame leaves what
its full passes kept in slots, one a full step; the frames after it take short passes only, each step on the slot of the same noise level,
until `frames` of them have lived on it, or a picture has moved by more than `motion` since, or anything else that the deep layers hear or
see is not what it was: prompt, blend, guidance, steps, size, ControlNets and their scales, LoRAs, references, the kind of start, the epoch.

Motion is read from the host's pictures, before anything is computed, so nothing here waits for the device. It is the difference of the means
of 32 x 32 cells, relative to what is bright in either: 0 for the same picture, 1 where nothing bright stayed in its place; a thin drawing
that shifts by a pixel of 512 changes by about an eighth.

Invariant: a decision depends on frames that were painted in this epoch and on nothing else, and a frame that is tried again decides the same.
It knows steps and slots, not layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from operators.diffusion.steps.kept import Kept

if TYPE_CHECKING:
    import numpy as np
    import torch

Slot = tuple[int, tuple[int, ...], dict[str, "torch.Tensor"]]

CELLS = 32
MOTION = 0.1  # without `motion` in the table


class Pace:
    """The decisions for one UNet's `kept` features. `full`: full passes of the frame so far."""

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        self.every, self.frames, self.motion, self.end = 1, 1, MOTION, 1.0
        self.full = 0
        self.slots: list[Slot] = []  # nominal step, shape of the latent, what was kept
        self.spare: list[Slot] = []  # those of the key frame before, to be written anew
        self.lying: dict[tuple[int, ...], int] = {}  # which slot's features lie in the places of a shape
        self.valid = False
        self.age = 0  # frames painted since the key frame, it included
        self.facts: str | None = None
        self.look: list[np.ndarray[Any, Any]] = []
        self.span = (0, 0)
        self._asked: tuple[str | None, list[Any], tuple[int, int]] = (None, [], (0, 0))
        self._key = True
        self._shape: tuple[int, ...] = ()
        self._once = False
        self._owed: tuple[int, tuple[int, ...]] | None = None

    @property
    def keeps(self) -> bool:
        """Whether any pass will ever be short."""
        return self.every > 1 or self.frames > 1 or self.end < 1

    def set(self, every: int, frames: int = 1, motion: float = MOTION, end: float = 1.0) -> None:
        """From the next frame on."""
        if (every, end) != (self.every, self.end) or frames == 1:
            self.forget()
        self.every, self.frames, self.motion, self.end = every, frames, motion, end

    def begin(
        self, facts: str | None, span: tuple[int, int], shape: tuple[int, ...], pictures: Callable[[], Sequence[Any]], once: bool = False
    ) -> bool:
        """Begin a frame; whether it is a key frame.

        `facts`: everything but the pictures that deep features depend on, in words; None: that changes with this very frame. `span`: the
        first nominal step executed and their number. `shape` of the latent that a pass is given; `once`: its first pass has a row more.
        `pictures`: (H, W, 3) bytes each, asked for only where motion counts.
        """
        look = [cells_of(picture) for picture in pictures()] if self.frames > 1 else []
        same = self.valid and facts is not None and facts == self.facts and self.span[0] <= span[0] and self.span[1] == span[1]
        self._key = not (same and self.age < self.frames and _moved(self.look, look) <= self.motion)
        self._asked, self._shape, self._once, self._owed, self.full = (facts, look, span), shape, once, None, 0
        if self._key:
            self.forget()  # until it is whole: memory may run out on the way
        return self._key

    def due(self, step: int) -> bool:
        """Whether executed step `step` of the frame runs in full. If not, what it needs lies in its place when this returns."""
        self._save()
        first, n = self._asked[2]
        shape = (self._shape[0] + 1, *self._shape[1:]) if self._once and not step else self._shape
        if self._key:
            whole = step == 0 or (self._once and step == 1) or (step % self.every == 0 and (self.end >= 1 or step < self.end * (n - first)))
            if whole:
                self.full += 1
                self._owed = (first + step, shape) if self.frames > 1 else None
            return whole
        fits = [n for n, (at, form, _) in enumerate(self.slots) if form == shape and at <= first + step]
        if not fits:  # a row that the key frame did not have at this level
            fits = [n for n, (_, form, _) in enumerate(self.slots) if form == shape]
        if not fits:
            self.full += 1
            return True
        if self.lying.get(shape) != fits[-1]:
            self.lying[shape] = fits[-1]
            for name, value in self.slots[fits[-1]][2].items():
                self.kept.put(shape, name, value)
        return False

    def done(self) -> None:
        """The frame is whole."""
        self._save()
        facts, look, span = self._asked
        if self._key:
            self.valid, self.facts, self.look, self.span, self.age = self.frames > 1 and bool(self.slots), facts, look, span, 1
        else:
            self.age += 1

    def forget(self) -> None:
        """The next frame is a key frame."""
        self.valid, self.look, self._owed = False, [], None
        self.spare, self.slots = (self.slots or self.spare) if self.frames > 1 else [], []
        self.lying.clear()

    def snapshot(self) -> dict[str, Any] | None:
        """What frames to come may live on; None where there is nothing."""
        if not self.valid:
            return None
        slots = [{"at": at, "shape": list(shape), "kept": {n: v.clone() for n, v in kept.items()}} for at, shape, kept in self.slots]
        return {"facts": self.facts, "span": list(self.span), "age": self.age, "look": [each.copy() for each in self.look], "slots": slots}

    def recall(self, state: Any, device: torch.device) -> None:
        """Go on from a `snapshot`."""
        import torch

        self.forget()
        if state is None:
            return
        for slot in state["slots"]:
            kept = {name: torch.as_tensor(value).to(device) for name, value in slot["kept"].items()}
            self.slots.append((slot["at"], tuple(slot["shape"]), kept))
        first, n = state["span"]
        self.valid, self.facts, self.span, self.age, self.look = True, state["facts"], (first, n), state["age"], list(state["look"])

    def _save(self) -> None:
        """Put what the last full pass kept into a slot of its own."""
        if self._owed is None:
            return
        (at, shape), self._owed = self._owed, None
        lies = self.kept.places.get(shape, {})
        if not lies:
            return
        old = self.spare.pop(0)[2] if self.spare else {}
        kept = {}
        for name, value in lies.items():
            place = old.get(name)
            fits = place is not None and place.shape == value.shape and place.dtype == value.dtype
            kept[name] = place.copy_(value) if fits else value.clone()  # type: ignore[union-attr]
        self.lying[shape] = len(self.slots)
        self.slots.append((at, shape, kept))


def cells_of(picture: Any) -> np.ndarray[Any, Any]:
    """Means of CELLS x CELLS cells, (CELLS, CELLS, 3) float32."""
    import cv2
    import numpy as np

    return cv2.resize(np.asarray(picture), (CELLS, CELLS), interpolation=cv2.INTER_AREA).astype(np.float32)


def _moved(before: Sequence[Any], now: Sequence[Any]) -> float:
    """How much the picture that changed most has moved, 0 to 1; 1 where there are others than before."""
    import numpy as np

    if len(before) != len(now):
        return 1.0
    return max((float(np.abs(a - b).sum() / max(float(np.maximum(a, b).sum()), 1.0)) for a, b in zip(before, now, strict=True)), default=0.0)
