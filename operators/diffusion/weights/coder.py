"""The autoencoder: pixels to latents in the scale the UNet sees, and back.

It knows autoencoders of diffusers (full and tiny), not who asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import UsageError
from operators.diffusion.weights import checkpoint

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

    @property
    def encoding(self) -> list[Any]:
        """The modules that make latents; the rest make pictures."""
        return [part for name in ("encoder", "quant_conv") if (part := getattr(self.module, name, None)) is not None]

    @property
    def decoding(self) -> list[Any]:
        """The modules that make pictures."""
        return [part for name in ("decoder", "post_quant_conv") if (part := getattr(self.module, name, None)) is not None]

    def spare(self, *, tiling: bool, slicing: bool) -> None:
        """Decode and encode in overlapping tiles, or a picture of a batch at a time: less memory, more time."""
        if tiling:
            self.module.enable_tiling()
        if slicing:
            self.module.enable_slicing()

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


def load(path: Path, name: str, dtype: torch.dtype, *, base: Path | None = None) -> Coder:
    """The autoencoder at `path` (its folder, or a safetensors file) of the model called `name`, on the CPU.

    `base`: the diffusers folder whose configuration a file is read with.
    """
    from operators.diffusion.weights import single

    file = path.is_file()
    if file:
        settings = checkpoint.config(base / "vae", str(base)) if base else single.vae_settings(single.read_header(path))
    else:
        settings = checkpoint.config(path, name)
    kind = str(settings.get("_class_name"))
    if kind not in ("AutoencoderKL", "AutoencoderTiny"):
        raise UsageError(f"model {name}: expected an AutoencoderKL or AutoencoderTiny, found {kind}")
    dtype = precision(settings, kind, dtype)
    return Coder(single.autoencoder(path, name, dtype, settings) if file else checkpoint.module(kind, path, name, dtype), dtype)


def precision(settings: Mapping[str, Any], kind: str, dtype: torch.dtype) -> torch.dtype:
    """float32 where a full decoder's activations overflow half precision, as its configuration says; else `dtype`."""
    import torch

    return torch.float32 if kind == "AutoencoderKL" and dtype is torch.float16 and settings.get("force_upcast", True) else dtype


def place(name: str) -> tuple[Path, str]:
    """The autoencoder called `name`: a folder of its own, the `vae` part of a whole model, or a safetensors file."""
    path = checkpoint.locate(name)
    return (path if path.is_file() or (path / "config.json").is_file() else path / "vae"), name
