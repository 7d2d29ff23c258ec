"""Stage `vae`: pictures to eight latent channels at an eighth of the size, and back.

Left alone, an L1 loss spends the latent on edges and gives up a colour axis; a linear read-out of colour from the latent and a loss on
blurred errors keep it. Latents are held near mean 0 and spread 1 by a penalty, so that the pipeline's scaling factor stays 1.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from operators.train.embedded.data import WEIGHTS, Pool
from operators.train.embedded.flat import Flat
from operators.train.embedded.networks import build_vae
from operators.train.embedded.settings import Settings


def crops(pool: Pool, n: int, side: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """`n` crops, half of them around heads: pictures (n, 3, side, side) in -1..1 channels-last, weights (n, 1, side, side)."""
    pictures, weights = np.empty((n, side, side, 3), np.uint8), np.empty((n, side, side), np.uint8)
    for k, item in enumerate(pool.pick(n)):
        room = pool.size - side
        if room and rng.random() < 0.5:
            x, y = item.pose[0, 0] * pool.size - side / 2, item.pose[0, 1] * pool.size - side / 2
            x, y = int(np.clip(x + rng.normal(0, 12), 0, room)), int(np.clip(y + rng.normal(0, 12), 0, room))
        else:
            x, y = (int(rng.integers(room + 1)), int(rng.integers(room + 1)))
        pictures[k], weights[k] = item.image[y : y + side, x : x + side], item.parts[y : y + side, x : x + side]
    batch = torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
    weight = torch.from_numpy(WEIGHTS[weights])[:, None]
    return batch, weight


def picture_loss(out: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weighted L1 with L1 of gradients and of the blurred error, on float tensors."""
    error = out - target
    plain = (error.abs() * weight).mean() + (error.square() * weight).mean()
    down, right = error[:, :, 1:] - error[:, :, :-1], error[..., 1:] - error[..., :-1]
    edges = (down.abs() * weight[:, :, 1:]).mean() + (right.abs() * weight[..., 1:]).mean()
    return plain + 0.5 * edges + 2.0 * F.avg_pool2d(error, 8).abs().mean()


class Autoencoder:
    """Encoder and decoder together."""

    name = "vae"

    def __init__(self, s: Settings, folder: Path, rank: int = 0):
        self.s, self.folder = s, folder
        self.steps, self.lr = s.vae_steps, s.vae_lr
        torch.manual_seed(s.seed)
        self.vae = build_vae(s)
        self.colour = nn.Linear(s.latents, 3)
        self.flat = Flat([self.vae, self.colour], dtype=torch.bfloat16, lr=s.vae_lr, decay=0.0, ema=0.998)
        self.rng = np.random.default_rng((s.seed, 1, rank))
        self.generator = torch.Generator().manual_seed(s.seed * 97 + rank)
        self.pool = Pool(s.pool, s.size, self.rng)

    def loss(self, step: int) -> dict[str, float]:
        """One step on crops; returns the parts of the loss."""
        self.pool.refresh(2)
        target, weight = crops(self.pool, self.s.vae_batch, self.s.vae_crop, self.rng)
        x = target.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
        latent = self.vae.encoder(x)
        wide = latent.float()
        noise = torch.randn(wide.shape, generator=self.generator)
        amount = 0.1 if step < 0.6 * self.steps else 0.05
        out = self.vae.decoder((wide + amount * noise).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)).float()
        picture = picture_loss(out, target, weight)
        read = self.colour(latent.permute(0, 2, 3, 1)).float().permute(0, 3, 1, 2)
        colour = (read - F.avg_pool2d(target, 8)).abs().mean()
        mean, std = wide.mean((0, 2, 3)), wide.std((0, 2, 3))
        spread = mean.square().mean() + (std - 1).square().mean() + 0.1 * F.relu(wide.abs() - 3).mean()
        (picture + colour + 0.1 * spread).backward()
        mse = (out.clamp(-1, 1) - target).square().mean().item() / 4
        return {"loss": picture.item(), "colour": colour.item(), "std": std.mean().item(), "psnr": -10 * float(np.log10(mse))}

    def sketch(self, step: int) -> None:
        """Write a sheet of held-out pictures and their reconstructions."""
        from operators.train.embedded.sheets import reconstructions

        self.flat.use_average(True)
        reconstructions(self.vae, self.s, self.folder / "vae.png")
        self.flat.use_average(False)

    def finish(self) -> None:
        """Save the averaged weights, twice: the stage `decoder` starts from the second copy, however often it is run."""
        from operators.train.embedded.export import save_part

        self.flat.use_average(True)
        for name in ("vae", "vae_first"):
            save_part(self.vae, self.folder / name)
