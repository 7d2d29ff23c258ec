"""The sizes of the embedded model and of its training, in one place, with a tiny twin for tests."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Settings:
    """Everything a stage reads. Steps are optimiser steps of the whole job; `batch` is per process."""

    seed: int = 20
    size: int = 256  # px of the finished model
    # autoencoder: one width at all levels is what AutoencoderTiny can do; level order is full size first for the encoder
    latents: int = 8
    vae_width: int = 32
    encoder_blocks: tuple[int, ...] = (0, 1, 2, 3)
    decoder_blocks: tuple[int, ...] = (3, 3, 2, 1)
    vae_steps: int = 3900
    vae_batch: int = 12
    vae_crop: int = 96
    vae_lr: float = 1.5e-3
    decoder_steps: int = 600
    # text
    text_width: int = 96
    text_layers: int = 2
    text_heads: int = 4
    tokens: int = 48
    captions: int = 24000  # the tokenizer is trained on these
    text_steps: int = 2500
    text_batch: int = 64
    # denoiser and ControlNet
    widths: tuple[int, ...] = (48, 96, 112)
    heads: int = 4
    groups: int = 8
    control_widths: tuple[int, ...] = (4, 8, 16, 32)
    unet_steps: int = 3200
    unet_batch: int = 16
    unet_lr: float = 1.5e-3
    unet256_steps: int = 12000
    unet256_batch: int = 8
    unet256_lr: float = 2e-3
    compile: bool = False
    # captioner
    caption_size: int = 160  # hair is a few pixels of a whole figure at 128
    caption_widths: tuple[int, ...] = (32, 48, 72, 104)
    captioner_steps: int = 14000
    captioner_batch: int = 32
    pool: int = 1200  # scenes kept in memory; each step replaces a few


FULL = Settings()
TINY = replace(
    FULL, size=64, vae_width=16, encoder_blocks=(0, 0, 0, 1), decoder_blocks=(1, 0, 0, 0), vae_steps=4, vae_batch=2, vae_crop=32,
    decoder_steps=4, text_width=32, text_layers=1, text_heads=2, captions=300, text_steps=4, text_batch=4, widths=(16, 32),
    heads=2, unet_steps=4, unet_batch=2, unet256_steps=4, unet256_batch=2, caption_size=32, caption_widths=(8, 16),
    captioner_steps=4, captioner_batch=2, pool=6,
)  # fmt: skip
