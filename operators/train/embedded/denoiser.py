"""Stages `unet` and `unet256`: UNet and ControlNet together, on latents of rendered scenes.

v-prediction under a schedule that ends in pure noise; every second sample is taken there, which makes one step enough: pose and
caption nearly determine the picture. Some samples start from the latent of another moment or pose of the same figure and have to
arrive at the present one: that is what carrying a latent from frame to frame asks for, and where what the caption leaves out comes from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from operators.train.embedded.data import WEIGHTS, Pool, Sample, control_picture, render_again, worn_pose
from operators.train.embedded.flat import Flat
from operators.train.embedded.loop import load
from operators.train.embedded.networks import alphas, build_controlnet, build_unet
from operators.train.embedded.settings import Settings
from operators.train.embedded.tokens import encode, load_tokenizer


class Words:
    """Captions to text states with the frozen text encoder."""

    def __init__(self, folder: Path, tokens: int):
        from transformers import CLIPTextModel

        self.tokenizer = load_tokenizer(folder)
        self.model = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval()
        self.tokens = tokens

    @torch.no_grad()
    def __call__(self, captions: list[str]) -> torch.Tensor:
        """(n, tokens, width) float32."""
        return self.model(torch.from_numpy(encode(self.tokenizer, captions, self.tokens)))[0]


class LatentPool(Pool):
    """A pool whose samples also have their latents, and some of them the latent of another moment."""

    def __init__(self, count: int, size: int, rng: np.random.Generator, encoder: Any, stale_share: float):
        self.encoder, self.stale_share = encoder, stale_share
        self.ready = False
        super().__init__(count, size, rng)
        self.latents: list[torch.Tensor] = [torch.empty(0)] * count
        self.stale: list[torch.Tensor | None] = [None] * count
        for start in range(0, count, 16):
            self._encode(list(range(start, min(count, start + 16))))

    @torch.no_grad()
    def _encode(self, places: list[int]) -> None:
        pictures, owners = [self.items[i].image for i in places], [(i, False) for i in places]
        for i in places:
            self.stale[i] = None
            if self.rng.random() < self.stale_share:
                pictures.append(render_again(self.items[i], self.rng, self.size))
                owners.append((i, True))
        x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).to(torch.bfloat16).div_(127.5).sub_(1)
        for (i, stale), z in zip(owners, self.encoder(x), strict=True):
            if stale:
                self.stale[i] = z
            else:
                self.latents[i] = z

    def refresh(self, k: int) -> None:
        """Render and encode `k` new samples in place of the oldest ones."""
        places = [(self._oldest + j) % len(self.items) for j in range(k)]
        super().refresh(k)
        self._encode(places)


class Denoiser:
    """UNet and ControlNet learning together."""

    def __init__(self, s: Settings, folder: Path, rank: int = 0, name: str = "unet"):
        from diffusers import AutoencoderTiny
        from diffusers.models.attention_processor import AttnProcessor

        self.name, self.s, self.folder = name, s, folder
        late = name == "unet256"
        self.size = s.size if late else s.size // 2
        self.steps, self.lr, self.batch = (s.unet256_steps, s.unet256_lr, s.unet256_batch) if late else (s.unet_steps, s.unet_lr, s.unet_batch)
        torch.manual_seed(s.seed + 2)
        self.unet, self.control = build_unet(s), build_controlnet(s)
        for net in (self.unet, self.control):  # the fused attention's backward pass is twice as slow on a CPU
            net.set_attn_processor(AttnProcessor())
        self.flat = Flat([self.unet, self.control], dtype=torch.bfloat16, lr=self.lr, ema=0.998, muon=True)
        if late and (folder / "unet.pt").is_file():
            state = load(folder / "unet.pt")["flat"]
            state["average"] = state["master"].clone()  # the rate goes up again: what moves is what goes on
            self.flat.load(state, optimiser=False)
        vae = AutoencoderTiny.from_pretrained(folder / "vae", torch_dtype=torch.bfloat16).to(memory_format=torch.channels_last)
        self.encoder = vae.encoder.eval().requires_grad_(False)
        self.words = Words(folder, s.tokens)
        self.rng = np.random.default_rng((s.seed, 3 + late, rank))
        self.generator = torch.Generator().manual_seed(s.seed * 31 + rank + 7 * late)
        self.pool = LatentPool(s.pool, self.size, self.rng, self.encoder, 0.6 if late else 0.3)
        self.alphas = alphas()
        self.run_unet, self.run_control = self.unet, self.control
        if s.compile:  # minutes to compile, a quarter less time a step afterwards
            self.run_unet, self.run_control = torch.compile(self.unet), torch.compile(self.control)

    def _batch(self) -> tuple[list[Sample], torch.Tensor, torch.Tensor, torch.Tensor]:
        index = [int(i) for i in self.rng.integers(len(self.pool.items), size=self.batch)]
        clean = torch.stack([self.pool.latents[i] for i in index]).float()
        carried = [self.pool.stale[i] for i in index]
        start = torch.stack([c if c is not None else self.pool.latents[i] for i, c in zip(index, carried, strict=True)]).float()
        return [self.pool.items[i] for i in index], clean, start, torch.tensor([c is not None for c in carried])

    def loss(self, step: int) -> dict[str, float]:
        """One step. `loss` is over all samples, `ends` over those from pure noise only."""
        self.pool.refresh(max(1, self.batch // 4))
        items, clean, start, carried = self._batch()
        n = len(items)
        noise = torch.randn(clean.shape, generator=self.generator)
        t = torch.from_numpy(self.rng.integers(1, 999, size=n))
        pure = torch.from_numpy(self.rng.random(n) < 0.6)
        t[pure] = 999
        t = torch.where(carried & ~pure, t.clamp(min=150, max=960), t)
        start = torch.where((carried & ~pure)[:, None, None, None], start, clean)
        a = self.alphas[t].view(-1, 1, 1, 1)
        noisy = a.sqrt() * start + (1 - a).sqrt() * noise
        goal = (a.sqrt() * noisy - clean) / (1 - a).sqrt()  # the v that leads to `clean`; the usual one where start == clean
        pictures = np.stack([control_picture(worn_pose(i.pose, self.rng), self.size) for i in items])
        picture = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(torch.bfloat16).div_(255)
        weights = torch.from_numpy(WEIGHTS[np.stack([i.parts for i in items])])[:, None]
        weight = F.avg_pool2d(weights, 8)
        text = self.words([i.caption for i in items]).to(torch.bfloat16)
        x = noisy.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
        if self.rng.random() < 0.05:  # the prompt alone has to do something too
            out = self.unet(x, t, text, return_dict=False)[0]
        else:
            down, mid = self.run_control(x, t, text, picture, return_dict=False)
            out = self.run_unet(x, t, text, down_block_additional_residuals=down, mid_block_additional_residual=mid, return_dict=False)[0]
        square = (out.float() - goal).square() * weight / weight.mean((1, 2, 3), keepdim=True)
        each = square.mean((1, 2, 3))
        ((each * (5 * (1 - a.view(-1))).clamp(max=1)).mean()).backward()
        parts = {"loss": each.mean().item()}
        parts["ends"] = each[pure].mean().item() if bool(pure.any()) else parts["loss"]
        return parts

    def sketch(self, step: int) -> None:
        """Write a sheet of held-out samples and refresh the model folder with the averaged weights."""
        from operators.train.embedded.export import assemble, save_part
        from operators.train.embedded.sheets import samples

        self.flat.use_average(True)
        save_part(self.unet, self.folder / "unet")
        save_part(self.control, self.folder / "controlnet")
        assemble(self.s, self.folder, self.folder / "model")
        samples(self.unet, self.control, self.words, self.s, self.folder, self.size, self.folder / f"{self.name}.png")
        self.flat.use_average(False)

    def finish(self) -> None:
        """Save the averaged weights."""
        self.sketch(self.steps)
