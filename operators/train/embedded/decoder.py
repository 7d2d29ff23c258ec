"""Stage `decoder`: the decoder learns on what the finished UNet gives it, the encoder left as it is.

Half of the crops come from true latents, half from one step of the denoiser on the same scene, so that the decoder learns to sharpen
what a mean leaves soft and still inverts the encoder.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from operators.train.embedded.autoencoder import picture_loss
from operators.train.embedded.data import WEIGHTS, control_picture
from operators.train.embedded.denoiser import LatentPool, Words
from operators.train.embedded.flat import Flat
from operators.train.embedded.settings import Settings
from operators.train.embedded.sheets import one_step, samples


class Decoder:
    """The decoder alone, against pictures rendered on the way."""

    name = "decoder"

    def __init__(self, s: Settings, folder: Path, rank: int = 0):
        from diffusers import AutoencoderTiny, ControlNetModel, UNet2DConditionModel

        self.s, self.folder = s, folder
        self.steps, self.lr = s.decoder_steps, 5e-4
        kind = torch.bfloat16
        self.vae = AutoencoderTiny.from_pretrained(folder / "vae_first")
        self.vae.encoder.requires_grad_(False).to(kind)
        self.flat = Flat([self.vae.decoder], dtype=kind, lr=self.lr, decay=0.0, ema=0.995)
        self.unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=kind).to(memory_format=torch.channels_last)
        self.control = ControlNetModel.from_pretrained(folder / "controlnet", torch_dtype=kind).to(memory_format=torch.channels_last)
        self.words = Words(folder, s.tokens)
        self.rng = np.random.default_rng((s.seed, 5, rank))
        self.generator = torch.Generator().manual_seed(s.seed * 13 + rank)
        self.pool = LatentPool(max(4, s.pool // 4), s.size, self.rng, self.vae.encoder, 0.0)
        self.fresh: list[int] = []
        self.guesses: dict[int, torch.Tensor] = {}

    @torch.no_grad()
    def _guess(self, count: int) -> None:
        """Replace some samples and let the denoiser draw them."""
        start = self.pool._oldest
        self.pool.refresh(count)
        places = [(start + j) % len(self.pool.items) for j in range(count)]
        items = [self.pool.items[i] for i in places]
        pictures = np.stack([control_picture(i.pose, self.s.size) for i in items])
        picture = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(torch.bfloat16).div_(255)
        shape = (count, self.s.latents, self.s.size // 8, self.s.size // 8)
        noise = torch.randn(shape, generator=self.generator).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
        text = self.words([i.caption for i in items]).to(torch.bfloat16)
        for i, z in zip(places, one_step(self.unet, self.control, text, picture, noise), strict=True):
            self.guesses[i] = z

    def loss(self, step: int) -> dict[str, float]:
        """One step on crops of true and of guessed latents."""
        self._guess(4 if self.guesses else min(32, len(self.pool.items)))
        n, side = self.s.vae_batch, self.s.vae_crop // 8
        room = self.s.size // 8 - side
        places = list(self.guesses)
        latents, pictures, parts = [], [], []
        inner = torch.zeros(n, 1, 8 * side, 8 * side)  # a crop's cut edges see zeros that are not there: they do not count
        for k in range(n):
            i = places[int(self.rng.integers(len(places)))]
            item = self.pool.items[i]
            if self.rng.random() < 0.5:  # around the head
                x = int(np.clip(item.pose[0, 0] * self.s.size / 8 - side / 2 + self.rng.normal(0, 1.5), 0, room))
                y = int(np.clip(item.pose[0, 1] * self.s.size / 8 - side / 2 + self.rng.normal(0, 1.5), 0, room))
            else:
                x, y = (int(np.clip(v, 0, room)) for v in self.rng.integers(-room // 4, room + room // 4 + 1, size=2))
            inner[k, :, 8 * bool(y > 0) : 8 * side - 8 * bool(y < room), 8 * bool(x > 0) : 8 * side - 8 * bool(x < room)] = 1
            z = self.guesses[i] if k % 2 else self.pool.latents[i].float()
            latents.append(z[:, y : y + side, x : x + side])
            window = np.s_[8 * y : 8 * (y + side), 8 * x : 8 * (x + side)]
            pictures.append(item.image[window])
            parts.append(item.parts[window])
        target = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
        weight = torch.from_numpy(WEIGHTS[np.stack(parts)])[:, None]
        z = torch.stack(latents)
        z = z + 0.03 * torch.randn(z.shape, generator=self.generator)
        out = self.vae.decoder(z.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)).float()
        out = out * inner + target * (1 - inner)
        loss = picture_loss(out, target, weight)
        loss.backward()
        error = (out.detach().clamp(-1, 1) - target).square().mean((1, 2, 3)) / 4
        return {"loss": loss.item(), "psnr": -10 * float(error[::2].mean().log10()), "psnr_guess": -10 * float(error[1::2].mean().log10())}

    def sketch(self, step: int) -> None:
        """Write the averaged weights and a sheet."""
        from operators.train.embedded.export import assemble, save_part

        self.flat.use_average(True)
        save_part(self.vae, self.folder / "vae")
        assemble(self.s, self.folder, self.folder / "model")
        samples(self.unet, self.control, self.words, self.s, self.folder, self.s.size, self.folder / "decoder.png")
        self.flat.use_average(False)

    def finish(self) -> None:
        """Save the averaged weights."""
        self.sketch(self.steps)
