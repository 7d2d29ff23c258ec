"""The autoencoder: pixels to latents in the scale the UNet sees, and back.

It knows autoencoders of diffusers (full and tiny), not who asks.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import UsageError
from operators.diffusion import checkpoint

if TYPE_CHECKING:
    import torch


class Coder:
    """One AutoencoderKL or AutoencoderTiny. `fold`: pixels per latent cell. `dtype`: what it computes in."""

    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        settings = module.config
        blocks = settings.get("block_out_channels") or settings.get("encoder_block_out_channels")
        self.module, self.dtype = module, dtype
        self.tiny = "encoder_block_out_channels" in settings
        self.fold = 2 ** (len(blocks) - 1)
        self.channels = int(settings.latent_channels)
        self.scale = float(settings.get("scaling_factor") or 1.0)

    def encode(self, picture: torch.Tensor) -> torch.Tensor:
        """The clean latent (1, C, h, w) float32 of pixels (1, 3, H, W) in -1..1: the mean of a variational encoder."""
        found = self.module.encode(picture.to(self.dtype))
        clean = (found.latents if self.tiny else found.latent_dist.mode()).float()
        return clean if self.scale == 1 else clean * self.scale

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """Pixels (1, 3, H, W), about -1..1, of a latent."""
        pixels: torch.Tensor = self.module.decode((latent if self.scale == 1 else latent / self.scale).to(self.dtype), return_dict=False)[0]
        return pixels

    def cast(self, dtype: torch.dtype) -> None:
        """Compute in `dtype` from now on."""
        import torch

        torch.nn.Module.to(self.module, dtype)  # past the warnings of diffusers about parts that none of these have
        self.dtype = dtype


def load(folder: Path, name: str, dtype: torch.dtype) -> Coder:
    """The autoencoder in `folder` of the model called `name`, on the CPU."""
    import torch

    settings = checkpoint.config(folder, name)
    kind = str(settings.get("_class_name"))
    if kind not in ("AutoencoderKL", "AutoencoderTiny"):
        raise UsageError(f"model {name}: expected an AutoencoderKL or AutoencoderTiny, found {kind}")
    # A full decoder whose activations overflow half precision says so in its configuration.
    if kind == "AutoencoderKL" and dtype is torch.float16 and settings.get("force_upcast", True):
        dtype = torch.float32
    return Coder(checkpoint.module(kind, folder, name, dtype), dtype)


def place(name: str) -> tuple[Path, str]:
    """The folder of the autoencoder called `name`: that of a repository of its own, or the `vae` part of a whole model."""
    folder = checkpoint.locate(name)
    return (folder if (folder / "config.json").is_file() else folder / "vae"), name
