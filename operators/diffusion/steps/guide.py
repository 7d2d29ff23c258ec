"""Guidance and schedule of a frame: the sampler's rows for the present steps and scale, and what distilled models take instead of guidance.

Invariant: a table is computed once per (steps, guidance, scale) while it is remembered. It knows numbers and tables, not pictures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from operators.diffusion.steps.schedule import Rows
    from operators.diffusion.weights.models import Models

RESIDUAL_SCALE = 1.4  # of the residual kinds, which are no substitute for a large scale
KEPT = 64


class Guide:
    """`guidance` and `scale` as the graph has them ("auto" and None: the recipe's)."""

    def __init__(self, models: Models, sampler: Any, guidance: str) -> None:
        self.models, self.sampler = models, sampler
        self.guidance = models.recipe.guidance if guidance == "auto" else guidance
        self.width = models.unet.config.time_cond_proj_dim  # of the embedded guidance scale; None for models that take none
        self._rows: dict[tuple[Any, ...], Rows] = {}
        self._input: tuple[float, torch.Tensor] | None = None

    def scale(self, said: float | None) -> float:
        """The guidance scale that counts."""
        if said is not None:
            return said
        recipe = self.models.recipe
        if self.width:
            return recipe.guidance_scale
        return RESIDUAL_SCALE if self.guidance.startswith("rcfg") else recipe.guidance_scale if recipe.guidance == "cfg" else 7.5

    def rows(self, steps: int, said: float | None, *, plain: bool = False) -> tuple[Rows, bool]:
        """The sampler's rows, and whether a step hears the negative prompt too. `plain`: without guidance, whatever was said."""
        from operators.diffusion.steps.schedule import Rows, table

        guidance, scale = self.guidance, self.scale(said)
        if plain or self.width or scale <= 1:
            guidance = "none"
        key = (steps, guidance, scale if guidance != "none" else 1.0)
        if key not in self._rows:
            if len(self._rows) >= KEPT:
                self._rows.pop(next(iter(self._rows)))
            self._rows[key] = Rows(table(self.sampler, self.models.noise, steps), guidance, scale, self.models.device)
        return self._rows[key], guidance in ("cfg", "rcfg-onetime")

    def input(self, said: float | None) -> torch.Tensor | None:
        """The sinusoidal embedding of the guidance scale that distilled models take (arXiv 2310.04378, 4.2), or None."""
        import torch

        if not self.width:
            return None
        scale = self.scale(said)
        if self._input is None or self._input[0] != scale:
            half = self.width // 2
            pace = torch.exp(torch.arange(half, dtype=torch.float32) * -(torch.log(torch.tensor(10000.0)) / (half - 1)))
            angle = (scale - 1.0) * 1000.0 * pace
            self._input = (scale, torch.cat([angle.sin(), angle.cos()])[None].to(self.models.device, self.models.dtype))
        return self._input[1]
