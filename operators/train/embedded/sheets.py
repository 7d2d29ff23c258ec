"""Sample sheets: PNG files to look at while training runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from operators.train.embedded.data import sample
from operators.train.embedded.settings import Settings


def write_sheet(rows: list[np.ndarray], path: Path) -> None:
    """Write rows of equally sized pictures, each (n, h, w, 3) uint8, as one PNG."""
    import cv2

    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
    cv2.imwrite(str(path), sheet[..., ::-1])


def to_pictures(x: torch.Tensor) -> np.ndarray:
    """(n, 3, h, w) in -1..1 to uint8 (n, h, w, 3)."""
    return x.float().add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


@torch.no_grad()
def reconstructions(vae: Any, s: Settings, path: Path, count: int = 6) -> float:
    """A sheet of held-out pictures over their reconstructions. Returns PSNR in dB."""
    rng = np.random.default_rng((s.seed, 999))
    truth = np.stack([sample(rng, s.size).image for _ in range(count)])
    x = torch.from_numpy(truth).permute(0, 3, 1, 2).float().div(127.5).sub(1)
    out = to_pictures(vae.decoder(vae.encoder(x.to(torch.bfloat16))))
    write_sheet([truth, out], path)
    error = (truth.astype(np.float32) - out) ** 2
    return float(10 * np.log10(255**2 / max(1e-9, float(error.mean()))))


@torch.no_grad()
def one_step(unet: Any, control: Any, text: torch.Tensor, picture: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Clean latents in one step from pure noise: with zero signal at the last step, x0 = -v. bf16 in, float out."""
    t = torch.full((len(noise),), 999)
    down, mid = control(noise, t, text, picture, return_dict=False)
    v = unet(noise, t, text, down_block_additional_residuals=down, mid_block_additional_residual=mid, return_dict=False)[0]
    return -v.float()


@torch.no_grad()
def samples(unet: Any, control: Any, words: Any, s: Settings, folder: Path, size: int, path: Path, count: int = 8) -> None:
    """A sheet of held-out scenes: the truth, one step from noise, and its skeleton."""
    from diffusers import AutoencoderTiny

    from operators.train.embedded.data import control_picture

    vae = AutoencoderTiny.from_pretrained(folder / "vae", torch_dtype=torch.bfloat16)
    rng = np.random.default_rng((s.seed, 998))
    items = [sample(rng, size, drop=0.0, empty=0.0) for _ in range(count)]
    poses = np.stack([control_picture(i.pose, size) for i in items])
    picture = torch.from_numpy(poses).permute(0, 3, 1, 2).to(torch.bfloat16).div(255)
    text = words([i.caption for i in items]).to(torch.bfloat16)
    noise = torch.randn((count, s.latents, size // 8, size // 8), generator=torch.Generator().manual_seed(5)).to(torch.bfloat16)
    clean = one_step(unet, control, text, picture, noise)
    out = to_pictures(vae.decoder(clean.to(torch.bfloat16)))
    write_sheet([np.stack([i.image for i in items]), out], path)
