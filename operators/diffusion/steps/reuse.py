"""Deep features kept for some steps: only the shallow layers of the UNet run on every step.

Between neighbouring steps, and between frames of a calm picture, the deep features change little (DeepCache, Ma et al. 2024, arXiv
2312.00858). Full passes keep what enters the last layers; short ones run those layers alone on it; which pass a step takes is decided in
pace.py. `cut` says how many layers on either side of the UNet are shallow: 0 = the last layer of the last up block, on the output of the
first convolution; 1 adds the first layer of the first down block and the last but one of the last up block; and so on. ControlNets rest
on short passes; what they added to the shallow skips on the full one is kept too, and added again.

Invariant: where every step is full the result is that of the plain UNet. It knows the UNet of diffusers, not schedules.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from engine.errors import UsageError
from operators.diffusion.steps.kept import Kept
from operators.diffusion.steps.pace import MOTION, Pace

if TYPE_CHECKING:
    import torch


class Reuse:
    """Full and short passes of one UNet2DConditionModel."""

    def __init__(self, unet: Any, every: int, cut: int, frames: int = 1, motion: float = MOTION, end: float = 1.0) -> None:
        layers = unet.config.layers_per_block
        self.layers = int(layers) if isinstance(layers, int) else int(layers[0])
        self.unet, self.down, self.up = unet, unet.down_blocks[0], unet.up_blocks[-1]
        # What enters that layer is the deep feature beside a skip; the skips here have as many channels as the first block.
        self.skip_channels = int(unet.config.block_out_channels[0])
        self.kept = Kept()
        self.whole: tuple[int, ...] | None = None  # the shape that a full pass is under way for
        for entry in range(self.layers + 1):
            self.up.resnets[entry].register_forward_pre_hook(partial(self._keep, entry))
        self.pace = Pace(self.kept)
        self.cut = self.entry = 0
        self.set(every, cut, frames, motion, end)

    def set(self, every: int, cut: int, frames: int = 1, motion: float = MOTION, end: float = 1.0) -> None:
        """Other settings, from the next frame on. Raises UsageError for a cut that the model does not have."""
        if cut > self.layers:
            raise UsageError(f"reuse: cut: this model has cuts 0 to {self.layers}, found {cut}")
        if cut != self.cut:
            self.pace.forget()
        self.cut, self.entry = cut, self.layers - cut  # the first layer of the last up block that a short pass runs
        self.pace.set(every, frames, motion, end)

    def course(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """What decides the course of a pass besides its arguments: it belongs to the name of a recorded one."""
        return (self.cut, self.pace.keeps, self.kept.made(shape))

    def due(self, step: int) -> bool:
        """Whether executed step `step` of a frame runs in full."""
        return self.pace.due(step)

    def forget(self) -> None:
        """Nothing kept is of use any more."""
        self.kept.clear()
        self.pace.forget()

    def _keep(self, entry: int, layer: Any, args: tuple[Any, ...]) -> None:
        if self.whole is not None and entry == self.entry:
            self.kept.put(self.whole, "deep", args[0][:, : args[0].shape[1] - self.skip_channels])

    def full(
        self, given: torch.Tensor, t: torch.Tensor, cond: torch.Tensor, extra: torch.Tensor | None, down: list[torch.Tensor] | None,
        middle: torch.Tensor | None, added: dict[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """The whole UNet, keeping what short steps need."""
        shape = tuple(given.shape)
        if self.pace.keeps:
            self.whole = shape
            for layer in range(self.cut + 1):
                self.kept.put(shape, f"skip {layer}", None if down is None else down[layer])
        try:
            answer: torch.Tensor = self.unet(
                given, t, cond, timestep_cond=extra, added_cond_kwargs=added, down_block_additional_residuals=down,
                mid_block_additional_residual=middle, return_dict=False,
            )[0]  # fmt: skip
        finally:
            self.whole = None
        return answer

    def shallow(
        self, given: torch.Tensor, t: torch.Tensor, cond: torch.Tensor, extra: torch.Tensor | None,
        added: dict[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """The shallow layers alone, on the deep feature of the last full step."""
        import torch

        unet, kept, shape = self.unet, self.kept, tuple(given.shape)
        time = unet.time_embedding(unet.get_time_embed(sample=given, timestep=t), extra)
        told = unet.get_aug_embed(emb=time, encoder_hidden_states=cond, added_cond_kwargs=added or {})
        time = time if told is None else time + told
        hidden = unet.conv_in(given)
        skips = [hidden]
        for layer in range(self.cut):
            hidden = self._layer(self.down, layer, hidden, time, cond)
            skips.append(hidden)
        more = [kept.get(shape, f"skip {layer}") for layer in range(self.cut + 1)]
        skips = [skip if add is None else skip + add for skip, add in zip(skips, more, strict=True)]
        hidden = kept.get(shape, "deep")
        assert hidden is not None
        for layer in range(self.entry, len(self.up.resnets)):
            hidden = self._layer(self.up, layer, torch.cat([hidden, skips.pop()], dim=1), time, cond)
        if unet.conv_norm_out is not None:
            hidden = unet.conv_act(unet.conv_norm_out(hidden))
        answer: torch.Tensor = unet.conv_out(hidden)
        return answer

    @staticmethod
    def _layer(block: Any, index: int, hidden: torch.Tensor, time: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        hidden = block.resnets[index](hidden, time)
        attentions = getattr(block, "attentions", None)
        return hidden if attentions is None else attentions[index](hidden, encoder_hidden_states=cond, return_dict=False)[0]
