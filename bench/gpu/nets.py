"""Full-size networks of the layouts that live graphs use, with random weights made on the device; and tiny ones of the same layouts.

Random weights are fine for time and memory and for nothing else: no picture here means anything. Weights are normal with the variance that
keeps a layer's output in the range of its input, norms are one, so activations stay finite in half precision, and no layer is idle.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.gpu.lab import Lab, Skipped

KL = {
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4, "latent_channels": 4, "layers_per_block": 2,
}  # fmt: skip
SCHEDULER: dict[str, Any] = {
    "_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1,
}  # fmt: skip


@dataclass
class Nets:
    """One set. `side`: pixels of a picture. `width`: of the text encoding. `prompt`: an encoding."""

    side: int
    width: int
    unet: Any
    control: Any
    tiny: Any
    full: Any
    text: Any
    tokenizer: Any
    prompt: Any  # (1, 77, width)

    @property
    def modules(self) -> dict[str, Any]:
        return {"unet": self.unet, "controlnet": self.control, "taesd": self.tiny, "kl": self.full, "text": self.text}


def blank(make: Callable[[], Any], device: str, dtype: Any, seed: int) -> Any:
    """The module that `make` builds, made without memory first, then filled on `device`."""
    import torch

    with torch.device("meta"):
        module = make()
    module = torch.nn.Module.to(module, dtype).to_empty(device=device)  # past the remarks of diffusers about parts that none of these have
    dice = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1:
                fan = math.prod(parameter.shape[1:])
                parameter.normal_(0.0, 1.0 / math.sqrt(fan), generator=dice)
            elif name.endswith("weight"):
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, 0.01, generator=dice)
        for name, buffer in module.named_buffers():
            if name.endswith("position_ids"):  # numbers that were counted where there was no memory
                buffer.copy_(torch.arange(buffer.shape[-1], device=device).expand_as(buffer))
    return module.eval().requires_grad_(False)


def dtype_of(lab: Lab) -> Any:
    import torch

    return torch.float16 if lab.cuda else torch.float32


def build(lab: Lab) -> Nets:
    """UNet and ControlNet of Stable Diffusion 1.5, TAESD and the full autoencoder. Raises Skipped without diffusers."""
    import torch

    try:
        from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, UNet2DConditionModel
    except Exception as error:  # whatever it lacks, the ceilings are measured without it
        raise Skipped(f"diffusers cannot be imported: {error}") from error
    dtype = dtype_of(lab)
    if lab.tiny:
        side, width = 64, 32
        shape: dict[str, Any] = {"block_out_channels": (8, 16, 16, 16), "norm_num_groups": 4, "attention_head_dim": 2, "sample_size": 8}
        net_more = {"conditioning_embedding_out_channels": (4, 4, 4, 4)}
        kl, taesd = {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4}, {
            "encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4, "num_encoder_blocks": (1,) * 4,
            "num_decoder_blocks": (1,) * 4,
        }  # fmt: skip
    else:
        side, width, shape, net_more, kl, taesd = 512, 768, {"sample_size": 64}, {}, {"block_out_channels": (128, 256, 512, 512)}, {}

    def made(make: Callable[[], Any], seed: int) -> Any:
        return blank(make, lab.device, dtype, seed)

    return Nets(
        side, width, made(lambda: UNet2DConditionModel(cross_attention_dim=width, **shape), 1),
        made(lambda: ControlNetModel(cross_attention_dim=width, **{k: v for k, v in shape.items() if k != "sample_size"}, **net_more), 2),
        made(lambda: AutoencoderTiny(**taesd), 3), made(lambda: AutoencoderKL(**KL, **kl), 4), *speller(lab, width),
        torch.randn(1, 77, width, device=lab.device, dtype=dtype, generator=torch.Generator(lab.device).manual_seed(5)),
    )  # fmt: skip


def speller(lab: Lab, width: int) -> tuple[Any, Any]:
    """A text encoder as large as CLIP's, and a tokenizer of one token a letter: no vocabulary has to be here."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = [chr(c) for c in range(33, 127)]
    vocab = {token: n for n, token in enumerate([*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"])}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)
    config = CLIPTextConfig(
        vocab_size=len(vocab) if lab.tiny else 49_408, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=1 if lab.tiny else 12,
        num_attention_heads=2 if lab.tiny else 12, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    with torch.device(lab.device):
        return CLIPTextModel(config).to(dtype_of(lab)).eval().requires_grad_(False), tokenizer


def twin(module: Any) -> Any:
    """A copy with weights of its own, for whoever changes modules."""
    return copy.deepcopy(module)


def inputs(lab: Lab, nets: Nets, batch: int, dtype: Any = None) -> dict[str, Any]:
    """Static random tensors for every module at one batch, never zeros."""
    import torch

    dice = torch.Generator(lab.device).manual_seed(100 + batch)
    dtype = dtype or dtype_of(lab)

    def some(*shape: int) -> Any:
        return torch.randn(*shape, device=lab.device, generator=dice, dtype=torch.float32).to(dtype)

    cells = nets.side // 8
    return {
        "latent": some(batch, 4, cells, cells), "t": torch.full((batch,), 401.0, device=lab.device), "text": some(batch, 77, nets.width),
        "picture": some(batch, 3, nets.side, nets.side).clamp_(-1, 1),
    }  # fmt: skip


def calls(nets: Nets, given: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """One forward pass of every module."""
    latent, t, text, picture = given["latent"], given["t"], given["text"], given["picture"]
    return {
        "unet": lambda: nets.unet(latent, t, text, return_dict=False)[0],
        "controlnet": lambda: nets.control(latent, t, text, picture, return_dict=False)[1],
        "taesd encode": lambda: nets.tiny.encode(picture, return_dict=False)[0],
        "taesd decode": lambda: nets.tiny.decode(latent, return_dict=False)[0],
        "kl encode": lambda: nets.full.encode(picture).latent_dist.mean,
        "kl decode": lambda: nets.full.decode(latent, return_dict=False)[0],
    }


def work(lab: Lab) -> dict[str, float]:
    """TFLOP of one pass at batch 1 and 512 x 512, as operators/diffusion/work.py counts; empty for tiny networks."""
    if lab.tiny:
        return {}
    from operators.diffusion.work import KL as full
    from operators.diffusion.work import SD1, TINY

    costs = {
        "unet": SD1.unet, "controlnet": SD1.control, "taesd encode": TINY[0], "taesd decode": TINY[1], "kl encode": full[0],
        "kl decode": full[1],
    }  # fmt: skip
    found = {name: cost.at(1.0) / 1e3 for name, cost in costs.items()}
    found["controlnet"] += 0.0147  # with the embedding of its condition
    return found
