"""The carry tools of one painting node together: what they saw of this frame, what they keep of earlier ones, and when that changes.

Invariants: `look` and `begin` may be repeated for a frame that is tried again, `settle` ends it; after `forget` nothing of an earlier epoch is
left; a snapshot has all that is kept. It knows host pictures, latents and attention layers, not prompts, ports or samplers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from operators.diffusion.carry import warp
from operators.diffusion.carry.attention import attach
from operators.diffusion.carry.flow import Flow
from operators.diffusion.carry.hold import Held
from operators.diffusion.carry.memory import Memory
from operators.diffusion.carry.motion import EVERYTHING, Motion

if TYPE_CHECKING:
    import numpy as np
    import torch

    from engine.payload import Image, Latent
    from operators.diffusion.weights.models import Models

    Array = np.ndarray[Any, Any]

LIVELY = 0.25  # share of moved cells at which a frame counts as in full motion


class Toolbox:
    """`motion`, `flow`, `memory`: the graph's tables, see operators.diffusion.options. `tell` puts an event into the run's log."""

    def __init__(
        self, models: Models, tell: Callable[..., None], motion: Mapping[str, Any] | None, flow: Mapping[str, Any] | None,
        memory: Mapping[str, Any] | None,
    ) -> None:  # fmt: skip
        said = dict(motion or {})
        self.models, self.lively = models, float(said.pop("lively", LIVELY))
        self.motion, self.flow = Motion(**said), None if flow is None else Flow()
        self.on = "auto" if flow is None else str(flow.get("on", "auto"))
        self.moves_carry, self.moves_noise = flow is not None and flow.get("carry", True), flow is not None and flow.get("noise", False)
        self.memory = None if memory is None else Memory(tell, **memory)
        if self.memory is not None and not attach(models.unet, self.memory):
            tell("no_memory", why="this model has no self-attention that could remember")
        self.seen, self.key, self.next_key = EVERYTHING, "", ""
        self.kept: tuple[Array, Latent] | None = None  # the last picture and its latent, while `skip` may ask for them
        self.count = 0  # frames in a row that were skipped
        self.skipped = 0
        self.way: torch.Tensor | None = None  # (3, h, w): where cells were, and trust
        self.since: torch.Tensor | None = None  # (2, h, w): where they were when the epoch began
        self.ways, self.sinces, self.masks = (_Upload(models.device) for _ in range(3))

    # ---- a frame

    def look(
        self, pictures: Sequence[Array], on: Array | None, cells: tuple[int, int], key: str, watching: bool
    ) -> None:  # fmt: skip
        """See what moved: in all `pictures` where somebody is `watching`, and the way it went in the one `on`. `key`: everything else that
        the picture depends on; where that is another one, all of it counts as moved."""
        self.next_key, other = key, key != self.key
        if watching:
            self.seen = self.motion.look(pictures, cells)
            if other:
                self.seen = self.motion.seen = EVERYTHING
        else:
            self.blind()
        self.way = self.since = None
        if other and self.memory is not None:
            self.memory.restart()
        if self.flow is None or on is None:
            return
        found = self.flow.look(on, cells)
        if found is not None:
            came, trust = found
            if self.moves_carry:
                self.way = self.ways(_planes(came, trust))
            if self.moves_noise:
                origin = self.flow.since()
                assert origin is not None
                self.since = self.sinces(_planes(origin))

    def blind(self) -> None:
        """Nobody watches this frame, so all of it counts as moved, and so will all of the next that somebody watches."""
        self.motion.forget()
        self.seen = EVERYTHING

    def cut(self) -> None:
        """This frame has nothing to do with those before."""
        self.seen = self.motion.seen = EVERYTHING
        self.way = self.since = None
        if self.flow is not None:
            self.flow.came = self.flow.origin = None
        if self.memory is not None:
            self.memory.forget()

    def still(self, most: int, change: float) -> bool:
        """Whether the last picture will do again: nothing changed by more than `change`, and fewer than `most` in a row were skipped."""
        return self.kept is not None and self.count < most and self.seen.moved is not None and self.seen.most <= change

    def again(self) -> tuple[Array, Latent]:
        """The last picture and latent, once more."""
        assert self.kept is not None
        self.count += 1
        self.skipped += 1
        return self.kept

    def strength(self, full: float, calm: float | None) -> float:
        """Between `calm` where nothing moves and `full` where `lively` of all cells do, and more."""
        return full if calm is None else calm + (full - calm) * min(1.0, self.seen.share / self.lively)

    def held(self, carried: torch.Tensor | None, hold: float) -> Held | None:
        """The cells of `carried` (1, C, h, w) that stay, `hold` saying how firmly; None: none do."""
        seen = self.seen
        if carried is None or not hold or seen.moved is None or seen.moved.min() >= 1:
            return None
        return Held(self.masks((1 - seen.moved)[None] * hold)[None], carried)

    def moved(self, carried: torch.Tensor, encoded: torch.Tensor | None) -> torch.Tensor:
        """`carried`, gone along with the motion; where the way is not known, the `encoded` picture, else what is around."""
        import torch

        if self.way is None or self.way.shape[1:] != carried.shape[2:]:
            return carried
        trust, found = self.way[None, 2:], warp.sample(carried, self.way[:2])
        return warp.filled(found, trust) if encoded is None else torch.lerp(encoded, found, trust)

    def settle(self, image: Image, latent: Latent, held: bool, skip: bool) -> None:
        """The frame is painted. `held`: cells that stood still may not have been. `skip`: it may be asked for `again`."""
        import numpy as np

        self.motion.settle(held)
        if self.flow is not None:
            self.flow.settle()
        if self.memory is not None:
            self.memory.settle()
        self.key, self.count = self.next_key, 0
        if not skip:
            self.kept = None
            return
        own = self.kept[0] if self.kept is not None and self.kept[0].shape == image.data.shape else np.empty_like(np.asarray(image.data))
        np.copyto(own, image.data)
        self.kept = (own, latent)

    # ---- over frames

    def forget(self) -> None:
        """Drop what belongs to the epoch."""
        self.motion.forget()
        self.seen, self.key, self.kept, self.count = EVERYTHING, "", None, 0
        self.way = self.since = None
        if self.flow is not None:
            self.flow.forget()
        if self.memory is not None:
            self.memory.forget()

    def snapshot(self) -> dict[str, Any]:
        """All that is kept."""
        import torch

        kept = None if self.kept is None else (self.kept[0].copy(), torch.as_tensor(self.kept[1].data).clone())
        flow = None if self.flow is None else (self.flow.last, self.flow.origin)
        base = None if self.motion.base is None else [each.copy() for each in self.motion.base]
        memory = None if self.memory is None else self.memory.snapshot()
        return {"key": self.key, "count": self.count, "base": base, "kept": kept, "flow": flow, "memory": memory}

    def recall(self, state: Mapping[str, Any]) -> None:
        """Go on from a `snapshot`."""
        import numpy as np

        from engine.payload import Latent

        self.key, self.count = state["key"], state["count"]
        self.motion.base = None if state["base"] is None else [np.array(each) for each in state["base"]]
        if state["kept"] is not None:
            picture, latent = state["kept"]
            self.kept = (np.array(picture), Latent(latent))
        if self.flow is not None and state["flow"] is not None:
            self.flow.last, self.flow.origin = state["flow"]
        if self.memory is not None and state["memory"] is not None:
            self.memory.recall(state["memory"], self.models.device, self.models.dtype)


class _Upload:
    """Small host arrays to the device, into a tensor that stays while the shape does, without waiting for the device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.host: torch.Tensor | None = None
        self.there: torch.Tensor | None = None
        self.done: Any = None

    def __call__(self, data: Array) -> torch.Tensor:
        import torch

        if self.host is None or self.there is None or tuple(self.host.shape) != data.shape:
            cuda = self.device.type == "cuda"
            self.host = torch.empty(data.shape, dtype=torch.float32, pin_memory=cuda)
            self.there = torch.empty(data.shape, dtype=torch.float32, device=self.device)
            self.done = torch.cuda.Event() if cuda else None
        elif self.done is not None:
            self.done.synchronize()  # the copy of the frame before, over long ago
        self.host.numpy()[...] = data
        self.there.copy_(self.host, non_blocking=True)
        if self.done is not None:
            self.done.record()
        return self.there


def _planes(places: Array, *more: Array) -> Array:
    import numpy as np

    return np.stack([places[..., 0], places[..., 1], *more])
